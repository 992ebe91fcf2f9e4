//! A message as a producer describes it, and the check that SQS will take it.

use std::time::Duration;

use serde::Serialize;

use super::ProducerError;
use crate::clock::Random;
use crate::key::digest_id;
use crate::message::{Attribute, KEY_ATTRIBUTE, Outgoing, TRACEPARENT_ATTRIBUTE, TYPE_ATTRIBUTE};
use crate::queue::{MAX_ATTRIBUTES, QueueAttributes, rules};
use crate::telemetry::{TraceContext, printable};

/// A message to be sent by a [`Producer`](crate::Producer).
///
/// ```
/// use redrive::producer::NewMessage;
///
/// #[derive(serde::Serialize)]
/// struct Order { amount: u32 }
///
/// let message = NewMessage::json(&Order { amount: 12 })
///     .key("order-7")
///     .message_type("order.created")
///     .group("customer-3");
/// ```
#[derive(Clone, Debug)]
pub struct NewMessage {
    outgoing: Outgoing,
    /// What went wrong while it was made; said when it is sent.
    flaw: Option<String>,
    /// Whether it was in a queue before, with whatever SQS took then.
    verbatim: bool,
}

impl NewMessage {
    /// A message that was in a queue before, for whoever moves or restores messages: what its sender wrote into it and SQS
    /// took then, such as a trace context that cannot be read, is not judged again. What SQS itself would refuse still is.
    #[must_use]
    pub fn verbatim(outgoing: Outgoing) -> Self {
        Self {
            verbatim: true,
            ..Self::from(outgoing)
        }
    }

    /// A message with this text as its body.
    pub fn text(body: impl Into<String>) -> Self {
        Self {
            outgoing: Outgoing::new(body),
            flaw: None,
            verbatim: false,
        }
    }

    /// A message with `value` as JSON for its body. A value that cannot be written as JSON is an error when it is sent.
    pub fn json<T: Serialize + ?Sized>(value: &T) -> Self {
        match serde_json::to_string(value) {
            Ok(body) => Self::text(body),
            Err(error) => Self {
                flaw: Some(error.to_string()),
                ..Self::text("")
            },
        }
    }

    /// What deduplication is by: the same for every message that asks for the same piece of work. Travels in the
    /// `Idempotency-Key` attribute.
    #[must_use]
    pub fn key(self, key: impl Into<String>) -> Self {
        self.attribute(KEY_ATTRIBUTE, Attribute::string(key))
    }

    /// What a router chooses the handler by. Travels in the `type` attribute.
    #[must_use]
    pub fn message_type(self, name: impl Into<String>) -> Self {
        self.attribute(TYPE_ATTRIBUTE, Attribute::string(name))
    }

    /// The trace it belongs to. Travels in the `traceparent` attribute. Where traces are exported, a message without one gets
    /// the context of its own `send` span, if it is sent within a span.
    #[must_use]
    pub fn trace(self, context: TraceContext) -> Self {
        self.attribute(TRACEPARENT_ATTRIBUTE, Attribute::string(context.to_string()))
    }

    /// Adds or replaces an attribute. Key, type and trace count among the ten that SQS allows.
    #[must_use]
    pub fn attribute(mut self, name: impl Into<String>, attribute: Attribute) -> Self {
        self.outgoing.attributes.insert(name.into(), attribute);
        self
    }

    /// Keeps it hidden for this long, rounded up to whole seconds, at most 15 minutes. Not on a FIFO queue.
    #[must_use]
    pub fn delay(mut self, delay: Duration) -> Self {
        self.outgoing.delay = Some(delay);
        self
    }

    pub(super) fn is_verbatim(&self) -> bool {
        self.verbatim
    }

    pub(super) fn group_id(&self) -> Option<&str> {
        self.outgoing.group_id.as_deref()
    }

    /// The FIFO message group: messages of a group are handled in the order in which they were sent. On a standard queue,
    /// the tenant for fair queues.
    #[must_use]
    pub fn group(mut self, group_id: impl Into<String>) -> Self {
        self.outgoing.group_id = Some(group_id.into());
        self
    }

    /// The FIFO deduplication id; made of the key unless set.
    #[must_use]
    pub fn deduplication_id(mut self, id: impl Into<String>) -> Self {
        self.outgoing.deduplication_id = Some(id.into());
        self
    }

