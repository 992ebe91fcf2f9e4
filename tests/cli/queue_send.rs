//! `redrive queue send`.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use redrive::SqsQueue;
use redrive::message::{Attribute, Message};
use redrive::queue::{Queue as _, Receive};
use serde_json::json;

use crate::scripted::{self, all_done, denied, interrupt, opening};
use crate::stub::Reply;
use crate::world::World;

/// Everything the queue hands out until nothing comes, by body.
async fn drained(queue: &SqsQueue) -> BTreeMap<String, Message> {
    let mut messages = BTreeMap::new();
    loop {
        let page = queue.receive(Receive::new(10, Duration::from_secs(2))).await.unwrap();
        if page.is_empty() {
            return messages;
        }
        let receipts = page.iter().map(|delivery| delivery.receipt.clone()).collect();
        queue.delete(receipts).await.unwrap();
        for delivery in page {
            let twice = messages.insert(delivery.message.body.clone(), delivery.message);
            assert!(twice.is_none(), "sent twice");
        }
    }
}

async fn visible(queue: &SqsQueue) -> u64 {
    queue.describe().await.unwrap().visible
}

#[tokio::test]
async fn a_message_with_all_that_flags_can_say() {
    let Some(world) = World::open() else { return };
    let orders = world.queue("orders").await;
    let folder = tempfile::tempdir().unwrap();
    let photo = folder.path().join("photo");
    std::fs::write(&photo, [0, 159, 255]).unwrap();
    let photo = format!("photo:Binary.png=@{}", photo.display());
    let tool = world.tool();
    let ran = tool.run(&[
        "queue",
        "send",
        "orders",
        r#"{"order":7}"#,
        "--key",
        "order-7",
        "--type",
        "order.created",
        "--attr",
        "tenant=acme",
        "--attr",
        "amount:Number=12.50",
        "--attr",
        &photo,
    ]);
    ran.exits(0);
    insta::assert_snapshot!("queue_send", ran.shown());
    let sent = drained(&orders).await.remove(r#"{"order":7}"#).unwrap();
    assert_eq!(sent.attribute("Idempotency-Key"), Some("order-7"));
    assert_eq!(sent.attribute("type"), Some("order.created"));
    assert_eq!(sent.attributes["tenant"], Attribute::string("acme"));
    assert_eq!(sent.attributes["amount"], Attribute::number("12.50"));
    let mut png = Attribute::binary(vec![0, 159, 255]);
    png.data_type = "Binary.png".into();
    assert_eq!(sent.attributes["photo"], png);
}

#[tokio::test]
async fn a_body_comes_from_a_file_or_standard_input_as_it_is() {
    let Some(world) = World::open() else { return };
    let orders = world.queue("orders").await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("body");
    std::fs::write(&file, "from\ta file\n").unwrap();
    let tool = world.tool();
    tool.run(&["queue", "send", "orders", "--file", file.to_str().unwrap()])
        .exits(0);
    let ran = tool.run_with_input(&["queue", "send", "orders", "--json"], "from a pipe\n".as_bytes());
    ran.exits(0);
    let sent = drained(&orders).await;
    assert_eq!(sent.keys().collect::<Vec<_>>(), ["from\ta file\n", "from a pipe\n"]);
    assert_eq!(ran.json()["message_id"], sent["from a pipe\n"].id);
    // A consumer can tell a copy of it by the key it was given.
    assert!(sent["from a pipe\n"].attribute("Idempotency-Key").is_some());
}

#[tokio::test]
async fn a_file_of_messages_is_sent_in_batches_with_what_each_line_says() {
    let Some(world) = World::open() else { return };
    let orders = world.queue("orders").await;
    let mut lines = vec![
        r#"{"body":{"n":1.10},"key":"k-1","type":"t","attributes":{"a":"x","n":5,"b":{"data_type":"Binary","value_base64":"AP8="}}}"#.to_owned(),
        String::new(),
        r#"{"body":"text"}"#.to_owned(),
    ];
    lines.extend((0..250).map(|n| json!({"body": n.to_string(), "key": format!("k{n}")}).to_string()));
    let tool = world.tool();
    let ran = tool.run_with_input(
        &["queue", "send", "orders", "--jsonl", "--type", "default"],
        lines.join("\n").as_bytes(),
    );
    assert_eq!(ran.exits(0), "252 messages sent to `orders`\n");
    let sent = drained(&orders).await;
    assert_eq!(sent.len(), 252);
    let first = &sent[r#"{"n":1.10}"#];
    assert_eq!(
        (first.attribute("type"), first.attribute("Idempotency-Key")),
        (Some("t"), Some("k-1"))
    );
    assert_eq!(first.attributes["n"], Attribute::number(5));
    assert_eq!(first.attributes["b"], Attribute::binary(vec![0, 255]));
    assert_eq!(sent["text"].attribute("type"), Some("default"));
}

#[tokio::test]
async fn inv12_every_line_is_checked_before_the_first_is_sent() {
    let Some(world) = World::open() else { return };
    let orders = world.queue("orders").await;
    let eleven: BTreeMap<String, &str> = (0..11).map(|n| (format!("a{n}"), "x")).collect();
    let lines = [
        r#"{"body":"good"}"#.to_owned(),
        "no json".to_owned(),
        r#"{"body":"x","colour":"red"}"#.to_owned(),
        json!({"body": "x", "attributes": eleven}).to_string(),
        json!({"body": ""}).to_string(),
        json!({"body": "x".repeat(2 * 1024 * 1024)}).to_string(),
        r#"{"body":"also good"}"#.to_owned(),
        json!({"body": "x", "deduplication_id": "d"}).to_string(),
        json!({"body": "x", "delay_s": 901}).to_string(),
    ];
    let tool = world.tool();
    let input = lines.join("\n");
    let ran = tool.run_with_input(&["queue", "send", "orders", "--jsonl"], input.as_bytes());
    ran.exits(1);
    insta::assert_snapshot!("queue_send_bad_lines", ran.shown());
    assert_eq!(visible(&orders).await, 0);
    let ran = tool.run_with_input(
        &["queue", "send", "orders", "--jsonl", "--dry-run", "--skip-bad"],
        input.as_bytes(),
    );
    assert_eq!(ran.exits(1), "2 messages would be sent to `orders`\n");
    assert_eq!(visible(&orders).await, 0);

    let ran = tool.run_with_input(
        &["queue", "send", "orders", "--jsonl", "--skip-bad", "--json"],
        input.as_bytes(),
    );
    ran.exits(1);
    let states: Vec<_> = ran
        .json_lines()
        .iter()
        .map(|line| (line["line"].clone(), line["status"].clone()))
        .collect();
    assert_eq!(states[0], (json!(1), json!("sent")));
    assert_eq!((states[1].clone(), states.len()), ((json!(2), json!("bad")), 9));
    assert_eq!(drained(&orders).await.len(), 2);
}

#[tokio::test]
async fn a_fifo_queue_needs_a_group_and_keeps_the_order() {
    let Some(world) = World::open() else { return };
    let orders = world.queue("orders.fifo").await;
    let tool = world.tool();
    let ran = tool.run(&["queue", "send", "orders.fifo", "hello"]);
    ran.exits(1);
    insta::assert_snapshot!("queue_send_without_group", ran.shown());
    let ran = tool.run_with_input(
        &["queue", "send", "orders.fifo", "--jsonl"],
        br#"{"body":"x","group":"g"}
        {"body":"y"}"#,
    );
    ran.exits(1);
    assert!(
        ran.stderr
            .contains("line 2: it has no group, and `orders.fifo` is a FIFO queue"),
        "{}",
        ran.stderr
    );
    tool.run(&["queue", "send", "orders.fifo", "x", "--group", "g", "--delay", "5s"])
        .exits(1);

    let lines: Vec<_> = (0..60)
        .map(|n| json!({"body": format!("{n}"), "group": format!("g{}", n % 2)}).to_string())
        .collect();
    tool.run_with_input(
        &["queue", "send", "orders.fifo", "--jsonl"],
        lines.join("\n").as_bytes(),
    )
    .exits(0);
    let mut by_group = BTreeMap::<String, Vec<u32>>::new();
    loop {
        let page = orders.receive(Receive::new(10, Duration::from_secs(2))).await.unwrap();
        if page.is_empty() {
            break;
        }
        for delivery in &page {
            let group = by_group.entry(delivery.message.group_id.clone().unwrap()).or_default();
            group.push(delivery.message.body.parse().unwrap());
        }
        orders
            .delete(page.into_iter().map(|delivery| delivery.receipt).collect())
            .await
            .unwrap();
    }
    assert_eq!(by_group["g0"], (0..60).step_by(2).collect::<Vec<_>>());
    assert_eq!(by_group["g1"], (1..60).step_by(2).collect::<Vec<_>>());
}

/// Answers a batch entry by entry.
fn entry_by_entry(request: &crate::stub::Request, refused: impl Fn(u64) -> bool) -> Reply {
    let (mut done, mut failed) = (Vec::new(), Vec::new());
    for entry in request.body["Entries"].as_array().unwrap() {
        if refused(entry["MessageBody"].as_str().unwrap().parse().unwrap()) {
            failed.push(json!({"Id": entry["Id"], "Code": "InvalidMessageContents", "Message": "not this one", "SenderFault": true}));
        } else {
            done.push(json!({"Id": entry["Id"], "MessageId": "m"}));
        }
    }
    Reply::ok(json!({ "Successful": done, "Failed": failed }))
}

fn numbers(count: u64) -> String {
    (1..=count)
        .map(|n| json!({"body": n.to_string()}).to_string() + "\n")
        .collect()
}

#[tokio::test]
async fn inv11_lines_that_sqs_refuses_are_named_and_the_rest_is_sent() {
    let server = scripted::sqs(|request| {
        opening(request, 0).unwrap_or_else(|| entry_by_entry(request, |n| [17, 18, 19, 42].contains(&n)))
    })
    .await;
    let ran = scripted::run_with_input(
        scripted::tool_at(&server),
        &["queue", "send", "orders", "--jsonl"],
        numbers(300),
    )
    .await;
    ran.exits(1);
    insta::assert_snapshot!("queue_send_refused", ran.shown());
}

#[tokio::test]
async fn what_ends_the_run_leaves_lines_that_another_run_sends_and_no_other() {
    let arrived = Arc::new(Mutex::new(Vec::new()));
    let allowed = Arc::new(AtomicBool::new(false));
    let server = scripted::sqs({
        let (arrived, allowed) = (Arc::clone(&arrived), Arc::clone(&allowed));
        move |request| {
            opening(request, 0).unwrap_or_else(|| {
                let bodies = request.body["Entries"].as_array().unwrap().iter();
                let numbers: Vec<u64> = bodies
                    .map(|entry| entry["MessageBody"].as_str().unwrap().parse().unwrap())
                    .collect();
                // In the middle of it the role loses its permission.
                if numbers.iter().any(|&n| n > 500) && !allowed.load(Ordering::Relaxed) {
                    return denied(request);
                }
                arrived.lock().unwrap().extend(numbers);
                all_done(request)
            })
        }
    })
    .await;
    let tool = || scripted::tool_at(&server);
    let ran = scripted::run_with_input(
        tool(),
        &["queue", "send", "orders", "--jsonl", "--json"],
        numbers(2_000),
    )
    .await;
    ran.exits(1);
    let lines = ran.json_lines();
    let sent = lines.iter().filter(|line| line["status"] == "sent").count();
    assert_eq!(sent, arrived.lock().unwrap().len());
    assert!(sent >= 400, "{sent}");
    assert!(ran.stderr.contains("allow `sqs:SendMessageBatch`"), "{}", ran.stderr);
    assert_eq!(lines.last().unwrap()["status"], "stopped");
    assert!(lines.len() < 1_000, "it went on: {}", lines.len());
    let (_, left) = ran.stderr.trim_end().rsplit_once("--lines ").unwrap();

    allowed.store(true, Ordering::Relaxed);
    let ran = scripted::run_with_input(
        tool(),
        &["queue", "send", "orders", "--jsonl", "--lines", left],
        numbers(2_000),
    )
    .await;
    ran.exits(0);
    let mut arrived = std::mem::take(&mut *arrived.lock().unwrap());
    arrived.sort_unstable();
    assert_eq!(arrived, (1..=2_000).collect::<Vec<_>>());

    for (flag, lines, count) in [("--lines", "3,7-9", 4), ("--from-line", "11", 10)] {
        let ran = scripted::run_with_input(
            tool(),
            &["queue", "send", "orders", "--jsonl", flag, lines],
            numbers(20),
        )
        .await;
        assert_eq!(ran.exits(0), format!("{count} messages sent to `orders`\n"));
    }
}

#[tokio::test]
async fn ctrl_c_ends_it_between_messages_and_says_what_is_left() {
    let Some(world) = World::open() else { return };
    let orders = world.queue("orders").await;
    let mut child = world
        .tool()
        .command(&["queue", "send", "orders", "--jsonl", "--skip-bad", "--rate", "5"])
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    // It stays open: Ctrl-C must not wait for more input.
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(numbers(3).as_bytes()).unwrap();
    let deadline = Duration::from_secs(60);
    tokio::time::timeout(deadline, async {
        while visible(&orders).await < 3 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    interrupt(child.id());
    let ran = crate::tool::Ran::of(child);
    ran.exits(130);
    assert!(
        ran.stderr
            .contains("3 messages sent to `orders`; interrupted: send what is left with --lines 4-"),
        "{}",
        ran.stderr
    );
    drop(stdin);
}

#[tokio::test]
async fn inv12_wrong_usage_says_what_is_wrong() {
    let Some(world) = World::open() else { return };
    world.queue("orders").await;
    let tool = world.tool();
    for (arguments, code, says) in [
        (vec!["orders", "x", "--attr", "a"], 2, "name=value"),
        (vec!["orders", "x", "--attr", "a:Text=x"], 2, "`Text` is no type"),
        (vec!["orders", "x", "--attr", "a=1", "--attr", "a=2"], 2, "given twice"),
        (
            vec!["orders", "x", "--attr", "a:Binary=@/nowhere"],
            1,
            "`/nowhere` cannot be read",
        ),
        (vec!["orders", "x", "--lines", "3-"], 2, "are for --jsonl"),
        (vec!["orders", "x", "--delay", "1h"], 2, "from 0s to 15m"),
        (
            vec!["orders", "x", "--dedup-id", "d"],
            1,
            "no FIFO queue; give a key instead",
        ),
        (vec!["orders", "--file", "/nowhere"], 1, "`/nowhere` cannot be read"),
        (vec!["orders", "--jsonl", "--file", "/"], 1, "is a folder"),
        (vec!["nope", "x"], 1, "`nope` does not exist"),
    ] {
        let ran = tool.run(&[vec!["queue", "send"], arguments.clone()].concat());
        ran.exits(code);
        assert!(ran.stderr.contains(says), "{arguments:?}: {}", ran.stderr);
    }
    let ran = tool.run_with_input(&["queue", "send", "orders"], b"a\xff");
    assert!(ran.stderr.contains("no UTF-8 at byte 2"), "{}", ran.stderr);
}
