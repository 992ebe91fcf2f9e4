//! A queue of Amazon SQS.

mod admin;
mod batch;
mod connect;
mod convert;
mod create;
mod error;
mod moves;
mod probe;
mod target;

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aws_sdk_sqs::Client;
use aws_sdk_sqs::config::http::HttpResponse;
use aws_sdk_sqs::error::{BuildError, ProvideErrorMetadata, SdkError};
use aws_sdk_sqs::types::{
    ChangeMessageVisibilityBatchRequestEntry, DeleteMessageBatchRequestEntry, MessageSystemAttributeName,
};
use futures::future::BoxFuture;

use super::rules::whole_seconds;
use super::{EntryResults, MAX_BATCH, MAX_VISIBILITY, MAX_WAIT, Queue, QueueAttributes, QueueError, Receive};
use crate::clock::Clock;
use crate::message::{Delivery, Outgoing, Receipt};
use batch::Distinct;
use connect::Calls;
use convert::seconds;

pub use connect::SqsQueueBuilder;
pub use create::{Changes, QueuePlan, SetUpState, SetUpStep};
pub use moves::{MAX_MOVE_RATE, MoveStatus, MoveTask};
pub use probe::{ClockSkew, QueueRole, QueueSettings, RedriveAllow};

/// A queue of Amazon SQS, standard or FIFO, or of any service that speaks its API.
///
/// It is opened by its name, its URL or its ARN; the region, the endpoint and the credentials are those of the AWS
/// configuration. What is sent to SQS is settled by entry: a batch that SQS refuses because of one entry is sent again
/// one by one, more than ten entries become several calls, and a receipt that comes twice is sent once.
///
/// ```no_run
/// # async fn open() -> Result<(), redrive::queue::QueueError> {
/// use redrive::{SqsQueue, queue::Queue};
///
/// let aws = aws_config::load_from_env().await;
/// let orders = SqsQueue::connect(&aws, "orders").await?;
/// println!("{} messages wait in {}", orders.attributes().visible, orders.attributes().url);
/// # Ok(()) }
/// ```
///
/// Clones share one connection pool.
#[derive(Clone)]
pub struct SqsQueue {
    connection: Arc<Connection>,
    clock: Clock,
    dead: Option<Arc<SqsQueue>>,
    problem: Option<String>,
}

struct Connection {
    calls: Calls,
    attributes: QueueAttributes,
    attempt_prefix: u64,
    attempts: AtomicU64,
}

impl SqsQueue {
    /// Opens the queue with this name, URL or ARN, and the dead-letter queue that its redrive policy names.
    ///
    /// Needs `sqs:GetQueueUrl` and `sqs:GetQueueAttributes` on both. Of the configuration's own retries and timeouts
    /// none is used: see [`builder`](Self::builder).
    ///
    /// # Errors
    /// When the name cannot be right or is of another region, when there is no such queue, and when the service cannot be
    /// reached or refuses.
    pub async fn connect(config: &aws_config::SdkConfig, queue: impl Into<String>) -> Result<Self, QueueError> {
        Self::from_client(Client::new(config), queue).await
    }

