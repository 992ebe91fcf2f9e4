//! What happens in a run, drawn from its seed before it begins.
//!
//! A plan is plain data, so that it can be shrunk: whatever is left out of it, the rest means the same.

mod behaviour;
mod draw;
mod shown;

use std::time::Duration;

pub(crate) use behaviour::{Behaviour, Ending};

/// Messages with this number and above are not planned: the producer sends them to keep things going.
pub(crate) const UNPLANNED: usize = 10_000;

/// One run: settings, work, faults and accidents.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) fifo: bool,
    pub(crate) visibility: Duration,
    pub(crate) max_attempts: u32,
    pub(crate) inbox: InboxMode,
    pub(crate) letters: Letters,
    /// A FIFO group stays blocked behind what was given up.
    pub(crate) rejects_block: bool,
    /// When faults and accidents end.
    pub(crate) trouble: Duration,
    pub(crate) faults: Faults,
    pub(crate) reorder: f64,
    pub(crate) short_receives: f64,
    pub(crate) workers: Vec<WorkerPlan>,
    pub(crate) producers: Vec<ProducerPlan>,
    pub(crate) messages: Vec<MessagePlan>,
    pub(crate) operators: Vec<OperatorPlan>,
    /// Records that an earlier version left in the inbox.
    pub(crate) planted: Vec<Planted>,
    pub(crate) accidents: Vec<(Duration, Accident)>,
    /// When what all handlers call is down.
    pub(crate) downstream_outages: Vec<(Duration, Duration)>,
    /// The longest until all is settled, after the trouble.
    pub(crate) patience: Duration,
}

/// What the workers do with the inbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InboxMode {
    Used,
    Shadow,
    /// At least once.
    Without,
}

/// Where messages go that are given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Letters {
    Sent,
    /// The queue moves what was received this often.
    ByPolicy(u32),
    Kept,
    Discarded,
}

