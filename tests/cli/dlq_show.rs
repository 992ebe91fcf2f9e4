//! `redrive dlq show`.

use std::time::Duration;

use redrive::SqsQueue;
use redrive::inbox::{Attempted, Change, ClaimAnswer, ClaimRequest, Inbox as _, Write};
use redrive::key::{Key, RecordKey};
use redrive::message::{Attribute, AttributeValue};

use crate::dlq_ls::{letters, until};
use crate::tool::Tool;
use crate::world::{Letter, World};

/// Leaves a record behind as a worker does whose handler failed twice: released, with its error.
pub(crate) async fn fail_in_the_inbox(world: &World, record: &str) {
    let (consumer, key) = record.split_once('#').unwrap();
    let inbox = world.inbox().await;
    let request = ClaimRequest {
        key: RecordKey::new(consumer, &Key::new(key)),
        claim_id: "test-1".to_owned(),
        message_id: "original-9".to_owned(),
        fingerprint: None,
        lease: Duration::from_secs(30),
        retention: Duration::from_secs(3_600),
        receive_count: 1,
        replayed: false,
    };
    let Ok(ClaimAnswer::Claimed(claim)) = inbox.claim(vec![request]).await.remove(0) else {
        panic!("it is claimed");
    };
    let failure = Attempted {
        attempts: 2,
        error: "gateway timed out".to_owned(),
    };
    let release = Change::Release { failure: Some(failure) };
    inbox.write(vec![Write::new(claim, release)]).await.remove(0).unwrap();
}

/// Ids by key.
fn id_of(tool: &Tool, key: &str) -> String {
    let rows = tool.run(&["dlq", "ls", "orders", "--json"]).json_lines();
    let row = rows.iter().find(|row| row["key"] == key).unwrap();
    row["id"].as_str().unwrap().to_owned()
}

async fn shop(world: &World) -> SqsQueue {
    world.queue("orders").await;
    let dead = world.open_queue("orders-dlq").await;
    world.plant(&dead, letters()).await;
    dead
}

#[tokio::test]
async fn it_tells_the_whole_story() {
    let Some(world) = World::open() else { return };
    let dead = shop(&world).await;
    let body = r#"{"order":7,"amount":12.50,"items":[{"sku":"a"}],"id":12345678901234567890123}"#;
    let mut letter = Letter::new("order-7", "card_declined", "card ending 4242 was declined", body)
        .of_type("charge")
        .attribute("tenant", "acme");
    letter
        .outgoing
        .attributes
        .insert("raw".to_owned(), Attribute::binary(vec![0, 255, 7]));
    let envelope = letter.envelope.as_mut().unwrap();
    envelope.trace = Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_owned());
    envelope.source = "arn:aws:sqs:us-east-1:000000000000:orders".to_owned();
    envelope.replays = 1;
    world.plant(&dead, [letter]).await;
    let tool = world.tool();
    let id = id_of(&tool, "order-7");
    insta::assert_snapshot!("show", tool.run(&["dlq", "show", "orders", &id]).shown());

    let ran = tool.run(&["dlq", "show", "orders", &id[..8], "--json"]);
    ran.exits(0);
    let story = ran.json();
    assert_eq!((&story["id"], &story["key"]), (&id.as_str().into(), &"order-7".into()));
    assert_eq!(story["body"], body);
    assert_eq!(story["attributes"]["raw"]["value_base64"], "AP8H");
    assert_eq!(story["attributes"]["tenant"]["value"], "acme");
    assert_eq!(
        story["trace"],
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    );
    assert!(story.get("inbox").is_none());

    let ran = tool.run(&["dlq", "show", "orders", "original-order-7", "--raw"]);
    assert_eq!(ran.exits(0), body);
    let ran = tool.run(&["dlq", "show", "orders", "order-7", "--raw"]);
    assert_eq!(ran.exits(0), body, "by its key");
}

