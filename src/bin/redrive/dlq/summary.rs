//! A dead letter in brief.

use std::time::Duration;

use redrive::dlq::DeadLetter;
use serde::Serialize;

use super::inbox::InboxRecord;
pub(crate) use crate::ui::brief;
use crate::ui::short_age;

/// How wide foreign text other than an error is at most, in columns.
pub(crate) const TEXT_WIDTH: usize = 40;

/// What is listed of a dead letter. The field names are part of the tool's interface.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Summary {
    pub(crate) id: String,
    pub(crate) key: String,
    pub(crate) reason: String,
    pub(crate) error: Option<String>,
    pub(crate) attempts: Option<u32>,
    #[serde(rename = "type")]
    pub(crate) message_type: Option<String>,
    pub(crate) group: Option<String>,
    pub(crate) source: Option<String>,
    pub(crate) original_message_id: Option<String>,
    pub(crate) died_at_ms: Option<u64>,
    pub(crate) age_s: Option<u64>,
    pub(crate) replays: u32,
    /// What a worker told of a death before this one, of which nobody told.
    pub(crate) earlier: Option<Earlier>,
    pub(crate) receives: u32,
    pub(crate) size_bytes: usize,
    /// What the inbox knows, where it was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) inbox: Option<InboxRecord>,
}

/// A death before the last. The field names are part of the tool's interface.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Earlier {
    pub(crate) reason: String,
    pub(crate) error: Option<String>,
    pub(crate) attempts: u32,
    pub(crate) died_at_ms: Option<u64>,
    pub(crate) age_s: Option<u64>,
}

impl Summary {
    /// `now_ms` is in ms since 1970.
    pub(crate) fn of(letter: &DeadLetter, now_ms: u64) -> Self {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        Self {
            id: letter.id().to_owned(),
            key: letter.key().as_str().to_owned(),
            reason: letter.reason().to_owned(),
            error: owned(Some(letter.error()).filter(|error| !error.is_empty())),
            attempts: letter.attempts(),
            message_type: owned(letter.message_type()),
            group: letter.message().group_id.clone(),
            source: owned(letter.source()),
            original_message_id: owned(letter.original_id()),
            died_at_ms: letter.died_at_ms(),
            age_s: letter.age(now_ms).map(|age| age.as_secs()),
            replays: letter.replays(),
            earlier: letter.earlier().map(|earlier| Earlier {
                reason: earlier.reason.to_owned(),
                error: owned(Some(earlier.error).filter(|error| !error.is_empty())),
                attempts: earlier.attempts,
                died_at_ms: earlier.died_at_ms,
                age_s: earlier.died_at_ms.map(|at| now_ms.saturating_sub(at) / 1_000),
            }),
            receives: letter.delivery.receive_count,
            size_bytes: letter.size(),
            inbox: None,
        }
    }

    /// The name of the queue it came from, where that is known.
    pub(crate) fn source_name(&self) -> Option<&str> {
        self.source.as_deref()?.rsplit(':').next()
    }
}

/// How long before `now_ms` something was.
pub(crate) fn ago(at_ms: Option<u64>, now_ms: u64) -> String {
    at_ms.map_or("-".to_owned(), |at| {
        format!("{} ago", short_age(Duration::from_millis(now_ms.saturating_sub(at))))
    })
}
