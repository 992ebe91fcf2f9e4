//! What operators ask of queues and workers do not.

use super::SqsQueue;
use crate::queue::QueueError;

impl SqsQueue {
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
                .set_max_results(Some(1_000))
                .set_next_token(page);
            let answer = self.answer("ListDeadLetterSourceQueues", call.send()).await?;
            urls.extend(answer.queue_urls);
            page = answer.next_token.filter(|token| !token.is_empty());
            if page.is_none() {
                return Ok(urls);
            }
        }
    }
}
