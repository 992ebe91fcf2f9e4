//! What happens in a run, drawn from its seed before it begins.

use std::fmt;
use std::time::Duration;

use redrive::clock::Random;

/// One run: settings, work, faults and accidents.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) fifo: bool,
    pub(crate) visibility: Duration,
    pub(crate) max_attempts: u32,
    /// When faults and accidents end.
    pub(crate) trouble: Duration,
    pub(crate) faults: Faults,
    pub(crate) reorder: f64,
    pub(crate) short_receives: f64,
    pub(crate) workers: [WorkerPlan; 2],
    pub(crate) messages: Vec<MessagePlan>,
    pub(crate) accidents: Vec<(Duration, Accident)>,
    /// When what all handlers call is down.
    pub(crate) downstream_outages: Vec<(Duration, Duration)>,
    /// The longest until all is settled, after the trouble.
    pub(crate) patience: Duration,
}

/// How often calls go wrong, as probabilities.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Faults {
    pub(crate) before: f64,
    pub(crate) after: f64,
    pub(crate) throttled: f64,
    pub(crate) entries: f64,
    pub(crate) slow: f64,
    pub(crate) slowest: Duration,
}

#[derive(Clone, Debug)]
pub(crate) struct WorkerPlan {
    pub(crate) skew_ms: i64,
    /// How far its bounds of the inbox's time are from the truth.
    pub(crate) doubt_ms: u64,
    pub(crate) concurrency: usize,
    pub(crate) lease: Duration,
    pub(crate) heartbeat: bool,
    pub(crate) rate: Option<(f64, u32)>,
    /// The rate and burst of each tenant, and how many messages may wait aside for it.
    pub(crate) tenants: Option<(f64, u32, usize)>,
    pub(crate) in_flight_delay: Duration,
    pub(crate) long_poll: Duration,
    pub(crate) drain_deadline: Duration,
    pub(crate) linger: Duration,
    pub(crate) max_receives: usize,
    pub(crate) handler_timeout: Option<Duration>,
    pub(crate) backoff: (Duration, Duration),
    pub(crate) breaker: BreakerPlan,
    pub(crate) keep_while_open: Duration,
    /// A handler of several deliveries at once, of this size and with this linger.
    pub(crate) batch: Option<(usize, Duration)>,
    pub(crate) events: Vec<(Duration, HostEvent)>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum BreakerPlan {
    Default,
    Quick { in_a_row: u32, open: Duration },
    None,
}

/// What befalls a worker's process.
#[derive(Clone, Copy, Debug)]
pub(crate) enum HostEvent {
    /// It dies, and another starts after a while.
    Crash { down: Duration },
    /// SIGTERM; another starts after it has ended.
    Drain { down: Duration },
    /// Somebody pauses it and lets it go on.
    Pause { pause: Duration },
    /// Its loop stands still, and with `all` its handlers and calls too; those go on `ahead` of the loop.
    Freeze {
        pause: Duration,
        all: bool,
        ahead: Duration,
    },
}

/// What befalls the services.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Accident {
    Unreachable(Service, bool),
    /// A standard queue delivers a message once more; which one is drawn from this.
    Copy(u64),
    /// A standard queue delivers a deleted message once more.
    Ghost(u64),
    /// Receives that no client saw.
    LostReceives(u64, u32),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Service {
    Queue,
    DeadLetters,
    Inbox,
}

#[derive(Clone, Debug)]
pub(crate) struct MessagePlan {
    pub(crate) at: Duration,
    /// Which key it carries; `None`: its MessageId.
    pub(crate) key: Option<usize>,
    pub(crate) payload: usize,
    pub(crate) group: u64,
    pub(crate) character: Character,
}

/// What a handler is like on this message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Character {
    Healthy,
    Flaky,
    Poison,
    Rejected,
    Panics,
    Slow,
    /// Hangs until somebody stops it, now and then.
    Hangs,
    /// Takes longer than SQS lets a message be invisible.
    VeryLong,
}

struct Draw(Random);

impl Draw {
    fn of(&self, bounds: std::ops::RangeInclusive<u64>) -> u64 {
        bounds.start() + self.0.below(bounds.end() - bounds.start() + 1)
    }

    fn millis(&self, bounds: std::ops::RangeInclusive<u64>) -> Duration {
        Duration::from_millis(self.of(bounds))
    }

    fn secs(&self, bounds: std::ops::RangeInclusive<u64>) -> Duration {
        Duration::from_secs(self.of(bounds))
    }

    fn size(&self, bounds: std::ops::RangeInclusive<u64>) -> usize {
        usize::try_from(self.of(bounds)).unwrap_or(usize::MAX)
    }

    fn chance(&self, probability: f64) -> bool {
        self.0.chance(probability)
    }

