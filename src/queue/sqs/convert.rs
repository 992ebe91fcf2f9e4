//! Between SQS's messages and ours. What cannot be read of a message never loses the message.

use std::time::Duration;

use aws_sdk_sqs::error::BuildError;
use aws_sdk_sqs::primitives::Blob;
use aws_sdk_sqs::types::{
    Message as SqsMessage, MessageAttributeValue, MessageSystemAttributeName, MessageSystemAttributeNameForSends,
    MessageSystemAttributeValue, SendMessageBatchRequestEntry,
};
use bytes::Bytes;

use crate::clock::Instant;
use crate::message::{Attribute, AttributeValue, Attributes, Delivery, Message, Outgoing, Receipt};
use crate::queue::rules::whole_seconds;

/// A received message as a delivery; its MessageId where there is no receipt handle, without which it can neither be settled
/// nor told from another delivery: it comes back by itself.
pub(super) fn delivery(received: SqsMessage, received_at: Instant) -> Result<Delivery, Option<String>> {
    let Some(handle) = received.receipt_handle.filter(|handle| !handle.is_empty()) else {
        return Err(received.message_id);
    };
    let mut message = Message::new(
        received.message_id.unwrap_or_default(),
        received.body.unwrap_or_default(),
    );
    // Without a count this may be any delivery; as the first it is treated with no more suspicion than a fresh message.
    let mut receive_count = 1;
    for (name, value) in received.attributes.into_iter().flatten() {
        match name {
            MessageSystemAttributeName::ApproximateReceiveCount => receive_count = value.parse().unwrap_or(1),
            MessageSystemAttributeName::SentTimestamp => message.sent_at_ms = value.parse().ok(),
            MessageSystemAttributeName::MessageGroupId => message.group_id = Some(value),
            MessageSystemAttributeName::MessageDeduplicationId => message.deduplication_id = Some(value),
            MessageSystemAttributeName::AwsTraceHeader => message.trace_header = Some(value),
            MessageSystemAttributeName::DeadLetterQueueSourceArn => message.dead_letter_source = Some(value),
            _ => {}
        }
    }
    message.attributes = received
        .message_attributes
        .unwrap_or_default()
        .into_iter()
        .map(|(name, value)| (name, attribute(value)))
        .collect::<Attributes>();

    Ok(Delivery::new(message, Receipt::new(handle), receive_count, received_at))
}

fn attribute(value: MessageAttributeValue) -> Attribute {
    Attribute {
        data_type: value.data_type,
        value: match (value.binary_value, value.string_value) {
            (Some(blob), None) => AttributeValue::Binary(Bytes::from(blob.into_inner())),
            (_, text) => AttributeValue::Text(text.unwrap_or_default()),
        },
    }
}

/// A message to be sent as the entry of a batch.
pub(super) fn send_entry(id: String, outgoing: &Outgoing) -> Result<SendMessageBatchRequestEntry, BuildError> {
    let mut entry = SendMessageBatchRequestEntry::builder()
        .id(id)
        .message_body(&outgoing.body)
        .set_delay_seconds(outgoing.delay.map(seconds))
        .set_message_group_id(outgoing.group_id.clone())
        .set_message_deduplication_id(outgoing.deduplication_id.clone());
    for (name, attribute) in &outgoing.attributes {
        entry = entry.message_attributes(name, attribute_value(attribute)?);
    }
    if let Some(trace) = &outgoing.trace_header {
        let value = MessageSystemAttributeValue::builder()
            .data_type("String")
            .string_value(trace)
            .build()?;
        entry = entry.message_system_attributes(MessageSystemAttributeNameForSends::AwsTraceHeader, value);
    }
    entry.build()
}

fn attribute_value(attribute: &Attribute) -> Result<MessageAttributeValue, BuildError> {
    let value = MessageAttributeValue::builder().data_type(&attribute.data_type);
    match &attribute.value {
        AttributeValue::Text(text) => value.string_value(text),
        AttributeValue::Binary(bytes) => value.binary_value(Blob::new(bytes.to_vec())),
    }
    .build()
}

