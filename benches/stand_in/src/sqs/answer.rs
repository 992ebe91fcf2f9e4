//! What a receive answers, written by hand: it is most of what the stand-in does.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use md5::{Digest, Md5};

use super::message::{Attribute, AttributeValue, Delivery, Message};
use super::source::hex;
use crate::answer::Parts;

/// From how many bytes on a body is not copied.
const SHARED_FROM: usize = 4 * 1024;

/// The system attributes there are.
const SYSTEM: [&str; 9] = [
    "ApproximateReceiveCount",
    "SentTimestamp",
    "ApproximateFirstReceiveTimestamp",
    "SenderId",
    "MessageGroupId",
    "MessageDeduplicationId",
    "SequenceNumber",
    "AWSTraceHeader",
    "DeadLetterQueueSourceArn",
];

/// What a receive asked for beside the messages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    system: u16,
    attributes: Vec<String>,
}

impl Wanted {
    pub(crate) fn new<'a>(system: impl Iterator<Item = &'a str>, attributes: Vec<String>) -> Self {
        let bits = system.map(|name| match name {
            "All" => u16::MAX,
            name => SYSTEM.iter().position(|known| *known == name).map_or(0, |at| 1 << at),
        });
        Self {
            system: bits.fold(0, |all, bit| all | bit),
            attributes,
        }
    }

    /// Whether the message attribute of this name is wanted.
    fn attribute(&self, name: &str) -> bool {
        self.attributes.iter().any(|wanted| match wanted.strip_suffix(".*") {
            Some(prefix) => name.starts_with(prefix),
            None => wanted == "All" || wanted == name,
        })
    }
}

/// The answer to a receive that brought these.
pub(crate) fn received(deliveries: &[Delivery], wanted: &Wanted) -> Parts {
    let mut parts = Parts::default();
    if deliveries.is_empty() {
        parts.push(Bytes::from_static(b"{}"));
        return parts;
    }
    let mut out = Vec::with_capacity(64 + deliveries.len() * 1_200);
    out.extend_from_slice(b"{\"Messages\":[");
    for (at, delivery) in deliveries.iter().enumerate() {
        let message = &delivery.message;
        out.extend_from_slice(if at == 0 {
            b"{\"MessageId\":\""
        } else {
            b",{\"MessageId\":\""
        });
        out.extend_from_slice(message_id(message.number).as_bytes());
        out.extend_from_slice(b"\",\"ReceiptHandle\":\"");
        out.extend_from_slice(delivery.handle.as_bytes());
        out.extend_from_slice(b"\",\"MD5OfBody\":\"");
        out.extend_from_slice(message.body.md5.as_bytes());
        out.extend_from_slice(b"\",\"Body\":\"");
        if message.body.escaped.len() < SHARED_FROM {
            out.extend_from_slice(&message.body.escaped);
        } else {
            parts.push(Bytes::from(std::mem::take(&mut out)));
            parts.push(message.body.escaped.clone());
        }
        out.push(b'"');
        system_attributes(&mut out, message, wanted.system);
        attributes(&mut out, &message.attributes, wanted);
        out.push(b'}');
    }
    out.extend_from_slice(b"]}");
    parts.push(Bytes::from(out));
    parts
}

/// The id of the message with this number.
pub(crate) fn message_id(number: u64) -> String {
    format!("00000000-0000-4000-8000-{number:012x}")
}

fn system_attributes(out: &mut Vec<u8>, message: &Message, wanted: u16) {
    if wanted == 0 {
        return;
    }
    let start = out.len();
    let mut before: &[u8] = b",\"Attributes\":{";
    for (at, name) in SYSTEM.iter().enumerate() {
        if wanted & (1 << at) == 0 {
            continue;
        }
        let owned;
        let value: &str = match *name {
            "ApproximateReceiveCount" => {
                owned = message.receive_count.to_string();
                &owned
            }
            "SentTimestamp" => {
                owned = message.sent_ms.to_string();
                &owned
            }
            "ApproximateFirstReceiveTimestamp" => {
                owned = message.first_received_ms.to_string();
                &owned
            }
            "SenderId" => "AIDAIENQZJOLO23YVJ4VO",
            "SequenceNumber" if message.group.is_some() => {
                owned = sequence_number(message.number);
                &owned
            }
            "MessageGroupId" => message.group.as_deref().unwrap_or_default(),
            "MessageDeduplicationId" => message.deduplication_id.as_deref().unwrap_or_default(),
            "AWSTraceHeader" => message.trace.as_deref().unwrap_or_default(),
            "DeadLetterQueueSourceArn" => message.source_arn.as_deref().unwrap_or_default(),
            _ => "",
        };
        if value.is_empty() {
            continue;
        }
        out.extend_from_slice(before);
        before = b",";
        out.push(b'"');
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b"\":");
        quoted(out, value);
    }
    if out.len() > start {
        out.push(b'}');
    }
}

