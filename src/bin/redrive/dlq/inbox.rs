//! What the inbox knows of a dead letter's key.

use clap::Args;
use redrive::DynamoInbox;
use redrive::dlq::{DeadLetter, MOVED_BY_SQS};
use redrive::inbox::{Inbox as _, Record, Status};
use redrive::key::RecordKey;
use serde::Serialize;

use crate::connection::{Aws, DeadLetters};
use crate::failure::Failure;
use crate::values;

/// Which inbox to ask.
#[derive(Args, Clone, Debug)]
pub(crate) struct InboxFlags {
    /// The workers' inbox table: it knows what a letter without an envelope died of. None is asked unless it is named, here or
    /// in the variable; `redrive init` makes redrive-inbox unless told otherwise.
    #[arg(long, value_name = "TABLE", env = "REDRIVE_INBOX_TABLE")]
    table: Option<String>,

    /// The name the workers' keys are kept under, if it is not the source queue's.
    #[arg(long, value_name = "NAME", env = values::CONSUMER, value_parser = values::consumer)]
    consumer: Option<String>,
}

/// An inbox that can be asked about dead letters.
pub(crate) struct Knows {
    inbox: DynamoInbox,
    /// The consumer that was named by hand.
    named: Option<String>,
    /// The consumer that goes by the queue whose dead letters these are.
    of_queue: Option<String>,
}

/// What the inbox holds of a key. The field names are part of the tool's interface.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct InboxRecord {
    pub(crate) record_key: String,
    pub(crate) status: &'static str,
    pub(crate) reason: Option<String>,
    pub(crate) error: Option<String>,
    pub(crate) attempts: u32,
    pub(crate) deaths: u32,
    pub(crate) dead_letter_sent: bool,
    pub(crate) message_id: String,
    pub(crate) first_seen_at_ms: u64,
    pub(crate) lease_until_at_ms: Option<u64>,
    pub(crate) expires_at_ms: u64,
    #[serde(skip)]
    pub(crate) meaning: &'static str,
}

/// Why there is no record to show.
#[derive(Clone, Debug)]
pub(crate) enum Unknown {
    /// Under which name the key is kept cannot be told.
    Consumer,
    /// There is no record under this.
    Record(RecordKey),
}

impl InboxFlags {
    /// Opens the inbox, if one is named.
    pub(crate) async fn open(&self, aws: &Aws, dead: &DeadLetters) -> Result<Option<Knows>, Failure> {
        let Some(table) = &self.table else {
            return Ok(None);
        };
        Ok(Some(Knows {
            inbox: aws.inbox(table).await?,
            named: self.consumer.clone(),
            of_queue: dead.likely_consumer(),
        }))
    }

    pub(crate) fn has_table(&self) -> bool {
        self.table.is_some()
    }
}

impl Knows {
    pub(crate) fn table(&self) -> &str {
        self.inbox.table_name()
    }

    /// The record of a letter's key.
    pub(crate) async fn record(&self, letter: &DeadLetter) -> Result<Result<InboxRecord, Unknown>, Failure> {
        let Some(key) = self.record_key(letter) else {
            return Ok(Err(Unknown::Consumer));
        };
        Ok(self.get(&key).await?.ok_or(Unknown::Record(key)))
    }

    /// Under what a letter's key is kept, where that can be told. It is short, however long the key is.
    pub(crate) fn record_key(&self, letter: &DeadLetter) -> Option<RecordKey> {
        let source = letter.source().and_then(|arn| arn.rsplit(':').next());
        let consumer = self.named.as_deref().or(source).or(self.of_queue.as_deref())?;
        Some(RecordKey::new(consumer, letter.key()))
    }

    /// The record that is kept under this.
    pub(crate) async fn get(&self, key: &RecordKey) -> Result<Option<InboxRecord>, Failure> {
        Ok(self.inbox.get(key).await?.map(|record| self.read(record)))
    }

    fn read(&self, record: Record) -> InboxRecord {
        let leased = record.status == Status::Processing && self.inbox.time().lo < record.lease_until;
        InboxRecord {
            meaning: match record.status {
                Status::Completed => "a replay is answered from this record and does not run",
                Status::Rejected if record.dead_letter_sent => "its dead letter is sent; a replay runs it afresh",
                Status::Rejected => "its dead letter is not sent yet; the worker that receives it sends it",
                Status::Processing if leased => "it runs now, and its worker holds the lease",
                Status::Processing => "its worker vanished; the lease ran out, and whoever receives it runs it",
                Status::Released => "whoever receives it runs it",
                _ => "",
            },
            record_key: record.key.as_str().to_owned(),
            status: record.status.as_str(),
            reason: record.reason,
            error: record.last_error,
            attempts: record.attempts,
            deaths: record.deaths,
            dead_letter_sent: record.dead_letter_sent,
            message_id: record.message_id,
            first_seen_at_ms: record.first_seen,
            lease_until_at_ms: leased.then_some(record.lease_until),
            expires_at_ms: record.expires_at.saturating_mul(1_000),
        }
    }
}

/// Whether the letter says nothing of what it died of, so that the inbox is to be asked.
pub(crate) fn is_silent(reason: &str) -> bool {
    reason == MOVED_BY_SQS
}
