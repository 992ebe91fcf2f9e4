//! Texts of messages that settings name, and results as the inbox keeps them.

use std::sync::atomic::{AtomicBool, Ordering};

use redrive::message::Message;
use redrive::outcome::StoredResult;
use serde::de::IgnoredAny;
use serde_json::Value;

use crate::failure::Failure;

/// Where keys come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum KeyFrom {
    /// The `Idempotency-Key` attribute.
    Attribute,
    /// Somewhere else in the message.
    Place(Place),
    /// The FIFO deduplication id.
    DeduplicationId,
}

/// Where something of a message is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In a message attribute.
    Attribute(String),
    /// In the JSON body, by a JSON pointer (RFC 6901).
    Pointer(String),
}

impl Place {
    /// The place that `flag` points at in a JSON body.
    pub(super) fn pointer(flag: &str, pointer: String) -> Result<Self, Failure> {
        if pointer.starts_with('/') {
            return Ok(Self::Pointer(pointer));
        }
        Err(Failure::usage(format_args!(
            "{flag}: `{pointer}` is no JSON pointer: it must start with a slash"
        ))
        .remedy("write /order/id for the field `id` of the field `order`"))
    }

    /// The function that finds the key there. It tells the first time that there is none.
    pub(crate) fn key(self) -> impl Fn(&Message) -> Option<String> + Send + Sync + 'static {
        let told = AtomicBool::new(false);
        move |message| {
            let found = self.text(message).filter(|text| !text.is_empty());
            if found.is_none() && !told.swap(true, Ordering::Relaxed) {
                tracing::warn!(
                    message_id = %crate::ui::safe(&message.id), place = ?self,
                    "a message has no key where one was said to be; such messages are known by their Idempotency-Key \
                     attribute, else by their MessageId"
                );
            }
            found
        }
    }

    /// The text or number there, if there is one.
    pub(super) fn text(&self, message: &Message) -> Option<String> {
        match self {
            Self::Attribute(name) => message.attribute(name).map(str::to_owned),
            Self::Pointer(pointer) => match at(message, pointer)? {
                Value::String(text) => Some(text),
                Value::Number(number) => Some(number.to_string()),
                _ => None,
            },
        }
    }
}

/// The bytes of what is at `pointer` in the body, the whole body where there is nothing.
pub(super) fn part(message: &Message, pointer: &str) -> Vec<u8> {
    at(message, pointer).map_or_else(
        || message.body.as_bytes().to_vec(),
        |value| value.to_string().into_bytes(),
    )
}

fn at(message: &Message, pointer: &str) -> Option<Value> {
    let mut body: Value = serde_json::from_str(&message.body).ok()?;
    body.pointer_mut(pointer).map(Value::take)
}

/// A result as the inbox keeps it: JSON as it is, other text as a JSON string, nothing of what is not whole.
pub(crate) fn stored(output: &[u8], whole: bool) -> StoredResult {
    if !whole {
        return StoredResult::Omitted;
    }
    let output = output.trim_ascii();
    if output.is_empty() || output == b"null" {
        return StoredResult::Nothing;
    }
    if serde_json::from_slice::<IgnoredAny>(output).is_ok() {
        return StoredResult::Json(output.to_vec().into());
    }
    StoredResult::Json(Value::from(String::from_utf8_lossy(output)).to_string().into())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
mod tests {
    use redrive::message::Attribute;

    use super::*;

    #[test]
    fn a_place_gives_texts_and_numbers_and_nothing_else() {
        let mut message = Message::new("m", r#"{"order":{"id":17,"name":"x","lines":[1]}}"#);
        message.attributes.insert("tenant".into(), Attribute::string("acme"));
        message.attributes.insert("raw".into(), Attribute::binary(vec![1, 2]));
        let pointer = |text: &str| Place::pointer("--key-pointer", text.to_owned()).unwrap().text(&message);
        assert_eq!(pointer("/order/id").as_deref(), Some("17"));
        assert_eq!(pointer("/order/name").as_deref(), Some("x"));
        assert_eq!(pointer("/order/lines"), None);
        assert_eq!(pointer("/nothing"), None);
        assert_eq!(
            Place::Attribute("tenant".into()).text(&message).as_deref(),
            Some("acme")
        );
        assert_eq!(Place::Attribute("raw".into()).text(&message), None);
        assert!(Place::pointer("--key-pointer", "order.id".into()).is_err());
        assert_eq!(Place::Pointer("/a".into()).text(&Message::new("m", "no json")), None);
        assert_eq!(part(&message, "/order/lines"), b"[1]");
        assert_eq!(part(&Message::new("m", "no json"), "/a"), b"no json");
    }

    #[test]
    fn results_are_json_or_text_or_left_out() {
        let json = |bytes: &'static [u8]| StoredResult::Json(bytes.into());
        assert_eq!(stored(b" {\"a\":1}\n", true), json(b"{\"a\":1}"));
        assert_eq!(stored(b"done\n", true), json(b"\"done\""));
        assert_eq!(stored(b"\xff", true), json("\"\u{fffd}\"".as_bytes()));
        assert_eq!(stored(b" \n", true), StoredResult::Nothing);
        assert_eq!(stored(b"null", true), StoredResult::Nothing);
        assert_eq!(stored(b"{\"a\"", false), StoredResult::Omitted);
    }
}
