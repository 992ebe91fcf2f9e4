use super::*;
use proptest::prelude::*;

const MAX: usize = 1024 * 1024;

fn envelope() -> Envelope {
    Envelope {
        key: "order-7".into(),
        reason: "rejected".into(),
        error: "card declined".into(),
        attempts: 3,
        message_id: "mid".into(),
        source: "arn:aws:sqs:eu-west-1:1:orders".into(),
        trace: Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into()),
        dead_at_ms: 1_700_000_000_000,
        ..Envelope::default()
    }
}

/// The dead letter as the DLQ would hand it out.
fn received(outgoing: &Outgoing) -> Message {
    let mut message = Message::new("dlq-mid", outgoing.body.clone());
    message.attributes = outgoing.attributes.clone();
    message.group_id = outgoing.group_id.clone();
    message
}

fn legal(text: &str) -> bool {
    text.chars().all(
        |c| matches!(c, '\t' | '\n' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..='\u{10ffff}'),
    )
}

fn with_attributes(count: usize, make: impl Fn(usize) -> Attribute) -> Message {
    let mut message = Message::new("mid", "{}");
    for n in 0..count {
        message.attributes.insert(format!("a{n}"), make(n));
    }
    message
}

#[test]
fn inv01_a_dead_letter_whose_key_is_too_long_for_an_envelope_still_carries_one_that_can_be_read() {
    for length in [MAX_KEY, MAX_KEY + 1, MAX / 2 + 10_000] {
        let mut message = Message::new("mid", "{}");
        let key = Attribute::string("k".repeat(length));
        message.attributes.insert(KEY_ATTRIBUTE.into(), key);
        let envelope = Envelope {
            key: "k".repeat(length),
            ..envelope()
        };
        let sent = dead_letter(&message, &envelope, false, MAX);
        let received = received(&sent);
        let told = Envelope::of(&received).expect("without it a replay counts as a duplicate, and is deleted");
        assert_eq!((told.reason.as_str(), told.message_id.as_str()), ("rejected", "mid"));
        let key = crate::key::KeySource::Attribute.key_of(&received, Some(&told));
        assert_eq!(key.as_str().len(), length, "it is the same key");
    }
}

#[test]
fn inv01_what_a_forged_envelope_has_displaced_never_keeps_a_dead_letter_from_being_sent() {
    let limits = crate::queue::rules::Limits {
        fifo: false,
        content_based_deduplication: false,
        max_message_bytes: MAX,
    };
    for (name, data_type, value, binary) in [
        ("no name!", "String", "x", false),
        ("AWS.mine", "String", "x", false),
        ("a", "Bogus", "x", false),
        ("a", "Binary", "x", false),
        ("a", "String", "00", true),
        ("a", "Number", "many", false),
        ("a", "String", "", false),
        ("a", "String", "\u{0}", false),
        (KEY_ATTRIBUTE, "String", "\u{fffe}", false),
    ] {
        let forged = Envelope {
            key: "k".into(),
            displaced: Some(Displaced {
                name: name.into(),
                data_type: data_type.into(),
                value: value.into(),
                binary,
            }),
            ..Envelope::default()
        };
        let mut message = Message::new("mid", "{}");
        let text = serde_json::to_string(&forged).unwrap();
        let attribute = Attribute::string(legal_json(&text));
        message.attributes.insert(ENVELOPE_ATTRIBUTE.into(), attribute);
        let sent = dead_letter(&message, &envelope(), false, MAX);
        assert_eq!(
            crate::queue::rules::check(&sent, limits),
            Ok(()),
            "{name} {data_type} {value:?}"
        );
        assert_eq!(sent.attributes.len(), 1, "{name} {data_type} {value:?}");
    }
}

#[test]
fn inv10_the_envelope_travels_in_one_attribute_and_the_rest_unchanged() {
    let message = with_attributes(9, Attribute::number);
    let sent = dead_letter(&message, &envelope(), false, MAX);
    assert_eq!(sent.attributes.len(), 10);
    assert_eq!(sent.body, message.body);
    assert_eq!(sent.deduplication_id, None);
    assert_eq!(Envelope::of(&received(&sent)), Some(envelope()));
    assert_eq!(Envelope::original_attributes(&received(&sent)), message.attributes);
}

#[test]
fn inv10_of_ten_attributes_one_moves_into_the_envelope_and_comes_back() {
    for make in [
        (|n| Attribute::string(format!("v\u{85}\t{n}"))) as fn(usize) -> Attribute,
        |n| Attribute {
            data_type: "Number.int".into(),
            value: AttributeValue::Text(n.to_string()),
        },
        |n| Attribute::binary(vec![0, 255, u8::try_from(n).unwrap()]),
    ] {
        let message = with_attributes(10, make);
        let sent = dead_letter(&message, &envelope(), false, MAX);
        assert_eq!(sent.attributes.len(), 10);
        assert_eq!(Envelope::original_attributes(&received(&sent)), message.attributes);
        let mut taken = received(&sent);
        assert!(Envelope::take(&mut taken).unwrap().displaced.is_some());
        assert_eq!(taken.attributes, message.attributes);
    }
}

