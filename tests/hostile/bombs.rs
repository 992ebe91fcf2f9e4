//! Bodies and attributes of the largest size there is, in the worst shapes.

use std::collections::BTreeMap;

use redrive::extract::{Attrs, Json};
use redrive::message::{Attribute, AttributeValue, KEY_ATTRIBUTE, Outgoing, TRACEPARENT_ATTRIBUTE, TYPE_ATTRIBUTE};
use redrive::queue::MAX_BYTES;
use redrive::testing::Bench;
use redrive::{Failure, Router};
use serde::Deserialize;

use crate::{ALLOCATOR, alone, deceives};

#[derive(Deserialize)]
#[allow(dead_code, reason = "they are read into")]
struct Order {
    amount: u64,
    note: Option<String>,
    more: Option<serde_json::Value>,
}

#[derive(Deserialize)]
#[allow(dead_code, reason = "they are read into")]
struct Meta {
    tenant: Option<String>,
    priority: Option<u8>,
}

async fn order(_: Json<Order>, _: Attrs<Meta>) -> Result<(), Failure> {
    Ok(())
}

async fn anything(_: Json<serde_json::Value>) -> Result<(), Failure> {
    Ok(())
}

async fn by_name(_: Json<BTreeMap<String, u64>>) -> Result<(), Failure> {
    Ok(())
}

fn router() -> Router {
    Router::new()
        .route("order", order)
        .route("value", anything)
        .route("map", by_name)
        .fallback(Router::by_pointer("/a/a/a/a/a/a/a/a").route("deep", order))
}

/// `start`, as often `again` as there is room, and `end`.
fn filled(start: &str, again: &str, end: &str) -> String {
    // Room for the attributes, and for the envelope of a dead letter.
    let room = MAX_BYTES - 2_000 - start.len() - end.len();
    format!("{start}{}{end}", again.repeat(room / again.len()))
}

fn typed(kind: &str, body: impl Into<String>) -> Outgoing {
    Outgoing::new(body).attribute(TYPE_ATTRIBUTE, Attribute::string(kind))
}

