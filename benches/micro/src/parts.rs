//! The parts that each message goes through, one at a time: what `benches/counts.rs` counts besides the pipeline. Everything
//! is made before it is counted, from fixed numbers, so that each run does the same.

use std::collections::BTreeMap;
use std::future::Future;
use std::hint::black_box;
use std::sync::Arc;
use std::task::{Context as Waker, Poll};
use std::time::Duration;

use redrive::bench::{self, Batches, Leases};
use redrive::clock::{Clock, Instant, Random};
use redrive::dlq::Envelope;
use redrive::flow::{Admission, Backoff, BreakerConfig, CircuitBreaker, Verdict, key_hash};
use redrive::handler::{Context, Handler, HandlerService};
use redrive::inbox::{Change, ClaimAnswer, ClaimRequest, Record, ServiceTime, Write};
use redrive::key::{Fingerprint, Key, KeySource, RecordKey};
use redrive::message::{Attribute, Delivery, KEY_ATTRIBUTE, Message, Receipt, TYPE_ATTRIBUTE};
use redrive::outcome::StoredResult;
use redrive::{Failure, Router};

use crate::pipeline;

const LEASE: Duration = Duration::from_secs(30);
const NOW_MS: u64 = 1_750_000_000_000;
const NOW: ServiceTime = ServiceTime {
    lo: NOW_MS,
    hi: NOW_MS + 5,
};

fn message(n: usize) -> Message {
    Message::new(format!("00000000-0000-4000-8000-{n:012x}"), pipeline::body(n))
}

// ---- claims

/// Claims of new keys; each record is completed under its claim, and the claim of a duplicate is then refused.
pub struct Claims(Vec<ClaimRequest>);

impl Claims {
    pub fn new(keys: usize) -> Self {
        let request = |n| ClaimRequest {
            key: RecordKey::new("bench", &Key::new(format!("order-{n}"))),
            claim_id: format!("1975c2a4f00-00c0ffee00c0ffee-{n}"),
            message_id: format!("00000000-0000-4000-8000-{n:012x}"),
            fingerprint: Some(Fingerprint([7; 32])),
            lease: LEASE,
            retention: Duration::from_secs(35 * 24 * 3600),
            receive_count: 1,
            replayed: false,
        };
        Self((0..keys).map(request).collect())
    }

    pub fn run(&self) -> usize {
        let mut duplicates = 0;
        for request in &self.0 {
            let (record, answer) = bench::claim(None, request, NOW);
            let ClaimAnswer::Claimed(claim) = answer else {
                continue;
            };
            let done = Write::new(
                claim,
                Change::Complete {
                    result: StoredResult::Nothing,
                },
            );
            let record = bench::write(record.as_deref(), &done, NOW);
            let (_, answer) = bench::claim(record.as_deref(), request, NOW);
            duplicates += usize::from(matches!(answer, ClaimAnswer::Completed(_)));
        }
        duplicates
    }
}

/// A record as a table would hold it, to be renewed.
pub struct Renewals(Record, Vec<Write>);

impl Renewals {
    pub fn new(writes: usize) -> Self {
        let claims = Claims::new(1);
        match bench::claim(None, &claims.0[0], NOW) {
            (Some(record), ClaimAnswer::Claimed(claim)) => {
                let renew = |_| Write::new(Arc::clone(&claim), Change::Renew { lease: LEASE });
                Self(*record, (0..writes).map(renew).collect())
            }
            other => panic!("no claim: {other:?}"),
        }
    }

    pub fn run(&self) -> usize {
        let later = ServiceTime {
            lo: NOW.lo + 10_000,
            hi: NOW.hi + 10_000,
        };
        let renewed = |write: &&Write| bench::write(Some(&self.0), write, later).is_some();
        self.1.iter().filter(renewed).count()
    }
}

// ---- batches and leases

/// Entries that go out in tens, the last few after their linger.
pub fn batches(now: Instant, entries: usize) -> usize {
    let mut batches = Batches::new(10, Duration::from_millis(5), 8);
    let mut out = 0;
    for n in 0..entries {
        batches.push(now, n as u64);
        while let Some(batch) = batches.take(now) {
            out += black_box(batch).len();
            batches.returned();
        }
    }
    out + batches.take(now + LEASE).map_or(0, |batch| batch.len())
}

/// Running handlers, each with its heartbeat due at some moment of the next 20 s.
pub struct Heartbeats {
    leases: Leases,
    now: Instant,
    random: Random,
}

impl Heartbeats {
    pub fn new(leases: usize) -> Self {
        let mut heartbeats = Self {
            leases: Leases::default(),
            now: Clock::system().now(),
            random: Random::seeded(1),
        };
        for id in 0..leases as u64 {
            let at = heartbeats.now + Duration::from_millis(heartbeats.random.below(20_000));
            heartbeats.leases.set(id, at);
        }
        heartbeats
    }

