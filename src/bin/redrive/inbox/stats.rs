//! `redrive inbox stats`.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use clap::Args;
use redrive::inbox::{Inbox as _, InboxEntry, InboxScan, InboxScanEnd, ServiceTime};
use serde::Serialize;

use super::shown::{since, status};
use super::{ScanFlags, TableFlags, advance, scan_progress};
use crate::connection::Aws;
use crate::failure::{Code, Outcome};
use crate::ui::{Column, Table, Ui, bytes, count, safe, short_age};
use crate::values;

pub(crate) const EXAMPLES: &str = "Examples:
  redrive inbox stats
  redrive inbox stats --consumer orders --read-capacity 50 --json

The whole table is read once, no faster than --read-capacity. Records change meanwhile: counts are of the moment at which
each was read. The size is estimated from the read capacity that DynamoDB charges.";

/// How many consumers are told apart; further ones are counted together.
const CONSUMERS: usize = 1_000;

/// What `redrive inbox stats` is asked.
#[derive(Args, Debug)]
pub(crate) struct Stats {
    /// Only this consumer's keys.
    #[arg(long, value_name = "NAME", env = values::CONSUMER, value_parser = values::consumer)]
    consumer: Option<String>,

    #[command(flatten)]
    table: TableFlags,

    #[command(flatten)]
    scan: ScanFlags,
}

/// Counts of a consumer's records.
#[derive(Clone, Debug, Default, Serialize)]
struct Counts {
    consumer: String,
    /// Claims whose lease may hold.
    processing: u64,
    /// Claims whose lease has run out.
    stuck: u64,
    completed: u64,
    rejected: u64,
    released: u64,
    /// Past their expiry, and still to be deleted by DynamoDB.
    expired: u64,
    /// Items that cannot be read as records.
    damaged: u64,
    oldest_first_seen_at_ms: Option<u64>,
}

#[derive(Debug, Serialize)]
struct StatsJson<'a> {
    table: &'a str,
    scanned: u64,
    complete: bool,
    size_estimate_bytes: u64,
    read_units: f64,
    longest_stuck: Option<&'a Longest>,
    consumers: Vec<&'a Counts>,
}

/// The claim whose lease ran out first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Longest {
    key: String,
    lease_until_at_ms: u64,
}

#[derive(Debug, Default)]
struct Tally {
    consumers: BTreeMap<String, Counts>,
    longest: Option<Longest>,
}

impl Stats {
    pub(crate) async fn run(&self, aws: &Aws, ui: &Ui) -> Outcome {
        let inbox = self.table.open(aws).await?;
        let bar = scan_progress(&inbox, ui, "reading").await?;
        let mut scan = InboxScan::new().with_expired().cancel(ui.interrupt().clone());
        if let Some(consumer) = &self.consumer {
            scan = scan.consumer(consumer);
        }
        let mut tally = Tally::default();
        let report = inbox
            .scan(&self.scan.limit(scan)?, |page| {
                advance(&bar, page.scanned);
                for entry in &page.entries {
                    tally.add(entry, page.time);
                }
                ControlFlow::Continue(())
            })
            .await?;
        bar.finish_and_clear();
        let complete = report.end == InboxScanEnd::Exhausted;
        // A unit of an eventually consistent read is 8 KiB.
        let size = (report.read_units * 8_192.0) as u64;
        if ui.is_json() {
            ui.json(&StatsJson {
                table: inbox.table_name(),
                scanned: report.scanned,
                complete,
                size_estimate_bytes: size,
                read_units: report.read_units,
                longest_stuck: tally.longest.as_ref(),
                consumers: tally.consumers.values().collect(),
            });
        } else {
            tally.show(inbox.time(), ui);
            ui.note(format_args!(
                "{} read, at most {} in all (estimated from {} read units)",
                count(report.scanned, "item"),
                bytes(size),
                report.read_units
            ));
        }
        if !complete {
            ui.warn("interrupted: the counts are of what was read until then");
            return Ok(Code::Interrupted);
        }
        Ok(Code::Done)
    }
}

impl Tally {
    fn add(&mut self, entry: &InboxEntry, time: ServiceTime) {
        let name = entry.key.consumer();
        let name = if self.consumers.contains_key(name) || self.consumers.len() < CONSUMERS {
            name
        } else {
            "(others)"
        };
        let counts = self.consumers.entry(name.to_owned()).or_insert_with(|| Counts {
            consumer: name.to_owned(),
            ..Counts::default()
        });
        let count = match status(entry, time) {
            "processing" => &mut counts.processing,
            "stuck" => &mut counts.stuck,
            "completed" => &mut counts.completed,
            "rejected" => &mut counts.rejected,
            "released" => &mut counts.released,
            "expired" => &mut counts.expired,
            _ => &mut counts.damaged,
        };
        *count += 1;
        let Ok(record) = &entry.record else { return };
        let oldest = counts.oldest_first_seen_at_ms.get_or_insert(record.first_seen);
        *oldest = record.first_seen.min(*oldest);
        let longer = self
            .longest
            .as_ref()
            .is_none_or(|known| record.lease_until < known.lease_until_at_ms);
        if entry.is_stuck(time) && longer {
            self.longest = Some(Longest {
                key: entry.key.to_string(),
                lease_until_at_ms: record.lease_until,
            });
        }
    }

    fn show(&self, time: ServiceTime, ui: &Ui) {
        if self.consumers.is_empty() {
            ui.line("the table holds no records");
            return;
        }
        let mut table = Table::new([
            Column::new("CONSUMER"),
            Column::number("PROCESSING"),
            Column::number("STUCK"),
            Column::number("COMPLETED"),
            Column::number("REJECTED"),
            Column::number("RELEASED"),
            Column::number("EXPIRED"),
            Column::number("DAMAGED"),
            Column::new("OLDEST"),
        ]);
        for counts in self.consumers.values() {
            let oldest = counts.oldest_first_seen_at_ms;
            let mut row = vec![safe(&counts.consumer).into_owned()];
            row.extend(
                [
                    counts.processing,
                    counts.stuck,
                    counts.completed,
                    counts.rejected,
                    counts.released,
                    counts.expired,
                    counts.damaged,
                ]
                .map(|number| indicatif::HumanCount(number).to_string()),
            );
            row.push(oldest.map_or_else(String::new, |ms| format!("{} ago", short_age(since(ms, time)))));
            table.row(row);
        }
        ui.table(table);
        if let Some(longest) = &self.longest {
            ui.line(format_args!(
                "longest stuck: {}, whose lease ran out {} ago",
                safe(&longest.key),
                short_age(since(longest.lease_until_at_ms, time))
            ));
        }
    }
}