    /// One of them; those named more often come more often.
    fn one_of<T: Copy>(&self, all: &[T]) -> T {
        all[self.size(0..=all.len() as u64 - 1)]
    }
}

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
        let trouble = draw.secs(60..=240);
        let level = draw.one_of(&[0.0, 0.02, 0.05, 0.1, 0.2]);
        let some = |most: f64| most * level * draw.0.unit();
        let faults = Faults {
            before: some(1.0),
            after: some(1.0),
            throttled: some(1.0),
            entries: some(1.0),
            slow: some(0.5),
            slowest: draw.secs(1..=40),
        };
        let workers = [
            worker(&draw, visibility, trouble, very_long),
            worker(&draw, visibility, trouble, very_long),
        ];
        Self {
            seed,
            fifo,
            visibility,
            max_attempts: u32::try_from(draw.of(1..=5)).unwrap_or(5),
            trouble,
            faults,
            reorder: draw.one_of(&[0.0, 0.3]),
            short_receives: draw.one_of(&[0.0, 0.4]),
            workers,
            messages: messages(&draw, fifo, trouble, very_long),
            accidents: accidents(&draw, trouble),
            downstream_outages: (0..draw.of(0..=2))
                .map(|_| {
                    let from = draw.millis(0..=millis(trouble));
                    (from, from + draw.secs(3..=60))
                })
                .collect(),
            patience: Duration::from_secs(if very_long { 20 } else { 3 } * 3600),
        }
    }

    /// Whether a message can be done at all.
    pub(crate) fn can_be_done(&self, message: usize) -> bool {
        self.messages
            .get(message)
            .is_none_or(|message| message.character != Character::Poison)
    }

    pub(crate) fn downstream_is_down(&self, at: Duration) -> bool {
        self.downstream_outages
            .iter()
            .any(|&(from, until)| (from..until).contains(&at) && at < self.trouble)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn worker(draw: &Draw, visibility: Duration, trouble: Duration, very_long: bool) -> WorkerPlan {
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
    let at = || draw.millis(0..=millis(trouble));
    let mut events = Vec::new();
    for _ in 0..draw.of(0..=2) {
        let down = draw.millis(10..=20_000);
        events.push((at(), HostEvent::Crash { down }));
    }
    for _ in 0..draw.of(0..=2) {
        let down = draw.millis(10..=20_000);
        events.push((at(), HostEvent::Drain { down }));
    }
    for _ in 0..draw.of(0..=1) {
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
    events.sort_by_key(|(at, _)| *at);
    WorkerPlan {
        skew_ms: i64::try_from(draw.of(0..=1_200_000)).unwrap_or(0) - 600_000,
        doubt_ms: draw.of(0..=300),
        concurrency: draw.size(1..=12),
        lease,
        heartbeat,
        rate: draw
            .chance(0.3)
            .then(|| (0.5 + draw.0.unit() * 20.0, u32::try_from(draw.of(1..=10)).unwrap_or(1))),
        tenants: draw.chance(0.25).then(|| {
            let burst = u32::try_from(draw.of(1..=5)).unwrap_or(1);
            (0.1 + draw.0.unit() * 5.0, burst, draw.size(1..=20))
        }),
        in_flight_delay: draw.millis(0..=30_000),
        long_poll: if very_long {
            draw.secs(20..=20)
        } else {
            draw.secs(1..=20)
        },
        drain_deadline: draw.millis(500..=60_000),
        linger: draw.millis(0..=50),
        max_receives: draw.size(1..=4),
        handler_timeout,
        backoff: (draw.millis(50..=1_000), draw.secs(1..=30)),
        breaker: match draw.of(0..=3) {
            0 => BreakerPlan::None,
            1 => BreakerPlan::Default,
            _ => BreakerPlan::Quick {
                in_a_row: u32::try_from(draw.of(2..=5)).unwrap_or(3),
                open: draw.secs(1..=20),
            },
        },
        keep_while_open: draw.one_of(&[
            Duration::from_secs(20),
            Duration::from_secs(60),
            Duration::from_secs(900),
        ]),
        batch: (!very_long && draw.chance(0.15)).then(|| (draw.size(2..=5), draw.millis(0..=500))),
        events,
    }
}

fn messages(draw: &Draw, fifo: bool, trouble: Duration, very_long: bool) -> Vec<MessagePlan> {
    use Character::{Flaky, Hangs, Healthy, Panics, Poison, Rejected, Slow};
    let count = draw.size(6..=45);
    let groups = draw.of(1..=5);
    let repeats = draw.one_of(&[0.0, 0.1, 0.4]);
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
            at,
            key,
            payload,
            group: if fifo { draw.of(1..=groups) } else { 0 },
            character: draw.one_of(&[
                Healthy, Healthy, Healthy, Healthy, Healthy, Flaky, Flaky, Slow, Slow, Poison, Rejected, Panics, Hangs,
            ]),
        });
    }
    if very_long {
        messages[0].character = Character::VeryLong;
    }
    messages
}