#[tokio::test]
async fn the_inbox_knows_what_a_letter_that_sqs_moved_died_of() {
    let Some(world) = World::open() else { return };
    let table = world.table();
    let table = table.as_str();
    let dead = shop(&world).await;
    world.inbox().await;
    fail_in_the_inbox(&world, "orders#order-9").await;
    let moved = |key: &str| Letter::moved_by_sqs("plain text\nof two lines").attribute("Idempotency-Key", key);
    world.plant(&dead, [moved("order-9"), moved("order-10")]).await;
    let tool = world.tool();
    insta::assert_snapshot!(
        "show_moved_by_sqs",
        tool.run(&["dlq", "show", "orders", "order-9"]).shown()
    );
    let with_inbox = tool.run(&["dlq", "show", "orders-dlq", "order-9", "--table", table]);
    insta::assert_snapshot!("show_inbox", with_inbox.shown());
    let story = tool
        .run(&["dlq", "show", "orders", "order-9", "--table", table, "--json"])
        .json();
    assert_eq!(story["inbox"]["status"], "released");
    assert_eq!(story["inbox"]["error"], "gateway timed out");
    let ran = tool.run(&["dlq", "show", "orders", "order-10", "--table", table]);
    assert!(ran.exits(0).contains("none of `orders#order-10`"), "{}", ran.stdout);
    let ran = tool.run(&[
        "dlq",
        "show",
        "orders",
        "order-9",
        "--table",
        table,
        "--consumer",
        "billing",
    ]);
    assert!(ran.exits(0).contains("none of `billing#order-9`"), "{}", ran.stdout);
    let ran = tool.run(&["dlq", "show", "orders", "order-9", "--table", "no-such-table"]);
    ran.exits(1);
    assert!(ran.stderr.contains("no-such-table"), "{}", ran.stderr);
    let mut command = tool.command(&["dlq", "show", "orders", "order-9", "--json"]);
    let ran = crate::tool::Ran::of(command.env("REDRIVE_INBOX_TABLE", table).spawn().unwrap());
    assert_eq!(ran.json()["inbox"]["status"], "released");
}

/// Has SQS move, by its redrive policy, what has the envelope of an earlier death: it was replayed since.
async fn died_twice(world: &World) -> SqsQueue {
    use redrive::queue::{Queue as _, Receive};
    let dead = world.plain_queue("orders-dlq", &[]).await;
    let arn = &dead.attributes().arn;
    let policy = serde_json::json!({"deadLetterTargetArn": arn, "maxReceiveCount": 1}).to_string();
    let orders = world.plain_queue("orders", &[("RedrivePolicy", &policy)]).await;
    let mut letter = Letter::new("order-9", "card_declined", "card ending 4242 was declined", "{}");
    let envelope = letter.envelope.as_mut().unwrap();
    envelope.dead_at_ms -= 7_200_000;
    envelope.source.clone_from(&orders.attributes().arn);
    world.plant(&orders, [letter]).await;
    until("SQS moves it", async || {
        let mut receive = Receive::new(1, Duration::ZERO);
        receive.visibility = Some(Duration::ZERO);
        orders.receive(receive).await.unwrap();
        dead.describe().await.unwrap().visible == 1
    })
    .await;
    dead
}

