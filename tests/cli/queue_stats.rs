//! `redrive queue stats`.

use std::io::{BufRead as _, BufReader};

use redrive::message::Outgoing;
use redrive::queue::Queue as _;
use serde_json::{Value, json};

use crate::scripted::{self, in_cbor, interrupt};
use crate::stub::{Reply, Stub};
use crate::tool::Ran;
use crate::world::World;

/// CloudWatch's measures of `orders` (q0) and `orders-dlq` (q1): newest first.
fn measures() -> Value {
    let now = 1_700_000_000;
    let result = |id: &str, values: &[f64]| {
        let times: Vec<_> = (0..values.len())
            .map(|n| json!({ "$time": now - 60 * n as u64 }))
            .collect();
        json!({ "Id": id, "Label": id, "StatusCode": "Complete", "Timestamps": times, "Values": values })
    };
    json!({ "MetricDataResults": [
        result("q0m0", &[125.0, 65.0]),
        result("q0m1", &[240.0, 120.0]),
        result("q0m2", &[600.0]),
        result("q0m3", &[6.0, 0.0, 0.0, 0.0, 0.0, 6_000.0]),
        result("q1m0", &[90_000.0]),
        result("q1m1", &[]),
    ]})
}

async fn stats(world: &World, cloudwatch: &Stub, more: &[&str]) -> Ran {
    let mut command = world.tool().command(&[&["queue", "stats", "orders"], more].concat());
    command.env("AWS_ENDPOINT_URL_CLOUDWATCH", cloudwatch.url());
    tokio::task::spawn_blocking(move || Ran::of(command.spawn().unwrap()))
        .await
        .unwrap()
}

#[tokio::test]
async fn a_queue_and_its_dead_letters_stand_side_by_side_with_what_cloudwatch_measures() {
    let Some(world) = World::open() else { return };
    let orders = world.queue("orders").await;
    world.send(&orders, (0..3).map(|n| Outgoing::new(n.to_string()))).await;
    let cloudwatch = Stub::start([in_cbor(&measures()), in_cbor(&measures())]).await.unwrap();
    let ran = stats(&world, &cloudwatch, &[]).await;
    ran.exits(0);
    insta::assert_snapshot!("queue_stats", ran.shown());

    let ran = stats(&world, &cloudwatch, &["--json"]).await;
    let look = ran.json();
    let (queue, dead) = (&look["queue"], &look["dead_letters"]);
    assert_eq!(
        (&queue["name"], &queue["visible"], &queue["oldest_age_s"]),
        (&json!("orders"), &json!(3), &json!(125.0))
    );
    // The mean of the measures there are, of five at most.
    assert_eq!(
        (&queue["sent_per_s"], &queue["received_per_s"], &queue["deleted_per_s"]),
        (&json!(3.0), &json!(10.0), &json!(0.02))
    );
    assert_eq!(
        (&dead["oldest_age_s"], &dead["sent_per_s"]),
        (&json!(90_000.0), &json!(null))
    );
    assert_eq!(
        (&queue["measured_at_ms"], &look["unknown"]),
        (&json!(1_700_000_000_000_u64), &json!(null))
    );

    // All of it by one call each time.
    let requests = cloudwatch.take_requests();
    assert_eq!(requests.len(), 2);
    assert_eq!(requests[0].operation, "GetMetricData");
    let asked = String::from_utf8_lossy(&requests[0].raw).into_owned();
    for part in [
        "AWS/SQS",
        "QueueName",
        "orders-dlq",
        "ApproximateAgeOfOldestMessage",
        "NumberOfMessagesDeleted",
    ] {
        assert!(asked.contains(part), "{part}");
    }
}

