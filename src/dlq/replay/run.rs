//! The moving itself: receive, look up, send, confirm, delete. On standard queues several pages are received and looked up
//! at a time, and one batch moves at a time.

mod send;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::join_all;
use tokio_util::sync::CancellationToken;

use super::decide::{First, Judge, Parcel, envelope_in};
use super::follow::{End, Follow, Followed, end_of};
use super::groups::{Groups, Looked};
use super::journal::work_text;
use super::report::{ReplayEnd, ReplayReport};
use super::{Backup, Consumer, Edit, Progress, ReplayError, Settings, StopRule};
use crate::clock::{Instant, Random};
use crate::dlq::browse::{MAX_HELD, Page, Pages};
use crate::dlq::hold::{Calls, Held, Settle, lock, release, renew};
use crate::dlq::letter::DeadLetter;
use crate::flow::TokenBucket;
use crate::inbox::{InboxError, Record};
use crate::key::{Key, RecordKey};
use crate::message::Delivery;
use crate::producer::{Producer, ProducerError};
use crate::queue::{MAX_BATCH, Queue, QueueError};
use crate::telemetry::{self, OUTCOME, QUEUE, said};

/// How many pages of a standard queue are under way at once.
const LANES: usize = 4;

/// How often the inbox is asked for a record before the replay stops.
const LOOKUPS: u32 = 8;

/// How often records of what was sent are read.
const FOLLOW_EVERY: Duration = Duration::from_secs(1);

/// How many messages are sent at once at this rate: batches as full as they may be, at least four a second.
pub(super) fn chunk_of(per_second: f64) -> u32 {
    (1..=MAX_BATCH as u32)
        .rev()
        .find(|&n| f64::from(n) * 4.0 <= per_second)
        .unwrap_or(1)
}

enum Stop {
    Receive(QueueError),
    Send(ProducerError),
    Inbox(InboxError),
    Backup(std::io::Error),
    Journal(std::io::Error),
}

/// What the caller has to say on the way.
pub(super) struct Says {
    pub(super) edit: Option<Mutex<Edit>>,
    pub(super) backup: Option<Mutex<Backup>>,
    pub(super) progress: Option<Mutex<Progress>>,
    pub(super) stop_when: Option<Mutex<StopRule>>,
}

/// A letter that is to be sent.
struct Ready {
    number: u64,
    letter: DeadLetter,
    parcel: Parcel,
    /// How its end is to be known.
    followed: Option<Followed>,
}

/// A page, sorted.
#[derive(Default)]
struct Sorted {
    candidates: Vec<(u64, DeadLetter)>,
    /// What is only to be deleted.
    gone: Vec<u64>,
    /// What of it belongs to FIFO groups.
    looked: Vec<Looked>,
}

/// Candidates, once it is known what becomes of them.
#[derive(Default)]
struct Prepared {
    sends: VecDeque<Ready>,
    /// What is only to be deleted, as it was sent before.
    gone: Vec<u64>,
    /// What is to be deleted as its work is done.
    drops: Vec<(u64, DeadLetter)>,
}

struct Run {
    calls: Calls,
    producers: Vec<Producer>,
    max_bytes: Vec<usize>,
    /// The names of the queues sent to.
    names: Vec<String>,
    settings: Settings,
    says: Says,
    held: Mutex<Held>,
    judge: Mutex<Judge>,
    report: Mutex<ReplayReport>,
    groups: Mutex<Groups>,
    follow: Mutex<Follow>,
    /// When the last message was sent, or the replay began.
    last_send: Mutex<Instant>,
    began: Instant,
    bucket: TokenBucket,
    chunk: usize,
    /// Held from the send of a chunk to its delete: what a kill leaves in both queues is one batch at most.
    moving: tokio::sync::Mutex<()>,
    /// Ends the lanes: cancelled from outside, stopped by the rule, or something failed for good.
    stop: CancellationToken,
    stopped_by: Mutex<Option<Stop>>,
}