/// How often calls go wrong, as probabilities, and where and when.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Faults {
    pub(crate) before: f64,
    pub(crate) after: f64,
    pub(crate) throttled: f64,
    pub(crate) entries: f64,
    pub(crate) slow: f64,
    pub(crate) slowest: Duration,
    pub(crate) queue: bool,
    pub(crate) dead_letters: bool,
    pub(crate) inbox: bool,
    /// What producers send goes wrong too.
    pub(crate) sends: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct WorkerPlan {
    pub(crate) name: char,
    pub(crate) skew_ms: i64,
    /// How far its bounds of the inbox's time are from the truth.
    pub(crate) doubt_ms: u64,
    /// It keeps records as an earlier version did, without the attributes that came later.
    pub(crate) old: bool,
    pub(crate) concurrency: usize,
    pub(crate) lease: Duration,
    pub(crate) heartbeat: bool,
    pub(crate) rate: Option<(f64, u32)>,
    /// The rate and burst of each tenant.
    pub(crate) tenants: Option<(f64, u32)>,
    /// How many messages may wait aside.
    pub(crate) held_back: Option<usize>,
    pub(crate) in_flight_delay: Duration,
    pub(crate) long_poll: Duration,
    pub(crate) drain_deadline: Duration,
    pub(crate) linger: Duration,
    pub(crate) max_receives: Option<usize>,
    pub(crate) handler_timeout: Option<Duration>,
    pub(crate) backoff: (Duration, Duration),
    pub(crate) breaker: BreakerPlan,
    /// The breaker counts failures of what was down, and no others.
    pub(crate) counts_outages_only: bool,
    pub(crate) keep_while_open: Duration,
    /// It watches the breaker of a downstream that its handlers call through.
    pub(crate) downstream: Option<DownstreamPlan>,
    pub(crate) handler: HandlerPlan,
    pub(crate) stall_after: Option<Duration>,
    pub(crate) events: Vec<(Duration, HostEvent)>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum BreakerPlan {
    Default,
    Quick {
        in_a_row: u32,
        open: Duration,
        successes: u32,
    },
    /// By the share of failures.
    Share {
        share: f64,
        calls: u32,
        open: Duration,
    },
    None,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DownstreamPlan {
    pub(crate) in_a_row: u32,
    pub(crate) open: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HandlerPlan {
    Single,
    /// Several deliveries at once, of this size and with this linger.
    Batch(usize, Duration),
    /// By the message's type; those of one type have a bulkhead of this size.
    Routed(usize),
}

/// What befalls a worker's process.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum HostEvent {
    /// It dies, and another starts after a while.
    Crash { down: Duration },
    /// It dies after so many steps of anything in it.
    CrashInSteps { steps: u32, down: Duration },
    /// SIGTERM; another starts after it has ended.
    Drain { down: Duration },
    /// SIGTERM, and a second one after a while.
    DrainTwice { between: Duration, down: Duration },
    /// Somebody pauses it and lets it go on.
    Pause { pause: Duration },
    /// Its loop stands still, and with `all` its handlers and calls too; those go on `ahead` of the loop.
    Freeze {
        pause: Duration,
        all: bool,
        ahead: Duration,
    },
    /// Its host's wall clock is set.
    ClockStep { ms: i64 },
    /// Somebody sets its rate, or lifts it.
    SetRate(Option<(f64, u32)>),
    /// Somebody sets its concurrency.
    SetConcurrency(usize),
}

/// What befalls the services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Accident {
    Unreachable(Service, Duration),
    /// A standard queue delivers a message once more; which one is drawn from this.
    Copy(u64),
    /// A standard queue delivers a deleted message once more.
    Ghost(u64),
    /// Receives that no client saw.
    LostReceives(u64, u32),
    /// An operator releases a claim by hand: one whose lease ran out, or any, a live one too.
    Released(u64, bool),
    /// An operator deletes a record that nobody holds.
    Forgotten(u64),
    /// SQS moves some dead letters back by itself, as somebody told it to.
    MovedBack(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Service {
    Queue,
    DeadLetters,
    Inbox,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ProducerPlan {
    pub(crate) name: char,
    pub(crate) linger: Duration,
    pub(crate) attempts: u32,
    pub(crate) give_up_after: Duration,
    /// What has no key gets one by which copies are recognised.
    pub(crate) own_keys: bool,
    /// What was not taken is sent once more, by the application.
    pub(crate) persists: bool,
    /// Its process dies at these times and another sends what had no answer.
    pub(crate) crashes: Vec<Duration>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MessagePlan {
    pub(crate) number: usize,
    pub(crate) producer: char,
    pub(crate) at: Duration,
    /// Which key it carries; `None`: its MessageId.
    pub(crate) key: Option<usize>,
    pub(crate) payload: usize,
    pub(crate) group: u64,
    pub(crate) delay: Option<Duration>,
    pub(crate) character: Character,
}

/// Somebody replays dead letters.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct OperatorPlan {
    pub(crate) at: Duration,
    pub(crate) filter: ReplayFilter,
    /// Messages per second.
    pub(crate) rate: Option<f64>,
    /// The most it moves.
    pub(crate) limit: Option<u64>,
    /// It asks the inbox first which keys are done.
    pub(crate) asks_inbox: bool,
    /// Its process dies after this long, and it is run again under the same job after as long.
    pub(crate) crash: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReplayFilter {
    All,
    /// What failed until its attempts were spent.
    Exhausted,
    Rejected,
    /// Every second message, by its number.
    Half,
}

/// A record from an earlier version, under the key with this number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Planted {
    pub(crate) key: usize,
    pub(crate) kind: PlantedKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PlantedKind {
    /// Given back after some attempts at another message.
    Released,
    /// Its worker died; the lease runs out after this long.
    Abandoned(Duration),
    /// Done, and forgotten since, but not deleted yet.
    Forgotten,
    /// Given up as another message, for a reason that this version does not know.
    Rejected,
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

impl Plan {
    pub(crate) fn message(&self, number: usize) -> Option<&MessagePlan> {
        self.messages.iter().find(|message| message.number == number)
    }

    /// Whether a message can be done at all.
    pub(crate) fn can_be_done(&self, number: usize) -> bool {
        self.message(number)
            .is_none_or(|message| message.character != Character::Poison)
    }

    pub(crate) fn downstream_is_down(&self, at: Duration) -> bool {
        self.downstream_outages
            .iter()
            .any(|&(from, until)| (from..until).contains(&at) && at < self.trouble)
    }
}
