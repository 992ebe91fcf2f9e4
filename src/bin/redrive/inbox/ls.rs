//! `redrive inbox ls`.

use std::ops::ControlFlow;
use std::time::Duration;

use clap::{Args, ValueEnum};
use redrive::inbox::{Inbox as _, InboxEntry, InboxScan, InboxScanEnd, ServiceTime, Status};

use super::shown::{RecordJson, lease, since, status};
use super::{ScanFlags, TableFlags, advance, scan_progress};
use crate::connection::Aws;
use crate::failure::{Code, Outcome};
use crate::ui::{Column, Table, Ui, brief, count, safe, short_age};
use crate::values;

pub(crate) const EXAMPLES: &str = "Examples:
  redrive inbox ls --stuck
  redrive inbox ls --consumer orders --status rejected --older-than 1d
  redrive inbox ls --read-capacity 50 --json > records.jsonl

The whole table is read, whatever is looked for, no faster than --read-capacity. A key alone is read at once by inbox get.";

/// How much of an error is shown in its row.
const LONGEST_ERROR: usize = 120;

/// How many rows are shown unless asked for.
const ROWS: usize = 100;

/// What `redrive inbox ls` is asked.
#[derive(Args, Debug)]
pub(crate) struct Ls {
    /// Only these statuses.
    #[arg(long, value_name = "STATUS", value_delimiter = ',')]
    status: Vec<StatusName>,

    /// Only claims whose lease has run out: their workers died, or lost them.
    #[arg(long)]
    stuck: bool,

    /// Only keys first seen this long ago or longer, such as 2h or 3d.
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    older_than: Option<Duration>,

    /// Only this consumer's keys.
    #[arg(long, value_name = "NAME", env = values::CONSUMER, value_parser = values::consumer)]
    consumer: Option<String>,

    /// Records that have expired, too. They count as absent; DynamoDB deletes them some day.
    #[arg(long)]
    expired: bool,

    /// Stop after N records; 0 for no end. Unless given, 100 for people and no end with --json.
    #[arg(long, short = 'n', value_name = "N", value_parser = values::limit_or_all)]
    limit: Option<usize>,

    #[command(flatten)]
    table: TableFlags,

    #[command(flatten)]
    scan: ScanFlags,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum StatusName {
    Processing,
    Completed,
    Rejected,
    Released,
}

impl From<StatusName> for Status {
    fn from(name: StatusName) -> Self {
        match name {
            StatusName::Processing => Self::Processing,
            StatusName::Completed => Self::Completed,
            StatusName::Rejected => Self::Rejected,
            StatusName::Released => Self::Released,
        }
    }
}

impl Ls {
    pub(crate) async fn run(&self, aws: &Aws, ui: &Ui) -> Outcome {
        let inbox = self.table.open(aws).await?;
        let bar = scan_progress(&inbox, ui, "reading").await?;
        let limit = match self.limit {
            Some(0) => usize::MAX,
            Some(limit) => limit,
            None if ui.is_json() => usize::MAX,
            None => ROWS,
        };
        let mut shown = 0;
        let mut rows: Vec<InboxEntry> = Vec::new();
        let report = inbox
            .scan(&self.scan.limit(self.looks_for(ui))?, |page| {
                advance(&bar, page.scanned);
                for entry in page.entries {
                    if shown == limit {
                        return ControlFlow::Break(());
                    }
                    shown += 1;
                    if ui.is_json() {
                        ui.json(&RecordJson::new(&entry, page.time));
                    } else {
                        rows.push(entry);
                    }
                }
                ControlFlow::Continue(())
            })
            .await?;
        bar.finish_and_clear();
        if !ui.is_json() {
            show(rows, inbox.time(), ui);
        }
        let read = count(report.scanned, "item");
        match report.end {
            InboxScanEnd::Stopped => ui.note(format_args!(
                "{} shown, {read} read; there are more: --limit says how many, 0 for all",
                count(shown as u64, "record")
            )),
            InboxScanEnd::Cancelled => {
                ui.note(format_args!("interrupted after {read}"));
                return Ok(Code::Interrupted);
            }
            _ => ui.note(format_args!("{} of {read}", count(shown as u64, "record"))),
        }
        Ok(Code::Done)
    }

    fn looks_for(&self, ui: &Ui) -> InboxScan {
        let mut scan = InboxScan::new()
            .statuses(self.status.iter().copied().map(Status::from))
            .cancel(ui.interrupt().clone());
        if self.stuck {
            scan = scan.stuck();
        }
        if let Some(age) = self.older_than {
            scan = scan.older_than(age);
        }
        if let Some(consumer) = &self.consumer {
            scan = scan.consumer(consumer);
        }
        if self.expired {
            scan = scan.with_expired();
        }
        scan
    }
}

/// Oldest first; a scan brings them in no order.
fn show(mut entries: Vec<InboxEntry>, time: ServiceTime, ui: &Ui) {
    let seen = |entry: &InboxEntry| entry.record.as_ref().map_or(0, |record| record.first_seen);
    entries.sort_by(|a, b| (seen(a), &a.key).cmp(&(seen(b), &b.key)));
    let mut table = Table::new([
        Column::new("KEY"),
        Column::new("STATUS"),
        Column::new("LEASE"),
        Column::number("ATTEMPTS"),
        Column::new("FIRST SEEN"),
        Column::elastic("LAST ERROR"),
    ]);
    for entry in &entries {
        let key = safe(entry.key.as_str()).into_owned();
        let lease = lease(entry, time, true).unwrap_or_default();
        let name = status(entry, time).to_owned();
        table.row(match &entry.record {
            Ok(record) => {
                let error = match (&record.reason, &record.last_error) {
                    (Some(reason), Some(error)) => format!("{reason}: {error}"),
                    (Some(text), None) | (None, Some(text)) => text.clone(),
                    (None, None) => String::new(),
                };
                let seen = format!("{} ago", short_age(since(record.first_seen, time)));
                [
                    key,
                    name,
                    lease,
                    record.attempts.to_string(),
                    seen,
                    brief(&error, LONGEST_ERROR),
                ]
            }
            Err(why) => [
                key,
                name,
                lease,
                String::new(),
                String::new(),
                brief(why, LONGEST_ERROR),
            ],
        });
    }
    if !table.is_empty() {
        ui.table(table);
    }
}