fn accidents(draw: &Draw, trouble: Duration) -> Vec<(Duration, Accident)> {
    let mut accidents = Vec::new();
    let at = || draw.millis(0..=millis(trouble));
    for _ in 0..draw.of(0..=2) {
        let service = draw.one_of(&[Service::Queue, Service::DeadLetters, Service::Inbox]);
        let from = at();
        accidents.push((from, Accident::Unreachable(service, true)));
        accidents.push((from + draw.secs(1..=60), Accident::Unreachable(service, false)));
    }
    for _ in 0..draw.of(0..=6) {
        accidents.push((at(), Accident::Copy(draw.0.next_u64())));
    }
    for _ in 0..draw.of(0..=4) {
        accidents.push((at(), Accident::Ghost(draw.0.next_u64())));
    }
    for _ in 0..draw.of(0..=2) {
        let by = u32::try_from(draw.of(1..=4)).unwrap_or(1);
        accidents.push((at(), Accident::LostReceives(draw.0.next_u64(), by)));
    }
    accidents.sort_by_key(|(at, _)| *at);
    accidents
}

/// How one run of a handler goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Behaviour {
    pub(crate) before: Duration,
    pub(crate) keeps_checkpoint: bool,
    pub(crate) after: Duration,
    pub(crate) heeds_cancellation: bool,
    pub(crate) ending: Ending,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Ending {
    Done,
    Fails,
    FailsFor(Duration),
    Rejects,
    Panics,
}

impl Behaviour {
    /// The behaviour of the `run`-th run on a message, whoever runs it and whenever. `calm`: the trouble is over, so nothing
    /// takes long but what must.
    pub(crate) fn of(plan: &Plan, message: usize, run: u64, lease: Duration, calm: bool) -> Self {
        let seed = plan.seed ^ (message as u64 + 1).wrapping_mul(0xd134_2543_de82_ef95) ^ run.wrapping_mul(0x2545_f491);
        let draw = Draw(Random::seeded(seed));
        let character = plan
            .messages
            .get(message)
            .map_or(Character::Healthy, |message| message.character);
        let quick = draw.one_of(&[0, 0, 20, 200, 2_000]);
        let mut before = draw.millis(0..=quick);
        let mut after = draw.millis(0..=quick);
        let fails = || match draw.of(0..=2) {
            // Never whole seconds, so that no delay looks like a heartbeat's.
            0 => Ending::FailsFor(draw.millis(1..=9) + draw.secs(0..=8)),
            _ => Ending::Fails,
        };
        let long = lease.mul_f64(0.5 + draw.0.unit() * 3.0);
        let ending = match character {
            Character::Healthy => Ending::Done,
            Character::Flaky if draw.chance(0.5) => fails(),
            Character::Flaky => Ending::Done,
            Character::Poison => fails(),
            Character::Rejected => Ending::Rejects,
            Character::Panics if draw.chance(0.7) => Ending::Panics,
            Character::Panics => Ending::Done,
            Character::Slow => {
                after += long;
                Ending::Done
            }
            Character::Hangs => {
                after += if draw.chance(0.5) {
                    Duration::from_secs(300)
                } else {
                    long
                };
                Ending::Done
            }
            Character::VeryLong => {
                after = Duration::from_secs(12 * 3600 + 1800);
                Ending::Done
            }
        };
        if calm && character != Character::VeryLong {
            before = before.min(lease / 10);
            after = after.min(lease / 5);
        }
        Self {
            before,
            keeps_checkpoint: draw.chance(0.2),
            after,
            heeds_cancellation: draw.chance(0.5),
            ending,
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.fifo { "FIFO" } else { "standard" };
        writeln!(
            f,
            "{kind} queue, visibility {:?}, {} attempts, trouble for {:?}, reorder {}, short {}",
            self.visibility, self.max_attempts, self.trouble, self.reorder, self.short_receives
        )?;
        writeln!(f, "{:?}", self.faults)?;
        for (name, worker) in ["a", "b"].iter().zip(&self.workers) {
            writeln!(f, "worker {name}: {worker:?}")?;
        }
        for (at, accident) in &self.accidents {
            writeln!(f, "at {at:?}: {accident:?}")?;
        }
        for (from, until) in &self.downstream_outages {
            writeln!(f, "downstream down from {from:?} until {until:?}")?;
        }
        for (number, message) in self.messages.iter().enumerate() {
            let key = message.key.map_or_else(|| "its id".to_owned(), |key| format!("k{key}"));
            write!(
                f,
                "m{number:02} at {:?}: key {key}, payload {}",
                message.at, message.payload
            )?;
            if self.fifo {
                write!(f, ", group {}", message.group)?;
            }
            writeln!(f, ", {:?}", message.character)?;
        }
        Ok(())
    }
}
