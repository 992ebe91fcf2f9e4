//! Records as DynamoDB items, and back.

use std::collections::HashMap;

use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::AttributeValue;
use bytes::Bytes;

use crate::inbox::record::{Record, Status};
use crate::inbox::{InboxError, MAX_RESULT};
use crate::key::{Fingerprint, RecordKey};
use crate::outcome::StoredResult;

/// The names of a record's attributes.
pub(super) mod attribute {
    pub(in crate::inbox::dynamodb) const KEY: &str = "pk";
    pub(in crate::inbox::dynamodb) const STATUS: &str = "status";
    pub(in crate::inbox::dynamodb) const CLAIM_ID: &str = "claim_id";
    pub(in crate::inbox::dynamodb) const FENCING_TOKEN: &str = "fencing_token";
    pub(in crate::inbox::dynamodb) const LEASE_UNTIL: &str = "lease_until";
    pub(in crate::inbox::dynamodb) const ATTEMPTS: &str = "attempts";
    pub(in crate::inbox::dynamodb) const LAST_ERROR: &str = "last_error";
    pub(in crate::inbox::dynamodb) const REASON: &str = "reason";
    pub(in crate::inbox::dynamodb) const DEAD_LETTER_SENT: &str = "dlq_sent";
    pub(in crate::inbox::dynamodb) const STARTED: &str = "started";
    pub(in crate::inbox::dynamodb) const DEATHS: &str = "deaths";
    pub(in crate::inbox::dynamodb) const FINGERPRINT: &str = "fingerprint";
    pub(in crate::inbox::dynamodb) const RESULT: &str = "result";
    pub(in crate::inbox::dynamodb) const CHECKPOINT: &str = "checkpoint";
    pub(in crate::inbox::dynamodb) const CHECKPOINT_SERIAL: &str = "checkpoint_serial";
    pub(in crate::inbox::dynamodb) const MESSAGE_ID: &str = "message_id";
    pub(in crate::inbox::dynamodb) const FIRST_SEEN: &str = "first_seen";
    pub(in crate::inbox::dynamodb) const EXPIRES_AT: &str = "expires_at";
}

use attribute::*;

/// An item as the SDK has it.
pub(super) type Item = HashMap<String, AttributeValue>;

/// The text that stands in the place of a result that could not be kept.
const OMITTED: &str = "omitted";

/// No time in a record can be after this: the year 10000, in ms.
const LATEST_MS: u64 = 253_402_300_800_000;

/// No fencing token can be over this: tokens are near the time in ms, and one must be left to be larger.
const LARGEST_TOKEN: u64 = 1 << 62;

/// The record's attributes with their names; those that hold nothing are left out.
pub(super) fn encode(record: &Record) -> Vec<(&'static str, AttributeValue)> {
    let all = [
        (KEY, Some(text(record.key.as_str()))),
        (STATUS, Some(text(record.status.as_str()))),
        (CLAIM_ID, Some(text(&record.claim_id))),
        (FENCING_TOKEN, Some(number(record.fencing_token))),
        (LEASE_UNTIL, Some(number(record.lease_until))),
        (ATTEMPTS, counted(record.attempts)),
        (LAST_ERROR, record.last_error.as_deref().map(text)),
        (REASON, record.reason.as_deref().map(text)),
        (DEAD_LETTER_SENT, flag(record.dead_letter_sent)),
        (STARTED, flag(record.started)),
        (DEATHS, counted(record.deaths)),
        (FINGERPRINT, record.fingerprint.as_ref().map(|print| binary(&print.0))),
        (RESULT, result_value(&record.result)),
        (CHECKPOINT, record.checkpoint.as_deref().map(binary)),
        (CHECKPOINT_SERIAL, Some(number(record.checkpoint_serial))),
        (MESSAGE_ID, Some(text(&record.message_id))),
        (FIRST_SEEN, Some(number(record.first_seen))),
        (EXPIRES_AT, Some(number(record.expires_at))),
    ];
    all.into_iter()
        .filter_map(|(name, value)| value.map(|value| (name, value)))
        .collect()
}

