//! `redrive dlq drop`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use redrive::SqsQueue;
use redrive::queue::{Queue as _, Receive};
use serde_json::{Value, json};

use crate::scripted::{self, ManyLetters, denied, interrupt, opening};
use crate::stub::Reply;
use crate::tool::Ran;
use crate::world::{Letter, World};

/// Runs it in a folder, where its backup goes.
fn drop_in(world: &World, folder: &Path, more: &[&str]) -> Ran {
    let arguments = [&["dlq", "drop", "orders"], more].concat();
    Ran::of(world.tool().command(&arguments).current_dir(folder).spawn().unwrap())
}

fn backups(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect()
}

/// The bodies in a backup.
fn bodies(file: &Path) -> BTreeSet<String> {
    let text = fs::read_to_string(file).unwrap();
    let body = |line: &str| {
        serde_json::from_str::<Value>(line).unwrap()["body"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    text.lines().map(body).collect()
}

async fn visible(queue: &SqsQueue) -> u64 {
    queue.describe().await.unwrap().visible
}

/// Takes the time out of a backup's name.
fn without_time(text: &str) -> String {
    regex_lite::Regex::new(r"\d{8}T\d{6}Z")
        .unwrap()
        .replace_all(text, "<time>")
        .into_owned()
}

/// Ten dead letters, every third malformed.
async fn planted(world: &World) -> SqsQueue {
    world.queue("orders").await;
    let dead = world.open_queue("orders-dlq").await;
    let letter = |n: usize| {
        let reason = if n.is_multiple_of(3) {
            "malformed"
        } else {
            "attempts_exhausted"
        };
        Letter::new(&format!("order-{n}"), reason, "no", &n.to_string())
    };
    world.plant(&dead, (0..10).map(letter)).await;
    dead
}

#[tokio::test]
async fn it_says_what_it_would_drop_and_drops_when_it_is_sure() {
    let Some(world) = World::open() else { return };
    let dead = planted(&world).await;
    let folder = tempfile::tempdir().unwrap();
    let ran = drop_in(&world, folder.path(), &["--where", "reason = malformed", "--dry-run"]);
    ran.exits(0);
    insta::assert_snapshot!("dlq_drop_dry_run", ran.shown());
    let ran = drop_in(&world, folder.path(), &["--where", "reason = malformed"]);
    ran.exits(2);
    insta::assert_snapshot!("dlq_drop_unsure", without_time(&ran.shown()));
    assert_eq!((visible(&dead).await, backups(folder.path()).len()), (10, 0));

    let ran = drop_in(&world, folder.path(), &["--where", "reason = malformed", "--yes"]);
    ran.exits(0);
    insta::assert_snapshot!("dlq_drop", without_time(&ran.shown()));
    assert_eq!(visible(&dead).await, 6);
    let dropped = ["0", "3", "6", "9"].map(str::to_owned);
    let backup = backups(folder.path()).remove(0);
    assert_eq!(bodies(&backup), BTreeSet::from(dropped));

    // And back again.
    world
        .tool()
        .run(&["dlq", "import", "orders", backup.to_str().unwrap()])
        .exits(0);
    assert_eq!(visible(&dead).await, 10);
}

#[tokio::test]
async fn a_limit_is_kept_and_json_tells_all() {
    let Some(world) = World::open() else { return };
    let dead = planted(&world).await;
    let folder = tempfile::tempdir().unwrap();
    let arguments = [
        "--where",
        "reason = attempts_exhausted",
        "--limit",
        "2",
        "--yes",
        "--backup",
        "b.jsonl",
        "--json",
    ];
    let ran = drop_in(&world, folder.path(), &arguments);
    ran.exits(0);
    let told = ran.json();
    assert_eq!(
        (&told["dropped"], &told["matched"], &told["not_dropped"]),
        (&json!(2), &json!(2), &json!(0))
    );
    assert_eq!(
        (&told["backup"], &told["by_reason"]),
        (&json!("b.jsonl"), &json!({"attempts_exhausted": 2}))
    );
    assert_eq!(
        (visible(&dead).await, bodies(&folder.path().join("b.jsonl")).len()),
        (8, 2)
    );
    // The backup of before is not written over.
    let ran = drop_in(&world, folder.path(), &arguments);
    ran.exits(1);
    assert!(ran.stderr.contains("a backup is never written over"), "{}", ran.stderr);
    assert_eq!(visible(&dead).await, 8);
    let ran = drop_in(&world, folder.path(), &["--limit", "3", "--yes", "--no-backup"]);
    assert_eq!(ran.exits(0), "dropped 3 dead letters of `orders-dlq`\n");
    assert_eq!((visible(&dead).await, backups(folder.path()).len()), (5, 1));
}

#[tokio::test]
async fn where_nothing_is_to_be_dropped_no_backup_is_left() {
    let Some(world) = World::open() else { return };
    let dead = planted(&world).await;
    let folder = tempfile::tempdir().unwrap();
    let ran = drop_in(&world, folder.path(), &["--where", "reason = nothing", "--yes"]);
    assert_eq!(
        ran.exits(0),
        "no dead letter of the 10 that were looked at matches; nothing was dropped\n"
    );
    assert_eq!((visible(&dead).await, backups(folder.path()).len()), (10, 0));
    let ran = drop_in(&world, folder.path(), &["--where", "reason ~", "--yes"]);
    ran.exits(2);
    drop_in(&world, folder.path(), &["--yes", "--no-backup"]).exits(0);
    let ran = drop_in(&world, folder.path(), &["--yes"]);
    assert_eq!(ran.exits(0), "no dead letters: `orders-dlq` is empty\n");
    assert_eq!(backups(folder.path()).len(), 0);
}

#[tokio::test]
async fn inv01_nothing_is_deleted_that_could_not_be_written() {
    let queue = Arc::new(ManyLetters::new(200));
    let shared = Arc::clone(&queue);
    let server = scripted::sqs(move |request| shared.answer(request)).await;
    let tool = scripted::tool_at(&server);
    // A disk that fills up after some pages: of a limit on the size of files, writes fail beyond it.
    let folder = tempfile::tempdir().unwrap();
    let backup = folder.path().join("b.jsonl");
    let mut limited = std::process::Command::new("bash");
    let inner = tool.command::<&str>(&[]);
    for (name, value) in inner.get_envs() {
        match value {
            Some(value) => limited.env(name, value),
            None => limited.env_remove(name),
        };
    }
    limited
        .args(["-c", "trap '' XFSZ; ulimit -f 100; exec \"$0\" \"$@\""])
        .arg(inner.get_program())
        .args(["dlq", "drop", "orders", "--yes", "--backup"])
        .arg(&backup)
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped());
    let ran = tokio::task::spawn_blocking(move || Ran::of(limited.spawn().unwrap()))
        .await
        .unwrap();
    ran.exits(1);
    assert!(ran.stderr.contains("the backup cannot be written"), "{}", ran.stderr);
    assert!(
        ran.stderr.contains("may hold messages that were not deleted"),
        "{}",
        ran.stderr
    );
    let text = fs::read_to_string(&backup).unwrap();
    assert!(text.ends_with('\n'), "its last line is whole");
    let written: BTreeSet<u64> = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .map(|line| {
            serde_json::from_str::<Value>(line["body"].as_str().unwrap()).unwrap()["order"]
                .as_u64()
                .unwrap()
        })
        .collect();
    let deleted: BTreeSet<u64> = queue.deleted.lock().unwrap().iter().copied().collect();
    assert!((10..200).contains(&deleted.len()), "{}", deleted.len());
    assert_eq!(deleted, written, "what was not deleted is not in it");
}

#[tokio::test]
async fn inv01_ctrl_c_leaves_every_message_in_the_queue_or_in_the_backup() {
    let Some(world) = World::open() else { return };
    world.queue("orders").await;
    let dead = world.open_queue("orders-dlq").await;
    world
        .plant(
            &dead,
            (0..200).map(|n| Letter::new(&format!("k{n}"), "malformed", "no", &n.to_string())),
        )
        .await;
    let folder = tempfile::tempdir().unwrap();
    let arguments = ["dlq", "drop", "orders", "--yes", "--backup", "b.jsonl"];
    let child = world
        .tool()
        .command(&arguments)
        .current_dir(folder.path())
        .spawn()
        .unwrap();
    let backup = folder.path().join("b.jsonl");
    tokio::time::timeout(Duration::from_secs(60), async {
        while fs::metadata(&backup).map_or(0, |about| about.len()) == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    interrupt(child.id());
    let ran = Ran::of(child);
    ran.exits(130);
    assert!(
        ran.stderr.contains("interrupted; what was held is given back"),
        "{}",
        ran.stderr
    );
    let mut left = BTreeSet::new();
    loop {
        let page = dead.receive(Receive::new(10, Duration::from_secs(2))).await.unwrap();
        if page.is_empty() {
            break;
        }
        left.extend(page.into_iter().map(|delivery| delivery.message.body));
    }
    let kept = bodies(&backup);
    let all: BTreeSet<String> = (0..200).map(|n| n.to_string()).collect();
    assert_eq!(left.union(&kept).cloned().collect::<BTreeSet<_>>(), all);
    assert!(left.is_disjoint(&kept));
}

#[tokio::test]
async fn of_a_fifo_queue_dropping_the_heads_shows_the_rest() {
    let Some(world) = World::open() else { return };
    world.queue("orders.fifo").await;
    let dead = world.open_queue("orders-dlq.fifo").await;
    let letters = (0..36)
        .map(|n| Letter::new(&format!("k{n}"), "malformed", "no", &n.to_string()).in_group(&format!("g{}", n % 2)));
    world.plant(&dead, letters).await;
    let folder = tempfile::tempdir().unwrap();
    let arguments = ["dlq", "drop", "orders.fifo", "--yes", "--backup", "b.jsonl"];
    let ran = Ran::of(
        world
            .tool()
            .command(&arguments)
            .current_dir(folder.path())
            .spawn()
            .unwrap(),
    );
    ran.exits(0);
    assert!(
        ran.stdout.starts_with("dropped 36 dead letters of `orders-dlq.fifo`"),
        "{}",
        ran.stdout
    );
    assert_eq!(
        (visible(&dead).await, bodies(&folder.path().join("b.jsonl")).len()),
        (0, 36)
    );
}

#[tokio::test]
async fn what_sqs_does_not_delete_is_said_to_come_back() {
    let queue = ManyLetters::new(10);
    let server = scripted::sqs(move |request| match request.operation.as_str() {
        "DeleteMessageBatch" => denied(request),
        _ => queue.answer(request),
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let backup = folder.path().join("b.jsonl");
    let arguments = ["dlq", "drop", "orders", "--yes", "--backup", backup.to_str().unwrap()];
    let ran = scripted::run(scripted::tool_at(&server), &arguments).await;
    ran.exits(1);
    assert!(
        ran.stderr.contains("10 messages could not be deleted and come back"),
        "{}",
        ran.stderr
    );
    assert!(
        ran.stderr.contains("may hold messages that were not deleted"),
        "{}",
        ran.stderr
    );
    assert!(ran.stderr.contains("sqs:DeleteMessageBatch"), "{}", ran.stderr);
}

#[tokio::test]
async fn inv12_who_may_not_receive_is_told_what_to_allow() {
    let server = scripted::sqs(|request| opening(request, 3).unwrap_or_else(|| denied(request))).await;
    let folder = tempfile::tempdir().unwrap();
    let backup = folder.path().join("b.jsonl");
    let arguments = ["dlq", "drop", "orders", "--yes", "--backup", backup.to_str().unwrap()];
    let ran = scripted::run(scripted::tool_at(&server), &arguments).await;
    ran.exits(1);
    assert!(ran.stderr.contains("allow `sqs:ReceiveMessage`"), "{}", ran.stderr);
    assert!(!backup.exists());
    let server = scripted::sqs(|request| match request.operation.as_str() {
        "GetQueueUrl" => Reply::error(400, "QueueDoesNotExist", "The specified queue does not exist."),
        _ => denied(request),
    })
    .await;
    let ran = scripted::run(scripted::tool_at(&server), &arguments).await;
    ran.exits(1);
    assert!(ran.stderr.contains("`orders` does not exist"), "{}", ran.stderr);
}
