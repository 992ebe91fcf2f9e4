//! `redrive dlq drop`: dead letters deleted, each written to a file before.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use clap::Args;
use redrive::clock::Clock;
use redrive::dlq::{Browser, DeadLetter, ScanEnd, ScanReport, Visit};
use redrive::key::KeySource;
use redrive::queue::Queue as _;
use serde::Serialize;

use super::file::Safe;
use super::filter::{LANGUAGE, Where};
use super::look::{self, Target};
use super::summary::brief;
use crate::connection::{Aws, DeadLetters};
use crate::failure::{Code, Failure, Outcome};
use crate::keys::KeyFlags;
use crate::ui::{self, Column, Table, Ui};
use crate::values;

pub(crate) const EXAMPLES: &str = "Examples:
  redrive dlq drop orders --where 'reason = malformed' --dry-run
  redrive dlq drop orders --where 'reason = malformed'
  redrive dlq drop orders --where 'age > 7d' --limit 1000 --backup old.jsonl --yes
  redrive dlq import orders old.jsonl";

const MANNERS: &str = "Every message is on the disk, in the backup file, before it is deleted; `redrive dlq import` brings it back. \
                       To find what matches, \
                       a drop looks at messages as `redrive dlq ls` does: what is left has spent one \
                       receive. Ctrl-C ends it after the page under way.";

/// How many reasons are told apart.
const REASONS: usize = 100;

/// What `redrive dlq drop` is asked.
#[derive(Args, Debug)]
pub(crate) struct Drop {
    #[command(flatten)]
    target: Target,

    #[command(flatten)]
    filter: Where,

    /// Drop at most this many.
    #[arg(long, short = 'n', value_name = "N", value_parser = values::limit)]
    limit: Option<u64>,

    /// Say what would be dropped, by reason, and delete nothing.
    #[arg(long)]
    dry_run: bool,

    /// Do not ask.
    #[arg(long, short)]
    yes: bool,

    /// The file that gets what is dropped; a new one, named after queue and time unless given.
    #[arg(long, value_name = "FILE")]
    backup: Option<PathBuf>,

    /// Write no file: what is dropped is gone.
    #[arg(long, conflicts_with = "backup")]
    no_backup: bool,

    #[command(flatten)]
    keys: KeyFlags,
}

pub(crate) fn long_help() -> String {
    format!("{EXAMPLES}\n\n{LANGUAGE}\n\n{MANNERS}")
}

/// The JSON result.
#[derive(Serialize)]
struct Dropped<'a> {
    queue: &'a str,
    dry_run: bool,
    seen: u64,
    matched: u64,
    dropped: u64,
    /// They were to be dropped, and SQS did not delete them: they are in the backup and come back.
    not_dropped: u64,
    backup: Option<&'a Path>,
    by_reason: &'a BTreeMap<String, u64>,
}

/// What matched so far.
#[derive(Default)]
struct Matched {
    count: u64,
    by_reason: BTreeMap<String, u64>,
    others: u64,
}

