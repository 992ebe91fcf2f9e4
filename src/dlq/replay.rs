//! Moving dead letters back: filtered, at a rate, in order, and without losing one whatever happens in between.

mod decide;
mod follow;
mod groups;
mod journal;
mod report;
mod run;

use std::error::Error as StdError;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::{BoxFuture, ready};
use tokio_util::sync::CancellationToken;

use super::letter::DeadLetter;
use crate::clock::{Clock, Random};
use crate::flow::{FlowError, RateLimit};
use crate::inbox::{Inbox, InboxError};
use crate::key::KeySource;
use crate::message::Outgoing;
use crate::producer::ProducerError;
use crate::queue::{Queue, QueueError};

pub use journal::{Intent, Journal};
pub use report::{ReasonCount, ReplayEnd, ReplayFailure, ReplayReport};

type Filter = Box<dyn FnMut(&DeadLetter) -> bool + Send>;
type EditError = Box<dyn StdError + Send + Sync>;
type Edit = Box<dyn FnMut(&DeadLetter, Outgoing) -> BoxFuture<'static, Result<Outgoing, EditError>> + Send>;
type Backup = Box<dyn FnMut(&[&DeadLetter]) -> std::io::Result<()> + Send>;
type Progress = Box<dyn FnMut(&ReplayReport) + Send>;
type StopRule = Box<dyn FnMut(&ReplayReport) -> bool + Send>;

/// Moves dead letters back to the queue they came from, or to another.
///
/// Each message is sent, its acceptance read entry by entry, then deleted from the dead-letter queue: whatever happens in
/// between, it is in one of the two. What a kill leaves in both is recognised by its key and handled once.
///
/// A replayed message carries its envelope, with the key it was first handled under: so deduplication still holds, and a
/// worker claims it afresh although the key was rejected. A message that SQS moved by itself gets an envelope. Keys that the
/// inbox knows as completed are not sent again; see [`CompletedKeys`].
///
/// On FIFO queues groups stay together and in order: each is replayed from its head, and stops at its first message that
/// is not. Deduplication ids are fresh for each death and job, so that SQS does not swallow a second replay.
///
/// ```
/// use std::sync::Arc;
/// use redrive::dlq::Replay;
/// # use redrive::queue::Queue;
///
/// # async fn example(dead: Arc<dyn Queue>, orders: Arc<dyn Queue>) -> Result<(), Box<dyn std::error::Error>> {
/// let report = Replay::new(dead, orders, "2024-05-17 gateway repaired")
///     .filter(|letter| letter.reason() == "attempts_exhausted")
///     .rate(50.0)?
///     .run()
///     .await?;
/// println!("{} replayed, {} failed", report.replayed, report.failed);
/// # Ok(())
/// # }
/// ```
pub struct Replay {
    dead: Arc<dyn Queue>,
    targets: Vec<Arc<dyn Queue>>,
    by_source: bool,
    job: String,
    settings: Settings,
    filter: Option<Filter>,
    edit: Option<Edit>,
    backup: Option<Backup>,
    progress: Option<Progress>,
    stop_when: Option<StopRule>,
}

#[derive(Clone)]
struct Settings {
    limit: u64,
    rate: Option<RateLimit>,
    inbox: Option<(Arc<dyn Inbox>, Consumer)>,
    completed: CompletedKeys,
    keys: KeySource,
    keys_by_worker: bool,
    skip_order: bool,
    dry_run: bool,
    hold: Duration,
    journal: Option<Arc<dyn Journal>>,
    watch: Option<Duration>,
    wait_for_hidden: Duration,
    cancel: CancellationToken,
    clock: Clock,
    random: Option<Random>,
}

/// The consumer whose records a letter's key is looked up in.
#[derive(Clone)]
enum Consumer {
    Named(String),
    /// Named like the queue the letter came from, or as this where that is not known.
    OfSource(String),
}

impl std::fmt::Debug for Replay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replay")
            .field("from", &self.dead.attributes().name)
            .field(
                "to",
                &self
                    .targets
                    .iter()
                    .map(|queue| &queue.attributes().name)
                    .collect::<Vec<_>>(),
            )
            .field("job", &self.job)
            .finish_non_exhaustive()
    }
}

