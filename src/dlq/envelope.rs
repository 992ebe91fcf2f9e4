//! What a dead letter says of itself: one message attribute that travels with it.

use serde::{Deserialize, Serialize};

use crate::message::Message;

/// The message attribute that carries the envelope.
pub const ENVELOPE_ATTRIBUTE: &str = "Redrive-Envelope";

/// Why a message became a dead letter, and what it was before.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Envelope {
    /// The key the message was handled under, by which its inbox record is found.
    pub key: String,
    /// Why it is a dead letter; see [`Reason`](crate::Reason).
    pub reason: String,
    /// The last error, bounded.
    pub error: String,
    /// Attempts counted.
    pub attempts: u32,
    /// The MessageId it had when it was first received.
    pub message_id: String,
    /// The ARN of the queue it came from.
    pub source: String,
    /// The trace context it came with.
    pub trace: Option<String>,
    /// When it was dead-lettered, in ms since 1970.
    pub dead_at_ms: u64,
}

impl Envelope {
    /// The envelope a message carries, if it carries one that can be read.
    #[must_use]
    pub fn of(message: &Message) -> Option<Self> {
        message
            .attribute(ENVELOPE_ATTRIBUTE)
            .and_then(|text| serde_json::from_str(text).ok())
    }
}
