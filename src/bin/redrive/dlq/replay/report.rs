//! What a replay did, for people and for machines.

use std::path::Path;
use std::time::Duration;

use redrive::dlq::{ReplayEnd, ReplayFailure, ReplayReport};
use serde::Serialize;

use crate::dlq::summary::brief;
use crate::failure::Code;
use crate::ui::{Column, Table, Ui, count};

/// The most failures that are told to people.
const TOLD: usize = 10;

/// How wide an error is at most, in columns.
const ERROR_WIDTH: usize = 160;

/// A report, and what it is about.
pub(super) struct Told<'a> {
    pub(super) job: &'a str,
    pub(super) job_file: Option<&'a Path>,
    pub(super) from: &'a str,
    pub(super) to: Vec<&'a str>,
    pub(super) dry_run: bool,
    /// The file that has what was dropped.
    pub(super) backup: Option<&'a Path>,
    /// How many of those skipped were of another queue than the one that was named.
    pub(super) other_source: u64,
    /// How many earlier runs of the job replayed.
    pub(super) sent_before: u64,
    pub(super) elapsed: Duration,
    pub(super) report: &'a ReplayReport,
}

#[derive(Serialize)]
struct ReportJson<'a> {
    job: &'a str,
    job_file: Option<String>,
    from: &'a str,
    to: &'a [&'a str],
    dry_run: bool,
    backup: Option<String>,
    end: &'static str,
    elapsed_s: f64,
    seen: u64,
    replayed: u64,
    resumed: u64,
    dropped: u64,
    skipped: u64,
    other_source: u64,
    completed: u64,
    behind_group: u64,
    unseen_groups: u64,
    not_reached: u64,
    came_back: u64,
    failed: u64,
    unrouted: u64,
    keyed_by_message_id: u64,
    not_deleted: u64,
    not_dropped: u64,
    lost_hold: u64,
    died_again: u64,
    handled: u64,
    by_reason: Vec<ReasonJson<'a>>,
    failures: Vec<FailureJson<'a>>,
}

#[derive(Serialize)]
struct ReasonJson<'a> {
    reason: &'a str,
    seen: u64,
    replayed: u64,
}

#[derive(Serialize)]
struct FailureJson<'a> {
    id: &'a str,
    key: &'a str,
    error: &'a str,
}

