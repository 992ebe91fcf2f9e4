//! `redrive dlq ls`.

use std::process::{Command, Stdio};
use std::time::Duration;

use aws_sdk_sqs::types::MessageSystemAttributeName;
use redrive::SqsQueue;
use redrive::clock::Clock;
use redrive::queue::{Queue as _, QueueAttributes, Receive};

use crate::stub::{Reply, Stub};
use crate::tool::{Ran, Tool};
use crate::world::{Letter, World};

/// The dead letters of a small shop, the oldest first.
pub(crate) fn letters() -> Vec<Letter> {
    let order = |n: u32, reason: &str, error: &str, body: &str| {
        let mut letter = Letter::new(&format!("order-{n}"), reason, error, body).of_type("charge");
        let envelope = letter.envelope.as_mut().unwrap();
        envelope.dead_at_ms -= u64::from(10 - n) * 3_600_000;
        envelope.source = "arn:aws:sqs:us-east-1:000000000000:orders".to_owned();
        letter
    };
    vec![
        order(
            1,
            "attempts_exhausted",
            "gateway 10.0.3.7:8443 timed out after 3001 ms",
            r#"{"amount":40}"#,
        ),
        order(
            2,
            "attempts_exhausted",
            "gateway 10.0.3.9:8443 timed out after 12 ms",
            r#"{"amount":250}"#,
        ),
        order(3, "malformed", "missing field `amount` at line 1 column 2", "{}"),
        order(
            4,
            "card_declined",
            "card ending 4242 was declined",
            r#"{"amount":99,"coupon":null}"#,
        ),
    ]
}

#[tokio::test]
async fn it_lists_the_newest_first_and_says_what_it_cost() {
    let Some(world) = World::open() else { return };
    world.queue("orders").await;
    let dead = world.open_queue("orders-dlq").await;
    world.plant(&dead, letters()).await;
    let tool = world.tool();
    insta::assert_snapshot!("ls", tool.run(&["dlq", "ls", "orders"]).shown());
    insta::assert_snapshot!(
        "ls_where_oldest_limit",
        tool.run(&[
            "dlq",
            "ls",
            "orders-dlq",
            "--where",
            "/amount > 20",
            "--where",
            "not /coupon exists",
            "--oldest",
            "-n",
            "1"
        ])
        .shown()
    );
    insta::assert_snapshot!(
        "ls_no_match",
        tool.run(&["dlq", "ls", "orders", "--where", "key = x"]).shown()
    );
    let quiet = tool.run(&["dlq", "ls", "orders", "--quiet"]);
    assert!(
        quiet.exits(0).contains("order-1") && quiet.stderr.is_empty(),
        "{}",
        quiet.stderr
    );
    // Everything is back.
    let counts = settled(&dead).await;
    assert_eq!((counts.visible, counts.in_flight), (4, 0));
}

#[tokio::test]
async fn machines_get_a_line_of_json_for_each() {
    let Some(world) = World::open() else { return };
    world.queue("orders").await;
    let dead = world.open_queue("orders-dlq").await;
    world.plant(&dead, letters()).await;
    let ran = world.tool().run(&["dlq", "ls", "orders", "--json", "--oldest"]);
    ran.exits(0);
    let rows = ran.json_lines();
    let keys: Vec<&str> = rows.iter().map(|row| row["key"].as_str().unwrap()).collect();
    assert_eq!(keys, ["order-1", "order-2", "order-3", "order-4"]);
    let first = &rows[0];
    assert_eq!(first["reason"], "attempts_exhausted");
    assert_eq!(first["error"], "gateway 10.0.3.7:8443 timed out after 3001 ms");
    assert_eq!(
        (&first["type"], &first["attempts"], &first["receives"]),
        (&"charge".into(), &5.into(), &1.into())
    );
    assert!((32_400..33_000).contains(&first["age_s"].as_u64().unwrap()), "{first}");
    let mut unordered = world.tool().run(&["dlq", "ls", "orders", "--json"]).json_lines();
    unordered.sort_by_key(|row| row["died_at_ms"].as_u64());
    assert_eq!(unordered.len(), 4);
    assert_eq!(unordered[0]["receives"], 2, "each look spends one");
}

