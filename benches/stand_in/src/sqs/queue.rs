//! A queue: what is received, deleted and visible again, decided for a moment that is given.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::fifo::{Groups, Next};
use super::message::{Attribute, AttributeValue, Delivery, Message, handle, read_handle};
use super::source::Source;
use crate::setup::Setup;

/// The most messages of a queue that can be in flight, as of SQS.
const MOST_IN_FLIGHT: usize = 120_000;

/// For how long a FIFO queue knows the deduplication ids of what was sent.
const DEDUPLICATION: Duration = Duration::from_secs(300);

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

#[cfg(test)]
mod tests {
    use super::super::source::Body;
    use super::*;

    const VISIBILITY: Duration = Duration::from_secs(30);

    struct Bench {
        queue: Queue,
        start: Instant,
    }

    impl Bench {
        fn new(setup: Setup) -> Self {
            let start = Instant::now();
            let name = if setup.fifo_groups > 0 { "bench.fifo" } else { "bench" };
            let dead = DeadLetters {
                queue: "dead".to_owned(),
                max_receive_count: 3,
            };
            let mut queue = Queue::new(name, VISIBILITY, Some(dead)).with_source(&setup);
            queue.open(start, 0);
            Self { queue, start }
        }

        fn at(&self, seconds: u64) -> Instant {
            self.start + Duration::from_secs(seconds)
        }

        fn receive(&mut self, seconds: u64, max: usize) -> Vec<Delivery> {
            let received = self.queue.receive(self.at(seconds), seconds * 1_000, max, None);
            assert!(received.dead.is_empty());
            received.deliveries
        }

        fn delete(&mut self, seconds: u64, delivery: &Delivery) -> Result<(), Refusal> {
            self.queue.delete(self.at(seconds), &delivery.handle)
        }

        fn left(&mut self, seconds: u64) -> (u64, Option<u64>) {
            let now = self.at(seconds);
            (self.queue.in_flight(now), self.queue.left(now))
        }
    }

    fn numbers(deliveries: &[Delivery]) -> Vec<u64> {
        deliveries.iter().map(|delivery| delivery.message.number).collect()
    }

    fn backlog(messages: u64, fifo_groups: u64) -> Setup {
        Setup {
            messages: Some(messages),
            fifo_groups,
            ..Setup::default()
        }
    }

    #[test]
    fn a_message_comes_back_when_its_visibility_timeout_is_over_with_another_handle_and_count() {
        let mut bench = Bench::new(backlog(2, 0));
        let first = bench.receive(0, 10);
        assert_eq!((numbers(&first), bench.left(0)), (vec![1, 2], (2, Some(0))));
        assert_eq!(bench.queue.next_event(bench.at(0)), Some(bench.at(30)));
        bench.delete(1, &first[0]).unwrap();
        assert!(bench.receive(29, 10).is_empty());
        let again = bench.receive(30, 10);
        assert_eq!((numbers(&again), bench.left(30)), (vec![2], (1, Some(0))));
        assert_eq!(
            (again[0].message.receive_count, again[0].message.first_received_ms),
            (2, 0)
        );
        assert_ne!(again[0].handle, first[1].handle);
        let tally = Tally {
            received: 3,
            deleted: 1,
            redelivered: 1,
            dead: 0,
        };
        assert_eq!(bench.queue.tally, tally);
    }

    #[test]
    fn a_stale_handle_is_taken_for_done_and_does_nothing_and_a_made_up_one_is_refused() {
        let mut bench = Bench::new(backlog(1, 0));
        let first = bench.receive(0, 1).remove(0);
        let second = bench.receive(30, 1).remove(0);
        assert_eq!(bench.delete(31, &first), Ok(()));
        assert_eq!((bench.queue.tally.deleted, bench.left(31)), (0, (1, Some(0))));
        let now = bench.at(31);
        assert_eq!(
            bench.queue.change_visibility(now, &first.handle, VISIBILITY),
            Err(Refusal::Stale)
        );
        assert_eq!(bench.delete(31, &second), Ok(()));
        assert_eq!(bench.delete(31, &second), Ok(()));
        assert_eq!((bench.queue.tally.deleted, bench.left(31)), (1, (0, Some(0))));
        assert_eq!(
            bench.queue.change_visibility(now, &second.handle, VISIBILITY),
            Err(Refusal::Stale)
        );
        for handle in [
            "",
            "AQEB",
            &second.handle[1..],
            &handle(1, 99),
            &second.handle.replace('0', "x"),
        ] {
            assert_eq!(bench.queue.delete(now, handle), Err(Refusal::Malformed), "{handle}");
        }
    }

    #[test]
    fn a_message_that_is_visible_again_is_deleted_by_its_last_handle_on_a_standard_queue() {
        let mut bench = Bench::new(backlog(1, 0));
        let delivery = bench.receive(0, 1).remove(0);
        assert_eq!(bench.left(40), (0, Some(1)));
        bench.delete(40, &delivery).unwrap();
        assert_eq!(bench.left(40), (0, Some(0)));
        assert!(bench.receive(41, 10).is_empty());
    }

