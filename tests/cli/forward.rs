//! `redrive forward`.

use std::collections::BTreeMap;
use std::time::Duration;

use hmac::{Hmac, KeyInit as _, Mac as _};
use redrive::clock::Clock;
use redrive::dlq::Envelope;
use redrive::inbox::{Inbox as _, Status};
use redrive::key::{Key, RecordKey};
use redrive::message::{Attribute, Outgoing};
use redrive::outcome::StoredResult;
use redrive::queue::{Queue as _, Receive};
use redrive::{DynamoInbox, SqsQueue};
use serde_json::Value;

use crate::endpoint::{Answer, Asked, Endpoint};
use crate::running::Running;
use crate::tool::Tool;
use crate::world::{TABLE, World};

/// A worker that ends with its queue and loses no time on the way.
const BRISK: [&str; 7] = [
    "--until-empty",
    "--long-poll",
    "1s",
    "--backoff",
    "1ms",
    "--backoff-cap",
    "10ms",
];

fn line<'a>(to: &'a str, inbox: &'a DynamoInbox, more: &[&'a str]) -> Vec<&'a str> {
    let table = ["--table", inbox.table_name()];
    [&["forward", "orders", "--to", to], &table[..], &BRISK, more].concat()
}

fn keyed(key: &str, body: impl Into<String>) -> Outgoing {
    Outgoing::new(body).attribute("Idempotency-Key", Attribute::string(key))
}

/// The dead letters in a queue, by key.
pub(crate) async fn letters(dead: &SqsQueue) -> BTreeMap<String, Envelope> {
    let mut letters = BTreeMap::new();
    loop {
        let received = dead.receive(Receive::new(10, Duration::from_secs(1))).await.unwrap();
        if received.is_empty() {
            return letters;
        }
        for delivery in received {
            let envelope = Envelope::of(&delivery.message).expect("the worker sent it");
            letters.insert(envelope.key.clone(), envelope);
        }
    }
}

/// What the inbox keeps of a key.
pub(crate) async fn record(inbox: &DynamoInbox, key: &str) -> redrive::inbox::Record {
    let key = RecordKey::new("orders", &Key::new(key));
    inbox.get(&key).await.unwrap().expect("it was claimed")
}

fn result(text: &str) -> StoredResult {
    StoredResult::Json(text.to_owned().into())
}

#[tokio::test]
async fn each_answer_of_the_table_decides_what_becomes_of_its_message() {
    let Some(world) = World::open() else { return };
    let orders = world.queue("orders").await;
    let inbox = world.own_inbox().await;
    let endpoint = Endpoint::start(|asked| {
        let status: u16 = asked.body.parse().unwrap();
        let answer = Answer::status(status);
        match status {
            200 => answer.body("{\"receipt\": 7}"),
            201 => answer.body("thanks"),
            307 => answer.header("location", "http://127.0.0.1:1/elsewhere"),
            422 => answer.body("{\n \"error\": \"no such card\"\n}"),
            503 => answer.body("over capacity"),
            _ => answer,
        }
    });
    let all = [
        200, 201, 204, 307, 400, 401, 404, 408, 409, 422, 429, 500, 501, 502, 503,
    ];
    let messages = all.map(|status| keyed(&format!("k{status}"), status.to_string()));
    world.send(&orders, messages).await;
    let more = ["--max-attempts", "2", "--breaker=false", "--again-on", "401", "--json"];
    let ran = world.tool().run(&line(&endpoint.url(), &inbox, &more));
    ran.exits(3);
    let summary = ran.json();
    assert_eq!(summary["completed"], 3, "{summary}");
    assert_eq!(summary["dead_lettered"]["attempts_exhausted"], 8, "{summary}");
    assert_eq!(summary["dead_lettered"]["http_422"], 1, "{summary}");
    let letters = letters(&world.open_queue("orders-dlq").await).await;
    assert_eq!(letters.len(), 12);
    for status in all {
        let key = format!("k{status}");
        let (tries, reason) = match status {
            200..=299 => (1, None),
            400 | 404 | 409 | 422 => (1, Some(format!("http_{status}"))),
            _ => (2, Some("attempts_exhausted".to_owned())),
        };
        let asked = endpoint.asked_for(&key);
        assert_eq!(asked.len(), tries, "{status}");
        assert_eq!(
            letters.get(&key).map(|letter| letter.reason.clone()),
            reason,
            "{status}"
        );
        if let Some(letter) = letters.get(&key) {
            assert!(letter.error.starts_with(&format!("HTTP {status}")), "{}", letter.error);
        }
    }
    assert_eq!(
        letters["k422"].error,
        "HTTP 422 Unprocessable Entity: { \"error\": \"no such card\" }"
    );
    assert!(letters["k503"].error.ends_with("over capacity"));
    assert!(letters["k307"].error.contains("http://127.0.0.1:1/elsewhere"));
    assert_eq!(record(&inbox, "k200").await.result, result("{\"receipt\": 7}"));
    assert_eq!(record(&inbox, "k201").await.result, result("\"thanks\""));
    assert_eq!(record(&inbox, "k204").await.result, StoredResult::Nothing);
    assert_eq!(record(&inbox, "k422").await.status, Status::Rejected);
    // Off a terminal the log is JSON, one event a line.
    for event in ran.stderr.lines() {
        let event: Value = serde_json::from_str(event).unwrap_or_else(|error| panic!("{error}: {event}"));
        assert!(event["timestamp"].is_string() && event["level"].is_string(), "{event}");
    }
    assert!(ran.stderr.contains("\"message\":\"given up\""), "{}", ran.stderr);
}

