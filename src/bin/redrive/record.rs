//! The line format of exports and backups: one message as JSON, with nothing left out. `docs/queues-and-files.md` is its
//! description; whoever changes it raises [`VERSION`].

use std::collections::BTreeMap;

use aws_smithy_types::base64;
use redrive::dlq::{DeadLetter, Envelope};
use redrive::message::{Attribute, AttributeValue, Attributes, Outgoing};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

/// The version that is written, and the latest that is read.
pub(crate) const VERSION: u32 = 1;

/// A message as it is written.
#[derive(Debug, Serialize)]
pub(crate) struct Written<'a> {
    redrive_export: u32,
    queue: &'a str,
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    sent_at_ms: Option<u64>,
    receives: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deduplication_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_header: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dead_letter_source: Option<&'a str>,
    body: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    attributes: BTreeMap<&'a str, WrittenAttribute<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    envelope: Option<&'a Envelope>,
}

#[derive(Debug, Serialize)]
struct WrittenAttribute<'a> {
    data_type: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_base64: Option<String>,
}

impl<'a> Written<'a> {
    /// A message of `queue`, as it was received.
    pub(crate) fn of(letter: &'a DeadLetter, queue: &'a str) -> Self {
        let message = letter.message();
        Self {
            redrive_export: VERSION,
            queue,
            id: &message.id,
            sent_at_ms: message.sent_at_ms,
            receives: letter.delivery.receive_count,
            group: message.group_id.as_deref(),
            deduplication_id: message.deduplication_id.as_deref(),
            trace_header: message.trace_header.as_deref(),
            dead_letter_source: message.dead_letter_source.as_deref(),
            body: &message.body,
            attributes: message
                .attributes
                .iter()
                .map(|(name, a)| (name.as_str(), a.into()))
                .collect(),
            envelope: letter.envelope.as_ref(),
        }
    }

    /// The line, with its end.
    pub(crate) fn line(&self) -> serde_json::Result<Vec<u8>> {
        let mut line = serde_json::to_vec(self)?;
        line.push(b'\n');
        Ok(line)
    }
}

impl<'a> From<&'a Attribute> for WrittenAttribute<'a> {
    fn from(attribute: &'a Attribute) -> Self {
        let (value, value_base64) = match &attribute.value {
            AttributeValue::Text(text) => (Some(text.as_str()), None),
            AttributeValue::Binary(bytes) => (None, Some(base64::encode(bytes))),
        };
        Self {
            data_type: &attribute.data_type,
            value,
            value_base64,
        }
    }
}

/// A line as it is read. What only tells readers something is not looked at.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    #[allow(dead_code, reason = "it must be there; its value is looked at before the rest")]
    redrive_export: u32,
    body: String,
    #[serde(default)]
    attributes: BTreeMap<String, ReadAttribute>,
    group: Option<String>,
    trace_header: Option<String>,
    id: Option<String>,
    deduplication_id: Option<String>,
    dead_letter_source: Option<String>,
    #[serde(default, rename = "queue")]
    _queue: IgnoredAny,
    #[serde(default, rename = "sent_at_ms")]
    _sent_at_ms: IgnoredAny,
    #[serde(default, rename = "receives")]
    _receives: IgnoredAny,
    #[serde(default, rename = "envelope")]
    _envelope: IgnoredAny,
}

/// An attribute as a line has it: a data type, and a text or bytes in base64.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ReadAttribute {
    data_type: String,
    value: Option<String>,
    value_base64: Option<String>,
}

impl ReadAttribute {
    pub(crate) fn attribute(self, name: &str) -> Result<Attribute, String> {
        let value = match (self.value, self.value_base64) {
            (Some(text), None) => AttributeValue::Text(text),
            (None, Some(text)) => AttributeValue::Binary(decoded(name, &text)?.into()),
            (Some(_), Some(_)) => return Err(format!("attribute `{name}` has both `value` and `value_base64`")),
            (None, None) => return Err(format!("attribute `{name}` has neither `value` nor `value_base64`")),
        };
        Ok(Attribute {
            data_type: self.data_type,
            value,
        })
    }
}

/// The bytes of base64.
pub(crate) fn decoded(name: &str, text: &str) -> Result<Vec<u8>, String> {
    base64::decode(text).map_err(|error| format!("attribute `{name}` is not base64: {error}"))
}

/// A line that was read.
#[derive(Clone, Debug)]
pub(crate) struct Read {
    /// To be sent again. It has no deduplication id: SQS would swallow what repeats one.
    pub(crate) outgoing: Outgoing,
    /// The MessageId it had.
    pub(crate) id: Option<String>,
    /// The FIFO deduplication id it had.
    pub(crate) deduplication_id: Option<String>,
    /// The ARN of the queue from which SQS had moved it.
    pub(crate) dead_letter_source: Option<String>,
}

