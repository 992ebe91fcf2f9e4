//! `redrive queue purge`.

use clap::Args;
use redrive::queue::{Queue as _, QueueError};

use crate::connection::Aws;
use crate::failure::{Code, Failure, Outcome};
use crate::ui::{self, Ui};

pub(crate) const EXAMPLES: &str = "Examples:
  redrive queue purge orders-test
  redrive queue purge orders-test --yes

What is purged is gone. `redrive dlq drop` writes what it deletes to a file first, and can choose by a filter.";

/// What `redrive queue purge` is asked.
#[derive(Args, Debug)]
pub(crate) struct Purge {
    /// The queue to be emptied, and no other: not its dead-letter queue.
    queue: String,

    /// Do not ask.
    #[arg(long, short)]
    yes: bool,
}

impl Purge {
    pub(crate) async fn run(&self, aws: &Aws, ui: &Ui) -> Outcome {
        let queue = aws.queue(&self.queue).await?;
        let attributes = queue.attributes();
        let name = &attributes.name;
        let messages = attributes.visible + attributes.in_flight + attributes.delayed;
        let held = format!(
            "about {} ({} visible, {} in flight, {} delayed)",
            ui::count(messages, "message"),
            attributes.visible,
            attributes.in_flight,
            attributes.delayed
        );
        ui.confirm(
            format_args!("delete every message of `{name}`, {held}, for good?"),
            self.yes,
            format_args!("look with: redrive queue peek {name}; then give --yes"),
        )?;
        match queue.purge().await {
            Ok(()) => {}
            Err(QueueError::Refused { code, .. }) if code.contains("PurgeQueueInProgress") => {
                return Err(Failure::new(format_args!(
                    "`{name}` was purged less than 60 s ago; SQS allows one purge a minute"
                ))
                .remedy("wait a minute; what was sent since that purge is still there"));
            }
            Err(error) => return Err(error.into()),
        }
        if ui.is_json() {
            ui.json(&serde_json::json!({ "queue": name, "messages": messages }));
        } else {
            ui.line(format_args!("`{name}` is being purged: {held}"));
        }
        ui.note("SQS takes up to 60 s over it; until then messages may still be handed out, and new ones may go too");
        Ok(Code::Done)
    }
}
