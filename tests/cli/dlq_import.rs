//! `redrive dlq import`, and the round trip with `redrive dlq export`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use redrive::SqsQueue;
use redrive::dlq::{ENVELOPE_ATTRIBUTE, Envelope};
use redrive::key::KeySource;
use redrive::message::{Attribute, AttributeValue, Message, Outgoing};
use redrive::queue::{Queue as _, Receive};
use serde_json::{Value, json};

use crate::scripted::{self, all_done, denied, opening};
use crate::tool::Tool;
use crate::world::{Letter, World};

/// What must be the same after a round trip: everything but what SQS gives each message anew, and the envelope that an import
/// gives to what had none.
fn content(file: &Path) -> Vec<String> {
    let text = fs::read_to_string(file).unwrap();
    let strip = |line: &str| {
        let mut line: Value = serde_json::from_str(line).unwrap();
        for fresh in ["id", "sent_at_ms", "receives", "deduplication_id"] {
            line.as_object_mut().unwrap().remove(fresh);
        }
        if line["envelope"].get("reason").is_none() {
            line.as_object_mut().unwrap().remove("envelope");
            if let Some(attributes) = line.get_mut("attributes").and_then(Value::as_object_mut) {
                attributes.remove(ENVELOPE_ATTRIBUTE);
                if attributes.is_empty() {
                    line.as_object_mut().unwrap().remove("attributes");
                }
            }
        }
        line.to_string()
    };
    let mut lines: Vec<_> = text.lines().map(strip).collect();
    lines.sort();
    lines
}

fn export(tool: &Tool, queue: &str, file: &Path) {
    tool.run(&["dlq", "export", queue, "--out", file.to_str().unwrap()])
        .exits(0);
}

async fn visible(queue: &SqsQueue) -> u64 {
    queue.describe().await.unwrap().visible
}

/// A line of an export.
fn line(body: &str) -> Value {
    json!({ "redrive_export": 1, "body": body })
}

#[tokio::test]
async fn what_was_exported_and_imported_and_exported_again_is_the_same() {
    let Some(world) = World::open() else { return };
    world.queue("orders").await;
    let dead = world.open_queue("orders-dlq").await;
    let mut odd = Letter::new(
        "k\"1",
        "malformed",
        "no\n\u{1b}[31m",
        "tab\tcr\r\nquote\" é 🦀 \u{2028}\u{202e}\u{7f}",
    );
    for n in 0..6 {
        odd.outgoing.attributes.insert(format!("a{n}"), Attribute::number(n));
    }
    let labelled = |data_type: &str, value| Attribute {
        data_type: data_type.into(),
        value,
    };
    let all_bytes = AttributeValue::Binary((0..=255_u8).collect::<Vec<_>>().into());
    odd.outgoing
        .attributes
        .insert("bytes".into(), labelled("Binary.png", all_bytes));
    odd.outgoing.attributes.insert(
        "number".into(),
        labelled("Number.money", AttributeValue::Text("1.50".into())),
    );
    odd.outgoing
        .attributes
        .insert("traceparent".into(), Attribute::string("not one"));
    assert_eq!(odd.outgoing.attributes.len(), 9, "the envelope is the tenth");
    odd.outgoing.trace_header = Some("Root=1-5759e988-bd862e3fe1be46a994272793".into());
    let most = dead.attributes().max_message_bytes;
    let largest = Letter::moved_by_sqs(&"\"".repeat(most));
    world.plant(&dead, [odd, largest, Letter::moved_by_sqs(" ")]).await;

    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (folder.path().join("1.jsonl"), folder.path().join("2.jsonl"));
    let tool = world.tool();
    export(&tool, "orders", &first);
    tool.run(&["dlq", "drop", "orders", "--yes", "--no-backup"]).exits(0);
    assert_eq!(visible(&dead).await, 0);
    let ran = tool.run(&["dlq", "import", "orders", first.to_str().unwrap(), "--dry-run"]);
    assert_eq!(ran.exits(0), "3 messages would be sent to `orders-dlq`\n");
    assert_eq!(visible(&dead).await, 0);
    let ran = tool.run(&["dlq", "import", "orders", first.to_str().unwrap()]);
    assert_eq!(ran.exits(0), "3 messages sent to `orders-dlq`\n");
    export(&tool, "orders", &second);
    assert_eq!(content(&first), content(&second));
}

