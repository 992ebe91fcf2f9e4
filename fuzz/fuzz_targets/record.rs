//! Items of the inbox table, as somebody may have edited them by hand.
#![no_main]

use std::collections::HashMap;

use arbitrary::Arbitrary;
use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::AttributeValue;
use libfuzzer_sys::fuzz_target;
use redrive::inbox::{InboxEntry, ServiceTime};
use redrive_fuzz::memory::within;

const NAMES: [&str; 18] = [
    "pk", "status", "claim_id", "fencing_token", "lease_until", "attempts", "last_error", "reason", "dlq_sent", "started",
    "deaths", "fingerprint", "result", "checkpoint", "checkpoint_serial", "message_id", "first_seen", "expires_at",
];

#[derive(Arbitrary, Debug)]
enum Value<'a> {
    /// As a record has it.
    Whole,
    Status(u8),
    Number(u64),
    Text(&'a str),
    Digits(&'a str),
    Binary(&'a [u8]),
    Hash([u8; 32]),
    Flag(bool),
    Null,
    Texts(Vec<&'a str>),
    List(Vec<Value<'a>>),
    Map(Vec<(&'a str, Value<'a>)>),
}

impl Value<'_> {
    fn attribute(&self, name: &str, size: &mut usize) -> AttributeValue {
        let mut text = |text: &str| {
            *size += text.len();
            text.to_owned()
        };
        match self {
            Self::Whole => match name {
                "status" => AttributeValue::S("processing".into()),
                "pk" | "claim_id" | "message_id" | "last_error" | "reason" => AttributeValue::S("orders#k".into()),
                "dlq_sent" | "started" => AttributeValue::Bool(true),
                "fingerprint" => AttributeValue::B(Blob::new([7; 32])),
                "result" | "checkpoint" => AttributeValue::B(Blob::new(*b"{}")),
                _ => AttributeValue::N("1700000000".into()),
            },
            Self::Status(at) => {
                let all = ["processing", "completed", "rejected", "released", "Completed"];
                AttributeValue::S(all[usize::from(*at) % all.len()].into())
            }
            Self::Number(number) => AttributeValue::N(number.to_string()),
            Self::Text(value) => AttributeValue::S(text(value)),
            Self::Digits(value) => AttributeValue::N(text(value)),
            Self::Binary(bytes) => {
                *size += bytes.len();
                AttributeValue::B(Blob::new(*bytes))
            }
            Self::Hash(bytes) => AttributeValue::B(Blob::new(*bytes)),
            Self::Flag(flag) => AttributeValue::Bool(*flag),
            Self::Null => AttributeValue::Null(true),
            Self::Texts(texts) => AttributeValue::Ss(texts.iter().map(|value| text(value)).collect()),
            Self::List(values) => {
                *size += 64 * values.len();
                AttributeValue::L(values.iter().map(|value| value.attribute("", size)).collect())
            }
            Self::Map(values) => {
                *size += 64 * values.len();
                let entries = values.iter().map(|(name, value)| {
                    *size += name.len();
                    ((*name).to_owned(), value.attribute("", size))
                });
                AttributeValue::M(entries.collect())
            }
        }
    }
}

fuzz_target!(|input: (u64, Vec<(u8, Option<Value<'_>>)>, Vec<(&str, Value<'_>)>)| {
    let (now, changed, more) = input;
    let mut size = 1_024;
    let mut item = HashMap::new();
    for name in NAMES {
        item.insert(name.to_owned(), Value::Whole.attribute(name, &mut size));
    }
    for (at, value) in &changed {
        let name = NAMES[usize::from(*at) % NAMES.len()];
        match value {
            Some(value) => item.insert(name.to_owned(), value.attribute(name, &mut size)),
            None => item.remove(name),
        };
    }
    for (name, value) in more.iter().take(20) {
        size += name.len() + 256;
        item.insert((*name).to_owned(), value.attribute(name, &mut size));
    }
    let entry = within(size, 16, 16 << 10, || InboxEntry::of_item(&item));
    let time = ServiceTime { lo: now, hi: now.saturating_add(1_000) };
    let _ = (entry.is_stuck(time), entry.ran_out(time), entry.held_for(time), entry.status());
    match &entry.record {
        Ok(record) => {
            assert!(entry.damaged_attributes().is_empty());
            // What was read is what would be written.
            let again = InboxEntry::of_item(&InboxEntry::item_of(record));
            assert_eq!(again.record.as_ref(), Ok(record));
            assert!(record.fencing_token < u64::MAX, "one must be left to be larger");
        }
        Err(why) => {
            assert!(NAMES.iter().any(|name| why.contains(&format!("`{name}`"))), "it names no attribute: {why}");
            assert!(why.len() < 1_000 && !why.contains(|c: char| c.is_control()), "{why:?}");
            for shown in entry.damaged_attributes().values() {
                assert!(shown.len() < 1_000);
            }
        }
    }
});
