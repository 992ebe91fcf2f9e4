//! How records are shown, to people and to machines.

use std::collections::BTreeMap;
use std::time::Duration;

use redrive::inbox::{InboxEntry, Record, ServiceTime, Status};
use redrive::outcome::StoredResult;
use serde::Serialize;

use crate::ui::{safe, short_age};

/// The most bytes of a result or a checkpoint that are shown unless all is asked for.
const SHOWN: usize = 1_024;

/// A record for machines. What cannot be read of a damaged one is absent.
#[derive(Debug, Serialize)]
pub(super) struct RecordJson<'a> {
    key: &'a str,
    consumer: &'a str,
    /// `processing`, `completed`, `rejected`, `released`; null for one that cannot be read.
    status: Option<&'static str>,
    stuck: bool,
    expired: bool,
    /// Why the item is no record, and what it holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    damage: Option<Damage<'a>>,
    #[serde(flatten)]
    record: Option<Known<'a>>,
    bytes: usize,
}

#[derive(Debug, Serialize)]
struct Damage<'a> {
    why: &'a str,
    attributes: &'a BTreeMap<String, String>,
}

#[derive(Debug, Serialize)]
struct Known<'a> {
    message_id: &'a str,
    attempts: u32,
    last_error: Option<&'a str>,
    reason: Option<&'a str>,
    dead_letter_sent: bool,
    started: bool,
    deaths: u32,
    claim_id: &'a str,
    fencing_token: u64,
    lease_until_at_ms: u64,
    first_seen_at_ms: u64,
    expires_at_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    fingerprint: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<PayloadJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    checkpoint: Option<PayloadJson>,
}

/// A result or a checkpoint.
#[derive(Debug, Serialize)]
struct PayloadJson {
    /// `json`, `text`, `base64`, or `omitted` for a result that was not kept.
    format: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<serde_json::Value>,
    bytes: usize,
}

impl<'a> RecordJson<'a> {
    pub(super) fn new(entry: &'a InboxEntry, time: ServiceTime) -> Self {
        Self {
            key: entry.key.as_str(),
            consumer: entry.key.consumer(),
            status: entry.status().map(Status::as_str),
            stuck: entry.is_stuck(time),
            expired: entry.record.as_ref().is_ok_and(|record| record.is_expired(time)),
            damage: entry.record.as_ref().err().map(|why| Damage {
                why,
                attributes: entry.damaged_attributes(),
            }),
            record: entry.record.as_ref().ok().map(Known::new),
            bytes: entry.bytes,
        }
    }
}

impl<'a> Known<'a> {
    fn new(record: &'a Record) -> Self {
        Self {
            message_id: &record.message_id,
            attempts: record.attempts,
            last_error: record.last_error.as_deref(),
            reason: record.reason.as_deref(),
            dead_letter_sent: record.dead_letter_sent,
            started: record.started,
            deaths: record.deaths,
            claim_id: &record.claim_id,
            fencing_token: record.fencing_token,
            lease_until_at_ms: record.lease_until,
            first_seen_at_ms: record.first_seen,
            expires_at_ms: record.expires_at.saturating_mul(1_000),
            fingerprint: record.fingerprint.map(|print| hex(&print.0)),
            result: match &record.result {
                StoredResult::Nothing => None,
                StoredResult::Omitted => Some(PayloadJson {
                    format: "omitted",
                    value: None,
                    bytes: 0,
                }),
                StoredResult::Json(json) => Some(payload_json(json)),
            },
            checkpoint: record.checkpoint.as_deref().map(payload_json),
        }
    }
}

fn payload_json(bytes: &[u8]) -> PayloadJson {
    let (format, value) = match (serde_json::from_slice(bytes), std::str::from_utf8(bytes)) {
        (Ok(json), _) => ("json", json),
        (Err(_), Ok(text)) => ("text", text.into()),
        (Err(_), Err(_)) => ("base64", aws_smithy_types::base64::encode(bytes).into()),
    };
    PayloadJson {
        format,
        value: Some(value),
        bytes: bytes.len(),
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The start of a result or a checkpoint on one line, and what it is.
pub(super) fn payload(bytes: &[u8], name: &str) -> String {
    let (text, kind) = match std::str::from_utf8(bytes) {
        Ok(text) => (safe(text).into_owned(), ""),
        Err(_) => (aws_smithy_types::base64::encode(bytes), " (not text: base64)"),
    };
    let cut = text.char_indices().map(|(at, _)| at).find(|at| *at >= SHOWN);
    match cut {
        None => format!("{text}{kind}"),
        Some(end) => format!(
            "{}…{kind} ({} bytes; --raw {name} prints all)",
            &text[..end],
            bytes.len()
        ),
    }
}

/// How an entry's lease stands, where it has one; `short` for a table.
pub(super) fn lease(entry: &InboxEntry, time: ServiceTime, short: bool) -> Option<String> {
    if let Some(left) = entry.held_for(time) {
        return Some(format!("{} left", short_age(left.max(Duration::from_secs(1)))));
    }
    let ago = || entry.ran_out(time).map(short_age).unwrap_or_default();
    match &entry.record {
        Ok(_) if entry.is_stuck(time) && short => Some(format!("ran out {} ago", ago())),
        Ok(_) if entry.is_stuck(time) => Some(format!(
            "ran out {} ago: its worker died or lost it; the key's next delivery takes it over",
            ago()
        )),
        _ => None,
    }
}

/// How long ago a time in ms was.
pub(super) fn since(ms: u64, time: ServiceTime) -> Duration {
    Duration::from_millis(time.lo.saturating_sub(ms))
}

/// What an entry is called in a column.
pub(super) fn status(entry: &InboxEntry, time: ServiceTime) -> &'static str {
    match (&entry.record, entry.status()) {
        (Err(_), _) | (_, None) => "damaged",
        (Ok(record), _) if record.is_expired(time) => "expired",
        (Ok(_), Some(_)) if entry.is_stuck(time) => "stuck",
        (Ok(_), Some(status)) => status.as_str(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn payloads_are_shown_as_what_they_are_and_not_all_of_it() {
        assert_eq!(payload(b"{\"a\":1}", "result"), "{\"a\":1}");
        assert_eq!(payload(b"a\x1b[2J", "result"), "a\\u{1b}[2J");
        assert_eq!(payload(&[0xff, 0], "checkpoint"), "/wA= (not text: base64)");
        let long = payload("é".repeat(3_000).as_bytes(), "checkpoint");
        assert!(long.ends_with("… (6000 bytes; --raw checkpoint prints all)"), "{long}");
        assert!(long.len() < 1_200);
        let format = |bytes: &[u8]| payload_json(bytes).format;
        assert_eq!(
            (format(b"{}"), format(b"{"), format(&[0xff])),
            ("json", "text", "base64")
        );
    }
}