/// Whole seconds, as SQS's API takes them.
pub(super) fn seconds(duration: Duration) -> i32 {
    i32::try_from(whole_seconds(duration).as_secs()).unwrap_or(i32::MAX)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
mod tests {
    use super::*;
    use crate::clock::Clock;

    fn received() -> aws_sdk_sqs::types::builders::MessageBuilder {
        SqsMessage::builder()
            .message_id("m-1")
            .receipt_handle("r-1")
            .body("hello")
    }

    #[tokio::test]
    async fn a_message_keeps_everything_that_was_asked_for() {
        let now = Clock::system().now();
        let text = |value: &str, kind: &str| {
            MessageAttributeValue::builder()
                .data_type(kind)
                .string_value(value)
                .build()
                .unwrap()
        };
        let binary = MessageAttributeValue::builder()
            .data_type("Binary.png")
            .binary_value(Blob::new([0_u8, 159]))
            .build()
            .unwrap();
        let delivery = delivery(
            received()
                .attributes(MessageSystemAttributeName::ApproximateReceiveCount, "3")
                .attributes(MessageSystemAttributeName::SentTimestamp, "1700000000123")
                .attributes(MessageSystemAttributeName::MessageGroupId, "g")
                .attributes(MessageSystemAttributeName::MessageDeduplicationId, "d")
                .attributes(MessageSystemAttributeName::AwsTraceHeader, "Root=1")
                .attributes(MessageSystemAttributeName::DeadLetterQueueSourceArn, "arn:orders")
                .message_attributes("type", text("order", "String"))
                .message_attributes("n", text("7", "Number.int"))
                .message_attributes("raw", binary)
                .build(),
            now,
        )
        .unwrap();
        let mut expected = Message::new("m-1", "hello");
        expected.sent_at_ms = Some(1_700_000_000_123);
        expected.group_id = Some("g".into());
        expected.deduplication_id = Some("d".into());
        expected.trace_header = Some("Root=1".into());
        expected.dead_letter_source = Some("arn:orders".into());
        expected.attributes.insert("type".into(), Attribute::string("order"));
        expected.attributes.insert(
            "n".into(),
            Attribute {
                data_type: "Number.int".into(),
                value: AttributeValue::Text("7".into()),
            },
        );
        expected.attributes.insert(
            "raw".into(),
            Attribute {
                data_type: "Binary.png".into(),
                value: AttributeValue::Binary(Bytes::from_static(&[0, 159])),
            },
        );
        assert_eq!(delivery, Delivery::new(expected, Receipt::new("r-1"), 3, now));
    }

    #[tokio::test]
    async fn inv12_parts_that_cannot_be_read_do_not_lose_the_message() {
        let now = Clock::system().now();
        let empty = MessageAttributeValue::builder().data_type("").build().unwrap();
        let odd = delivery(
            SqsMessage::builder()
                .receipt_handle("r-1")
                .attributes(MessageSystemAttributeName::ApproximateReceiveCount, "many")
                .attributes(MessageSystemAttributeName::SentTimestamp, "-1")
                .message_attributes("odd", empty)
                .build(),
            now,
        )
        .unwrap();
        assert_eq!((odd.receive_count, odd.message.sent_at_ms), (1, None));
        assert_eq!(odd.message.body, "");
        assert_eq!(odd.message.attribute("odd"), Some(""));
        assert_eq!(delivery(SqsMessage::builder().body("x").build(), now), Err(None));
    }

    #[test]
    fn what_is_sent_is_what_was_given() {
        let mut outgoing = Outgoing::new("body")
            .attribute("type", Attribute::string("order"))
            .attribute("raw", Attribute::binary(vec![1_u8, 2]))
            .group("g")
            .deduplication_id("d")
            .delay(Duration::from_millis(1_500));
        outgoing.trace_header = Some("Root=1".into());
        let entry = send_entry("7".to_owned(), &outgoing).unwrap();
        assert_eq!((entry.id.as_str(), entry.message_body.as_str()), ("7", "body"));
        assert_eq!(entry.delay_seconds, Some(2));
        assert_eq!(entry.message_group_id.as_deref(), Some("g"));
        assert_eq!(entry.message_deduplication_id.as_deref(), Some("d"));
        let attributes = entry.message_attributes.unwrap();
        assert_eq!(attributes["type"].string_value.as_deref(), Some("order"));
        assert_eq!(attributes["raw"].binary_value, Some(Blob::new([1_u8, 2])));
        let system = entry.message_system_attributes.unwrap();
        let trace = &system[&MessageSystemAttributeNameForSends::AwsTraceHeader];
        assert_eq!(trace.string_value.as_deref(), Some("Root=1"));
    }

    #[test]
    fn seconds_are_rounded_up() {
        for (millis, whole) in [(0, 0), (1, 1), (1_000, 1), (1_001, 2), (43_200_000, 43_200)] {
            assert_eq!(seconds(Duration::from_millis(millis)), whole);
        }
        assert_eq!(seconds(Duration::MAX), i32::MAX);
    }
}