#[tokio::test]
async fn it_counts_by_reason_error_and_type() {
    let Some(world) = World::open() else { return };
    world.queue("orders").await;
    let dead = world.open_queue("orders-dlq").await;
    world.plant(&dead, letters()).await;
    world.plant(&dead, [Letter::moved_by_sqs("{}")]).await;
    let tool = world.tool();
    for by in ["reason", "error", "type"] {
        insta::assert_snapshot!(
            format!("ls_by_{by}"),
            tool.run(&["dlq", "ls", "orders", "--group-by", by]).shown()
        );
    }
    let groups = tool
        .run(&["dlq", "ls", "orders", "--group-by", "error", "--json"])
        .json_lines();
    assert_eq!(groups.len(), 4);
    assert_eq!(
        (&groups[0]["group"], &groups[0]["count"]),
        (&"gateway # timed out after # ms".into(), &2.into())
    );
    assert!(groups[0]["last_died_at_ms"].as_u64() > groups[0]["first_died_at_ms"].as_u64());
    assert!(
        groups
            .iter()
            .any(|group| group["group"].is_null() && group["others"] == false)
    );
}

#[tokio::test]
async fn an_empty_queue_says_so_and_nobodys_queue_says_what_it_is() {
    let Some(world) = World::open() else { return };
    world.queue("orders").await;
    world.plain_queue("lonely", &[]).await;
    let tool = world.tool();
    insta::assert_snapshot!("ls_empty", tool.run(&["dlq", "ls", "orders"]).shown());
    let ran = tool.run(&["dlq", "ls", "orders", "--json"]);
    assert_eq!(ran.exits(0), "");
    insta::assert_snapshot!("ls_nobodys", tool.run(&["dlq", "ls", "lonely"]).shown());
    let ran = tool.run(&["dlq", "ls", "lonely", "--exact"]);
    assert_eq!(ran.exits(0), "no dead letters: `lonely` is empty\n");
    tool.run(&["dlq", "ls", "no-such-queue"]).exits(1);
}

#[tokio::test]
async fn what_somebody_else_holds_is_not_seen_and_that_is_said() {
    let Some(world) = World::open() else { return };
    world.queue("orders").await;
    let dead = world.open_queue("orders-dlq").await;
    world.plant(&dead, letters().into_iter().take(1)).await;
    let held = dead.receive(Receive::new(1, Duration::from_secs(2))).await.unwrap();
    assert_eq!(held.len(), 1);
    insta::assert_snapshot!("ls_all_held", world.tool().run(&["dlq", "ls", "orders"]).shown());
}

#[tokio::test]
async fn a_queue_whose_source_was_deleted_is_looked_at_as_it_is() {
    let Some(world) = World::open() else { return };
    let orders = world.queue("orders").await;
    let dead = world.open_queue("orders-dlq").await;
    world.plant(&dead, letters()).await;
    let sqs = aws_sdk_sqs::Client::new(&world.sqs);
    let url = &orders.attributes().url;
    sqs.delete_queue().queue_url(url).send().await.unwrap();
    let tool = world.tool();
    until("the deletion shows", async || {
        tool.run(&["dlq", "ls", "orders"]).code == 1
    })
    .await;
    let ran = tool.run(&["dlq", "ls", "orders-dlq"]);
    ran.exits(1);
    assert!(ran.stderr.contains("--exact"), "{}", ran.stderr);
    let ran = tool.run(&["dlq", "ls", "orders-dlq", "--exact"]);
    assert!(ran.exits(0).contains("card_declined"));
}

#[tokio::test]
async fn nothing_a_message_holds_reaches_the_terminal_as_a_command() {
    let Some(world) = World::open() else { return };
    world.queue("orders").await;
    let dead = world.open_queue("orders-dlq").await;
    let evil = Letter::new(
        "k\u{1b}[2J",
        "re\u{7}ason",
        "a\u{1b}]0;x\u{7}\nsecond\u{202e}line",
        "{}",
    )
    .of_type("t\tt");
    world.plant(&dead, [evil]).await;
    let ran = world.tool().run(&["dlq", "ls", "orders", "--color", "never"]);
    insta::assert_snapshot!("ls_control_characters", ran.shown());
    // JSON too: the same values, in characters that no terminal obeys.
    for arguments in [
        &["dlq", "ls", "orders", "--json"][..],
        &["dlq", "export", "orders", "--out", "-"],
    ] {
        let ran = world.tool().run(arguments);
        let odd = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
        assert!(!ran.exits(0).contains(odd), "{arguments:?}: {:?}", ran.stdout);
        assert!(ran.stdout.contains("\\u202e"), "{arguments:?}: {}", ran.stdout);
        ran.json_lines();
    }
    for by in ["reason", "error", "type"] {
        let ran = world
            .tool()
            .run(&["dlq", "ls", "orders", "--group-by", by, "--color", "never"]);
        assert!(
            !ran.exits(0).contains(['\u{1b}', '\u{7}', '\t', '\u{202e}']),
            "{}",
            ran.stdout
        );
    }
}

