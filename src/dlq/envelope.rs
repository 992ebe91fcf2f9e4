//! What a dead letter says of itself: one message attribute that travels with it.

use std::borrow::Cow;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::key::{digest_id, hex};
use crate::message::{
    Attribute, AttributeValue, Attributes, KEY_ATTRIBUTE, Message, Outgoing, TRACEPARENT_ATTRIBUTE, TYPE_ATTRIBUTE,
    size_of,
};
use crate::outcome::{MAX_ERROR_BYTES, bounded};
use crate::queue::MAX_ATTRIBUTES;
use crate::queue::rules::takes_attribute;
use crate::telemetry::{said, shown};

/// The message attribute that carries the envelope.
pub const ENVELOPE_ATTRIBUTE: &str = "Redrive-Envelope";

/// The most bytes of an error that are kept where the whole error does not fit beside the body.
const SHORT_ERROR: usize = 128;

/// The most bytes of the short texts an envelope is allowed when it is read.
const MAX_SHORT_TEXT: usize = 512;

/// The most bytes of a key that are believed when an envelope is read: SQS lets an attribute be as long as a message.
const MAX_KEY: usize = 64 * 1024;

/// Why a message became a dead letter, and what it was before.
///
/// It is written as JSON into the one attribute [`ENVELOPE_ATTRIBUTE`], when the worker dead-letters a message and when a
/// message is replayed, and survives SQS's own redrive: attributes travel along.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Envelope {
    /// The key the message was handled under, by which its inbox record is found.
    pub key: String,
    /// Why it is a dead letter; see [`Reason`](crate::Reason). Empty where SQS moved it by itself.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// The last error, bounded.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub error: String,
    /// Attempts counted.
    pub attempts: u32,
    /// The MessageId it had when it was first received.
    pub message_id: String,
    /// The ARN of the queue it came from.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub source: String,
    /// The trace context it came with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace: Option<String>,
    /// When it was dead-lettered, in ms since 1970.
    pub dead_at_ms: u64,
    /// How often it came back by a replay or a redrive and died again.
    #[serde(skip_serializing_if = "is_zero")]
    pub replays: u32,
    /// The attribute that gave up its place, where all ten were used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub displaced: Option<Displaced>,
}

