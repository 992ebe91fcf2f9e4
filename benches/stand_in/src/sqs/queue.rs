//! A queue: what is received, deleted and visible again, decided for a moment that is given.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::fifo::{Groups, Next};
use super::source::{Body, Source};
use crate::setup::Setup;

/// The most messages of a queue that can be in flight, as of SQS.
const MOST_IN_FLIGHT: usize = 120_000;

/// For how long a FIFO queue knows the deduplication ids of what was sent.
const DEDUPLICATION: Duration = Duration::from_secs(300);

/// What every receipt handle ends with: real ones are as long.
const HANDLE_TAIL: &str = "Yk1xvQ8nT2sZ5dJ0wLhE7rUfCmXoKpAiGbNtVeDyHqSjRzWc4F6a3Blu9PM\
    Yk1xvQ8nT2sZ5dJ0wLhE7rUfCmXoKpAiGbNtVeDyHqSjRzWc4F6a3Blu9PMYk1xvQ8nT2sZ5dJ0wLhE7rUfCmXoKpAiGbNtVeDyHqSjRzWc4F6a3Blu9PM\
    Yk1xvQ8nT2sZ5dJ0wLhE7rUfCmXoKpAiGbNtVeDyHqSjRzWc4F6a3Blu9PMYk1xvQ8nT2sZ5dJ0wLhE7rUfCmXoKpAiGbNtVeDyHqSjRzWc4F6a3Blu9PM==";

/// An attribute of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Attribute {
    pub(crate) data_type: String,
    pub(crate) value: AttributeValue,
}

/// Its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum AttributeValue {
    Text(String),
    Binary(Vec<u8>),
}

impl Attribute {
    /// How many bytes it counts for, its name being counted too.
    pub(crate) fn bytes(&self, name: &str) -> usize {
        let value = match &self.value {
            AttributeValue::Text(text) => text.len(),
            AttributeValue::Binary(bytes) => bytes.len(),
        };
        name.len() + self.data_type.len() + value
    }
}

/// A message as it lies in a queue.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) number: u64,
    pub(crate) body: Rc<Body>,
    pub(crate) attributes: Rc<BTreeMap<String, Attribute>>,
    pub(crate) group: Option<Rc<str>>,
    pub(crate) deduplication_id: Option<Rc<str>>,
    pub(crate) trace: Option<Rc<str>>,
    pub(crate) source_arn: Option<Rc<str>>,
    pub(crate) sent_ms: u64,
    pub(crate) first_received_ms: u64,
    pub(crate) receive_count: u32,
}

impl Message {
    /// How many bytes of payload it has.
    pub(crate) fn bytes(&self) -> usize {
        let attributes = self.attributes.iter();
        self.body.bytes + attributes.map(|(name, attribute)| attribute.bytes(name)).sum::<usize>()
    }
}

/// A message that is handed out.
#[derive(Clone, Debug)]
pub(crate) struct Delivery {
    pub(crate) message: Message,
    pub(crate) handle: String,
}

/// What a receive comes to.
#[derive(Debug, Default)]
pub(crate) struct Received {
    pub(crate) deliveries: Vec<Delivery>,
    /// Messages that were received too often, to be moved.
    pub(crate) dead: Vec<Message>,
}

/// Why a receipt handle is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// No receive has given it.
    Malformed,
    /// A later receive has given another, or its visibility timeout is over.
    Stale,
}

#[derive(Debug)]
enum State {
    Ready,
    InFlight(Instant),
    Delayed(Instant),
}

#[derive(Debug)]
struct Record {
    message: Message,
    group: usize,
    serial: u64,
    state: State,
}

#[derive(Debug)]
enum Order {
    Standard { returned: VecDeque<u64>, next: u64 },
    Fifo(Groups),
}

/// How messages leave a queue for another.
#[derive(Clone, Debug)]
pub(crate) struct DeadLetters {
    pub(crate) queue: String,
    pub(crate) max_receive_count: u32,
}

