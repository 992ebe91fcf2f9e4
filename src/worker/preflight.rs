//! What is looked at before a worker starts.

use std::fmt;
use std::time::Duration;

use super::config::{Config, DeadLetters};
use super::error::PreflightError;
use crate::inbox::{Inbox, MIN_LEASE};
use crate::queue::{Queue, QueueAttributes};

/// How bad a [`Finding`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The worker starts; something should be changed.
    Warning,
    /// The worker does not start: work would be lost or repeated, or nothing would work.
    Problem,
}

/// Something the preflight found, with what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What kind of finding it is, in one word that stays the same, such as `max_receive_count`.
    pub code: &'static str,
    /// What it is, where, and what to do.
    pub text: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Warning => "warning",
            Severity::Problem => "problem",
        };
        write!(f, "{severity}: {}", self.text)
    }
}

/// Logs warnings; problems are an error.
pub(super) fn judge(worker: &str, findings: &[Finding]) -> Result<(), PreflightError> {
    let mut problems = Vec::new();
    for finding in findings {
        match finding.severity {
            Severity::Warning => tracing::warn!(worker, "preflight: {}", finding.text),
            Severity::Problem => problems.push(finding.text.clone()),
        }
    }
    if problems.is_empty() {
        return Ok(());
    }
    Err(PreflightError {
        worker: worker.to_owned(),
        problems,
    })
}

pub(super) async fn preflight(config: &Config, queue: &dyn Queue, inbox: Option<&dyn Inbox>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut source = queue.attributes().clone();
    match queue.describe().await {
        Ok(now) => source = now,
        // A service that is down for a moment is what the worker is made for: it starts and waits.
        Err(error) if error.is_transient() => findings.push(warning(
            "queue_not_described",
            format!("the queue could not be looked at: {error}"),
        )),
        Err(error) => findings.push(problem("queue_not_described", error.to_string())),
    }
    if let Some(why) = queue.dead_letter_problem() {
        findings.push(warning(
            "dead_letter_queue_unusable",
            format!("the dead-letter queue of `{}`: {why}", source.name),
        ));
    }
    let mut dead = None;
    if let DeadLetters::Queue(target) = &config.dead_letters {
        match target.describe().await {
            Ok(attributes) => dead = Some(attributes),
            Err(error) => {
                findings.push(warning(
                    "dead_letter_queue_not_described",
                    format!("the dead-letter queue could not be looked at: {error}"),
                ));
                dead = Some(target.attributes().clone());
            }
        }
    }
    findings.extend(judge_queues(config, &source, dead.as_ref()));
    if let Some(inbox) = inbox {
        findings.extend(judge_inbox(config, &source, dead.as_ref()));
        match inbox.check().await {
            Ok(sentences) => findings.extend(sentences.into_iter().map(|text| warning("inbox_table", text))),
            Err(error) if error.is_transient() => {
                findings.push(warning(
                    "inbox_not_described",
                    format!("the inbox could not be looked at: {error}"),
                ));
            }
            Err(error) => findings.push(problem("inbox_not_described", error.to_string())),
        }
    }
    findings
}

/// What can be said of the queues from their attributes. Pure.
fn judge_queues(config: &Config, source: &QueueAttributes, dead: Option<&QueueAttributes>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let name = &source.name;
    let factor = if source.fifo { 10 } else { 3 };
    match &source.redrive {
        Some(policy) => {
            let wanted = config.max_attempts.saturating_mul(factor);
            if policy.max_receive_count < wanted {
                findings.push(warning("max_receive_count", format!(
                    "maxReceiveCount of `{name}` is {}; set it to at least {wanted} ({factor} × {} attempts): releases, delays and \
                     lost receives spend receives too, and SQS would move healthy messages to the dead-letter queue",
                    policy.max_receive_count, config.max_attempts
                )));
            }
            if let Some(dead) = dead
                && policy.dead_letter_arn != dead.arn
            {
                findings.push(warning("two_dead_letter_queues", format!(
                    "the redrive policy of `{name}` names {} and the worker sends dead letters to {}; operators will look in one of \
                     them only: use one queue for both",
                    policy.dead_letter_arn, dead.arn
                )));
            }
        }
        None => findings.push(warning("no_redrive_policy", format!(
            "`{name}` has no redrive policy: nothing stops a message that kills its worker before it is claimed; set one with \
             maxReceiveCount {} or more",
            config.max_attempts.saturating_mul(factor)
        ))),
    }
    if let Some(dead) = dead {
        if dead.retention < source.retention {
            findings.push(problem("dead_letter_retention", format!(
                "`{}` keeps messages for {}, shorter than `{name}` with {}: dead letters would vanish before anybody saw them; set its \
                 retention to 14 days",
                dead.name,
                days(dead.retention),
                days(source.retention)
            )));
        }
        if dead.max_message_bytes < source.max_message_bytes {
            findings.push(problem("message_size", format!(
                "`{}` takes messages up to {} bytes, and `{name}` up to {} bytes: a larger message could never be dead-lettered; raise \
                 MaximumMessageSize of `{}`",
                dead.name, dead.max_message_bytes, source.max_message_bytes, dead.name
            )));
        }
        if dead
            .redrive
            .as_ref()
            .is_some_and(|policy| policy.dead_letter_arn == source.arn)
        {
            findings.push(problem("redrive_loop", format!(
                "`{}` redrives to `{name}` and back: messages would circle for ever; remove the redrive policy of `{}`",
                dead.name, dead.name
            )));
        }
    }
    if let Some(limit) = config.handler_timeout
        && !config.heartbeat
        && limit > source.visibility_timeout
    {
        findings.push(problem("visibility_timeout", format!(
            "the handler timeout of {limit:?} is over the visibility timeout of `{name}`, {:?}, and the heartbeat is off: long runs would \
             be repeated; raise the visibility timeout or turn the heartbeat on",
            source.visibility_timeout
        )));
    }
    if config.long_poll.is_zero() {
        findings.push(warning("long_poll", format!(
            "`{name}` is polled without waiting: an idle worker makes as many calls as it can, each billed; set `long_poll` to 20 s"
        )));
    }
    findings
}

fn judge_inbox(config: &Config, source: &QueueAttributes, dead: Option<&QueueAttributes>) -> Vec<Finding> {
    let needed = source.retention + dead.map_or(Duration::ZERO, |dead| dead.retention);
    let mut findings = Vec::new();
    if config.lease < MIN_LEASE {
        findings.push(warning("lease", format!(
            "a lease of {:?} is shorter than a slow call to the inbox may take: a worker would lose keys that it still runs; set \
             `lease` to 10 s or more",
            config.lease
        )));
    }
    if config.retention >= needed {
        return findings;
    }
    findings.push(warning("inbox_retention", format!(
        "the inbox keeps keys for {}, but a message can come back after {} (retention of the queue and its dead-letter queue): it would \
         be processed twice; set `inbox_retention` to {} or more",
        days(config.retention),
        days(needed),
        days(needed)
    )));
    findings
}

fn warning(code: &'static str, text: String) -> Finding {
    Finding {
        severity: Severity::Warning,
        code,
        text,
    }
}

fn problem(code: &'static str, text: String) -> Finding {
    Finding {
        severity: Severity::Problem,
        code,
        text,
    }
}

fn days(duration: Duration) -> String {
    let seconds = duration.as_secs();
    if seconds == 86_400 {
        "1 day".to_owned()
    } else if seconds >= 86_400 && seconds.is_multiple_of(86_400) {
        format!("{} days", seconds / 86_400)
    } else {
        format!("{seconds} s")
    }
}
