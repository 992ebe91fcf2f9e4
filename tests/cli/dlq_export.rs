//! `redrive dlq export`.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use redrive::message::Attribute;
use redrive::queue::Queue as _;
use serde_json::{Value, json};

use crate::scripted::{self, ManyLetters, denied, interrupt, opening};
use crate::stub::Reply;
use crate::tool::Ran;
use crate::world::{Letter, World};

fn letters() -> Vec<Letter> {
    let mut photo = Letter::new("order-1", "malformed", "missing field `amount`", r#"{"order":1}"#).of_type("charge");
    photo
        .outgoing
        .attributes
        .insert("photo".into(), Attribute::binary(vec![0, 159, 255]));
    photo.outgoing.trace_header = Some("Root=1-5759e988-bd862e3fe1be46a994272793".into());
    vec![
        photo,
        Letter::new("order-2", "attempts_exhausted", "timed out", r#"{"order":2}"#),
        Letter::moved_by_sqs("plain\ttext\n"),
    ]
}

fn lines(path: &std::path::Path) -> Vec<Value> {
    fs::read_to_string(path)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[tokio::test]
async fn everything_of_a_message_is_written() {
    let Some(world) = World::open() else { return };
    world.queue("orders").await;
    let dead = world.open_queue("orders-dlq").await;
    world.plant(&dead, letters()).await;
    let folder = tempfile::tempdir().unwrap();
    let tool = world.tool();
    let mut command = tool.command(&["dlq", "export", "orders", "--out", "dead.jsonl"]);
    let ran = Ran::of(command.current_dir(folder.path()).spawn().unwrap());
    ran.exits(0);
    insta::assert_snapshot!("dlq_export", ran.shown());
    let written = lines(&folder.path().join("dead.jsonl"));
    assert_eq!(written.len(), 3);
    let first = written.iter().find(|line| line["body"] == r#"{"order":1}"#).unwrap();
    assert_eq!(
        (&first["redrive_export"], &first["queue"], &first["receives"]),
        (&json!(1), &json!("orders-dlq"), &json!(1))
    );
    assert_eq!(
        first["attributes"]["photo"],
        json!({"data_type":"Binary","value_base64": "AJ//"})
    );
    assert_eq!(
        first["attributes"]["type"],
        json!({"data_type": "String", "value": "charge"})
    );
    assert_eq!(first["envelope"]["reason"], "malformed");
    let raw = first["attributes"]["Redrive-Envelope"]["value"].as_str().unwrap();
    assert_eq!(serde_json::from_str::<Value>(raw).unwrap(), first["envelope"]);
    assert_eq!(first["trace_header"], "Root=1-5759e988-bd862e3fe1be46a994272793");
    assert!(first["sent_at_ms"].as_u64().unwrap() > 1_700_000_000_000);
    assert!(first["id"].as_str().unwrap().len() == 36);
    let plain = written.iter().find(|line| line["body"] == "plain\ttext\n").unwrap();
    assert_eq!(
        (plain.get("envelope"), plain.get("attributes"), plain.get("group")),
        (None, None, None)
    );
    assert_eq!(dead.describe().await.unwrap().visible, 3);
}

#[tokio::test]
async fn what_matches_goes_to_standard_output_or_a_file_that_is_not_there_yet() {
    let Some(world) = World::open() else { return };
    world.queue("orders").await;
    let dead = world.open_queue("orders-dlq").await;
    world.plant(&dead, letters()).await;
    let tool = world.tool();
    let ran = tool.run(&["dlq", "export", "orders-dlq", "--where", "reason = malformed"]);
    ran.exits(0);
    assert_eq!(
        (ran.json_lines().len(), &ran.json_lines()[0]["envelope"]["key"]),
        (1, &json!("order-1"))
    );

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dead.jsonl");
    fs::write(&path, "precious").unwrap();
    let out = path.to_str().unwrap();
    let ran = tool.run(&["dlq", "export", "orders", "--out", out]);
    ran.exits(1);
    assert!(
        ran.stderr.contains("is there already") && ran.stderr.contains("--overwrite"),
        "{}",
        ran.stderr
    );
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    let ran = tool.run(&["dlq", "export", "orders", "--out", out, "--overwrite", "--json"]);
    ran.exits(0);
    assert_eq!(
        (&ran.json()["messages"], &ran.json()["queue"]),
        (&json!(3), &json!("orders-dlq"))
    );
    assert_eq!(lines(&path).len(), 3);
    let ran = tool.run(&["dlq", "export", "orders", "--out", "/nowhere/dead.jsonl"]);
    ran.exits(1);
    assert!(
        ran.stderr.contains("`/nowhere/dead.jsonl` cannot be written"),
        "{}",
        ran.stderr
    );
    // A filter that does not parse is pointed at before anything is received.
    let ran = tool.run(&["dlq", "export", "orders", "--where", "reason ="]);
    ran.exits(2);
}

#[tokio::test]
async fn inv12_an_empty_queue_one_that_is_not_there_and_one_that_is_nobodys() {
    let Some(world) = World::open() else { return };
    world.queue("orders").await;
    world.plain_queue("audit", &[]).await;
    let tool = world.tool();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dead.jsonl");
    let ran = tool.run(&["dlq", "export", "orders", "--out", path.to_str().unwrap()]);
    ran.exits(0);
    assert!(
        ran.stdout.contains("exported 0 messages of `orders-dlq`"),
        "{}",
        ran.stdout
    );
    assert_eq!(fs::read(&path).unwrap(), b"");
    let ran = tool.run(&["dlq", "export", "nope"]);
    ran.exits(1);
    assert!(ran.stderr.contains("`nope` does not exist"), "{}", ran.stderr);
    let ran = tool.run(&["dlq", "export", "audit"]);
    ran.exits(1);
    assert!(ran.stderr.contains("nobody's dead-letter queue"), "{}", ran.stderr);
}

#[tokio::test]
async fn inv12_who_may_not_receive_is_told_what_to_allow_and_no_file_is_left() {
    let server = scripted::sqs(|request| opening(request, 3).unwrap_or_else(|| denied(request))).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dead.jsonl");
    let arguments = ["dlq", "export", "orders", "--out", path.to_str().unwrap()];
    let ran = scripted::run(scripted::tool_at(&server), &arguments).await;
    ran.exits(1);
    assert!(ran.stderr.contains("allow `sqs:ReceiveMessage`"), "{}", ran.stderr);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn ctrl_c_gives_back_what_is_held_and_leaves_no_file() {
    let Some(world) = World::open() else { return };
    world.queue("orders").await;
    let dead = world.open_queue("orders-dlq").await;
    world
        .plant(
            &dead,
            (0..40).map(|n| Letter::new(&format!("k{n}"), "malformed", "no", "{}")),
        )
        .await;
    let mut child = world.tool().command(&["dlq", "export", "orders"]).spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    // It has some by now, and looks for more for seconds.
    stdout.read_line(&mut String::new()).unwrap();
    interrupt(child.id());
    let ran = Ran::of(child);
    ran.exits(130);
    assert!(
        ran.stderr
            .contains("interrupted; what was held of `orders-dlq` is given back"),
        "{}",
        ran.stderr
    );
    assert_eq!(dead.describe().await.unwrap().visible, 40);

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dead.jsonl");
    let child = world
        .tool()
        .command(&["dlq", "export", "orders", "--out", path.to_str().unwrap()])
        .spawn()
        .unwrap();
    world.until_in_flight(&dead, 1).await;
    interrupt(child.id());
    Ran::of(child).exits(130);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    assert_eq!(dead.describe().await.unwrap().visible, 40);
}

/// Exports from a server and answers how much memory it took at most, in KiB.
async fn export_measured(letters: u64) -> (Arc<ManyLetters>, u64) {
    let queue = Arc::new(ManyLetters::new(letters));
    let shared = Arc::clone(&queue);
    let server = scripted::sqs(move |request| shared.answer(request)).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dead.jsonl");
    let tool = scripted::tool_at(&server);
    let measured = tokio::task::spawn_blocking({
        let path = path.clone();
        move || {
            let mut child = tool
                .command(&["dlq", "export", "orders", "--out", path.to_str().unwrap()])
                .spawn()
                .unwrap();
            let status = format!("/proc/{}/status", child.id());
            let mut most = 0;
            // The high-water mark as it was last seen.
            while child.try_wait().unwrap().is_none() {
                let text = fs::read_to_string(&status).unwrap_or_default();
                let mark = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
                most = mark
                    .and_then(|mark| mark.trim().strip_suffix(" kB")?.parse().ok())
                    .unwrap_or(most);
                std::thread::park_timeout(std::time::Duration::from_millis(20));
            }
            Ran::of(child).exits(0);
            most
        }
    });
    let most = measured.await.unwrap();
    let file = BufReader::new(fs::File::open(&path).unwrap());
    let ids: std::collections::BTreeSet<String> = file
        .lines()
        .map(|line| {
            serde_json::from_str::<Value>(&line.unwrap()).unwrap()["id"]
                .as_str()
                .unwrap()
                .to_owned()
        })
        .collect();
    assert_eq!(ids.len() as u64, letters);
    (queue, most)
}

/// The most that an export of 100,000 messages may take, in KiB.
const MOST_KIB: u64 = 100_000_000 / 1_024;

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn inv05_an_export_grows_so_little_that_100_mb_are_enough_for_a_hundred_thousand_messages() {
    let (_, few) = export_measured(2_000).await;
    let (queue, more) = export_measured(22_000).await;
    assert_eq!(queue.released.load(Ordering::Relaxed), 22_000);
    let all = few + more.saturating_sub(few) * 98 / 20;
    assert!(few > 0 && all < MOST_KIB, "{few} KiB for 2,000, {more} KiB for 22,000");
}

/// Minutes long in a debug build on a busy machine.
#[cfg(target_os = "linux")]
#[ignore = "takes minutes; run it with --ignored"]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn inv05_a_hundred_thousand_messages_are_exported_in_less_than_100_mb() {
    let (queue, most) = export_measured(100_000).await;
    assert_eq!(queue.released.load(Ordering::Relaxed), 100_000);
    assert!(most > 0 && most < MOST_KIB, "{most} KiB");
}

#[tokio::test]
async fn a_queue_that_fails_on_the_way_leaves_no_half_file() {
    let queue = ManyLetters::new(1_000);
    let server = scripted::sqs(move |request| match request.operation.as_str() {
        "ReceiveMessage" if queue.received() >= 500 => {
            Reply::error(400, "KMS.DisabledException", "the key is disabled")
        }
        _ => queue.answer(request),
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dead.jsonl");
    let ran = scripted::run(
        scripted::tool_at(&server),
        &["dlq", "export", "orders", "--out", path.to_str().unwrap()],
    )
    .await;
    ran.exits(1);
    assert!(ran.stderr.contains("the key is disabled"), "{}", ran.stderr);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}