#[test]
fn key_and_type_keep_their_places() {
    let mut message = with_attributes(8, |_| Attribute::string("some longer text"));
    message.attributes.insert(KEY_ATTRIBUTE.into(), Attribute::string("k"));
    message.attributes.insert(TYPE_ATTRIBUTE.into(), Attribute::string("t"));
    let sent = dead_letter(&message, &envelope(), false, MAX);
    assert!(sent.attributes.contains_key(KEY_ATTRIBUTE) && sent.attributes.contains_key(TYPE_ATTRIBUTE));
}

#[test]
fn inv01_a_message_at_the_size_limit_is_sent_with_what_fits() {
    let mut long = envelope();
    long.error = "x".repeat(MAX_ERROR_BYTES);
    for room in (0..1_600).step_by(10) {
        let message = Message::new("mid", "b".repeat(MAX - room));
        let sent = dead_letter(&message, &long, false, MAX);
        assert!(sent.size() <= MAX, "with {room} bytes of room");
        assert_eq!(sent.body, message.body);
        let read = Envelope::of(&received(&sent));
        match room {
            0 => assert_eq!(read, None),
            300..700 => {
                let read = read.unwrap();
                assert_eq!((read.key.as_str(), read.message_id.as_str()), ("order-7", "mid"));
                assert!(read.error.len() <= SHORT_ERROR);
            }
            1_590.. => assert_eq!(read.unwrap(), long),
            _ => {}
        }
    }
}

#[test]
fn a_message_that_dies_again_keeps_its_origin_and_counts_its_return() {
    let first = dead_letter(&with_attributes(10, Attribute::number), &envelope(), false, MAX);
    let mut again = envelope();
    again.key = "other".into();
    again.message_id = "replayed-mid".into();
    again.error = "still declined".into();
    let second = dead_letter(&received(&first), &again, false, MAX);
    let read = Envelope::of(&received(&second)).unwrap();
    assert_eq!((read.key.as_str(), read.message_id.as_str()), ("order-7", "mid"));
    assert_eq!((read.error.as_str(), read.replays), ("still declined", 1));
    let original = with_attributes(10, Attribute::number).attributes;
    assert_eq!(Envelope::original_attributes(&received(&second)), original);
}

#[test]
fn inv07_a_fifo_dead_letter_keeps_its_group_and_gets_a_fresh_deduplication_id() {
    let mut message = Message::new("mid", "{}");
    message.group_id = Some("g".into());
    message.deduplication_id = Some("original".into());
    let sent = dead_letter(&message, &envelope(), true, MAX);
    assert_eq!(sent.group_id.as_deref(), Some("g"));
    let id = sent.deduplication_id.clone().unwrap();
    assert_ne!(id, "original");
    assert_eq!(
        dead_letter(&message, &envelope(), true, MAX),
        sent,
        "the same at every try"
    );
    message.id = "replayed-mid".into();
    assert_ne!(dead_letter(&message, &envelope(), true, MAX).deduplication_id, Some(id));
}

#[test]
fn inv12_an_envelope_that_cannot_be_read_is_none() {
    let deep = "[".repeat(100_000);
    let nested = format!("{{\"x\":{deep}");
    let long_key = format!("{{\"key\":\"{}\"}}", "k".repeat(MAX_KEY + 1));
    for text in [
        "",
        "{",
        "null",
        "[]",
        "7",
        "{\"attempts\":-1}",
        &deep,
        &nested,
        &long_key,
    ] {
        let mut message = Message::new("mid", "{}");
        message
            .attributes
            .insert(ENVELOPE_ATTRIBUTE.into(), Attribute::string(text));
        assert_eq!(Envelope::of(&message), None);
        assert_eq!(Envelope::original_attributes(&message), message.attributes);
    }
    let mut binary = Message::new("mid", "{}");
    binary
        .attributes
        .insert(ENVELOPE_ATTRIBUTE.into(), Attribute::binary(vec![1]));
    assert_eq!(Envelope::of(&binary), None);
    let replaced = dead_letter(&binary, &envelope(), false, MAX);
    assert_eq!(Envelope::of(&received(&replaced)), Some(envelope()));
}

#[test]
fn inv12_a_written_envelope_cannot_smuggle_an_attribute_in() {
    for (name, value, binary) in [
        ("a0", "evil", false),
        (ENVELOPE_ATTRIBUTE, "x", false),
        ("", "x", false),
        ("b", "zz", true),
    ] {
        let mut message = with_attributes(1, Attribute::number);
        let text = serde_json::json!({ "key": "k", "displaced": { "name": name, "data_type": "String", "value": value, "binary": binary } });
        message
            .attributes
            .insert(ENVELOPE_ATTRIBUTE.into(), Attribute::string(text.to_string()));
        let seen = Envelope::original_attributes(&message);
        assert_eq!(seen, with_attributes(1, Attribute::number).attributes);
    }
}

