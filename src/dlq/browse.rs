//! Looking at a queue: a scan receives, shows, and gives back.

use std::collections::HashSet;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::{BoxFuture, OptionFuture};
use futures::stream::{FuturesUnordered, StreamExt as _};
use tokio_util::sync::CancellationToken;

use super::hold::{Calls, Held, Settle, lock, release, renew};
use super::letter::DeadLetter;
use crate::clock::{Clock, Random};
use crate::key::KeySource;
use crate::message::Delivery;
use crate::queue::{MAX_BATCH, Queue, QueueError, Receive};
use crate::telemetry::said;

/// The most messages a scan holds: SQS lets a queue have 120,000 in flight, and its consumers need some of them.
pub const MAX_HELD: usize = 110_000;

/// How long a message that was seen stays invisible, unless renewed or released.
const HOLD: Duration = Duration::from_secs(120);

/// How long one receive waits. A long poll, however short, asks all of the queue's servers; without it some messages are
/// not seen.
const WAIT: Duration = Duration::from_secs(2);

/// After how many empty receives in a row the queue counts as seen.
const EMPTY: u32 = 2;

/// Reads a queue without consuming it.
///
/// SQS has no browsing. A scan receives messages and holds them invisible (renewed while it runs), so that it sees each once,
/// and gives them back when it ends, when it is cancelled too. While it runs, nobody else sees them; receive counts are the
/// only trace it leaves. If the future is dropped, they come back by themselves within two minutes.
///
/// Of a FIFO queue only the first few messages of each group can be seen (at most ten): what is held blocks the rest of its
/// group.
///
/// ```
/// use std::sync::Arc;
/// use redrive::dlq::{Browser, Visit};
/// # use redrive::queue::Queue;
///
/// # async fn example(dead: Arc<dyn Queue>) -> Result<(), redrive::queue::QueueError> {
/// let report = Browser::new(dead)
///     .limit(500)
///     .scan(|letter| {
///         println!("{} {} {}", letter.id(), letter.reason(), letter.error());
///         Visit::Keep
///     })
///     .await?;
/// println!("{} seen", report.seen);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Browser {
    queue: Arc<dyn Queue>,
    limit: usize,
    hold: Duration,
    receives: usize,
    keys: KeySource,
    clock: Clock,
    random: Option<Random>,
    cancel: CancellationToken,
}

impl std::fmt::Debug for Browser {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Browser")
            .field("queue", &self.queue.attributes().name)
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}

/// What a scan does with a message it has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Visit {
    /// Holds it until the scan ends, then gives it back.
    Keep,
    /// Deletes it.
    Delete,
    /// Gives it back and ends the scan.
    Stop,
}

/// Why a scan ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ScanEnd {
    /// Nothing more could be received.
    #[default]
    Exhausted,
    /// As many were seen as were asked for.
    Limit,
    /// The caller had seen enough.
    Stopped,
    /// It was cancelled.
    Cancelled,
    /// No more can be in flight on this queue.
    InFlightLimit,
}

/// What a scan did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ScanReport {
    /// Messages shown.
    pub seen: u64,
    /// Messages deleted.
    pub deleted: u64,
    /// Messages that were to be deleted and could not be: they come back.
    pub not_deleted: u64,
    /// Messages given back.
    pub released: u64,
    /// Messages that could not be given back, or no longer be held: they come back by themselves.
    pub lost_hold: u64,
    /// Why it ended.
    pub end: ScanEnd,
}

impl Browser {
    /// A browser of `queue`.
    #[must_use]
    pub fn new(queue: impl Queue) -> Self {
        let receives = if queue.attributes().fifo { 1 } else { 4 };
        Self {
            queue: Arc::new(queue),
            limit: usize::MAX,
            hold: HOLD,
            receives,
            keys: KeySource::default(),
            clock: Clock::system(),
            random: None,
            cancel: CancellationToken::new(),
        }
    }

    /// Shows at most this many messages, and receives no more; all unless set. However many that are, it holds no more than
    /// 110,000 at once: then it ends with [`ScanEnd::InFlightLimit`].
    #[must_use]
    pub fn limit(mut self, messages: usize) -> Self {
        self.limit = messages;
        self
    }

    /// How long a message stays invisible if this process dies; 2 min unless set, from 20 s to 1 h. Longer means fewer calls.
    #[must_use]
    pub fn hold(mut self, time: Duration) -> Self {
        self.hold = time.clamp(Duration::from_secs(20), Duration::from_secs(3_600));
        self
    }

