//! `redrive doctor`: a worker's preflight, without the worker.

use std::process::ExitCode;

use clap::Args;
use redrive::worker::{Finding, Severity, WithoutDeadLetters};
use redrive::{DynamoInbox, Error, Failure, SqsQueue, Worker};

use crate::FOUND;

pub(crate) const EXAMPLES: &str = "Examples:
  redrive doctor orders --table redrive-inbox
  redrive doctor arn:aws:sqs:eu-west-1:123456789012:orders --attempts 8 --json";

/// What `redrive doctor` is asked.
#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// The queue a worker receives from: its name, URL or ARN.
    queue: String,

    /// The worker's inbox table.
    #[arg(long, value_name = "TABLE")]
    table: Option<String>,

    /// How many attempts the worker gives a message.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    attempts: u32,

    /// Print one JSON document: an array of objects with `severity` (`warning` or `problem`) and `text`.
    #[arg(long)]
    json: bool,
}

impl Doctor {
    pub(crate) async fn run(self) -> Result<ExitCode, Error> {
        let findings = self.findings().await?;
        if self.json {
            println!("{}", to_json(&findings));
        } else if findings.is_empty() {
            println!("ok: nothing to change");
        } else {
            for finding in &findings {
                println!("{finding}");
            }
        }
        Ok(if findings.is_empty() {
            ExitCode::SUCCESS
        } else {
            ExitCode::from(FOUND)
        })
    }

    async fn findings(&self) -> Result<Vec<Finding>, Error> {
        let aws = aws_config::load_from_env().await;
        let queue = SqsQueue::connect(&aws, &self.queue).await?;
        // A queue without a dead-letter queue is a finding here, not an error.
        let has_dead_letters = redrive::queue::Queue::dead_letter_queue(&queue).is_some();
        let mut builder = Worker::builder(queue).max_attempts(self.attempts).handler(nothing);
        if !has_dead_letters {
            builder = builder.without_dead_letters(WithoutDeadLetters::Keep);
        }
        if let Some(table) = &self.table {
            builder = builder.inbox(DynamoInbox::connect(&aws, table).await?);
        }
        Ok(builder.build()?.preflight().await)
    }
}

/// The preflight needs a worker, and a worker a handler; it is never run.
async fn nothing() -> Result<(), Failure> {
    Ok(())
}

fn to_json(findings: &[Finding]) -> serde_json::Value {
    let one = |finding: &Finding| {
        let severity = match finding.severity {
            Severity::Warning => "warning",
            Severity::Problem => "problem",
        };
        serde_json::json!({ "severity": severity, "text": finding.text })
    };
    findings.iter().map(one).collect()
}