#[derive(Clone, Debug)]
enum Travel {
    /// A worker dead-letters it.
    Dies {
        reason: String,
        error: String,
        attempts: u32,
    },
    /// We replay it.
    Replayed,
    /// SQS moves it, one way or the other.
    Moved,
}

fn travel() -> impl Strategy<Value = Travel> {
    prop_oneof![
        3 => ("[a-z_]{1,12}", ".{0,40}", 0u32..9)
            .prop_map(|(reason, error, attempts)| Travel::Dies { reason, error, attempts }),
        2 => Just(Travel::Replayed),
        1 => Just(Travel::Moved),
    ]
}

fn any_attribute() -> impl Strategy<Value = Attribute> {
    prop_oneof![
        "[ -~\u{e9}\u{fffd}]{1,30}".prop_map(Attribute::string),
        any::<u32>().prop_map(Attribute::number),
        prop::collection::vec(any::<u8>(), 1..30).prop_map(Attribute::binary),
        "[ -~]{1,9}".prop_map(|text| Attribute {
            data_type: "String.x".into(),
            value: AttributeValue::Text(text)
        }),
    ]
}

proptest! {
    #![proptest_config(crate::prop::cases(256))]

    /// A message's way through any number of deaths and replays: it stays what it was, and its last death is told.
    #[test]
    fn inv10_a_message_stays_what_it_was_however_often_it_dies_and_comes_back(
        body in "[ -~]{1,40}",
        attributes in prop::collection::btree_map("[a-z]{1,6}|type|Idempotency-Key|traceparent", any_attribute(), 0..=10),
        key in "[!-~]{1,40}",
        way in prop::collection::vec(travel(), 1..12),
        room in 2_000usize..3_000,
    ) {
        let mut message = Message::new("m-0", body.clone());
        message.attributes = attributes.clone();
        let max = if room < 2_000 { message.size() + room } else { MAX };
        let mut deaths = 0u32;
        let mut told: Option<(String, String, u32)> = None;
        let mut enveloped_once = false;
        for (number, step) in (1..).zip(way) {
            let sent = match step {
                Travel::Dies { reason, error, attempts } => {
                    let envelope = Envelope {
                        key: key.clone(),
                        reason: reason.clone(),
                        error: error.clone(),
                        attempts,
                        message_id: message.id.clone(),
                        ..Envelope::default()
                    };
                    let sent = dead_letter(&message, &envelope, true, max).attributes;
                    if enveloped_once {
                        deaths += 1;
                    }
                    told = Some((reason, error, attempts));
                    sent
                }
                Travel::Replayed => {
                    let mut envelope = Envelope::of(&message).unwrap_or_default();
                    if envelope.key.is_empty() {
                        envelope.key.clone_from(&key);
                        envelope.message_id.clone_from(&message.id);
                    }
                    match envelope.attached_to(&message, max) {
                        Some(attributes) => attributes,
                        // It is left where it is.
                        None => continue,
                    }
                }
                Travel::Moved => message.attributes.clone(),
            };
            let first_id = if enveloped_once { Envelope::of(&message).unwrap().message_id } else { message.id.clone() };
            prop_assert!(sent.len() <= MAX_ATTRIBUTES);
            prop_assert!(size_of(&body, &sent) <= max);
            message.attributes = sent;
            message.id = format!("m-{number}");
            prop_assert_eq!(&Envelope::original_attributes(&message), &attributes);
            match Envelope::of(&message) {
                Some(envelope) => {
                    enveloped_once = true;
                    prop_assert_eq!((&envelope.key, &envelope.message_id), (&key, &first_id));
                    prop_assert_eq!(envelope.replays, deaths);
                    let (reason, error, attempts) = told.clone().unwrap_or_default();
                    prop_assert_eq!((&envelope.reason, envelope.attempts), (&reason, attempts));
                    prop_assert!(envelope.error == error || envelope.error.is_empty(), "cut only where there is no room");
                    prop_assert!(max < MAX || envelope.error == error);
                }
                None => {
                    prop_assert!(max < MAX || told.is_none(), "there is room for an envelope");
                    prop_assert!(!enveloped_once, "what fitted once fits again, told shorter");
                    told = None;
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn any_error_text_is_sent_in_characters_sqs_takes(error in any::<String>(), key in any::<String>()) {
        let written = Envelope { error: format!("{error}\u{fffe}\u{ffff}\u{0}\u{1b}"), key, ..envelope() };
        let sent = dead_letter(&Message::new("mid", "{}"), &written, false, MAX);
        prop_assert!(legal(sent.attributes[ENVELOPE_ATTRIBUTE].as_str().unwrap()));
        let read = Envelope::of(&received(&sent)).unwrap();
        prop_assert_eq!(read.key, written.key);
        prop_assert_eq!(read.error, bounded(written.error, MAX_ERROR_BYTES));
    }

    #[test]
    fn any_text_at_all_is_read_without_a_panic(text in any::<String>()) {
        let mut message = Message::new("mid", "{}");
        message.attributes.insert(ENVELOPE_ATTRIBUTE.into(), Attribute::string(text));
        let _ = (Envelope::of(&message), Envelope::original_attributes(&message));
    }
}