#[tokio::test]
async fn with_exact_it_goes_to_the_queue_itself_from_standard_input() {
    let Some(world) = World::open() else { return };
    let orders = world.queue("orders").await;
    let dead = world.open_queue("orders-dlq").await;
    world
        .plant(&dead, [Letter::new("order-1", "malformed", "no", "{}")])
        .await;
    let tool = world.tool();
    let exported = tool.run(&["dlq", "export", "orders"]).stdout;
    let ran = tool.run_with_input(
        &["dlq", "import", "orders", "-", "--exact", "--json"],
        exported.as_bytes(),
    );
    ran.exits(0);
    assert_eq!(
        (&ran.json()["line"], &ran.json()["status"]),
        (&json!(1), &json!("sent"))
    );
    assert_eq!((visible(&orders).await, visible(&dead).await), (1, 1));
}

#[tokio::test]
async fn inv12_a_broken_line_is_named_and_nothing_is_sent() {
    let Some(world) = World::open() else { return };
    world.queue("orders").await;
    let dead = world.open_queue("orders-dlq").await;
    let mut eleven = line("x");
    for n in 0..11 {
        eleven["attributes"][format!("a{n}")] = json!({"data_type": "String", "value": "x"});
    }
    let lines = [
        line("good").to_string(),
        r#"{"redrive_export":1,"body":"cut of"#.to_owned(),
        r#"{"body":"no export"}"#.to_owned(),
        r#"{"redrive_export":9,"body":"from the future"}"#.to_owned(),
        eleven.to_string(),
        line("").to_string(),
        line("\u{0}").to_string(),
        line("also good").to_string(),
    ];
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("dead.jsonl");
    fs::write(&file, lines.join("\n")).unwrap();
    let mut command = world.tool().command(&["dlq", "import", "orders", "dead.jsonl"]);
    let ran = crate::tool::Ran::of(command.current_dir(folder.path()).spawn().unwrap());
    ran.exits(1);
    insta::assert_snapshot!("dlq_import_broken", ran.shown());
    assert_eq!(visible(&dead).await, 0);

    let tool = world.tool();
    let ran = tool.run(&["dlq", "import", "orders", file.to_str().unwrap(), "--skip-bad"]);
    ran.exits(1);
    assert_eq!(ran.stdout, "2 messages sent to `orders-dlq`, 6 bad lines skipped\n");
    assert_eq!(visible(&dead).await, 2);
    let ran = tool.run(&["dlq", "import", "orders", file.to_str().unwrap(), "--lines", "8"]);
    assert_eq!(ran.exits(0), "1 message sent to `orders-dlq`\n");
    for (arguments, says) in [
        (["dlq", "import", "orders", "/nowhere"], "`/nowhere` cannot be read"),
        (["dlq", "import", "nope", "/dev/null"], "`nope` does not exist"),
    ] {
        let ran = tool.run(&arguments);
        ran.exits(1);
        assert!(ran.stderr.contains(says), "{}", ran.stderr);
    }
    let ran = tool.run(&["dlq", "import", "orders", "/dev/null"]);
    ran.exits(0);
    assert!(
        ran.stderr.contains("has no message; nothing was sent"),
        "{}",
        ran.stderr
    );
}

