//! `redrive inbox sweep`.

use std::ops::ControlFlow;
use std::pin::pin;
use std::time::Duration;

use clap::Args;
use futures::stream::{self, StreamExt as _};
use redrive::DynamoInbox;
use redrive::clock::Random;
use redrive::inbox::{Inbox as _, InboxEntry, InboxScan, InboxScanEnd, Intervention, Leases, ServiceTime};
use redrive::queue::Queue as _;
use serde::Serialize;

use super::shown::{RecordJson, since};
use super::{ScanFlags, TableFlags, advance, operator_claim, scan_progress};
use crate::connection::Aws;
use crate::failure::{Code, Failure, Outcome};
use crate::ui::{Column, Table, Ui, count, safe, short_age};
use crate::values;

pub(crate) const EXAMPLES: &str = "Examples:
  redrive inbox sweep --queue orders
  redrive inbox sweep --queue orders --release --yes
  redrive inbox sweep --older-than 20d --consumer orders

A claim whose lease ran out longer ago than the queue and its dead-letter queue together keep messages is of no use: no message
can come for it. It reports them (exit code 3 if there are any); with --release it releases them, each on the condition that
nobody has touched it since.";

/// How many claims are held in memory at once.
const ROUND: usize = 10_000;

/// How many are shown.
const ROWS: usize = 20;

/// How many are released at once.
const AT_ONCE: usize = 16;

/// What `redrive inbox sweep` is asked.
#[derive(Args, Debug)]
#[group(id = "since", required = true, multiple = false, args = ["queue", "older_than"])]
pub(crate) struct Sweep {
    /// The queue the keys come from: how long it and its dead-letter queue keep messages says which claims are over, and its
    /// name whose they are.
    #[arg(long, value_name = "QUEUE")]
    queue: Option<String>,

    /// Claims whose lease ran out this long ago or longer, such as 20d.
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    older_than: Option<Duration>,

    /// Only this consumer's keys; the queue's name unless given.
    #[arg(long, value_name = "NAME", env = values::CONSUMER, value_parser = values::consumer)]
    consumer: Option<String>,

    /// Release what is found.
    #[arg(long)]
    release: bool,

    /// Do not ask before releasing.
    #[arg(long, short, requires = "release")]
    yes: bool,

    #[command(flatten)]
    table: TableFlags,

    #[command(flatten)]
    scan: ScanFlags,
}

#[derive(Debug, Serialize)]
struct SweepJson<'a> {
    table: &'a str,
    consumer: Option<&'a str>,
    older_than_s: u64,
    found: usize,
    /// Whether there are more than were looked at in this round.
    more: bool,
    released: u64,
    races_lost: u64,
    damaged: u64,
    /// The first of them.
    claims: Vec<RecordJson<'a>>,
}

/// What is swept.
struct Over {
    for_time: Duration,
    consumer: Option<String>,
}

#[derive(Debug, Default)]
struct Found {
    claims: Vec<InboxEntry>,
    damaged: u64,
    more: bool,
    cancelled: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Acted {
    released: u64,
    races_lost: u64,
}

impl Sweep {
    pub(crate) async fn run(&self, aws: &Aws, ui: &Ui) -> Outcome {
        let over = self.over(aws).await?;
        let inbox = self.table.open(aws).await?;
        let mut found = self.find(&inbox, &over, ui).await?;
        found
            .claims
            .sort_by_key(|entry| entry.record.as_ref().map_or(0, |record| record.lease_until));
        let time = inbox.time();
        let mut acted = Acted::default();
        if !ui.is_json() {
            show(&found, &over, time, ui);
        }
        if found.cancelled {
            return Ok(Code::Interrupted);
        }
        let total = found.claims.len();
        let first: Vec<InboxEntry> = found.claims.iter().take(ROWS).cloned().collect();
        let (more, mut damaged) = (found.more, found.damaged);
        if self.release && total > 0 {
            let or_more = if more { " and all others" } else { "" };
            let claims = count(total as u64, "claim");
            ui.confirm(
                format_args!("release {claims}{or_more}?"),
                self.yes,
                "look without --release, then give --yes",
            )?;
            loop {
                let released_before = acted.released;
                acted = release(&inbox, std::mem::take(&mut found.claims), acted, ui).await?;
                let stop = !found.more || acted.released == released_before || ui.interrupt().is_cancelled();
                if stop {
                    break;
                }
                found = self.find(&inbox, &over, ui).await?;
                damaged = found.damaged;
            }
        }
        if ui.is_json() {
            ui.json(&SweepJson {
                table: inbox.table_name(),
                consumer: over.consumer.as_deref(),
                older_than_s: over.for_time.as_secs(),
                found: total,
                more,
                released: acted.released,
                races_lost: acted.races_lost,
                damaged,
                claims: first.iter().map(|entry| RecordJson::new(entry, time)).collect(),
            });
        } else if self.release && total > 0 {
            let lost = match acted.races_lost {
                0 => String::new(),
                lost => format!("; {} taken over meanwhile, and left alone", count(lost, "claim")),
            };
            ui.line(format_args!("released {}{lost}", count(acted.released, "claim")));
        } else if total > 0 {
            ui.note("nothing was changed: --release releases them");
        }
        Ok(match (total, self.release) {
            _ if ui.interrupt().is_cancelled() => Code::Interrupted,
            (0, _) | (_, true) => Code::Done,
            (_, false) => Code::Found,
        })
    }