/// Reads the record of `key` in `inbox`.
///
/// # Errors
/// [`InboxError::Corrupt`], naming the attribute that cannot be.
pub(super) fn decode(inbox: &str, key: &RecordKey, item: &Item) -> Result<Record, InboxError> {
    let read = Reader { inbox, key, item };
    let status = read.required(STATUS, Reader::text)?;
    let status = Status::from_text(&status).ok_or_else(|| {
        read.corrupt(format!(
            "`{STATUS}` is `{}`, which is none of processing, completed, rejected and released",
            shown(&status)
        ))
    })?;
    Ok(Record {
        key: key.clone(),
        status,
        claim_id: read.required(CLAIM_ID, Reader::text)?,
        fencing_token: read.required(FENCING_TOKEN, |read, name| read.number(name, LARGEST_TOKEN))?,
        lease_until: read.required(LEASE_UNTIL, |read, name| read.number(name, LATEST_MS))?,
        attempts: read.count(ATTEMPTS)?,
        last_error: read.text(LAST_ERROR)?,
        reason: read.text(REASON)?,
        dead_letter_sent: read.flag(DEAD_LETTER_SENT)?,
        started: read.flag(STARTED)?,
        deaths: read.count(DEATHS)?,
        fingerprint: read.fingerprint()?,
        result: read.result()?,
        checkpoint: read.binary(CHECKPOINT)?,
        checkpoint_serial: read.number(CHECKPOINT_SERIAL, u64::MAX)?.unwrap_or(0),
        message_id: read.required(MESSAGE_ID, Reader::text)?,
        first_seen: read.required(FIRST_SEEN, |read, name| read.number(name, LATEST_MS))?,
        expires_at: read.required(EXPIRES_AT, |read, name| read.number(name, LATEST_MS / 1_000))?,
    })
}

pub(super) fn text(value: &str) -> AttributeValue {
    AttributeValue::S(value.to_owned())
}

pub(super) fn number(value: u64) -> AttributeValue {
    AttributeValue::N(value.to_string())
}

fn counted(value: u32) -> Option<AttributeValue> {
    (value > 0).then(|| number(u64::from(value)))
}

fn flag(value: bool) -> Option<AttributeValue> {
    value.then_some(AttributeValue::Bool(true))
}

fn binary(value: &[u8]) -> AttributeValue {
    AttributeValue::B(Blob::new(value))
}

fn result_value(result: &StoredResult) -> Option<AttributeValue> {
    match result {
        StoredResult::Nothing => None,
        StoredResult::Json(json) => Some(binary(json)),
        StoredResult::Omitted => Some(text(OMITTED)),
    }
}

/// About how many bytes a value takes on the wire.
pub(super) fn wire_size(value: &AttributeValue) -> usize {
    match value {
        AttributeValue::S(text) | AttributeValue::N(text) => text.len() + 8,
        AttributeValue::B(blob) => blob.as_ref().len() * 4 / 3 + 8,
        _ => 16,
    }
}

/// Reads attributes of one item. One that holds NULL is one that is not there.
struct Reader<'a> {
    inbox: &'a str,
    key: &'a RecordKey,
    item: &'a Item,
}