    /// The message for this queue, if the queue can take it.
    pub(super) fn prepared(self, queue: &QueueAttributes, keys: Option<&Random>) -> Result<Outgoing, ProducerError> {
        let invalid = |what: &str, why: String| ProducerError::Invalid {
            queue: queue.name.clone(),
            what: printable(what).into_owned(),
            why,
        };
        if let Some(flaw) = self.flaw {
            return Err(invalid("the body", format!("it cannot be written as JSON: {flaw}")));
        }
        let mut outgoing = self.outgoing;
        prepare_ids(&mut outgoing, queue, keys);
        if !self.verbatim {
            check_trace(&outgoing).map_err(|(what, why)| invalid(&what, why))?;
        }
        rules::check(&outgoing, queue.into()).map_err(|flaw| invalid(&flaw.what, flaw.why))?;
        outgoing.delay = outgoing.delay.map(rules::whole_seconds);
        Ok(outgoing)
    }
}

impl From<Outgoing> for NewMessage {
    fn from(outgoing: Outgoing) -> Self {
        Self {
            outgoing,
            flaw: None,
            verbatim: false,
        }
    }
}

/// Gives it a key where it has none and may have one, so that a copy which a lost answer makes us send is recognised; and on
/// a FIFO queue the deduplication id that comes of the key.
fn prepare_ids(outgoing: &mut Outgoing, queue: &QueueAttributes, keys: Option<&Random>) {
    let deduplicated = queue.fifo && (outgoing.deduplication_id.is_some() || queue.content_based_deduplication);
    if let Some(random) = keys
        && !deduplicated
        && !outgoing.attributes.contains_key(KEY_ATTRIBUTE)
        && outgoing.attributes.len() < MAX_ATTRIBUTES
    {
        let key = format!("{:016x}{:016x}", random.next_u64(), random.next_u64());
        outgoing
            .attributes
            .insert(KEY_ATTRIBUTE.to_owned(), Attribute::string(key));
    }
    if queue.fifo
        && outgoing.deduplication_id.is_none()
        && let Some(key) = outgoing.attributes.get(KEY_ATTRIBUTE).and_then(Attribute::as_str)
    {
        outgoing.deduplication_id = Some(digest_id(&[key]));
    }
}

