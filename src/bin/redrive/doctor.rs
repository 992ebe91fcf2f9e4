//! `redrive doctor`: what is wrong with a queue, its dead-letter queue and its inbox table, before a worker finds out.

mod checks;
mod finding;

use clap::{Args, ValueEnum};
use redrive::clock::{Clock, Random};
use redrive::inbox::InboxError;
use redrive::permission::{Permission, Verdict};
use redrive::queue::{Queue as _, QueueError, QueueRole};
use redrive::worker::WithoutDeadLetters;
use redrive::{DynamoInbox, Failure as HandlerFailure, SqsQueue, Worker};

use crate::connection::Aws;
use crate::failure::{Code, Failure, Outcome};
use crate::ui::Ui;
use finding::{Finding, Severity};

pub(crate) const EXAMPLES: &str = "Examples:
  redrive doctor orders redrive-inbox
  redrive doctor orders redrive-inbox --all
  redrive doctor arn:aws:sqs:eu-west-1:123456789012:orders --attempts 8 --json
  redrive doctor orders redrive-inbox --fail-on problem

Run it with the worker's own role: it tries each action that a worker needs in a way that has no effect. Findings are
  problem   a worker does not start, or loses or repeats work
  warning   something should be changed
  info      something to know, such as an action that cannot be tried
The exit code is 3 if there is a problem or a warning (with --fail-on problem: if there is a problem), else 0.";

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

    /// Show what was looked at and is as it should be, too.
    #[arg(long, short, visible_short_alias = 'v')]
    all: bool,

    /// Which findings make the exit code 3.
    #[arg(long, value_name = "SEVERITY", default_value = "warning")]
    fail_on: FailOn,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum FailOn {
    /// Warnings and problems.
    Warning,
    /// Problems only.
    Problem,
}

impl Doctor {
    pub(crate) async fn run(&self, aws: &Aws, ui: &Ui) -> Outcome {
        let mut findings = self.findings(aws).await?;
        findings.sort_by_key(|finding| finding.severity);
        let worst = findings.first().map_or(Severity::Ok, |finding| finding.severity);
        findings.retain(|finding| self.all || finding.severity != Severity::Ok);
        if ui.is_json() {
            ui.json(&findings);
        } else {
            for finding in &findings {
                ui.line(finding.shown());
            }
            if worst > Severity::Warning {
                ui.line("ok: nothing to change");
            }
        }
        let limit = match self.fail_on {
            FailOn::Warning => Severity::Warning,
            FailOn::Problem => Severity::Problem,
        };
        Ok(if worst <= limit { Code::Found } else { Code::Done })
    }

    async fn findings(&self, aws: &Aws) -> Result<Vec<Finding>, Failure> {
        let mut findings = Vec::new();
        match SqsQueue::clock_skew(aws.config(), &self.queue, &Clock::system()).await {
            Ok(skew) => findings.push(checks::clock(skew)),
            Err(error @ QueueError::Invalid { .. }) => return Err(error.into()),
            // Opening the queue meets the same, and says so.
            Err(_) => {}
        }
        let queue = match SqsQueue::connect(aws.config(), self.queue.as_str()).await {
            Ok(queue) => queue,
            // What is known so far explains it.
            Err(error) if is_denied(&error) || findings.iter().any(|known| known.severity == Severity::Problem) => {
                findings.push(Finding::problem("queue_not_opened", error));
                return Ok(findings);
            }
            Err(error) => return Err(error.into()),
        };
        let inbox = self.open_inbox(aws, &mut findings).await?;
        findings.extend(self.preflight(&queue, inbox.as_ref()).await);
        findings.extend(checks::queue(queue.attributes()));
        self.judge_permissions(queue.permissions(QueueRole::Source).await, &mut findings);
        self.look_at_settings(&queue, "receive from", &mut findings).await;
        if let Some(policy) = &queue.attributes().redrive
            && queue.dead_letter_queue().is_some()
        {
            let dead = SqsQueue::connect(aws.config(), policy.dead_letter_arn.as_str()).await?;
            findings.extend(checks::dead_letter_queue(queue.attributes(), dead.attributes()));
            self.judge_permissions(dead.permissions(QueueRole::DeadLetters).await, &mut findings);
            if let Some(allow) = self
                .look_at_settings(&dead, "send dead letters to", &mut findings)
                .await
            {
                findings.push(checks::redrive_allow(queue.attributes(), dead.attributes(), &allow));
            }
            findings.extend(chain(aws, &queue, &dead).await);
        }
        if let Some(inbox) = &inbox {
            let probe = format!("{:016x}", Random::from_system().next_u64());
            match inbox.permissions(&probe).await {
                Ok(permissions) => self.judge_permissions(permissions, &mut findings),
                Err(error) => findings.push(Finding::warning("permission_unknown", error)),
            }
        }
        Ok(findings)
    }

