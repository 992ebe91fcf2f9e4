//! SQS's own moving of a dead-letter queue's messages: started here, done by the service.

use super::SqsQueue;
use crate::queue::QueueError;

/// The most messages per second that SQS can be asked to move.
pub const MAX_MOVE_RATE: u32 = 500;

/// One of SQS's tasks that move the messages of a dead-letter queue.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MoveTask {
    /// What it is cancelled by; SQS tells it while the task runs.
    pub handle: Option<String>,
    /// Where it stands.
    pub status: MoveStatus,
    /// The ARN of the queue it moves to; none where each message goes back to its source.
    pub to: Option<String>,
    /// The rate it was asked to keep, in messages per second.
    pub per_second: Option<u32>,
    /// About how many messages it has moved.
    pub moved: u64,
    /// About how many there were when it began, where that is known.
    pub to_move: Option<u64>,
    /// Why it failed.
    pub failure: Option<String>,
    /// When it was started, in ms since 1970.
    pub started_at_ms: u64,
}

/// Where a [`MoveTask`] stands.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MoveStatus {
    /// It moves messages.
    Running,
    /// It has moved all.
    Completed,
    /// It is being cancelled.
    Cancelling,
    /// It was cancelled; what it had moved stays moved.
    Cancelled,
    /// It failed; what it had moved stays moved.
    Failed,
    /// A status that this version does not know, as SQS calls it.
    Other(String),
}

impl MoveStatus {
    fn of(text: &str) -> Self {
        match text {
            "RUNNING" => Self::Running,
            "COMPLETED" => Self::Completed,
            "CANCELLING" => Self::Cancelling,
            "CANCELLED" => Self::Cancelled,
            "FAILED" => Self::Failed,
            other => Self::Other(other.to_owned()),
        }
    }

    /// Its name in small letters.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Cancelling => "cancelling",
            Self::Cancelled => "cancelled",
            Self::Failed => "failed",
            Self::Other(text) => text,
        }
    }
}

impl SqsQueue {
    /// Has SQS move all messages of this dead-letter queue: to the queue of the ARN `to`, or each to the queue it came from.
    /// `per_second` is at most [`MAX_MOVE_RATE`]; unless given, SQS chooses. Answers with the task's handle.
    ///
    /// SQS moves the whole queue, and only what its own redrive policy brought there can go back to its source: a letter that a
    /// worker sent has none that SQS knows. One task can run per queue.
    ///
    /// Needs `sqs:StartMessageMoveTask`, `sqs:ReceiveMessage`, `sqs:DeleteMessage` and `sqs:GetQueueAttributes` on this queue,
    /// and `sqs:SendMessage` where it moves to.
    ///
    /// # Errors
    /// When a task runs already, when no queue has this one for its dead-letter queue, and when the service cannot be reached
    /// or refuses.
    pub async fn start_move(&self, to: Option<&str>, per_second: Option<u32>) -> Result<String, QueueError> {
        let call = self
            .client()
            .start_message_move_task()
            .source_arn(&self.connection.attributes.arn)
            .set_destination_arn(to.map(ToOwned::to_owned))
            .set_max_number_of_messages_per_second(per_second.map(|rate| i32::try_from(rate).unwrap_or(i32::MAX)));
        let answer = self.answer("StartMessageMoveTask", call.send()).await?;
        Ok(answer.task_handle.unwrap_or_default())
    }

    /// The last ten of SQS's tasks that move this queue's messages, the latest first.
    ///
    /// Needs `sqs:ListMessageMoveTasks`.
    ///
    /// # Errors
    /// When the service cannot be reached or refuses.
    pub async fn moves(&self) -> Result<Vec<MoveTask>, QueueError> {
        let call = self
            .client()
            .list_message_move_tasks()
            .source_arn(&self.connection.attributes.arn)
            .max_results(10);
        let answer = self.answer("ListMessageMoveTasks", call.send()).await?;
        let count = |number: i64| u64::try_from(number).unwrap_or_default();
        let tasks = answer.results.unwrap_or_default().into_iter().map(|task| MoveTask {
            handle: task.task_handle.filter(|handle| !handle.is_empty()),
            status: MoveStatus::of(task.status.as_deref().unwrap_or_default()),
            to: task.destination_arn.filter(|arn| !arn.is_empty()),
            per_second: task
                .max_number_of_messages_per_second
                .and_then(|rate| u32::try_from(rate).ok()),
            moved: count(task.approximate_number_of_messages_moved),
            to_move: task.approximate_number_of_messages_to_move.map(count),
            failure: task.failure_reason,
            started_at_ms: count(task.started_timestamp),
        });
        Ok(tasks.collect())
    }

    /// Cancels one of SQS's tasks by its handle; says about how many messages it had moved. These stay moved.
    ///
    /// Needs `sqs:CancelMessageMoveTask`.
    ///
    /// # Errors
    /// When there is no such task that runs, and when the service cannot be reached or refuses.
    pub async fn cancel_move(&self, handle: &str) -> Result<u64, QueueError> {
        let call = self.client().cancel_message_move_task().task_handle(handle);
        let answer = self.answer("CancelMessageMoveTask", call.send()).await?;
        Ok(u64::try_from(answer.approximate_number_of_messages_moved).unwrap_or_default())
    }
}