/// An attribute that had to give its place to the envelope: SQS allows ten.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Displaced {
    /// Its name.
    pub name: String,
    /// Its data type, as SQS names it.
    pub data_type: String,
    /// Its value, in hexadecimal if it is binary.
    pub value: String,
    /// Whether it is binary.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub binary: bool,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl Envelope {
    /// The envelope a message carries, if it carries one that can be read. Whoever may send to the queue may write one, so
    /// its texts are bounded, and one that cannot be read is none.
    #[must_use]
    pub fn of(message: &Message) -> Option<Self> {
        let text = message.attribute(ENVELOPE_ATTRIBUTE)?;
        // Of an array serde would take the fields by their order.
        if !text.trim_start().starts_with('{') {
            tracing::debug!(message_id = %shown(&message.id), "the dead-letter envelope is no JSON object: left aside");
            return None;
        }
        match serde_json::from_str::<Self>(text) {
            Ok(envelope) if envelope.key.len() <= MAX_KEY => Some(envelope.within_bounds()),
            Ok(_) => {
                tracing::debug!(message_id = %shown(&message.id), "the dead-letter envelope names a key that is too long: left aside");
                None
            }
            Err(error) => {
                tracing::debug!(message_id = %shown(&message.id), error = %said(&error), "the dead-letter envelope cannot be read: left aside");
                None
            }
        }
    }

    /// The attributes the message had before it became a dead letter: without the envelope, and with the attribute back
    /// that gave up its place to it. A message without an envelope has its own.
    #[must_use]
    pub fn original_attributes(message: &Message) -> Attributes {
        let Some(envelope) = Self::of(message) else {
            return message.attributes.clone();
        };
        let mut attributes = message.attributes.clone();
        attributes.remove(ENVELOPE_ATTRIBUTE);
        if let Some((name, attribute)) = envelope.displaced.as_ref().and_then(Displaced::restored) {
            attributes.entry(name).or_insert(attribute);
        }
        attributes
    }

    /// Takes the envelope off a received message, so that what handles it sees the attributes it was first sent with.
    #[must_use]
    pub fn take(message: &mut Message) -> Option<Self> {
        let envelope = Self::of(message)?;
        message.attributes = Self::original_attributes(message);
        Some(envelope)
    }

    /// The attributes of `message` with this envelope among them, as a replay sends them: the most of it that lets the whole
    /// message stay within `max_bytes`. `None` where not even the barest fits. Of ten attributes one moves into the envelope.
    ///
    /// ```
    /// use redrive::dlq::{ENVELOPE_ATTRIBUTE, Envelope};
    /// use redrive::message::Message;
    ///
    /// let message = Message::new("m-1", "{}");
    /// let mut envelope = Envelope::default();
    /// envelope.message_id = message.id.clone();
    /// let attributes = envelope.attached_to(&message, 1024 * 1024).unwrap();
    /// assert!(attributes.contains_key(ENVELOPE_ATTRIBUTE));
    /// assert!(envelope.attached_to(&message, 10).is_none());
    /// ```
    #[must_use]
    pub fn attached_to(&self, message: &Message, max_bytes: usize) -> Option<Attributes> {
        enveloped(message, self, max_bytes)
    }

    /// This envelope for a message that came back with `earlier` and died again: it stays the same work of the same
    /// origin, and its return is counted.
    #[must_use]
    pub(crate) fn after(mut self, earlier: &Self) -> Self {
        let keep = |old: &String, new: &mut String| {
            if !old.is_empty() {
                new.clone_from(old);
            }
        };
        keep(&earlier.key, &mut self.key);
        keep(&earlier.message_id, &mut self.message_id);
        keep(&earlier.source, &mut self.source);
        self.trace = self.trace.or_else(|| earlier.trace.clone());
        self.replays = earlier.replays.saturating_add(1);
        self
    }

    fn within_bounds(mut self) -> Self {
        self.reason = bounded(self.reason, MAX_SHORT_TEXT);
        self.error = bounded(self.error, MAX_ERROR_BYTES);
        self.message_id = bounded(self.message_id, MAX_SHORT_TEXT);
        self.source = bounded(self.source, MAX_SHORT_TEXT);
        self.trace = self.trace.map(|trace| bounded(trace, MAX_SHORT_TEXT));
        self
    }

    /// The attribute's text: JSON in the characters SQS takes.
    fn to_text(&self) -> String {
        // A struct of texts and numbers has no way to fail; an empty text would only cost the explanation.
        let json = serde_json::to_string(self).unwrap_or_default();
        match legal_json(&json) {
            Cow::Borrowed(_) => json,
            Cow::Owned(escaped) => escaped,
        }
    }

    /// What is tried in turn where the one before does not fit: each says less.
    fn ever_shorter(&self) -> [Self; 4] {
        let whole = Self {
            error: bounded(self.error.clone(), MAX_ERROR_BYTES),
            ..self.clone()
        };
        let short = Self {
            error: bounded(self.error.clone(), SHORT_ERROR),
            ..whole.clone()
        };
        let silent = Self {
            error: String::new(),
            trace: None,
            ..short.clone()
        };
        let bare = Self {
            source: String::new(),
            ..silent.clone()
        };
        [whole, short, silent, bare]
    }
}

impl Displaced {
    fn of(name: &str, attribute: &Attribute) -> Self {
        let (value, binary) = match &attribute.value {
            AttributeValue::Text(text) => (text.clone(), false),
            AttributeValue::Binary(bytes) => (hex(bytes), true),
        };
        Self {
            name: name.to_owned(),
            data_type: attribute.data_type.clone(),
            value,
            binary,
        }
    }

    /// The attribute, unless it is one that no message can have had: put back, a forged one would be refused with every
    /// dead letter of its message.
    fn restored(&self) -> Option<(String, Attribute)> {
        if self.name == ENVELOPE_ATTRIBUTE {
            return None;
        }
        let value = if self.binary {
            AttributeValue::Binary(Bytes::from(unhex(&self.value)?))
        } else {
            AttributeValue::Text(self.value.clone())
        };
        let data_type = self.data_type.clone();
        let attribute = Attribute { data_type, value };
        takes_attribute(&self.name, &attribute).then(|| (self.name.clone(), attribute))
    }
}

