//! Keys: what deduplication is by, and fingerprints: what a payload is recognised by.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::dlq::envelope::Envelope;
use crate::message::{KEY_ATTRIBUTE, Message};

/// The most bytes DynamoDB allows a partition key.
const MAX_RECORD_KEY: usize = 2048;

/// The most bytes of a key that are kept as they are; a longer one is hashed.
const MAX_PLAIN_KEY: usize = 1024;

/// What the text of a hashed key begins with.
const HASHED: &str = "sha256:";

/// What deduplication is by, the same for every delivery, copy and replay of one piece of work.
///
/// It goes on to whatever the handler calls: an effect outside the inbox is exactly-once only if what makes it knows the key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Arc<str>);

impl Key {
    /// A key with this text.
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    /// The key's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A function that gives a message's key.
type KeyFunction = dyn Fn(&Message) -> Option<String> + Send + Sync;

/// Where a message's key comes from, after the dead-letter envelope and before the MessageId.
#[derive(Clone, Default)]
#[non_exhaustive]
pub enum KeySource {
    /// The `Idempotency-Key` message attribute, where it is there and not empty.
    #[default]
    Attribute,
    /// A function of the message; where it gives none or an empty one, as [`Attribute`](Self::Attribute).
    Function(Arc<KeyFunction>),
    /// The FIFO deduplication id, after the group id and a `/` where the queue's deduplication is by group (in the group id,
    /// `%` and `/` stand as `%25` and `%2F`). SQS means that id for five
    /// minutes; here it lasts as long as the inbox keeps records, so producers must never use one again for other work.
    DeduplicationId {
        /// Whether the group id is part of the key.
        by_group: bool,
    },
}

impl fmt::Debug for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Attribute => f.write_str("Attribute"),
            Self::Function(_) => f.write_str("Function"),
            Self::DeduplicationId { by_group } => {
                f.debug_struct("DeduplicationId").field("by_group", by_group).finish()
            }
        }
    }
}

impl KeySource {
    /// The message's key: from our envelope, else from this source, else from the `Idempotency-Key` attribute, else the
    /// MessageId, which is the first one where the envelope knows it.
    #[must_use]
    pub fn key_of(&self, message: &Message, envelope: Option<&Envelope>) -> Key {
        let given = || -> Option<Cow<'_, str>> {
            match self {
                Self::Attribute => None,
                Self::Function(function) => function(message).map(Cow::from),
                Self::DeduplicationId { by_group } => {
                    let id = message.deduplication_id.as_deref().filter(|id| !id.is_empty())?;
                    Some(match (by_group, message.group_id.as_deref()) {
                        (true, Some(group)) => format!("{}/{id}", without_slash(group)).into(),
                        _ => id.into(),
                    })
                }
            }
        };
        let is_one = |key: &Cow<'_, str>| !key.is_empty();
        let text = envelope
            .map(|envelope| Cow::from(&envelope.key))
            .filter(is_one)
            .or_else(|| given().filter(is_one))
            .or_else(|| message.attribute(KEY_ATTRIBUTE).map(Cow::from).filter(is_one))
            .or_else(|| envelope.map(|envelope| Cow::from(&envelope.message_id)).filter(is_one))
            .unwrap_or_else(|| Cow::from(&message.id));
        Key::new(text)
    }
}

/// A group id in which no `/` stands, so that what follows the first one is the deduplication id whatever the two hold.
fn without_slash(group: &str) -> Cow<'_, str> {
    match group.contains(['/', '%']) {
        true => group.replace('%', "%25").replace('/', "%2F").into(),
        false => group.into(),
    }
}

/// A consumer's key, as the inbox stores it: `<consumer>#<key>`. A key too long for DynamoDB is hashed, and so is one
/// that would be taken for the hash of another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordKey(Arc<str>);

impl RecordKey {
    /// The record of `key` for `consumer`.
    #[must_use]
    pub fn new(consumer: &str, key: &Key) -> Self {
        let key = key.as_str();
        let long = key.len() > MAX_PLAIN_KEY || consumer.len() + 1 + key.len() > MAX_RECORD_KEY;
        let text = if long || is_hashed(key) {
            format!("{consumer}#{HASHED}{}", hex(&Sha256::digest(key.as_bytes())))
        } else {
            // `format!` costs several times as much, and every message has its record key made.
            let mut text = String::with_capacity(consumer.len() + 1 + key.len());
            text.push_str(consumer);
            text.push('#');
            text.push_str(key);
            text
        };
        Self(text.into())
    }

