//! The moving itself: receive, look up, send, confirm, delete. On standard queues several pages are received and looked up
//! at a time, and one batch moves at a time.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::join_all;
use tokio_util::sync::CancellationToken;

use super::decide::{First, Judge, Second};
use super::report::{ReplayEnd, ReplayReport};
use super::{Progress, ReplayError, Settings};
use crate::clock::Random;
use crate::dlq::browse::{MAX_HELD, Page, Pages};
use crate::dlq::hold::{Calls, Held, Settle, lock, release, renew};
use crate::dlq::letter::DeadLetter;
use crate::flow::TokenBucket;
use crate::inbox::{InboxError, Record};
use crate::key::RecordKey;
use crate::message::{Delivery, Outgoing};
use crate::producer::{NewMessage, Producer, ProducerError};
use crate::queue::{MAX_BATCH, Queue, QueueError};
use crate::telemetry::{self, OUTCOME, QUEUE};

/// How many pages of a standard queue are under way at once.
const LANES: usize = 4;

/// How often the inbox is asked for a record before the replay stops.
const LOOKUPS: u32 = 8;

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
    Journal(std::io::Error),
}

struct Run {
    calls: Calls,
    producer: Producer,
    settings: Settings,
    held: Mutex<Held>,
    judge: Mutex<Judge>,
    report: Mutex<ReplayReport>,
    progress: Option<Mutex<Progress>>,
    bucket: TokenBucket,
    chunk: usize,
    /// Held from the send of a chunk to its delete: what a kill leaves in both queues is one batch at most.
    moving: tokio::sync::Mutex<()>,
    /// Ends the lanes: cancelled from outside, or something failed for good.
    stop: CancellationToken,
    stopped_by: Mutex<Option<Stop>>,
}

pub(super) async fn run(
    dead: Arc<dyn Queue>,
    target: Arc<dyn Queue>,
    settings: Settings,
    random: Random,
    judge: Mutex<Judge>,
    progress: Option<Mutex<Progress>>,
) -> Result<ReplayReport, ReplayError> {
    let lanes = if dead.attributes().fifo { 1 } else { LANES };
    let name = dead.attributes().name.clone();
    let producer = Producer::builder(target)
        .linger(Duration::ZERO)
        .own_keys(false)
        .clock(settings.clock.clone())
        .random(random.clone())
        .build()
        .map_err(|source| ReplayError::Send {
            report: Box::default(),
            source,
        })?;
    let run = Run {
        calls: Calls::new(dead, settings.clock.clone(), random),
        producer,
        held: Mutex::new(Held::new(settings.hold)),
        judge,
        report: Mutex::default(),
        progress,
        bucket: TokenBucket::new(settings.rate),
        chunk: settings.rate.map_or(MAX_BATCH, |rate| rate.burst_size() as usize),
        moving: tokio::sync::Mutex::new(()),
        stop: settings.cancel.child_token(),
        stopped_by: Mutex::default(),
        settings,
    };
    let done = CancellationToken::new();
    let work = async {
        join_all((0..lanes).map(|_| run.lane())).await;
        done.cancel();
    };
    // The last renewal ends before anything is given back.
    futures::join!(work, run.renewals(&done));
    let (_, lost) = release(&run.held, &run.calls).await;
    run.ended(lost, &name)
}

