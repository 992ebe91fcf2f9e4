//! What a replay keeps outside its process.

/// What a replay has sent and is about to send, kept outside the process, so that one that was killed goes on without
/// sending twice.
///
/// A kill between a send and its [`record`](Self::record) leaves the batch under way in both queues. A journal that keeps
/// [intents](Self::intend) knows which messages those are: the next run sends them under the same key, or, where the inbox
/// says that the key was completed since, deletes them.
pub trait Journal: Send + Sync + 'static {
    /// Whether the message with this MessageId in the dead-letter queue was sent.
    fn was_sent(&self, message_id: &str) -> bool;

    /// Notes durably that these were sent; called before they are deleted.
    ///
    /// # Errors
    /// When it cannot be noted. The replay then deletes what it sent, and stops.
    fn record(&self, message_ids: &[String]) -> std::io::Result<()>;

    /// Notes that these are about to be sent; nothing unless implemented.
    ///
    /// # Errors
    /// When it cannot be noted. The replay then stops before they are sent.
    fn intend(&self, about_to_send: &[Intent]) -> std::io::Result<()> {
        let _ = about_to_send;
        Ok(())
    }

    /// What was noted of the message with this MessageId before it was to be sent, unless it is known as sent.
    fn intended(&self, message_id: &str) -> Option<Intent> {
        let _ = message_id;
        None
    }

    /// Whether an earlier run wrote this journal: then what it sent and could not delete is looked for in the whole queue,
    /// whatever the limit.
    fn is_resumed(&self) -> bool {
        false
    }

    /// Whether a message of this [work](Intent::work) was sent: then one of another MessageId is the same that died again.
    fn knows_work(&self, work: &str) -> bool {
        let _ = work;
        false
    }
}

/// A message that a replay is about to send.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Intent {
    /// Its MessageId in the dead-letter queue.
    pub message_id: String,
    /// What it is known by when it dies again under another MessageId: a digest of its key and its first MessageId, 32
    /// hexadecimal digits.
    pub work: String,
    /// Whether it runs again under a new key although its own is completed.
    pub forced: bool,
}

impl Intent {
    /// An intent, for journals that read what they wrote.
    pub fn new(message_id: impl Into<String>, work: impl Into<String>, forced: bool) -> Self {
        Self {
            message_id: message_id.into(),
            work: work.into(),
            forced,
        }
    }
}

/// The text form of a work's digest.
pub(super) fn work_text(work: u128) -> String {
    format!("{work:032x}")
}
