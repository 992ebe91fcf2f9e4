//! What operators ask of queues and workers do not.

use std::num::NonZeroUsize;

use aws_config::SdkConfig;
use aws_sdk_sqs::Client;
use futures::stream::{self, BoxStream, StreamExt as _};

use super::SqsQueue;
use super::target::Target;
use crate::queue::{QueueAttributes, QueueError};

/// The most that SQS lists in one answer.
const LISTED_AT_ONCE: i32 = 1_000;

impl SqsQueue {
    /// The URLs of the queues of this account and region whose names begin with `prefix`; of all for an empty one.
    ///
    /// Needs `sqs:ListQueues`.
    ///
    /// ```no_run
    /// # async fn list() -> Result<(), redrive::queue::QueueError> {
    /// let aws = aws_config::load_from_env().await;
    /// for url in redrive::SqsQueue::list(&aws, "orders-").await? {
    ///     println!("{url}");
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// When the service cannot be reached or refuses.
    pub async fn list(config: &SdkConfig, prefix: &str) -> Result<Vec<String>, QueueError> {
        let calls = Self::builder(Client::new(config), prefix).calls()?;
        // What an error calls the queues that were asked for.
        let asked = format!("{prefix}*");
        let mut urls = Vec::new();
        let mut page = None;
        loop {
            let call = calls
                .client
                .list_queues()
                .set_queue_name_prefix(Some(prefix.to_owned()).filter(|prefix| !prefix.is_empty()))
                // Without it SQS answers the first thousand and does not say that there are more.
                .max_results(LISTED_AT_ONCE)
                .set_next_token(page);
            let answer = calls.answer(&asked, "ListQueues", call.send()).await?;
            urls.extend(answer.queue_urls.unwrap_or_default());
            page = answer.next_token.filter(|token| !token.is_empty());
            if page.is_none() {
                return Ok(urls);
            }
        }
    }

    /// What the queues with these names, URLs or ARNs say of themselves, in this order, asking at most `at_once` at a time.
    /// They are not opened, nor are their dead-letter queues looked at.
    ///
    /// Needs `sqs:GetQueueAttributes`, and `sqs:GetQueueUrl` where it is not a URL that is given. A queue that cannot be
    /// asked is answered with its error.
    ///
    /// # Errors
    /// When the configuration names no region.
    pub fn describe_each(
        config: &SdkConfig,
        queues: Vec<String>,
        at_once: NonZeroUsize,
    ) -> Result<BoxStream<'static, Result<QueueAttributes, QueueError>>, QueueError> {
        let calls = Self::builder(Client::new(config), "").calls()?;
        let asked = stream::iter(queues).map(move |queue| {
            let calls = calls.clone();
            async move { calls.find(&Target::parse(&queue)?).await }
        });
        Ok(asked.buffered(at_once.get()).boxed())
    }

    /// The URLs of the queues whose redrive policies name this one as their dead-letter queue.
    ///
    /// Needs `sqs:ListDeadLetterSourceQueues`.
    ///
    /// # Errors
    /// When the service cannot be reached or refuses.
    pub async fn sources(&self) -> Result<Vec<String>, QueueError> {
        let mut urls = Vec::new();
        let mut page = None;
        loop {
            let call = self
                .client()
                .list_dead_letter_source_queues()
                .queue_url(self.url())
                .set_max_results(Some(LISTED_AT_ONCE))
                .set_next_token(page);
            let answer = self.answer("ListDeadLetterSourceQueues", call.send()).await?;
            urls.extend(answer.queue_urls);
            page = answer.next_token.filter(|token| !token.is_empty());
            if page.is_none() {
                return Ok(urls);
            }
        }
    }

    /// Deletes every message of the queue, those in flight and delayed too. There is no way back.
    ///
    /// SQS takes up to a minute over it, in which messages may still be handed out, and deletes what is sent within that
    /// time before the deletion reaches it; it allows one purge a minute. Needs `sqs:PurgeQueue`.
    ///
    /// # Errors
    /// When the service cannot be reached or refuses: with a code that ends in `PurgeQueueInProgress` where the queue was
    /// purged less than a minute ago.
    pub async fn purge(&self) -> Result<(), QueueError> {
        let call = self.client().purge_queue().queue_url(self.url());
        self.answer("PurgeQueue", call.send()).await.map(|_| ())
    }
}