    /// Where keys come from for messages without an envelope; as workers of the source queue are set.
    #[must_use]
    pub fn keys(mut self, keys: KeySource) -> Self {
        self.keys = keys;
        self
    }

    /// Ends the scan when it fires; what is held is given back first.
    #[must_use]
    pub fn cancel(mut self, token: CancellationToken) -> Self {
        self.cancel = token;
        self
    }

    /// The clock; the host's unless set.
    #[must_use]
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Where jitter comes from; seeded by the system unless set.
    #[must_use]
    pub fn random(mut self, random: Random) -> Self {
        self.random = Some(random);
        self
    }

    /// Shows each message once, page by page: nothing but receipt handles is kept, so a queue of any size is scanned in flat
    /// memory (about half a kilobyte per message held).
    ///
    /// # Errors
    /// When receiving fails for good. What was held is given back before.
    pub async fn scan<F>(&self, mut visit: F) -> Result<ScanReport, QueueError>
    where
        F: FnMut(&DeadLetter) -> Visit,
    {
        self.scan_pages(|letters| {
            let mut visits = Vec::with_capacity(letters.len());
            for letter in letters {
                let decided = visit(letter);
                visits.push(decided);
                if decided == Visit::Stop {
                    break;
                }
            }
            visits
        })
        .await
    }

    /// As [`scan`](Self::scan), with up to ten messages shown at a time and answered by position. What is to be deleted is
    /// deleted when the call has returned, so whoever must first keep it safe does that once for all of them:
    ///
    /// ```
    /// use std::{fs::File, io::Write as _, sync::Arc};
    /// use redrive::dlq::{Browser, Visit};
    /// # use redrive::queue::Queue;
    ///
    /// # async fn example(dead: Arc<dyn Queue>, mut file: File) -> Result<(), redrive::queue::QueueError> {
    /// Browser::new(dead)
    ///     .scan_pages(|letters| {
    ///         let written = letters.iter().try_for_each(|letter| writeln!(file, "{}", letter.body()));
    ///         match written.and_then(|()| file.sync_data()) {
    ///             Ok(()) => vec![Visit::Delete; letters.len()],
    ///             Err(_) => vec![Visit::Stop],
    ///         }
    ///     })
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// After [`Visit::Stop`] no answer counts, and messages without an answer are given back as if not shown.
    ///
    /// # Errors
    /// As [`scan`](Self::scan).
    pub async fn scan_pages<F>(&self, mut visit: F) -> Result<ScanReport, QueueError>
    where
        F: FnMut(&[DeadLetter]) -> Vec<Visit>,
    {
        let random = self.random.clone().unwrap_or_default();
        let calls = Calls::new(Arc::clone(&self.queue), self.clock.clone(), random);
        let held = Mutex::new(Held::new(self.hold));
        let mut report = ScanReport::default();
        let mut pages = Pages::new(&calls, self.hold, self.receives);
        let outcome = self.look(&calls, &held, &mut pages, &mut report, &mut visit).await;
        pages.last(&held).await;
        let (released, lost) = release(&held, &calls).await;
        report.released += released;
        report.lost_hold += lost;
        outcome.map(|end| ScanReport { end, ..report })
    }

    async fn look(
        &self,
        calls: &Calls,
        held: &Mutex<Held>,
        pages: &mut Pages<'_>,
        report: &mut ScanReport,
        visit: &mut dyn FnMut(&[DeadLetter]) -> Vec<Visit>,
    ) -> Result<ScanEnd, QueueError> {
        let mut seen = HashSet::new();
        loop {
            if report.seen >= self.limit as u64 {
                return Ok(ScanEnd::Limit);
            }
            if lock(held).len() >= MAX_HELD {
                return Ok(ScanEnd::InFlightLimit);
            }
            pages.want(self.limit as u64 - report.seen);
            let renewal = lock(held).next_renewal();
            let renewal = pin!(OptionFuture::from(renewal.map(tokio::time::sleep_until)));
            let page = tokio::select! {
                biased;
                () = self.cancel.cancelled() => return Ok(ScanEnd::Cancelled),
                Some(()) = renewal => {
                    report.lost_hold += renew(held, calls).await;
                    continue;
                }
                page = pages.next() => page?,
            };
            let page = match page {
                Page::Messages(page) => page,
                Page::Exhausted => return Ok(ScanEnd::Exhausted),
                Page::InFlightLimit => return Ok(ScanEnd::InFlightLimit),
            };
            let (mut numbers, mut letters) = (Vec::new(), Vec::new());
            for delivery in page {
                let number = lock(held).add(&delivery);
                // One that comes again, with a new receipt: its hold ran out, or it was delivered twice.
                let again = !seen.insert(identity(&delivery.message.id));
                if !again && report.seen + (letters.len() as u64) < self.limit as u64 {
                    numbers.push(number);
                    letters.push(DeadLetter::new(delivery, &self.keys));
                }
            }
            let mut to_delete = Vec::new();
            let mut stopped = false;
            let visits = if letters.is_empty() {
                Vec::new()
            } else {
                visit(&letters)
            };
            drop(letters);
            for (number, decided) in numbers.into_iter().zip(visits) {
                report.seen += 1;
                match decided {
                    Visit::Keep => {}
                    Visit::Delete => to_delete.push(number),
                    Visit::Stop => {
                        stopped = true;
                        break;
                    }
                }
            }
            self.delete(calls, held, to_delete, report).await;
            if stopped {
                return Ok(ScanEnd::Stopped);
            }
        }
    }