pub(super) async fn run(
    dead: Arc<dyn Queue>,
    targets: Vec<Arc<dyn Queue>>,
    settings: Settings,
    random: Random,
    judge: Mutex<Judge>,
    says: Says,
) -> Result<ReplayReport, ReplayError> {
    let lanes = if dead.attributes().fifo { 1 } else { LANES };
    let name = dead.attributes().name.clone();
    let max_bytes = targets
        .iter()
        .map(|queue| queue.attributes().max_message_bytes)
        .collect();
    let names = targets.iter().map(|queue| queue.attributes().name.clone()).collect();
    let producers = targets.into_iter().map(|target| {
        Producer::builder(target)
            .linger(Duration::ZERO)
            .own_keys(false)
            .clock(settings.clock.clone())
            .random(random.clone())
            .build()
    });
    let producers = producers
        .collect::<Result<_, _>>()
        .map_err(|source| ReplayError::Send {
            report: Box::default(),
            source,
        })?;
    let began = settings.clock.now();
    let run = Run {
        calls: Calls::new(dead, settings.clock.clone(), random),
        producers,
        max_bytes,
        names,
        held: Mutex::new(Held::new(settings.hold)),
        judge,
        says,
        report: Mutex::default(),
        groups: Mutex::default(),
        follow: Mutex::default(),
        last_send: Mutex::new(began),
        began,
        bucket: TokenBucket::new(settings.rate),
        chunk: settings.rate.map_or(MAX_BATCH, |rate| rate.burst_size() as usize),
        moving: tokio::sync::Mutex::new(()),
        stop: settings.cancel.child_token(),
        stopped_by: Mutex::default(),
        settings,
    };
    let done = CancellationToken::new();
    let work = async {
        join_all((0..lanes).map(|number| run.lane(number))).await;
        run.watch().await;
        done.cancel();
    };
    // The last renewal ends before anything is given back.
    futures::join!(work, run.renewals(&done), run.following(&done));
    let (_, lost) = release(&run.held, &run.calls).await;
    run.ended(lost, &name)
}

impl Run {
    fn ended(self, lost: u64, queue: &str) -> Result<ReplayReport, ReplayError> {
        let mut report = lock(&self.report).clone();
        report.lost_hold += lost;
        report.unseen_groups = lock(&self.groups).unseen();
        let stopped_by = lock(&self.stopped_by).take();
        if stopped_by.is_some() {
            report.end = ReplayEnd::Failed;
        } else if self.settings.cancel.is_cancelled() {
            report.end = ReplayEnd::Cancelled;
        } else if report.end != ReplayEnd::Stopped && lock(&self.judge).limit_reached() {
            report.end = ReplayEnd::Limit;
        }
        if !self.settings.dry_run {
            for (outcome, count) in [
                ("replayed", report.replayed + report.resumed),
                ("dropped", report.dropped),
                ("completed", report.completed),
                (
                    "skipped",
                    report.skipped + report.behind_group + report.not_reached + report.came_back,
                ),
                ("failed", report.failed),
            ] {
                telemetry::counter(&telemetry::REPLAYED, &[(QUEUE, queue), (OUTCOME, outcome)]).increment(count);
            }
        }
        let report = Box::new(report);
        match stopped_by {
            None => Ok(*report),
            Some(Stop::Receive(source)) => Err(ReplayError::Receive { report, source }),
            Some(Stop::Send(source)) => Err(ReplayError::Send { report, source }),
            Some(Stop::Inbox(source)) => Err(ReplayError::Inbox { report, source }),
            Some(Stop::Backup(source)) => Err(ReplayError::Backup { report, source }),
            Some(Stop::Journal(source)) => Err(ReplayError::Journal { report, source }),
        }
    }

    fn fail(&self, why: Stop) {
        lock(&self.stopped_by).get_or_insert(why);
        self.stop.cancel();
    }

    async fn renewals(&self, done: &CancellationToken) {
        let often = self.settings.hold / 8;
        loop {
            let now = self.settings.clock.now();
            let next = lock(&self.held)
                .next_renewal()
                .map_or(now + often, |at| at.min(now + often));
            tokio::select! {
                biased;
                () = done.cancelled() => return,
                () = tokio::time::sleep_until(next) => {}
            }
            let lost = renew(&self.held, &self.calls).await;
            lock(&self.report).lost_hold += lost;
        }
    }

