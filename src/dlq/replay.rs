//! Moving dead letters back: filtered, at a rate, in order, and without losing one whatever happens in between.

mod decide;
mod report;
mod run;

use std::error::Error as StdError;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::letter::DeadLetter;
use crate::clock::{Clock, Random};
use crate::flow::{FlowError, RateLimit};
use crate::inbox::{Inbox, InboxError};
use crate::key::KeySource;
use crate::message::Outgoing;
use crate::producer::ProducerError;
use crate::queue::{Queue, QueueError};

pub use report::{ReasonCount, ReplayEnd, ReplayFailure, ReplayReport};

type Filter = Box<dyn FnMut(&DeadLetter) -> bool + Send>;
type Edit = Box<dyn FnMut(&DeadLetter, &mut Outgoing) -> Result<(), Box<dyn StdError + Send + Sync>> + Send>;
type Progress = Box<dyn FnMut(&ReplayReport) + Send>;

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
    target: Arc<dyn Queue>,
    job: String,
    settings: Settings,
    filter: Option<Filter>,
    edit: Option<Edit>,
    progress: Option<Progress>,
}

#[derive(Clone)]
struct Settings {
    limit: u64,
    rate: Option<RateLimit>,
    inbox: Option<(Arc<dyn Inbox>, String)>,
    completed: CompletedKeys,
    keys: KeySource,
    skip_order: bool,
    dry_run: bool,
    hold: Duration,
    journal: Option<Arc<dyn Journal>>,
    cancel: CancellationToken,
    clock: Clock,
    random: Option<Random>,
}

impl std::fmt::Debug for Replay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replay")
            .field("from", &self.dead.attributes().name)
            .field("to", &self.target.attributes().name)
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
    /// They are deleted. One whose payload may be other than that which was completed stays.
    Drop,
    /// They are sent to be run again, under a new key (the old one and the job): whatever knows the old key lets them pass.
    Force,
}

/// What a replay has sent, kept outside the process, so that one that was killed goes on without sending twice.
pub trait Journal: Send + Sync + 'static {
    /// Whether the message with this MessageId in the dead-letter queue was sent.
    fn was_sent(&self, message_id: &str) -> bool;

    /// Notes durably that these were sent; called before they are deleted.
    ///
    /// # Errors
    /// When it cannot be noted. The replay then deletes what it sent, and stops.
    fn record(&self, message_ids: &[String]) -> std::io::Result<()>;
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
            | Self::Journal { report, .. } => Some(report),
        }
    }
}

impl Replay {
    /// A replay from `dead` to `target`. The `job` names it: running one job again sends the same deduplication ids to a FIFO
    /// queue, so that what was sent a moment ago is not sent twice; another job's are others.
    #[must_use]
    pub fn new(dead: impl Queue, target: impl Queue, job: impl Into<String>) -> Self {
        Self {
            dead: Arc::new(dead),
            target: Arc::new(target),
            job: job.into(),
            settings: Settings {
                limit: u64::MAX,
                rate: None,
                inbox: None,
                completed: CompletedKeys::default(),
                keys: KeySource::default(),
                skip_order: false,
                dry_run: false,
                hold: Duration::from_secs(120),
                journal: None,
                cancel: CancellationToken::new(),
                clock: Clock::system(),
                random: None,
            },
            filter: None,
            edit: None,
            progress: None,
        }
    }

    /// Replays only what this says yes to; all unless set.
    #[must_use]
    pub fn filter(mut self, filter: impl FnMut(&DeadLetter) -> bool + Send + 'static) -> Self {
        self.filter = Some(Box::new(filter));
        self
    }

    /// Changes each message before it is sent: its body, its attributes. An error leaves it in the dead-letter queue.
    #[must_use]
    pub fn edit<F>(mut self, edit: F) -> Self
    where
        F: FnMut(&DeadLetter, &mut Outgoing) -> Result<(), Box<dyn StdError + Send + Sync>> + Send + 'static,
    {
        self.edit = Some(Box::new(edit));
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
        self.settings.inbox = Some((inbox, consumer.into()));
        self
    }

    /// What becomes of keys that are completed; they are left alone unless set. Needs [`inbox`](Self::inbox).
    #[must_use]
    pub fn completed(mut self, completed: CompletedKeys) -> Self {
        self.settings.completed = completed;
        self
    }

    /// Where keys come from for messages that SQS moved by itself; as workers of the source queue are set.
    #[must_use]
    pub fn keys(mut self, keys: KeySource) -> Self {
        self.settings.keys = keys;
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
        let (from, to) = (self.dead.attributes(), self.target.attributes());
        if from.arn == to.arn && from.url == to.url {
            return Err(ReplayError::SameQueue {
                queue: from.name.clone(),
            });
        }
        let random = self.settings.random.clone().unwrap_or_default();
        let judge = decide::Judge::new(
            self.filter,
            self.edit,
            decide::Rules {
                job: self.job,
                completed: self.settings.completed,
                keys: self.settings.keys.clone(),
                skip_order: self.settings.skip_order,
                from_fifo: from.fifo,
                to_fifo: to.fifo,
                max_bytes: to.max_message_bytes,
                limit: self.settings.limit,
            },
        );
        run::run(
            self.dead,
            self.target,
            self.settings,
            random,
            Mutex::new(judge),
            self.progress.map(Mutex::new),
        )
        .await
    }
}
