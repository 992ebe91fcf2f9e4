//! `redrive dlq watch`.

use std::io::{BufRead as _, BufReader};
use std::process::Command;

use redrive::queue::Queue as _;
use serde_json::Value;

use crate::dlq_ls::{letters, until};
use crate::scripted::{self, opening};
use crate::stub::Reply;
use crate::tool::{Ran, Tool};
use crate::world::World;

#[tokio::test]
async fn once_tells_by_its_exit_code_and_names_the_reasons() {
    let Some(world) = World::open() else { return };
    world.queue("orders").await;
    let dead = world.open_queue("orders-dlq").await;
    let tool = world.tool();
    insta::assert_snapshot!("watch_empty", tool.run(&["dlq", "watch", "orders", "--once"]).shown());
    world.plant(&dead, letters()).await;
    until("they are counted", async || dead.describe().await.unwrap().visible == 4).await;
    let ran = tool.run(&["dlq", "watch", "orders", "--once", "--no-reasons"]);
    assert!(ran.exits(3).contains("4 dead letters"), "{}", ran.stdout);
    assert!(ran.stderr.is_empty(), "it costs nothing: {}", ran.stderr);
    insta::assert_snapshot!("watch_once", tool.run(&["dlq", "watch", "orders", "--once"]).shown());
    let count = tool.run(&["dlq", "watch", "orders", "--once", "--json"]);
    count.exits(3);
    let count = count.json();
    assert_eq!((&count["total"], &count["queue"]), (&4.into(), &"orders-dlq".into()));
    assert_eq!(
        count["reasons"][0],
        serde_json::json!({"reason": "attempts_exhausted", "count": 2})
    );
}

#[tokio::test]
async fn it_counts_until_it_is_interrupted_and_looks_no_more_than_it_must() {
    let Some(world) = World::open() else { return };
    world.queue("orders").await;
    let dead = world.open_queue("orders-dlq").await;
    world.plant(&dead, letters().into_iter().take(1)).await;
    until("it is counted", async || dead.describe().await.unwrap().visible == 1).await;
    let mut child = world
        .tool()
        .command(&[
            "dlq",
            "watch",
            "orders",
            "--json",
            "--interval",
            "1s",
            "--reasons-every",
            "1h",
        ])
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let (sent, mut counts) = tokio::sync::mpsc::unbounded_channel();
    let reader = std::thread::spawn(move || {
        while let Some(Ok(line)) = lines.next() {
            let _ = sent.send(serde_json::from_str::<Value>(&line).unwrap());
        }
    });
    let first = counts.recv().await.unwrap();
    assert_eq!((&first["total"], &first["reasons"][0]["count"]), (&1.into(), &1.into()));
    world.plant(&dead, letters().into_iter().skip(1)).await;
    let more = loop {
        let count = counts.recv().await.unwrap();
        if count["total"] == 4 {
            break count;
        }
    };
    assert_eq!(more["reasons"], first["reasons"], "as of the look an hour ago at most");
    assert_eq!(more["reasons_at_ms"], first["reasons_at_ms"]);
    assert!(
        Command::new("kill")
            .args(["-INT", &child.id().to_string()])
            .status()
            .unwrap()
            .success()
    );
    assert_eq!(child.wait().unwrap().code(), Some(130));
    reader.join().unwrap();
}

#[tokio::test]
async fn it_goes_on_where_a_look_fails_for_a_while() {
    let server = scripted::sqs(|request| {
        opening(request, 3).unwrap_or_else(|| Reply::error(503, "ServiceUnavailable", "try again later"))
    })
    .await;
    let watch = |more: &[&str]| {
        let watch = ["dlq", "watch", "orders", "--json"];
        scripted::tool_at(&server).command(&[&watch, more].concat())
    };
    let mut once = watch(&["--once"]);
    let once = tokio::task::spawn_blocking(move || Ran::of(once.spawn().unwrap()));
    let mut child = watch(&["--interval", "1s", "--reasons-every", "1h"]).spawn().unwrap();
    let stdout = child.stdout.take().unwrap();
    let counted = tokio::task::spawn_blocking(move || {
        let lines = BufReader::new(stdout).lines().take(2);
        lines
            .map(|line| serde_json::from_str(&line.unwrap()).unwrap())
            .collect::<Vec<Value>>()
    });
    let counted = counted.await.unwrap();
    scripted::interrupt(child.id());
    let ran = tokio::task::spawn_blocking(move || Ran::of(child)).await.unwrap();
    assert_eq!(counted.len(), 2, "{}", ran.stderr);
    for count in &counted {
        assert_eq!((&count["total"], &count["reasons"]), (&3.into(), &Value::Null));
    }
    assert_eq!(ran.code, 130, "{}", ran.stderr);
    assert!(
        ran.stderr.contains("warning: reasons are not known now"),
        "{}",
        ran.stderr
    );
    let ran = once.await.unwrap();
    assert_eq!(ran.code, 1, "a script is not told half: {}", ran.stdout);
}

#[test]
fn intervals_are_checked() {
    let tool = Tool::alone();
    for wrong in ["soon", "0s", "10ms", "2d"] {
        let ran = tool.run(&["dlq", "watch", "orders", "--interval", wrong]);
        ran.exits(2);
        assert!(ran.stderr.contains("--interval"), "{}", ran.stderr);
    }
    tool.run(&["dlq", "watch", "orders", "--no-reasons", "--reasons-every", "5m"])
        .exits(2);
}
