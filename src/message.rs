//! What a queue holds and hands out: messages, deliveries of them, and what is to be sent.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use crate::clock::Instant;

/// The message attribute that names a message's type, unless a router is told another.
pub const TYPE_ATTRIBUTE: &str = "type";

/// The message attribute that carries a producer's idempotency key.
pub const KEY_ATTRIBUTE: &str = "Idempotency-Key";

/// The message attribute that carries W3C trace context.
pub const TRACEPARENT_ATTRIBUTE: &str = "traceparent";

/// A message's attributes by name, in name order. SQS allows ten.
pub type Attributes = BTreeMap<String, Attribute>;

/// One message attribute: a data type as SQS names it (`String`, `Number`, `Binary`, each with an optional `.label`) and
/// a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attribute {
    /// `String`, `Number` or `Binary`, with an optional label after a dot.
    pub data_type: String,
    /// The value itself.
    pub value: AttributeValue,
}

/// The value of an [`Attribute`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttributeValue {
    /// The value of a `String` or `Number` attribute.
    Text(String),
    /// The value of a `Binary` attribute.
    Binary(Bytes),
}

impl Attribute {
    /// An attribute of data type `String`.
    pub fn string(value: impl Into<String>) -> Self {
        Self {
            data_type: "String".to_owned(),
            value: AttributeValue::Text(value.into()),
        }
    }

    /// An attribute of data type `Number`.
    pub fn number(value: impl fmt::Display) -> Self {
        Self {
            data_type: "Number".to_owned(),
            value: AttributeValue::Text(value.to_string()),
        }
    }

    /// An attribute of data type `Binary`.
    pub fn binary(value: impl Into<Bytes>) -> Self {
        Self {
            data_type: "Binary".to_owned(),
            value: AttributeValue::Binary(value.into()),
        }
    }

    /// The text of a `String` or `Number` attribute.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match &self.value {
            AttributeValue::Text(text) => Some(text),
            AttributeValue::Binary(_) => None,
        }
    }

    /// How many bytes it counts for against SQS's size limit, without its name.
    #[must_use]
    pub fn size(&self) -> usize {
        self.data_type.len()
            + match &self.value {
                AttributeValue::Text(text) => text.len(),
                AttributeValue::Binary(bytes) => bytes.len(),
            }
    }
}

/// A message as the queue holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Message {
    /// The MessageId the queue gave it. A moved message has a new one.
    pub id: String,
    /// The body; SQS bodies are text.
    pub body: String,
    /// The message attributes.
    pub attributes: Attributes,
    /// When it was sent, in ms since 1970 by the service's clock, where known.
    pub sent_at_ms: Option<u64>,
    /// The FIFO message group.
    pub group_id: Option<String>,
    /// The FIFO deduplication id.
    pub deduplication_id: Option<String>,
    /// The `AWSTraceHeader` system attribute.
    pub trace_header: Option<String>,
    /// The ARN of the queue from which SQS's redrive policy moved it here: the `DeadLetterQueueSourceArn` system attribute.
    pub dead_letter_source: Option<String>,
}

impl Message {
    /// A message with this id and body and nothing else; for tests and embedded queues.
    pub fn new(id: impl Into<String>, body: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            body: body.into(),
            attributes: Attributes::new(),
            sent_at_ms: None,
            group_id: None,
            deduplication_id: None,
            trace_header: None,
            dead_letter_source: None,
        }
    }

    /// The text of an attribute, if it is there and is text.
    #[must_use]
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.get(name).and_then(Attribute::as_str)
    }

    /// Body and attributes in bytes, as SQS counts them against its limit of 1 MiB.
    #[must_use]
    pub fn size(&self) -> usize {
        size_of(&self.body, &self.attributes)
    }

    /// The trace context it came with: `traceparent`, else `AWSTraceHeader`.
    #[must_use]
    pub fn trace_context(&self) -> Option<&str> {
        self.attribute(TRACEPARENT_ATTRIBUTE).or(self.trace_header.as_deref())
    }
}

