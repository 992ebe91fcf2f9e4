//! The dead-letter envelope, as anybody may forge it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use redrive::dlq::{DeadLetter, ENVELOPE_ATTRIBUTE, Envelope, ErrorGroups};
use redrive::key::KeySource;
use redrive::message::{Attribute, AttributeValue, Message};
use redrive_fuzz::made::{Parts, delivery, legal, size};
use redrive_fuzz::memory::within;

const MOST: usize = 1024 * 1024;

fuzz_target!(|input: (Parts<'_>, Option<&str>)| {
    let (parts, told) = input;
    let mut message = parts.message();
    if let Some(told) = told {
        message.attributes.insert(ENVELOPE_ATTRIBUTE.into(), Attribute::string(told));
        while message.attributes.len() > 10 {
            message.attributes.pop_first();
        }
    }
    let bytes = size(&message);
    let Some(envelope) = within(bytes, 8, 4 << 10, || Envelope::of(&message)) else {
        assert_eq!(Envelope::original_attributes(&message), message.attributes);
        return;
    };
    for (text, most) in [
        (&envelope.reason, 512),
        (&envelope.error, 1024),
        (&envelope.message_id, 512),
        (&envelope.source, 512),
        (&envelope.key, 64 * 1024),
    ] {
        assert!(text.len() <= most, "{} bytes", text.len());
    }

    // Whatever it says, the message can be sent on: what SQS would refuse is not put back.
    let original = within(bytes, 16, 4 << 10, || Envelope::original_attributes(&message));
    assert!(original.len() <= 10, "{} attributes", original.len());
    for (name, attribute) in &original {
        if message.attributes.get(name) != Some(attribute) {
            sendable(name, attribute);
        }
    }

    // What is written again is read again, and says the same.
    let Some(attributes) = within(bytes, 60, 16 << 10, || envelope.attached_to(&message, MOST)) else {
        panic!("{bytes} bytes leave room for an envelope");
    };
    assert!(attributes.len() <= 10);
    let text = attributes[ENVELOPE_ATTRIBUTE].as_str().expect("it is a text");
    assert!(text.chars().all(legal), "{text:?}");
    let mut again = Message::new("new", message.body.clone());
    again.attributes = attributes;
    let back = Envelope::of(&again).expect("it was written by us");
    assert_eq!(Envelope::original_attributes(&again), original, "nothing of the message is lost");
    let mut same = back.clone();
    same.displaced.clone_from(&envelope.displaced);
    assert_eq!(same, envelope);
    // Once written it does not change any more.
    let third = back.attached_to(&again, MOST).expect("there was room");
    assert_eq!(third, again.attributes);

    let letter = DeadLetter::new(delivery(message), &KeySource::Attribute);
    let mut groups = ErrorGroups::default();
    within(bytes, 16, 8 << 10, || groups.add(letter.error(), &letter));
});

fn sendable(name: &str, attribute: &Attribute) {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    assert!(!name.is_empty() && name.len() <= 256 && name.chars().all(plain), "{name:?}");
    match &attribute.value {
        AttributeValue::Text(text) => {
            assert!(!text.is_empty() && text.chars().all(legal), "{text:?}");
            let kind = attribute.data_type.split('.').next();
            assert!(matches!(kind, Some("String" | "Number")), "{}", attribute.data_type);
        }
        AttributeValue::Binary(bytes) => {
            assert!(!bytes.is_empty());
            assert_eq!(attribute.data_type.split('.').next(), Some("Binary"));
        }
    }
}