    /// The inbox, unless what keeps it from being opened is a finding.
    async fn open_inbox(&self, aws: &Aws, findings: &mut Vec<Finding>) -> Result<Option<DynamoInbox>, Failure> {
        let Some(table) = &self.table else {
            return Ok(None);
        };
        match DynamoInbox::connect(aws.config(), table.as_str()).await {
            Ok(inbox) => Ok(Some(inbox)),
            Err(error @ (InboxError::Schema { .. } | InboxError::AccessDenied { .. })) => {
                findings.push(Finding::problem("inbox_not_opened", error));
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// What a worker would find.
    async fn preflight(&self, queue: &SqsQueue, inbox: Option<&DynamoInbox>) -> Vec<Finding> {
        // A queue without a dead-letter queue is a finding here, not an error.
        let has_dead_letters = queue.dead_letter_queue().is_some();
        let mut builder = Worker::builder(queue.clone())
            .max_attempts(self.attempts)
            .handler(nothing);
        if !has_dead_letters {
            builder = builder.without_dead_letters(WithoutDeadLetters::Keep);
        }
        if let Some(inbox) = inbox {
            builder = builder.inbox(inbox.clone());
        }
        let found = match builder.build() {
            Ok(worker) => worker.preflight().await,
            Err(error) => return vec![Finding::problem("worker_not_built", error)],
        };
        if found.is_empty() {
            return vec![Finding::ok("preflight", "a worker's preflight finds nothing")];
        }
        found.into_iter().map(Finding::from).collect()
    }

    fn judge_permissions(&self, permissions: Vec<Permission>, findings: &mut Vec<Finding>) {
        findings.extend(permissions.iter().map(|permission| {
            let Permission { action, resource, .. } = permission;
            match &permission.verdict {
                Verdict::Allowed => Finding::ok("permission", permission),
                Verdict::Denied(_) => Finding::problem(
                    "permission_denied",
                    format_args!("{permission}; allow {action} on {resource} for the worker's role"),
                ),
                Verdict::Untested(_) => Finding::info(
                    "permission_untested",
                    format_args!(
                        "{permission}; ask IAM: aws iam simulate-principal-policy --policy-source-arn <the role's ARN> \
                         --action-names {action} --resource-arns {resource}"
                    ),
                ),
                _ => Finding::warning("permission_unknown", permission),
            }
        }));
    }

    /// Looks at settings that the preflight does not need; returns who may name the queue as its dead-letter queue.
    async fn look_at_settings(
        &self,
        queue: &SqsQueue,
        doing: &str,
        findings: &mut Vec<Finding>,
    ) -> Option<redrive::queue::RedriveAllow> {
        match queue.settings().await {
            Ok(settings) => {
                findings.extend(checks::encryption(queue.attributes(), &settings, doing));
                Some(settings.redrive_allow)
            }
            Err(error) => {
                findings.push(Finding::warning("settings_unknown", error));
                None
            }
        }
    }
}

fn is_denied(error: &QueueError) -> bool {
    matches!(error, QueueError::AccessDenied { .. })
}

/// How many dead-letter queues one after the other are followed.
const LONGEST_CHAIN: usize = 20;

/// Follows the redrive policies on from the dead-letter queue.
async fn chain(aws: &Aws, source: &SqsQueue, dead: &SqsQueue) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut path = vec![source.attributes().clone(), dead.attributes().clone()];
    while let Some(policy) = path.last().and_then(|last| last.redrive.clone()) {
        if let Some(at) = path.iter().position(|known| known.arn == policy.dead_letter_arn) {
            // Two that redrive to each other are found by the preflight already.
            if (at, path.len()) != (0, 2) {
                findings.push(checks::circle(&path[at..]));
            }
            return findings;
        }
        if path.len() == 2 {
            findings.push(checks::dead_letters_move_on(dead.attributes(), &policy));
        }
        if path.len() == LONGEST_CHAIN {
            break;
        }
        match SqsQueue::connect(aws.config(), policy.dead_letter_arn.as_str()).await {
            Ok(next) => path.push(next.attributes().clone()),
            Err(error) => {
                findings.push(Finding::warning(
                    "redrive_chain",
                    format_args!("where dead letters move on to could not be followed: {error}"),
                ));
                return findings;
            }
        }
    }
    findings.push(Finding::ok("redrive_loop", "the redrive policies make no circle"));
    findings
}

/// The preflight needs a worker, and a worker a handler; it is never run.
async fn nothing() -> Result<(), HandlerFailure> {
    Ok(())
}