#[tokio::test]
async fn of_a_fifo_queue_the_group_is_shown_and_the_limit_of_looking_is_told() {
    let Some(world) = World::open() else { return };
    world.queue("orders.fifo").await;
    let dead = world.open_queue("orders-dlq.fifo").await;
    let letter =
        |n: u32| Letter::new(&format!("order-{n}"), "rejected", "no", &format!("{{\"n\":{n}}}")).in_group("ann");
    world.plant(&dead, (1..=3).map(letter)).await;
    let ran = world.tool().run(&["dlq", "ls", "orders.fifo", "--oldest"]);
    assert!(
        ran.exits(0).contains("GROUP") && ran.stdout.contains("ann"),
        "{}",
        ran.stdout
    );
    assert!(
        ran.stderr.contains("of a FIFO queue only the first messages"),
        "{}",
        ran.stderr
    );
}

#[tokio::test]
async fn a_dead_letter_queue_with_a_redrive_policy_of_its_own_is_warned_of() {
    let Some(world) = World::open() else { return };
    let last = world.plain_queue("last", &[]).await;
    let arn = last.attributes().arn.clone();
    let policy = |arn: &str| serde_json::json!({"deadLetterTargetArn": arn, "maxReceiveCount": 3}).to_string();
    let dead = world
        .plain_queue("orders-dlq", &[("RedrivePolicy", &policy(&arn))])
        .await;
    world
        .plain_queue("orders", &[("RedrivePolicy", &policy(&dead.attributes().arn))])
        .await;
    let ran = world.tool().run(&["dlq", "ls", "orders"]);
    ran.exits(0);
    assert!(
        ran.stderr.contains("`orders-dlq` has a redrive policy itself") && ran.stderr.contains("3 receives"),
        "{}",
        ran.stderr
    );
}

#[tokio::test]
async fn the_inbox_says_what_a_letter_that_sqs_moved_died_of() {
    let Some(world) = World::open() else { return };
    let table = world.table();
    let table = table.as_str();
    world.queue("orders").await;
    let dead = world.open_queue("orders-dlq").await;
    world.inbox().await;
    super::dlq_show::fail_in_the_inbox(&world, "orders#order-9").await;
    world
        .plant(
            &dead,
            [Letter::moved_by_sqs("{}").attribute("Idempotency-Key", "order-9")],
        )
        .await;
    let tool = world.tool();
    let ran = tool.run(&["dlq", "ls", "orders", "--table", table]);
    assert!(
        ran.exits(0).contains("redrive_policy") && ran.stdout.contains("gateway timed out"),
        "{}",
        ran.stdout
    );
    let rows = tool
        .run(&["dlq", "ls", "orders", "--table", table, "--json"])
        .json_lines();
    assert_eq!(rows[0]["inbox"]["status"], "released");
    assert_eq!(rows[0]["inbox"]["attempts"], 2);
}

