//! One dead letter as an operator sees it, and errors that are the same but for numbers and ids.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::dlq::envelope::Envelope;
use crate::key::{Key, KeySource};
use crate::message::{Attributes, Delivery, Message, TYPE_ATTRIBUTE};

/// The reason that stands for none: SQS's redrive policy moved the message, or somebody put it there, and no envelope of ours
/// tells of this death. What the inbox knows of its key says more.
pub const MOVED_BY_SQS: &str = "redrive_policy";

/// A message in a dead-letter queue, and what it says of itself.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DeadLetter {
    /// The delivery by which it was received.
    pub delivery: Delivery,
    /// Its envelope. Where SQS moved the message it is none, or tells of an [`earlier`](Self::earlier) death.
    pub envelope: Option<Envelope>,
    /// The attributes it had before it died.
    pub attributes: Attributes,
    key: Key,
}

/// What a worker told of a death before the last; see [`DeadLetter::earlier`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct EarlierDeath<'a> {
    /// Why: the text form of a [`Reason`](crate::Reason).
    pub reason: &'a str,
    /// The last error before it; empty where there was none.
    pub error: &'a str,
    /// Attempts counted until then.
    pub attempts: u32,
    /// When it was, in ms since 1970, where known.
    pub died_at_ms: Option<u64>,
}

impl DeadLetter {
    /// Reads a delivery of a dead-letter queue; `keys` says where the key comes from where there is no envelope.
    #[must_use]
    pub fn new(delivery: Delivery, keys: &KeySource) -> Self {
        let envelope = Envelope::of(&delivery.message);
        Self {
            key: keys.key_of(&delivery.message, envelope.as_ref()),
            attributes: Envelope::original_attributes(&delivery.message),
            envelope,
            delivery,
        }
    }

    /// The message as the dead-letter queue holds it.
    #[must_use]
    pub fn message(&self) -> &Message {
        &self.delivery.message
    }

    /// The MessageId it has in the dead-letter queue.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.delivery.message.id
    }

    /// The MessageId it had when it was first received, where that is known.
    #[must_use]
    pub fn original_id(&self) -> Option<&str> {
        let id = self.envelope.as_ref()?.message_id.as_str();
        (!id.is_empty()).then_some(id)
    }

    /// The body.
    #[must_use]
    pub fn body(&self) -> &str {
        &self.delivery.message.body
    }

    /// The envelope, where it tells of the death that brought the message here. One that SQS moved may carry the envelope of
    /// an earlier death, after which it was replayed.
    fn told(&self) -> Option<&Envelope> {
        let told = self.delivery.message.dead_letter_source.is_none();
        self.envelope
            .as_ref()
            .filter(|envelope| told && !envelope.reason.is_empty())
    }

    /// Why it is here: the text form of a [`Reason`](crate::Reason), or [`MOVED_BY_SQS`].
    #[must_use]
    pub fn reason(&self) -> &str {
        self.told().map_or(MOVED_BY_SQS, |envelope| &envelope.reason)
    }

    /// The last error; empty where none is known.
    #[must_use]
    pub fn error(&self) -> &str {
        self.told().map_or("", |envelope| &envelope.error)
    }

    /// Attempts counted; where SQS moved it by itself, none are known.
    #[must_use]
    pub fn attempts(&self) -> Option<u32> {
        self.told().map(|envelope| envelope.attempts)
    }

    /// How often it came back and died again.
    #[must_use]
    pub fn replays(&self) -> u32 {
        let Some(envelope) = &self.envelope else { return 0 };
        // SQS counts nothing. With an envelope it was in its source queue only because it came back; from another queue it
        // may be on its way through several dead-letter queues.
        let moved_from = self.delivery.message.dead_letter_source.as_deref();
        let uncounted = moved_from.is_some_and(|source| source == envelope.source);
        envelope.replays.saturating_add(u32::from(uncounted))
    }

    /// What a worker told of an earlier death: it came back after it, and then SQS moved it by itself.
    #[must_use]
    pub fn earlier(&self) -> Option<EarlierDeath<'_>> {
        let envelope = self.envelope.as_ref().filter(|envelope| !envelope.reason.is_empty())?;
        self.delivery.message.dead_letter_source.as_ref()?;
        Some(EarlierDeath {
            reason: &envelope.reason,
            error: &envelope.error,
            attempts: envelope.attempts,
            died_at_ms: Some(envelope.dead_at_ms).filter(|&at| at > 0),
        })
    }

    /// The key by which the inbox knows it.
    #[must_use]
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// Its type, from the `type` attribute.
    #[must_use]
    pub fn message_type(&self) -> Option<&str> {
        self.attributes
            .get(TYPE_ATTRIBUTE)
            .and_then(|attribute| attribute.as_str())
    }

    /// The ARN of the queue it came from, where that is known: from its envelope, else from SQS, which says it of what its
    /// redrive policy moved.
    #[must_use]
    pub fn source(&self) -> Option<&str> {
        let told = self.envelope.as_ref().map(|envelope| envelope.source.as_str());
        told.filter(|source| !source.is_empty())
            .or(self.delivery.message.dead_letter_source.as_deref())
    }

    /// Body and attributes in bytes, as SQS counts them.
    #[must_use]
    pub fn size(&self) -> usize {
        self.delivery.message.size()
    }

    /// When it died, in ms since 1970: by the worker's clock, else when it was sent, where either is known.
    #[must_use]
    pub fn died_at_ms(&self) -> Option<u64> {
        let by_us = self.told().map(|envelope| envelope.dead_at_ms).filter(|&at| at > 0);
        by_us.or(self.delivery.message.sent_at_ms)
    }

    /// How long ago it died; `now_ms` is in ms since 1970. Clocks of several hosts meet here: it is for people to read.
    #[must_use]
    pub fn age(&self, now_ms: u64) -> Option<Duration> {
        self.died_at_ms()
            .map(|at| Duration::from_millis(now_ms.saturating_sub(at)))
    }
}