impl Told<'_> {
    /// Prints the report.
    pub(super) fn print(&self, ui: &Ui) {
        if ui.is_json() {
            ui.json(&self.json());
            return;
        }
        let report = self.report;
        let to: Vec<String> = self.to.iter().map(|name| format!("`{name}`")).collect();
        let none_allowed = report.end == ReplayEnd::Limit
            && report.replayed + report.resumed + report.dropped == 0
            && self.sent_before > 0;
        if report.seen == 0 || none_allowed {
            ui.line(match report.end {
                ReplayEnd::Cancelled => format!("nothing was replayed of `{}`", self.from),
                ReplayEnd::Limit => format!(
                    "nothing was replayed of `{}`: earlier runs of the job replayed {}, all that --limit allows",
                    self.from,
                    count(self.sent_before, "message")
                ),
                _ => format!("no dead letters of `{}` to replay", self.from),
            });
            return;
        }
        ui.line(format_args!(
            "{} {} of {} of `{}` to {}",
            if self.dry_run { "would replay" } else { "replayed" },
            indicatif::HumanCount(report.replayed),
            count(report.seen, "dead letter"),
            self.from,
            to.join(", "),
        ));
        let mut table = Table::new([
            Column::elastic("REASON"),
            Column::number("SEEN"),
            Column::number(if self.dry_run { "TO REPLAY" } else { "REPLAYED" }),
        ]);
        for (reason, counts) in &report.by_reason {
            table.row([
                brief(reason, 60),
                indicatif::HumanCount(counts.seen).to_string(),
                indicatif::HumanCount(counts.replayed).to_string(),
            ]);
        }
        ui.table(table);
        for (number, what) in self.rest() {
            if number > 0 {
                ui.line(format_args!("{} {what}", indicatif::HumanCount(number)));
            }
        }
        self.print_failures(ui);
        if let Some(end) = self.end() {
            ui.line(end);
        }
    }

    /// Why letters cannot be replayed: each reason once, with the first letter it is of.
    fn print_failures(&self, ui: &Ui) {
        let mut reasons: Vec<(&str, u64, &ReplayFailure)> = Vec::new();
        for failure in &self.report.failures {
            match reasons.iter_mut().find(|(error, ..)| *error == failure.error) {
                Some((_, times, _)) => *times += 1,
                None => reasons.push((&failure.error, 1, failure)),
            }
        }
        for (error, times, first) in reasons.iter().take(TOLD) {
            ui.line(format_args!(
                "  {}{} (key {}): {}",
                brief(&first.message_id, 40),
                match times {
                    1 => String::new(),
                    more => format!(" and {} more", more - 1),
                },
                brief(&first.key, 40),
                brief(error, ERROR_WIDTH)
            ));
        }
        if reasons.len() > TOLD {
            ui.line("  and other reasons; --json tells the first hundred failures");
        }
    }

    /// What became of those that were not sent now, in the order in which it is told.
    fn rest(&self) -> [(u64, String); 12] {
        let report = self.report;
        let dropped = if self.dry_run { "would be deleted" } else { "deleted" };
        [
            (
                report.resumed,
                "deleted: an earlier run of the job had sent them".to_owned(),
            ),
            (report.dropped, format!("{dropped}: the key is completed")),
            (
                report.skipped.saturating_sub(self.other_source),
                "left: no match for --where".to_owned(),
            ),
            (self.other_source, "left: from another queue".to_owned()),
            (report.completed, "left: the key is completed".to_owned()),
            (
                report.behind_group,
                "left: behind another of the group that is left".to_owned(),
            ),
            (report.came_back, "left: died again since it was replayed".to_owned()),
            (report.not_reached, "left: not reached".to_owned()),
            (report.handled, "of the replayed handled by now".to_owned()),
            (report.died_again, "of the replayed died again".to_owned()),
            (
                report.lost_hold,
                "not held to the end: back by itself within minutes".to_owned(),
            ),
            (report.failed, "left: cannot be replayed".to_owned()),
        ]
    }

    fn end(&self) -> Option<&'static str> {
        match self.report.end {
            ReplayEnd::Cancelled => Some("interrupted before its end"),
            ReplayEnd::Stopped => Some("stopped by itself: too many died again"),
            ReplayEnd::Failed => Some("ended by an error"),
            _ => None,
        }
    }

    fn json(&self) -> ReportJson<'_> {
        let report = self.report;
        ReportJson {
            job: self.job,
            job_file: self.job_file.map(|path| path.display().to_string()),
            from: self.from,
            to: &self.to,
            dry_run: self.dry_run,
            backup: self.backup.map(|path| path.display().to_string()),
            end: match report.end {
                ReplayEnd::Exhausted => "exhausted",
                ReplayEnd::Limit => "limit",
                ReplayEnd::Cancelled => "interrupted",
                ReplayEnd::Stopped => "stopped",
                ReplayEnd::InFlightLimit => "in_flight_limit",
                _ => "failed",
            },
            elapsed_s: self.elapsed.as_secs_f64(),
            seen: report.seen,
            replayed: report.replayed,
            resumed: report.resumed,
            dropped: report.dropped,
            skipped: report.skipped.saturating_sub(self.other_source),
            other_source: self.other_source,
            completed: report.completed,
            behind_group: report.behind_group,
            unseen_groups: self.unseen_groups(),
            not_reached: report.not_reached,
            came_back: report.came_back,
            failed: report.failed,
            unrouted: report.unrouted,
            keyed_by_message_id: report.keyed_by_message_id,
            not_deleted: report.not_deleted,
            not_dropped: report.not_dropped,
            lost_hold: report.lost_hold,
            died_again: report.died_again,
            handled: report.handled,
            by_reason: report
                .by_reason
                .iter()
                .map(|(reason, counts)| ReasonJson {
                    reason,
                    seen: counts.seen,
                    replayed: counts.replayed,
                })
                .collect(),
            failures: report
                .failures
                .iter()
                .map(|failure| FailureJson {
                    id: &failure.message_id,
                    key: &failure.key,
                    error: &failure.error,
                })
                .collect(),
        }
    }

    /// How many FIFO groups hide something, where it was to look at all of them.
    pub(super) fn unseen_groups(&self) -> u64 {
        match self.report.end {
            ReplayEnd::Exhausted => self.report.unseen_groups,
            _ => 0,
        }
    }

    /// Whether all that was meant is done.
    pub(super) fn is_all_done(&self) -> bool {
        let report = self.report;
        let to_do =
            report.failed + report.behind_group + report.not_deleted + report.not_dropped + self.unseen_groups();
        match report.end {
            ReplayEnd::Exhausted => to_do + report.not_reached == 0,
            ReplayEnd::Limit => to_do == 0,
            _ => false,
        }
    }

    /// Whether no rerun of the job would find anything to do, whatever its `--where` and `--limit`.
    pub(super) fn is_finished(&self) -> bool {
        let report = self.report;
        let left = report.skipped.saturating_sub(self.other_source) + report.completed;
        report.end == ReplayEnd::Exhausted && left == 0 && self.is_all_done()
    }

    pub(super) fn code(&self) -> Code {
        let report = self.report;
        match report.end {
            ReplayEnd::Cancelled => Code::Interrupted,
            _ if self.is_all_done() && report.completed + report.came_back + report.died_again == 0 => Code::Done,
            _ => Code::Found,
        }
    }
}