/// What becomes of dead letters whose key the inbox knows as completed: copies of work that is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum CompletedKeys {
    /// They stay where they are.
    #[default]
    Skip,
    /// They are deleted, after a [`backup`](Replay::backup) where one is set. One whose payload may be other than that which
    /// was completed stays: one that is not what the record has a fingerprint of, or that has no envelope and whose record
    /// has no fingerprint. So none is deleted where workers take fingerprints of chosen fields, and none that was edited
    /// before it was completed.
    Drop,
    /// They are sent to be run again, under a new key (the old one and the job): whatever knows the old key lets them pass.
    Force,
}

/// Why a replay could not go on. What it had done by then is in the report.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// Source and target are one queue.
    #[error(
        "a replay of `{queue}` into itself would go round for ever; name the queue whose messages died, or another"
    )]
    SameQueue {
        /// The queue.
        queue: String,
    },
    /// Receiving failed.
    #[error("the replay stopped after moving {} messages; none is lost, and run again it goes on: {source}", report.replayed)]
    Receive {
        /// What was done.
        report: Box<ReplayReport>,
        /// What went wrong.
        source: QueueError,
    },
    /// Sending failed in a way that would fail for every message.
    #[error("the replay stopped after moving {} messages; none is lost, and run again it goes on: {source}", report.replayed)]
    Send {
        /// What was done.
        report: Box<ReplayReport>,
        /// What went wrong.
        source: ProducerError,
    },
    /// The inbox could not be asked whether a key is completed.
    #[error("the replay stopped after moving {} messages; none is lost, and run again it goes on: {source}", report.replayed)]
    Inbox {
        /// What was done.
        report: Box<ReplayReport>,
        /// What went wrong.
        source: InboxError,
    },
    /// What was to be deleted could not be kept first.
    #[error("the replay stopped after moving {} messages, as its backup cannot be written; none is lost: {source}", report.replayed)]
    Backup {
        /// What was done.
        report: Box<ReplayReport>,
        /// What went wrong.
        source: std::io::Error,
    },
    /// The journal could not be written.
    #[error("the replay stopped after moving {} messages, as its journal cannot be written; none is lost: {source}", report.replayed)]
    Journal {
        /// What was done.
        report: Box<ReplayReport>,
        /// What went wrong.
        source: std::io::Error,
    },
}

impl ReplayError {
    /// What was done before it stopped.
    #[must_use]
    pub fn report(&self) -> Option<&ReplayReport> {
        match self {
            Self::SameQueue { .. } => None,
            Self::Receive { report, .. }
            | Self::Send { report, .. }
            | Self::Inbox { report, .. }
            | Self::Backup { report, .. }
            | Self::Journal { report, .. } => Some(report),
        }
    }
}

impl Replay {
    /// A replay from `dead` to `target`. The `job` names it: running one job again sends the same deduplication ids to a FIFO
    /// queue, so that what was sent a moment ago is not sent twice; another job's are others.
    #[must_use]
    pub fn new(dead: impl Queue, target: impl Queue, job: impl Into<String>) -> Self {
        Self::with(Arc::new(dead), vec![Arc::new(target)], false, job.into())
    }

    /// A replay from `dead` to the queues that have it for their dead-letter queue: each message goes back to the one it came
    /// from, as its envelope or SQS says. One that came from a queue which is not among them stays; so does one whose queue is
    /// not known, unless there is but one.
    #[must_use]
    pub fn to_sources(
        dead: impl Queue,
        sources: impl IntoIterator<Item = Arc<dyn Queue>>,
        job: impl Into<String>,
    ) -> Self {
        Self::with(Arc::new(dead), sources.into_iter().collect(), true, job.into())
    }

    fn with(dead: Arc<dyn Queue>, targets: Vec<Arc<dyn Queue>>, by_source: bool, job: String) -> Self {
        Self {
            dead,
            targets,
            by_source,
            job,
            settings: Settings {
                limit: u64::MAX,
                rate: None,
                inbox: None,
                completed: CompletedKeys::default(),
                keys: KeySource::default(),
                keys_by_worker: false,
                skip_order: false,
                dry_run: false,
                hold: Duration::from_secs(120),
                journal: None,
                watch: None,
                wait_for_hidden: Duration::ZERO,
                cancel: CancellationToken::new(),
                clock: Clock::system(),
                random: None,
            },
            filter: None,
            edit: None,
            backup: None,
            progress: None,
            stop_when: None,
        }
    }

    /// Replays only what this says yes to; all unless set.
    #[must_use]
    pub fn filter(mut self, filter: impl FnMut(&DeadLetter) -> bool + Send + 'static) -> Self {
        self.filter = Some(Box::new(filter));
        self
    }