    /// Page after page until nothing more comes or it is to end.
    async fn lane(&self, number: usize) {
        let mut pages = Pages::new(&self.calls, self.settings.hold, 1);
        // What an earlier run sent and did not delete is anywhere in the queue, whatever the limit.
        let goes_to_the_end = self
            .settings
            .journal
            .as_ref()
            .is_some_and(|journal| journal.is_resumed());
        loop {
            if self.is_to_stop() || (!goes_to_the_end && lock(&self.judge).limit_reached()) {
                break;
            }
            if lock(&self.held).len() >= MAX_HELD {
                lock(&self.report).end = ReplayEnd::InFlightLimit;
                break;
            }
            let page = tokio::select! {
                biased;
                () = self.stop.cancelled() => break,
                page = pages.next() => page,
            };
            match page {
                Ok(Page::Messages(page)) => {
                    let full = page.len() >= MAX_BATCH;
                    let looked = self.page(page).await;
                    self.seen_of_groups(looked, full).await;
                }
                Ok(Page::Exhausted) if self.look_behind().await => {}
                // One lane is enough to wait.
                Ok(Page::Exhausted) if number == 0 && self.others_hold_some().await => {}
                Ok(Page::Exhausted) => break,
                Ok(Page::InFlightLimit) => {
                    lock(&self.report).end = ReplayEnd::InFlightLimit;
                    break;
                }
                Err(error) => {
                    self.fail(Stop::Receive(error));
                    break;
                }
            }
            self.tell();
        }
        pages.last(&self.held).await;
    }

    /// Gives back what is left of FIFO groups that may have more behind it.
    async fn seen_of_groups(&self, mut looked: Vec<Looked>, full: bool) {
        {
            let (held, judge) = (lock(&self.held), lock(&self.judge));
            for letter in &mut looked {
                letter.left = held.receipt(letter.number).is_some();
                letter.behind = letter.left && judge.is_behind(&letter.group, letter.number);
            }
        }
        let back = {
            let mut groups = lock(&self.groups);
            let mut back = groups.page(&looked, full);
            back.extend(groups.look_behind(false));
            back
        };
        self.give_back(back).await;
    }

    /// Whether there is something to be seen yet behind what is left of FIFO groups.
    async fn look_behind(&self) -> bool {
        let back = {
            let mut groups = lock(&self.groups);
            groups.exhausted();
            groups.look_behind(true)
        };
        let some = !back.is_empty();
        self.give_back(back).await;
        some
    }

    async fn give_back(&self, numbers: Vec<u64>) {
        let receipts: Vec<_> = {
            let mut held = lock(&self.held);
            numbers.into_iter().filter_map(|number| held.remove(number)).collect()
        };
        if receipts.is_empty() {
            return;
        }
        let answers = self.calls.settle(receipts, Settle::Visibility(Duration::ZERO)).await;
        lock(&self.report).lost_hold += answers.iter().filter(|answer| answer.is_err()).count() as u64;
    }

    /// Whether messages are in flight that somebody else holds, and there is time to wait for them.
    async fn others_hold_some(&self) -> bool {
        if self.settings.clock.now() >= self.began + self.settings.wait_for_hidden {
            return false;
        }
        match self.calls.queue.describe().await {
            Ok(attributes) => attributes.in_flight > lock(&self.held).len() as u64,
            Err(error) => {
                tracing::debug!(error = %said(&error), "how many messages are in flight is not known");
                true
            }
        }
    }

    /// Looks at what comes back after the last send.
    async fn watch(&self) {
        let Some(time) = self.settings.watch else { return };
        lock(&self.judge).close();
        if self.settings.dry_run || lock(&self.report).replayed == 0 {
            return;
        }
        let until = *lock(&self.last_send) + time;
        let mut pages = Pages::new(&self.calls, self.settings.hold, 1);
        loop {
            let all_known = self.follows() && lock(&self.follow).all_known();
            if all_known || self.is_to_stop() || lock(&self.held).len() >= MAX_HELD {
                break;
            }
            let page = tokio::select! {
                biased;
                () = self.stop.cancelled() => break,
                () = tokio::time::sleep_until(until) => break,
                page = pages.next() => page,
            };
            match page {
                Ok(Page::Messages(page)) => {
                    let Sorted { gone, .. } = self.sorted(page);
                    self.delete_sent(&gone).await;
                }
                Ok(Page::Exhausted) => {}
                Ok(Page::InFlightLimit) => break,
                Err(error) => {
                    self.fail(Stop::Receive(error));
                    break;
                }
            }
            self.tell();
        }
        pages.last(&self.held).await;
    }