fn keyed(key: String) -> Outgoing {
    typed("order", r#"{"amount":1}"#).attribute(KEY_ATTRIBUTE, Attribute::string(key))
}

/// Every bomb, what it is, and whether it is done (else a dead letter for this reason).
fn bombs() -> Vec<(&'static str, Outgoing, Option<&'static str>)> {
    let malformed = Some("malformed");
    let unroutable = Some("unroutable");
    let deep = 8;
    let mut tens = typed("order", r#"{"amount":1}"#);
    for n in 0..9 {
        let bytes = vec![0xff_u8; 110_000];
        tens.attributes.insert(format!("a{n}"), Attribute::binary(bytes));
    }
    let invalid = typed("order", r#"{"amount":1}"#).attribute("tenant", Attribute::binary(vec![0xff, 0xfe, 0x80]));
    let huge_trace =
        typed("order", r#"{"amount":1}"#).attribute(TRACEPARENT_ATTRIBUTE, Attribute::string(filled("00-", "a", "")));
    let mut odd = typed("order", r#"{"amount":1}"#);
    odd.attributes.insert(
        "priority".into(),
        Attribute {
            data_type: "Number.huge".into(),
            value: AttributeValue::Text(format!("1.{}", "0".repeat(100_000))),
        },
    );
    vec![
        ("open brackets", typed("value", filled("", "[", "")), malformed),
        (
            "open brackets for a struct",
            typed("order", filled(r#"{"amount":1,"more":"#, "[", "")),
            malformed,
        ),
        ("open objects", typed("value", filled("", r#"{"a":"#, "")), malformed),
        (
            "open objects without a type",
            Outgoing::new(filled("", r#"{"a":"#, "")),
            unroutable,
        ),
        (
            "a pointer to what is deep",
            Outgoing::new(format!("{}\"deep\"{}", r#"{"a":"#.repeat(deep), "}".repeat(deep))),
            malformed,
        ),
        ("arrays without a type", Outgoing::new(filled("", "[", "")), malformed),
        (
            "a huge number",
            typed("order", filled(r#"{"amount":"#, "9", "}")),
            malformed,
        ),
        ("a huge exponent", typed("value", r#"{"a":1e999999999}"#), malformed),
        ("a huge fraction", typed("value", filled("0.", "1", "")), None),
        (
            "duplicate keys",
            typed("map", filled(r#"{"a":1"#, r#","a":1"#, "}")),
            None,
        ),
        (
            "duplicate fields",
            typed("order", filled(r#"{"amount":1"#, r#","amount":1"#, "}")),
            malformed,
        ),
        ("many small values", typed("value", filled("[0", ",0", "]")), None),
        ("many small arrays", typed("value", filled("[[]", ",[]", "]")), None),
        ("many small objects", typed("value", filled("[{}", ",{}", "]")), None),
        ("escapes", typed("value", filled("\"", "\\u0041", "\"")), None),
        (
            "lone surrogates",
            typed("value", filled("\"", "\\ud800", "\"")),
            malformed,
        ),
        (
            "an unclosed string of quotes",
            typed("value", filled("\"", "\\\"", "")),
            malformed,
        ),
        ("lines", typed("value", filled("", "\n", "x")), malformed),
        (
            "entities",
            typed("value", filled("<!DOCTYPE x [<!ENTITY a \"", "&a;", "\">]>")),
            malformed,
        ),
        (
            "an unknown type of a megabyte",
            typed(&filled("", "t", ""), "{}"),
            unroutable,
        ),
        ("a key of a megabyte", keyed(filled("", "k", "")), None),
        (
            "a key of control characters",
            keyed("\t\r\n\u{85}\u{9b}".repeat(20_000)),
            None,
        ),
        ("ten attributes of all the room", tens, None),
        ("invalid UTF-8", invalid, malformed),
        ("an attribute that is a huge number", odd, malformed),
        ("a traceparent of a megabyte", huge_trace, None),
    ]
}

/// Live at once for one message: what the queue holds of it, what was received, the JSON it becomes, and the dead letter.
const FACTOR: usize = 32;
const FIXED: usize = 4 << 20;

#[tokio::test(start_paused = true)]
async fn inv05_inv12_no_bomb_ends_the_worker_or_takes_more_than_its_size_times_a_constant() {
    let _alone = alone().await;
    let mut most = (0.0, "");
    for (what, bomb, reason) in bombs() {
        let size = bomb.size();
        assert!(size <= MAX_BYTES, "{what}: {size}");
        let before = ALLOCATOR.current_usage();
        ALLOCATOR.reset_peak_usage();
        let bench = Bench::new("orders", 7).unwrap();
        bench
            .send_message(bomb)
            .await
            .unwrap_or_else(|error| panic!("{what}: {error}"));
        // It comes behind: the worker that took the bomb does it.
        bench.send_message(keyed("good".to_owned())).await.unwrap();
        let worker = bench.worker().max_attempts(2).handler(router()).build().unwrap();
        let status = bench.run(worker).await.unwrap();
        let used = ALLOCATOR.peak_usage().saturating_sub(before);
        assert!(
            used <= FACTOR * size + FIXED,
            "{what}: {used} bytes were live for {size}, {} for each",
            used / size
        );
        if size > MAX_BYTES / 2 && used as f64 / size as f64 > most.0 {
            most = (used as f64 / size as f64, what);
        }

        let letters = bench.dead_letters();
        match reason {
            None => assert!(letters.is_empty(), "{what}: {letters:?}"),
            Some(reason) => {
                assert_eq!(letters.len(), 1, "{what}");
                assert_eq!(letters[0].reason, reason, "{what}: {}", letters[0].error);
                assert!(
                    !letters[0].error.is_empty() && letters[0].error.len() <= 1_024,
                    "{what}"
                );
                assert_eq!(letters[0].attempts, 1, "{what}: what cannot be read is not tried again");
            }
        }
        let done = 1 + u64::from(reason.is_none());
        assert_eq!(status.totals.completed, done, "{what}: the good one was done");
        assert!(bench.queue().is_empty(), "{what}");
        for record in bench.inbox().records() {
            assert!(
                record.key.as_str().len() <= 2_048,
                "{what}: {} bytes",
                record.key.as_str().len()
            );
        }
    }
    // Not so near to the bound that it says nothing: more than a message costs when it is only held.
    assert!(most.0 > 3.0, "{most:?}");
    println!("at most {:.1} bytes for each, by: {}", most.0, most.1);
}

#[tokio::test(start_paused = true)]
async fn inv05_what_is_kept_of_a_bomb_when_it_is_done_is_next_to_nothing() {
    let _alone = alone().await;
    let before = ALLOCATOR.current_usage();
    let bench = Bench::new("orders", 7).unwrap();
    for n in 0..20 {
        bench
            .send_message(keyed(format!("{n}{}", "k".repeat(500_000))))
            .await
            .unwrap();
    }
    let worker = bench.worker().handler(router()).build().unwrap();
    let status = bench.run(worker).await.unwrap();
    assert_eq!(status.totals.completed, 20);
    // The embedded queue remembers what was deleted, so that it can come back.
    let inbox = bench.inbox().clone();
    drop((status, bench));
    assert_eq!(inbox.len(), 20);
    let kept = ALLOCATOR.current_usage().saturating_sub(before);
    assert!(kept < 200_000, "{kept} bytes of 20 messages of 500 kB");
}

#[test]
fn the_list_of_what_deceives_has_every_control_character() {
    for c in ['\u{1b}', '\u{9b}', '\n', '\u{7f}', '\u{202e}', '\u{61c}'] {
        assert!(deceives(c));
    }
    assert!(!deceives('é'));
}