    /// Changes each message before it is sent: its body, its attributes. An error leaves it in the dead-letter queue.
    ///
    /// An edit should make the same of the same message every time: what a kill leaves in both queues is sent once more, and a
    /// copy with another payload under the same key is dead-lettered.
    #[must_use]
    pub fn edit<F>(self, mut edit: F) -> Self
    where
        F: FnMut(&DeadLetter, &mut Outgoing) -> Result<(), EditError> + Send + 'static,
    {
        self.edit_with(move |letter, mut outgoing| ready(edit(letter, &mut outgoing).map(|()| outgoing)))
    }

    /// As [`edit`](Self::edit), for edits that take their time. The messages stay held meanwhile. When the replay is cancelled,
    /// an edit under way is dropped.
    #[must_use]
    pub fn edit_with<F, E>(mut self, mut edit: F) -> Self
    where
        F: FnMut(&DeadLetter, Outgoing) -> E + Send + 'static,
        E: Future<Output = Result<Outgoing, EditError>> + Send + 'static,
    {
        self.edit = Some(Box::new(move |letter, outgoing| Box::pin(edit(letter, outgoing))));
        self
    }

    /// Replays at most this many.
    #[must_use]
    pub fn limit(mut self, messages: u64) -> Self {
        self.settings.limit = messages;
        self
    }

    /// Replays at most this many messages per second.
    ///
    /// # Errors
    /// When that is no rate.
    pub fn rate(mut self, per_second: f64) -> Result<Self, FlowError> {
        let limit = RateLimit::per_second(per_second)?;
        self.settings.rate = Some(limit.burst(run::chunk_of(per_second))?);
        Ok(self)
    }

    /// Asks this inbox, as the consumer of this name (the source queue's name, unless its workers set another), which keys
    /// are completed.
    #[must_use]
    pub fn inbox(mut self, inbox: Arc<dyn Inbox>, consumer: impl Into<String>) -> Self {
        self.settings.inbox = Some((inbox, Consumer::Named(consumer.into())));
        self
    }

    /// As [`inbox`](Self::inbox), for letters of several queues: each is looked up as the consumer that is named like the queue
    /// it came from, or as `otherwise` where that is not known.
    #[must_use]
    pub fn inbox_of_sources(mut self, inbox: Arc<dyn Inbox>, otherwise: impl Into<String>) -> Self {
        self.settings.inbox = Some((inbox, Consumer::OfSource(otherwise.into())));
        self
    }

    /// What becomes of keys that are completed; they are left alone unless set. Needs [`inbox`](Self::inbox).
    #[must_use]
    pub fn completed(mut self, completed: CompletedKeys) -> Self {
        self.settings.completed = completed;
        self
    }

    /// Told of messages that are about to be dropped as their keys are completed, up to ten at a time, before they are
    /// deleted. When it fails the replay stops, and they stay.
    #[must_use]
    pub fn backup(mut self, keep: impl FnMut(&[&DeadLetter]) -> std::io::Result<()> + Send + 'static) -> Self {
        self.backup = Some(Box::new(keep));
        self
    }

    /// Where keys come from for messages that SQS moved by itself; as workers of the source queue are set. The key that a
    /// replay finds goes with the message in its envelope, and workers take it before any of their own: a wrong one makes them
    /// run again what is completed.
    #[must_use]
    pub fn keys(mut self, keys: KeySource) -> Self {
        self.settings.keys = keys;
        self
    }

    /// Leaves it to the workers to find the key of messages without one: for workers whose key is a function that only they
    /// know, and that is not the deduplication id, of which a replay makes a fresh one. Such a message is not looked up in the
    /// inbox; and where its workers find no key but the MessageId, what a kill
    /// leaves in both queues is two works to them.
    #[must_use]
    pub fn keys_by_worker(mut self, on: bool) -> Self {
        self.settings.keys_by_worker = on;
        self
    }

    /// On a FIFO queue, goes on with a group past a message that is not replayed.
    #[must_use]
    pub fn skip_order(mut self, on: bool) -> Self {
        self.settings.skip_order = on;
        self
    }

    /// Sends and deletes nothing; the report counts what would be replayed.
    #[must_use]
    pub fn dry_run(mut self, on: bool) -> Self {
        self.settings.dry_run = on;
        self
    }

    /// How long a message stays invisible in the dead-letter queue if this process dies; 2 min unless set, from 20 s to 1 h.
    #[must_use]
    pub fn hold(mut self, time: Duration) -> Self {
        self.settings.hold = time.clamp(Duration::from_secs(20), Duration::from_secs(3_600));
        self
    }

