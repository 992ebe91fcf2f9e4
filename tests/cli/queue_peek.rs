//! `redrive queue peek`.

use std::collections::BTreeMap;
use std::time::Duration;

use redrive::message::{Attribute, Outgoing};
use redrive::queue::{Queue as _, Receive};
use serde_json::json;

use crate::world::World;

fn order(n: u32) -> Outgoing {
    Outgoing::new(format!("{{\"order\":{n},\"note\":\"a\\u001b[31m\"}}"))
        .attribute("type", Attribute::string("order.created"))
        .attribute("Idempotency-Key", Attribute::string(format!("order-{n}")))
}

#[tokio::test]
async fn it_shows_messages_and_gives_them_back() {
    let Some(world) = World::open() else { return };
    let orders = world.queue("orders").await;
    let odd = Outgoing::new(format!("two\nlines\u{202e}{}", "x".repeat(200)))
        .attribute("bytes", Attribute::binary(vec![0, 1, 2]));
    world.send(&orders, [order(1), odd]).await;
    let tool = world.tool();
    let ran = tool.run(&["queue", "peek", "orders"]);
    ran.exits(0);
    insta::assert_snapshot!("queue_peek", ran.shown());
    let ran = tool.run(&["queue", "peek", "orders", "--full"]);
    ran.exits(0);
    insta::assert_snapshot!("queue_peek_full", ran.shown());
    let ran = tool.run(&["queue", "peek", "orders", "--json", "--quiet"]);
    let seen = ran.json_lines();
    assert_eq!(seen.len(), 2);
    assert_eq!(
        seen[0]["attributes"]["type"],
        json!({"data_type": "String", "value": "order.created"})
    );
    assert_eq!((&seen[0]["receives"], &seen[0]["queue"]), (&json!(3), &json!("orders")));
    assert_eq!(
        seen[1]["attributes"]["bytes"],
        json!({"data_type":"Binary","value_base64": "AAEC"})
    );
    assert_eq!(orders.describe().await.unwrap().visible, 2);
}

#[tokio::test]
async fn it_spends_receives_of_no_more_than_it_shows() {
    let Some(world) = World::open() else { return };
    let orders = world.queue("orders").await;
    world.send(&orders, (0..30).map(order)).await;
    let ran = world.tool().run(&["queue", "peek", "orders", "--count", "3", "--json"]);
    assert_eq!(ran.json_lines().len(), 3);
    let mut receives = BTreeMap::<u32, u32>::new();
    for _ in 0..30 {
        for delivery in orders.receive(Receive::new(1, Duration::from_secs(5))).await.unwrap() {
            *receives.entry(delivery.receive_count).or_default() += 1;
        }
    }
    assert_eq!(receives, BTreeMap::from([(1, 27), (2, 3)]));
}

#[tokio::test]
async fn an_empty_queue_and_one_that_is_not_there() {
    let Some(world) = World::open() else { return };
    world.queue("orders").await;
    let tool = world.tool();
    let ran = tool.run(&["queue", "peek", "orders"]);
    assert_eq!(ran.exits(0), "");
    assert!(
        ran.stderr.contains("`orders` has no message to be received"),
        "{}",
        ran.stderr
    );
    let ran = tool.run(&["queue", "peek", "nope"]);
    ran.exits(1);
    assert!(ran.stderr.contains("`nope` does not exist"), "{}", ran.stderr);
    tool.run(&["queue", "peek", "orders", "--count", "0"]).exits(2);
}