#[tokio::test]
async fn without_permission_or_measures_age_and_rates_are_unknown_and_it_says_why() {
    let Some(world) = World::open() else { return };
    world.queue("orders").await;
    let refused = Reply::raw(403, {
        let Reply::Answer { body, .. } =
            in_cbor(&json!({ "__type": "com.amazonaws.cloudwatch#AccessDenied", "message": "no" }))
        else {
            unreachable!()
        };
        body
    })
    .header("smithy-protocol", "rpc-v2-cbor")
    .header("x-amzn-query-error", "AccessDenied;Sender");
    let nothing = in_cbor(&json!({ "MetricDataResults": [] }));
    let cloudwatch = Stub::start([refused, nothing]).await.unwrap();
    let ran = stats(&world, &cloudwatch, &[]).await;
    ran.exits(0);
    insta::assert_snapshot!("queue_stats_denied", ran.shown());
    let ran = stats(&world, &cloudwatch, &["--json"]).await;
    assert_eq!(ran.json()["queue"]["oldest_age_s"], json!(null));
    assert!(
        ran.json()["unknown"]
            .as_str()
            .unwrap()
            .contains("no measure of the last 15 minutes")
    );
    // LocalStack runs no CloudWatch, and a look must not wait for one for long.
    let ran = scripted::run(world.tool(), &["queue", "stats", "orders"]).await;
    assert!(ran.exits(0).contains("unknown"));
    assert!(
        ran.stderr.contains("age and rates are unknown: CloudWatch"),
        "{}",
        ran.stderr
    );
    // Where nobody listens, it says so in a sentence.
    let mut command = world.tool().command(&["queue", "stats", "orders"]);
    command.env("AWS_ENDPOINT_URL_CLOUDWATCH", "http://127.0.0.1:9");
    let ran = tokio::task::spawn_blocking(move || Ran::of(command.spawn().unwrap()))
        .await
        .unwrap();
    insta::assert_snapshot!("queue_stats_unreachable", ran.shown());
    let ran = stats(&world, &cloudwatch, &["--no-cloudwatch"]).await;
    assert_eq!((ran.exits(0).contains("unknown"), ran.stderr.as_str()), (true, ""));
    assert_eq!(cloudwatch.take_requests().len(), 2);
}

#[tokio::test]
async fn it_watches_until_ctrl_c_and_tells_the_change() {
    let Some(world) = World::open() else { return };
    let orders = world.queue("orders").await;
    for json in [true, false] {
        let mut arguments = vec!["queue", "stats", "orders", "--watch", "1s", "--no-cloudwatch"];
        arguments.extend(json.then_some("--json"));
        let mut child = world.tool().command(&arguments).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let first = lines.next().unwrap().unwrap();
        world.send(&orders, (0..20).map(|n| Outgoing::new(n.to_string()))).await;
        assert_eq!(orders.describe().await.unwrap().visible, if json { 20 } else { 40 });
        let second = lines.next().unwrap().unwrap();
        if json {
            let (first, second): (Value, Value) = (
                serde_json::from_str(&first).unwrap(),
                serde_json::from_str(&second).unwrap(),
            );
            assert_eq!(
                (&first["queue"]["net_per_s"], &second["dead_letters"]["net_per_s"]),
                (&json!(null), &json!(0.0))
            );
            assert!(second["queue"]["net_per_s"].as_f64().unwrap() > 1.0, "{second}");
        } else {
            assert!(
                first.contains("Z  orders 20 visible, 0 in flight, 0 delayed; orders-dlq 0 visible"),
                "{first}"
            );
            assert!(
                second.contains("Z  orders 40 visible, 0 in flight, 0 delayed, +"),
                "{second}"
            );
        }
        interrupt(child.id());
        assert_eq!(child.wait().unwrap().code(), Some(130));
    }
}

#[tokio::test]
async fn inv12_a_queue_that_is_not_there_and_an_interval_that_is_none() {
    let Some(world) = World::open() else { return };
    let ran = world.tool().run(&["queue", "stats", "nope"]);
    ran.exits(1);
    assert!(ran.stderr.contains("`nope` does not exist"), "{}", ran.stderr);
    let ran = world.tool().run(&["queue", "stats", "--watch", "orders"]);
    ran.exits(2);
    assert!(
        ran.stderr.contains("the queue's name comes before --watch"),
        "{}",
        ran.stderr
    );
}

#[tokio::test]
async fn a_queue_without_dead_letters_stands_alone() {
    let Some(world) = World::open() else { return };
    world.plain_queue("orders", &[]).await;
    let ran = world.tool().run(&["queue", "stats", "orders", "--no-cloudwatch"]);
    assert!(!ran.exits(0).contains("DEAD LETTERS"));
    let ran = world
        .tool()
        .run(&["queue", "stats", "orders", "--no-cloudwatch", "--json"]);
    assert_eq!(ran.json()["dead_letters"], json!(null));
}