impl Drop {
    pub(crate) async fn run(&self, aws: &Aws, ui: &Ui) -> Outcome {
        let dead = self.target.open(aws, ui).await?;
        let keys = self.keys.source(aws, &dead).await?;
        let attributes = dead.queue.attributes();
        let name = &attributes.name;
        let held = attributes.visible + attributes.in_flight + attributes.delayed;
        let path = (!self.no_backup && !self.dry_run).then(|| {
            let named = || default_backup(name, Clock::system().epoch_ms());
            self.backup.clone().unwrap_or_else(named)
        });
        if !self.dry_run {
            let which = match (self.filter.is_everything(), self.limit) {
                (true, None) => "every dead letter".to_owned(),
                (true, Some(limit)) => format!("up to {}", ui::count(limit, "dead letter")),
                (false, None) => "the dead letters that match".to_owned(),
                (false, Some(limit)) => format!("up to {} that match", ui::count(limit, "dead letter")),
            };
            let safety = match &path {
                Some(path) => format!("each is written to `{}` first", path.display()),
                None => "WITHOUT a backup".to_owned(),
            };
            ui.confirm(
                format_args!(
                    "delete {which} of `{name}`, which holds about {}; {safety}?",
                    ui::count(held, "message")
                ),
                self.yes,
                "look with --dry-run, then give --yes",
            )?;
        }
        let mut backup = path.as_deref().map(Safe::create).transpose()?;
        let mut matched = Matched::default();
        let mut failed = None;
        let scanned = self.scan(&dead, keys, &mut backup, &mut matched, &mut failed, ui).await;
        let kept = backup.and_then(|backup| {
            let path = backup.path().to_owned();
            backup.finish().then_some(path)
        });
        let not_deleted = failed.is_some()
            || match &scanned {
                Ok(report) => report.not_deleted > 0,
                Err(_) => true,
            };
        if let Some(path) = kept.as_ref().filter(|_| not_deleted) {
            ui.note(format_args!(
                "`{}` may hold messages that were not deleted",
                path.display()
            ));
        }
        let report = scanned?;
        self.conclude(&dead, &report, &matched, kept.as_deref(), failed, ui)
    }

    async fn scan(
        &self,
        dead: &DeadLetters,
        keys: KeySource,
        backup: &mut Option<Safe>,
        matched: &mut Matched,
        failed: &mut Option<io::Error>,
        ui: &Ui,
    ) -> Result<ScanReport, Failure> {
        let attributes = dead.queue.attributes();
        let doing = if self.dry_run { "looking at" } else { "dropping" };
        let bar = ui.progress(Some(attributes.visible).filter(|&visible| visible > 0), doing);
        let now_ms = Clock::system().epoch_ms();
        let mut browser = Browser::new(dead.queue.clone())
            .keys(keys)
            .cancel(ui.interrupt().clone());
        if let Some(limit) = self.limit.filter(|_| self.filter.is_everything()) {
            // Then it need not receive more than it drops.
            browser = browser.limit(usize::try_from(limit).unwrap_or(usize::MAX));
        }
        let scanned = browser
            .scan_pages(|letters| {
                let mut visits = Vec::with_capacity(letters.len());
                let before = matched.count;
                for letter in letters {
                    bar.inc(1);
                    if !self.filter.matches(letter, now_ms) {
                        visits.push(Visit::Keep);
                    } else if self.limit.is_some_and(|limit| matched.count >= limit) {
                        visits.push(Visit::Stop);
                        break;
                    } else {
                        matched.add(letter);
                        visits.push(if self.dry_run { Visit::Keep } else { Visit::Delete });
                    }
                }
                let Some(backup) = backup else { return visits };
                let to_drop = letters
                    .iter()
                    .zip(&visits)
                    .filter(|(_, visit)| **visit == Visit::Delete);
                match backup.write(to_drop.map(|(letter, _)| letter), &attributes.name) {
                    Ok(()) => visits,
                    Err(error) => {
                        *failed = Some(error);
                        matched.count = before;
                        vec![Visit::Stop]
                    }
                }
            })
            .await;
        bar.finish_and_clear();
        Ok(scanned?)
    }

