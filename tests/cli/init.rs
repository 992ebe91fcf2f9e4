//! `redrive init`.

use redrive::queue::Queue as _;
use serde_json::Value;

use crate::tool::Ran;
use crate::world::World;

/// The tool in an account whose inbox table has a name of its own.
fn run(world: &World, arguments: &[&str]) -> Ran {
    let mut command = world.tool().command(arguments);
    let child = command.env("REDRIVE_INBOX_TABLE", world.table()).spawn();
    Ran::of(child.expect("the tool starts"))
}

fn states(json: &Value) -> Vec<(String, String, String)> {
    let text = |item: &Value, field: &str| item[field].as_str().unwrap().to_owned();
    let items = json["items"].as_array().unwrap().iter();
    items
        .map(|item| (text(item, "name"), text(item, "setting"), text(item, "state")))
        .collect()
}

#[tokio::test]
async fn it_makes_all_that_a_worker_needs_and_says_so_the_second_time() {
    let Some(world) = World::open() else { return };
    insta::assert_snapshot!("init_dry_run", run(&world, &["init", "orders", "--dry-run"]).shown());
    run(&world, &["doctor", "orders"]).exits(1);
    insta::assert_snapshot!("init", run(&world, &["init", "orders"]).shown());
    insta::assert_snapshot!("init_again", run(&world, &["init", "orders"]).shown());
    let again = run(&world, &["init", "orders", "--json"]);
    assert_eq!(again.code, 0);
    let again = again.json();
    assert_eq!(again["differs"], false);
    assert!(
        states(&again).iter().all(|(_, _, state)| state == "already so"),
        "{again}"
    );

    let orders = world.open_queue("orders").await;
    let dead = world.open_queue("orders-dlq").await;
    let policy = orders.attributes().redrive.clone().unwrap();
    assert_eq!(
        (policy.dead_letter_arn, policy.max_receive_count),
        (dead.attributes().arn.clone(), 15)
    );
    assert_eq!(orders.attributes().retention.as_secs(), 4 * 24 * 3_600);
    assert_eq!(dead.attributes().retention.as_secs(), 14 * 24 * 3_600);
    let allow = dead.settings().await.unwrap().redrive_allow;
    assert!(
        allow.admits(&orders.attributes().arn) && !allow.admits(&dead.attributes().arn),
        "{allow:?}"
    );
    // What it says to do next finds nothing.
    run(&world, &["doctor", "orders", &world.table()]).exits(0);
}

#[tokio::test]
async fn a_fifo_queue_has_a_fifo_dead_letter_queue() {
    let Some(world) = World::open() else { return };
    let table = format!("inbox-eu-{}", world.account());
    insta::assert_snapshot!(
        "init_fifo",
        run(
            &world,
            &[
                "init",
                "orders",
                "--fifo",
                "--visibility",
                "2m",
                "--dlq",
                "orders-dead",
                "--table",
                &table
            ]
        )
        .shown()
    );
    let orders = world.open_queue("orders.fifo").await;
    assert!(
        orders
            .attributes()
            .redrive
            .as_ref()
            .unwrap()
            .dead_letter_arn
            .ends_with(":orders-dead.fifo")
    );
    assert_eq!(orders.attributes().visibility_timeout.as_secs(), 120);
    run(&world, &["doctor", "orders.fifo", &table]).exits(0);
    run(&world, &["init", "orders.fifo", "--dlq", "orders-dead", "--no-table"]).exits(0);
}

#[tokio::test]
async fn what_differs_is_shown_and_changed_only_when_told() {
    let Some(world) = World::open() else { return };
    let shared = world
        .plain_queue("shared-dead", &[("MessageRetentionPeriod", "345600")])
        .await;
    let policy = |arn: &str| format!(r#"{{"deadLetterTargetArn":"{arn}","maxReceiveCount":3}}"#);
    let to_shared = policy(&shared.attributes().arn);
    world.plain_queue("mail", &[("RedrivePolicy", &to_shared)]).await;
    world
        .plain_queue("orders", &[("RedrivePolicy", &to_shared), ("VisibilityTimeout", "60")])
        .await;
    let wanted = ["init", "orders", "--visibility", "30s", "--max-receive-count", "15"];
    insta::assert_snapshot!("init_differs", run(&world, &wanted).shown());
    assert_eq!(
        world
            .open_queue("orders")
            .await
            .attributes()
            .visibility_timeout
            .as_secs(),
        60
    );
    let json = run(&world, &[&wanted[..], &["--json"]].concat()).json();
    assert_eq!(json["differs"], true);
    let differing: Vec<String> = states(&json)
        .into_iter()
        .filter(|(_, _, state)| state == "differs")
        .map(|(name, setting, _)| format!("{name} {setting}"))
        .collect();
    assert_eq!(
        differing,
        [
            "shared-dead retention",
            "shared-dead redrive-allow policy",
            "orders visibility timeout",
            "orders redrive policy"
        ]
    );
    insta::assert_snapshot!(
        "init_update",
        run(&world, &[&wanted[..], &["--update"]].concat()).shown()
    );
    let orders = world.open_queue("orders").await;
    assert_eq!(orders.attributes().visibility_timeout.as_secs(), 30);
    assert_eq!(orders.attributes().redrive.as_ref().unwrap().max_receive_count, 15);
    // The queue that used it before may go on.
    let allow = world
        .open_queue("shared-dead")
        .await
        .settings()
        .await
        .unwrap()
        .redrive_allow;
    let mail = world.open_queue("mail").await;
    assert!(
        allow.admits(&mail.attributes().arn) && allow.admits(&orders.attributes().arn),
        "{allow:?}"
    );
    run(&world, &[&wanted[..], &["--update"]].concat()).exits(0);
    // What is not asked for is left as it is.
    let json = run(&world, &["init", "orders", "--json"]).json();
    assert_eq!(json["differs"], false, "{json}");
}

#[tokio::test]
async fn inv12_what_cannot_be_made_is_refused_before_anything_is() {
    let Some(world) = World::open() else { return };
    for (arguments, said) in [
        (&["init", "or ders"][..], "is not allowed"),
        (&["init", "orders", "--dlq", "orders"], "round for ever"),
        (&["init", "orders", "--dlq", "dead.fifo"], "FIFO"),
        (&["init", "orders", "--retention", "20d"], "14 days"),
        (&["init", "orders", "--visibility", "13h"], "12 h"),
        (&["init", "orders", "--table", "t1"], "t1"),
        (&["init", "orders", "--table", "in box"], "in box"),
    ] {
        let ran = run(&world, arguments);
        ran.exits(1);
        assert!(ran.stderr.contains(said), "{}", ran.stderr);
    }
    run(&world, &["init", "orders", "--visibility", "long"]).exits(2);
    run(&world, &["doctor", "orders"]).exits(1);
    let queues = run(&world, &["queue", "ls", "--json"]);
    assert!(!queues.exits(0).contains("orders"), "{}", queues.stdout);
}
