//! `redrive dlq replay`, without kills; those are in `dlq_replay_killed`.

use std::io::{BufRead as _, BufReader};
use std::time::Duration;

use redrive::clock::Clock;
use redrive::dlq::Envelope;
use redrive::message::{Attribute, Outgoing};
use redrive::queue::{Queue, Receive};
use redrive::{Failure, SqsQueue, Worker};
use serde_json::{Value, json};

use crate::tool::Ran;
use crate::world::{Letter, World};

/// A world with `orders`, its dead-letter queue, and four letters of two reasons.
async fn night() -> Option<(World, SqsQueue, SqsQueue)> {
    let world = World::open()?;
    let orders = world.queue("orders").await;
    let dead = world.open_queue("orders-dlq").await;
    let timeout = |n: u32| {
        let error = format!("gateway timed out after {} ms", 3_000 + n);
        Letter::new(
            &format!("o-{n}"),
            "timeout",
            &error,
            &format!(r#"{{"order":{n},"amount":{}}}"#, n * 10),
        )
    };
    let declined = Letter::new(
        "o-4",
        "card_declined",
        "card ending 4242 was declined",
        r#"{"order":4,"amount":40}"#,
    );
    world.plant(&dead, [timeout(1), timeout(2), timeout(3), declined]).await;
    Some((world, orders, dead))
}

/// All that a queue holds and can be received, as key and body, in order of bodies.
async fn drained(queue: &SqsQueue) -> Vec<(String, String)> {
    let mut found = Vec::new();
    loop {
        let page = queue.receive(Receive::new(10, Duration::from_secs(1))).await.unwrap();
        if page.is_empty() {
            found.sort_by(|a: &(String, String), b| a.1.cmp(&b.1));
            return found;
        }
        for delivery in &page {
            let key = Envelope::of(&delivery.message).map_or_else(String::new, |envelope| envelope.key);
            found.push((key, delivery.message.body.clone()));
        }
        let receipts = page.into_iter().map(|delivery| delivery.receipt).collect();
        queue.delete(receipts).await.unwrap();
    }
}

fn pair(key: &str, body: &str) -> (String, String) {
    (key.to_owned(), body.to_owned())
}

async fn counts(queue: &SqsQueue) -> (u64, u64) {
    let attributes = queue.describe().await.unwrap();
    (attributes.visible, attributes.in_flight)
}

#[tokio::test]
async fn a_dry_run_tells_by_reason_and_changes_nothing_then_the_same_is_done() {
    let Some((world, orders, dead)) = night().await else {
        return;
    };
    let tool = world.tool();
    let ran = tool.run(&["dlq", "replay", "orders", "--where", "reason = timeout", "--dry-run"]);
    ran.exits(0);
    insta::assert_snapshot!("dlq_replay_dry_run", ran.shown());
    assert_eq!((counts(&dead).await, counts(&orders).await), ((4, 0), (0, 0)));
    let ran = tool.run(&["dlq", "replay", "orders", "--where", "reason = timeout", "--yes"]);
    ran.exits(0);
    insta::assert_snapshot!("dlq_replay_report", ran.shown());
    assert_eq!(
        drained(&orders).await,
        [1, 2, 3].map(|n| pair(&format!("o-{n}"), &format!(r#"{{"order":{n},"amount":{}}}"#, n * 10)))
    );
    assert_eq!(counts(&dead).await, (1, 0));
    let report = tool.run(&["dlq", "replay", "orders-dlq", "--yes", "--json"]).json();
    assert_eq!(
        (&report["replayed"], &report["end"], &report["to"]),
        (&json!(1), &json!("exhausted"), &json!(["orders"]))
    );
    assert_eq!(
        report["by_reason"],
        json!([{"reason": "card_declined", "seen": 1, "replayed": 1}])
    );
    let ran = tool.run(&["dlq", "replay", "orders", "--yes"]);
    assert_eq!(ran.exits(0), "no dead letters of `orders-dlq` to replay\n");
}

#[tokio::test]
async fn inv12_what_cannot_be_meant_is_refused_before_anything_is_sent() {
    let Some((world, orders, dead)) = night().await else {
        return;
    };
    world.plain_queue("other.fifo", &[]).await;
    world.plain_queue("lone", &[]).await;
    let tool = world.tool();
    let mut said = String::new();
    for (arguments, code) in [
        (vec!["orders"], 2),
        (vec!["orders", "--yes", "--force"], 2),
        (
            vec!["orders", "--yes", "--force", "--drop-completed", "--table", "inbox"],
            2,
        ),
        (vec!["orders", "--yes", "--native", "--where", "reason = x"], 2),
        (vec!["orders", "--yes", "--native", "--rate", "501"], 2),
        (vec!["orders", "--yes", "--native", "--hold", "1h"], 2),
        (vec!["orders", "--yes", "--consumer", "a#b"], 2),
        (vec!["orders", "--yes", "--edit", "amount=1"], 2),
        (vec!["orders", "--yes", "--rate", "fast"], 2),
        (vec!["orders", "--yes", "--limit", "0"], 2),
        (vec!["orders", "--yes", "--hold", "2h"], 2),
        (vec!["orders", "--yes", "--watch", "soon"], 2),
        (vec!["orders", "--yes", "--where", "reason = "], 2),
        (vec!["orders", "--yes", "--to", "orders-dlq"], 2),
        (vec!["orders", "--yes", "--to", "other.fifo"], 2),
        (vec!["orders", "--yes", "--to", "no-such-queue"], 1),
        (vec!["orders", "--yes", "--key-by-worker", "--key-pointer", "/id"], 2),
        (vec!["lone", "--yes"], 1),
        (vec!["lone", "--yes", "--exact"], 1),
    ] {
        let ran = tool.run(&[vec!["dlq", "replay"], arguments.clone()].concat());
        ran.exits(code);
        said += &format!("$ redrive dlq replay {}\n{}\n", arguments.join(" "), ran.shown());
    }
    insta::assert_snapshot!("dlq_replay_refused", said);
    assert_eq!((counts(&dead).await, counts(&orders).await), ((4, 0), (0, 0)));
}

#[tokio::test]
async fn edits_change_bodies_and_where_one_fails_the_letter_stays() {
    let Some((world, orders, dead)) = night().await else {
        return;
    };
    world
        .plant(&dead, [Letter::new("o-5", "malformed", "expected value", "amount: 5")])
        .await;
    let tool = world.tool();
    let ran = tool.run(&[
        "dlq",
        "replay",
        "orders",
        "--yes",
        "--edit",
        "/currency=EUR",
        "--edit",
        "-/amount",
    ]);
    ran.exits(3);
    insta::assert_snapshot!("dlq_replay_edit_fails", ran.shown());
    let expected: Vec<_> = (1..=4)
        .map(|n| pair(&format!("o-{n}"), &format!(r#"{{"order":{n},"currency":"EUR"}}"#)))
        .collect();
    assert_eq!(drained(&orders).await, expected);
    let command = "grep -q amount: && echo sorry >&2 && exit 9";
    let ran = tool.run(&["dlq", "replay", "orders", "--yes", "--edit-command", command]);
    ran.exits(3);
    assert!(ran.stdout.contains("exit status: 9: sorry"), "{}", ran.stdout);
    let command = "sed 's/amount: \\(.*\\)/{\"amount\":\\1}/'";
    tool.run(&["dlq", "replay", "orders", "--yes", "--edit-command", command])
        .exits(0);
    assert_eq!(drained(&orders).await, [pair("o-5", r#"{"amount":5}"#)]);
}

#[tokio::test]
async fn a_shared_dead_letter_queue_goes_back_to_each_source_and_a_named_source_takes_only_its_own() {
    let Some(world) = World::open() else { return };
    let dead = world.plain_queue("dead", &[]).await;
    let policy = json!({"deadLetterTargetArn": dead.attributes().arn, "maxReceiveCount": 1}).to_string();
    let mut queues = Vec::new();
    for name in ["orders", "bills", "gone"] {
        let queue = world
            .plain_queue(name, &[("RedrivePolicy", &policy), ("VisibilityTimeout", "0")])
            .await;
        world
            .send(&queue, (0..3).map(|n| Outgoing::new(format!("{name} {n}"))))
            .await;
        queues.push(queue);
    }
    // SQS moves them by itself at their second receive.
    for queue in &queues {
        while counts(queue).await != (0, 0) {
            queue.receive(Receive::new(10, Duration::ZERO)).await.unwrap();
        }
    }
    let client = aws_sdk_sqs::Client::new(&world.sqs);
    let reset = |queue: &SqsQueue| {
        client
            .set_queue_attributes()
            .queue_url(&queue.attributes().url)
            .attributes("VisibilityTimeout".into(), "30")
            .send()
    };
    for queue in &queues[..2] {
        reset(queue).await.unwrap();
    }
    client
        .delete_queue()
        .queue_url(&queues[2].attributes().url)
        .send()
        .await
        .unwrap();
    let tool = world.tool();
    let report = tool.run(&["dlq", "replay", "orders", "--yes", "--json"]);
    report.exits(0);
    let report = report.json();
    assert_eq!((&report["replayed"], &report["other_source"]), (&json!(3), &json!(6)));
    assert_eq!(drained(&queues[0]).await.len(), 3);
    let native = tool.run(&["dlq", "replay", "orders", "--yes", "--native"]);
    native.exits(2);
    assert!(
        native.stderr.contains("`orders`") && native.stderr.contains("`bills`"),
        "it would move the other queue's letters too: {}",
        native.stderr
    );
    assert_eq!((counts(&queues[0]).await.0, counts(&dead).await.0), (0, 6));
    let ran = tool.run(&["dlq", "replay", "dead", "--yes"]);
    ran.exits(3);
    insta::assert_snapshot!("dlq_replay_source_deleted", ran.shown());
    let bills: Vec<String> = drained(&queues[1]).await.into_iter().map(|(_, body)| body).collect();
    assert_eq!(bills, ["bills 0", "bills 1", "bills 2"]);
    tool.run(&["dlq", "replay", "dead", "--yes", "--to", "orders"]).exits(0);
    assert_eq!(drained(&queues[0]).await.len(), 3);
}

#[tokio::test]
async fn a_limit_counts_for_the_whole_job_and_a_finished_job_says_so() {
    let Some((world, orders, dead)) = night().await else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let job = folder.path().join("night.job");
    let job = job.to_str().unwrap();
    let tool = world.tool();
    let run = |more: &[&str]| tool.run(&[&["dlq", "replay", "orders", "--yes", "--job", job], more].concat());
    // What --where and --limit leave keeps the job open: they may be others next time.
    run(&["--limit", "3", "--where", "reason = nothing"]).exits(0);
    run(&["--limit", "1"]).exits(0);
    run(&["--limit", "3"]).exits(0);
    assert_eq!((counts(&orders).await.0, counts(&dead).await), (3, (1, 0)));
    let ran = run(&["--limit", "3"]);
    assert_eq!(
        ran.exits(0).lines().next().unwrap(),
        "nothing was replayed of `orders-dlq`: earlier runs of the job replayed 3 messages, all that --limit allows"
    );
    assert_eq!((counts(&orders).await.0, counts(&dead).await), (3, (1, 0)));
    assert!(run(&[]).exits(0).starts_with("replayed 1 of 1"));
    let ran = run(&[]);
    assert!(
        ran.exits(0).contains("is finished"),
        "nothing was left to do: {}",
        ran.stdout
    );
    assert_eq!((counts(&orders).await.0, counts(&dead).await), (4, (0, 0)));
    let ran = run(&["--to", "orders-dlq"]);
    ran.exits(2);
    // What was sent under one key, as far as is known, must not be sent under another.
    let ran = run(&["--key-attribute", "order"]);
    ran.exits(2);
    assert!(ran.stderr.contains("--key-attribute order"), "{}", ran.stderr);
    world.plain_queue("elsewhere", &[]).await;
    let ran = run(&["--to", "elsewhere"]);
    ran.exits(2);
    assert!(
        ran.stderr.contains(":elsewhere") && ran.stderr.contains("night.job"),
        "{}",
        ran.stderr
    );
    std::fs::write(job, "not a job\n").unwrap();
    let ran = run(&[]);
    ran.exits(1);
    assert!(ran.stderr.contains("is no job file"), "{}", ran.stderr);
    assert_eq!(std::fs::read_to_string(job).unwrap(), "not a job\n");
}

#[tokio::test]
async fn on_ctrl_c_it_gives_back_what_it_holds_and_goes_on_with_its_job() {
    let Some(world) = World::open() else { return };
    let orders = world.queue("orders").await;
    let dead = world.open_queue("orders-dlq").await;
    let letters = (0..60).map(|n| Letter::new(&format!("k{n:02}"), "timeout", "", &format!("{n:02}")));
    world.plant(&dead, letters).await;
    let folder = tempfile::tempdir().unwrap();
    let job = folder.path().join("job");
    let job_text = job.to_str().unwrap();
    let arguments = ["dlq", "replay", "orders", "--yes", "--job", job_text];
    let child = world
        .tool()
        .command(&[&arguments[..], &["--rate", "5"]].concat())
        .spawn()
        .unwrap();
    let deadline = Clock::system().now() + Duration::from_secs(60);
    while !std::fs::read_to_string(&job).is_ok_and(|text| text.contains(r#"{"sent""#)) {
        assert!(Clock::system().now() < deadline);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let locked = world.tool().run(&arguments);
    locked.exits(1);
    assert!(locked.stderr.contains("is in use"), "{}", locked.stderr);
    std::process::Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status()
        .unwrap();
    let ran = Ran::of(child);
    ran.exits(130);
    assert!(ran.stdout.contains("interrupted before its end"), "{}", ran.stdout);
    assert!(
        ran.stderr.contains("the same command with the same --job goes on"),
        "{}",
        ran.stderr
    );
    let (left, held) = counts(&dead).await;
    assert_eq!((held, left + counts(&orders).await.0), (0, 60));
    assert!((1..60).contains(&left));
    world.tool().run(&arguments).exits(0);
    let found = drained(&orders).await;
    let expected: Vec<_> = (0..60).map(|n| pair(&format!("k{n:02}"), &format!("{n:02}"))).collect();
    assert_eq!(found, expected, "each once");
}

#[tokio::test]
async fn a_message_at_the_size_limit_and_one_with_ten_attributes_keep_all_they_have() {
    let Some(world) = World::open() else { return };
    let orders = world.queue("orders").await;
    let dead = world.open_queue("orders-dlq").await;
    let most = orders.attributes().max_message_bytes;
    let mut ten = Outgoing::new("ten");
    for n in 0..10 {
        ten = ten.attribute(format!("a{n}"), Attribute::binary(vec![n, 255]));
    }
    let full = Outgoing::new("x".repeat(most));
    let nearly = Outgoing::new("y".repeat(most - 400));
    for outgoing in [ten.clone(), full, nearly] {
        world.send(&dead, [outgoing]).await;
    }
    let ran = world.tool().run(&["dlq", "replay", "orders", "--yes"]);
    ran.exits(3);
    assert!(ran.stdout.contains("make its body smaller"), "{}", ran.stdout);
    assert_eq!(counts(&dead).await, (1, 0), "what has no room for its key stays");
    let mut found = 0;
    while found < 2 {
        for delivery in orders.receive(Receive::new(10, Duration::from_secs(2))).await.unwrap() {
            found += 1;
            assert!(Envelope::of(&delivery.message).is_some_and(|envelope| !envelope.key.is_empty()));
            if delivery.message.body == "ten" {
                assert_eq!(Envelope::original_attributes(&delivery.message), ten.attributes);
            } else {
                assert_eq!(delivery.message.body.len(), most - 400);
            }
        }
    }
}

#[tokio::test]
async fn completed_keys_are_left_dropped_or_forced() {
    let Some((world, orders, dead)) = night().await else {
        return;
    };
    let inbox = world.inbox().await;
    let table = inbox.table_name().to_owned();
    // What these say was done under their keys meanwhile.
    world
        .send(
            &orders,
            [1, 2].map(|n| {
                Outgoing::new(format!(r#"{{"order":{n},"amount":{}}}"#, n * 10))
                    .attribute("Idempotency-Key", Attribute::string(format!("o-{n}")))
            }),
        )
        .await;
    work(&orders, inbox, |_| Ok(())).await;
    let tool = world.tool();
    let run = |more: &[&str]| tool.run(&[&["dlq", "replay", "orders", "--yes", "--table", &table], more].concat());
    let ran = run(&[]);
    ran.exits(3);
    insta::assert_snapshot!("dlq_replay_completed", ran.shown());
    assert_eq!(drained(&orders).await.len(), 2);
    run(&["--force", "--limit", "1"]).exits(0);
    let forced = drained(&orders).await.remove(0).0;
    assert!(forced.starts_with("o-") && forced.contains('~'), "{forced}");
    let folder = tempfile::tempdir().unwrap();
    let backup = folder.path().join("dropped.jsonl");
    let backup = backup.to_str().unwrap();
    let ran = run(&["--drop-completed", "--backup", backup, "--dry-run"]);
    assert!(ran.exits(0).contains("1 would be deleted"), "{}", ran.stdout);
    assert!(!std::path::Path::new(backup).exists());
    let ran = run(&["--drop-completed", "--backup", backup]);
    assert!(
        ran.exits(0).contains("1 deleted: the key is completed") && ran.stderr.contains("dlq import"),
        "{}",
        ran.shown()
    );
    assert_eq!(counts(&dead).await, (0, 0));
    run(&["--drop-completed", "--backup", backup]).exits(1);
    tool.run(&["dlq", "import", "orders-dlq", backup]).exits(0);
    assert_eq!(counts(&dead).await, (1, 0), "it can be brought back");
}

/// Lets a worker handle all that `orders` has.
async fn work(orders: &SqsQueue, inbox: redrive::DynamoInbox, handle: fn(&str) -> Result<(), Failure>) {
    let worker = Worker::builder(orders.clone())
        .inbox(inbox)
        .long_poll(Duration::from_secs(1))
        .handler(move |body: redrive::extract::Text| async move { handle(&body) })
        .build()
        .unwrap();
    let handle = worker.handle();
    let over = async {
        while counts(orders).await != (0, 0) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        // In order, so that no receive that is still under way takes what comes later.
        handle.drain();
    };
    let (done, ()) = tokio::join!(worker.run_until_drained(), over);
    done.unwrap();
}

#[tokio::test]
async fn what_sqs_moved_goes_back_under_the_key_that_its_workers_know_it_by() {
    let Some(world) = World::open() else { return };
    let orders = world.queue("orders").await;
    let dead = world.open_queue("orders-dlq").await;
    let inbox = world.inbox().await;
    let table = inbox.table_name().to_owned();
    let tool = world.tool();
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let script = format!("echo $REDRIVE_KEY >> {}", log.display());
    let work = || {
        let base = [
            "exec",
            "orders",
            "--until-empty",
            "--long-poll",
            "1s",
            "--table",
            &table,
        ];
        let rest = ["--key-pointer", "/order/id", "--", "sh", "-c", &script];
        tool.run(&[&base[..], &rest[..]].concat()).exits(0);
        std::fs::read_to_string(&log).unwrap()
    };
    let body = r#"{"order":{"id":"17"}}"#;
    world.send(&orders, [Outgoing::new(body)]).await;
    assert_eq!(work(), "17\n");
    world.plant(&dead, [Letter::moved_by_sqs(body)]).await;
    let dry = tool.run(&["dlq", "replay", "orders", "--dry-run", "--table", &table]);
    insta::assert_snapshot!("dlq_replay_key_unknown", dry.shown());
    // The workers' own setting, so that the inbox is asked under the right key.
    let known = tool.run(&[
        "dlq",
        "replay",
        "orders",
        "--yes",
        "--table",
        &table,
        "--key-pointer",
        "/order/id",
    ]);
    known.exits(3);
    assert!(
        known.stdout.contains("1 left: the key is completed"),
        "{}",
        known.shown()
    );
    // Left to the worker, which finds that it is done.
    tool.run(&["dlq", "replay", "orders", "--yes", "--key-by-worker"])
        .exits(0);
    assert_eq!(work(), "17\n", "it did not run again");
    // A key that the worker has not seen runs under the worker's own.
    world
        .plant(&dead, [Letter::moved_by_sqs(r#"{"order":{"id":"18"}}"#)])
        .await;
    tool.run(&["dlq", "replay", "orders", "--yes", "--key-by-worker"])
        .exits(0);
    assert_eq!(work(), "17\n18\n");
    assert_eq!((counts(&orders).await, counts(&dead).await), ((0, 0), (0, 0)));
}

#[tokio::test]
async fn inv07_a_fifo_queue_replayed_twice_and_dead_twice_within_minutes_keeps_all_in_order() {
    let Some(world) = World::open() else { return };
    let orders = world.queue("orders.fifo").await;
    let dead = world.open_queue("orders-dlq.fifo").await;
    let inbox = world.inbox().await;
    let table = inbox.table_name().to_owned();
    let sent = (0..12).map(|n| {
        Outgoing::new(format!("{n:02}"))
            .group(format!("g{}", n % 3))
            .deduplication_id(format!("d{n}"))
            .attribute("Idempotency-Key", Attribute::string(format!("k{n:02}")))
    });
    world.send(&orders, sent).await;
    let tool = world.tool();
    for round in 0..2 {
        work(&orders, inbox.clone(), |_| Err(Failure::reject("not yet"))).await;
        assert_eq!(counts(&dead).await.0, 12, "round {round}");
        let report = tool.run(&["dlq", "replay", "orders.fifo", "--yes", "--json", "--table", &table]);
        report.exits(0);
        assert_eq!(report.json()["replayed"], 12, "round {round}");
    }
    // A group stops at its first letter that is left.
    work(&orders, inbox.clone(), |_| Err(Failure::reject("not yet"))).await;
    let run = |more: &[&str]| {
        let base = [
            "dlq",
            "replay",
            "orders.fifo",
            "--yes",
            "--json",
            "--where",
            "not body in (\"04\")",
        ];
        tool.run(&[&base[..], more].concat())
    };
    let report = run(&[]);
    report.exits(3);
    let report = report.json();
    assert_eq!(
        (&report["replayed"], &report["skipped"]),
        (&json!(9), &json!(1)),
        "{report}"
    );
    static SEEN: std::sync::Mutex<Vec<String>> = std::sync::Mutex::new(Vec::new());
    tool.run(&["dlq", "replay", "orders.fifo", "--yes"]).exits(0);
    work(&orders, inbox, |body| {
        SEEN.lock().unwrap().push(body.to_owned());
        Ok(())
    })
    .await;
    let seen = SEEN.lock().unwrap().clone();
    assert_eq!(seen.len(), 12, "each once: {seen:?}");
    for group in 0..3 {
        let of_group: Vec<usize> = seen
            .iter()
            .map(|body| body.parse().unwrap())
            .filter(|n| n % 3 == group)
            .collect();
        assert!(of_group.is_sorted() && of_group.len() == 4, "{seen:?}");
    }
}

#[tokio::test]
async fn inv07_what_a_group_hides_is_reached_with_skip_order_or_told_and_keeps_the_job_open() {
    let Some(world) = World::open() else { return };
    let orders = world.queue("orders.fifo").await;
    let dead = world.open_queue("orders-dlq.fifo").await;
    let letters = (0..25).map(|n| {
        let reason = if n == 0 { "malformed" } else { "timeout" };
        Letter::new(&format!("k{n:02}"), reason, "", &format!("{n:02}"))
            .into_outgoing()
            .group("g")
            .deduplication_id(format!("d{n}"))
    });
    world.send(&dead, letters).await;
    let folder = tempfile::tempdir().unwrap();
    let job = folder.path().join("job");
    let base = ["dlq", "replay", "orders.fifo", "--yes", "--job", job.to_str().unwrap()];
    let tool = world.tool();
    let run = |more: &[&str]| tool.run(&[&base[..], more].concat());
    // Of what does not match, ten hide the rest.
    let ran = run(&["--where", "body = \"24\"", "--skip-order"]);
    ran.exits(3);
    insta::assert_snapshot!("dlq_replay_hidden_group", ran.shown());
    let ran = run(&["--where", "reason = timeout", "--skip-order"]);
    assert!(ran.exits(0).starts_with("replayed 24 of 25"), "{}", ran.shown());
    assert_eq!((counts(&orders).await.0, counts(&dead).await.0), (24, 1));
    assert!(
        run(&[]).exits(0).starts_with("replayed 1 of 1"),
        "the job is still open"
    );
}

#[tokio::test]
async fn it_stops_by_itself_when_too_much_dies_again() {
    let Some(world) = World::open() else { return };
    let orders = world.queue("orders").await;
    let dead = world.open_queue("orders-dlq").await;
    let inbox = world.inbox().await;
    let table = inbox.table_name().to_owned();
    let letters = (0..300).map(|n| Letter::new(&format!("k{n}"), "timeout", "", &n.to_string()));
    world.plant(&dead, letters).await;
    let worker = Worker::builder(orders.clone())
        .inbox(inbox)
        .handler(|| async { Err::<(), Failure>(Failure::reject("still broken")) })
        .build()
        .unwrap();
    let arguments = [
        "dlq",
        "replay",
        "orders",
        "--yes",
        "--rate",
        "20",
        "--stop-at",
        "20",
        "--watch",
        "30s",
        "--table",
        &table,
        "--json",
    ];
    let mut child = world.tool().command(&arguments).spawn().unwrap();
    let ended = async {
        while child.try_wait().unwrap().is_none() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        done = worker.run() => panic!("the worker ended: {done:?}"),
        () = ended => {}
    }
    let ran = Ran::of(child);
    ran.exits(3);
    let report = ran.json();
    assert_eq!(report["end"], "stopped");
    assert!(
        report["replayed"].as_u64().unwrap() < 290 && report["died_again"].as_u64().unwrap() >= 5,
        "{report}"
    );
    assert!(ran.stderr.contains("the same command goes on"), "{}", ran.stderr);
}

#[tokio::test]
async fn sqs_moves_a_whole_queue_by_itself_is_asked_about_it_and_told_to_end() {
    let Some((world, orders, dead)) = night().await else {
        return;
    };
    let tool = world.tool();
    let ran = tool.run(&["dlq", "moves", "orders"]);
    assert_eq!(ran.exits(0), "SQS knows no move of `orders-dlq`\n");
    tool.run(&["dlq", "cancel-move", "orders"]).exits(1);
    let asked = tool.run(&["dlq", "replay", "orders", "--native"]);
    asked.exits(2);
    for says in [
        "may delete those without an envelope as duplicates?",
        "try: look with: redrive dlq ls orders-dlq; then give --yes",
    ] {
        assert!(asked.stderr.contains(says), "{}", asked.stderr);
    }
    let ran = tool.run(&["dlq", "replay", "orders", "--native", "--yes", "--rate", "1"]);
    let task = ran
        .exits(0)
        .lines()
        .find_map(|line| line.strip_prefix("task "))
        .unwrap()
        .to_owned();
    let again = tool.run(&["dlq", "replay", "orders", "--native", "--yes", "--table", "inbox"]);
    again.exits(1);
    assert!(again.stderr.contains("no inbox is asked"), "{}", again.stderr);
    assert!(again.stderr.contains("cancel-move"), "{}", again.stderr);
    let ran = tool.run(&["dlq", "cancel-move", "orders", "--task", &task]);
    assert!(
        ran.exits(0).starts_with("cancelled: SQS had moved about "),
        "{}",
        ran.stdout
    );
    let status = |expected: &str| -> Option<Value> {
        let tasks = tool.run(&["dlq", "moves", "orders", "--json"]).json();
        let latest = tasks.as_array()?.first()?.clone();
        (latest["status"] == expected).then_some(latest)
    };
    let wait = |expected: &'static str| async move {
        let deadline = Clock::system().now() + Duration::from_secs(60);
        loop {
            if let Some(found) = status(expected) {
                return found;
            }
            assert!(Clock::system().now() < deadline, "it never is {expected}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let cancelled = wait("cancelled").await;
    assert!(cancelled["moved"].as_u64().unwrap() < 4, "{cancelled}");
    tool.run(&["dlq", "replay", "orders", "--native", "--yes"]).exits(0);
    wait("completed").await;
    assert_eq!((drained(&orders).await.len(), counts(&dead).await), (4, (0, 0)));
    // How far the first got before it was cancelled is chance.
    let numbers = regex_lite::Regex::new(r"  \d  \d  ").unwrap();
    let shown = tool.run(&["dlq", "moves", "orders"]).shown();
    let shown = numbers.replace_all(&shown, "  <n>  <n>  ");
    insta::assert_snapshot!("dlq_moves", shown);
}

#[tokio::test]
async fn a_question_that_cannot_be_asked_is_answered_by_yes_only() {
    let Some((world, _orders, dead)) = night().await else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let job = folder.path().join("job");
    let arguments = ["dlq", "replay", "orders", "--job", job.to_str().unwrap()];
    let mut child = world.tool().command(&arguments).spawn().unwrap();
    let mut said = String::new();
    BufReader::new(child.stderr.take().unwrap())
        .read_line(&mut said)
        .unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(2));
    assert!(
        said.contains("replay the dead letters of `orders-dlq` (about 4) to `orders`?"),
        "{said}"
    );
    assert_eq!(counts(&dead).await, (4, 0));
    assert!(!job.exists(), "what is not confirmed begins no job");
}