    /// The record that a person names by `<consumer>#<key>`; `None` where one of the two is missing. The key may hold `#`
    /// itself, and is hashed where it is too long; what looks like a hash is taken for one.
    ///
    /// ```
    /// use redrive::key::RecordKey;
    ///
    /// let key = RecordKey::parse("orders#o-1#refund").expect("it names both");
    /// assert_eq!((key.consumer(), key.key()), ("orders", "o-1#refund"));
    /// assert_eq!(RecordKey::parse("o-1"), None);
    /// ```
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text.split_once('#') {
            Some((consumer, key)) if !consumer.is_empty() && is_hashed(key) => Some(Self(text.into())),
            Some((consumer, key)) if !consumer.is_empty() && !key.is_empty() => {
                Some(Self::new(consumer, &Key::new(key)))
            }
            _ => None,
        }
    }

    /// A partition key as a table holds it, whoever wrote it.
    #[cfg(feature = "aws")]
    pub(crate) fn stored(text: &str) -> Self {
        Self(text.into())
    }

    /// The partition key's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whose key it is; empty where somebody stored one without.
    #[must_use]
    pub fn consumer(&self) -> &str {
        self.0.split_once('#').map_or("", |(consumer, _)| consumer)
    }

    /// The key, or the hash of one too long.
    #[must_use]
    pub fn key(&self) -> &str {
        self.0.split_once('#').map_or(&self.0, |(_, key)| key)
    }
}

/// Whether this is the text of a hashed key.
fn is_hashed(key: &str) -> bool {
    key.strip_prefix(HASHED)
        .is_some_and(|digits| digits.len() == 64 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))
}

impl fmt::Display for RecordKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// SHA-256 of a payload, or of the fields of it that were chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    /// The fingerprint of these bytes.
    #[must_use]
    pub fn of(payload: &[u8]) -> Self {
        Self(Sha256::digest(payload).into())
    }
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}