impl Run {
    fn ended(self, lost: u64, queue: &str) -> Result<ReplayReport, ReplayError> {
        let mut report = lock(&self.report).clone();
        report.lost_hold += lost;
        let stopped_by = lock(&self.stopped_by).take();
        if stopped_by.is_some() {
            report.end = ReplayEnd::Failed;
        } else if self.settings.cancel.is_cancelled() {
            report.end = ReplayEnd::Cancelled;
        } else if lock(&self.judge).limit_reached() {
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
    async fn lane(&self) {
        let mut pages = Pages::new(&self.calls, self.settings.hold, 1);
        loop {
            if self.stop.is_cancelled() || lock(&self.judge).limit_reached() {
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
                Ok(Page::Messages(page)) => self.page(page).await,
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
            if let Some(progress) = &self.progress {
                let report = lock(&self.report).clone();
                lock(progress)(&report);
            }
        }
        pages.last(&self.held).await;
    }

    async fn page(&self, page: Vec<Delivery>) {
        let (candidates, gone) = self.sorted(page);
        self.delete(&gone).await;
        let records = match self.records(&candidates).await {
            Ok(records) => records,
            Err(error) => {
                self.not_reached(candidates.iter().map(|(_, letter)| letter));
                self.fail(Stop::Inbox(error));
                return;
            }
        };
        let (sends, drops) = self.prepared(candidates, records);
        if self.settings.dry_run {
            let mut report = lock(&self.report);
            report.dropped += drops.len() as u64;
            for (_, letter, _) in &sends {
                report.replayed += 1;
                report.reason(letter.reason()).replayed += 1;
            }
            return;
        }
        lock(&self.report).dropped += drops.len() as u64;
        self.delete(&drops).await;
        self.send_all(sends).await;
    }

    /// Holds what was received, and sorts out what may be replayed and what was already sent.
    fn sorted(&self, page: Vec<Delivery>) -> (Vec<(u64, DeadLetter)>, Vec<u64>) {
        let mut candidates = Vec::new();
        let mut gone = Vec::new();
        let mut judge = lock(&self.judge);
        let mut report = lock(&self.report);
        for delivery in page {
            let number = lock(&self.held).add(&delivery);
            let letter = DeadLetter::new(delivery, &self.settings.keys);
            let journal = self.settings.journal.as_ref();
            if !self.settings.dry_run && journal.is_some_and(|journal| journal.was_sent(letter.id())) {
                report.seen += 1;
                report.reason(letter.reason()).seen += 1;
                report.resumed += 1;
                judge.gone(&letter, None);
                gone.push(number);
                continue;
            }
            let verdict = judge.first(&letter);
            if !matches!(verdict, First::Again | First::Known) {
                report.seen += 1;
                report.reason(letter.reason()).seen += 1;
            }
            match verdict {
                First::Candidate => candidates.push((number, letter)),
                First::Skipped => report.skipped += 1,
                First::BehindGroup => report.behind_group += 1,
                First::CameBack => report.came_back += 1,
                First::OverLimit => report.not_reached += 1,
                First::Again => gone.push(number),
                First::Known => {}
            }
        }
        (candidates, gone)
    }

    /// What the inbox knows of each candidate's key.
    async fn records(&self, candidates: &[(u64, DeadLetter)]) -> Result<Vec<Option<Record>>, InboxError> {
        let Some((inbox, consumer)) = &self.settings.inbox else {
            return Ok(vec![None; candidates.len()]);
        };
        let look = |letter: &DeadLetter| {
            let key = RecordKey::new(consumer, letter.key());
            async move {
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

    /// What is sent, and what is dropped.
    fn prepared(
        &self,
        candidates: Vec<(u64, DeadLetter)>,
        records: Vec<Option<Record>>,
    ) -> (VecDeque<(u64, DeadLetter, Outgoing)>, Vec<u64>) {
        let mut sends = VecDeque::new();
        let mut drops = Vec::new();
        let mut judge = lock(&self.judge);
        let mut report = lock(&self.report);
        for ((number, letter), record) in candidates.into_iter().zip(records) {
            if !judge.may_go(&letter) {
                report.behind_group += 1;
                judge.not_sent();
                continue;
            }
            match judge.second(&letter, record.as_ref()) {
                Second::Send(outgoing) => sends.push_back((number, letter, *outgoing)),
                Second::Drop => {
                    judge.not_sent();
                    judge.gone(&letter, None);
                    drops.push(number);
                }
                Second::Completed => {
                    judge.not_sent();
                    report.completed += 1;
                }
                Second::Failed(error) => {
                    judge.not_sent();
                    judge.left(&letter);
                    report.fail(letter.id(), letter.key().as_str(), error);
                }
            }
        }
        (sends, drops)
    }

    /// Sends at the rate allowed, and deletes what was confirmed, chunk by chunk.
    async fn send_all(&self, mut sends: VecDeque<(u64, DeadLetter, Outgoing)>) {
        while !sends.is_empty() {
            let many = self.tokens(sends.len()).await;
            let moving = self.moving.lock().await;
            if many == 0 || self.stop.is_cancelled() {
                self.not_reached(sends.iter().map(|(_, letter, _)| letter));
                return;
            }
            let mut chunk = Vec::new();
            for (number, letter, outgoing) in sends.drain(..many) {
                if lock(&self.judge).may_go(&letter) {
                    chunk.push((number, letter, outgoing));
                } else {
                    lock(&self.judge).not_sent();
                    lock(&self.report).behind_group += 1;
                }
            }
            let messages = chunk
                .iter()
                .map(|(_, _, outgoing)| NewMessage::verbatim(outgoing.clone()));
            let answers = self.producer.send_all(messages).await;
            let sent = self.answered(chunk, answers);
            if let Some(journal) = &self.settings.journal
                && !sent.is_empty()
            {
                let ids: Vec<_> = sent.iter().map(|(_, id)| id.clone()).collect();
                if let Err(error) = journal.record(&ids) {
                    self.fail(Stop::Journal(error));
                }
            }
            let numbers: Vec<_> = sent.into_iter().map(|(number, _)| number).collect();
            self.delete(&numbers).await;
            drop(moving);
        }
    }

    /// Reads the answers entry by entry, and says what was sent.
    fn answered(
        &self,
        chunk: Vec<(u64, DeadLetter, Outgoing)>,
        answers: Vec<Result<String, ProducerError>>,
    ) -> Vec<(u64, String)> {
        let mut sent = Vec::new();
        let mut judge = lock(&self.judge);
        let mut report = lock(&self.report);
        for ((number, letter, outgoing), answer) in chunk.into_iter().zip(answers) {
            let error = match answer {
                Ok(_) => {
                    report.replayed += 1;
                    report.reason(letter.reason()).replayed += 1;
                    judge.gone(&letter, Some(&outgoing));
                    sent.push((number, letter.id().to_owned()));
                    continue;
                }
                Err(error) => error,
            };
            judge.not_sent();
            judge.left(&letter);
            match error {
                ProducerError::GroupFailed { .. } => report.behind_group += 1,
                // This message's own fault; the next may go.
                ProducerError::Invalid { .. }
                | ProducerError::Refused { .. }
                | ProducerError::Queue(QueueError::Refused { .. }) => {
                    report.fail(letter.id(), letter.key().as_str(), error.to_string());
                }
                error => {
                    report.not_reached += 1;
                    self.fail(Stop::Send(error));
                }
            }
        }
        sent
    }

    fn not_reached<'a>(&self, letters: impl Iterator<Item = &'a DeadLetter>) {
        let mut judge = lock(&self.judge);
        let mut report = lock(&self.report);
        for letter in letters {
            judge.not_sent();
            judge.left(letter);
            report.not_reached += 1;
        }
    }

    /// Waits for as many tokens as make a chunk; none if the replay is to end.
    async fn tokens(&self, most: usize) -> usize {
        let wanted = most.min(self.chunk);
        let mut taken = 0;
        while taken < wanted && !self.stop.is_cancelled() {
            match self.bucket.take(self.settings.clock.now()) {
                Ok(()) => taken += 1,
                Err(wait) => {
                    let waited = pin!(tokio::time::sleep(wait));
                    tokio::select! {
                        biased;
                        () = self.stop.cancelled() => {}
                        () = waited => {}
                    }
                }
            }
        }
        if self.stop.is_cancelled() { 0 } else { taken }
    }

    /// Deletes what is held under these numbers.
    async fn delete(&self, numbers: &[u64]) {
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
                Err(failed) => tracing::warn!(error = %failed.0, "a message that was replayed could not be deleted"),
            }
        }
        lock(&self.report).not_deleted += numbers.len() as u64 - deleted;
    }
}
