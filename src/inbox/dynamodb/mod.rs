//! The inbox in a DynamoDB table.

mod admin;
mod batch;
mod claim;
mod convert;
mod dating;
mod entry;
mod error;
mod genuine;
mod probe;
mod scan;
mod table;
mod write;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aws_config::SdkConfig;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::retry::RetryConfig;
use aws_sdk_dynamodb::config::timeout::TimeoutConfig;
use futures::future::BoxFuture;

use crate::clock::Clock;
use crate::inbox::{
    Answers, ClaimAnswer, ClaimRequest, DEFAULT_MAX_RESULT, Inbox, InboxError, Record, ServiceTime, Write, Written,
    checked_max_result,
};
use crate::key::RecordKey;
use crate::transport;

use convert::attribute;
use table::Table;

pub use admin::{Intervention, Leases, TableFacts};
pub use entry::InboxEntry;
pub use scan::{InboxPage, InboxScan, InboxScanEnd, InboxScanReport};

/// How long one attempt of a call may take. An answer slower than this says nothing about the service's time either.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a call may take with its retries: less than half the shortest lease, after which it is renewed.
const OPERATION_TIMEOUT: Duration = Duration::from_millis(4_500);

const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
const MAX_ATTEMPTS: u32 = 3;
const INITIAL_BACKOFF: Duration = Duration::from_millis(50);
const MAX_BACKOFF: Duration = Duration::from_millis(500);

/// An inbox in a DynamoDB table, shared by all workers of one or more queues.
///
/// The table has one partition key, `pk` (a string), no sort key, and time to live on `expires_at`; see
/// [`create_table`](Self::create_table). Table classes, billing, encryption, backups are free to choose; an
/// eventually consistent global table is not safe to claim in from two regions, and [`check`](Inbox::check) says so.
///
/// ```no_run
/// # async fn example() -> Result<(), redrive::inbox::InboxError> {
/// use redrive::DynamoInbox;
///
/// let aws = aws_config::load_from_env().await;
/// let inbox = DynamoInbox::connect(&aws, "redrive-inbox").await?;
/// # Ok(()) }
/// ```
///
/// # Permissions
///
/// A worker's role needs, on the table: `dynamodb:DescribeTable`, `DescribeTimeToLive`, `GetItem`, `PutItem`, `UpdateItem`,
/// and for batches `PartiQLInsert` and `PartiQLUpdate`, which are actions of their own.
///
/// # Calls
///
/// One claim is one conditional write; first deliveries that arrive together, and writes that are due together, share
/// calls of up to 25. At most 64 calls run at once. [`connect`](Self::connect) sets the client up for a worker: 2 s per
/// attempt, 3 attempts, 4.5 s per call in all, so that a renewal ends well within the shortest lease.
///
/// # Time
///
/// Leases are timed by DynamoDB's clock, as the `Date` headers of its answers bound it; no host's clock is compared with
/// another's.
#[derive(Clone)]
pub struct DynamoInbox {
    table: Arc<Table>,
    max_result: usize,
    allow_missing_ttl: bool,
}

impl DynamoInbox {
    /// Connects to the table and verifies that it can be an inbox.
    ///
    /// # Errors
    /// [`InboxError::NotFound`] if there is no such table, [`InboxError::Schema`] if its key or its time to live is not as
    /// it must be, and what calls fail with.
    pub async fn connect(config: &SdkConfig, table: impl Into<String>) -> Result<Self, InboxError> {
        Self::builder(table).connect(config).await
    }

    /// As [`connect`](Self::connect), through a client that is set up already: its timeouts and retries are kept. Where it
    /// limits neither operations nor their attempts in time, [`connect`](Self::connect)'s limits hold, so that a service
    /// that falls silent hangs nobody; a limit that was lifted explicitly stays lifted.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub async fn from_client(client: Client, table: impl Into<String>) -> Result<Self, InboxError> {
        Self::builder(table).from_client(client).await
    }

    /// Sets the inbox up before it connects.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), redrive::inbox::InboxError> {
    /// # let aws = aws_config::load_from_env().await;
    /// use redrive::DynamoInbox;
    ///
    /// let inbox = DynamoInbox::builder("redrive-inbox").max_result(32 * 1024)?.connect(&aws).await?;
    /// # Ok(()) }
    /// ```
    pub fn builder(table: impl Into<String>) -> DynamoInboxBuilder {
        DynamoInboxBuilder {
            table: table.into(),
            clock: Clock::system(),
            max_result: DEFAULT_MAX_RESULT,
            allow_missing_ttl: false,
            allow_http: transport::is_allowed(),
        }
    }

    /// Creates the table if it is not there yet (billed on demand, time to live on `expires_at`), and waits until it can be
    /// used, two minutes at most. Does nothing if it is there as it must be.
    ///
    /// For development, tests and tools; a worker's role needs no `dynamodb:CreateTable`.
    ///
    /// # Errors
    /// [`InboxError::Schema`] if a table of this name has another key, or its time to live is on another attribute;
    /// [`InboxError::Unavailable`] if it is not ready in time; and what calls fail with.
    pub async fn create_table(config: &SdkConfig, table: impl Into<String>) -> Result<(), InboxError> {
        Self::create_table_with(Client::from_conf(worker_settings(config)), table).await
    }

    /// As [`create_table`](Self::create_table), through a client that is set up already.
    ///
    /// # Errors
    /// As [`create_table`](Self::create_table).
    pub async fn create_table_with(client: Client, table: impl Into<String>) -> Result<(), InboxError> {
        Table::new(&client, table.into(), Clock::system(), transport::is_allowed())?
            .create()
            .await
    }

    /// The table's name.
    #[must_use]
    pub fn table_name(&self) -> &str {
        &self.table.name
    }

    /// How often an answer's `Date` contradicted what was known of the service's time, so that both counted until another agreed
    /// with one.
    #[must_use]
    pub fn clock_restarts(&self) -> u64 {
        self.table.service.restarts()
    }

    /// The bounds of the service's time. They are known from connecting on; were they not, no lease could be taken over and
    /// none be trusted.
    fn now(&self) -> ServiceTime {
        self.table.time().unwrap_or(ServiceTime { lo: 0, hi: u64::MAX })
    }

    async fn read(&self, key: &RecordKey) -> Result<Option<Record>, InboxError> {
        let call = self
            .table
            .client
            .get_item()
            .table_name(&*self.table.name)
            .key(attribute::KEY, convert::text(key.as_str()))
            .consistent_read(true);
        let output = self.table.call("get", "GetItem", call.send()).await?;
        let record = self.found(key, output.item.as_ref())?;
        let time = self.now();
        Ok(record.map(|record| *record).filter(|record| !record.is_expired(time)))
    }
}