fn check_trace(outgoing: &Outgoing) -> Result<(), (String, String)> {
    let Some(trace) = outgoing.attributes.get(TRACEPARENT_ATTRIBUTE) else {
        return Ok(());
    };
    let text = trace.as_str().unwrap_or_default();
    match text.parse::<TraceContext>() {
        Ok(_) => Ok(()),
        Err(error) => Err((format!("attribute `{TRACEPARENT_ATTRIBUTE}`"), error.to_string())),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
mod tests {
    use super::*;
    use crate::message::AttributeValue;
    use crate::queue::MAX_BYTES;

    fn standard() -> QueueAttributes {
        QueueAttributes::new("orders")
    }

    fn fifo() -> QueueAttributes {
        QueueAttributes::new("orders.fifo")
    }

    fn said(message: NewMessage, queue: &QueueAttributes) -> String {
        message
            .prepared(queue, Some(&Random::seeded(1)))
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn inv12_each_flaw_is_named_with_its_place_and_remedy() {
        let text = || NewMessage::text("x");
        let mut eleven = text();
        for n in 0..11 {
            eleven = eleven.attribute(format!("a{n}"), Attribute::number(n));
        }
        let odd = Attribute {
            data_type: "Text".into(),
            value: AttributeValue::Text("x".into()),
        };
        let mixed = Attribute {
            data_type: "Binary".into(),
            value: AttributeValue::Text("x".into()),
        };
        let nan = Attribute {
            data_type: "Number".into(),
            value: AttributeValue::Text("NaN".into()),
        };
        for (message, parts) in [
            (NewMessage::text(""), ["the body", "empty"]),
            (NewMessage::text("ok\u{0}"), ["U+0000 at byte 2", "encode"]),
            (NewMessage::text("\u{ffff}"), ["U+FFFF", "SQS refuses"]),
            (
                NewMessage::text("x".repeat(MAX_BYTES + 1)),
                ["1048", "put the payload elsewhere"],
            ),
            (eleven, ["11 of them", "allows 10"]),
            (
                text().attribute("a b", Attribute::string("x")),
                ["attribute `a b`", "rename"],
            ),
            (
                text().attribute("a\nb", Attribute::string("x")),
                ["attribute `a\\nb`", "rename"],
            ),
            (text().attribute("AWS.x", Attribute::string("x")), ["AWS.x", "reserved"]),
            (text().attribute("a..b", Attribute::string("x")), ["a..b", "period"]),
            (
                text().attribute("e", Attribute::string("")),
                ["attribute `e`", "leave the attribute out"],
            ),
            (
                text().attribute("e", Attribute::string("\u{1b}")),
                ["attribute `e`", "U+001B"],
            ),
            (text().attribute("e", odd), ["data type `Text`", "none of"]),
            (text().attribute("e", mixed), ["attribute `e`", "data type `Binary`"]),
            (text().attribute("e", nan), ["`NaN`", "not a number"]),
            (text().key(""), ["Idempotency-Key", "empty"]),
            (
                text().attribute("traceparent", Attribute::string("00-x")),
                ["traceparent", "00-<32 hex digits>"],
            ),
            (text().delay(Duration::from_secs(901)), ["the delay", "900 s"]),
            (text().group("ü"), ["the group id", "ASCII"]),
            (text().deduplication_id("d"), ["the deduplication id", ".key("]),
        ] {
            let error = said(message, &standard());
            for part in parts.iter().chain(&["`orders`"]) {
                assert!(error.contains(part), "{part:?} in {error:?}");
            }
        }
        assert!(said(text(), &fifo()).contains(".group("));
        assert!(said(text().group("g").delay(Duration::from_secs(1)), &fifo()).contains("DelaySeconds"));
        assert!(said(text().group("g").deduplication_id("x".repeat(129)), &fifo()).contains("128"));
        let keyless = text().group("g").prepared(&fifo(), None).unwrap_err().to_string();
        assert!(keyless.contains("the deduplication id") && keyless.contains(".key("));
        let unwritable = std::collections::BTreeMap::from([(vec![1], 1)]);
        assert!(said(NewMessage::json(&unwritable), &standard()).contains("JSON"));
    }

    #[test]
    fn what_sqs_takes_is_taken() {
        let mut message = NewMessage::text("\t\n\r ~\u{d7ff}\u{e000}\u{fffd}\u{10ffff}");
        for n in 0..10 {
            message = message.attribute(format!("a.{n}_-"), Attribute::number(-1.5e3));
        }
        let sent = message.clone().prepared(&standard(), Some(&Random::seeded(1))).unwrap();
        assert_eq!(
            sent.attributes.len(),
            10,
            "a key is added only where there is a place for it"
        );
        let full = NewMessage::text("x".repeat(MAX_BYTES));
        assert!(full.prepared(&standard(), None).is_ok());
    }

    #[test]
    fn a_message_without_a_key_gets_one_of_its_own() {
        let random = Random::seeded(1);
        let key = |message: NewMessage, queue: &QueueAttributes| {
            let sent = message.prepared(queue, Some(&random)).unwrap();
            sent.attributes
                .get(KEY_ATTRIBUTE)
                .and_then(Attribute::as_str)
                .map(str::to_owned)
        };
        let text = || NewMessage::text("x");
        assert_ne!(key(text(), &standard()), key(text(), &standard()));
        assert_eq!(key(text().key("mine"), &standard()).as_deref(), Some("mine"));
        assert_eq!(key(text().group("g").deduplication_id("d"), &fifo()), None);
    }

    #[test]
    fn a_fifo_deduplication_id_comes_of_the_key_unless_it_is_given() {
        let random = Random::seeded(1);
        let id = |message: NewMessage, queue: &QueueAttributes| {
            message
                .group("g")
                .prepared(queue, Some(&random))
                .unwrap()
                .deduplication_id
        };
        let text = || NewMessage::text("x");
        assert_eq!(id(text().key("k"), &fifo()), id(text().key("k"), &fifo()));
        assert_ne!(id(text().key("k"), &fifo()), id(text().key("l"), &fifo()));
        assert_ne!(
            id(text(), &fifo()),
            id(text(), &fifo()),
            "messages without a key are different messages"
        );
        assert_eq!(id(text().key("k").deduplication_id("d"), &fifo()).as_deref(), Some("d"));
        let mut by_content = fifo();
        by_content.content_based_deduplication = true;
        assert_eq!(id(text(), &by_content), None);
        assert!(id(text().key("k"), &by_content).is_some());
    }

    #[test]
    fn a_delay_is_rounded_up_to_whole_seconds() {
        let sent = NewMessage::text("x")
            .delay(Duration::from_millis(1_001))
            .prepared(&standard(), None)
            .unwrap();
        assert_eq!(sent.delay, Some(Duration::from_secs(2)));
    }
}