    /// Opens the queue with a client that is already there: its credentials, region, endpoint, HTTP client and
    /// interceptors are used, its retries and timeouts are not.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub async fn from_client(client: Client, queue: impl Into<String>) -> Result<Self, QueueError> {
        Self::builder(client, queue).connect().await
    }

    /// Opens the queue with settings other than the defaults.
    pub fn builder(client: Client, queue: impl Into<String>) -> SqsQueueBuilder {
        SqsQueueBuilder::new(client, queue)
    }

    /// The same queue with deliveries stamped by another clock.
    #[must_use]
    pub fn with_clock(mut self, clock: Clock) -> Self {
        self.dead = self
            .dead
            .map(|dead| Arc::new(SqsQueue::clone(&dead).with_clock(clock.clone())));
        self.clock = clock;
        self
    }

    fn client(&self) -> &Client {
        &self.connection.calls.client
    }

    fn url(&self) -> &str {
        &self.connection.attributes.url
    }

    /// Awaits a call of the SQS action `operation` on this queue.
    async fn answer<T, E>(
        &self,
        operation: &'static str,
        call: impl Future<Output = Result<T, SdkError<E, HttpResponse>>>,
    ) -> Result<T, QueueError>
    where
        E: ProvideErrorMetadata + Error + 'static,
    {
        let Connection { calls, attributes, .. } = &*self.connection;
        calls.answer(&attributes.name, operation, call).await
    }

    /// The entries of a batch, whose ids are their positions.
    fn entries<I, E>(
        &self,
        operation: &'static str,
        items: &[I],
        build: impl Fn(String, &I) -> Result<E, BuildError>,
    ) -> Result<Vec<E>, QueueError> {
        let built = items.iter().enumerate().map(|(id, item)| build(id.to_string(), item));
        built
            .collect::<Result<_, _>>()
            .map_err(|error| self.unbuildable(operation, &error))
    }

    fn unbuildable(&self, operation: &'static str, error: &BuildError) -> QueueError {
        QueueError::Refused {
            queue: self.connection.attributes.name.clone(),
            operation,
            code: "NotSent".to_owned(),
            detail: format!("the request could not be made ({error})"),
            request_id: None,
        }
    }

    /// An id by which SQS hands a retried receive of a FIFO queue the messages that the lost answer carried, instead of
    /// leaving their groups blocked until those turn visible again.
    fn attempt_id(&self) -> Option<String> {
        let connection = &self.connection;
        connection.attributes.fifo.then(|| {
            let number = connection.attempts.fetch_add(1, Ordering::Relaxed);
            format!("{:016x}-{number}", connection.attempt_prefix)
        })
    }

    async fn receive_batch(&self, request: Receive) -> Result<Vec<Delivery>, QueueError> {
        let wait = whole_seconds(request.wait.min(MAX_WAIT));
        let max = request.max.clamp(1, MAX_BATCH);
        let calls = &self.connection.calls;
        let call = calls
            .client_waiting(wait)
            .receive_message()
            .queue_url(self.url())
            .max_number_of_messages(i32::try_from(max).unwrap_or(1))
            .wait_time_seconds(seconds(wait))
            .set_visibility_timeout(request.visibility.map(visibility_seconds))
            .set_message_system_attribute_names(Some(system_attributes(self.connection.attributes.fifo)))
            // Handlers read attributes by names of their own, and a dead letter must carry every one of them.
            .message_attribute_names("All")
            .set_receive_request_attempt_id(self.attempt_id());
        let received_at = self.clock.now();
        // The SDK does not compare the checksums that SQS gives of bodies and attributes; TLS guards them on their way.
        let answer = self.answer("ReceiveMessage", call.send()).await?;
        let messages = answer.messages.unwrap_or_default();
        // Not collected in place: the SDK's messages take more room than deliveries.
        let mut deliveries = Vec::with_capacity(messages.len());
        for message in messages {
            match convert::delivery(message, received_at) {
                Ok(delivery) => deliveries.push(delivery),
                Err(id) => {
                    tracing::warn!(
                        message_id = id,
                        url = self.url(),
                        "received a message without a receipt handle"
                    );
                }
            }
        }
        Ok(deliveries)
    }

    async fn delete_batch(&self, receipts: &[Receipt]) -> Result<EntryResults<()>, QueueError> {
        const OPERATION: &str = "DeleteMessageBatch";
        let entries = self.entries(OPERATION, receipts, |id, receipt| {
            DeleteMessageBatchRequestEntry::builder()
                .id(id)
                .receipt_handle(receipt.as_str())
                .build()
        })?;
        let call = self.client().delete_message_batch().queue_url(self.url());
        let answer = self.answer(OPERATION, call.set_entries(Some(entries)).send()).await?;
        let successful = answer.successful.into_iter().map(|entry| (entry.id, ()));
        Ok(batch::pair(receipts.len(), successful, answer.failed))
    }

    async fn change_batch(&self, changes: &[(Receipt, Duration)]) -> Result<EntryResults<()>, QueueError> {
        const OPERATION: &str = "ChangeMessageVisibilityBatch";
        let entries = self.entries(OPERATION, changes, |id, (receipt, visibility)| {
            ChangeMessageVisibilityBatchRequestEntry::builder()
                .id(id)
                .receipt_handle(receipt.as_str())
                .visibility_timeout(visibility_seconds(*visibility))
                .build()
        })?;
        let call = self.client().change_message_visibility_batch().queue_url(self.url());
        let answer = self.answer(OPERATION, call.set_entries(Some(entries)).send()).await?;
        let successful = answer.successful.into_iter().map(|entry| (entry.id, ()));
        Ok(batch::pair(changes.len(), successful, answer.failed))
    }

    async fn send_batch(&self, messages: &[Outgoing]) -> Result<EntryResults<String>, QueueError> {
        const OPERATION: &str = "SendMessageBatch";
        let entries = self.entries(OPERATION, messages, convert::send_entry)?;
        let call = self.client().send_message_batch().queue_url(self.url());
        let answer = self.answer(OPERATION, call.set_entries(Some(entries)).send()).await?;
        let successful = answer.successful.into_iter().map(|entry| (entry.id, entry.message_id));
        Ok(batch::pair(messages.len(), successful, answer.failed))
    }
}

