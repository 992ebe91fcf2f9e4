//! `redrive queue purge`.

use redrive::message::Outgoing;
use redrive::queue::Queue as _;
use serde_json::json;

use crate::scripted::{self, denied, opening};
use crate::stub::Reply;
use crate::world::World;

#[tokio::test]
async fn it_empties_the_queue_when_it_is_sure() {
    let Some(world) = World::open() else { return };
    let orders = world.queue("orders").await;
    world.send(&orders, (0..12).map(|n| Outgoing::new(n.to_string()))).await;
    let tool = world.tool();
    let ran = tool.run(&["queue", "purge", "orders"]);
    ran.exits(2);
    insta::assert_snapshot!("queue_purge_unsure", ran.shown());
    assert_eq!(orders.describe().await.unwrap().visible, 12);

    let ran = tool.run(&["queue", "purge", "orders", "--yes"]);
    ran.exits(0);
    insta::assert_snapshot!("queue_purge", ran.shown());
    assert_eq!(orders.describe().await.unwrap().visible, 0);
    let ran = tool.run(&["queue", "purge", "orders", "--yes", "--json"]);
    assert_eq!(ran.json(), json!({ "queue": "orders", "messages": 0 }));
}

#[tokio::test]
async fn inv12_a_second_purge_within_a_minute_is_explained() {
    let server = scripted::sqs(|request| {
        let said = "Only one PurgeQueue operation on orders is allowed every 60 seconds.";
        opening(request, 3).unwrap_or_else(|| Reply::error(403, "AWS.SimpleQueueService.PurgeQueueInProgress", said))
    })
    .await;
    let ran = scripted::run(scripted::tool_at(&server), &["queue", "purge", "orders", "--yes"]).await;
    ran.exits(1);
    insta::assert_snapshot!("queue_purge_in_progress", ran.shown());
}

#[tokio::test]
async fn inv12_who_may_not_purge_is_told_what_to_allow() {
    let server = scripted::sqs(|request| opening(request, 3).unwrap_or_else(|| denied(request))).await;
    let ran = scripted::run(scripted::tool_at(&server), &["queue", "purge", "orders", "--yes"]).await;
    ran.exits(1);
    assert!(ran.stderr.contains("allow `sqs:PurgeQueue`"), "{}", ran.stderr);
}