/// The message of a line, and what was known of it.
pub(crate) fn read(line: &str) -> Result<Read, String> {
    #[derive(Deserialize)]
    struct Version {
        redrive_export: Option<u32>,
    }
    // Of an array serde would take the fields by their order.
    if !line.trim_start().starts_with('{') {
        return Err("no JSON object".to_owned());
    }
    let version: Version = serde_json::from_str(line).map_err(|error| said(&error))?;
    match version.redrive_export {
        Some(1..=VERSION) => {}
        Some(other) => {
            return Err(format!(
                "its format is version {other}, and this redrive reads up to {VERSION}; take a newer one"
            ));
        }
        None => {
            return Err(
                "no line of an export: it has no `redrive_export`; messages in other forms are sent with `redrive queue send --jsonl`"
                    .to_owned(),
            );
        }
    }
    let line: Line = serde_json::from_str(line).map_err(|error| said(&error))?;
    let mut outgoing = Outgoing::new(line.body);
    outgoing.attributes = attributes(line.attributes)?;
    outgoing.group_id = line.group;
    outgoing.trace_header = line.trace_header;
    Ok(Read {
        outgoing,
        id: line.id.filter(|id| !id.is_empty()),
        deduplication_id: line.deduplication_id.filter(|id| !id.is_empty()),
        dead_letter_source: line.dead_letter_source.filter(|arn| !arn.is_empty()),
    })
}

fn attributes(read: BTreeMap<String, ReadAttribute>) -> Result<Attributes, String> {
    read.into_iter()
        .map(|(name, attribute)| attribute.attribute(&name).map(|attribute| (name, attribute)))
        .collect()
}

/// A JSON error of a text of one line: where in it, and what.
pub(crate) fn said(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rsplit_once(" at line 1 column ") {
        Some((what, column)) => format!("column {column}: {what}"),
        None => text,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
mod tests {
    use super::*;
    use redrive::clock::Clock;
    use redrive::key::KeySource;
    use redrive::message::{Delivery, Message, Receipt};

    #[tokio::test]
    async fn what_is_written_is_read_back_byte_for_byte() {
        let mut message = Message::new("m-1", "tab\tend\r\n\u{1}\u{202e}\"\\ é 🦀 \u{2028}");
        message.group_id = Some("g".into());
        message.deduplication_id = Some("d".into());
        message.trace_header = Some("Root=1-2-3".into());
        message.dead_letter_source = Some("arn:orders".into());
        for n in 0..8 {
            message.attributes.insert(format!("a{n}"), Attribute::number(n));
        }
        let labelled = |data_type: &str, value| Attribute {
            data_type: data_type.into(),
            value,
        };
        let bytes = AttributeValue::Binary((0..=255_u8).collect::<Vec<_>>().into());
        message.attributes.insert("png".into(), labelled("Binary.png", bytes));
        let text = AttributeValue::Text("x\u{7}".into());
        message.attributes.insert("s".into(), labelled("String.odd", text));
        let delivery = Delivery::new(message.clone(), Receipt::new("r"), 3, Clock::system().now());
        let letter = DeadLetter::new(delivery, &KeySource::default());
        let line = Written::of(&letter, "orders-dlq").line().unwrap();
        assert_eq!(line.iter().filter(|&&byte| byte == b'\n').count(), 1);
        let read = read(std::str::from_utf8(&line).unwrap()).unwrap();
        assert_eq!(
            (
                read.id.as_deref(),
                read.deduplication_id.as_deref(),
                read.dead_letter_source.as_deref()
            ),
            (Some("m-1"), Some("d"), Some("arn:orders"))
        );
        let read = read.outgoing;
        assert_eq!((&read.body, &read.attributes), (&message.body, &message.attributes));
        assert_eq!(
            (&read.group_id, &read.trace_header),
            (&message.group_id, &message.trace_header)
        );
        assert_eq!(read.deduplication_id, None);
    }

    #[test]
    fn inv12_a_line_that_cannot_be_read_says_what_is_wrong() {
        let line = |rest: &str| format!(r#"{{"redrive_export":1,{rest}}}"#);
        for (line, says) in [
            (String::new(), "no JSON object"),
            ("[1]".into(), "no JSON object"),
            ("{\"body\":".into(), "column 8: EOF while parsing a value"),
            (r#"{"body":"x"}"#.into(), "no `redrive_export`"),
            (r#"{"redrive_export":2,"body":"x","new":1}"#.into(), "version 2"),
            (r#"{"redrive_export":0,"body":"x"}"#.into(), "version 0"),
            (line(r#""id":"m""#), "missing field `body`"),
            (line(r#""body":7"#), "invalid type: integer `7`, expected a string"),
            (line(r#""body":"x","bdy":1"#), "unknown field `bdy`"),
            (
                line(r#""body":"x","attributes":{"a":{"data_type":"Binary","value_base64":"!"}}"#),
                "`a` is not base64",
            ),
            (
                line(r#""body":"x","attributes":{"a":{"data_type":"String"}}"#),
                "neither `value` nor `value_base64`",
            ),
            (
                line(r#""body":"x","attributes":{"a":{"data_type":"String","value":"x","value_base64":"eA=="}}"#),
                "both `value` and `value_base64`",
            ),
        ] {
            let error = read(&line).unwrap_err();
            assert!(error.contains(says), "{line}: {error}");
        }
    }
}
