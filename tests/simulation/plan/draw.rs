//! Drawing a plan from a seed.

use std::time::Duration;

use redrive::clock::Random;

use super::{
    Accident, BreakerPlan, Character, DownstreamPlan, Faults, HandlerPlan, HostEvent, InboxMode, Letters, MessagePlan,
    OperatorPlan, Plan, Planted, PlantedKind, ProducerPlan, ReplayFilter, Service, WorkerPlan,
};

pub(super) struct Draw(pub(super) Random);

impl Draw {
    pub(super) fn of(&self, bounds: std::ops::RangeInclusive<u64>) -> u64 {
        bounds.start() + self.0.below(bounds.end() - bounds.start() + 1)
    }

    pub(super) fn millis(&self, bounds: std::ops::RangeInclusive<u64>) -> Duration {
        Duration::from_millis(self.of(bounds))
    }

    pub(super) fn secs(&self, bounds: std::ops::RangeInclusive<u64>) -> Duration {
        Duration::from_secs(self.of(bounds))
    }

    pub(super) fn size(&self, bounds: std::ops::RangeInclusive<u64>) -> usize {
        usize::try_from(self.of(bounds)).unwrap_or(usize::MAX)
    }

    fn count(&self, bounds: std::ops::RangeInclusive<u64>) -> u32 {
        u32::try_from(self.of(bounds)).unwrap_or(u32::MAX)
    }

    pub(super) fn chance(&self, probability: f64) -> bool {
        self.0.chance(probability)
    }

    /// One of them; those named more often come more often.
    pub(super) fn one_of<T: Copy>(&self, all: &[T]) -> T {
        all[self.size(0..=all.len() as u64 - 1)]
    }
}

const AWAY: Duration = Duration::from_secs(30);

