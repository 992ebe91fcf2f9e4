//! `redrive inbox get`.

use clap::{Args, ValueEnum};
use redrive::inbox::{Inbox as _, InboxEntry, Record, ServiceTime};
use redrive::outcome::StoredResult;

use super::shown::{RecordJson, hex, lease, payload, since};
use super::{KeyFlags, TableFlags};
use crate::connection::Aws;
use crate::failure::{Code, Failure, Outcome};
use crate::ui::{Ui, bytes, safe, short_age, timestamp};

pub(crate) const EXAMPLES: &str = "Examples:
  redrive inbox get orders#order-1001
  redrive inbox get order-1001 --consumer orders --json
  redrive inbox get orders#order-1001 --raw result | jq .";

/// What `redrive inbox get` is asked.
#[derive(Args, Debug)]
pub(crate) struct Get {
    #[command(flatten)]
    key: KeyFlags,

    #[command(flatten)]
    table: TableFlags,

    /// Print only this, byte by byte.
    #[arg(long, value_name = "WHAT", conflicts_with = "json")]
    raw: Option<Payload>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Payload {
    /// What the handler returned.
    Result,
    /// What the handler kept for its next run.
    Checkpoint,
}

impl Get {
    pub(crate) async fn run(&self, aws: &Aws, ui: &Ui) -> Outcome {
        self.key.record_key()?;
        let inbox = self.table.open(aws).await?;
        let entry = self.key.look(&inbox).await?;
        let time = inbox.time();
        if let Some(what) = self.raw {
            ui.raw(raw(&entry, what)?);
        } else if ui.is_json() {
            ui.json(&RecordJson::new(&entry, time));
        } else {
            show(&entry, time, ui);
        }
        Ok(Code::Done)
    }
}

fn raw(entry: &InboxEntry, what: Payload) -> Result<&[u8], Failure> {
    let key = safe(entry.key.as_str());
    let record = entry.record.as_ref().map_err(|why| {
        Failure::new(format_args!("the record of `{key}` cannot be read: {why}"))
            .remedy("look at what it holds, without --raw")
    })?;
    let (name, payload) = match (what, &record.result) {
        (Payload::Result, StoredResult::Json(json)) => ("result", Some(json)),
        (Payload::Result, _) => ("result", None),
        (Payload::Checkpoint, _) => ("checkpoint", record.checkpoint.as_ref()),
    };
    payload
        .map(|bytes| bytes.as_ref())
        .ok_or_else(|| Failure::new(format_args!("the record of `{key}` holds no {name}")))
}

/// Shows an entry to people.
pub(super) fn show(entry: &InboxEntry, time: ServiceTime, ui: &Ui) {
    ui.line(safe(entry.key.as_str()));
    let row = |name: &str, value: &str| ui.line(format_args!("  {name:<12}  {value}"));
    match &entry.record {
        Ok(record) => rows(entry, record, time, row),
        Err(why) => {
            row("damaged", &safe(why));
            row(
                "",
                "somebody wrote to it who is no worker; workers cannot claim the key until it is mended or forgotten",
            );
            for (name, value) in entry.damaged_attributes() {
                if name != "pk" {
                    row(&safe(name), &safe(value));
                }
            }
        }
    }
    row("size", &format!("about {}", bytes(entry.bytes as u64)));
}

fn rows(entry: &InboxEntry, record: &Record, time: ServiceTime, row: impl Fn(&str, &str)) {
    let stuck = if entry.is_stuck(time) { ", stuck" } else { "" };
    row("status", &format!("{}{stuck}", record.status.as_str()));
    if let Some(lease) = lease(entry, time, false) {
        row("lease", &lease);
    }
    if let Some(reason) = &record.reason {
        let sent = if record.dead_letter_sent {
            "its dead letter was sent"
        } else {
            "its dead letter is not sent yet"
        };
        row("reason", &format!("{} ({sent})", safe(reason)));
    }
    row("attempts", &record.attempts.to_string());
    if let Some(error) = &record.last_error {
        row("last error", &safe(error));
    }
    if record.deaths > 0 {
        row("deaths", &format!("{} processes died while running it", record.deaths));
    }
    if record.started {
        row(
            "started",
            "announced, because a process died or lost its lease with this key before",
        );
    }
    row("message id", &safe(&record.message_id));
    let seen = short_age(since(record.first_seen, time));
    row("first seen", &format!("{} ({seen} ago)", timestamp(record.first_seen)));
    let ends = record.expires_at.saturating_mul(1_000);
    let expiry = if record.is_expired(time) {
        "over: it counts as absent, and DynamoDB deletes it some day".to_owned()
    } else {
        format!(
            "in {}",
            short_age(std::time::Duration::from_millis(ends.saturating_sub(time.lo)))
        )
    };
    row("expires", &format!("{} ({expiry})", timestamp(ends)));
    row(
        "claim",
        &format!("{} (fencing token {})", safe(&record.claim_id), record.fencing_token),
    );
    if let Some(print) = &record.fingerprint {
        row("fingerprint", &hex(&print.0));
    }
    match &record.result {
        StoredResult::Nothing => {}
        StoredResult::Omitted => row("result", "not kept: it was too large, or not serialisable"),
        StoredResult::Json(json) => row("result", &payload(json, "result")),
    }
    if let Some(checkpoint) = &record.checkpoint {
        row("checkpoint", &payload(checkpoint, "checkpoint"));
    }
}
