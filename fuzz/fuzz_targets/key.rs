//! Where a message's key comes from, and what its record is called.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use redrive::dlq::Envelope;
use redrive::key::{Fingerprint, Key, KeySource, RecordKey};
use redrive::message::KEY_ATTRIBUTE;
use redrive_fuzz::made::{Parts, size};
use redrive_fuzz::memory::within;

/// What DynamoDB allows a partition key.
const MOST: usize = 2048;

fuzz_target!(|input: (Parts<'_>, Option<&str>, &str, &str)| {
    let (parts, function, one, other) = input;
    let message = parts.message();
    let given = function.map(str::to_owned);
    let sources = [
        KeySource::Attribute,
        KeySource::DeduplicationId { by_group: true },
        KeySource::DeduplicationId { by_group: false },
        KeySource::Function(Arc::new(move |_| given.clone())),
    ];
    let envelope = Envelope::of(&message);
    for (at, source) in sources.iter().enumerate() {
        let bytes = size(&message) + function.map_or(0, str::len);
        let key = within(bytes, 8, 4 << 10, || source.key_of(&message, envelope.as_ref()));
        assert_eq!(source.key_of(&message, envelope.as_ref()), key, "the same for every delivery");
        // Whatever it is, the message said so: nothing is made up.
        let said = envelope.iter().flat_map(|envelope| [envelope.key.as_str(), envelope.message_id.as_str()]);
        let group = parts.group.unwrap_or("").replace('%', "%25").replace('/', "%2F");
        let by_group = format!("{group}/{}", parts.deduplication_id.unwrap_or(""));
        let said = said
            .chain([message.id.as_str(), by_group.as_str()])
            .chain(message.attribute(KEY_ATTRIBUTE))
            .chain(parts.deduplication_id)
            .chain(function);
        assert!(said.into_iter().any(|text| text == key.as_str()), "{at}: {key}");
        assert!(!key.as_str().is_empty() || message.id.is_empty());
        match envelope.as_ref().map(|envelope| envelope.key.as_str()) {
            Some(first) if !first.is_empty() => assert_eq!(key.as_str(), first),
            _ => {}
        }
        let record = within(key.as_str().len(), 3, 2 << 10, || RecordKey::new("orders", &key));
        assert!(record.as_str().len() <= MOST);
        assert_eq!(record.consumer(), "orders");
    }
    let (a, b) = (RecordKey::new("orders", &Key::new(one)), RecordKey::new("orders", &Key::new(other)));
    assert_eq!(a == b, one == other, "keys that look alike are kept apart");
    assert_ne!(a, RecordKey::new("billing", &Key::new(one)), "consumers never meet");
    // No worker is built with a longer name.
    if let Some(named) = RecordKey::parse(one).filter(|named| named.consumer().len() <= 512) {
        assert_eq!(RecordKey::parse(named.as_str()), Some(named));
    }
    assert_eq!(Fingerprint::of(one.as_bytes()) == Fingerprint::of(other.as_bytes()), one == other);
});