    /// For how long a lease must be over, and whose claims are meant.
    async fn over(&self, aws: &Aws) -> Result<Over, Failure> {
        let Some(named) = &self.queue else {
            return Ok(Over {
                for_time: self.older_than.unwrap_or_default(),
                consumer: self.consumer.clone(),
            });
        };
        let queue = aws.queue(named).await?;
        if let Some(problem) = queue.dead_letter_problem() {
            return Err(Failure::new(format_args!(
                "how long the dead letters of `{named}` are kept is not known: {problem}"
            ))
            .remedy("say with --older-than how long ago a lease must have run out"));
        }
        let attributes = queue.attributes();
        let dead = queue.dead_letter_queue().map(|dead| dead.attributes().retention);
        Ok(Over {
            for_time: attributes.retention + dead.unwrap_or_default(),
            consumer: self.consumer.clone().or_else(|| Some(attributes.name.clone())),
        })
    }

    async fn find(&self, inbox: &DynamoInbox, over: &Over, ui: &Ui) -> Result<Found, Failure> {
        let bar = scan_progress(inbox, ui, "reading").await?;
        let mut scan = InboxScan::new().stuck_for(over.for_time).cancel(ui.interrupt().clone());
        if let Some(consumer) = &over.consumer {
            scan = scan.consumer(consumer);
        }
        let mut found = Found::default();
        let report = inbox
            .scan(&self.scan.limit(scan)?, |page| {
                advance(&bar, page.scanned);
                for entry in page.entries {
                    if entry.record.is_err() {
                        found.damaged += 1;
                    } else if found.claims.len() < ROUND {
                        found.claims.push(entry);
                    } else {
                        found.more = true;
                        return ControlFlow::Break(());
                    }
                }
                ControlFlow::Continue(())
            })
            .await?;
        bar.finish_and_clear();
        found.cancelled = report.end == InboxScanEnd::Cancelled;
        Ok(found)
    }
}

/// Releases claims until interrupted, each only as it was read.
async fn release(inbox: &DynamoInbox, claims: Vec<InboxEntry>, mut acted: Acted, ui: &Ui) -> Result<Acted, Failure> {
    let random = Random::from_system();
    let bar = ui.progress(Some(claims.len() as u64), "releasing");
    let mut answers = pin!(
        stream::iter(claims)
            .take_until(ui.interrupt().clone().cancelled_owned())
            .map(|entry| {
                let id = operator_claim(&random);
                async move { inbox.free(&entry, &id, Leases::Respect).await }
            })
            .buffer_unordered(AT_ONCE)
    );
    while let Some(answer) = answers.next().await {
        bar.inc(1);
        match answer {
            Ok(Intervention::Done) => acted.released += 1,
            Ok(_) => acted.races_lost += 1,
            Err(error) => {
                return Err(Failure::new(format_args!(
                    "{error} ({} were released before)",
                    count(acted.released, "claim")
                ))
                .remedy("run it again: it goes on with those that are left"));
            }
        }
    }
    bar.finish_and_clear();
    Ok(acted)
}

fn show(found: &Found, over: &Over, time: ServiceTime, ui: &Ui) {
    let whose = over
        .consumer
        .as_deref()
        .map_or_else(String::new, |consumer| format!(" of {}", safe(consumer)));
    let ago = short_age(over.for_time);
    if found.claims.is_empty() {
        ui.line(format_args!("no claims{whose} whose lease ran out {ago} ago or longer"));
    } else {
        let mut table = Table::new([
            Column::new("KEY"),
            Column::new("LEASE RAN OUT"),
            Column::number("ATTEMPTS"),
            Column::elastic("MESSAGE ID"),
        ]);
        for entry in found.claims.iter().take(ROWS) {
            let Ok(record) = &entry.record else { continue };
            table.row([
                safe(entry.key.as_str()).into_owned(),
                format!("{} ago", short_age(since(record.lease_until, time))),
                record.attempts.to_string(),
                safe(&record.message_id).into_owned(),
            ]);
        }
        ui.table(table);
        let total = found.claims.len();
        let at_least = if found.more { "at least " } else { "" };
        ui.line(format_args!(
            "{at_least}{}{whose} whose lease ran out {ago} ago or longer{}",
            count(total as u64, "claim"),
            if total > ROWS {
                format!("; the first {ROWS} are shown")
            } else {
                String::new()
            }
        ));
    }
    if found.damaged > 0 {
        ui.warn(format_args!(
            "{} with a lease that cannot be read left alone: redrive inbox ls --stuck shows them",
            count(found.damaged, "claim")
        ));
    }
}
