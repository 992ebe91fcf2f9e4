//! `redrive queue ls`.

use std::num::NonZeroUsize;

use clap::Args;
use futures::stream::StreamExt as _;
use redrive::SqsQueue;
use redrive::queue::{QueueAttributes, QueueError};
use serde::Serialize;

use crate::connection::{Aws, name_in};
use crate::failure::{Code, Failure, Outcome};
use crate::ui::{self, Column, Table, Ui};

pub(crate) const EXAMPLES: &str = "Examples:
  redrive queue ls
  redrive queue ls orders-
  redrive queue ls --json | jq -r 'select(.visible > 0).name'

The counts are SQS's own and lag by up to a minute. Needs sqs:ListQueues, and sqs:GetQueueAttributes on each queue.";

/// How many queues are asked at once.
const AT_ONCE: NonZeroUsize = NonZeroUsize::new(16).expect("it is not zero");

/// What `redrive queue ls` is asked.
#[derive(Args, Debug)]
pub(crate) struct Ls {
    /// Only queues whose names begin so.
    prefix: Option<String>,
}

/// A queue; a line of the JSON result.
#[derive(Debug, Serialize)]
struct Listed<'a> {
    name: &'a str,
    url: &'a str,
    arn: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
    visible: u64,
    in_flight: u64,
    delayed: u64,
    /// The ARN of its dead-letter queue.
    dead_letter_queue: Option<&'a str>,
    max_receive_count: Option<u32>,
    visibility_timeout_s: u64,
    retention_s: u64,
}

/// A queue's type in a word.
pub(super) fn kind(queue: &QueueAttributes) -> &'static str {
    if queue.fifo { "fifo" } else { "standard" }
}

impl Ls {
    pub(crate) async fn run(&self, aws: &Aws, ui: &Ui) -> Outcome {
        let prefix = self.prefix.as_deref().unwrap_or_default();
        let mut urls = SqsQueue::list(aws.config(), prefix).await?;
        urls.sort_unstable();
        let bar = ui.progress(Some(urls.len() as u64), "asking");
        let mut queues = SqsQueue::describe_each(aws.config(), urls, AT_ONCE)?;
        let mut table = Table::new([
            Column::new("NAME"),
            Column::new("TYPE"),
            Column::number("VISIBLE"),
            Column::number("IN FLIGHT"),
            Column::number("DELAYED"),
            Column::new("DEAD LETTERS"),
            Column::number("MAX RECEIVES"),
        ]);
        let (mut listed, mut unknown) = (0, 0_u64);
        loop {
            let queue = tokio::select! {
                biased;
                () = ui.interrupt().cancelled() => return Ok(Code::Interrupted),
                queue = queues.next() => queue,
            };
            match queue {
                None => break,
                Some(Ok(queue)) => {
                    listed += 1;
                    if ui.is_json() {
                        bar.suspend(|| ui.json(&Listed::of(&queue)));
                    } else {
                        table.row(row(&queue));
                    }
                }
                // Deleted since it was listed: a deleted queue stays in the list for a minute.
                Some(Err(QueueError::NotFound { .. })) => {}
                Some(Err(error @ QueueError::AccessDenied { .. })) => {
                    unknown += 1;
                    if unknown == 1 {
                        bar.suspend(|| ui.warn(&error));
                    }
                }
                Some(Err(error)) => return Err(error.into()),
            }
            bar.inc(1);
        }
        bar.finish_and_clear();
        if unknown > 0 {
            ui.warn(format_args!(
                "{} left out: they may not be asked",
                ui::count(unknown, "queue")
            ));
        }
        if listed == 0 {
            ui.note(match &self.prefix {
                Some(prefix) => format!(
                    "no queue's name begins with `{}` in this account and region",
                    ui::safe(prefix)
                ),
                None => "this account has no queues in this region".to_owned(),
            });
        } else if !ui.is_json() {
            ui.table(table);
        }
        if unknown > 0 && listed == 0 {
            return Err(Failure::new("no queue may be asked"));
        }
        Ok(Code::Done)
    }
}

fn row(queue: &QueueAttributes) -> [String; 7] {
    let (dead, receives) = match &queue.redrive {
        Some(policy) => (
            ui::safe(name_in(&policy.dead_letter_arn)).into_owned(),
            policy.max_receive_count.to_string(),
        ),
        None => ("-".to_owned(), "-".to_owned()),
    };
    [
        ui::safe(&queue.name).into_owned(),
        kind(queue).to_owned(),
        queue.visible.to_string(),
        queue.in_flight.to_string(),
        queue.delayed.to_string(),
        dead,
        receives,
    ]
}

impl<'a> Listed<'a> {
    fn of(queue: &'a QueueAttributes) -> Self {
        Self {
            name: &queue.name,
            url: &queue.url,
            arn: &queue.arn,
            kind: kind(queue),
            visible: queue.visible,
            in_flight: queue.in_flight,
            delayed: queue.delayed,
            dead_letter_queue: queue.redrive.as_ref().map(|policy| policy.dead_letter_arn.as_str()),
            max_receive_count: queue.redrive.as_ref().map(|policy| policy.max_receive_count),
            visibility_timeout_s: queue.visibility_timeout.as_secs(),
            retention_s: queue.retention.as_secs(),
        }
    }
}
