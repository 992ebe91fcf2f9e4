//! Messages, and the handles they are handed out with.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::source::Body;

/// What every receipt handle ends with: real ones are as long.
const HANDLE_TAIL: &str = "Yk1xvQ8nT2sZ5dJ0wLhE7rUfCmXoKpAiGbNtVeDyHqSjRzWc4F6a3Blu9PM\
    Yk1xvQ8nT2sZ5dJ0wLhE7rUfCmXoKpAiGbNtVeDyHqSjRzWc4F6a3Blu9PMYk1xvQ8nT2sZ5dJ0wLhE7rUfCmXoKpAiGbNtVeDyHqSjRzWc4F6a3Blu9PM\
    Yk1xvQ8nT2sZ5dJ0wLhE7rUfCmXoKpAiGbNtVeDyHqSjRzWc4F6a3Blu9PMYk1xvQ8nT2sZ5dJ0wLhE7rUfCmXoKpAiGbNtVeDyHqSjRzWc4F6a3Blu9PM==";

/// An attribute of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Attribute {
    pub(crate) data_type: String,
    pub(crate) value: AttributeValue,
}

/// Its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum AttributeValue {
    Text(String),
    Binary(Vec<u8>),
}

impl Attribute {
    /// How many bytes it counts for, its name being counted too.
    pub(crate) fn bytes(&self, name: &str) -> usize {
        let value = match &self.value {
            AttributeValue::Text(text) => text.len(),
            AttributeValue::Binary(bytes) => bytes.len(),
        };
        name.len() + self.data_type.len() + value
    }
}

/// A message as it lies in a queue.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) number: u64,
    pub(crate) body: Rc<Body>,
    pub(crate) attributes: Rc<BTreeMap<String, Attribute>>,
    pub(crate) group: Option<Rc<str>>,
    pub(crate) deduplication_id: Option<Rc<str>>,
    pub(crate) trace: Option<Rc<str>>,
    pub(crate) source_arn: Option<Rc<str>>,
    pub(crate) sent_ms: u64,
    pub(crate) first_received_ms: u64,
    pub(crate) receive_count: u32,
}

impl Message {
    /// How many bytes of payload it has.
    pub(crate) fn bytes(&self) -> usize {
        let attributes = self.attributes.iter();
        self.body.bytes + attributes.map(|(name, attribute)| attribute.bytes(name)).sum::<usize>()
    }
}

/// A message that is handed out.
#[derive(Clone, Debug)]
pub(crate) struct Delivery {
    pub(crate) message: Message,
    pub(crate) handle: String,
}

/// The handle of a receive, given by its serial, of the message with this number.
pub(crate) fn handle(number: u64, serial: u64) -> String {
    format!("AQEB{number:012x}{serial:012x}{HANDLE_TAIL}")
}

/// The number and the serial in a handle; nothing in one that no receive has given.
pub(crate) fn read_handle(handle: &str) -> Option<(u64, u64)> {
    let rest = handle.strip_prefix("AQEB")?.strip_suffix(HANDLE_TAIL)?;
    let (number, serial) = rest.split_at_checked(12)?;
    let read = |digits: &str| u64::from_str_radix(digits, 16).ok().filter(|_| digits.len() == 12);
    Some((read(number)?, read(serial)?))
}