#[tokio::test]
async fn a_message_is_told_in_headers_and_its_key_is_the_same_each_time() {
    let Some(world) = World::open() else { return };
    let orders = world.queue("orders").await;
    let inbox = world.own_inbox().await;
    let endpoint = Endpoint::start(|asked| Answer::status(if asked.before == 0 { 500 } else { 200 }));
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let message = Outgoing::new(r#"{"order":{"id":17}}"#)
        .attribute("type", Attribute::string("order.created"))
        .attribute("note", Attribute::string("a\nRedrive-Attempt: 9"))
        .attribute("raw", Attribute::binary(vec![0, 255]))
        .attribute("traceparent", Attribute::string(trace));
    world.send(&orders, [message]).await;
    let url = endpoint.url();
    let more = [
        "--key-pointer",
        "/order/id",
        "--header",
        "X-Team: shop",
        "--header-env",
        "Authorization=API_AUTH",
    ];
    let running = Running::start(
        &world.tool(),
        &line(&url, &inbox, &more),
        &[("API_AUTH", "Bearer s3cret")],
    );
    let ran = running.end();
    assert_eq!(ran.exits(0), "1 message done, 1 failed and tried again\n");
    assert!(!ran.stderr.contains("s3cret"));
    let asked = endpoint.asked_for("17");
    assert_eq!(asked.len(), 2);
    assert!(asked.iter().all(|asked| asked.line == "POST /in HTTP/1.1"));
    assert_eq!(asked[0].body, r#"{"order":{"id":17}}"#);
    for (name, value) in [
        ("content-type", "application/json"),
        ("redrive-queue", "orders"),
        ("redrive-attempt", "1"),
        ("redrive-receive-count", "1"),
        ("redrive-attr-type", "order.created"),
        ("redrive-attr-note", "a%0ARedrive-Attempt: 9"),
        ("redrive-binary-raw", "AP8="),
        ("traceparent", trace),
        ("x-team", "shop"),
        ("authorization", "Bearer s3cret"),
    ] {
        assert_eq!(asked[0].headers.get(name).map(String::as_str), Some(value), "{name}");
    }
    assert_eq!(asked[1].headers["redrive-attempt"], "2");
    assert_eq!(
        asked[1].headers["redrive-message-id"],
        asked[0].headers["redrive-message-id"]
    );
    let token = |asked: &Asked| asked.headers["redrive-fencing-token"].parse::<u64>().unwrap();
    assert!(token(&asked[1]) > token(&asked[0]));
}

#[tokio::test]
async fn a_signature_is_verified_by_time_key_and_body_with_either_secret() {
    let Some(world) = World::open() else { return };
    let orders = world.queue("orders").await;
    let inbox = world.own_inbox().await;
    let endpoint = Endpoint::start(|_| Answer::status(204));
    world.send(&orders, [keyed("order-7", "{\"amount\":12}\n")]).await;
    let secrets = [("NEW", "0123456789abcdef"), ("OLD", "fedcba9876543210")];
    let url = endpoint.url();
    let more = ["--sign-secret-env", "NEW", "--sign-secret-env", "OLD"];
    Running::start(&world.tool(), &line(&url, &inbox, &more), &secrets)
        .end()
        .exits(0);
    let asked = &endpoint.asked()[0];
    let parts: Vec<(&str, &str)> = asked.headers["redrive-signature"]
        .split(',')
        .map(|part| part.split_once('=').unwrap())
        .collect();
    assert_eq!(
        parts.iter().map(|(name, _)| *name).collect::<Vec<_>>(),
        ["t", "v1", "v1"]
    );
    for ((_, secret), (_, signature)) in secrets.iter().zip(&parts[1..]) {
        let mut mac = Hmac::<sha2::Sha256>::new_from_slice(secret.as_bytes()).unwrap();
        mac.update(format!("{}\n{}\n{}", parts[0].1, asked.headers["idempotency-key"], asked.body).as_bytes());
        let expected: String = mac
            .finalize()
            .into_bytes()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(*signature, expected);
    }
}

#[tokio::test]
async fn what_comes_late_broken_or_never_is_tried_again_and_what_was_said_is_done() {
    let Some(world) = World::open() else { return };
    let orders = world.queue("orders").await;
    let inbox = world.own_inbox().await;
    let endpoint = Endpoint::start(|asked| match (asked.body.as_str(), asked.before) {
        ("late", 0) => Answer::status(503).header("retry-after", "4"),
        ("hang up", 0) => Answer::HangUp,
        ("silent", 0) => Answer::Silence,
        // The status is what counts, even where the body never ends.
        ("endless", _) => Answer::Endless(200),
        ("large", _) => Answer::status(200).body(&"x".repeat(100_000)),
        _ => Answer::status(200),
    });
    let bodies = ["late", "hang up", "silent", "endless", "large"];
    world.send(&orders, bodies.map(|body| keyed(body, body))).await;
    let ran = world
        .tool()
        .run(&line(&endpoint.url(), &inbox, &["--timeout", "2s", "--breaker=false"]));
    assert_eq!(ran.exits(0), "5 messages done, 3 failed and tried again\n");
    for (key, tries) in [("late", 2), ("hang up", 2), ("silent", 2), ("endless", 1), ("large", 1)] {
        assert_eq!(endpoint.asked_for(key).len(), tries, "{key}");
    }
    let late = endpoint.asked_for("late");
    assert!(late[1].at.duration_since(late[0].at) >= Duration::from_secs(4));
    for key in ["endless", "large"] {
        assert_eq!(record(&inbox, key).await.result, StoredResult::Omitted, "{key}");
    }
    assert!(ran.stderr.contains("timed out after 2000 ms"), "{}", ran.stderr);
    assert!(ran.stderr.contains("no answer: "), "{}", ran.stderr);
}

#[tokio::test]
async fn inv04_an_outage_opens_the_breaker_and_does_not_fill_the_dead_letter_queue() {
    let Some(world) = World::open() else { return };
    let orders = world.queue("orders").await;
    let inbox = world.own_inbox().await;
    let down = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
    let theirs = std::sync::Arc::clone(&down);
    let endpoint = Endpoint::start(move |_| {
        let down = theirs.load(std::sync::atomic::Ordering::SeqCst);
        Answer::status(if down { 503 } else { 200 })
    });
    world
        .send(&orders, (0..40).map(|n| keyed(&format!("k{n}"), n.to_string())))
        .await;
    let url = endpoint.url();
    let more = [
        "--max-attempts",
        "2",
        "--breaker-open-for",
        "1s",
        "--breaker-open-for-most",
        "1s",
        "--concurrency",
        "5",
    ];
    let running = Running::start(&world.tool(), &line(&url, &inbox, &more), &[]);
    running.wait_for("receiving pauses: a breaker is open");
    let before = endpoint.asked().len();
    // More than were under way by then: probes find it down too, before it is up again.
    endpoint.wait_for(before + 7);
    down.store(false, std::sync::atomic::Ordering::SeqCst);
    let ran = running.end();
    assert!(ran.exits(0).starts_with("40 messages done"), "{}", ran.stdout);
    assert!(!ran.stdout.contains("dead"), "{}", ran.stdout);
    assert!(letters(&world.open_queue("orders-dlq").await).await.is_empty());
}

#[tokio::test]
async fn inv07_fifo_groups_are_posted_in_order_though_one_message_fails_and_another_is_given_up() {
    let Some(world) = World::open() else { return };
    let orders = world.queue("orders.fifo").await;
    let inbox = world.own_inbox().await;
    let endpoint = Endpoint::start(|asked| {
        Answer::status(match asked.body.as_str() {
            // The last of its group: LocalStack opens a group when what was received behind a failed head is given back.
            "a2" if asked.before == 0 => 500,
            "b1" => 422,
            _ => 200,
        })
    });
    let messages = ["a0", "b0", "a1", "b1", "a2", "b2"].map(|body| {
        keyed(body, body)
            .group(&body[..1])
            .deduplication_id(format!("once-{body}"))
    });
    world.send(&orders, messages).await;
    let url = endpoint.url();
    let arguments = [
        &["forward", "orders.fifo", "--to", &url, "--table", inbox.table_name()][..],
        &BRISK,
    ];
    world.tool().run(&arguments.concat()).exits(3);
    for (group, order) in [("a", &["a0", "a1", "a2", "a2"][..]), ("b", &["b0", "b1", "b2"])] {
        let asked = endpoint.asked();
        let of_group = asked.iter().filter(|asked| asked.headers["redrive-group-id"] == group);
        assert_eq!(of_group.map(|asked| asked.body.as_str()).collect::<Vec<_>>(), order);
    }
}

#[tokio::test]
async fn inv08_sigterm_ends_in_order_and_a_second_one_at_once() {
    let Some(world) = World::open() else { return };
    let orders = world.queue("orders").await;
    let inbox = world.own_inbox().await;
    let (release, gate) = std::sync::mpsc::channel::<()>();
    let gate = std::sync::Mutex::new(gate);
    let endpoint = Endpoint::start(move |asked| match asked.body.as_str() {
        "held" => {
            gate.lock().unwrap().recv().unwrap();
            Answer::status(200)
        }
        _ => Answer::Silence,
    });
    let url = endpoint.url();
    let arguments = [
        "forward",
        "orders",
        "--to",
        &url,
        "--table",
        inbox.table_name(),
        "--long-poll",
        "1s",
    ];
    world.send(&orders, [keyed("held", "held")]).await;
    let running = Running::start(&world.tool(), &arguments, &[]);
    endpoint.wait_for(1);
    running.signal("TERM");
    running.wait_for("\"draining\"");
    release.send(()).unwrap();
    assert_eq!(running.end().exits(0), "1 message done\n");
    assert_eq!(record(&inbox, "held").await.status, Status::Completed);

    world.send(&orders, [keyed("silent", "silent")]).await;
    let running = Running::start(&world.tool(), &arguments, &[]);
    endpoint.wait_for(2);
    running.signal("INT");
    running.wait_for("\"draining\"");
    let clock = Clock::system();
    let begun = clock.now();
    running.signal("INT");
    running.end().exits(130);
    assert!(clock.now().duration_since(begun) < Duration::from_secs(10));
    endpoint.wait_until_left(1);
}

#[tokio::test]
async fn inv03_a_lost_lease_cancels_the_request() {
    let Some(world) = World::open() else { return };
    let orders = world.queue("orders").await;
    let inbox = world.own_inbox().await;
    let endpoint = Endpoint::start(|asked| {
        if asked.before == 0 {
            Answer::Silence
        } else {
            Answer::status(200)
        }
    });
    world.send(&orders, [keyed("k", "body")]).await;
    let url = endpoint.url();
    let arguments = [
        "forward",
        "orders",
        "--to",
        &url,
        "--table",
        inbox.table_name(),
        "--lease",
        "3s",
        "--long-poll",
        "1s",
    ];
    let running = Running::start(&world.tool(), &arguments, &[]);
    endpoint.wait_for(1);
    take_over(&world, &inbox, "k").await;
    endpoint.wait_until_left(1);
    running.wait_for("lost: left to whoever has it now");
    running.signal("TERM");
    running.end().exits(0);
}

/// Takes a key's claim away, as another worker would.
pub(crate) async fn take_over(world: &World, inbox: &DynamoInbox, key: &str) {
    use aws_sdk_dynamodb::types::AttributeValue;
    aws_sdk_dynamodb::Client::new(&world.dynamodb)
        .update_item()
        .table_name(inbox.table_name())
        .key("pk", AttributeValue::S(format!("orders#{key}")))
        .update_expression("SET claim_id = :other")
        .condition_expression("attribute_exists(pk)")
        .expression_attribute_values(":other", AttributeValue::S("another-worker-1".into()))
        .send()
        .await
        .expect("the record is there");
}

#[tokio::test]
async fn inv12_wrong_settings_are_refused_with_what_to_do() {
    let Some(world) = World::open() else { return };
    world.queue("orders").await;
    world.plain_queue("lonely", &[]).await;
    world.inbox().await;
    let tool = world.tool();
    let to = ["forward", "orders", "--to", "http://127.0.0.1:1/"];
    let mut told = String::new();
    for (more, code) in [
        (&[][..], 2),
        (&["--table", TABLE, "--max-attempts", "0"], 2),
        (&["--table", TABLE, "--long-poll", "1m"], 2),
        (&["--table", TABLE, "--burst", "5"], 2),
        (&["--table", TABLE, "--breaker=false", "--breaker-failures", "3"], 2),
        (&["--table", TABLE, "--breaker-window", "1ms"], 2),
        (&["--table", TABLE, "--backoff", "1h"], 2),
        (&["--table", TABLE, "--concurrency", "0"], 2),
        (&["--table", TABLE, "--key-pointer", "order.id"], 2),
        (&["--table", TABLE, "--key-from-deduplication-id"], 2),
        (
            &[
                "--table",
                TABLE,
                "--dead-letters",
                "keep",
                "--dead-letter-queue",
                "lonely",
            ],
            2,
        ),
        (&["--table", TABLE, "--dead-letter-queue", "orders"], 2),
        (&["--table", TABLE, "--tenant-rate", "5"], 2),
        (&["--table", TABLE, "--timeout", "30d"], 2),
        (&["--table", TABLE, "--max-result", "1000000"], 2),
        (&["--no-inbox", "--shadow"], 2),
        (&["--table", TABLE, "--sign-secret-env", "NO_SUCH_SECRET"], 2),
        (&["--table", "no-such-table"], 1),
    ] {
        let ran = tool.run(&[&to[..], more].concat());
        assert_eq!(ran.code, code, "{more:?}\n{}", ran.stderr);
        told.push_str(&format!("$ {}\n{}", more.join(" "), ran.stderr));
    }
    let lonely = ["forward", "lonely", "--to", "http://127.0.0.1:1/", "--no-inbox"];
    let ran = tool.run(&lonely);
    ran.exits(1);
    told.push_str(&format!("$ of a queue without a dead-letter queue\n{}", ran.stderr));
    insta::assert_snapshot!("forward_refusals", told);
    let mut command = tool.command(&[&to[..], &["--table", TABLE]].concat());
    command.env("REDRIVE_CONCURRENCY", "sixty-four");
    let ran = crate::tool::Ran::of(command.spawn().unwrap());
    ran.exits(2);
    assert!(
        ran.stderr.contains("REDRIVE_CONCURRENCY=`sixty-four`"),
        "{}",
        ran.stderr
    );
}

#[test]
fn the_help_teaches() {
    let help = Tool::alone().run(&["forward", "--help"]);
    insta::assert_snapshot!("forward_help", help.exits(0));
}