/// A short, deterministic identifier made of `parts`: SHA-256 in hexadecimal, each part's length counted in.
pub(crate) fn digest_id(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    hex(&hash.finalize())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::message::Attribute;
    use crate::prop::cases;

    /// Texts that look like one another: with separators, hashes of other keys, and about as long as what is hashed.
    fn tricky() -> impl Strategy<Value = String> {
        let part = prop_oneof![
            "[ab]",
            Just("#".to_owned()),
            Just("/".to_owned()),
            "%(2F|25)?",
            Just("sha256:".to_owned())
        ];
        prop_oneof![
            4 => prop::collection::vec(part, 1..5).prop_map(|parts| parts.concat()),
            1 => (1_020usize..1_030).prop_map(|len| "k".repeat(len)),
            1 => (1_020usize..1_030).prop_map(|len| format!("sha256:{}", hex(&Sha256::digest("k".repeat(len))))),
            1 => any::<String>().prop_filter("a key is not empty", |text| !text.is_empty()),
        ]
    }

    proptest! {
        #![proptest_config(cases(256))]

        /// The model of a record's key is the pair itself.
        #[test]
        fn inv02_no_two_pairs_of_consumer_and_key_share_a_record(
            pairs in prop::collection::vec(("[ab/:]{1,3}", tricky()), 2..40),
        ) {
            let mut stored: BTreeMap<String, (String, String)> = BTreeMap::new();
            for (consumer, key) in pairs {
                let record = RecordKey::new(&consumer, &Key::new(key.clone()));
                prop_assert!(record.as_str().len() <= MAX_RECORD_KEY);
                prop_assert_eq!(record.consumer(), &consumer);
                prop_assert_eq!(RecordKey::parse(record.as_str()), Some(record.clone()), "what is shown names it again");
                let before = stored.insert(record.as_str().to_owned(), (consumer.clone(), key.clone()));
                prop_assert!(before.is_none_or(|before| before == (consumer, key)), "{record} is two keys'");
            }
        }

        /// And that of a key by group is the pair of group and id.
        #[test]
        fn no_two_pairs_of_group_and_deduplication_id_share_a_key(
            pairs in prop::collection::vec(("(a|/|%2F|%25|%){1,2}", "(a|/){1,2}"), 2..60),
        ) {
            let source = KeySource::DeduplicationId { by_group: true };
            let mut keys: BTreeMap<Key, (String, String)> = BTreeMap::new();
            for (group, id) in pairs {
                let mut message = Message::new("mid", "{}");
                message.group_id = Some(group.clone());
                message.deduplication_id = Some(id.clone());
                let key = source.key_of(&message, None);
                let before = keys.insert(key.clone(), (group.clone(), id.clone()));
                prop_assert!(before.is_none_or(|before| before == (group, id)), "{key} is two pairs'");
            }
        }

        #[test]
        fn no_two_lists_of_parts_share_an_identifier(
            one in prop::collection::vec("[ab]{0,3}", 0..4),
            other in prop::collection::vec("[ab]{0,3}", 0..4),
        ) {
            let id = |parts: &[String]| digest_id(&parts.iter().map(String::as_str).collect::<Vec<_>>());
            prop_assert_eq!(id(&one) == id(&other), one == other);
        }
    }

    fn message() -> Message {
        let mut message = Message::new("mid", "{}");
        message
            .attributes
            .insert(KEY_ATTRIBUTE.into(), Attribute::string("attr"));
        message.deduplication_id = Some("dedup".into());
        message.group_id = Some("g".into());
        message
    }

    #[test]
    fn the_key_is_looked_for_in_order() {
        let function = KeySource::Function(Arc::new(|_| Some("fn".into())));
        let envelope = Envelope {
            key: "original".into(),
            ..Envelope::default()
        };
        assert_eq!(function.key_of(&message(), Some(&envelope)).as_str(), "original");
        assert_eq!(function.key_of(&message(), None).as_str(), "fn");
        assert_eq!(KeySource::Attribute.key_of(&message(), None).as_str(), "attr");
        let none = KeySource::Function(Arc::new(|_| None));
        assert_eq!(none.key_of(&message(), None).as_str(), "attr");
        let mut bare = message();
        bare.attributes.clear();
        assert_eq!(KeySource::Attribute.key_of(&bare, None).as_str(), "mid");
    }

    #[test]
    fn an_envelope_without_a_key_leaves_it_to_the_source_and_keeps_the_first_message_id() {
        let keyless = Envelope {
            message_id: "first".into(),
            ..Envelope::default()
        };
        let function = KeySource::Function(Arc::new(|_| Some("fn".into())));
        assert_eq!(function.key_of(&message(), Some(&keyless)).as_str(), "fn");
        assert_eq!(KeySource::Attribute.key_of(&message(), Some(&keyless)).as_str(), "attr");
        let bare = Message::new("second", "{}");
        assert_eq!(KeySource::Attribute.key_of(&bare, Some(&keyless)).as_str(), "first");
        let empty = Envelope::default();
        assert_eq!(KeySource::Attribute.key_of(&bare, Some(&empty)).as_str(), "second");
    }

    #[test]
    fn an_empty_key_is_no_key() {
        let mut empty = message();
        empty.attributes.insert(KEY_ATTRIBUTE.into(), Attribute::string(""));
        assert_eq!(KeySource::Attribute.key_of(&empty, None).as_str(), "mid");
    }

    #[test]
    fn the_deduplication_id_counts_only_when_asked_for() {
        let by_group = KeySource::DeduplicationId { by_group: true };
        assert_eq!(by_group.key_of(&message(), None).as_str(), "g/dedup");
        let by_queue = KeySource::DeduplicationId { by_group: false };
        assert_eq!(by_queue.key_of(&message(), None).as_str(), "dedup");
    }

    #[test]
    fn a_key_over_the_limit_is_hashed_and_stays_distinct() {
        let long = |end: &str| RecordKey::new("orders", &Key::new("k".repeat(5_000) + end));
        assert!(long("a").as_str().len() <= MAX_RECORD_KEY);
        assert_ne!(long("a"), long("b"));
        assert_eq!(RecordKey::new("orders", &Key::new("k")).as_str(), "orders#k");
    }

    #[test]
    fn a_record_is_named_by_consumer_and_key() {
        for nothing in ["", "orders", "#", "orders#", "#k"] {
            assert_eq!(RecordKey::parse(nothing), None, "{nothing}");
        }
        let named = RecordKey::parse("orders#a#b").unwrap();
        assert_eq!(
            (named.as_str(), named.consumer(), named.key()),
            ("orders#a#b", "orders", "a#b")
        );
        let long = "k".repeat(5_000);
        let hashed = RecordKey::new("orders", &Key::new(long.clone()));
        assert_eq!(RecordKey::parse(&format!("orders#{long}")), Some(hashed.clone()));
        assert_eq!(RecordKey::parse(hashed.as_str()), Some(hashed));
    }

    #[test]
    fn a_key_that_looks_like_the_hash_of_another_is_not_taken_for_it() {
        let long = Key::new("k".repeat(5_000));
        let stored = RecordKey::new("orders", &long);
        let posing = Key::new(stored.key());
        assert_ne!(RecordKey::new("orders", &posing), stored);
    }

    #[test]
    fn the_same_deduplication_id_in_groups_that_hold_a_slash_is_other_work() {
        let by_group = KeySource::DeduplicationId { by_group: true };
        let key = |group: &str, id: &str| {
            let mut message = Message::new("mid", "{}");
            message.group_id = Some(group.into());
            message.deduplication_id = Some(id.into());
            by_group.key_of(&message, None)
        };
        assert_ne!(key("a/b", "c"), key("a", "b/c"));
        assert_ne!(key("a%2Fb", "c"), key("a/b", "c"));
        assert_eq!(key("a", "b/c").as_str(), "a/b/c");
    }

    #[test]
    fn parts_of_an_identifier_do_not_run_together() {
        assert_ne!(digest_id(&["ab", "c"]), digest_id(&["a", "bc"]));
    }
}
