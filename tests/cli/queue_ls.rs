//! `redrive queue ls`.

use redrive::message::Outgoing;
use serde_json::json;

use crate::scripted::{self, attributes, denied};
use crate::stub::Reply;
use crate::world::World;

#[tokio::test]
async fn it_lists_queues_with_what_they_hold() {
    let Some(world) = World::open() else { return };
    let orders = world.queue("orders").await;
    world.queue("orders.fifo").await;
    world.plain_queue("audit", &[]).await;
    world.send(&orders, (0..3).map(|n| Outgoing::new(n.to_string()))).await;
    let tool = world.tool();
    insta::assert_snapshot!("queue_ls", tool.run(&["queue", "ls"]).shown());
    let ran = tool.run(&["queue", "ls", "orders", "--json"]);
    ran.exits(0);
    let listed = ran.json_lines();
    let names: Vec<_> = listed.iter().map(|queue| queue["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["orders", "orders-dlq", "orders-dlq.fifo", "orders.fifo"]);
    assert_eq!(listed[0]["visible"], 3);
    assert_eq!(listed[0]["max_receive_count"], 15);
    assert!(
        listed[0]["dead_letter_queue"]
            .as_str()
            .unwrap()
            .ends_with(":orders-dlq")
    );
    assert_eq!(
        (&listed[3]["type"], &listed[1]["type"]),
        (&json!("fifo"), &json!("standard"))
    );
    assert_eq!(listed[1]["retention_s"], 1_209_600);
}

#[tokio::test]
async fn an_account_without_queues_says_so() {
    let Some(world) = World::open() else { return };
    let tool = world.tool();
    let ran = tool.run(&["queue", "ls"]);
    assert_eq!(ran.exits(0), "");
    assert!(
        ran.stderr.contains("this account has no queues in this region"),
        "{}",
        ran.stderr
    );
    let ran = tool.run(&["queue", "ls", "nope-"]);
    assert!(
        ran.stderr.contains("no queue's name begins with `nope-`"),
        "{}",
        ran.stderr
    );
}

#[tokio::test]
async fn it_pages_through_any_number_and_says_what_it_may_not_see() {
    const ALL: usize = 2_345;
    let server = scripted::sqs(|request| match request.operation.as_str() {
        "ListQueues" => {
            assert_eq!(request.body["MaxResults"], 1_000);
            let from: usize = request.body["NextToken"]
                .as_str()
                .map_or(0, |token| token.parse().unwrap());
            let to = (from + 1_000).min(ALL);
            let urls: Vec<_> = (from..to)
                .map(|n| format!("http://localhost/111122223333/q-{n}"))
                .collect();
            let next = (to < ALL).then(|| to.to_string());
            Reply::ok(json!({ "QueueUrls": urls, "NextToken": next }))
        }
        _ => {
            let name = request.body["QueueUrl"].as_str().unwrap().rsplit('/').next().unwrap();
            match name {
                "q-7" | "q-1007" => denied(request),
                // Deleted a moment ago.
                "q-8" => Reply::error(400, "QueueDoesNotExist", "The specified queue does not exist."),
                _ => Reply::ok(json!({ "Attributes": attributes(name, 1) })),
            }
        }
    })
    .await;
    let ran = scripted::run(scripted::tool_at(&server), &["queue", "ls", "--json"]).await;
    ran.exits(0);
    let names: Vec<_> = ran
        .json_lines()
        .into_iter()
        .map(|queue| queue["name"].clone())
        .collect();
    assert_eq!(names.len(), ALL - 3);
    assert_eq!((&names[0], &names[names.len() - 1]), (&json!("q-0"), &json!("q-999")));
    assert!(
        ran.stderr.contains("2 queues left out: they may not be asked"),
        "{}",
        ran.stderr
    );
    assert!(ran.stderr.contains("allow `sqs:GetQueueAttributes`"), "{}", ran.stderr);
}

#[tokio::test]
async fn inv12_who_may_not_list_is_told_what_to_allow() {
    let server = scripted::sqs(denied).await;
    let ran = scripted::run(scripted::tool_at(&server), &["queue", "ls", "orders"]).await;
    ran.exits(1);
    insta::assert_snapshot!("queue_ls_denied", ran.shown());
}