#[tokio::test]
async fn an_earlier_death_is_not_told_as_the_one_that_brought_it_here() {
    let Some(world) = World::open() else { return };
    died_twice(&world).await;
    world.inbox().await;
    fail_in_the_inbox(&world, "orders#order-9").await;
    let (tool, table) = (world.tool(), world.table());
    let ran = tool.run(&["dlq", "show", "orders", "order-9", "--table", &table]);
    insta::assert_snapshot!("show_died_twice", ran.shown());
    let rows = tool
        .run(&["dlq", "ls", "orders", "--json", "--table", &table])
        .json_lines();
    let row = &rows[0];
    assert_eq!(row["reason"], "redrive_policy", "{row}");
    assert_eq!((&row["error"], &row["attempts"]), (&().into(), &().into()), "{row}");
    assert!(row["age_s"].as_u64().unwrap() < 3_600, "{row}");
    assert_eq!(row["replays"], 1, "{row}");
    assert_eq!(row["inbox"]["status"], "released", "{row}");
    let earlier = &row["earlier"];
    assert_eq!(earlier["reason"], "card_declined", "{row}");
    assert_eq!(earlier["error"], "card ending 4242 was declined", "{row}");
    assert_eq!(earlier["attempts"], 5, "{row}");
    assert!(earlier["age_s"].as_u64().unwrap() >= 7_200, "{row}");
    for (filter, matches) in [
        ("reason = card_declined", 0),
        ("error exists", 0),
        ("attempts exists", 0),
        ("age > 1h", 0),
        ("reason = redrive_policy and replays = 1", 1),
    ] {
        let rows = tool
            .run(&["dlq", "ls", "orders", "--json", "--where", filter])
            .json_lines();
        assert_eq!(rows.len(), matches, "{filter}");
    }
}

#[tokio::test]
async fn what_is_not_there_or_not_the_only_one_is_said_so() {
    let Some(world) = World::open() else { return };
    let dead = shop(&world).await;
    world.plant(&dead, letters().into_iter().take(1)).await;
    let tool = world.tool();
    insta::assert_snapshot!("show_not_found", tool.run(&["dlq", "show", "orders", "nope"]).shown());
    let ran = tool.run(&["dlq", "show", "orders", "order-1"]);
    ran.exits(1);
    insta::assert_snapshot!("show_ambiguous", ran.shown());
    world.queue("bills").await;
    let ran = tool.run(&["dlq", "show", "bills", "nope"]);
    ran.exits(1);
    assert!(
        ran.stderr.contains("no dead letters: `bills-dlq` is empty"),
        "{}",
        ran.stderr
    );
}

#[tokio::test]
async fn a_full_id_ends_the_look_and_all_is_given_back() {
    let Some(world) = World::open() else { return };
    world.queue("orders").await;
    let dead = world.open_queue("orders-dlq").await;
    let letter = |n: u32| Letter::new(&format!("order-{n}"), "rejected", "no", "{}");
    world.plant(&dead, (0..100).map(letter)).await;
    let tool = world.tool();
    let id = id_of(&tool, "order-42");
    use redrive::queue::Queue as _;
    until("all are back", async || dead.describe().await.unwrap().visible == 100).await;
    let ran = tool.run(&["dlq", "show", "orders", &id]);
    assert!(ran.exits(0).contains("order-42"));
    until("all are back", async || dead.describe().await.unwrap().visible == 100).await;
}

#[tokio::test]
async fn nothing_a_message_holds_reaches_the_terminal_as_a_command() {
    let Some(world) = World::open() else { return };
    world.queue("orders").await;
    let dead = world.open_queue("orders-dlq").await;
    let body = "{\"a\": \"\u{9b}31m\u{202e}\"}\n";
    let mut json = Letter::new("k1", "r\u{1b}[0m", "e\u{7}\nf", body).attribute("x", "\u{9b}31m");
    let odd = Attribute {
        data_type: "String.\u{e9}".to_owned(),
        value: AttributeValue::Text("v".to_owned()),
    };
    json.outgoing.attributes.insert("odd".to_owned(), odd);
    let text = Letter::new("k2", "rejected", "", "plain\u{9b}2J\ttext\r\nand \u{85}more");
    world.plant(&dead, [json, text]).await;
    let tool = world.tool();
    for key in ["k1", "k2"] {
        let ran = tool.run(&["dlq", "show", "orders", key, "--color", "never"]);
        let foreign = |c: char| (c.is_control() && c != '\n' && c != '\t') || c == '\u{202e}';
        assert!(!ran.exits(0).contains(foreign), "{}", ran.stdout.escape_debug());
    }
    let ran = tool.run(&["dlq", "show", "orders", "k1", "--raw"]);
    assert_eq!(ran.exits(0), body, "raw is raw");
}