impl Reader<'_> {
    fn value(&self, name: &str) -> Option<&AttributeValue> {
        self.item
            .get(name)
            .filter(|value| !matches!(value, AttributeValue::Null(_)))
    }

    fn required<T>(
        &self,
        name: &str,
        read: impl Fn(&Self, &str) -> Result<Option<T>, InboxError>,
    ) -> Result<T, InboxError> {
        read(self, name)?.ok_or_else(|| self.corrupt(format!("`{name}` is missing")))
    }

    fn text(&self, name: &str) -> Result<Option<String>, InboxError> {
        match self.value(name) {
            None => Ok(None),
            Some(AttributeValue::S(text)) => Ok(Some(text.clone())),
            Some(other) => Err(self.wrong_type(name, "a string", other)),
        }
    }

    fn number(&self, name: &str, most: u64) -> Result<Option<u64>, InboxError> {
        match self.value(name) {
            None => Ok(None),
            Some(AttributeValue::N(text)) => match text.parse() {
                Ok(number) if number <= most => Ok(Some(number)),
                _ => Err(self.corrupt(format!(
                    "`{name}` is {}, which is not a whole number from 0 to {most}",
                    shown(text)
                ))),
            },
            Some(other) => Err(self.wrong_type(name, "a number", other)),
        }
    }

    fn count(&self, name: &str) -> Result<u32, InboxError> {
        let count = self.number(name, u64::from(u32::MAX))?.unwrap_or(0);
        Ok(u32::try_from(count).unwrap_or(u32::MAX))
    }

    fn flag(&self, name: &str) -> Result<bool, InboxError> {
        match self.value(name) {
            None => Ok(false),
            Some(AttributeValue::Bool(flag)) => Ok(*flag),
            Some(other) => Err(self.wrong_type(name, "a boolean", other)),
        }
    }

    fn binary(&self, name: &str) -> Result<Option<Bytes>, InboxError> {
        match self.value(name) {
            None => Ok(None),
            Some(AttributeValue::B(blob)) if blob.as_ref().len() > MAX_RESULT => Err(self.corrupt(format!(
                "`{name}` holds {} bytes, more than the {MAX_RESULT} allowed",
                blob.as_ref().len()
            ))),
            Some(AttributeValue::B(blob)) => Ok(Some(Bytes::copy_from_slice(blob.as_ref()))),
            Some(other) => Err(self.wrong_type(name, "binary", other)),
        }
    }

    fn fingerprint(&self) -> Result<Option<Fingerprint>, InboxError> {
        let Some(bytes) = self.binary(FINGERPRINT)? else {
            return Ok(None);
        };
        match <[u8; 32]>::try_from(bytes.as_ref()) {
            Ok(print) => Ok(Some(Fingerprint(print))),
            Err(_) => Err(self.corrupt(format!(
                "`{FINGERPRINT}` holds {} bytes instead of the 32 of a SHA-256",
                bytes.len()
            ))),
        }
    }

    fn result(&self) -> Result<StoredResult, InboxError> {
        match self.value(RESULT) {
            Some(AttributeValue::S(text)) if text == OMITTED => Ok(StoredResult::Omitted),
            _ => Ok(self.binary(RESULT)?.map_or(StoredResult::Nothing, StoredResult::Json)),
        }
    }

    fn wrong_type(&self, name: &str, wanted: &str, found: &AttributeValue) -> InboxError {
        let found = match found {
            AttributeValue::S(_) => "a string",
            AttributeValue::N(_) => "a number",
            AttributeValue::B(_) => "binary",
            AttributeValue::Bool(_) => "a boolean",
            AttributeValue::L(_) => "a list",
            AttributeValue::M(_) => "a map",
            _ => "of another type",
        };
        self.corrupt(format!("`{name}` is {found} instead of {wanted}"))
    }

    fn corrupt(&self, why: String) -> InboxError {
        InboxError::Corrupt {
            inbox: self.inbox.to_owned(),
            key: self.key.clone(),
            why,
        }
    }
}

