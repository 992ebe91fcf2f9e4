//! `redrive inbox`: what workers know of their keys.

mod forget;
mod get;
mod ls;
mod release;
mod shown;
mod stats;
mod sweep;

use clap::{Args, Subcommand};
use indicatif::ProgressBar;
use redrive::flow::RateLimit;
use redrive::inbox::{InboxEntry, InboxError, InboxScan};
use redrive::key::{Key, RecordKey};
use redrive::{DynamoInbox, clock::Random};

use crate::connection::Aws;
use crate::failure::{Failure, Outcome};
use crate::ui::{Ui, safe};
use crate::values;

/// What `redrive inbox` can be asked.
#[derive(Debug, Subcommand)]
pub(crate) enum Inbox {
    /// Forget a key, so that its next delivery or replay runs again, even if it was completed.
    #[command(after_help = forget::EXAMPLES)]
    Forget(forget::Forget),
    /// Show all that is known of a key.
    #[command(after_help = get::EXAMPLES)]
    Get(get::Get),
    /// List records: all, or by status, age, consumer, or only stuck claims.
    #[command(after_help = ls::EXAMPLES)]
    Ls(ls::Ls),
    /// Release a claim whose worker is gone, so that the key's next delivery runs at once.
    #[command(after_help = release::EXAMPLES)]
    Release(release::Release),
    /// Count records by consumer and status.
    #[command(after_help = stats::EXAMPLES)]
    Stats(stats::Stats),
    /// Find claims that no message can come for any more, and release them.
    #[command(after_help = sweep::EXAMPLES)]
    Sweep(sweep::Sweep),
}

impl Inbox {
    pub(crate) async fn run(&self, aws: &Aws, ui: &Ui) -> Outcome {
        match self {
            Self::Forget(command) => command.run(aws, ui).await,
            Self::Get(command) => command.run(aws, ui).await,
            Self::Ls(command) => command.run(aws, ui).await,
            Self::Release(command) => command.run(aws, ui).await,
            Self::Stats(command) => command.run(aws, ui).await,
            Self::Sweep(command) => command.run(aws, ui).await,
        }
    }
}

/// Which table.
#[derive(Args, Clone, Debug)]
pub(crate) struct TableFlags {
    /// The inbox table.
    #[arg(
        long,
        value_name = "TABLE",
        env = "REDRIVE_INBOX_TABLE",
        default_value = "redrive-inbox"
    )]
    table: String,
}

impl TableFlags {
    /// Opens it; a table that never deletes its expired records can be looked at like any other.
    async fn open(&self, aws: &Aws) -> Result<DynamoInbox, Failure> {
        let builder = DynamoInbox::builder(&self.table).allow_missing_ttl();
        builder.connect(aws.config()).await.map_err(|error| {
            let missing = matches!(error, InboxError::NotFound { .. });
            let failure = Failure::from(error);
            if missing {
                failure.remedy("name the table with --table or REDRIVE_INBOX_TABLE; redrive init QUEUE makes one")
            } else {
                failure
            }
        })
    }
}

/// Which key.
#[derive(Args, Clone, Debug)]
pub(crate) struct KeyFlags {
    /// The key, with its consumer: `orders#order-1001`. With --consumer, the key alone.
    #[arg(value_name = "KEY")]
    key: String,

    /// Whose key it is: the queue's name, unless the worker sets another. Where KEY has no `#`, REDRIVE_CONSUMER may say it.
    #[arg(long, value_name = "NAME", value_parser = values::consumer)]
    consumer: Option<String>,
}

impl KeyFlags {
    /// The record's key; one too long for the table is hashed as workers do.
    fn record_key(&self) -> Result<RecordKey, Failure> {
        let of_variable = match self.consumer {
            None if !self.key.contains('#') => values::consumer_of_variable()?,
            _ => None,
        };
        match self.consumer.as_ref().or(of_variable.as_ref()) {
            Some(consumer) => Ok(RecordKey::parse(&format!("{consumer}#{}", self.key))
                .unwrap_or_else(|| RecordKey::new(consumer, &Key::new(self.key.as_str())))),
            None => RecordKey::parse(&self.key).ok_or_else(|| {
                Failure::usage(format_args!("`{}` does not say whose key it is", safe(&self.key))).remedy(
                    "write consumer#key, such as orders#order-1001 (the consumer is the queue's name, unless the worker sets \
                     another), or add --consumer",
                )
            }),
        }
    }

    /// What the table holds of it.
    async fn look(&self, inbox: &DynamoInbox) -> Result<InboxEntry, Failure> {
        let key = self.record_key()?;
        let found = inbox.look(&key).await?;
        found.ok_or_else(|| {
            Failure::new(format_args!(
                "there is no record of `{}` in table {}: it was never claimed, it was forgotten, or it has expired",
                safe(key.as_str()),
                inbox.table_name()
            ))
            .remedy(format_args!(
                "look at the keys that are there: redrive inbox ls --consumer {} --table {}",
                safe(key.consumer()),
                inbox.table_name()
            ))
        })
    }
}

/// How fast the table is read.
#[derive(Args, Clone, Debug)]
pub(crate) struct ScanFlags {
    /// How many read capacity units may be taken per second; 0 for no limit. One unit reads 8 KiB.
    #[arg(long, value_name = "N", default_value_t = 500)]
    read_capacity: u32,
}

impl ScanFlags {
    fn limit(&self, scan: InboxScan) -> Result<InboxScan, Failure> {
        match self.read_capacity {
            0 => Ok(scan),
            units => Ok(scan.read_capacity(RateLimit::per_second(f64::from(units))?)),
        }
    }
}

/// A progress bar for a scan: the table's own count is hours old, so that it may be passed.
async fn scan_progress(inbox: &DynamoInbox, ui: &Ui, doing: &'static str) -> Result<ProgressBar, Failure> {
    let about = inbox.facts().await?.items;
    Ok(ui.progress((about > 0).then_some(about), doing))
}

fn advance(bar: &ProgressBar, scanned: u64) {
    bar.inc(scanned);
    if bar.length().is_some_and(|length| bar.position() > length) {
        bar.set_length(bar.position());
    }
}

/// The id of a claim that an operator makes to give it back.
fn operator_claim(random: &Random) -> String {
    format!("operator-{:016x}", random.next_u64())
}
