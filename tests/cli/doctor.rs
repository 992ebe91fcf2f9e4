//! `redrive doctor`.

use crate::localstack;
use crate::tool::Tool;
use crate::world::{TABLE, World};

#[test]
fn it_finds_nothing_wrong_with_what_localstack_up_creates() {
    let Some(servers) = localstack::servers() else { return };
    let ran = Tool::new(&servers, "test").run(&["doctor", "orders", "redrive-inbox"]);
    assert_eq!(ran.exits(0), "ok: nothing to change\n");
}

#[tokio::test]
async fn it_prints_a_line_for_each_finding_and_exits_with_3() {
    let Some(world) = World::open() else { return };
    world.queue("orders").await;
    let tool = world.tool();
    let ran = tool.run(&["doctor", "orders", "--attempts", "50"]);
    let found = ran.exits(3);
    assert!(
        found.starts_with("warning: maxReceiveCount of `orders` is 15; set it to at least 150"),
        "{found}"
    );
    let ran = tool.run(&["doctor", "orders", "--attempts", "50", "--json"]);
    assert_eq!(ran.json()[0]["severity"], "warning");
    insta::assert_snapshot!(
        "doctor_finding",
        tool.run(&["doctor", "orders", "--attempts", "50"]).shown()
    );
}

#[tokio::test]
async fn inv12_a_queue_that_is_not_there_is_named_with_what_to_do() {
    let Some(world) = World::open() else { return };
    world.queue("orders").await;
    world.inbox().await;
    let tool = world.tool();
    tool.run(&["doctor", "orders", TABLE]).exits(0);
    let ran = tool.run(&["doctor", "no-such-queue"]);
    ran.exits(1);
    assert!(
        ran.stderr.contains("no-such-queue") && ran.stderr.contains("check its name"),
        "{}",
        ran.stderr
    );
    let ran = tool.run(&["doctor", "orders", "no-such-table"]);
    ran.exits(1);
    assert!(ran.stderr.contains("no-such-table"), "{}", ran.stderr);
}

#[test]
fn wrong_usage_exits_with_2_and_help_teaches_by_example() {
    let tool = Tool::alone();
    tool.run(&["doctor", "orders", "--attempts", "0"]).exits(2);
    let help = tool.run(&["doctor", "--help"]);
    assert!(help.exits(0).contains("redrive doctor orders redrive-inbox"));
}