#[tokio::test]
async fn imported_twice_into_a_fifo_queue_within_five_minutes_nothing_is_swallowed() {
    let Some(world) = World::open() else { return };
    world.queue("orders.fifo").await;
    let dead = world.open_queue("orders-dlq.fifo").await;
    let letters = (0..6)
        .map(|n| Letter::new(&format!("k{n}"), "malformed", "no", &n.to_string()).in_group(&format!("g{}", n % 2)));
    world.plant(&dead, letters).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("dead.jsonl");
    let tool = world.tool();
    export(&tool, "orders.fifo", &file);
    tool.run(&["dlq", "drop", "orders.fifo", "--yes", "--no-backup"])
        .exits(0);
    for _ in 0..2 {
        tool.run(&["dlq", "import", "orders.fifo", file.to_str().unwrap()])
            .exits(0);
        let mut by_group = BTreeMap::<String, Vec<u32>>::new();
        loop {
            let page = dead.receive(Receive::new(10, Duration::from_secs(2))).await.unwrap();
            if page.is_empty() {
                break;
            }
            for delivery in &page {
                let group = by_group.entry(delivery.message.group_id.clone().unwrap()).or_default();
                group.push(delivery.message.body.parse().unwrap());
            }
            dead.delete(page.into_iter().map(|delivery| delivery.receipt).collect())
                .await
                .unwrap();
        }
        assert_eq!(
            by_group,
            BTreeMap::from([("g0".into(), vec![0, 2, 4]), ("g1".into(), vec![1, 3, 5])])
        );
    }
    let ran = tool.run_with_input(&["dlq", "import", "orders.fifo", "-"], line("x").to_string().as_bytes());
    ran.exits(1);
    assert!(
        ran.stderr
            .contains("line 1: it has no group, and `orders-dlq.fifo` is a FIFO queue"),
        "{}",
        ran.stderr
    );
}

#[tokio::test]
async fn inv12_who_may_not_send_is_told_what_to_allow_and_which_lines_are_left() {
    let server = scripted::sqs(|request| {
        opening(request, 0).unwrap_or_else(|| {
            let first = request.body["Entries"][0]["MessageBody"] == "0";
            if first { all_done(request) } else { denied(request) }
        })
    })
    .await;
    let lines: String = (0..60).map(|n| line(&n.to_string()).to_string() + "\n").collect();
    let ran = scripted::run_with_input(scripted::tool_at(&server), &["dlq", "import", "orders", "-"], lines).await;
    ran.exits(1);
    assert!(ran.stderr.contains("allow `sqs:SendMessageBatch`"), "{}", ran.stderr);
    let sent: u64 = ran
        .stderr
        .lines()
        .find_map(|line| line.split_once(" messages sent to `orders-dlq`"))
        .unwrap()
        .0
        .parse()
        .unwrap();
    assert!(
        ran.stderr.contains(&format!("--lines {}-\n", sent + 1)),
        "{}",
        ran.stderr
    );
}

#[tokio::test]
async fn a_rate_is_kept() {
    let Some(world) = World::open() else { return };
    world.queue("orders").await;
    let tool = world.tool();
    let lines: String = (0..15).map(|n| line(&n.to_string()).to_string() + "\n").collect();
    let clock = redrive::clock::Clock::system();
    let start = clock.now();
    let ran = tool.run_with_input(&["dlq", "import", "orders", "-", "--rate", "5"], lines.as_bytes());
    assert_eq!(ran.exits(0), "15 messages sent to `orders-dlq`\n");
    // Five at once, and ten more at five a second.
    assert!(clock.now().saturating_duration_since(start) >= Duration::from_millis(1_950));
    tool.run(&["dlq", "import", "orders", "-", "--rate", "0"]).exits(2);
}

/// The first message that the queue gives.
async fn first(queue: &SqsQueue) -> Message {
    let page = queue.receive(Receive::new(10, Duration::from_secs(5))).await.unwrap();
    page.into_iter().next().expect("there is one").message
}

/// An outgoing message is what is read; it is compared as it was planted.
#[tokio::test]
async fn an_import_adds_nothing_to_a_line_that_knows_nothing_of_a_death() {
    let Some(world) = World::open() else { return };
    world.queue("orders").await;
    let dead = world.open_queue("orders-dlq").await;
    let tool = world.tool();
    tool.run_with_input(&["dlq", "import", "orders", "-"], line("x").to_string().as_bytes())
        .exits(0);
    let message = first(&dead).await;
    assert_eq!(
        (message.body.as_str(), &message.attributes),
        ("x", &Outgoing::new("x").attributes)
    );
}

