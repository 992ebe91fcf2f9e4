//! `redrive doctor`.

use aws_sdk_dynamodb::types::TimeToLiveSpecification;
use redrive::message::Outgoing;
use redrive::queue::Queue as _;
use serde_json::Value;

use crate::gate::Gate;
use crate::localstack;
use crate::tool::{Ran, Tool};
use crate::world::World;

/// The codes of the findings of a severity.
fn codes(json: &Value, severity: &str) -> Vec<String> {
    let findings = json.as_array().unwrap().iter();
    findings
        .filter(|finding| finding["severity"] == severity)
        .map(|finding| finding["code"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn it_finds_nothing_wrong_with_what_localstack_up_creates() {
    let Some(servers) = localstack::servers() else { return };
    let ran = Tool::new(&servers, "test").run(&["doctor", "orders", "redrive-inbox"]);
    assert!(ran.exits(0).ends_with("ok: nothing to change\n"), "{}", ran.stdout);
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
    assert_eq!(ran.json()[0]["code"], "max_receive_count");
    insta::assert_snapshot!(
        "doctor_finding",
        tool.run(&["doctor", "orders", "--attempts", "50"]).shown()
    );
    tool.run(&["doctor", "orders", "--attempts", "50", "--fail-on", "problem"])
        .exits(0);
}

#[tokio::test]
async fn what_it_tries_has_no_effect() {
    let Some(world) = World::open() else { return };
    for name in ["orders", "orders.fifo"] {
        let queue = world.queue(name).await;
        let table = format!("inbox-{}", world.account());
        redrive::DynamoInbox::create_table(&world.dynamodb, &table)
            .await
            .unwrap();
        let inbox = redrive::DynamoInbox::connect(&world.dynamodb, &table).await.unwrap();
        let mut message = Outgoing::new("{}");
        if name.ends_with(".fifo") {
            message.group_id = Some("g".into());
            message.deduplication_id = Some("d".into());
        }
        world.send(&queue, [message]).await;
        let ran = world.tool().run(&["doctor", name, &table, "--all", "--attempts", "1"]);
        assert!(!ran.exits(0).contains("denied"), "{}", ran.stdout);
        if name == "orders" {
            insta::assert_snapshot!("doctor_all", ran.shown());
        }
        let now = queue.describe().await.unwrap();
        assert_eq!((now.visible, now.in_flight), (1, 0), "{name}");
        let dead = queue.dead_letter_queue().unwrap().describe().await.unwrap();
        assert_eq!((dead.visible, dead.in_flight), (0, 0), "{name}");
        let mut items = 0;
        let scan = redrive::inbox::InboxScan::new().with_expired();
        let count = |page: redrive::inbox::InboxPage| {
            items += page.scanned;
            std::ops::ControlFlow::Continue(())
        };
        inbox.scan(&scan, count).await.unwrap();
        assert_eq!(items, 0);
    }
}

#[tokio::test]
async fn each_denied_action_is_a_problem_that_names_it_and_the_arn() {
    let Some(world) = World::open() else { return };
    let table = world.table();
    let table = table.as_str();
    world.queue("orders").await;
    world.inbox().await;
    let sqs = Gate::start(
        &world.servers.sqs_url,
        &["DeleteMessage", "ChangeMessageVisibility", "SendMessage"],
        0,
    );
    let denied = ["GetItem", "PutItem", "UpdateItem", "PartiQLInsert"];
    let dynamodb = Gate::start(&world.servers.dynamodb_url, &denied, 0);
    let run = |more: &[&str]| {
        let mut command = world.tool().command(&[&["doctor", "orders", table], more].concat());
        command
            .env("AWS_ENDPOINT_URL_SQS", sqs.url())
            .env("AWS_ENDPOINT_URL_DYNAMODB", dynamodb.url());
        Ran::of(command.spawn().unwrap())
    };
    insta::assert_snapshot!("doctor_denied", run(&[]).shown());
    let json = run(&["--json", "--all"]).json();
    assert_eq!(codes(&json, "problem"), ["permission_denied"; 7], "{json}");
    let texts: Vec<&str> = json
        .as_array()
        .unwrap()
        .iter()
        .filter(|finding| finding["severity"] == "problem")
        .filter_map(|finding| finding["text"].as_str())
        .collect();
    for (action, resource) in [
        ("sqs:DeleteMessage", ":orders"),
        ("sqs:ChangeMessageVisibility", ":orders"),
        ("sqs:SendMessage", ":orders-dlq"),
        ("dynamodb:GetItem", ":table/redrive-inbox"),
        ("dynamodb:PutItem", ":table/redrive-inbox"),
        ("dynamodb:UpdateItem", ":table/redrive-inbox"),
        ("dynamodb:PartiQLInsert", ":table/redrive-inbox"),
    ] {
        let told = texts
            .iter()
            .any(|text| text.contains(action) && text.contains(resource));
        assert!(told, "{action} on {resource}: {texts:#?}");
    }
    assert!(json.to_string().contains("dynamodb:PartiQLUpdate on arn"), "{json}");
}

#[tokio::test]
async fn a_queue_that_may_not_be_looked_at_is_a_finding() {
    let Some(world) = World::open() else { return };
    world.queue("orders").await;
    let gate = Gate::start(&world.servers.sqs_url, &["GetQueueAttributes"], 0);
    let mut command = world.tool().command(&["doctor", "orders", "--json"]);
    let ran = Ran::of(command.env("AWS_ENDPOINT_URL_SQS", gate.url()).spawn().unwrap());
    assert_eq!(ran.code, 3, "{}", ran.stderr);
    let json = ran.json();
    assert_eq!(codes(&json, "problem"), ["queue_not_opened"]);
    assert!(
        json[0]["text"].as_str().unwrap().contains("sqs:GetQueueAttributes"),
        "{json}"
    );
}

#[tokio::test]
async fn a_clock_that_is_off_is_found() {
    let Some(world) = World::open() else { return };
    world.queue("orders").await;
    for (shift_s, severity, side) in [
        (-600, "problem", "ahead of"),
        (120, "warning", "behind"),
        (5, "ok", "agrees"),
    ] {
        let gate = Gate::start(&world.servers.sqs_url, &[], shift_s);
        let mut command = world.tool().command(&["doctor", "orders", "--json", "--all"]);
        let ran = Ran::of(command.env("AWS_ENDPOINT_URL_SQS", gate.url()).spawn().unwrap());
        let json = ran.json();
        let clock = json
            .as_array()
            .unwrap()
            .iter()
            .find(|finding| finding["code"] == "clock_skew")
            .unwrap();
        assert_eq!(clock["severity"], severity, "{clock}");
        assert!(clock["text"].as_str().unwrap().contains(side), "{clock}");
    }
}

#[tokio::test]
async fn queues_that_redrive_in_a_circle_are_found() {
    let Some(world) = World::open() else { return };
    let arn = |name: &str, of: &redrive::SqsQueue| of.attributes().arn.replace(":c", &format!(":{name}"));
    let policy = |arn: &str| format!(r#"{{"deadLetterTargetArn":"{arn}","maxReceiveCount":15}}"#);
    let c = world.plain_queue("c", &[("MessageRetentionPeriod", "1209600")]).await;
    let to_c = policy(&arn("c", &c));
    world
        .plain_queue("b", &[("MessageRetentionPeriod", "1209600"), ("RedrivePolicy", &to_c)])
        .await;
    let to_b = policy(&arn("b", &c));
    world.plain_queue("a", &[("RedrivePolicy", &to_b)]).await;
    let found = world.tool().run(&["doctor", "a", "--json"]).json();
    assert_eq!(codes(&found, "warning"), ["redrive_chain"], "{found}");
    let client = aws_sdk_sqs::Client::new(&world.sqs);
    let set = async |name: &str, policy: String| {
        let url = world.open_queue(name).await.attributes().url.clone();
        let call = client.set_queue_attributes().queue_url(url);
        call.attributes("RedrivePolicy".into(), policy).send().await.unwrap();
    };
    set("c", policy(&arn("a", &c))).await;
    let found = world.tool().run(&["doctor", "a", "--json"]).json();
    assert_eq!(codes(&found, "problem"), ["redrive_loop"], "{found}");
    assert!(found[0]["text"].as_str().unwrap().contains("a → b → c → a"), "{found}");
    // Two that redrive to each other are told once.
    set("b", policy(&arn("a", &c))).await;
    let found = world.tool().run(&["doctor", "a", "--json"]).json();
    assert_eq!(codes(&found, "problem"), ["redrive_loop"], "{found}");
}

#[tokio::test]
async fn policies_and_limits_that_do_not_fit_are_found() {
    let Some(world) = World::open() else { return };
    let dead = world
        .plain_queue(
            "dead",
            &[
                ("MessageRetentionPeriod", "86400"),
                ("MaximumMessageSize", "2048"),
                ("KmsMasterKeyId", "alias/ours"),
            ],
        )
        .await;
    let policy = format!(
        r#"{{"deadLetterTargetArn":"{}","maxReceiveCount":15}}"#,
        dead.attributes().arn
    );
    world
        .plain_queue("orders", &[("RedrivePolicy", &policy), ("VisibilityTimeout", "2")])
        .await;
    let client = aws_sdk_sqs::Client::new(&world.sqs);
    let call = client.set_queue_attributes().queue_url(&dead.attributes().url);
    let deny = r#"{"redrivePermission":"denyAll"}"#;
    call.attributes("RedriveAllowPolicy".into(), deny).send().await.unwrap();
    insta::assert_snapshot!("doctor_many", world.tool().run(&["doctor", "orders"]).shown());
    let found = world.tool().run(&["doctor", "orders", "--json"]).json();
    let problems = codes(&found, "problem");
    for code in ["dead_letter_retention", "message_size", "redrive_allow"] {
        assert!(problems.iter().any(|known| known == code), "{code}: {found}");
    }
    assert!(
        codes(&found, "info").iter().any(|known| known == "encryption"),
        "{found}"
    );
    assert!(
        codes(&found, "warning")
            .iter()
            .any(|known| known == "visibility_timeout"),
        "{found}"
    );
    // A worker that cannot be made is a finding, too.
    world.plain_queue("hasty", &[("VisibilityTimeout", "0")]).await;
    let found = world.tool().run(&["doctor", "hasty", "--json"]).json();
    assert_eq!(codes(&found, "problem"), ["worker_not_built"], "{found}");
}

#[tokio::test]
async fn inv12_what_is_not_there_is_named_with_what_to_do() {
    let Some(world) = World::open() else { return };
    let table = world.table();
    let table = table.as_str();
    world.queue("orders").await;
    world.inbox().await;
    let tool = world.tool();
    tool.run(&["doctor", "orders", table]).exits(0);
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
    let ran = tool.run(&["doctor", "not a queue"]);
    ran.exits(1);

    let off = TimeToLiveSpecification::builder()
        .enabled(false)
        .attribute_name("expires_at")
        .build()
        .unwrap();
    let client = aws_sdk_dynamodb::Client::new(&world.dynamodb);
    let table = format!("inbox-{}", world.account());
    redrive::DynamoInbox::create_table(&world.dynamodb, &table)
        .await
        .unwrap();
    let call = client.update_time_to_live().table_name(&table);
    call.time_to_live_specification(off).send().await.unwrap();
    let found = tool.run(&["doctor", "orders", &table, "--json"]);
    assert_eq!(found.code, 3);
    assert_eq!(codes(&found.json(), "problem"), ["inbox_not_opened"]);
}

#[test]
fn wrong_usage_exits_with_2_and_help_teaches_by_example() {
    let tool = Tool::alone();
    tool.run(&["doctor", "orders", "--attempts", "0"]).exits(2);
    let help = tool.run(&["doctor", "--help"]);
    assert!(help.exits(0).contains("redrive doctor orders redrive-inbox"));
}
