//! Sets up an embedded queue, and refuses what SQS would refuse.

use std::fmt;
use std::time::Duration;

use crate::clock::{Clock, Random};
use crate::faults::FaultPlan;
use crate::queue::rules::whole_seconds;
use crate::queue::{MAX_BYTES, MAX_DELAY, MAX_VISIBILITY, QueueAttributes, QueueError, RedrivePolicy};

use super::MemoryQueue;
use super::store::{Settings, Store};

/// SQS's in-flight quota.
const IN_FLIGHT_CAP: usize = 120_000;

const RETENTION: std::ops::RangeInclusive<Duration> = Duration::from_secs(60)..=Duration::from_secs(14 * 24 * 60 * 60);

/// Sets up a [`MemoryQueue`]; from [`MemoryQueue::builder`]. Settings that are not given are SQS's defaults.
#[must_use]
#[derive(Debug)]
pub struct MemoryQueueBuilder {
    attributes: QueueAttributes,
    delay: Duration,
    dead_letter: Option<(MemoryQueue, u32)>,
    in_flight_cap: usize,
    reorder: f64,
    short_receives: f64,
    clock: Clock,
    random: Option<Random>,
    faults: FaultPlan,
}

impl MemoryQueueBuilder {
    pub(super) fn new(name: String) -> Self {
        Self {
            attributes: QueueAttributes::new(name),
            delay: Duration::ZERO,
            dead_letter: None,
            in_flight_cap: IN_FLIGHT_CAP,
            reorder: 0.0,
            short_receives: 0.0,
            clock: Clock::system(),
            random: None,
            faults: FaultPlan::none(),
        }
    }

    /// How long a received message stays invisible: 30 s unless set, 1 s to 12 hours, in whole seconds (rounded up).
    pub fn visibility_timeout(mut self, timeout: Duration) -> Self {
        self.attributes.visibility_timeout = whole_seconds(timeout);
        self
    }

    /// How long a message is kept before it vanishes: 4 days unless set, 60 s to 14 days, in whole seconds (rounded up).
    pub fn retention(mut self, retention: Duration) -> Self {
        self.attributes.retention = whole_seconds(retention);
        self
    }

    /// How long every sent message stays hidden at first: none unless set, to 15 minutes, in whole seconds (rounded up).
    pub fn delay(mut self, delay: Duration) -> Self {
        self.delay = whole_seconds(delay);
        self
    }

    /// The redrive policy: what was received `max_receive_count` times (1 to 1,000) and is asked for once more moves to
    /// `queue` instead. Both queues must be FIFO, or both standard.
    pub fn dead_letter(mut self, queue: &MemoryQueue, max_receive_count: u32) -> Self {
        self.dead_letter = Some((queue.clone(), max_receive_count));
        self
    }

    /// Makes deduplication ids from bodies. FIFO only.
    pub fn content_based_deduplication(mut self, on: bool) -> Self {
        self.attributes.content_based_deduplication = on;
        self
    }

    /// Deduplicates within each message group instead of the whole queue. FIFO only.
    pub fn deduplication_by_group(mut self, on: bool) -> Self {
        self.attributes.deduplication_by_group = on;
        self
    }

    /// How many messages may be in flight at once: 120,000 unless set. At the cap a standard queue refuses receives with
    /// `OverLimit`; a FIFO queue hands out nothing.
    pub fn in_flight_cap(mut self, messages: usize) -> Self {
        self.in_flight_cap = messages;
        self
    }

    /// The most bytes of a message with its attributes: 1 MiB unless set, 1 KiB to 1 MiB.
    pub fn max_message_bytes(mut self, bytes: usize) -> Self {
        self.attributes.max_message_bytes = bytes;
        self
    }

    /// The probability (0 to 1) that what is handed out next is not the first in line: messages of a standard queue, groups
    /// of a FIFO queue. Order within a group stands.
    pub fn reorder(mut self, probability: f64) -> Self {
        self.reorder = probability;
        self
    }

    /// The probability (0 to 1) that a receive hands out fewer messages than there are; without a wait, even none.
    pub fn short_receives(mut self, probability: f64) -> Self {
        self.short_receives = probability;
        self
    }

    /// The wall clock of sent timestamps; the system's unless set. Durations are always by the runtime's clock.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Where MessageIds, order and short receives are drawn from; a fixed seed unless set, so that the same calls give the
    /// same history.
    pub fn random(mut self, random: Random) -> Self {
        self.random = Some(random);
        self
    }

    /// What goes wrong; nothing unless set. Keep a clone of the plan to change it later.
    pub fn faults(mut self, faults: FaultPlan) -> Self {
        self.faults = faults;
        self
    }