/// The sequence number that a FIFO queue gives the message of this number.
pub(crate) fn sequence_number(number: u64) -> String {
    format!("{:020}", (1 << 60) + number)
}

fn attributes(out: &mut Vec<u8>, all: &BTreeMap<String, Attribute>, wanted: &Wanted) {
    let chosen = || all.iter().filter(|(name, _)| wanted.attribute(name));
    if chosen().next().is_none() {
        return;
    }
    out.extend_from_slice(b",\"MD5OfMessageAttributes\":\"");
    out.extend_from_slice(attributes_md5(chosen()).as_bytes());
    out.extend_from_slice(b"\",\"MessageAttributes\":{");
    for (at, (name, attribute)) in chosen().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        quoted(out, name);
        out.extend_from_slice(b":{\"DataType\":");
        quoted(out, &attribute.data_type);
        match &attribute.value {
            AttributeValue::Text(text) => {
                out.extend_from_slice(b",\"StringValue\":");
                quoted(out, text);
            }
            AttributeValue::Binary(bytes) => {
                out.extend_from_slice(b",\"BinaryValue\":");
                quoted(out, &STANDARD.encode(bytes));
            }
        }
        out.push(b'}');
    }
    out.push(b'}');
}

/// The MD5 of attributes as SQS builds it: of each in the order of names the length and bytes of its name, of its type and,
/// after a byte for its kind, of its value.
pub(crate) fn attributes_md5<'a>(attributes: impl Iterator<Item = (&'a String, &'a Attribute)>) -> String {
    let mut digest = Md5::new();
    let sized = |digest: &mut Md5, bytes: &[u8]| {
        digest.update(u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
        digest.update(bytes);
    };
    for (name, attribute) in attributes {
        sized(&mut digest, name.as_bytes());
        sized(&mut digest, attribute.data_type.as_bytes());
        match &attribute.value {
            AttributeValue::Text(text) => {
                digest.update([1]);
                sized(&mut digest, text.as_bytes());
            }
            AttributeValue::Binary(bytes) => {
                digest.update([2]);
                sized(&mut digest, bytes);
            }
        }
    }
    hex(&digest.finalize())
}

/// Writes a JSON string.
fn quoted(out: &mut Vec<u8>, text: &str) {
    // Writing to a vector does not fail.
    let _ = serde_json::to_writer(out, text);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_md5_of_attributes_is_that_of_sqs() {
        let attribute = |data_type: &str, value| Attribute {
            data_type: data_type.to_owned(),
            value,
        };
        let attributes: BTreeMap<String, Attribute> = [
            (
                "b".to_owned(),
                attribute("Binary", AttributeValue::Binary(vec![0, 0x9f])),
            ),
            (
                "a".to_owned(),
                attribute("String", AttributeValue::Text("é".to_owned())),
            ),
        ]
        .into();
        assert_eq!(attributes_md5(attributes.iter()), "14f6e4d4d13d68eb092ffa21af46d5dd");
    }

    #[test]
    fn attributes_are_wanted_by_name_by_prefix_or_all() {
        let wanted = |name: &str| Wanted::new([].into_iter(), vec![name.to_owned()]);
        for (asked, of_a_b, of_c) in [
            ("All", true, true),
            (".*", true, true),
            ("a.*", true, false),
            ("c", false, true),
        ] {
            let wanted = wanted(asked);
            assert_eq!(
                (wanted.attribute("a.b"), wanted.attribute("c")),
                (of_a_b, of_c),
                "{asked}"
            );
        }
        assert!(!Wanted::default().attribute("c"));
    }
}
