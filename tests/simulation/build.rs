//! A worker as its plan says.

use std::sync::Arc;

use redrive::clock::{Clock, Random};
use redrive::flow::{Backoff, BreakerConfig, Downstream};
use redrive::handler::{BoxedHandler, Handler as _, batch};
use redrive::message::Message;
use redrive::worker::{AfterReject, WithoutDeadLetters};
use redrive::{Failure, Router, Worker};

use crate::bugs::{BuggyInbox, BuggyQueue};
use crate::handler::{DOWN, Stage, bare, several, several_bare, single};
use crate::host::limit;
use crate::old::OldInbox;
use crate::plan::{BreakerPlan, DownstreamPlan, HandlerPlan, InboxMode, Letters, WorkerPlan};
use crate::watch::{Line, WatchedInbox, WatchedQueue};

/// The attribute by which messages are routed.
pub(crate) const TYPE: &str = "type";

pub(crate) fn build(line: &Line, plan: &WorkerPlan, clock: &Clock) -> Worker {
    let scene = &line.scene;
    let seed = scene.plan.seed.wrapping_mul(0x1000_0000_01b3)
        ^ line.who.bytes().fold(7, |sum, byte| sum * 31 + u64::from(byte));
    let queue = WatchedQueue {
        line: line.clone(),
        queue: scene.queue.clone(),
        dead: Some(scene.dead.clone()),
    };
    let inbox = WatchedInbox {
        line: line.clone(),
        inbox: if plan.old {
            Arc::new(OldInbox(scene.inbox.clone()))
        } else {
            Arc::new(scene.inbox.clone())
        },
        doubt_ms: plan.doubt_ms,
    };
    let observed = line.clone();
    let mut builder = Worker::builder(BuggyQueue::new(scene.bug, queue))
        .name(plan.name)
        .clock(clock.clone())
        .random(Random::seeded(seed))
        .concurrency(plan.concurrency)
        .lease(plan.lease)
        .max_attempts(scene.plan.max_attempts)
        .in_flight_delay(plan.in_flight_delay)
        .long_poll(plan.long_poll)
        .drain_deadline(plan.drain_deadline)
        .linger(plan.linger)
        .keep_while_open(plan.keep_while_open)
        .backoff(Backoff::new(plan.backoff.0, plan.backoff.1).expect("a backoff"))
        .shadow(scene.plan.inbox == InboxMode::Shadow)
        .observe(move |observation| {
            let mut judge = observed.scene.judge();
            judge.observed(&observed.who, &observation.message.id, observation.fate.as_str());
        });
    if scene.plan.inbox != InboxMode::Without {
        builder = builder.inbox(BuggyInbox::new(scene.bug, inbox));
    }
    builder = match scene.plan.letters {
        Letters::Sent => builder,
        Letters::ByPolicy(_) => builder.dead_letter_by_redrive_policy(),
        Letters::Kept => builder.without_dead_letters(WithoutDeadLetters::Keep),
        Letters::Discarded => builder.without_dead_letters(WithoutDeadLetters::Discard),
    };
    if scene.plan.rejects_block {
        builder = builder.after_reject(AfterReject::Block);
    }
    if plan.old {
        builder = builder.without_fingerprint();
    }
    if !plan.heartbeat {
        builder = builder.without_heartbeat();
    }
    if let Some(rate) = plan.rate {
        builder = builder.rate(limit(rate));
    }
    if let Some(rate) = plan.tenants {
        let tenant = |message: &Message| message.body.bytes().last().map(|byte| (byte % 3).to_string());
        builder = builder.rate_by(tenant, limit(rate));
    }
    if let Some(messages) = plan.held_back {
        builder = builder.held_back(messages);
    }
    if let Some(receives) = plan.max_receives {
        builder = builder.max_receives(receives);
    }
    if let Some(span) = plan.stall_after {
        // Below that a worker is refused.
        builder = builder.stall_after(span.max(plan.long_poll + std::time::Duration::from_secs(1)));
    }
    if let Some(limit) = plan.handler_timeout {
        builder = builder.handler_timeout(limit);
    }
    if plan.counts_outages_only {
        builder = builder.breaker_counts(|failure: &Failure| failure.error().contains(DOWN));
    }
    builder = match breaker(plan.breaker) {
        Some(config) => builder.breaker(config),
        None => builder.without_breaker(),
    };
    let downstream = plan.downstream.map(|plan| downstream(plan, clock, seed));
    if let Some(downstream) = &downstream {
        builder = builder.watch(downstream);
    }
    let small = match plan.handler {
        HandlerPlan::Routed(size) => size,
        _ => 1,
    };
    let builder = builder.bulkhead("small", small).state(Stage {
        line: line.clone(),
        lease: plan.lease,
        downstream,
    });
    let of_one = if scene.plan.inbox == InboxMode::Used {
        BoxedHandler::new(single)
    } else {
        BoxedHandler::new(bare)
    };
    let builder = match plan.handler {
        HandlerPlan::Batch(size, linger) if scene.plan.inbox == InboxMode::Used => {
            builder.handler(batch(size, linger, several))
        }
        HandlerPlan::Batch(size, linger) => builder.handler(batch(size, linger, several_bare)),
        HandlerPlan::Single => builder.handler(of_one),
        HandlerPlan::Routed(_) => {
            let routes = Router::by_attribute(TYPE)
                .route("0", of_one.clone().bulkhead("small"))
                .route("1", of_one.clone())
                .fallback(of_one);
            builder.handler(routes)
        }
    };
    builder.build().expect("a worker")
}

fn breaker(plan: BreakerPlan) -> Option<BreakerConfig> {
    let config = BreakerConfig::default();
    let config = match plan {
        BreakerPlan::None => return None,
        BreakerPlan::Default => Ok(config),
        BreakerPlan::Quick {
            in_a_row,
            open,
            successes,
        } => config
            .failures_in_a_row(in_a_row)
            .and_then(|config| config.distinct_keys(2))
            .and_then(|config| config.open_for(open, open * 2))
            .and_then(|config| config.probe_successes(successes)),
        BreakerPlan::Share { share, calls, open } => config
            .failure_share(share, calls)
            .and_then(|config| config.open_for(open, open * 2)),
    };
    Some(config.expect("a breaker"))
}

fn downstream(plan: DownstreamPlan, clock: &Clock, seed: u64) -> Downstream {
    let config = BreakerConfig::default()
        .failures_in_a_row(plan.in_a_row)
        .and_then(|config| config.distinct_keys(2))
        .and_then(|config| config.open_for(plan.open, plan.open * 2));
    Downstream::builder("downstream")
        .breaker(config.expect("a breaker"))
        .clock(clock.clone())
        .random(Random::seeded(seed ^ 1))
        .build()
        .expect("a downstream")
}
