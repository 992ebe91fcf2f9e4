//! Items of the table as operators see them: also those that are no records any more.

use std::collections::BTreeMap;
use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;

use super::convert::{Item, attribute, decode};
use crate::inbox::decide::operator::{Hold, is_stuck};
use crate::inbox::record::{Record, Status};
use crate::inbox::{InboxError, ServiceTime};
use crate::key::{RecordKey, hex};
use crate::outcome::bounded;

/// The most bytes of an attribute's text that are shown of a damaged item.
const SHOWN: usize = 200;

/// What tells one state of an item from another: an operator's write is conditional on all of it.
const IDENTITY: [&str; 5] = [
    attribute::STATUS,
    attribute::CLAIM_ID,
    attribute::FENCING_TOKEN,
    attribute::DEAD_LETTER_SENT,
    attribute::LEASE_UNTIL,
];

/// An item of the inbox's table as it was read: a record, or what somebody made of one by hand.
///
/// Operators' writes ([`DynamoInbox::free`](super::DynamoInbox::free), [`DynamoInbox::forget`](super::DynamoInbox::forget))
/// take the entry that was read, and change nothing if the item has become another since.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct InboxEntry {
    /// The partition key.
    pub key: RecordKey,
    /// The record; or, where the item cannot be read as one, why not.
    pub record: Result<Record, String>,
    /// About how many bytes were read of the item. What DynamoDB bills is this, rounded up.
    pub bytes: usize,
    attributes: BTreeMap<String, String>,
    identity: Vec<(&'static str, Option<AttributeValue>)>,
}

impl InboxEntry {
    pub(super) fn read(item: &Item) -> Self {
        let key = match item.get(attribute::KEY) {
            Some(AttributeValue::S(text)) => RecordKey::stored(text),
            _ => RecordKey::stored(""),
        };
        let record = decode("", &key, item).map_err(|error| match error {
            InboxError::Corrupt { why, .. } => why,
            other => other.to_string(),
        });
        let attributes = match &record {
            Ok(_) => BTreeMap::new(),
            Err(_) => item.iter().map(|(name, value)| (name.clone(), shown(value))).collect(),
        };
        Self {
            bytes: item.iter().map(|(name, value)| name.len() + size(value)).sum(),
            identity: IDENTITY.iter().map(|name| (*name, item.get(*name).cloned())).collect(),
            key,
            record,
            attributes,
        }
    }

    /// Reads an item, for the fuzz targets.
    #[cfg(fuzzing)]
    #[doc(hidden)]
    #[must_use]
    pub fn of_item(item: &std::collections::HashMap<String, AttributeValue>) -> Self {
        Self::read(item)
    }