/// Counts of a queue since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) received: u64,
    pub(crate) deleted: u64,
    pub(crate) redelivered: u64,
    pub(crate) dead: u64,
}

/// A queue in memory.
#[derive(Debug)]
pub(crate) struct Queue {
    pub(crate) name: String,
    pub(crate) visibility: Duration,
    pub(crate) dead_letters: Option<DeadLetters>,
    pub(crate) tally: Tally,
    source: Option<Source>,
    order: Order,
    records: HashMap<u64, Record>,
    timed: BTreeSet<(Instant, u64)>,
    ready: u64,
    in_flight: usize,
    serial: u64,
    sent: HashMap<Rc<str>, (Instant, u64)>,
}

impl Queue {
    /// An empty queue; one whose name ends with `.fifo` is FIFO.
    pub(crate) fn new(name: &str, visibility: Duration, dead_letters: Option<DeadLetters>) -> Self {
        let order = if name.ends_with(".fifo") {
            Order::Fifo(Groups::new(0))
        } else {
            Order::Standard {
                returned: VecDeque::new(),
                next: 1,
            }
        };
        Self {
            name: name.to_owned(),
            visibility,
            dead_letters,
            tally: Tally::default(),
            source: None,
            order,
            records: HashMap::new(),
            timed: BTreeSet::new(),
            ready: 0,
            in_flight: 0,
            serial: 0,
            sent: HashMap::new(),
        }
    }

    /// The same with made messages, once it is opened.
    pub(crate) fn with_source(mut self, setup: &Setup) -> Self {
        self.source = Some(Source::new(setup));
        if let Order::Fifo(groups) = &mut self.order {
            *groups = Groups::new(setup.fifo_groups);
        }
        self
    }

    pub(crate) fn is_fifo(&self) -> bool {
        matches!(self.order, Order::Fifo(_))
    }

    /// Lets the made messages appear.
    pub(crate) fn open(&mut self, now: Instant, unix_us: u64) {
        if let Some(source) = &mut self.source {
            source.open(now, unix_us);
        }
    }

    /// Lets no more appear.
    pub(crate) fn close(&mut self, now: Instant) {
        if let Some(source) = &mut self.source {
            source.close(now);
        }
    }

    pub(crate) fn in_flight(&mut self, now: Instant) -> u64 {
        self.pass_time(now);
        self.in_flight as u64
    }

    /// How many messages could be received; none of an endless backlog.
    pub(crate) fn left(&mut self, now: Instant) -> Option<u64> {
        self.pass_time(now);
        let last = match &self.source {
            Some(source) if source.is_endless() => return None,
            Some(source) => source.last(now),
            None => 0,
        };
        let fresh = match &self.order {
            Order::Standard { next, .. } => (last + 1).saturating_sub(*next),
            Order::Fifo(groups) => groups.fresh(last),
        };
        Some(self.ready + fresh)
    }

    /// How many messages are delayed.
    pub(crate) fn delayed(&self) -> usize {
        self.timed.len() - self.in_flight
    }

    /// When a message may be there that is not now, unless somebody does something.
    pub(crate) fn next_event(&self, now: Instant) -> Option<Instant> {
        let timed = self.timed.first().map(|(at, _)| *at);
        let made = self.source.as_ref().and_then(|source| source.next_moment(now));
        timed.into_iter().chain(made).min()
    }

    /// Makes visible what is due.
    fn pass_time(&mut self, now: Instant) {
        while let Some(&(at, number)) = self.timed.first() {
            if at > now {
                return;
            }
            self.timed.pop_first();
            self.become_visible(number);
        }
    }

    fn become_visible(&mut self, number: u64) {
        let Some(record) = self.records.get_mut(&number) else {
            return;
        };
        let was = std::mem::replace(&mut record.state, State::Ready);
        self.ready += 1;
        let out = matches!(was, State::InFlight(_));
        if out {
            self.in_flight -= 1;
        }
        match &mut self.order {
            Order::Standard { returned, .. } => returned.push_back(number),
            Order::Fifo(groups) => {
                groups.ready(record.group, number);
                if out {
                    groups.came_in(record.group);
                }
            }
        }
    }