    fn conclude(
        &self,
        dead: &DeadLetters,
        report: &ScanReport,
        matched: &Matched,
        backup: Option<&Path>,
        failed: Option<io::Error>,
        ui: &Ui,
    ) -> Outcome {
        let name = &dead.queue.attributes().name;
        if ui.is_json() {
            ui.json(&Dropped {
                queue: name,
                dry_run: self.dry_run,
                seen: report.seen,
                matched: matched.count,
                dropped: report.deleted,
                not_dropped: report.not_deleted,
                backup,
                by_reason: &matched.by_reason,
            });
        } else if matched.count == 0 && failed.is_none() {
            ui.line(match report.seen {
                0 => look::nothing_in(dead),
                seen => format!("no dead letter of the {seen} that were looked at matches; nothing was dropped"),
            });
        } else if self.dry_run {
            ui.table(matched.table());
            ui.line(format_args!(
                "{} of `{name}` would be dropped",
                ui::count(matched.count, "dead letter")
            ));
        } else {
            let kept = backup.map_or_else(String::new, |path| format!("; they are in `{}`", path.display()));
            ui.line(format_args!(
                "dropped {} of `{name}`{kept}",
                ui::count(report.deleted, "dead letter")
            ));
        }
        if let (Some(path), false) = (backup, ui.is_json()) {
            let source = dead
                .named_source
                .as_ref()
                .map_or(name, |source| &source.attributes().name);
            ui.note(format_args!(
                "to bring them back: redrive dlq import {source} {}",
                path.display()
            ));
        }
        self.left_over(dead, report, ui);
        if let Some(error) = failed {
            return Err(Failure::new(format_args!(
                "the backup cannot be written ({error}); nothing was deleted from there on"
            ))
            .remedy("make room, or give another place with --backup"));
        }
        if report.not_deleted > 0 {
            return Err(Failure::new(format_args!(
                "{} could not be deleted and {} back",
                ui::count(report.not_deleted, "message"),
                if report.not_deleted == 1 { "comes" } else { "come" },
            ))
            .remedy("drop again"));
        }
        Ok(match report.end {
            ScanEnd::Cancelled => Code::Interrupted,
            // What was not seen may match.
            ScanEnd::InFlightLimit => Code::Found,
            _ => Code::Done,
        })
    }

    /// Says what became of what was not dropped.
    fn left_over(&self, dead: &DeadLetters, report: &ScanReport, ui: &Ui) {
        let attributes = dead.queue.attributes();
        if report.end == ScanEnd::Cancelled {
            ui.note("interrupted; what was held is given back");
        }
        let kept = report.seen.saturating_sub(report.deleted);
        if kept > 0 {
            ui.note(format_args!(
                "{} looked at and left: given back, with one receive spent each",
                ui::count(kept, "message")
            ));
        }
        if report.lost_hold > 0 {
            ui.warn(format_args!(
                "{} could not be held or given back at once: what is still hidden comes back by itself within 2 minutes",
                ui::count(report.lost_hold, "message"),
            ));
        }
        if attributes.fifo && kept > 0 {
            ui.note("of a FIFO queue a message that is left hides the rest of its group, but for the first ten");
        }
        if report.end == ScanEnd::InFlightLimit {
            ui.warn("there may be more: of what does not match no more can be held at once");
        }
    }
}

impl Matched {
    fn add(&mut self, letter: &DeadLetter) {
        self.count += 1;
        let reason = letter.reason();
        if let Some(count) = self.by_reason.get_mut(reason) {
            *count += 1;
        } else if self.by_reason.len() < REASONS {
            self.by_reason.insert(reason.to_owned(), 1);
        } else {
            self.others += 1;
        }
    }

    fn table(&self) -> Table {
        let mut table = Table::new([Column::number("COUNT"), Column::elastic("REASON")]);
        let mut reasons: Vec<_> = self.by_reason.iter().collect();
        reasons.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        for (reason, count) in reasons {
            table.row([count.to_string(), brief(reason, 100)]);
        }
        if self.others > 0 {
            table.row([self.others.to_string(), "(others)".to_owned()]);
        }
        table
    }
}

/// Such as `redrive-drop-orders-dlq-20231114T221320Z.jsonl`.
pub(super) fn default_backup(queue: &str, now_ms: u64) -> PathBuf {
    let time = ui::timestamp(now_ms).replace([':', '-'], "");
    PathBuf::from(format!("redrive-drop-{queue}-{time}.jsonl"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_backup_is_named_after_queue_and_time() {
        let path = default_backup("orders-dlq.fifo", 1_700_000_000_123);
        assert_eq!(path, Path::new("redrive-drop-orders-dlq.fifo-20231114T221320Z.jsonl"));
    }
}
