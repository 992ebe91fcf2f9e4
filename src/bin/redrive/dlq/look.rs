//! A look at a dead-letter queue: a scan that gives back what it held, and what it says of its price.

use clap::Args;
use redrive::dlq::browse::MAX_HELD;
use redrive::dlq::{Browser, DeadLetter, ScanEnd, ScanReport, Visit};
use redrive::key::KeySource;
use redrive::queue::{Queue as _, QueueError};

use crate::connection::{Aws, DeadLetters};
use crate::failure::{Code, Failure};
use crate::ui::{Ui, count};

/// What a look costs, for the help of commands that look.
pub(crate) const COST: &str = "SQS has no browsing. A look receives messages, holds them hidden until it
ends, and gives them back, on Ctrl-C too. It spends one receive of each
message it sees, holds at most 110,000 of the 120,000 that SQS lets be in
flight, and of a FIFO queue sees only the first messages of each group, at
most ten.";

/// The dead letters a command is about.
#[derive(Args, Clone, Debug)]
pub(crate) struct Target {
    /// The queue whose messages died, or its dead-letter queue; by name, URL or ARN.
    #[arg(value_name = "QUEUE")]
    pub(crate) queue: String,

    /// Take QUEUE itself, even if it has a dead-letter queue or is nobody's.
    #[arg(long)]
    pub(crate) exact: bool,
}

impl Target {
    /// Opens the dead-letter queue that is meant.
    pub(crate) async fn open(&self, aws: &Aws, ui: &Ui) -> Result<DeadLetters, Failure> {
        aws.dead_letters(&self.queue, self.exact, ui).await
    }
}

/// As [`scan`], for who can do nothing about a failure.
pub(crate) async fn look(
    dead: &DeadLetters,
    keys: KeySource,
    ui: &Ui,
    visit: impl FnMut(&DeadLetter) -> Visit,
) -> Result<ScanReport, Failure> {
    Ok(scan(dead, keys, ui, visit).await?)
}

/// Shows `visit` each dead letter once; `keys` says where the key is of those without an envelope. What is held is given back at the end, and at Ctrl-C.
pub(crate) async fn scan(
    dead: &DeadLetters,
    keys: KeySource,
    ui: &Ui,
    mut visit: impl FnMut(&DeadLetter) -> Visit,
) -> Result<ScanReport, QueueError> {
    let attributes = dead.queue.attributes();
    if let Some(policy) = &attributes.redrive {
        ui.warn(format_args!(
            "`{}` has a redrive policy itself: SQS moves a message on to {} after {}, and each look is one",
            attributes.name,
            policy.dead_letter_arn,
            count(u64::from(policy.max_receive_count), "receive"),
        ));
    }
    let bar = ui.progress(Some(attributes.visible).filter(|&visible| visible > 0), "looking at");
    let report = Browser::new(dead.queue.clone())
        .keys(keys)
        .cancel(ui.interrupt().clone())
        .scan(|letter| {
            bar.inc(1);
            visit(letter)
        })
        .await;
    bar.finish_and_clear();
    report
}

/// Says on standard error what a look saw, what it did not see, and what it cost.
pub(crate) fn account(dead: &DeadLetters, ui: &Ui, report: &ScanReport) {
    let attributes = dead.queue.attributes();
    let name = &attributes.name;
    if report.end == ScanEnd::Cancelled {
        ui.note(format_args!("interrupted; what was held of `{name}` is given back"));
    }
    if report.seen > 0 {
        let each = if report.seen == 1 { "it" } else { "each" };
        ui.note(format_args!(
            "looked at {} of `{name}`; {each} was held meanwhile, is given back, and has spent one receive",
            count(report.seen, "message"),
        ));
    }
    if report.lost_hold > 0 {
        ui.warn(format_args!(
            "{} could not be held or given back at once: what is still hidden comes back by itself within 2 minutes",
            count(report.lost_hold, "message"),
        ));
    }
    if attributes.in_flight > 0 {
        ui.note(format_args!(
            "not seen: about {} in flight when the look began, which somebody else holds",
            count(attributes.in_flight, "message"),
        ));
    }
    if attributes.fifo && report.seen > 0 {
        ui.note("of a FIFO queue only the first messages of each group can be seen, at most ten");
    }
    if matches!(report.end, ScanEnd::InFlightLimit | ScanEnd::Limit) {
        ui.warn(format_args!(
            "there may be more: a look holds what it saw, at most {} messages, and SQS lets a queue have 120,000 in \
             flight; replay or drop some to see the rest",
            indicatif::HumanCount(MAX_HELD as u64),
        ));
    }
}

/// How a command ends that looked and nothing else.
pub(crate) fn code(report: &ScanReport) -> Code {
    if report.end == ScanEnd::Cancelled {
        Code::Interrupted
    } else {
        Code::Done
    }
}

/// What is said of a queue in which nothing was seen.
pub(crate) fn nothing_in(dead: &DeadLetters) -> String {
    let attributes = dead.queue.attributes();
    if attributes.visible + attributes.in_flight + attributes.delayed == 0 {
        format!("no dead letters: `{}` is empty", attributes.name)
    } else {
        format!("no dead letters of `{}` can be seen now", attributes.name)
    }
}