impl Inbox for DynamoInbox {
    fn claim(&self, requests: Vec<ClaimRequest>) -> BoxFuture<'_, Answers<ClaimAnswer>> {
        Box::pin(self.claim_all(requests))
    }

    fn write(&self, writes: Vec<Write>) -> BoxFuture<'_, Answers<Written>> {
        Box::pin(self.write_all(writes))
    }

    fn get<'a>(&'a self, key: &'a RecordKey) -> BoxFuture<'a, Result<Option<Record>, InboxError>> {
        Box::pin(self.read(key))
    }

    fn time(&self) -> ServiceTime {
        self.now()
    }

    fn time_is_in_doubt(&self) -> bool {
        self.table.service.in_doubt()
    }

    fn max_result(&self) -> usize {
        self.max_result
    }

    fn check(&self) -> BoxFuture<'_, Result<Vec<String>, InboxError>> {
        Box::pin(self.table.findings(self.allow_missing_ttl))
    }
}

impl fmt::Debug for DynamoInbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DynamoInbox")
            .field("table", &self.table.name)
            .field("max_result", &self.max_result)
            .finish_non_exhaustive()
    }
}

/// Settings of a [`DynamoInbox`]; see [`DynamoInbox::builder`].
#[derive(Clone, Debug)]
#[must_use]
pub struct DynamoInboxBuilder {
    table: String,
    clock: Clock,
    max_result: usize,
    allow_missing_ttl: bool,
    allow_http: bool,
}

impl DynamoInboxBuilder {
    /// The most bytes of a result or a checkpoint: 4 KiB unless set, at most 256 KiB. Every later write of a record bills
    /// the whole of it.
    ///
    /// # Errors
    /// [`InboxError::TooLarge`] over 256 KiB.
    pub fn max_result(mut self, bytes: usize) -> Result<Self, InboxError> {
        self.max_result = checked_max_result(bytes)?;
        Ok(self)
    }

    /// Where monotonic time comes from. Its wall time is not used.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Accepts a table that does not delete expired records by itself. They count as absent all the same, but the table
    /// grows until something else deletes them.
    pub fn allow_missing_ttl(mut self) -> Self {
        self.allow_missing_ttl = true;
        self
    }

    /// Whether calls may go to other hosts than this one in the clear (`http://`), as between the containers of one
    /// machine; what `REDRIVE_ALLOW_HTTP` says unless set, else not.
    pub fn allow_http(mut self, allow: bool) -> Self {
        self.allow_http = allow;
        self
    }

    /// Connects with a client of the inbox's own; see [`DynamoInbox::connect`].
    ///
    /// # Errors
    /// As [`DynamoInbox::connect`].
    pub async fn connect(self, config: &SdkConfig) -> Result<DynamoInbox, InboxError> {
        self.from_client(Client::from_conf(worker_settings(config))).await
    }

    /// Connects through this client; see [`DynamoInbox::from_client`].
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    #[allow(clippy::wrong_self_convention, reason = "it mirrors `DynamoInbox::from_client`")]
    pub async fn from_client(self, client: Client) -> Result<DynamoInbox, InboxError> {
        let table = Table::new(&client, self.table, self.clock, self.allow_http)?;
        table.verify(self.allow_missing_ttl).await?;
        Ok(DynamoInbox {
            table: Arc::new(table),
            max_result: self.max_result,
            allow_missing_ttl: self.allow_missing_ttl,
        })
    }
}

/// The user's configuration with the timeouts and retries of a worker, whose calls are small and whose leases are short.
fn worker_settings(config: &SdkConfig) -> aws_sdk_dynamodb::Config {
    aws_sdk_dynamodb::config::Builder::from(config)
        .timeout_config(time_limits())
        .retry_config(
            RetryConfig::standard()
                .with_max_attempts(MAX_ATTEMPTS)
                .with_initial_backoff(INITIAL_BACKOFF)
                .with_max_backoff(MAX_BACKOFF),
        )
        .build()
}

fn time_limits() -> TimeoutConfig {
    TimeoutConfig::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .operation_attempt_timeout(ATTEMPT_TIMEOUT)
        .operation_timeout(OPERATION_TIMEOUT)
        .build()
}

/// Answers with their positions, in the order of the entries. Every entry has one.
fn in_order<T>(count: usize, answers: Vec<(usize, Result<T, InboxError>)>) -> Answers<T> {
    let mut ordered: Vec<_> = std::iter::repeat_with(|| Err(InboxError::NoAnswer))
        .take(count)
        .collect();
    for (position, answer) in answers {
        if let Some(place) = ordered.get_mut(position) {
            *place = answer;
        }
    }
    ordered
}
