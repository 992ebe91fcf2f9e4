//! `redrive dlq watch`: how many dead letters there are, by reason, while somebody looks on.

use std::time::Duration;

use clap::Args;
use console::{Style, Term};
use redrive::clock::{Clock, Instant};
use redrive::dlq::{ErrorGroups, ScanEnd, Visit};
use redrive::key::KeySource;
use redrive::queue::{Queue as _, QueueAttributes, QueueError};
use serde::Serialize;

use super::look::{self, Target};
use super::summary::{TEXT_WIDTH, brief};
use crate::connection::{Aws, DeadLetters};
use crate::failure::{Code, Failure, Outcome};
use crate::ui::{Ui, count, short_age, timestamp};
use crate::values;

pub(crate) const EXAMPLES: &str = "Examples:
  redrive dlq watch orders
  redrive dlq watch orders --interval 1m --reasons-every 15m
  redrive dlq watch orders --once --no-reasons || echo 'orders died'
  redrive dlq watch orders --json";

pub(crate) fn long_help() -> String {
    format!(
        "{EXAMPLES}\n
The count is SQS's own (approximate by up to a minute) and costs no receive. Reasons need a look at every message, which
spends one receive of each; so there is a look only when the count has changed since the last one, and at most every
--reasons-every. What is counted for a reason can be older than the count beside it.\n
With --once the exit code tells: 0 no dead letters, 3 some. Elsewhere than on a terminal each interval prints a line."
    )
}

/// How soon it may look again, at the least and at the most.
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(86_400);

/// What `redrive dlq watch` is asked.
#[derive(Args, Debug)]
pub(crate) struct Watch {
    #[command(flatten)]
    target: Target,

    /// How long to wait between counts, such as 10s or 1m.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = values::duration_within(SHORTEST, LONGEST))]
    interval: Duration,

    /// The least time between two looks for reasons.
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = values::duration_within(SHORTEST, LONGEST))]
    reasons_every: Duration,

    /// Count only: no looks, no reasons, no receives spent.
    #[arg(long, conflicts_with = "reasons_every")]
    no_reasons: bool,

    /// Count once, and exit with 3 if there are dead letters, with 0 if there are none.
    #[arg(long, conflicts_with = "interval")]
    once: bool,
}

/// What is known at one time. The field names are part of the tool's interface.
#[derive(Debug, Serialize)]
struct Count<'a> {
    at_ms: u64,
    queue: &'a str,
    total: u64,
    visible: u64,
    in_flight: u64,
    delayed: u64,
    /// As of the last look, if there was one.
    reasons: Option<&'a [Reason]>,
    reasons_at_ms: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Reason {
    reason: String,
    count: u64,
}

/// What the last look found.
struct Looked {
    at_ms: u64,
    /// What SQS counted then.
    total: u64,
    reasons: Vec<Reason>,
}

/// How a look ended.
enum Look {
    Done(Looked),
    /// The queue cannot be asked for a while.
    NotNow,
    Interrupted,
}

impl Watch {
    pub(crate) async fn run(&self, aws: &Aws, ui: &Ui) -> Outcome {
        let dead = self.target.open(aws, ui).await?;
        let clock = Clock::system();
        let mut shown = Shown::new(ui);
        if !self.once && !self.no_reasons {
            ui.note(format_args!(
                "for reasons every message is received, when the count has changed and at most every {}; --no-reasons only counts",
                values::shown(self.reasons_every),
            ));
        }
        let mut looked: Option<Looked> = None;
        let mut last_look: Option<Instant> = None;
        loop {
            if let Some(attributes) = self.count(&dead, ui).await? {
                let total = total(&attributes);
                if let Some(looked) = looked.as_mut().filter(|_| total == 0) {
                    looked.reasons.clear();
                    looked.total = 0;
                }
                if self.is_look_due(looked.as_ref(), last_look, total, clock.now()) {
                    match self.look(&dead, ui, total, &clock).await? {
                        Look::Done(fresh) => looked = Some(fresh),
                        Look::NotNow => {}
                        Look::Interrupted => return Ok(Code::Interrupted),
                    }
                    last_look = Some(clock.now());
                }
                let count = Count {
                    at_ms: clock.epoch_ms(),
                    queue: &attributes.name,
                    total,
                    visible: attributes.visible,
                    in_flight: attributes.in_flight,
                    delayed: attributes.delayed,
                    reasons: looked.as_ref().map(|looked| looked.reasons.as_slice()),
                    reasons_at_ms: looked.as_ref().map(|looked| looked.at_ms),
                };
                shown.show(&count, ui);
                if self.once {
                    return Ok(if total > 0 { Code::Found } else { Code::Done });
                }
            }
            tokio::select! {
                biased;
                () = ui.interrupt().cancelled() => return Ok(Code::Interrupted),
                () = tokio::time::sleep(self.interval) => {}
            }
        }
    }