    /// Whether the records of what was sent are read.
    fn follows(&self) -> bool {
        let asked = self.settings.watch.is_some() || self.says.stop_when.is_some();
        asked && self.settings.inbox.is_some() && !self.settings.dry_run
    }

    /// Reads the records of what was sent, to know what has died again before it is seen.
    async fn following(&self, done: &CancellationToken) {
        let Some((inbox, _)) = self.settings.inbox.as_ref().filter(|_| self.follows()) else {
            return;
        };
        loop {
            tokio::select! {
                biased;
                () = done.cancelled() => return,
                () = tokio::time::sleep(FOLLOW_EVERY) => {}
            }
            let taken = lock(&self.follow).take();
            let records = tokio::select! {
                biased;
                () = done.cancelled() => return,
                records = join_all(taken.iter().map(|followed| inbox.get(&followed.key))) => records,
            };
            for (followed, record) in taken.into_iter().zip(records) {
                // A record that cannot be read now is read again.
                let end = record.ok().and_then(|record| end_of(&followed, record.as_ref()));
                let work = followed.work;
                lock(&self.follow).read(end.is_none().then_some(followed));
                match end {
                    Some(End::Handled) => lock(&self.report).handled += 1,
                    Some(End::Died) => self.died(work),
                    None => {}
                }
            }
            self.is_to_stop();
            self.tell();
        }
    }

    /// Counts a piece of work that died again, once.
    fn died(&self, work: u128) {
        let news = lock(&self.judge).died(work);
        lock(&self.report).died_again += u64::from(news);
    }

    /// Whether it is to end: told to, failed, or by the caller's rule.
    fn is_to_stop(&self) -> bool {
        if !self.stop.is_cancelled()
            && let Some(rule) = &self.says.stop_when
        {
            let report = lock(&self.report).clone();
            if lock(rule)(&report) {
                lock(&self.report).end = ReplayEnd::Stopped;
                self.stop.cancel();
            }
        }
        self.stop.is_cancelled()
    }

    fn tell(&self) {
        if let Some(progress) = &self.says.progress {
            let report = lock(&self.report).clone();
            lock(progress)(&report);
        }
    }

    /// Sends what is to be sent of a page; says what of it belongs to FIFO groups.
    async fn page(&self, page: Vec<Delivery>) -> Vec<Looked> {
        let Sorted {
            candidates,
            gone,
            looked,
        } = self.sorted(page);
        self.delete_sent(&gone).await;
        let records = match self.records(&candidates).await {
            Ok(records) => records,
            Err(error) => {
                self.not_reached(candidates.iter().map(|(number, letter)| (*number, letter)));
                self.fail(Stop::Inbox(error));
                return looked;
            }
        };
        let Prepared { sends, gone, drops } = self.prepared(candidates, records).await;
        self.drop_all(drops).await;
        if self.settings.dry_run {
            let mut report = lock(&self.report);
            for ready in &sends {
                report.replayed += 1;
                report.reason(ready.letter.reason()).replayed += 1;
                report.keyed_by_message_id += u64::from(ready.parcel.by_message_id);
            }
            return looked;
        }
        self.delete_sent(&gone).await;
        self.send_all(sends).await;
        looked
    }

    /// Holds what was received, and sorts out what may be replayed and what was already sent.
    fn sorted(&self, page: Vec<Delivery>) -> Sorted {
        let mut sorted = Sorted::default();
        let journal = self.settings.journal.as_ref();
        for delivery in page {
            let number = lock(&self.held).add(&delivery);
            let letter = DeadLetter::new(delivery, &self.settings.keys);
            let mut judge = lock(&self.judge);
            let mut report = lock(&self.report);
            let mut looked = judge.group(&letter).map(|group| Looked {
                group,
                number,
                news: true,
                left: true,
                behind: false,
            });
            if !self.settings.dry_run && journal.is_some_and(|journal| journal.was_sent(letter.id())) {
                // The journal knows what this run sent too: that is counted already.
                let news = judge.gone(&letter, None);
                if news {
                    report.seen += 1;
                    report.reason(letter.reason()).seen += 1;
                    report.resumed += 1;
                }
                looked.iter_mut().for_each(|looked| looked.news = news);
                sorted.gone.push(number);
                sorted.looked.extend(looked);
                continue;
            }
            let earlier = |work| journal.is_some_and(|journal| journal.knows_work(&work_text(work)));
            let verdict = judge.first(&letter, number, earlier);
            if matches!(verdict, First::Again | First::Known | First::TooLate) {
                looked.iter_mut().for_each(|looked| looked.news = false);
            } else {
                report.seen += 1;
                report.reason(letter.reason()).seen += 1;
            }
            sorted.looked.extend(looked);
            match verdict {
                First::Candidate => sorted.candidates.push((number, letter)),
                First::Skipped => report.skipped += 1,
                First::BehindGroup => report.behind_group += 1,
                First::CameBack => {
                    report.came_back += 1;
                    let work = judge.work_of(&letter);
                    report.died_again += u64::from(judge.died(work));
                }
                First::OverLimit => report.not_reached += 1,
                First::Again => sorted.gone.push(number),
                First::Known | First::TooLate => {}
            }
        }
        sorted
    }