    /// Makes the queue.
    ///
    /// # Errors
    /// [`QueueError::Invalid`] for settings that SQS would refuse or that make no sense, naming which and why.
    pub fn build(self) -> Result<MemoryQueue, QueueError> {
        self.check()?;
        let Self {
            mut attributes,
            delay,
            dead_letter,
            in_flight_cap,
            ..
        } = self;
        if let Some((queue, most)) = &dead_letter {
            attributes.redrive = Some(RedrivePolicy::new(queue.fixed().arn.clone(), *most));
        }
        let settings = Settings {
            fifo: attributes.fifo,
            content_based_deduplication: attributes.content_based_deduplication,
            deduplication_by_group: attributes.deduplication_by_group,
            visibility: attributes.visibility_timeout,
            retention: attributes.retention,
            delay,
            max_message_bytes: attributes.max_message_bytes,
            in_flight_cap,
            max_receive_count: dead_letter.as_ref().map(|(_, most)| *most),
            reorder: self.reorder,
            short_receives: self.short_receives,
        };
        let random = self.random.unwrap_or_else(|| Random::seeded(0));
        let store = Store::new(settings, &attributes.name, random);
        let dead_letter = dead_letter.map(|(queue, _)| queue);
        Ok(MemoryQueue::assemble(
            attributes,
            dead_letter,
            self.clock,
            self.faults,
            store,
        ))
    }

    fn check(&self) -> Result<(), QueueError> {
        let attributes = &self.attributes;
        let name = attributes.name.as_str();
        let stem = name.strip_suffix(".fifo").unwrap_or(name);
        let plain = stem
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
        if stem.is_empty() || name.len() > 80 || !plain {
            return Err(invalid(
                "queue name",
                name,
                "a name has 1 to 80 letters, digits, `-` and `_`, and ends in `.fifo` for a FIFO queue only",
            ));
        }
        let timeout = attributes.visibility_timeout;
        if timeout.is_zero() || timeout > MAX_VISIBILITY {
            return Err(invalid(
                "visibility timeout",
                seconds(timeout),
                "choose 1 s to 12 hours",
            ));
        }
        if !RETENTION.contains(&attributes.retention) {
            return Err(invalid(
                "retention",
                seconds(attributes.retention),
                "choose 60 s to 14 days",
            ));
        }
        if self.delay > MAX_DELAY {
            return Err(invalid(
                "delay",
                seconds(self.delay),
                "a message can be delayed by at most 15 minutes",
            ));
        }
        if !(1024..=MAX_BYTES).contains(&attributes.max_message_bytes) {
            return Err(invalid(
                "max message bytes",
                attributes.max_message_bytes,
                "choose 1,024 to 1,048,576",
            ));
        }
        if self.in_flight_cap == 0 {
            return Err(invalid(
                "in-flight cap",
                0,
                "nothing could ever be received; choose at least 1",
            ));
        }
        for (what, on) in [
            ("content-based deduplication", attributes.content_based_deduplication),
            ("deduplication by group", attributes.deduplication_by_group),
        ] {
            if on && !attributes.fifo {
                return Err(invalid(
                    what,
                    on,
                    format!("`{name}` is a standard queue; name a FIFO queue `{name}.fifo`"),
                ));
            }
        }
        for (what, probability) in [("reorder", self.reorder), ("short receives", self.short_receives)] {
            if !(0.0..=1.0).contains(&probability) {
                return Err(invalid(what, probability, "a probability is from 0 to 1"));
            }
        }
        match &self.dead_letter {
            Some((queue, most)) => check_dead_letter(attributes, queue.fixed(), *most),
            None => Ok(()),
        }
    }
}

fn check_dead_letter(source: &QueueAttributes, target: &QueueAttributes, most: u32) -> Result<(), QueueError> {
    if source.arn == target.arn {
        return Err(invalid(
            "dead-letter queue",
            &target.name,
            "it is the queue itself, so dead letters would come straight back; give it a queue of its own",
        ));
    }
    if source.fifo != target.fifo {
        let kind = |fifo| if fifo { "a FIFO queue" } else { "a standard queue" };
        let why = format!(
            "it is {} and `{}` is {}; both must be of one kind",
            kind(target.fifo),
            source.name,
            kind(source.fifo)
        );
        return Err(invalid("dead-letter queue", &target.name, why));
    }
    if !(1..=1_000).contains(&most) {
        return Err(invalid("max receive count", most, "choose 1 to 1,000"));
    }
    Ok(())
}

fn seconds(duration: Duration) -> String {
    format!("{} s", duration.as_secs())
}

fn invalid(what: &'static str, value: impl fmt::Display, why: impl Into<String>) -> QueueError {
    QueueError::Invalid {
        what,
        value: value.to_string(),
        why: why.into(),
    }
}
