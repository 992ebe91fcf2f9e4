//! `redrive queue ls`.

use crate::world::World;
use crate::{scripted, tool::Tool};

#[tokio::test]
async fn it_lists_queues_with_what_they_hold() {
    let Some(world) = World::open() else { return };
    let orders = world.queue("orders").await;
    world.queue("orders.fifo").await;
    world.plain_queue("audit", &[]).await;
    world.send(&orders, (0..3).map(|n| redrive::message::Outgoing::new(n.to_string()))).await;
    let tool = world.tool();
    insta::assert_snapshot!("queue_ls", tool.run(&["queue", "ls"]).shown());
    let ran = tool.run(&["queue", "ls", "orders", "--json"]);
    ran.exits(0);
    let listed = ran.json_lines();
    let names: Vec<_> = listed.iter().map(|queue| queue["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["orders", "orders-dlq", "orders-dlq.fifo", "orders.fifo"]);
    assert_eq!(listed[0]["visible"], 3);
    assert_eq!(listed[0]["max_receive_count"], 15);
    assert!(listed[0]["dead_letter_queue"].as_str().unwrap().ends_with(":orders-dlq"));
    assert_eq!((&listed[3]["type"], &listed[1]["type"]), (&"fifo".into(), &"standard".into()));
    assert_eq!(listed[1]["retention_s"], 1_209_600);
}

#[tokio::test]
async fn an_account_without_queues_says_so() {
    let Some(world) = World::open() else { return };
    let tool = world.tool();
    let ran = tool.run(&["queue", "ls"]);
    assert_eq!(ran.exits(0), "");
    assert!(ran.stderr.contains("this account has no queues in this region"), "{}", ran.stderr);
    let ran = tool.run(&["queue", "ls", "nope-"]);
    assert!(ran.stderr.contains("no queue's name begins with `nope-`"), "{}", ran.stderr);
}

#[tokio::test]
async fn it_pages_through_any_number_and_leaves_out_what_it_may_not_see() {
    let sqs = scripted::Sqs::start(scripted::Answers::many_queues(2_345, 3)).await;
    let tool = Tool::at(&sqs.url());
    let ran = tokio::task::spawn_blocking(move || tool.run(&["queue", "ls", "--json"])).await.unwrap();
    ran.exits(0);
    assert_eq!(ran.json_lines().len(), 2_342);
    assert!(ran.stderr.contains("3 queues left out: they may not be asked"), "{}", ran.stderr);
    assert!(ran.stderr.contains("allow `sqs:GetQueueAttributes`"), "{}", ran.stderr);
    assert!(sqs.most_at_once() <= 16, "{}", sqs.most_at_once());
}

#[tokio::test]
async fn inv12_who_may_not_list_is_told_what_to_allow() {
    let sqs = scripted::Sqs::start(scripted::Answers::denied()).await;
    let tool = Tool::at(&sqs.url());
    let ran = tokio::task::spawn_blocking(move || tool.run(&["queue", "ls", "orders"])).await.unwrap();
    insta::assert_snapshot!("queue_ls_denied", ran.shown());
}