/// Body and attributes in bytes, as SQS counts them: names, data types and values of the attributes and the body.
#[must_use]
pub(crate) fn size_of(body: &str, attributes: &Attributes) -> usize {
    body.len()
        + attributes
            .iter()
            .map(|(name, attribute)| name.len() + attribute.size())
            .sum::<usize>()
}

/// What a receive hands out to name this delivery when it is settled. Not to be parsed, and good for this delivery only.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Receipt(Arc<str>);

impl Receipt {
    /// Wraps a receipt handle.
    pub fn new(handle: impl Into<String>) -> Self {
        // Shared, because handles are long (some 400 bytes of SQS) and go with every settle, renewal and retry.
        Self(handle.into().into())
    }

    /// A receipt handle that need not be copied.
    pub(crate) fn shared(handle: Arc<str>) -> Self {
        Self(handle)
    }

    /// The handle as the queue gave it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// One receive of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Delivery {
    /// What was received.
    pub message: Message,
    /// What names this delivery when it is settled.
    pub receipt: Receipt,
    /// How often the queue says it handed the message out, this time included. Releases, delays and receives that the
    /// client never saw raise it too: it is a backstop, not an attempt counter.
    pub receive_count: u32,
    /// When the receive was asked for: visibility runs at the latest from the answer, at the earliest from here.
    pub received_at: Instant,
}

impl Delivery {
    /// A delivery of `message`.
    #[must_use]
    pub fn new(message: Message, receipt: Receipt, receive_count: u32, received_at: Instant) -> Self {
        Self {
            message,
            receipt,
            receive_count,
            received_at,
        }
    }
}

/// A message to be sent.
///
/// ```
/// use redrive::message::{Attribute, Outgoing};
///
/// let order = Outgoing::new(r#"{"amount":12}"#)
///     .attribute("type", Attribute::string("order.created"))
///     .group("customer-7");
/// assert_eq!(order.group_id.as_deref(), Some("customer-7"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Outgoing {
    /// The body.
    pub body: String,
    /// The message attributes.
    pub attributes: Attributes,
    /// How long it stays hidden, in whole seconds to 15 minutes; a FIFO queue takes none per message.
    pub delay: Option<std::time::Duration>,
    /// The FIFO message group.
    pub group_id: Option<String>,
    /// The FIFO deduplication id.
    pub deduplication_id: Option<String>,
    /// The `AWSTraceHeader` system attribute.
    pub trace_header: Option<String>,
}

impl Outgoing {
    /// A message with this body and nothing else.
    pub fn new(body: impl Into<String>) -> Self {
        Self {
            body: body.into(),
            attributes: Attributes::new(),
            delay: None,
            group_id: None,
            deduplication_id: None,
            trace_header: None,
        }
    }

    /// Adds or replaces an attribute.
    #[must_use]
    pub fn attribute(mut self, name: impl Into<String>, attribute: Attribute) -> Self {
        self.attributes.insert(name.into(), attribute);
        self
    }

    /// Sets the FIFO message group.
    #[must_use]
    pub fn group(mut self, group_id: impl Into<String>) -> Self {
        self.group_id = Some(group_id.into());
        self
    }

    /// Sets the FIFO deduplication id.
    #[must_use]
    pub fn deduplication_id(mut self, id: impl Into<String>) -> Self {
        self.deduplication_id = Some(id.into());
        self
    }

    /// Keeps it hidden for this long, in whole seconds to 15 minutes.
    #[must_use]
    pub fn delay(mut self, delay: std::time::Duration) -> Self {
        self.delay = Some(delay);
        self
    }

    /// Body and attributes in bytes, as SQS counts them against its limit of 1 MiB.
    #[must_use]
    pub fn size(&self) -> usize {
        size_of(&self.body, &self.attributes)
    }
}