    /// What SQS counts. A watch goes on where it cannot be asked for a while: then none.
    async fn count(&self, dead: &DeadLetters, ui: &Ui) -> Result<Option<QueueAttributes>, Failure> {
        match dead.queue.describe().await {
            Ok(attributes) => Ok(Some(attributes)),
            Err(error) if !self.once && passes(&error) => {
                ui.warn(error);
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn is_look_due(&self, looked: Option<&Looked>, last: Option<Instant>, total: u64, now: Instant) -> bool {
        if self.no_reasons || total == 0 || looked.is_some_and(|looked| looked.total == total) {
            return false;
        }
        last.is_none_or(|last| now.saturating_duration_since(last) >= self.reasons_every)
    }

    /// Counts reasons. A watch goes on where the messages cannot be received for a while.
    async fn look(&self, dead: &DeadLetters, ui: &Ui, total: u64, clock: &Clock) -> Result<Look, Failure> {
        let mut groups = ErrorGroups::default();
        let scanned = look::scan(dead, KeySource::default(), ui, |letter| {
            groups.add(letter.reason(), letter);
            Visit::Keep
        })
        .await;
        let report = match scanned {
            Ok(report) => report,
            Err(error) if !self.once && passes(&error) => {
                ui.warn(format_args!("reasons are not known now: {error}"));
                return Ok(Look::NotNow);
            }
            Err(error) => return Err(error.into()),
        };
        if self.once || report.end == ScanEnd::Cancelled {
            look::account(dead, ui, &report);
        }
        if report.end == ScanEnd::Cancelled {
            return Ok(Look::Interrupted);
        }
        let mut reasons: Vec<Reason> = groups
            .largest_first()
            .into_iter()
            .map(|(reason, group)| Reason {
                reason: reason.to_owned(),
                count: group.count,
            })
            .collect();
        let others = groups.others().count;
        if others > 0 {
            reasons.push(Reason {
                reason: "(others)".to_owned(),
                count: others,
            });
        }
        Ok(Look::Done(Looked {
            at_ms: clock.epoch_ms(),
            total,
            reasons,
        }))
    }
}

/// Whether an error is one of those that pass.
fn passes(error: &QueueError) -> bool {
    matches!(error, QueueError::Throttled { .. } | QueueError::Unavailable { .. })
}

fn total(attributes: &QueueAttributes) -> u64 {
    attributes.visible + attributes.in_flight + attributes.delayed
}

/// What stands on the terminal, to be drawn over.
struct Shown {
    terminal: Option<Term>,
    lines: usize,
}

impl Shown {
    fn new(ui: &Ui) -> Self {
        let term = Term::stdout();
        Self {
            terminal: (term.is_term() && !ui.is_json()).then_some(term),
            lines: 0,
        }
    }

    fn show(&mut self, count: &Count<'_>, ui: &Ui) {
        if ui.is_json() {
            return ui.json(count);
        }
        let Some(terminal) = &self.terminal else {
            return ui.line(count.on_one_line());
        };
        let width = usize::from(terminal.size().1);
        let lines = count.on_lines();
        // What cannot be drawn over is drawn below.
        let _ = terminal.clear_last_lines(self.lines);
        self.lines = lines.len();
        for line in lines {
            ui.line(console::truncate_str(&line, width, "…"));
        }
    }
}

impl Count<'_> {
    fn in_all(&self) -> String {
        let style = if self.total == 0 {
            Style::new().green()
        } else {
            Style::new().yellow()
        };
        style.apply_to(count(self.total, "dead letter")).to_string()
    }

    fn on_one_line(&self) -> String {
        let mut line = format!("{} {}: {}", timestamp(self.at_ms), self.queue, self.in_all());
        for (at, reason) in self.reasons.unwrap_or_default().iter().enumerate() {
            let before = if at == 0 { " (" } else { ", " };
            line.push_str(&format!(
                "{before}{} {}",
                brief(&reason.reason, TEXT_WIDTH),
                reason.count
            ));
        }
        if self.reasons.is_some_and(|reasons| !reasons.is_empty()) {
            line.push(')');
        }
        line
    }

    fn on_lines(&self) -> Vec<String> {
        let mut lines = vec![format!(
            "{}: {} ({} in flight) at {}",
            self.queue,
            self.in_all(),
            self.in_flight,
            timestamp(self.at_ms)
        )];
        let Some(reasons) = self.reasons else {
            return lines;
        };
        for reason in reasons {
            lines.push(format!("{:>9}  {}", reason.count, brief(&reason.reason, TEXT_WIDTH)));
        }
        let since = Duration::from_millis(self.at_ms.saturating_sub(self.reasons_at_ms.unwrap_or(self.at_ms)));
        if !since.is_zero() {
            let note = format!("reasons as of {} ago", short_age(since));
            lines.push(Style::new().dim().apply_to(note).to_string());
        }
        lines
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        watch: Watch,
    }

    #[test]
    fn a_look_is_due_when_the_count_has_changed_and_the_last_was_long_ago() {
        let watch = |flags: &[&str]| Line::parse_from([&["watch", "orders"], flags].concat()).watch;
        let start = Clock::system().now();
        let looked = Looked {
            at_ms: 0,
            total: 5,
            reasons: Vec::new(),
        };
        let after = |s| start + Duration::from_secs(s);
        let minute = watch(&["--reasons-every", "1m"]);
        assert!(minute.is_look_due(None, None, 5, start), "never looked");
        assert!(!minute.is_look_due(None, None, 0, start), "nothing to look at");
        assert!(
            !minute.is_look_due(Some(&looked), Some(start), 6, after(59)),
            "too soon"
        );
        assert!(minute.is_look_due(Some(&looked), Some(start), 6, after(60)));
        assert!(
            !minute.is_look_due(Some(&looked), Some(start), 5, after(600)),
            "as many as before"
        );
        assert!(!minute.is_look_due(Some(&looked), Some(start), 0, after(600)));
        assert!(
            !minute.is_look_due(None, Some(start), 5, after(59)),
            "one that failed has its price too"
        );
        assert!(minute.is_look_due(None, Some(start), 5, after(60)));
        assert!(!watch(&["--no-reasons"]).is_look_due(None, None, 5, start));
    }
}
