//! All that is known of one dead letter.

use std::collections::BTreeMap;
use std::time::Duration;

use console::Style;
use redrive::dlq::{DeadLetter, MOVED_BY_SQS};
use redrive::message::{Attribute, AttributeValue};
use serde::Serialize;

use super::inbox::{InboxRecord, Unknown, is_silent};
use super::pretty::pretty;
use super::summary::{Earlier, Summary};
use crate::ui::{Ui, bytes, count, safe, safe_lines, short_age, timestamp};

/// The width of the labels.
const LABEL: usize = 13;

/// A dead letter's story. The field names are part of the tool's interface.
#[derive(Debug, Serialize)]
pub(crate) struct Story {
    #[serde(flatten)]
    summary: Summary,
    queue: String,
    sent_at_ms: Option<u64>,
    trace: Option<String>,
    attributes: BTreeMap<String, ShownAttribute>,
    body: String,
    #[serde(skip)]
    asked: Asked,
}

/// How far the inbox was asked.
#[derive(Debug)]
pub(crate) enum Asked {
    /// No table was named.
    No,
    /// The table of this name was, and knows this or not.
    Table(String, Option<Unknown>),
}

/// An attribute; a binary value is in base64.
#[derive(Debug, Serialize)]
struct ShownAttribute {
    data_type: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_base64: Option<String>,
    #[serde(skip)]
    size: usize,
}

impl Story {
    /// Of a letter of `queue`; `now_ms` is in ms since 1970.
    pub(crate) fn of(letter: &DeadLetter, queue: &str, now_ms: u64) -> Self {
        let trace = letter.envelope.as_ref().and_then(|envelope| envelope.trace.as_deref());
        Self {
            summary: Summary::of(letter, now_ms),
            queue: queue.to_owned(),
            sent_at_ms: letter.message().sent_at_ms,
            trace: trace.or(letter.message().trace_context()).map(str::to_owned),
            attributes: letter
                .attributes
                .iter()
                .map(|(name, attribute)| (name.clone(), ShownAttribute::of(attribute)))
                .collect(),
            body: letter.body().to_owned(),
            asked: Asked::No,
        }
    }

    /// With what the inbox `table` answered.
    pub(crate) fn with_inbox(mut self, table: &str, answer: Result<InboxRecord, Unknown>) -> Self {
        match answer {
            Ok(record) => {
                self.summary.inbox = Some(record);
                self.asked = Asked::Table(table.to_owned(), None);
            }
            Err(unknown) => self.asked = Asked::Table(table.to_owned(), Some(unknown)),
        }
        self
    }

    /// Tells it to a person.
    pub(crate) fn tell(&self, ui: &Ui) {
        ui.line(format_args!("{} {}", heading("dead letter"), safe(&self.summary.id)));
        self.tell_why(ui);
        self.tell_where(ui);
        self.tell_inbox(ui);
        self.tell_attributes(ui);
        ui.line("");
        match pretty(&self.body) {
            Some(json) => {
                ui.line(heading("body"));
                ui.line(safe_lines(&json));
            }
            None if self.body.is_empty() => ui.line(format_args!("{} (empty)", heading("body"))),
            None => {
                ui.line(format_args!("{} (no JSON)", heading("body")));
                ui.line(safe_lines(&self.body));
            }
        }
    }

    fn tell_why(&self, ui: &Ui) {
        let summary = &self.summary;
        let reason = Style::new().yellow().apply_to(safe(&summary.reason)).to_string();
        match meaning(&summary.reason) {
            Some(meaning) => item(ui, "reason", format_args!("{reason}: {meaning}")),
            None => item(ui, "reason", reason),
        }
        if let Some(error) = &summary.error {
            item(ui, "error", safe(error));
        }
        if let Some(attempts) = summary.attempts {
            item(ui, "attempts", attempts);
        }
        if summary.replays > 0 {
            let times = count(u64::from(summary.replays), "time");
            item(ui, "replays", format_args!("came back and died again {times}"));
        }
        if let (Some(at), Some(age)) = (summary.died_at_ms, summary.age_s) {
            let age = short_age(Duration::from_secs(age));
            // Without an envelope nobody wrote down when it died.
            let label = if is_silent(&summary.reason) { "sent" } else { "died" };
            item(ui, label, format_args!("{age} ago ({})", timestamp(at)));
        }
        if let Some(earlier) = &summary.earlier {
            self::earlier(earlier, ui);
        }
    }