#[tokio::test]
async fn what_sqs_moved_keeps_its_first_id_and_its_source_through_a_file() {
    let Some(world) = World::open() else { return };
    let dead = world.plain_queue("shared-dlq", &[]).await;
    let policy = json!({"deadLetterTargetArn": dead.attributes().arn, "maxReceiveCount": 1}).to_string();
    let payments = world
        .plain_queue("payments", &[("RedrivePolicy", &policy), ("VisibilityTimeout", "0")])
        .await;
    world.plain_queue("orders", &[("RedrivePolicy", &policy)]).await;
    world.send(&payments, [Outgoing::new("{}")]).await;
    let moved = async {
        // At its second receive.
        while visible(&dead).await == 0 {
            payments.receive(Receive::new(10, Duration::ZERO)).await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(60), moved)
        .await
        .expect("SQS moves it");
    let tool = world.tool();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("dropped.jsonl");
    let file = file.to_str().unwrap();
    tool.run(&["dlq", "drop", "shared-dlq", "--yes", "--backup", file])
        .exits(0);
    let written: Value = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
    assert_eq!(written["dead_letter_source"], payments.attributes().arn.as_str());
    tool.run(&["dlq", "import", "shared-dlq", file]).exits(0);
    let shown = tool.run(&["dlq", "ls", "shared-dlq", "--json"]).json();
    assert_eq!(
        (&shown["source"], &shown["key"], &shown["reason"]),
        (
            &json!(payments.attributes().arn),
            &written["id"],
            &json!("redrive_policy")
        ),
        "{shown}"
    );
    // The queue has two sources: it goes back to the right one.
    tool.run(&["dlq", "replay", "shared-dlq", "--yes"]).exits(0);
    assert_eq!(visible(&payments).await, 1);
    let envelope = Envelope::of(&first(&payments).await).unwrap();
    assert_eq!(
        (envelope.message_id.as_str(), envelope.source.as_str()),
        (written["id"].as_str().unwrap(), payments.attributes().arn.as_str())
    );
}

#[tokio::test]
async fn inv01_with_exact_no_worker_takes_a_dead_letter_for_a_duplicate() {
    let Some(world) = World::open() else { return };
    let orders = world.queue("orders").await;
    let tool = world.tool();
    let bare = json!({
        "redrive_export": 1, "id": "m-1", "body": "{}",
        "attributes": {"Idempotency-Key": {"data_type": "String", "value": "order-1"}},
    });
    let import = |line: &Value, more: &[&str]| {
        let flags = [&["dlq", "import", "orders", "-", "--exact"], more].concat();
        tool.run_with_input(&flags, line.to_string().as_bytes())
    };
    import(&bare, &[]).exits(0);
    let message = first(&orders).await;
    let envelope = Envelope::of(&message).expect("it says that it is a replay");
    assert_eq!(envelope.message_id, "m-1");
    assert_eq!(
        KeySource::default().key_of(&message, Some(&envelope)).as_str(),
        "order-1"
    );

    let most = orders.attributes().max_message_bytes;
    let full = json!({ "redrive_export": 1, "id": "m-2", "body": "x".repeat(most) });
    let refused = import(&full, &[]);
    refused.exits(1);
    insta::assert_snapshot!("dlq_import_no_room", refused.shown());
    // Where nothing handles it, it may lie as it is; what it loses is said.
    let text = full.to_string();
    let lies = tool.run_with_input(&["dlq", "import", "orders", "-"], text.as_bytes());
    assert_eq!(lies.exits(0), "1 message sent to `orders-dlq`\n");
    assert!(lies.stderr.contains("line 1 had no room"), "{}", lies.stderr);
}