    /// Goes on until so many beats were due: each is set anew, and each tenth handler ends and another starts.
    pub fn run(&mut self, beats: usize) -> usize {
        let mut due = 0;
        let mut next_id = 1_000_000;
        while due < beats {
            let Some(at) = self.leases.next_at() else { break };
            self.now = at + Duration::from_millis(10);
            for id in self.leases.take_due(self.now) {
                due += 1;
                let at = self.now + Duration::from_millis(18_000 + self.random.below(4_000));
                self.leases.set(id, at);
                if due % 10 == 0 {
                    self.leases.clear(id);
                    self.leases.set(next_id, at);
                    next_id += 1;
                }
            }
        }
        due
    }
}

// ---- handlers

async fn routed() -> Result<(), Failure> {
    Ok(())
}

/// Messages of twenty types, and a router that has a handler for each.
pub struct Routes(HandlerService, Vec<Context>);

impl Routes {
    pub fn new(messages: usize) -> Self {
        let router = (0..20).fold(Router::new(), |router, n| {
            router.route(format!("order.event-{n}"), routed)
        });
        let context = |n| {
            let mut message = message(n);
            let kind = Attribute::string(format!("order.event-{}", n * 7 % 20));
            message.attributes.insert(TYPE_ATTRIBUTE.to_owned(), kind);
            context_of(message)
        };
        Self(router.into_service(()), (0..messages).map(context).collect())
    }

    pub fn run(&mut self) -> usize {
        let done = |context| is_done(&self.0, context);
        self.1
            .drain(..)
            .filter_map(|context| done(context).then_some(()))
            .count()
    }
}

fn context_of(message: Message) -> Context {
    let key = Key::new(message.id.as_str());
    let delivery = Delivery::new(message, Receipt::new("receipt"), 1, Clock::system().now());
    Context::new(Arc::new(delivery), key, 1, "bench".into())
}

/// Runs a handler that never waits.
fn is_done(service: &HandlerService, context: Context) -> bool {
    let mut run = std::pin::pin!(service.run(context));
    let mut waker = Waker::from_waker(std::task::Waker::noop());
    matches!(run.as_mut().poll(&mut waker), Poll::Ready(redrive::Outcome::Done(_)))
}

// ---- flow control

/// Handlers of which each fiftieth fails.
pub struct Breaker(CircuitBreaker, Vec<String>);

impl Breaker {
    pub fn new(runs: usize) -> Self {
        let breaker = CircuitBreaker::new(BreakerConfig::default(), Random::seeded(1));
        Self(breaker, (0..runs).map(|n| format!("order-{n}")).collect())
    }

    pub fn run(&mut self, now: Instant) -> usize {
        let mut admitted = 0;
        for (n, key) in self.1.iter().enumerate() {
            let now = now + Duration::from_millis(n as u64);
            if let Admission::Run(ticket) | Admission::Probe(ticket) = self.0.admit(now) {
                admitted += 1;
                let verdict = if n % 50 == 49 {
                    Verdict::Failure
                } else {
                    Verdict::Success
                };
                self.0.record(now, ticket, key_hash(key), verdict);
            }
        }
        admitted
    }
}

pub fn backoffs(delays: usize) -> Duration {
    let (backoff, random) = (Backoff::default(), Random::seeded(1));
    (0..delays).map(|n| backoff.delay(1 + n as u32 % 8, &random)).sum()
}

// ---- keys and envelopes

/// Messages with a key of their own, and those that go by their MessageId.
pub struct Keys(Vec<Message>);

impl Keys {
    pub fn new(messages: usize) -> Self {
        let message = |n| {
            let mut message = message(n);
            if n % 2 == 0 {
                let key = Attribute::string(format!("order-{n}"));
                message.attributes.insert(KEY_ATTRIBUTE.to_owned(), key);
            }
            message
        };
        Self((0..messages).map(message).collect())
    }

    pub fn run(&self) -> usize {
        let key = |message| RecordKey::new("bench", &KeySource::Attribute.key_of(message, None));
        self.0
            .iter()
            .map(|message| black_box(key(message)).as_str().len())
            .sum()
    }
}

/// Messages that become dead letters and come back.
pub struct Envelopes(Vec<Message>);

impl Envelopes {
    pub fn new(messages: usize) -> Self {
        let message = |n| {
            let mut message = message(n);
            message.attributes = BTreeMap::from([(TYPE_ATTRIBUTE.to_owned(), Attribute::string("order.created"))]);
            message
        };
        Self((0..messages).map(message).collect())
    }

    pub fn run(&mut self) -> usize {
        let back = self.0.iter_mut().filter_map(|message| {
            let mut envelope = Envelope::default();
            envelope.key.clone_from(&message.id);
            envelope.reason = "gateway_down".to_owned();
            envelope.error = "503 from https://gateway.example/charges, attempt 5 of 5".to_owned();
            envelope.attempts = 5;
            envelope.message_id.clone_from(&message.id);
            envelope.source = "arn:aws:sqs:eu-central-1:000000000000:bench".to_owned();
            envelope.dead_at_ms = NOW_MS;
            message.attributes = envelope.attached_to(message, 1024 * 1024)?;
            Envelope::take(message)
        });
        back.count()
    }
}