impl Queue for SqsQueue {
    fn attributes(&self) -> &QueueAttributes {
        &self.connection.attributes
    }

    fn dead_letter_queue(&self) -> Option<Arc<dyn Queue>> {
        self.dead.clone().map(|dead| dead as Arc<dyn Queue>)
    }

    fn dead_letter_problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    fn describe(&self) -> BoxFuture<'_, Result<QueueAttributes, QueueError>> {
        let connection = &self.connection;
        Box::pin(
            connection
                .calls
                .attributes(&connection.attributes.name, &connection.attributes.url),
        )
    }

    fn receive(&self, request: Receive) -> BoxFuture<'_, Result<Vec<Delivery>, QueueError>> {
        Box::pin(self.receive_batch(request))
    }

    fn delete(&self, receipts: Vec<Receipt>) -> BoxFuture<'_, Result<EntryResults<()>, QueueError>> {
        Box::pin(async move {
            if !batch::repeats(&receipts, |receipt| receipt) {
                return batch::run(&receipts, |_| 0, |batch| Box::pin(self.delete_batch(batch))).await;
            }
            let distinct = Distinct::of(&receipts);
            let once: Vec<Receipt> = distinct.firsts.iter().map(|at| receipts[*at].clone()).collect();
            let answers = batch::run(&once, |_| 0, |batch| Box::pin(self.delete_batch(batch))).await?;
            Ok(distinct.spread(&answers))
        })
    }

    fn change_visibility(
        &self,
        changes: Vec<(Receipt, Duration)>,
    ) -> BoxFuture<'_, Result<EntryResults<()>, QueueError>> {
        Box::pin(async move {
            if !batch::repeats(&changes, |(receipt, _)| receipt) {
                return batch::run(&changes, |_| 0, |batch| Box::pin(self.change_batch(batch))).await;
            }
            let distinct = Distinct::of(changes.iter().map(|(receipt, _)| receipt));
            // Of several changes of one delivery the last is the one that would stand.
            let last: BTreeMap<&Receipt, Duration> = changes
                .iter()
                .map(|(receipt, visibility)| (receipt, *visibility))
                .collect();
            let once: Vec<(Receipt, Duration)> = distinct
                .firsts
                .iter()
                .map(|at| &changes[*at].0)
                .map(|receipt| (receipt.clone(), last.get(receipt).copied().unwrap_or_default()))
                .collect();
            let answers = batch::run(&once, |_| 0, |batch| Box::pin(self.change_batch(batch))).await?;
            Ok(distinct.spread(&answers))
        })
    }

    fn send(&self, messages: Vec<Outgoing>) -> BoxFuture<'_, Result<EntryResults<String>, QueueError>> {
        Box::pin(async move { batch::run(&messages, Outgoing::size, |batch| Box::pin(self.send_batch(batch))).await })
    }
}

impl fmt::Debug for SqsQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqsQueue")
            .field("url", &self.url())
            .field("dead_letter_queue", &self.dead.as_ref().map(|dead| dead.url()))
            .finish_non_exhaustive()
    }
}

/// The system attributes that are used. Groups are asked for on standard queues too: there they are tenants of a fair
/// queue, and a replay must carry them along.
fn system_attributes(fifo: bool) -> Vec<MessageSystemAttributeName> {
    let mut names = vec![
        MessageSystemAttributeName::ApproximateReceiveCount,
        MessageSystemAttributeName::SentTimestamp,
        MessageSystemAttributeName::MessageGroupId,
        MessageSystemAttributeName::AwsTraceHeader,
        MessageSystemAttributeName::DeadLetterQueueSourceArn,
    ];
    if fifo {
        names.push(MessageSystemAttributeName::MessageDeduplicationId);
    }
    names
}

fn visibility_seconds(visibility: Duration) -> i32 {
    seconds(visibility.min(MAX_VISIBILITY))
}