    #[test]
    fn a_visibility_timeout_is_changed_from_the_moment_of_the_change() {
        let mut bench = Bench::new(backlog(2, 0));
        let both = bench.receive(0, 2);
        let (ten, twenty) = (bench.at(10), bench.at(20));
        bench
            .queue
            .change_visibility(ten, &both[0].handle, Duration::from_secs(60))
            .unwrap();
        assert_eq!(numbers(&bench.receive(30, 10)), [2]);
        assert!(bench.receive(59, 10).is_empty());
        let third = bench.receive(70, 10);
        assert!(numbers(&third).contains(&1));
        let mut bench = Bench::new(backlog(1, 0));
        let one = bench.receive(15, 1).remove(0);
        bench
            .queue
            .change_visibility(twenty, &one.handle, Duration::ZERO)
            .unwrap();
        assert_eq!(bench.left(20), (0, Some(1)));
    }

    #[test]
    fn a_message_received_too_often_leaves_for_the_dead_letters() {
        let mut bench = Bench::new(backlog(1, 0));
        for time in 0..3 {
            assert_eq!(bench.receive(time * 30, 10).len(), 1);
        }
        let received = bench.queue.receive(bench.at(90), 0, 10, None);
        assert!(received.deliveries.is_empty());
        assert_eq!((received.dead.len(), bench.queue.tally.dead), (1, 1));
        assert_eq!(bench.left(200), (0, Some(0)));
    }

    #[test]
    fn a_group_with_a_message_in_flight_gives_nothing_and_its_order_stands() {
        let mut bench = Bench::new(backlog(40, 2));
        let odd = bench.receive(0, 3);
        assert_eq!(odd[0].message.group.as_deref(), odd[2].message.group.as_deref());
        let even = bench.receive(0, 10);
        let both: std::collections::BTreeSet<_> = [numbers(&odd)[0] % 2, numbers(&even)[0] % 2].into();
        assert_eq!(both.len(), 2);
        assert!(bench.receive(0, 10).is_empty());
        bench.delete(1, &odd[0]).unwrap();
        bench.delete(1, &odd[2]).unwrap();
        assert!(bench.receive(1, 10).is_empty());
        let held = bench.at(1);
        bench
            .queue
            .change_visibility(held, &odd[1].handle, Duration::ZERO)
            .unwrap();
        let rest = bench.receive(1, 10);
        let first = numbers(&odd)[1];
        let wanted: Vec<u64> = [first].into_iter().chain((0..9).map(|n| first + 4 + 2 * n)).collect();
        assert_eq!(numbers(&rest), wanted);
        assert_eq!(rest[0].message.receive_count, 2);
    }

    #[test]
    fn a_receive_takes_of_more_groups_only_when_one_does_not_fill_it() {
        let mut bench = Bench::new(backlog(12, 3));
        let received = bench.receive(0, 10);
        let groups: Vec<_> = received.iter().map(|delivery| delivery.message.number % 3).collect();
        assert_eq!(groups, [0, 0, 0, 0, 1, 1, 1, 1, 2, 2]);
        assert_eq!(numbers(&received)[..4], [3, 6, 9, 12]);
        assert_eq!(bench.left(0), (10, Some(2)));
    }

    #[test]
    fn a_fifo_queue_refuses_handles_that_are_stale_or_over() {
        let mut bench = Bench::new(backlog(1, 1));
        let first = bench.receive(0, 1).remove(0);
        assert_eq!(bench.delete(30, &first), Err(Refusal::Stale));
        let second = bench.receive(30, 1).remove(0);
        assert_eq!(bench.delete(31, &first), Err(Refusal::Stale));
        assert_eq!(bench.delete(31, &second), Ok(()));
        assert_eq!(bench.delete(31, &second), Ok(()));
        assert_eq!(bench.queue.tally.deleted, 1);
    }

    #[test]
    fn sent_messages_wait_for_their_delay_and_fifo_queues_know_their_ids() {
        let mut bench = Bench::new(backlog(0, 1));
        let (start, late) = (bench.at(0), bench.at(301));
        let message = |number, id: &str| Message {
            number,
            body: Rc::new(Body::new("x")),
            attributes: Rc::default(),
            group: Some("g".into()),
            deduplication_id: Some(id.into()),
            trace: None,
            source_arn: None,
            sent_ms: 0,
            first_received_ms: 0,
            receive_count: 0,
        };
        assert_eq!(bench.queue.send(start, message(7, "a"), Duration::ZERO), 7);
        assert_eq!(bench.queue.send(start, message(8, "a"), Duration::ZERO), 7);
        assert_eq!(bench.queue.send(start, message(9, "b"), Duration::from_secs(5)), 9);
        assert_eq!((bench.queue.delayed(), bench.left(0)), (1, (0, Some(1))));
        let first = bench.receive(1, 10);
        assert_eq!(numbers(&first), [7]);
        bench.delete(1, &first[0]).unwrap();
        assert!(bench.receive(4, 10).is_empty());
        assert_eq!(numbers(&bench.receive(5, 10)), [9]);
        assert_eq!(bench.queue.send(late, message(10, "a"), Duration::ZERO), 10);
    }
}