    fn tell_where(&self, ui: &Ui) {
        let summary = &self.summary;
        item(ui, "key", safe(&summary.key));
        let texts = [
            ("type", &summary.message_type),
            ("group", &summary.group),
            ("source", &summary.source),
            ("original id", &summary.original_message_id),
            ("trace", &self.trace),
        ];
        for (label, text) in texts {
            if let Some(text) = text {
                item(ui, label, safe(text));
            }
        }
        item(
            ui,
            "receives",
            format_args!("{} from `{}`; every look is one", summary.receives, self.queue),
        );
        item(ui, "size", bytes(summary.size_bytes as u64));
    }

    fn tell_inbox(&self, ui: &Ui) {
        let Asked::Table(table, unknown) = &self.asked else {
            if is_silent(&self.summary.reason) {
                ui.note("what it died of may be in the workers' inbox: name its table with --table");
            }
            return;
        };
        ui.line("");
        ui.line(format_args!("{} {table}", heading("inbox")));
        let Some(record) = &self.summary.inbox else {
            match unknown {
                Some(Unknown::Record(key)) => item(
                    ui,
                    "record",
                    format_args!(
                        "none of `{}`: it was never claimed, or its record has ended",
                        safe(key.as_str())
                    ),
                ),
                _ => item(
                    ui,
                    "record",
                    "not known whose: several queues, or none, have this dead-letter queue; name one with --consumer",
                ),
            }
            return;
        };
        item(ui, "record", safe(&record.record_key));
        item(ui, "status", format_args!("{}: {}", record.status, record.meaning));
        if let Some(reason) = &record.reason {
            item(ui, "reason", safe(reason));
        }
        if let Some(error) = &record.error {
            item(ui, "error", safe(error));
        }
        item(ui, "attempts", record.attempts);
        if record.deaths > 0 {
            let deaths = count(u64::from(record.deaths), "time");
            item(ui, "deaths", format_args!("its process died {deaths} while running it"));
        }
        item(ui, "first seen", timestamp(record.first_seen_at_ms));
    }

    fn tell_attributes(&self, ui: &Ui) {
        if self.attributes.is_empty() {
            return;
        }
        ui.line("");
        ui.line(heading("attributes"));
        for (name, attribute) in &self.attributes {
            let data_type = safe(&attribute.data_type);
            match (&attribute.value, &attribute.value_base64) {
                (Some(text), _) => item(ui, &safe(name), format_args!("{} ({data_type})", safe(text))),
                (None, base64) => item(
                    ui,
                    &safe(name),
                    format_args!(
                        "{} ({data_type}, {} in base64)",
                        base64.as_deref().unwrap_or_default(),
                        count(attribute.size as u64, "byte")
                    ),
                ),
            }
        }
    }
}

impl ShownAttribute {
    fn of(attribute: &Attribute) -> Self {
        let (value, value_base64, size) = match &attribute.value {
            AttributeValue::Text(text) => (Some(text.clone()), None, text.len()),
            AttributeValue::Binary(bytes) => (None, Some(aws_smithy_types::base64::encode(bytes)), bytes.len()),
        };
        Self {
            data_type: attribute.data_type.clone(),
            value,
            value_base64,
            size,
        }
    }
}

/// Of a letter that nobody told the last death of: what was told of the one before.
fn earlier(earlier: &Earlier, ui: &Ui) {
    let reason = safe(&earlier.reason);
    let attempts = count(u64::from(earlier.attempts), "attempt");
    let when = match (earlier.died_at_ms, earlier.age_s) {
        (Some(at), Some(age)) => format!(", {} ago ({})", short_age(Duration::from_secs(age)), timestamp(at)),
        _ => String::new(),
    };
    item(
        ui,
        "died before",
        format_args!("{reason} after {attempts}{when}; it was replayed since"),
    );
    if let Some(error) = &earlier.error {
        item(ui, "error then", safe(error));
    }
}

fn heading(text: &str) -> String {
    Style::new().bold().apply_to(text).to_string()
}

fn item(ui: &Ui, label: &str, text: impl std::fmt::Display) {
    let gap = LABEL.saturating_sub(console::measure_text_width(label)).max(2);
    ui.line(format_args!("  {label}{:gap$}{text}", ""));
}

/// What one of our reasons means; people's own speak for themselves.
fn meaning(reason: &str) -> Option<&'static str> {
    Some(match reason {
        "rejected" => "the handler said that it can never succeed",
        "attempts_exhausted" => "it failed as often as it may",
        "malformed" => "it could not be read as what the handler takes",
        "unroutable" => "no route is for its type",
        "fingerprint_mismatch" => "its key was used before with another payload",
        "worker_died" => "it took its process down twice",
        "expiring" => "delayed any longer it would have outlived the queue's retention",
        MOVED_BY_SQS => "SQS moved it by itself, so it does not say why",
        _ => return None,
    })
}