    /// The key by which the inbox knows what is handled under `key` and came as `letter`.
    fn record_key(&self, consumer: &Consumer, letter: &DeadLetter, key: &Key) -> RecordKey {
        match consumer {
            Consumer::Named(name) => RecordKey::new(name, key),
            Consumer::OfSource(otherwise) => {
                let source = letter.source().and_then(|arn| arn.rsplit(':').next());
                RecordKey::new(source.unwrap_or(otherwise), key)
            }
        }
    }

    /// The key by which the inbox will know what is sent as `parcel`; none where only its workers will know the key.
    fn sent_key(&self, consumer: &Consumer, parcel: &Parcel) -> Option<RecordKey> {
        let key = envelope_in(&parcel.outgoing).map(|envelope| envelope.key)?;
        if key.is_empty() {
            return None;
        }
        let consumer = match consumer {
            Consumer::Named(name) => name,
            Consumer::OfSource(_) => self.names.get(parcel.to)?,
        };
        Some(RecordKey::new(consumer, &Key::new(key)))
    }

    /// What the inbox knows of each candidate's key.
    async fn records(&self, candidates: &[(u64, DeadLetter)]) -> Result<Vec<Option<Record>>, InboxError> {
        let Some((inbox, consumer)) = &self.settings.inbox else {
            return Ok(vec![None; candidates.len()]);
        };
        let look = |letter: &DeadLetter| {
            let unknown = lock(&self.judge).is_key_unknown(letter);
            let key = self.record_key(consumer, letter, letter.key());
            async move {
                if unknown {
                    return Ok(None);
                }
                let mut tries = 0;
                loop {
                    match inbox.get(&key).await {
                        Err(error) if error.is_transient() && tries + 1 < LOOKUPS => {
                            tries += 1;
                            let delay = self.calls.backoff.delay(tries, &self.calls.random);
                            tokio::time::sleep(delay).await;
                        }
                        answer => return answer,
                    }
                }
            }
        };
        let answers = join_all(candidates.iter().map(|(_, letter)| look(letter))).await;
        answers.into_iter().collect()
    }

    /// Deletes what was sent before.
    async fn delete_sent(&self, numbers: &[u64]) {
        let failed = self.delete(numbers).await;
        lock(&self.report).not_deleted += failed;
    }

    /// Deletes what is held under these numbers; says how many could not be.
    async fn delete(&self, numbers: &[u64]) -> u64 {
        // What a dry run would have deleted may be received again, and is then known as gone.
        if self.settings.dry_run {
            return 0;
        }
        // What is held no longer has a receipt that may be good no longer: it comes back, and is recognised.
        let held: Vec<_> = {
            let held = lock(&self.held);
            numbers
                .iter()
                .filter_map(|&number| Some((number, held.receipt(number)?)))
                .collect()
        };
        let (tried, receipts): (Vec<_>, Vec<_>) = held.into_iter().unzip();
        let mut deleted = 0;
        for (number, answer) in tried.into_iter().zip(self.calls.settle(receipts, Settle::Delete).await) {
            match answer {
                Ok(()) => {
                    lock(&self.held).remove(number);
                    deleted += 1;
                }
                Err(failed) => {
                    tracing::warn!(error = %said(&failed.0), "a message that was replayed or dropped could not be deleted")
                }
            }
        }
        numbers.len() as u64 - deleted
    }
}