    async fn delete(&self, calls: &Calls, held: &Mutex<Held>, numbers: Vec<u64>, report: &mut ScanReport) {
        let receipts = {
            let held = lock(held);
            numbers.iter().filter_map(|&number| held.receipt(number)).collect()
        };
        for (number, answer) in numbers.into_iter().zip(calls.settle(receipts, Settle::Delete).await) {
            match answer {
                Ok(()) => {
                    report.deleted += 1;
                    lock(held).remove(number);
                }
                Err(failed) => {
                    tracing::warn!(error = %said(&failed.0), "a message could not be deleted");
                    report.not_deleted += 1;
                }
            }
        }
    }
}

/// A message's id in 16 bytes, so that a hundred thousand are few.
pub(super) fn identity(text: &str) -> u128 {
    u128::from_str_radix(crate::key::digest_id(&[text]).get(..32).unwrap_or_default(), 16).unwrap_or_default()
}

/// What a receive brought.
pub(super) enum Page {
    Messages(Vec<Delivery>),
    Exhausted,
    InFlightLimit,
}

/// A queue's messages, by several receives at once, until nothing more comes.
pub(super) struct Pages<'a> {
    calls: &'a Calls,
    hold: Duration,
    receives: usize,
    flying: FuturesUnordered<BoxFuture<'a, Received>>,
    /// How many messages the receives under way may bring.
    asked: usize,
    wanted: usize,
    empty: u32,
}

/// What a receive was asked for, and its answer.
type Received = (usize, Result<Vec<Delivery>, QueueError>);

impl<'a> Pages<'a> {
    pub(super) fn new(calls: &'a Calls, hold: Duration, receives: usize) -> Self {
        Self {
            calls,
            hold,
            receives,
            flying: FuturesUnordered::new(),
            asked: 0,
            wanted: usize::MAX,
            empty: 0,
        }
    }

    /// How many more messages are wanted: no more are asked for, because every receive is counted against its message.
    pub(super) fn want(&mut self, messages: u64) {
        self.wanted = usize::try_from(messages).unwrap_or(usize::MAX);
    }

    /// The next page. May be dropped and called again: receives under way stay under way.
    pub(super) async fn next(&mut self) -> Result<Page, QueueError> {
        loop {
            let receives = if self.empty == 0 { self.receives } else { 1 };
            while self.flying.len() < receives && self.asked < self.wanted {
                let max = (self.wanted - self.asked).min(MAX_BATCH);
                let mut request = Receive::new(max, WAIT);
                request.visibility = Some(self.hold);
                self.asked += max;
                let receive = self.calls.receive(request);
                self.flying.push(Box::pin(async move { (max, receive.await) }));
            }
            let Some((asked, answer)) = self.flying.next().await else {
                return Ok(Page::Exhausted);
            };
            self.asked -= asked;
            match answer {
                Ok(page) if page.is_empty() => {
                    self.empty += 1;
                    // All that were asked for while there were messages must say so, and one more.
                    if self.empty >= EMPTY && self.flying.is_empty() {
                        return Ok(Page::Exhausted);
                    }
                }
                Ok(page) => {
                    self.empty = 0;
                    return Ok(Page::Messages(page));
                }
                Err(QueueError::InFlightLimit { .. }) => return Ok(Page::InFlightLimit),
                Err(error) => return Err(error),
            }
        }
    }

    /// Waits for the receives under way and holds what they bring, so that it is given back with the rest.
    pub(super) async fn last(&mut self, held: &Mutex<Held>) {
        while let Some((_, page)) = self.flying.next().await {
            for delivery in page.unwrap_or_default() {
                lock(held).add(&delivery);
            }
        }
    }
}