/// The shape of an error: its text with numbers and ids left out, so that errors which differ only in these are one.
///
/// ```
/// use redrive::dlq::error_shape;
///
/// let a = error_shape("order 17: gateway 10.0.3.7:8443 timed out after 3000 ms");
/// let b = error_shape("order 9: gateway 10.0.3.12:8443 timed out after 12.5 ms");
/// assert_eq!(a, b);
/// assert_eq!(a, "order #: gateway # timed out after # ms");
/// ```
#[must_use]
pub fn error_shape(error: &str) -> String {
    let mut shape = String::with_capacity(error.len());
    let mut rest = error;
    while let Some(first) = rest.chars().next() {
        if let Some(after) = uuid_at(rest) {
            push_number(&mut shape);
            rest = after;
        } else if first.is_alphanumeric() {
            let end = rest.find(|c: char| !c.is_alphanumeric()).unwrap_or(rest.len());
            let (word, after) = rest.split_at(end);
            if is_id(word) {
                push_number(&mut shape);
            } else {
                shape.push_str(word);
            }
            rest = after;
        } else {
            shape.push(first);
            rest = &rest[first.len_utf8()..];
        }
    }
    shape
}

/// Whether a word is a number or an id: it has a digit, or is a long run of hexadecimal letters.
fn is_id(word: &str) -> bool {
    word.contains(|c: char| c.is_numeric()) || (word.len() >= 12 && word.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// Adds a number; numbers that only `.`, `:`, `,`, `-`, `+` or `/` keep apart are one (dates, addresses, decimals).
fn push_number(shape: &mut String) {
    let joined = shape
        .strip_suffix(['.', ':', ',', '-', '+', '/'])
        .is_some_and(|before| before.ends_with('#'));
    if joined {
        shape.pop();
    } else {
        shape.push('#');
    }
}

/// What follows the UUID that `text` begins with.
fn uuid_at(text: &str) -> Option<&str> {
    let (uuid, after) = text.split_at_checked(36)?;
    let digits = uuid.bytes().enumerate().all(|(at, byte)| match at {
        8 | 13 | 18 | 23 => byte == b'-',
        _ => byte.is_ascii_hexdigit(),
    });
    let ends = !after.starts_with(|c: char| c.is_alphanumeric());
    (digits && ends).then_some(after)
}

/// Dead letters that are one case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ErrorGroup {
    /// How many.
    pub count: u64,
    /// One of their errors in full.
    pub example: String,
    /// When the first died, in ms since 1970, where known.
    pub first_ms: Option<u64>,
    /// When the last died.
    pub last_ms: Option<u64>,
}

/// Counts dead letters by what [`by`](Self::add) says, in bounded memory.
#[derive(Clone, Debug, Default)]
pub struct ErrorGroups {
    groups: BTreeMap<String, ErrorGroup>,
    others: ErrorGroup,
}

/// The most groups that are kept apart; an error of unknown shape in each message must not fill the memory.
const MAX_GROUPS: usize = 1_000;

/// The most bytes of a group's name; a type may be as long as a message.
const MAX_GROUP_NAME: usize = 1_024;

impl ErrorGroups {
    /// Counts `letter` under `by`: its reason, type, or [`error_shape`]. Of a longer one the first 1,024 bytes count.
    pub fn add(&mut self, by: &str, letter: &DeadLetter) {
        let name = by.get(..by.floor_char_boundary(MAX_GROUP_NAME)).unwrap_or(by);
        let full = self.groups.len() >= MAX_GROUPS && !self.groups.contains_key(name);
        let group = if full {
            &mut self.others
        } else {
            self.groups.entry(name.to_owned()).or_default()
        };
        if group.count == 0 {
            letter.error().clone_into(&mut group.example);
        }
        group.count += 1;
        if let Some(at) = letter.died_at_ms() {
            group.first_ms = Some(group.first_ms.map_or(at, |first| first.min(at)));
            group.last_ms = Some(group.last_ms.map_or(at, |last| last.max(at)));
        }
    }

    /// The groups, largest first.
    #[must_use]
    pub fn largest_first(&self) -> Vec<(&str, &ErrorGroup)> {
        let mut groups: Vec<_> = self.groups.iter().map(|(by, group)| (by.as_str(), group)).collect();
        groups.sort_by_key(|(_, group)| std::cmp::Reverse(group.count));
        groups
    }

    /// What came after a thousand groups were there.
    #[must_use]
    pub fn others(&self) -> &ErrorGroup {
        &self.others
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::message::{Attribute, Receipt};
    use proptest::prelude::*;

    fn letter(error: &str, dead_at_ms: u64) -> DeadLetter {
        let envelope = Envelope {
            key: "k".into(),
            reason: "rejected".into(),
            error: error.into(),
            dead_at_ms,
            ..Envelope::default()
        };
        let mut message = Message::new("mid", "{}");
        let text = serde_json::to_string(&envelope).unwrap();
        message
            .attributes
            .insert(crate::dlq::ENVELOPE_ATTRIBUTE.into(), Attribute::string(text));
        let delivery = Delivery::new(message, Receipt::new("r"), 1, Clock::system().now());
        DeadLetter::new(delivery, &KeySource::Attribute)
    }

    #[test]
    fn errors_that_differ_only_in_numbers_and_ids_are_one_group() {
        for (a, b) in [
            ("order 17 failed", "order 9 failed"),
            (
                "id 3f2504e0-4f89-41d3-9a0c-0305e82c3301 gone",
                "id aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee gone",
            ),
            ("charge ch_3NaBc9 declined", "charge ch_9Xy1 declined"),
            ("at 2024-01-02T03:04:05Z", "at 2025-11-12T13:14:15.123Z"),
            ("took 12 ms", "took 12.75 ms"),
            ("digest deadbeefcafe", "digest 0123456789ab"),
        ] {
            assert_eq!(error_shape(a), error_shape(b));
        }
        for (a, b) in [
            ("timed out", "refused"),
            ("order 1 late", "order 1 lost"),
            ("a: x", "b: x"),
            ("facade", "decade"),
        ] {
            assert_ne!(error_shape(a), error_shape(b));
        }
        assert_eq!(error_shape("größe 7 – zu groß"), "größe # – zu groß");
    }

    #[test]
    fn groups_count_with_an_example_and_the_first_and_last_death() {
        let mut groups = ErrorGroups::default();
        for (error, at) in [("order 2 failed", 20), ("order 1 failed", 10), ("refused", 5)] {
            let letter = letter(error, at);
            groups.add(&error_shape(error), &letter);
        }
        let found = groups.largest_first();
        assert_eq!(found[0].0, "order # failed");
        assert_eq!(
            (found[0].1.count, found[0].1.first_ms, found[0].1.last_ms),
            (2, Some(10), Some(20))
        );
        assert_eq!(found[0].1.example, "order 2 failed");
        for n in 0..2 * MAX_GROUPS {
            groups.add(&format!("shape {n}"), &letter("x", 1));
        }
        assert!(groups.largest_first().len() <= MAX_GROUPS);
        assert_eq!(groups.others().count as usize, 2 * MAX_GROUPS + 2 - MAX_GROUPS);
    }

    #[test]
    fn inv05_the_name_of_a_group_is_bounded() {
        let mut groups = ErrorGroups::default();
        let long = "é".repeat(500_000);
        groups.add(&long, &letter("x", 1));
        groups.add(&format!("{long} and more"), &letter("x", 2));
        let found = groups.largest_first();
        assert_eq!(
            (found.len(), found[0].1.count),
            (1, 2),
            "long names are told apart by how they begin"
        );
        assert!(found[0].0.len() <= MAX_GROUP_NAME, "{}", found[0].0.len());
    }

    #[test]
    fn a_letter_without_an_envelope_says_so_and_takes_its_key_from_the_message() {
        let mut message = Message::new("mid", "{}");
        message.sent_at_ms = Some(1_000);
        message.dead_letter_source = Some("arn:orders".into());
        let letter = DeadLetter::new(
            Delivery::new(message, Receipt::new("r"), 1, Clock::system().now()),
            &KeySource::Attribute,
        );
        assert_eq!(
            (letter.reason(), letter.error(), letter.attempts()),
            (MOVED_BY_SQS, "", None)
        );
        assert_eq!(letter.key().as_str(), "mid");
        assert_eq!(letter.source(), Some("arn:orders"));
        assert_eq!(letter.age(4_000), Some(Duration::from_secs(3)));
        assert_eq!(letter.age(0), Some(Duration::ZERO), "a clock that is behind");
    }

    #[test]
    fn the_envelope_of_an_earlier_death_is_not_told_as_this_one() {
        let died = |moved_from: Option<&str>, reason: &str| {
            let mut letter = letter("declined", 7_000);
            let envelope = letter.envelope.as_mut().unwrap();
            envelope.source = "arn:orders".into();
            envelope.reason = reason.into();
            envelope.attempts = 5;
            letter.delivery.message.sent_at_ms = Some(9_000);
            letter.delivery.message.dead_letter_source = moved_from.map(str::to_owned);
            letter
        };
        let told = died(None, "rejected");
        assert_eq!(
            (told.reason(), told.error(), told.attempts(), told.died_at_ms()),
            ("rejected", "declined", Some(5), Some(7_000))
        );
        assert_eq!((told.replays(), told.earlier()), (0, None));
        let moved = died(Some("arn:orders"), "rejected");
        assert_eq!(
            (moved.reason(), moved.error(), moved.attempts(), moved.died_at_ms()),
            (MOVED_BY_SQS, "", None, Some(9_000))
        );
        let earlier = moved.earlier().unwrap();
        assert_eq!(
            (earlier.reason, earlier.error, earlier.attempts, earlier.died_at_ms),
            ("rejected", "declined", 5, Some(7_000))
        );
        assert_eq!((moved.key().as_str(), moved.replays()), ("k", 1));
        assert_eq!(died(Some("arn:orders-dlq"), "rejected").replays(), 0, "moved on");
        for silent in [died(None, ""), died(Some("arn:orders"), "")] {
            assert_eq!(
                (silent.reason(), silent.attempts(), silent.earlier()),
                (MOVED_BY_SQS, None, None),
                "a replay's envelope that only keeps the key"
            );
        }
    }

    proptest! {
        #[test]
        fn any_text_has_a_shape_and_a_shape_is_its_own(text in any::<String>()) {
            let shape = error_shape(&text);
            prop_assert!(shape.len() <= text.len());
            prop_assert_eq!(error_shape(&shape), shape.clone());
        }
    }
}
