//! `redrive doctor`: a worker's preflight, without the worker.

use clap::Args;
use redrive::queue::Queue as _;
use redrive::worker::{Finding, Severity, WithoutDeadLetters};
use redrive::{Error, Failure as HandlerFailure, Worker};

use crate::connection::Aws;
use crate::failure::{Code, Failure, Outcome};
use crate::ui::Ui;

pub(crate) const EXAMPLES: &str = "Examples:
  redrive doctor orders redrive-inbox
  redrive doctor arn:aws:sqs:eu-west-1:123456789012:orders --attempts 8 --json";

/// What `redrive doctor` is asked.
#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// The queue a worker receives from: its name, URL or ARN.
    queue: String,

    /// The worker's inbox table, if it has one.
    table: Option<String>,

    /// How many attempts the worker gives a message.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    attempts: u32,
}

impl Doctor {
    pub(crate) async fn run(&self, aws: &Aws, ui: &Ui) -> Outcome {
        let findings = self.findings(aws).await?;
        if ui.is_json() {
            ui.json(&findings.iter().map(to_json).collect::<Vec<_>>());
        } else if findings.is_empty() {
            ui.line("ok: nothing to change");
        } else {
            for finding in &findings {
                ui.line(finding);
            }
        }
        Ok(if findings.is_empty() { Code::Done } else { Code::Found })
    }

    async fn findings(&self, aws: &Aws) -> Result<Vec<Finding>, Failure> {
        let queue = aws.queue(&self.queue).await?;
        // A queue without a dead-letter queue is a finding here, not an error.
        let has_dead_letters = queue.dead_letter_queue().is_some();
        let mut builder = Worker::builder(queue).max_attempts(self.attempts).handler(nothing);
        if !has_dead_letters {
            builder = builder.without_dead_letters(WithoutDeadLetters::Keep);
        }
        if let Some(table) = &self.table {
            builder = builder.inbox(aws.inbox(table).await?);
        }
        let worker = builder.build().map_err(Error::from)?;
        Ok(worker.preflight().await)
    }
}

/// The preflight needs a worker, and a worker a handler; it is never run.
async fn nothing() -> Result<(), HandlerFailure> {
    Ok(())
}

fn to_json(finding: &Finding) -> serde_json::Value {
    let severity = match finding.severity {
        Severity::Warning => "warning",
        Severity::Problem => "problem",
    };
    serde_json::json!({ "severity": severity, "text": finding.text })
}
