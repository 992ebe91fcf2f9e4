//! The status line of a terminal, and what a worker has done.

use std::collections::VecDeque;
use std::time::Duration;

use console::Term;
use indicatif::{HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};
use redrive::clock::Instant;
use redrive::flow::BreakerState;
use redrive::worker::{Status, Totals};
use serde::Serialize;

use crate::ui::{Ui, count};

/// The time that the rate is taken over.
const WINDOW: Duration = Duration::from_secs(5);

/// The line at the bottom of a terminal; nothing elsewhere.
pub(super) struct Live {
    bar: ProgressBar,
    shown: bool,
    /// When how many were handled, within the window.
    handled: VecDeque<(Instant, u64)>,
    depth: Option<u64>,
}

impl Live {
    pub(super) fn new(ui: &Ui) -> Self {
        let shown = !ui.is_quiet() && Term::stderr().is_term();
        let bar = if shown {
            ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(5))
        } else {
            ProgressBar::hidden()
        };
        if let Ok(style) = ProgressStyle::with_template("{wide_msg}") {
            bar.set_style(style);
        }
        Self {
            bar,
            shown,
            handled: VecDeque::new(),
            depth: None,
        }
    }

    /// What logs are written above.
    pub(super) fn bar(&self) -> ProgressBar {
        self.bar.clone()
    }

    pub(super) fn is_shown(&self) -> bool {
        self.shown
    }

    /// What the queue counts.
    pub(super) fn depth(&mut self, depth: u64) {
        self.depth = Some(depth);
    }

    pub(super) fn show(&mut self, now: Instant, status: &Status) {
        if !self.shown {
            return;
        }
        self.handled.push_back((now, handled(&status.totals)));
        while self
            .handled
            .front()
            .is_some_and(|(at, _)| now.saturating_duration_since(*at) > WINDOW)
        {
            self.handled.pop_front();
        }
        self.bar.set_message(line(status, self.rate(), self.depth));
    }

    fn rate(&self) -> f64 {
        let (Some((from, before)), Some((to, after))) = (self.handled.front(), self.handled.back()) else {
            return 0.0;
        };
        let seconds = to.saturating_duration_since(*from).as_secs_f64();
        if seconds > 0.0 {
            after.saturating_sub(*before) as f64 / seconds
        } else {
            0.0
        }
    }

    /// Takes the line away.
    pub(super) fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

/// Runs that ended, whatever their outcome.
fn handled(totals: &Totals) -> u64 {
    totals.completed + totals.retried + totals.uncounted_failures + totals.dead_letters() + totals.given_up
}

/// The status line.
fn line(status: &Status, rate: f64, depth: Option<u64>) -> String {
    let totals = &status.totals;
    let mut parts = vec![
        format!("{rate:.1}/s"),
        format!("{} of {} running", status.running, status.concurrency),
        format!("{} waiting", status.waiting),
        format!("{} done", HumanCount(totals.completed)),
    ];
    let some = |parts: &mut Vec<String>, number: u64, what: &str| {
        if number > 0 {
            parts.push(format!("{} {what}", HumanCount(number)));
        }
    };
    some(&mut parts, totals.duplicates, "duplicate");
    some(&mut parts, totals.retried + totals.uncounted_failures, "failed");
    some(&mut parts, totals.dead_letters(), "dead");
    some(&mut parts, totals.given_up, "given up");
    if let Some(depth) = depth {
        parts.push(format!("about {} in the queue", HumanCount(depth)));
    }
    match status.breaker {
        Some(BreakerState::Open { .. }) => parts.push("breaker open".to_owned()),
        Some(BreakerState::HalfOpen) => parts.push("breaker half open".to_owned()),
        _ => {}
    }
    if matches!(
        status.inbox_breaker,
        Some(BreakerState::Open { .. } | BreakerState::HalfOpen)
    ) {
        parts.push("inbox unreachable".to_owned());
    }
    if status.stuck {
        parts.push("stuck: its loop stands still".to_owned());
    }
    if status.stalled {
        parts.push("stalled: no receive succeeds".to_owned());
    }
    if status.draining {
        parts.push("draining".to_owned());
    }
    parts.join(" · ")
}

/// What a worker has done, when it ends.
#[derive(Debug, Serialize)]
pub(super) struct Summary {
    queue: String,
    received: u64,
    completed: u64,
    duplicates: u64,
    failed_attempts: u64,
    uncounted_failures: u64,
    dead_lettered: std::collections::BTreeMap<String, u64>,
    given_up: u64,
    released: u64,
    lost: u64,
    breaker_opened: u64,
    ran_ms: u64,
}

impl Summary {
    pub(super) fn new(queue: &str, totals: &Totals, ran: Duration) -> Self {
        Self {
            queue: queue.to_owned(),
            received: totals.received,
            completed: totals.completed,
            duplicates: totals.duplicates,
            failed_attempts: totals.retried,
            uncounted_failures: totals.uncounted_failures,
            dead_lettered: totals.dead_lettered.clone(),
            given_up: totals.given_up,
            released: totals.released,
            lost: totals.lost,
            breaker_opened: totals.breaker_opened,
            ran_ms: u64::try_from(ran.as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// For people: what there is none of is left out.
    pub(super) fn text(&self) -> String {
        let mut text = format!("{} done", count(self.completed, "message"));
        let mut some = |number: u64, what: &str| {
            if number > 0 {
                text.push_str(&format!(", {} {what}", HumanCount(number)));
            }
        };
        some(self.duplicates, "deleted as duplicates");
        some(self.failed_attempts, "failed and tried again");
        some(self.uncounted_failures, "failed without counting as an attempt");
        some(self.given_up, "given up");
        some(self.released, "given back");
        some(self.lost, "left to others");
        let dead: u64 = self.dead_lettered.values().sum();
        if dead > 0 {
            let reasons: Vec<String> = self
                .dead_lettered
                .iter()
                .map(|(reason, number)| format!("{} {}", HumanCount(*number), crate::ui::safe(reason)))
                .collect();
            text.push_str(&format!(
                ", {} dead-lettered ({})",
                HumanCount(dead),
                reasons.join(", ")
            ));
        }
        text
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
mod tests {
    use redrive::worker::WithoutDeadLetters;
    use redrive::{MemoryQueue, Worker};

    use super::*;

    #[test]
    fn the_line_says_what_there_is_and_leaves_out_what_there_is_none_of() {
        let worker = Worker::builder(MemoryQueue::new("orders").unwrap())
            .without_dead_letters(WithoutDeadLetters::Keep)
            .handler(async || Ok::<(), redrive::Failure>(()))
            .build()
            .unwrap();
        let mut status = worker.handle().status();
        assert_eq!(line(&status, 0.0, None), "0.0/s · 0 of 16 running · 0 waiting · 0 done");
        status.running = 3;
        status.waiting = 2;
        status.totals.completed = 1_204;
        status.totals.retried = 5;
        status.totals.dead_lettered.insert("http_422".into(), 2);
        status.breaker = Some(BreakerState::Open {
            until: redrive::clock::Clock::system().now(),
        });
        status.draining = true;
        assert_eq!(
            line(&status, 12.34, Some(3_400)),
            "12.3/s · 3 of 16 running · 2 waiting · 1,204 done · 5 failed · 2 dead · about 3,400 in the queue · breaker \
             open · draining"
        );
        let summary = Summary::new("orders", &status.totals, Duration::from_secs(9));
        assert_eq!(
            summary.text(),
            "1,204 messages done, 5 failed and tried again, 2 dead-lettered (2 http_422)"
        );
    }
}