impl Plan {
    pub(crate) fn of_seed(seed: u64) -> Self {
        let draw = Draw(Random::seeded(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x51ed_2701));
        let fifo = draw.chance(0.4);
        let very_long = draw.chance(0.03);
        let visibility = if very_long {
            draw.secs(90..=120)
        } else {
            draw.secs(2..=40)
        };
        // By as much goes away what failed in an outage, which would look like a heartbeat.
        let visibility = visibility + Duration::from_secs(u64::from(visibility == AWAY));
        let trouble = draw.secs(60..=240);
        let old_workers = draw.chance(0.15);
        let names: Vec<char> = ('a'..='e').take(draw.one_of(&[2, 2, 2, 3, 3, 4, 5])).collect();
        let workers: Vec<WorkerPlan> = names
            .iter()
            .map(|&name| worker(&draw, name, visibility, trouble, very_long, old_workers))
            .collect();
        let producers: Vec<ProducerPlan> = ('p'..='s')
            .take(draw.one_of(&[1, 1, 2, 3]))
            .map(|name| producer(&draw, name, trouble))
            .collect();
        let names: Vec<char> = producers.iter().map(|producer| producer.name).collect();
        // A handler of twelve hours is of use only where a lease outlives what SQS allows.
        let inbox = if very_long {
            InboxMode::Used
        } else {
            draw.one_of(&INBOXES)
        };
        let max_attempts = draw.count(1..=5);
        let letters = letters(&draw, max_attempts);
        let mut messages = messages(&draw, fifo, trouble, &names);
        if very_long {
            messages[0].character = Character::VeryLong;
        }
        let planted = if draw.chance(0.2) {
            planted(&draw, &messages)
        } else {
            Vec::new()
        };
        if old_workers || !planted.is_empty() {
            same_payloads(&mut messages);
        }
        Self {
            seed,
            fifo,
            visibility,
            max_attempts,
            inbox,
            letters,
            rejects_block: fifo && draw.chance(0.15),
            trouble,
            faults: faults(&draw),
            reorder: draw.one_of(&[0.0, 0.3]),
            short_receives: draw.one_of(&[0.0, 0.4]),
            producers,
            messages,
            operators: operators(&draw, trouble),
            planted,
            accidents: accidents(&draw, trouble),
            downstream_outages: (0..draw.of(0..=2))
                .map(|_| {
                    let from = draw.millis(0..=millis(trouble));
                    (from, from + draw.secs(3..=60))
                })
                .collect(),
            patience: patience(&workers, letters, very_long),
            workers,
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

const INBOXES: [InboxMode; 12] = {
    let mut modes = [InboxMode::Used; 12];
    (modes[0], modes[1]) = (InboxMode::Without, InboxMode::Shadow);
    modes
};

fn letters(draw: &Draw, max_attempts: u32) -> Letters {
    match draw.of(0..=19) {
        0 | 1 => Letters::ByPolicy(draw.count(1..=6) * max_attempts),
        2 => Letters::Kept,
        3 => Letters::Discarded,
        _ => Letters::Sent,
    }
}

fn patience(workers: &[WorkerPlan], letters: Letters, very_long: bool) -> Duration {
    let hours = |hours: u64| Duration::from_secs(hours * 3600);
    // What finds no room to wait aside goes away for longer with every receive, whoever made it: up to ten hours.
    let aside = |worker: &WorkerPlan| worker.tenants.is_some() || matches!(worker.handler, HandlerPlan::Routed(_));
    match workers.iter().any(aside) {
        // In an outage a message on its last three receives is held for eleven hours and a half each time.
        _ if matches!(letters, Letters::ByPolicy(_)) => hours(48),
        // A handler of twelve hours and a half has to end, whatever else takes long.
        _ if very_long => hours(20),
        true => hours(12),
        false => hours(3),
    }
}

fn faults(draw: &Draw) -> Faults {
    let level = draw.one_of(&[0.0, 0.02, 0.05, 0.1, 0.2]);
    let some = |most: f64| most * level * draw.0.unit();
    Faults {
        before: some(1.0),
        after: some(1.0),
        throttled: some(1.0),
        entries: some(1.0),
        slow: some(0.5),
        slowest: draw.secs(1..=40),
        queue: draw.chance(0.9),
        dead_letters: draw.chance(0.9),
        inbox: draw.chance(0.9),
        sends: draw.chance(0.7),
    }
}

fn worker(
    draw: &Draw,
    name: char,
    visibility: Duration,
    trouble: Duration,
    very_long: bool,
    old_workers: bool,
) -> WorkerPlan {
    let lease = if very_long {
        draw.secs(90..=120)
    } else {
        draw.secs(1..=30)
    };
    let heartbeat = very_long || draw.chance(0.93);
    let timeout = draw.chance(0.5).then(|| draw.secs(2..=60));
    let handler_timeout = match timeout {
        _ if very_long => None,
        // Longer ones are refused without a heartbeat.
        Some(limit) if !heartbeat => Some(limit.min(lease).min(visibility)),
        other => other,
    };
    WorkerPlan {
        name,
        skew_ms: i64::try_from(draw.of(0..=1_200_000)).unwrap_or(0) - 600_000,
        doubt_ms: draw.of(0..=300),
        old: old_workers && draw.chance(0.5),
        concurrency: draw.size(1..=12),
        lease,
        heartbeat,
        rate: draw.chance(0.3).then(|| some_rate(draw)),
        tenants: draw
            .chance(0.25)
            .then(|| (0.1 + draw.0.unit() * 5.0, draw.count(1..=5))),
        held_back: draw.chance(0.5).then(|| draw.size(1..=20)),
        in_flight_delay: draw.millis(0..=30_000),
        long_poll: if very_long {
            draw.secs(20..=20)
        } else {
            draw.one_of(&[5, 10, 20, 20, 20]).secs()
        },
        drain_deadline: draw.millis(500..=60_000),
        linger: draw.millis(0..=50),
        max_receives: draw.chance(0.8).then(|| draw.size(1..=4)),
        handler_timeout,
        backoff: (draw.millis(50..=1_000), draw.secs(1..=30)),
        breaker: breaker(draw),
        counts_outages_only: draw.chance(0.15),
        keep_while_open: draw.one_of(&[0, 20, 60, 900]).secs(),
        downstream: draw.chance(0.2).then(|| DownstreamPlan {
            in_a_row: draw.count(2..=5),
            open: draw.secs(1..=20),
        }),
        handler: match draw.of(0..=9) {
            _ if very_long => HandlerPlan::Single,
            0 => HandlerPlan::Batch(draw.size(2..=5), draw.millis(0..=500)),
            1 => HandlerPlan::Routed(draw.size(1..=3)),
            _ => HandlerPlan::Single,
        },
        stall_after: draw.chance(0.2).then(|| draw.secs(1..=120)),
        events: host_events(draw, trouble, lease),
    }
}

trait Secs {
    fn secs(self) -> Duration;
}

impl Secs for u64 {
    fn secs(self) -> Duration {
        Duration::from_secs(self)
    }
}

fn some_rate(draw: &Draw) -> (f64, u32) {
    (0.5 + draw.0.unit() * 20.0, draw.count(1..=10))
}

fn breaker(draw: &Draw) -> BreakerPlan {
    match draw.of(0..=5) {
        0 => BreakerPlan::None,
        1 => BreakerPlan::Default,
        2 => BreakerPlan::Share {
            share: 0.2 + draw.0.unit() * 0.8,
            calls: draw.count(2..=20),
            open: draw.secs(1..=20),
        },
        _ => BreakerPlan::Quick {
            in_a_row: draw.count(2..=5),
            open: draw.secs(1..=20),
            successes: draw.count(1..=3),
        },
    }
}

fn host_events(draw: &Draw, trouble: Duration, lease: Duration) -> Vec<(Duration, HostEvent)> {
    let at = || draw.millis(0..=millis(trouble));
    let down = || draw.millis(10..=20_000);
    let mut events = Vec::new();
    for _ in 0..draw.of(0..=2) {
        events.push((at(), HostEvent::Crash { down: down() }));
    }
    for _ in 0..draw.of(0..=3) {
        let steps = draw.count(1..=60);
        events.push((at(), HostEvent::CrashInSteps { steps, down: down() }));
    }
    for _ in 0..draw.of(0..=2) {
        events.push((at(), HostEvent::Drain { down: down() }));
    }
    if draw.chance(0.2) {
        let between = draw.millis(0..=5_000);
        events.push((at(), HostEvent::DrainTwice { between, down: down() }));
    }
    if draw.chance(0.5) {
        let pause = draw.millis(10..=60_000);
        events.push((at(), HostEvent::Pause { pause }));
    }
    for _ in 0..draw.of(0..=3) {
        let pause = lease.mul_f64(draw.0.unit() * 3.0) + draw.millis(1..=2_000);
        let ahead = if draw.chance(0.5) {
            Duration::ZERO
        } else {
            draw.millis(1..=5_000)
        };
        let all = draw.chance(0.7);
        events.push((at(), HostEvent::Freeze { pause, all, ahead }));
    }
    for _ in 0..draw.one_of(&[0, 0, 1, 3]) {
        let ms = i64::try_from(draw.of(0..=1_200_000)).unwrap_or(0) - 600_000;
        events.push((at(), HostEvent::ClockStep { ms }));
    }
    if draw.chance(0.2) {
        let rate = draw.chance(0.7).then(|| some_rate(draw));
        events.push((at(), HostEvent::SetRate(rate)));
    }
    if draw.chance(0.2) {
        events.push((at(), HostEvent::SetConcurrency(draw.size(1..=12))));
    }
    events.sort_by_key(|(at, _)| *at);
    events
}

fn producer(draw: &Draw, name: char, trouble: Duration) -> ProducerPlan {
    ProducerPlan {
        name,
        linger: draw.millis(0..=100),
        attempts: draw.count(1..=10),
        give_up_after: draw.secs(1..=60),
        own_keys: draw.chance(0.5),
        persists: draw.chance(0.5),
        crashes: (0..draw.one_of(&[0, 0, 1, 2]))
            .map(|_| draw.millis(0..=millis(trouble)))
            .collect(),
    }
}

fn messages(draw: &Draw, fifo: bool, trouble: Duration, producers: &[char]) -> Vec<MessagePlan> {
    use Character::{Flaky, Hangs, Healthy, Panics, Poison, Rejected, Slow};
    let count = draw.size(6..=45);
    let groups = draw.of(1..=5);
    let repeats = draw.one_of(&[0.0, 0.1, 0.4]);
    let delays = draw.one_of(&[0.0, 0.0, 0.2]);
    let mut messages: Vec<MessagePlan> = Vec::with_capacity(count);
    let mut at = Vec::with_capacity(count);
    // Bursts: several at one time.
    let moments = draw.of(1..=12);
    let moments: Vec<Duration> = (0..moments)
        .map(|_| draw.millis(0..=millis(trouble) * 8 / 10))
        .collect();
    for _ in 0..count {
        at.push(draw.one_of(&moments) + draw.millis(0..=200));
    }
    at.sort_unstable();
    for (number, at) in at.into_iter().enumerate() {
        let again = draw.chance(repeats) && number > 0;
        let earlier = again.then(|| messages[draw.size(0..=number as u64 - 1)].clone());
        let (key, payload) = match earlier {
            Some(MessagePlan {
                key: Some(key),
                payload,
                ..
            }) if draw.chance(0.7) => (Some(key), payload),
            Some(MessagePlan { key: Some(key), .. }) => (Some(key), number),
            _ if draw.chance(0.2) => (None, number),
            _ => (Some(number), number),
        };
        messages.push(MessagePlan {
            number,
            producer: draw.one_of(producers),
            at,
            key,
            payload,
            group: if fifo { draw.of(1..=groups) } else { 0 },
            // A FIFO queue takes no delays of single messages.
            delay: (!fifo && draw.chance(delays)).then(|| draw.secs(0..=60)),
            character: draw.one_of(&[
                Healthy, Healthy, Healthy, Healthy, Healthy, Flaky, Flaky, Slow, Slow, Poison, Rejected, Panics, Hangs,
            ]),
        });
    }
    messages
}

/// An earlier version cannot tell payloads of one key apart, so none may differ.
fn same_payloads(messages: &mut [MessagePlan]) {
    for at in 0..messages.len() {
        if let Some(key) = messages[at].key {
            let first = messages.iter().find(|message| message.key == Some(key));
            messages[at].payload = first.map_or(messages[at].payload, |first| first.payload);
        }
    }
}

fn planted(draw: &Draw, messages: &[MessagePlan]) -> Vec<Planted> {
    let mut keys: Vec<usize> = messages.iter().filter_map(|message| message.key).collect();
    keys.sort_unstable();
    keys.dedup();
    keys.into_iter()
        .filter(|_| draw.chance(0.3))
        .map(|key| {
            let kind = match draw.of(0..=3) {
                0 => PlantedKind::Released,
                1 => PlantedKind::Abandoned(draw.secs(0..=90)),
                2 => PlantedKind::Forgotten,
                _ => PlantedKind::Rejected,
            };
            Planted { key, kind }
        })
        .collect()
}

fn operators(draw: &Draw, trouble: Duration) -> Vec<OperatorPlan> {
    let mut operators: Vec<OperatorPlan> = (0..draw.one_of(&[0, 0, 0, 1, 2]))
        .map(|_| OperatorPlan {
            at: draw.millis(0..=millis(trouble)),
            filter: draw.one_of(&[
                ReplayFilter::All,
                ReplayFilter::Exhausted,
                ReplayFilter::Rejected,
                ReplayFilter::Half,
            ]),
            rate: draw.chance(0.5).then(|| 0.5 + draw.0.unit() * 20.0),
            limit: draw.chance(0.3).then(|| draw.of(1..=10)),
            asks_inbox: draw.chance(0.5),
            crash: draw.chance(0.3).then(|| draw.millis(10..=20_000)),
        })
        .collect();
    operators.sort_by_key(|operator| operator.at);
    operators
}

fn accidents(draw: &Draw, trouble: Duration) -> Vec<(Duration, Accident)> {
    let mut accidents = Vec::new();
    let at = || draw.millis(0..=millis(trouble));
    for _ in 0..draw.of(0..=2) {
        let service = draw.one_of(&[Service::Queue, Service::DeadLetters, Service::Inbox]);
        accidents.push((at(), Accident::Unreachable(service, draw.secs(1..=60))));
    }
    for _ in 0..draw.of(0..=6) {
        accidents.push((at(), Accident::Copy(draw.0.next_u64())));
    }
    for _ in 0..draw.of(0..=4) {
        accidents.push((at(), Accident::Ghost(draw.0.next_u64())));
    }
    for _ in 0..draw.of(0..=2) {
        accidents.push((at(), Accident::LostReceives(draw.0.next_u64(), draw.count(1..=4))));
    }
    for _ in 0..draw.of(0..=2) {
        accidents.push((at(), Accident::Released(draw.0.next_u64(), draw.chance(0.5))));
    }
    if draw.chance(0.2) {
        accidents.push((at(), Accident::Forgotten(draw.0.next_u64())));
    }
    if draw.chance(0.2) {
        accidents.push((at(), Accident::MovedBack(draw.0.next_u64())));
    }
    accidents.sort_by_key(|(at, _)| *at);
    accidents
}
