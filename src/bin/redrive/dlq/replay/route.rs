//! Where dead letters are sent.

use redrive::SqsQueue;
use redrive::queue::Queue as _;

use super::Replay;
use crate::connection::{Aws, DeadLetters};
use crate::failure::Failure;
use crate::ui::{Ui, safe};
use crate::values;

/// Where the letters go.
pub(super) struct Route {
    pub(super) targets: Vec<SqsQueue>,
    /// Whether each goes to the queue it came from.
    pub(super) by_source: bool,
}

impl Replay {
    pub(super) async fn route(&self, dead: &DeadLetters, aws: &Aws, ui: &Ui) -> Result<Route, Failure> {
        let name = &dead.queue.attributes().name;
        if let Some(to) = &self.to {
            let target = self.named_target(dead, to, aws, ui).await?;
            return Ok(Route {
                targets: vec![target],
                by_source: false,
            });
        }
        if let Some(source) = &dead.named_source {
            return Ok(Route {
                targets: vec![source.clone()],
                by_source: false,
            });
        }
        let mut targets = Vec::new();
        for source in &dead.sources {
            match aws.queue(source).await {
                Ok(queue) => targets.push(queue),
                Err(failure) => {
                    return Err(failure.remedy("give --to QUEUE to replay elsewhere"));
                }
            }
        }
        if targets.is_empty() {
            return Err(Failure::new(format_args!(
                "no queue has `{name}` for its dead-letter queue, so there is none to replay to: the queue its letters came from \
                 was deleted, or its redrive policy was changed"
            ))
            .remedy("give --to QUEUE"));
        }
        Ok(Route {
            targets,
            by_source: true,
        })
    }

    async fn named_target(&self, dead: &DeadLetters, to: &str, aws: &Aws, ui: &Ui) -> Result<SqsQueue, Failure> {
        let name = &dead.queue.attributes().name;
        let target = aws.queue(to).await?;
        let (from, to) = (dead.queue.attributes(), target.attributes());
        if from.arn == to.arn {
            return Err(Failure::usage(format_args!("`{name}` cannot be replayed into itself")));
        }
        if to.fifo && !from.fifo {
            return Err(Failure::usage(format_args!(
                "`{}` is a FIFO queue and `{name}` is not: its messages have no group to be sent in",
                to.name
            )));
        }
        if from.fifo && !to.fifo {
            ui.warn(format_args!(
                "`{}` is no FIFO queue: order within groups ends there",
                to.name
            ));
        }
        Ok(target)
    }

    /// The one queue that SQS is to move all to; none where each goes to its own, as far as SQS knows it. That is only of
    /// letters that SQS moved there itself, so where there is but one source, it is told.
    pub(super) async fn native_target(
        &self,
        dead: &DeadLetters,
        aws: &Aws,
        ui: &Ui,
    ) -> Result<Option<SqsQueue>, Failure> {
        if let Some(to) = &self.to {
            return Ok(Some(self.named_target(dead, to, aws, ui).await?));
        }
        let name = &dead.queue.attributes().name;
        match (&dead.named_source, dead.sources.as_slice()) {
            (_, [only]) => Ok(Some(aws.queue(only).await?)),
            (None, []) => Err(Failure::new(format_args!(
                "no queue is known to have `{name}` for its dead-letter queue, so there is none to move to"
            ))
            .remedy("give --to QUEUE")),
            (None, _) => Ok(None),
            // Only a replay of our own takes one queue's letters and leaves the others'.
            (Some(_), []) => Err(Failure::usage(format_args!(
                "which queues have `{name}` for their dead-letter queue could not be listed, and --native moves the letters of \
                 all of them"
            ))
            .remedy("replay without --native, or give --to QUEUE if all are to go there")),
            (Some(source), several) => {
                let names: Vec<_> = several
                    .iter()
                    .map(|url| format!("`{}`", safe(url.rsplit('/').next().unwrap_or(url))))
                    .collect();
                Err(Failure::usage(format_args!(
                    "`{name}` is the dead-letter queue of {}, and --native would move the letters of all of them to `{}`",
                    names.join(", "),
                    source.attributes().name
                ))
                .remedy("replay without --native, or give --to QUEUE if all are to go there"))
            }
        }
    }

    /// Says which of what was asked `--native` does not do; variables are set for other commands too.
    pub(super) fn warn_of_what_native_leaves_out(&self, ui: &Ui) {
        let by_hand =
            |given: &Option<String>, variable: &str| given.is_some() && std::env::var(variable).ok() != *given;
        if by_hand(&self.table, "REDRIVE_INBOX_TABLE") || by_hand(&self.consumer, values::CONSUMER) {
            ui.warn(
                "with --native no inbox is asked: --table and --consumer say nothing, and completed keys are moved too",
            );
        }
    }
}
