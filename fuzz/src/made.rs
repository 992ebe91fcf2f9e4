//! Messages made of anything.

use std::sync::Arc;

use arbitrary::Arbitrary;
use redrive::clock::Clock;
use redrive::dlq::ENVELOPE_ATTRIBUTE;
use redrive::key::Key;
use redrive::message::{
    Attribute, AttributeValue, Delivery, KEY_ATTRIBUTE, Message, Receipt, TRACEPARENT_ATTRIBUTE, TYPE_ATTRIBUTE,
};
use redrive::Context;

/// A name of a message attribute, often one that means something.
#[derive(Arbitrary, Clone, Debug)]
pub enum Name<'a> {
    Envelope,
    Key,
    Type,
    Trace,
    ContentType,
    Tenant,
    Priority,
    Blob,
    Any(&'a str),
}

impl Name<'_> {
    fn text(&self) -> String {
        match self {
            Self::Envelope => ENVELOPE_ATTRIBUTE,
            Self::Key => KEY_ATTRIBUTE,
            Self::Type => TYPE_ATTRIBUTE,
            Self::Trace => TRACEPARENT_ATTRIBUTE,
            Self::ContentType => "Content-Type",
            Self::Tenant => "tenant",
            Self::Priority => "priority",
            Self::Blob => "blob",
            Self::Any(text) => text,
        }
        .to_owned()
    }
}

#[derive(Arbitrary, Clone, Debug)]
pub enum Value<'a> {
    Text(&'a str),
    Number(&'a str),
    Binary(&'a [u8]),
    /// A data type that does not go with its value.
    Odd(&'a str, &'a [u8]),
}

impl Value<'_> {
    fn attribute(&self) -> Attribute {
        let (data_type, value) = match *self {
            Self::Text(text) => ("String", AttributeValue::Text(text.to_owned())),
            Self::Number(text) => ("Number", AttributeValue::Text(text.to_owned())),
            Self::Binary(bytes) => ("Binary", AttributeValue::Binary(bytes.to_vec().into())),
            Self::Odd(data_type, bytes) => (data_type, AttributeValue::Binary(bytes.to_vec().into())),
        };
        Attribute {
            data_type: data_type.to_owned(),
            value,
        }
    }
}

/// What a message is made of.
#[derive(Arbitrary, Clone, Debug)]
pub struct Parts<'a> {
    pub id: &'a str,
    pub group: Option<&'a str>,
    pub deduplication_id: Option<&'a str>,
    pub trace_header: Option<&'a str>,
    pub dead_letter_source: Option<&'a str>,
    pub attributes: Vec<(Name<'a>, Value<'a>)>,
    pub body: &'a str,
}

impl Parts<'_> {
    pub fn message(&self) -> Message {
        let mut message = Message::new(self.id, self.body);
        message.group_id = self.group.map(str::to_owned);
        message.deduplication_id = self.deduplication_id.map(str::to_owned);
        message.trace_header = self.trace_header.map(str::to_owned);
        message.dead_letter_source = self.dead_letter_source.map(str::to_owned);
        // SQS allows ten.
        for (name, value) in self.attributes.iter().take(10) {
            message.attributes.insert(name.text(), value.attribute());
        }
        message
    }
}

/// How many bytes a message has in all.
pub fn size(message: &Message) -> usize {
    let optional = [
        &message.group_id,
        &message.deduplication_id,
        &message.trace_header,
        &message.dead_letter_source,
    ];
    let optional: usize = optional.iter().map(|text| text.as_ref().map_or(0, String::len)).sum();
    message.size() + message.id.len() + optional
}

pub fn delivery(message: Message) -> Delivery {
    Delivery::new(message, Receipt::new("r"), 1, Clock::system().now())
}

/// A run of a handler for `message`.
pub fn context(message: Message, key: &str) -> Context {
    Context::new(Arc::new(delivery(message)), Key::new(key), 1, "orders".into())
}

/// Whether a terminal or a reader of logs may be deceived by it.
pub fn deceives(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Whether SQS takes this character in a body or an attribute.
pub fn legal(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..='\u{10ffff}')
}