/// The attributes of `message` with `envelope` among them, the most of it that lets the whole message stay within
/// `max_bytes`; `None` where not even the barest fits.
///
/// The envelope takes one place: of ten attributes, one moves into it.
pub(crate) fn enveloped(message: &Message, envelope: &Envelope, max_bytes: usize) -> Option<Attributes> {
    let mut attributes = Envelope::original_attributes(message);
    attributes.remove(ENVELOPE_ATTRIBUTE);
    let mut envelope = envelope.clone();
    envelope.displaced = None;
    if envelope.key.len() > MAX_KEY {
        // It could not be read again. Nothing but an attribute or the body holds so long a key, and both travel along.
        envelope.key.clear();
    }
    if attributes.len() >= MAX_ATTRIBUTES {
        let name = least_needed(&attributes)?;
        let attribute = attributes.remove(&name)?;
        envelope.displaced = Some(Displaced::of(&name, &attribute));
    }
    let rest = size_of(&message.body, &attributes);
    envelope.ever_shorter().into_iter().find_map(|shorter| {
        let attribute = Attribute::string(shorter.to_text());
        let fits = rest + ENVELOPE_ATTRIBUTE.len() + attribute.size() <= max_bytes;
        fits.then(|| {
            let mut attributes = attributes.clone();
            attributes.insert(ENVELOPE_ATTRIBUTE.to_owned(), attribute);
            attributes
        })
    })
}

/// The dead letter of `message`: body and attributes as they are, and the envelope in one attribute of its own.
///
/// A message of nearly `max_bytes` is sent with as much of the envelope as fits, in the end without: the inbox still knows
/// the rest by its key. A message that came back by a replay and dies again keeps its first key, MessageId and source.
pub(crate) fn dead_letter(message: &Message, envelope: &Envelope, fifo_dlq: bool, max_bytes: usize) -> Outgoing {
    let envelope = match Envelope::of(message) {
        Some(earlier) => Cow::Owned(envelope.clone().after(&earlier)),
        None => Cow::Borrowed(envelope),
    };
    let mut outgoing = Outgoing::new(message.body.clone());
    outgoing.attributes = enveloped(message, &envelope, max_bytes).unwrap_or_else(|| {
        tracing::warn!(message_id = %shown(&message.id), "no room for the dead-letter envelope: the dead letter goes without one");
        let mut bare = Envelope::original_attributes(message);
        bare.remove(ENVELOPE_ATTRIBUTE);
        bare
    });
    outgoing.group_id.clone_from(&message.group_id);
    outgoing.trace_header.clone_from(&message.trace_header);
    if fifo_dlq {
        outgoing.group_id.get_or_insert_with(|| message.id.clone());
        // SQS swallows what repeats a deduplication id within five minutes: this one is the same for every try to send
        // this dead letter, and another for the next death of the same work.
        outgoing.deduplication_id = Some(digest_id(&["dead-letter", &message.id]));
    }
    outgoing
}

/// The attribute that moves into the envelope: text before binary, unknown before well-known, small before large.
fn least_needed(attributes: &Attributes) -> Option<String> {
    let cost = |(name, attribute): &(&String, &Attribute)| {
        let known = [KEY_ATTRIBUTE, TYPE_ATTRIBUTE, TRACEPARENT_ATTRIBUTE].contains(&name.as_str());
        (known, attribute.as_str().is_none(), attribute.size())
    };
    attributes.iter().min_by_key(cost).map(|(name, _)| name.clone())
}

/// `json` with the characters escaped that JSON allows and SQS does not (the two noncharacters U+FFFE and U+FFFF; JSON
/// escapes control characters itself).
fn legal_json(json: &str) -> Cow<'_, str> {
    if !json.contains(['\u{fffe}', '\u{ffff}']) {
        return Cow::Borrowed(json);
    }
    Cow::Owned(json.replace('\u{fffe}', "\\ufffe").replace('\u{ffff}', "\\uffff"))
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    if !text.len().is_multiple_of(2) {
        return None;
    }
    text.as_bytes()
        .chunks_exact(2)
        .map(|pair| match pair {
            [high, low] => u8::try_from(digit(high)? * 16 + digit(low)?).ok(),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
mod tests;