    /// Receives up to `max` messages. Those of a FIFO queue are of as few groups as can be, as SQS tries.
    pub(crate) fn receive(&mut self, now: Instant, unix_ms: u64, max: usize, visibility: Option<Duration>) -> Received {
        self.pass_time(now);
        let until = now + visibility.unwrap_or(self.visibility);
        let last = self.source.as_ref().map_or(0, |source| source.last(now));
        let mut received = Received::default();
        let turns = match &self.order {
            Order::Standard { .. } => 1,
            Order::Fifo(groups) => groups.waiting(),
        };
        for _ in 0..turns {
            let group = match &mut self.order {
                Order::Standard { .. } => 0,
                Order::Fifo(groups) => match groups.turn() {
                    Some(group) => group,
                    None => break,
                },
            };
            while received.deliveries.len() < max && self.in_flight < MOST_IN_FLIGHT {
                let Some(record) = self.take(group, last) else {
                    break;
                };
                self.hand_out(record, until, unix_ms, &mut received);
            }
            if let Order::Fifo(groups) = &mut self.order {
                groups.give_back(group);
            }
            if received.deliveries.len() == max {
                break;
            }
        }
        received
    }

    /// Takes the next message out of the queue's order.
    fn take(&mut self, group: usize, last: u64) -> Option<Record> {
        loop {
            let next = match &mut self.order {
                Order::Standard { returned, next } => match returned.pop_front() {
                    Some(number) => Next::Known(number),
                    None if *next <= last => {
                        *next += 1;
                        Next::Made(*next - 1)
                    }
                    None => return None,
                },
                Order::Fifo(groups) => groups.take(group, last)?,
            };
            match next {
                Next::Made(number) => return self.make(number, group),
                // One that was deleted while it was visible is in the order still.
                Next::Known(number) => {
                    if let Some(record) = self.records.remove(&number) {
                        self.ready -= 1;
                        return Some(record);
                    }
                }
            }
        }
    }

    fn make(&self, number: u64, group: usize) -> Option<Record> {
        let source = self.source.as_ref()?;
        let fifo = match &self.order {
            Order::Standard { .. } => None,
            Order::Fifo(groups) => Some(groups.name(group)),
        };
        let key = source.key(number).map(|key| {
            let attribute = Attribute {
                data_type: "String".to_owned(),
                value: AttributeValue::Text(key),
            };
            ("Idempotency-Key".to_owned(), attribute)
        });
        let message = Message {
            number,
            body: source.body(number),
            attributes: Rc::new(key.into_iter().collect()),
            deduplication_id: fifo.is_some().then(|| format!("made-{number}").into()),
            group: fifo,
            trace: None,
            source_arn: None,
            sent_ms: source.sent_us(number) / 1_000,
            first_received_ms: 0,
            receive_count: 0,
        };
        Some(Record {
            message,
            group,
            serial: 0,
            state: State::Ready,
        })
    }

    fn hand_out(&mut self, mut record: Record, until: Instant, unix_ms: u64, received: &mut Received) {
        let message = &mut record.message;
        message.receive_count += 1;
        let most = self.dead_letters.as_ref().map(|dead| dead.max_receive_count);
        if most.is_some_and(|most| message.receive_count > most) {
            self.tally.dead += 1;
            received.dead.push(record.message);
            return;
        }
        self.tally.received += 1;
        if message.receive_count == 1 {
            message.first_received_ms = unix_ms;
        } else {
            self.tally.redelivered += 1;
        }
        self.serial += 1;
        self.in_flight += 1;
        if let Order::Fifo(groups) = &mut self.order {
            groups.went_out(record.group);
        }
        received.deliveries.push(Delivery {
            message: message.clone(),
            handle: handle(message.number, self.serial),
        });
        let number = message.number;
        record.serial = self.serial;
        record.state = State::InFlight(until);
        self.timed.insert((until, number));
        self.records.insert(number, record);
    }