/// The start of a value somebody else wrote, fit to be shown.
fn shown(value: &str) -> String {
    crate::outcome::bounded(value.escape_debug().to_string(), 60)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::key::Key;

    pub(in crate::inbox::dynamodb) fn item_of(record: &Record) -> Item {
        encode(record)
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect()
    }

    prop_compose! {
        pub(in crate::inbox::dynamodb) fn any_record()(
            status in prop::sample::select(vec![
                Status::Processing, Status::Completed, Status::Rejected, Status::Released,
            ]),
            claim_id in "[a-z0-9-]{1,20}",
            fencing_token in 1u64..LARGEST_TOKEN,
            lease_until in 0u64..LATEST_MS,
            (attempts, deaths) in (0u32..10, 0u32..3),
            (last_error, reason) in (prop::option::of(".{0,20}"), prop::option::of("[a-z_]{1,12}")),
            (dead_letter_sent, started) in (any::<bool>(), any::<bool>()),
            fingerprint in prop::option::of(any::<[u8; 32]>()),
            result in prop_oneof![
                Just(StoredResult::Nothing),
                Just(StoredResult::Omitted),
                prop::collection::vec(any::<u8>(), 0..50).prop_map(|json| StoredResult::Json(json.into())),
            ],
            checkpoint in prop::option::of(prop::collection::vec(any::<u8>(), 0..50)),
            checkpoint_serial in 0u64..3,
            message_id in "[a-f0-9]{8}",
            (first_seen, expires_at) in (0u64..LATEST_MS, 0u64..LATEST_MS / 1_000),
        ) -> Record {
            Record {
                key: RecordKey::new("orders", &Key::new("k")),
                status, claim_id, fencing_token, lease_until, attempts, last_error, reason, dead_letter_sent, started,
                deaths,
                fingerprint: fingerprint.map(Fingerprint),
                result,
                checkpoint: checkpoint.map(Bytes::from),
                checkpoint_serial,
                message_id, first_seen, expires_at,
            }
        }
    }

    fn any_value() -> impl Strategy<Value = AttributeValue> {
        prop_oneof![
            ".{0,12}".prop_map(AttributeValue::S),
            "-?[0-9]{1,38}(\\.[0-9]{1,3})?".prop_map(AttributeValue::N),
            prop::collection::vec(any::<u8>(), 0..40).prop_map(|bytes| AttributeValue::B(Blob::new(bytes))),
            any::<bool>().prop_map(AttributeValue::Bool),
            Just(AttributeValue::Null(true)),
            Just(AttributeValue::L(Vec::new())),
            Just(AttributeValue::M(HashMap::new())),
        ]
    }

    /// Attributes that a record need not have.
    const OPTIONAL: [&str; 10] = [
        ATTEMPTS,
        LAST_ERROR,
        REASON,
        DEAD_LETTER_SENT,
        STARTED,
        DEATHS,
        FINGERPRINT,
        RESULT,
        CHECKPOINT,
        CHECKPOINT_SERIAL,
    ];

    fn names() -> Vec<&'static str> {
        let required = [
            STATUS,
            CLAIM_ID,
            FENCING_TOKEN,
            LEASE_UNTIL,
            MESSAGE_ID,
            FIRST_SEEN,
            EXPIRES_AT,
        ];
        required.into_iter().chain(OPTIONAL).collect()
    }

    proptest! {
        #[test]
        fn every_record_survives_its_item(record in any_record()) {
            prop_assert_eq!(decode("inbox", &record.key, &item_of(&record)).unwrap(), record);
        }

        #[test]
        fn inv12_an_item_edited_by_hand_is_read_or_named_corrupt_never_a_panic(
            record in any_record(),
            name in prop::sample::select(names()),
            value in prop::option::of(any_value()),
        ) {
            let mut item = item_of(&record);
            match value {
                Some(value) => item.insert(name.to_owned(), value),
                None => item.remove(name),
            };
            match decode("inbox", &record.key, &item) {
                Ok(read) => prop_assert_eq!(decode("inbox", &record.key, &item_of(&read)).unwrap(), read),
                Err(InboxError::Corrupt { why, .. }) => prop_assert!(why.contains(name), "{why} does not name {name}"),
                Err(other) => prop_assert!(false, "{other}"),
            }
        }
    }

    #[test]
    fn inv12_each_kind_of_damage_is_told_apart() {
        let record = any_record_fixed();
        let broken = |name: &str, value: Option<AttributeValue>| {
            let mut item = item_of(&record);
            match value {
                Some(value) => item.insert(name.to_owned(), value),
                None => item.remove(name),
            };
            decode("inbox", &record.key, &item).unwrap_err().to_string()
        };
        let said = broken(CLAIM_ID, None);
        assert!(
            said.contains("orders#k") && said.contains("`claim_id` is missing"),
            "{said}"
        );
        let said = broken(STATUS, Some(text("done")));
        assert!(said.contains("`status` is `done`"), "{said}");
        let said = broken(LEASE_UNTIL, Some(text("5")));
        assert!(said.contains("`lease_until` is a string instead of a number"), "{said}");
        let said = broken(FENCING_TOKEN, Some(AttributeValue::N("-1".into())));
        assert!(said.contains("`fencing_token` is -1"), "{said}");
        let said = broken(ATTEMPTS, Some(AttributeValue::N("99999999999".into())));
        assert!(said.contains("`attempts` is 99999999999"), "{said}");
        let said = broken(FINGERPRINT, Some(binary(&[1, 2])));
        assert!(said.contains("2 bytes instead of the 32"), "{said}");
        let said = broken(STATUS, Some(text(&"x\n".repeat(1_000))));
        assert!(said.len() < 300 && !said.contains('\n'), "{said}");
    }

    #[test]
    fn what_holds_null_is_not_there() {
        let record = any_record_fixed();
        let mut item = item_of(&record);
        for name in OPTIONAL {
            item.insert(name.to_owned(), AttributeValue::Null(true));
        }
        assert_eq!(decode("inbox", &record.key, &item).unwrap(), record);
    }

    pub(in crate::inbox::dynamodb) fn any_record_fixed() -> Record {
        Record {
            status: Status::Processing,
            claim_id: "w1-1".into(),
            fencing_token: 1_800_000_000_000,
            lease_until: 1_800_000_030_000,
            message_id: "m-1".into(),
            first_seen: 1_800_000_000_000,
            expires_at: 1_803_024_000,
            ..Record::new(RecordKey::new("orders", &Key::new("k")))
        }
    }
}