    /// The item of a record, for the fuzz targets.
    #[cfg(fuzzing)]
    #[doc(hidden)]
    #[must_use]
    pub fn item_of(record: &Record) -> std::collections::HashMap<String, AttributeValue> {
        let named = super::convert::encode(record).into_iter();
        named.map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// Where it stands, as far as that can be read.
    #[must_use]
    pub fn status(&self) -> Option<Status> {
        match &self.record {
            Ok(record) => Some(record.status),
            Err(_) => match self.identity(attribute::STATUS) {
                Some(AttributeValue::S(text)) => Status::from_text(text),
                _ => None,
            },
        }
    }

    /// Whether it is a claim whose lease has certainly run out by `time`, which is the inbox's
    /// ([`Inbox::time`](crate::inbox::Inbox::time)): its worker died, or lost it. The next delivery of its key takes it over.
    #[must_use]
    pub fn is_stuck(&self, time: ServiceTime) -> bool {
        self.record.as_ref().is_ok_and(|record| is_stuck(record, time))
    }

    /// How long its lease has certainly been over at `time`; `None` while it may still hold, and where there is none.
    #[must_use]
    pub fn ran_out(&self, time: ServiceTime) -> Option<Duration> {
        let record = self.record.as_ref().ok()?;
        time.lo.checked_sub(record.lease_until).map(Duration::from_millis)
    }

    /// How long somebody may hold its key from `time` on, at most; `None` if nobody does, or it cannot be read.
    #[must_use]
    pub fn held_for(&self, time: ServiceTime) -> Option<Duration> {
        match self.hold(time) {
            Hold::Until(left) => Some(left),
            _ => None,
        }
    }

    /// What a damaged item holds: its attributes and the beginnings of their values, as text. Empty for a record.
    #[must_use]
    pub fn damaged_attributes(&self) -> &BTreeMap<String, String> {
        &self.attributes
    }

    pub(super) fn hold(&self, time: ServiceTime) -> Hold {
        match &self.record {
            Ok(record) => Hold::of(record, time),
            Err(_) => {
                let lease_until = match self.identity(attribute::LEASE_UNTIL) {
                    Some(AttributeValue::N(text)) => text.parse().ok(),
                    _ => None,
                };
                Hold::of_damaged(self.status(), lease_until, time)
            }
        }
    }

    /// The last claim's fencing token, as far as it can be read.
    pub(super) fn fencing_token(&self) -> Option<u64> {
        match self.identity(attribute::FENCING_TOKEN) {
            Some(AttributeValue::N(text)) => text.parse().ok(),
            _ => None,
        }
    }

    /// What must still be so when it is written. A holder's heartbeat moves only the lease: who overrides it does not mind.
    pub(super) fn conditions(&self, any_lease: bool) -> impl Iterator<Item = (&'static str, Option<&AttributeValue>)> {
        self.identity
            .iter()
            .filter(move |(name, _)| !any_lease || *name != attribute::LEASE_UNTIL)
            .map(|(name, value)| (*name, value.as_ref()))
    }

    fn identity(&self, name: &str) -> Option<&AttributeValue> {
        let found = self.identity.iter().find(|(known, _)| *known == name);
        found.and_then(|(_, value)| value.as_ref())
    }
}

/// About how many bytes DynamoDB counts for a value.
/// <https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/CapacityUnitCalculations.html>
fn size(value: &AttributeValue) -> usize {
    match value {
        AttributeValue::S(text) => text.len(),
        AttributeValue::N(digits) => digits.len() / 2 + 2,
        AttributeValue::B(blob) => blob.as_ref().len(),
        AttributeValue::Bool(_) | AttributeValue::Null(_) => 1,
        AttributeValue::L(values) => 3 + values.iter().map(|value| size(value) + 1).sum::<usize>(),
        AttributeValue::M(values) => {
            let entries = values.iter().map(|(name, value)| name.len() + size(value) + 1);
            3 + entries.sum::<usize>()
        }
        _ => 3,
    }
}

fn shown(value: &AttributeValue) -> String {
    let text = match value {
        AttributeValue::S(text) => format!("{text:?}"),
        AttributeValue::N(digits) => digits.clone(),
        AttributeValue::Bool(flag) => flag.to_string(),
        AttributeValue::Null(_) => "null".to_owned(),
        AttributeValue::B(blob) => {
            let bytes = blob.as_ref();
            format!("{} bytes: {}", bytes.len(), hex(&bytes[..bytes.len().min(SHOWN / 4)]))
        }
        AttributeValue::L(values) => format!("a list of {}", values.len()),
        AttributeValue::M(values) => format!("a map of {}", values.len()),
        _ => "a set".to_owned(),
    };
    bounded(text, SHOWN)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
mod tests {
    use super::super::convert::tests::{any_record_fixed, item_of};
    use super::super::convert::text;
    use super::*;

    #[test]
    fn inv12_a_damaged_item_says_why_and_what_it_holds() {
        let mut item = item_of(&any_record_fixed());
        item.insert(attribute::STATUS.to_owned(), text("Done"));
        item.insert("note".to_owned(), text(&"x".repeat(5_000)));
        let entry = InboxEntry::read(&item);
        assert!(entry.record.as_ref().unwrap_err().contains("`status` is `Done`"));
        assert_eq!(entry.status(), None);
        assert_eq!(entry.damaged_attributes()["status"], "\"Done\"");
        assert!(entry.damaged_attributes()["note"].len() <= SHOWN + 3);
        assert!(entry.bytes > 5_000, "{}", entry.bytes);
        let lease = any_record_fixed().lease_until;
        let after = ServiceTime {
            lo: lease,
            hi: lease + 1,
        };
        assert_eq!(entry.hold(after), Hold::Free);
        assert!(!entry.is_stuck(after), "only a record is a claim");
    }

    #[test]
    fn a_record_is_stuck_once_its_lease_has_certainly_run_out() {
        let record = any_record_fixed();
        let entry = InboxEntry::read(&item_of(&record));
        assert_eq!(entry.record.as_ref().unwrap(), &record);
        let at = |lo| ServiceTime { lo, hi: lo + 1_000 };
        assert!(!entry.is_stuck(at(record.lease_until - 1)));
        assert_eq!(
            entry.held_for(at(record.lease_until - 1)),
            Some(Duration::from_millis(1))
        );
        assert!(entry.is_stuck(at(record.lease_until)));
        assert_eq!(
            entry.ran_out(at(record.lease_until + 5)),
            Some(Duration::from_millis(5))
        );
    }
}