#[tokio::test]
async fn a_letter_that_sqs_moved_is_known_by_the_key_that_its_workers_know_it_by() {
    let Some(world) = World::open() else { return };
    let table = world.table();
    world.queue("orders").await;
    let dead = world.open_queue("orders-dlq").await;
    world.inbox().await;
    super::dlq_show::fail_in_the_inbox(&world, "orders#17").await;
    let moved = Letter::moved_by_sqs(r#"{"order":{"id":17}}"#).attribute("order", "seventeen");
    let told = Letter::new("order-9", "rejected", "no", r#"{"order":{"id":9}}"#);
    world.plant(&dead, [moved, told]).await;
    let tool = world.tool();
    let keys_of = |ran: &Ran| {
        ran.exits(0);
        let mut keys: Vec<_> = ran.json_lines().iter().map(|row| row["key"].to_string()).collect();
        keys.sort();
        keys
    };
    let ran = tool.run(&["dlq", "ls", "orders", "--key-pointer", "/order/id", "--json"]);
    assert_eq!(keys_of(&ran), [r#""17""#, r#""order-9""#], "an envelope's key stays");
    let mut command = tool.command(&["dlq", "ls", "orders", "--json", "--where", "key = seventeen"]);
    command.env("REDRIVE_KEY_ATTRIBUTE", "order");
    assert_eq!(keys_of(&Ran::of(command.spawn().unwrap())), [r#""seventeen""#]);
    let pointer = ["--key-pointer", "/order/id"];
    let show = [
        &["dlq", "show", "orders", "17", "--table", &table, "--json"][..],
        &pointer,
    ]
    .concat();
    let ran = tool.run(&show);
    ran.exits(0);
    assert_eq!(ran.json()["inbox"]["record_key"], "orders#17");
    let drop = [
        &["dlq", "drop", "orders", "--where", "key = 17", "--dry-run", "--json"][..],
        &pointer,
    ]
    .concat();
    let ran = tool.run(&drop);
    ran.exits(0);
    assert_eq!(ran.json()["matched"], 1);
    let ran = tool.run(&["dlq", "ls", "orders", "--key-pointer", "order.id"]);
    ran.exits(2);
    assert!(ran.stderr.contains("no JSON pointer"), "{}", ran.stderr);
}

#[tokio::test]
async fn of_a_queue_with_several_sources_each_letter_names_its_own() {
    let Some(world) = World::open() else { return };
    let table = world.table();
    let table = table.as_str();
    let dead = world.plain_queue("shared-dlq", &[]).await;
    let policy = serde_json::json!({"deadLetterTargetArn": dead.attributes().arn, "maxReceiveCount": 5}).to_string();
    for name in ["orders", "bills"] {
        world.plain_queue(name, &[("RedrivePolicy", &policy)]).await;
    }
    let from = |name: &str| {
        let mut letter = Letter::new(&format!("of-{name}"), "rejected", "no", "{}");
        letter.envelope.as_mut().unwrap().source = format!("arn:aws:sqs:us-east-1:000000000000:{name}");
        letter
    };
    world.plant(&dead, [from("orders"), from("bills")]).await;
    let tool = world.tool();
    let ran = tool.run(&["dlq", "ls", "bills"]);
    let lines: Vec<&str> = ran.exits(0).lines().collect();
    assert!(lines[0].contains("SOURCE"), "{}", ran.stdout);
    for (key, source) in [("of-orders", " orders "), ("of-bills", " bills ")] {
        assert!(
            lines.iter().any(|line| line.contains(key) && line.contains(source)),
            "{}",
            ran.stdout
        );
    }
    let ran = tool.run(&["dlq", "ls", "orders", "--where", "source = bills", "--json"]);
    assert_eq!(ran.json_lines().len(), 1);
    // Whose keys those are that SQS moved itself, only a person knows.
    world.inbox().await;
    world
        .plant(
            &dead,
            [Letter::moved_by_sqs("{}").attribute("Idempotency-Key", "order-9")],
        )
        .await;
    let ran = tool.run(&["dlq", "show", "shared-dlq", "order-9", "--table", table]);
    assert!(ran.exits(0).contains("name one with --consumer"), "{}", ran.stdout);
}

#[tokio::test]
async fn ctrl_c_gives_everything_back() {
    let Some(world) = World::open() else { return };
    world.queue("orders").await;
    let dead = world.open_queue("orders-dlq").await;
    let letter = |n: u32| Letter::new(&format!("order-{n}"), "rejected", "no", "{}");
    world.plant(&dead, (0..30).map(letter)).await;
    let child = world.tool().command(&["dlq", "ls", "orders"]).spawn().unwrap();
    until("all are held", async || dead.describe().await.unwrap().in_flight == 30).await;
    let pid = child.id().to_string();
    let killed = Command::new("kill")
        .args(["-INT", &pid])
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(killed.success());
    let ran = Ran::of(child);
    assert_eq!(ran.exits(130), "");
    assert!(ran.stderr.contains("interrupted"), "{}", ran.stderr);
    let counts = settled(&dead).await;
    assert_eq!((counts.visible, counts.in_flight), (30, 0));
    assert!(
        receives(&world, &dead).await.iter().all(|&receives| receives == 2),
        "one by the look, one by this test"
    );
}

#[tokio::test]
async fn inv12_an_expired_session_token_is_named_with_what_to_do() {
    let expired = || {
        Reply::error(
            400,
            "com.amazon.coral.service#ExpiredTokenException",
            "The security token included in the request is expired",
        )
    };
    let stub = Stub::start((0..50).map(|_| expired())).await.unwrap();
    let ran = tokio::task::spawn_blocking(move || {
        let mut command = Tool::alone().command(&["dlq", "ls", "orders"]);
        command
            .env("AWS_ENDPOINT_URL", stub.url())
            .env("AWS_SESSION_TOKEN", "old");
        Ran::of(command.spawn().unwrap())
    });
    let ran = ran.await.unwrap();
    assert_eq!(ran.exits(1), "");
    insta::assert_snapshot!("ls_expired_token", ran.shown());
}

#[tokio::test]
async fn inv12_a_missing_permission_is_named_with_what_to_allow() {
    let denied = |what: &str| {
        let message = format!("User: arn:aws:iam::123456789012:user/ann is not authorized to perform: sqs:{what}");
        Reply::error(403, "com.amazon.coral.service#AccessDeniedException", &message)
    };
    let attributes = serde_json::json!({"Attributes": {
        "QueueArn": "arn:aws:sqs:us-east-1:123456789012:orders-dlq",
        "VisibilityTimeout": "30", "MessageRetentionPeriod": "1209600", "ApproximateNumberOfMessages": "3",
    }});
    let url = serde_json::json!({"QueueUrl": "http://localhost/123456789012/orders-dlq"});
    let mut replies = vec![
        Reply::ok(url),
        Reply::ok(attributes),
        denied("ListDeadLetterSourceQueues"),
    ];
    replies.extend((0..20).map(|_| denied("ReceiveMessage")));
    let stub = Stub::start(replies).await.unwrap();
    let ran = tokio::task::spawn_blocking(move || {
        let mut command = Tool::alone().command(&["dlq", "ls", "orders-dlq"]);
        Ran::of(command.env("AWS_ENDPOINT_URL", stub.url()).spawn().unwrap())
    });
    let ran = ran.await.unwrap();
    assert_eq!(ran.exits(1), "");
    insta::assert_snapshot!("ls_denied", ran.shown());
}

#[test]
fn inv12_a_filter_that_does_not_parse_is_shown_with_the_place() {
    let ran = Tool::alone().run(&["dlq", "ls", "orders", "--where", "reason = timeout and amount > 100"]);
    ran.exits(2);
    insta::assert_snapshot!("ls_wrong_filter", ran.shown());
    let ran = Tool::alone().run(&["dlq", "ls", "orders", "--where", "error ~ '(' and x"]);
    ran.exits(2);
    assert!(ran.stderr.contains("not a regular expression"), "{}", ran.stderr);
}

#[test]
fn help_teaches_the_language_and_the_price() {
    let help = Tool::alone().run(&["dlq", "ls", "--help"]);
    let (_, after) = help.exits(0).split_once("Examples:").unwrap();
    insta::assert_snapshot!("ls_help", after);
}

/// The queue's counts, once nothing of it is in flight.
async fn settled(queue: &SqsQueue) -> QueueAttributes {
    until("nothing is in flight", async || {
        queue.describe().await.unwrap().in_flight == 0
    })
    .await;
    queue.describe().await.unwrap()
}

/// How often each message was received, this time included.
async fn receives(world: &World, queue: &SqsQueue) -> Vec<u32> {
    let sqs = aws_sdk_sqs::Client::new(&world.sqs);
    let mut counts = Vec::new();
    until("all come", async || {
        let call = sqs
            .receive_message()
            .queue_url(&queue.attributes().url)
            .max_number_of_messages(10)
            .visibility_timeout(60)
            .wait_time_seconds(1)
            .message_system_attribute_names(MessageSystemAttributeName::ApproximateReceiveCount);
        for message in call.send().await.unwrap().messages.unwrap_or_default() {
            let count = &message.attributes.unwrap()[&MessageSystemAttributeName::ApproximateReceiveCount];
            counts.push(count.parse().unwrap());
        }
        counts.len() >= 30
    })
    .await;
    counts
}

/// Awaits a condition, for a minute at most.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let clock = Clock::system();
    let start = clock.now();
    while !holds().await {
        assert!(
            clock.now().duration_since(start) < Duration::from_secs(60),
            "it does not come: {what}"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