    /// Deletes the message that the handle was given with. A standard queue takes a stale handle for done and does nothing.
    ///
    /// # Errors
    /// Of a handle that no receive has given; on a FIFO queue of a stale one too.
    pub(crate) fn delete(&mut self, now: Instant, handle: &str) -> Result<(), Refusal> {
        self.pass_time(now);
        let (number, serial) = read_handle(handle).ok_or(Refusal::Malformed)?;
        if serial > self.serial {
            return Err(Refusal::Malformed);
        }
        let fifo = self.is_fifo();
        let Some(record) = self.records.get(&number) else {
            return Ok(());
        };
        let visible = matches!(record.state, State::Ready);
        if record.serial != serial || (fifo && visible) {
            return if fifo { Err(Refusal::Stale) } else { Ok(()) };
        }
        if let Some(record) = self.records.remove(&number) {
            self.tally.deleted += 1;
            match record.state {
                State::InFlight(until) => {
                    self.timed.remove(&(until, number));
                    self.in_flight -= 1;
                    if let Order::Fifo(groups) = &mut self.order {
                        groups.came_in(record.group);
                    }
                }
                State::Delayed(until) => {
                    self.timed.remove(&(until, number));
                }
                State::Ready => self.ready -= 1,
            }
        }
        Ok(())
    }

    /// Lets the message become visible again so long from now.
    ///
    /// # Errors
    /// Of a handle that no receive has given, and of a message that is not in flight by it.
    pub(crate) fn change_visibility(&mut self, now: Instant, handle: &str, timeout: Duration) -> Result<(), Refusal> {
        self.pass_time(now);
        let (number, serial) = read_handle(handle).ok_or(Refusal::Malformed)?;
        if serial > self.serial {
            return Err(Refusal::Malformed);
        }
        let record = self.records.get_mut(&number).filter(|record| record.serial == serial);
        let Some(Record {
            state: State::InFlight(until),
            ..
        }) = record
        else {
            return Err(Refusal::Stale);
        };
        self.timed.remove(&(*until, number));
        *until = now + timeout;
        self.timed.insert((*until, number));
        self.pass_time(now);
        Ok(())
    }

    /// Puts a message into the queue. Answers the number it has there: another's, where a FIFO queue knows its deduplication
    /// id.
    pub(crate) fn send(&mut self, now: Instant, message: Message, delay: Duration) -> u64 {
        let number = message.number;
        if let (true, Some(id)) = (self.is_fifo(), &message.deduplication_id) {
            if let Some((at, sent)) = self.sent.get(id)
                && now.saturating_duration_since(*at) < DEDUPLICATION
            {
                return *sent;
            }
            self.sent.insert(Rc::clone(id), (now, number));
        }
        self.put(now, message, delay);
        number
    }

    /// Puts a message into the queue that another queue gave up, or that was sent.
    pub(crate) fn put(&mut self, now: Instant, message: Message, delay: Duration) {
        let number = message.number;
        let group = match &mut self.order {
            Order::Standard { .. } => 0,
            Order::Fifo(groups) => groups.index(message.group.as_deref().unwrap_or_default()),
        };
        let until = now + delay;
        self.records.insert(
            number,
            Record {
                message,
                group,
                serial: 0,
                state: State::Delayed(until),
            },
        );
        if delay.is_zero() {
            self.become_visible(number);
        } else {
            self.timed.insert((until, number));
        }
    }
}

fn handle(number: u64, serial: u64) -> String {
    format!("AQEB{number:012x}{serial:012x}{HANDLE_TAIL}")
}

/// The number and the serial in a handle.
fn read_handle(handle: &str) -> Option<(u64, u64)> {
    let rest = handle.strip_prefix("AQEB")?.strip_suffix(HANDLE_TAIL)?;
    let (number, serial) = rest.split_at_checked(12)?;
    let read = |digits: &str| u64::from_str_radix(digits, 16).ok().filter(|_| digits.len() == 12);
    Some((read(number)?, read(serial)?))
}