    /// Keeps what was sent in this journal, and goes by what is in it.
    #[must_use]
    pub fn journal(mut self, journal: Arc<dyn Journal>) -> Self {
        self.settings.journal = Some(journal);
        self
    }

    /// After the last send, goes on looking for this long at what comes back dead. It ends earlier once the inbox, where there
    /// is one, knows the end of all that was sent. Nothing more is sent meanwhile, not even what died since.
    ///
    /// What comes back is seen when it is received, which for a large dead-letter queue is late: it comes behind the others.
    /// With an inbox, the records of what was sent say so at once; of more than ten thousand that are under way, the latest are
    /// followed.
    #[must_use]
    pub fn watch(mut self, time: Duration) -> Self {
        self.settings.watch = Some(time);
        self
    }

    /// Ends the replay when this says yes to the report so far; asked before each batch. It is for ending by itself what does
    /// no good.
    ///
    /// ```
    /// # use redrive::{dlq::Replay, queue::Queue};
    /// # fn example(replay: Replay) -> Replay {
    /// // More than a tenth of what was sent has died again.
    /// replay.stop_when(|report| report.died_again >= 5 && report.died_again * 10 > report.replayed)
    /// # }
    /// ```
    #[must_use]
    pub fn stop_when(mut self, rule: impl FnMut(&ReplayReport) -> bool + Send + 'static) -> Self {
        self.stop_when = Some(Box::new(rule));
        self
    }

    /// How long it goes on asking, once nothing more comes, while messages are in flight that it does not hold: what an earlier
    /// run held when it was killed comes back when that run's [`hold`](Self::hold) has passed. Not at all unless set.
    #[must_use]
    pub fn wait_for_hidden(mut self, time: Duration) -> Self {
        self.settings.wait_for_hidden = time;
        self
    }

    /// Ends the replay when it fires; the batch under way is finished and all else is given back first.
    #[must_use]
    pub fn cancel(mut self, token: CancellationToken) -> Self {
        self.settings.cancel = token;
        self
    }

    /// Told of the report so far after each page.
    #[must_use]
    pub fn progress(mut self, progress: impl FnMut(&ReplayReport) + Send + 'static) -> Self {
        self.progress = Some(Box::new(progress));
        self
    }

    /// The clock; the host's unless set.
    #[must_use]
    pub fn clock(mut self, clock: Clock) -> Self {
        self.settings.clock = clock;
        self
    }

    /// Where jitter comes from; seeded by the system unless set.
    #[must_use]
    pub fn random(mut self, random: Random) -> Self {
        self.settings.random = Some(random);
        self
    }

    /// Replays until nothing more comes, the limit is reached, or it is cancelled.
    ///
    /// What dies again while it runs is left in the dead-letter queue and counted: a replay does not go round. If the future
    /// is dropped, what it held comes back to the dead-letter queue by itself, and what it was sending may be in both queues.
    ///
    /// # Errors
    /// When source, target, inbox or journal fail for good. Nothing is lost then, and the error holds the report.
    pub async fn run(self) -> Result<ReplayReport, ReplayError> {
        let from = self.dead.attributes();
        let same = |queue: &Arc<dyn Queue>| {
            let to = queue.attributes();
            from.arn == to.arn && from.url == to.url
        };
        if self.targets.iter().any(same) {
            return Err(ReplayError::SameQueue {
                queue: from.name.clone(),
            });
        }
        let random = self.settings.random.clone().unwrap_or_default();
        let destinations = self.targets.iter().map(|queue| {
            let to = queue.attributes();
            decide::Destination {
                arn: to.arn.clone(),
                fifo: to.fifo,
                max_bytes: to.max_message_bytes,
            }
        });
        let judge = decide::Judge::new(
            self.filter,
            decide::Rules {
                job: self.job,
                completed: self.settings.completed,
                keys: self.settings.keys.clone(),
                keys_by_worker: self.settings.keys_by_worker,
                skip_order: self.settings.skip_order,
                from_fifo: from.fifo,
                destinations: destinations.collect(),
                by_source: self.by_source,
                limit: self.settings.limit,
            },
        );
        let says = run::Says {
            edit: self.edit.map(Mutex::new),
            backup: self.backup.map(Mutex::new),
            progress: self.progress.map(Mutex::new),
            stop_when: self.stop_when.map(Mutex::new),
        };
        run::run(self.dead, self.targets, self.settings, random, Mutex::new(judge), says).await
    }
}
