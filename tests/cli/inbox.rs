//! `redrive inbox`.

use std::collections::HashMap;
use std::process::Command;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, AttributeValue, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType,
};
use redrive::DynamoInbox;
use redrive::inbox::{Inbox as _, Status};
use redrive::key::RecordKey;

use crate::gate::Gate;
use crate::tool::Ran;
use crate::world::World;

const HOUR: u64 = 3_600_000;
const DAY: u64 = 24 * HOUR;

/// A table with records, and what is known of them.
struct Shop {
    world: World,
    client: Client,
    /// One of its own, as every record of it is counted.
    table: String,
    now: u64,
}

fn text(text: &str) -> AttributeValue {
    AttributeValue::S(text.to_owned())
}

fn number(number: u64) -> AttributeValue {
    AttributeValue::N(number.to_string())
}

impl Shop {
    async fn open() -> Option<Self> {
        let world = World::open()?;
        let now = world.inbox().await.time().lo;
        let table = world.table();
        let client = Client::new(&world.dynamodb);
        Some(Self {
            world,
            client,
            table,
            now,
        })
    }

    async fn inbox(&self) -> DynamoInbox {
        DynamoInbox::connect(&self.world.dynamodb, &self.table)
            .await
            .expect("the table opens")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.world.tool().command(arguments);
        command.env("REDRIVE_INBOX_TABLE", &self.table);
        command
    }

    /// A record by the names and types of the design, with further attributes.
    async fn put(&self, key: &str, status: &str, lease_until: u64, more: &[(&str, AttributeValue)]) {
        let mut item = HashMap::from([
            ("pk".to_owned(), text(key)),
            ("status".to_owned(), text(status)),
            ("claim_id".to_owned(), text("w-1")),
            ("fencing_token".to_owned(), number(1_700_000_000_000)),
            ("lease_until".to_owned(), number(lease_until)),
            ("message_id".to_owned(), text("m-1")),
            ("first_seen".to_owned(), number(self.now - 3 * HOUR)),
            ("expires_at".to_owned(), number((self.now + 30 * DAY) / 1_000)),
        ]);
        item.extend(more.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        let call = self.client.put_item().table_name(&self.table).set_item(Some(item));
        call.send().await.expect("the item is stored");
    }

    async fn status(&self, key: &str) -> Option<Status> {
        let inbox = self.inbox().await;
        let key = RecordKey::parse(key).expect("a key");
        inbox
            .look(&key)
            .await
            .expect("it is read")
            .and_then(|entry| entry.status())
    }

    /// Some of everything.
    async fn fill(&self) {
        let error = ("last_error", text("gateway timed out after 3000 ms"));
        self.put(
            "orders#stuck",
            "processing",
            self.now - 5 * 60_000,
            &[("attempts", number(2)), error.clone()],
        )
        .await;
        self.put("orders#live", "processing", self.now + HOUR, &[]).await;
        let result = (
            "result",
            AttributeValue::B(Blob::new(br#"{"receipt":"r-7"}"#.as_slice())),
        );
        self.put("orders#done", "completed", self.now - HOUR, &[result]).await;
        let rejected = [
            ("reason", text("attempts_exhausted")),
            ("dlq_sent", AttributeValue::Bool(true)),
            ("attempts", number(5)),
            error,
        ];
        self.put("orders#dead", "rejected", self.now - HOUR, &rejected).await;
        self.put("mail#given-back", "released", self.now - HOUR, &[]).await;
        self.put(
            "mail#edited",
            "Done by hand",
            self.now - HOUR,
            &[
                ("lease_until", text("never")),
                ("first_seen", number(1_795_338_481_007)),
                ("expires_at", number(4_000_000_000)),
            ],
        )
        .await;
        // Time to live leaves alone what ended more than five years ago.
        self.put(
            "mail#old",
            "completed",
            self.now - HOUR,
            &[("expires_at", number(self.now / 1_000 - 6 * 366 * 86_400))],
        )
        .await;
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        Ran::of(self.command(arguments).spawn().expect("the tool starts"))
    }
}

#[tokio::test]
async fn get_tells_all_that_is_known_of_a_key() {
    let Some(shop) = Shop::open().await else { return };
    shop.fill().await;
    insta::assert_snapshot!("inbox_get_stuck", shop.run(&["inbox", "get", "orders#stuck"]).shown());
    insta::assert_snapshot!(
        "inbox_get_completed",
        shop.run(&["inbox", "get", "done", "--consumer", "orders"]).shown()
    );
    insta::assert_snapshot!("inbox_get_rejected", shop.run(&["inbox", "get", "orders#dead"]).shown());
    insta::assert_snapshot!("inbox_get_damaged", shop.run(&["inbox", "get", "mail#edited"]).shown());

    let done = shop.run(&["inbox", "get", "orders#done", "--json"]).json();
    assert_eq!(
        (&done["key"], &done["consumer"], &done["status"]),
        (&"orders#done".into(), &"orders".into(), &"completed".into())
    );
    assert_eq!(done["result"]["format"], "json");
    assert_eq!(done["result"]["value"]["receipt"], "r-7");
    assert_eq!(done["first_seen_at_ms"], shop.now - 3 * HOUR);
    assert_eq!((&done["stuck"], &done["expired"]), (&false.into(), &false.into()));
    let raw = shop.run(&["inbox", "get", "orders#done", "--raw", "result"]);
    assert_eq!(raw.exits(0), r#"{"receipt":"r-7"}"#);
    assert!(
        shop.run(&["inbox", "get", "orders#stuck", "--raw", "result"])
            .exits(1)
            .is_empty()
    );
    let damaged = shop.run(&["inbox", "get", "mail#edited", "--json"]).json();
    assert!(
        damaged["damage"]["why"].as_str().unwrap().contains("`status`"),
        "{damaged}"
    );
    assert_eq!(damaged["damage"]["attributes"]["lease_until"], "\"never\"");
    assert_eq!(damaged["status"], serde_json::Value::Null);
}

#[tokio::test]
async fn a_key_too_long_for_the_table_is_found_by_its_hash() {
    let Some(shop) = Shop::open().await else { return };
    let long = "k".repeat(1_500);
    let stored = RecordKey::parse(&format!("orders#{long}")).unwrap();
    assert!(stored.as_str().contains("#sha256:"), "{stored}");
    shop.put(stored.as_str(), "completed", 0, &[]).await;
    for key in [format!("orders#{long}"), stored.to_string()] {
        assert_eq!(
            shop.run(&["inbox", "get", &key, "--json"]).json()["key"],
            stored.as_str()
        );
    }
}

#[tokio::test]
async fn ls_shows_what_is_looked_for() {
    let Some(shop) = Shop::open().await else { return };
    shop.fill().await;
    insta::assert_snapshot!("inbox_ls", shop.run(&["inbox", "ls"]).shown());
    insta::assert_snapshot!("inbox_ls_stuck", shop.run(&["inbox", "ls", "--stuck"]).shown());
    insta::assert_snapshot!(
        "inbox_ls_limit",
        shop.run(&[
            "inbox",
            "ls",
            "--consumer",
            "orders",
            "--status",
            "rejected",
            "--limit",
            "1"
        ])
        .shown()
    );
    insta::assert_snapshot!(
        "inbox_ls_nothing",
        shop.run(&["inbox", "ls", "--consumer", "nobody"]).shown()
    );
    let keys = |arguments: &[&str]| {
        let mut all = vec!["inbox", "ls", "--json"];
        all.extend(arguments);
        let mut keys: Vec<String> = shop
            .run(&all)
            .json_lines()
            .iter()
            .map(|line| line["key"].as_str().unwrap().to_owned())
            .collect();
        keys.sort();
        keys
    };
    assert_eq!(keys(&[]).len(), 6);
    assert_eq!(keys(&["--expired"]).len(), 7);
    assert_eq!(
        keys(&["--status", "processing,rejected"]),
        ["orders#dead", "orders#live", "orders#stuck"]
    );
    assert_eq!(keys(&["--stuck"]), ["orders#stuck"]);
    assert_eq!(keys(&["--consumer", "mail"]), ["mail#edited", "mail#given-back"]);
    assert_eq!(keys(&["--older-than", "1d"]), [""; 0]);
    assert_eq!(keys(&["--older-than", "1h", "--read-capacity", "5"]).len(), 6);
    assert_eq!(keys(&["--limit", "2"]).len(), 2);
    shop.run(&["inbox", "ls", "--older-than", "soon"]).exits(2);
    shop.run(&["inbox", "ls", "--status", "dead"]).exits(2);
}

#[tokio::test]
async fn release_frees_a_stuck_claim_and_refuses_a_live_one_unless_forced() {
    let Some(shop) = Shop::open().await else { return };
    shop.fill().await;
    insta::assert_snapshot!("inbox_release", shop.run(&["inbox", "release", "orders#stuck"]).shown());
    assert_eq!(shop.status("orders#stuck").await, Some(Status::Released));
    insta::assert_snapshot!(
        "inbox_release_again",
        shop.run(&["inbox", "release", "orders#stuck"]).shown()
    );
    insta::assert_snapshot!(
        "inbox_release_live",
        shop.run(&["inbox", "release", "orders#live"]).shown()
    );
    assert_eq!(shop.status("orders#live").await, Some(Status::Processing));
    let asked = shop.run(&["inbox", "release", "orders#live", "--force"]);
    asked.exits(2);
    assert!(
        asked.stderr.contains("confirmation") && asked.stderr.contains("its lease holds for up to"),
        "{}",
        asked.stderr
    );
    assert_eq!(shop.status("orders#live").await, Some(Status::Processing));
    insta::assert_snapshot!(
        "inbox_release_forced",
        shop.run(&["inbox", "release", "orders#live", "--force", "--yes"])
            .shown()
    );
    assert_eq!(shop.status("orders#live").await, Some(Status::Released));
    insta::assert_snapshot!(
        "inbox_release_completed",
        shop.run(&["inbox", "release", "orders#done"]).shown()
    );
    insta::assert_snapshot!(
        "inbox_release_damaged",
        shop.run(&["inbox", "release", "mail#edited", "--force"]).shown()
    );
    shop.put("orders#live", "processing", shop.now + HOUR, &[]).await;
    let released = shop
        .run(&["inbox", "release", "orders#live", "--force", "--yes", "--json"])
        .json();
    assert_eq!(
        (&released["released"], &released["forced"]),
        (&true.into(), &true.into())
    );
}

#[tokio::test]
async fn the_consumer_of_the_environment_is_that_of_keys_that_do_not_name_one() {
    let Some(shop) = Shop::open().await else { return };
    shop.fill().await;
    let run = |consumer: &str, arguments: &[&str]| {
        let mut command = shop.command(arguments);
        command.env("REDRIVE_CONSUMER", consumer);
        Ran::of(command.spawn().unwrap())
    };
    let key = |ran: Ran| ran.json()["key"].clone();
    assert_eq!(key(run("orders", &["inbox", "get", "done", "--json"])), "orders#done");
    assert_eq!(
        key(run("orders", &["inbox", "get", "mail#given-back", "--json"])),
        "mail#given-back"
    );
    let flag = ["inbox", "get", "given-back", "--consumer", "mail", "--json"];
    assert_eq!(key(run("orders", &flag)), "mail#given-back", "the flag wins");
    let consumers = run("mail", &["inbox", "stats", "--json"]).json()["consumers"].clone();
    assert_eq!(
        (consumers.as_array().unwrap().len(), &consumers[0]["consumer"]),
        (1, &"mail".into())
    );
    let wrong = run("a#b", &["inbox", "get", "done"]);
    wrong.exits(2);
    assert!(wrong.stderr.contains("REDRIVE_CONSUMER=`a#b`"), "{}", wrong.stderr);
    // Set to nothing, it is not set.
    let none = run("", &["inbox", "get", "done"]);
    none.exits(2);
    assert!(none.stderr.contains("does not say whose key it is"), "{}", none.stderr);
    let all = run("", &["inbox", "stats", "--json"]).json()["consumers"].clone();
    assert_eq!(all.as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn forget_lets_a_key_run_again_when_that_is_confirmed() {
    let Some(shop) = Shop::open().await else { return };
    shop.fill().await;
    let asked = shop.run(&["inbox", "forget", "orders#done"]);
    asked.exits(2);
    assert!(asked.stderr.contains("confirmation"), "{}", asked.stderr);
    let remedy = "try: look with: redrive inbox get 'orders#done'; then give --yes";
    assert!(asked.stderr.contains(remedy), "{}", asked.stderr);
    assert_eq!(shop.status("orders#done").await, Some(Status::Completed));
    insta::assert_snapshot!(
        "inbox_forget",
        shop.run(&["inbox", "forget", "orders#done", "--yes"]).shown()
    );
    assert_eq!(shop.status("orders#done").await, None);
    insta::assert_snapshot!(
        "inbox_forget_live",
        shop.run(&["inbox", "forget", "orders#live", "--yes"]).shown()
    );
    let forgotten = shop
        .run(&["inbox", "forget", "orders#live", "--yes", "--force", "--json"])
        .json();
    assert_eq!(forgotten["was"]["status"], "processing");
    assert_eq!(shop.status("orders#live").await, None);
    // Whether a worker holds what was edited by hand cannot be told.
    let damaged = shop.run(&["inbox", "forget", "mail#edited", "--yes"]);
    damaged.exits(1);
    assert!(damaged.stderr.contains("cannot be read"), "{}", damaged.stderr);
    shop.run(&["inbox", "forget", "mail#edited", "--yes", "--force"])
        .exits(0);
    let gone = shop.run(&["inbox", "forget", "mail#edited", "--yes"]);
    gone.exits(1);
}

#[tokio::test]
async fn stats_count_by_consumer_and_status() {
    let Some(shop) = Shop::open().await else { return };
    insta::assert_snapshot!("inbox_stats_empty", shop.run(&["inbox", "stats", "--quiet"]).shown());
    shop.fill().await;
    insta::assert_snapshot!("inbox_stats", shop.run(&["inbox", "stats"]).shown());
    let stats = shop.run(&["inbox", "stats", "--json"]).json();
    let consumers = stats["consumers"].as_array().unwrap();
    assert_eq!(consumers.len(), 2);
    let (mail, orders) = (&consumers[0], &consumers[1]);
    assert_eq!(
        (&mail["consumer"], &mail["damaged"], &mail["expired"]),
        (&"mail".into(), &1.into(), &1.into())
    );
    for status in ["processing", "stuck", "completed", "rejected"] {
        assert_eq!(orders[status], 1, "{status}: {stats}");
    }
    assert_eq!(stats["longest_stuck"]["key"], "orders#stuck");
    assert_eq!(stats["complete"], true);
    let one = shop.run(&["inbox", "stats", "--json", "--consumer", "orders"]).json();
    assert_eq!(one["consumers"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn sweep_reports_claims_that_no_message_can_come_for_and_releases_them_when_told() {
    let Some(shop) = Shop::open().await else { return };
    shop.fill().await;
    // The queue keeps messages for 4 days and its dead-letter queue for 14.
    shop.world.queue("orders").await;
    for (key, days) in [("orders#a", 19), ("orders#b", 40), ("orders#c", 17), ("mail#d", 40)] {
        shop.put(key, "processing", shop.now - days * DAY, &[("attempts", number(1))])
            .await;
    }
    let sweep = ["inbox", "sweep", "--queue", "orders"];
    insta::assert_snapshot!("inbox_sweep", shop.run(&sweep).shown());
    let report = shop.run(&[&sweep[..], &["--json"]].concat());
    assert_eq!(report.code, 3);
    let report = report.json();
    assert_eq!((&report["found"], &report["released"]), (&2.into(), &0.into()));
    assert_eq!(report["older_than_s"], 18 * 24 * 3_600);
    assert_eq!(report["claims"][0]["key"], "orders#b");
    shop.run(&[&sweep[..], &["--release"]].concat()).exits(2);
    assert_eq!(shop.status("orders#b").await, Some(Status::Processing));
    insta::assert_snapshot!(
        "inbox_sweep_release",
        shop.run(&[&sweep[..], &["--release", "--yes"]].concat()).shown()
    );
    for (key, status) in [
        ("orders#a", Status::Released),
        ("orders#b", Status::Released),
        ("orders#c", Status::Processing),
        ("mail#d", Status::Processing),
        ("orders#live", Status::Processing),
    ] {
        assert_eq!(shop.status(key).await, Some(status), "{key}");
    }
    insta::assert_snapshot!("inbox_sweep_nothing", shop.run(&sweep).shown());
    let all = shop
        .run(&["inbox", "sweep", "--older-than", "30d", "--release", "--yes", "--json"])
        .json();
    assert_eq!(
        (&all["found"], &all["released"], &all["races_lost"]),
        (&1.into(), &1.into(), &0.into())
    );
    shop.run(&["inbox", "sweep"]).exits(2);
    shop.run(&["inbox", "sweep", "--queue", "orders", "--older-than", "1d"])
        .exits(2);
}

#[tokio::test]
async fn inv12_bad_input_is_named_with_what_to_do() {
    let Some(shop) = Shop::open().await else { return };
    insta::assert_snapshot!("inbox_no_record", shop.run(&["inbox", "get", "orders#nothing"]).shown());
    insta::assert_snapshot!("inbox_no_consumer", shop.run(&["inbox", "get", "order-1001"]).shown());
    shop.run(&["inbox", "get", "k", "--consumer", "a#b"]).exits(2);
    insta::assert_snapshot!(
        "inbox_no_table",
        shop.run(&["inbox", "ls", "--table", "no-such-table"]).shown()
    );
    let key = |name: &str| {
        let attribute = AttributeDefinition::builder()
            .attribute_name(name)
            .attribute_type(ScalarAttributeType::S);
        let schema = KeySchemaElement::builder().attribute_name(name).key_type(KeyType::Hash);
        (attribute.build().unwrap(), schema.build().unwrap())
    };
    let others = format!("others-{}", shop.world.account());
    let (attribute, schema) = key("id");
    let call = shop
        .client
        .create_table()
        .table_name(&others)
        .billing_mode(BillingMode::PayPerRequest);
    call.attribute_definitions(attribute)
        .key_schema(schema)
        .send()
        .await
        .unwrap();
    for command in ["stats", "ls"] {
        let ran = shop.run(&["inbox", command, "--table", &others]);
        ran.exits(1);
        assert!(
            ran.stderr.contains("`id` (HASH, S)") && ran.stderr.contains("must be `pk`"),
            "{}",
            ran.stderr
        );
    }
    // The variable names the table where the flag does not.
    let mut command = shop.command(&["inbox", "stats"]);
    let ran = Ran::of(command.env("REDRIVE_INBOX_TABLE", &others).spawn().unwrap());
    ran.exits(1);
    assert!(ran.stderr.contains(&others), "{}", ran.stderr);
}

#[tokio::test]
async fn inv12_a_missing_permission_is_named_by_its_action() {
    let Some(shop) = Shop::open().await else { return };
    shop.fill().await;
    let denied = ["Scan", "UpdateItem", "DeleteItem"];
    let gate = Gate::start(&shop.world.servers.dynamodb_url, &denied, 0);
    let run = |arguments: &[&str]| {
        let mut command = shop.command(arguments);
        Ran::of(command.env("AWS_ENDPOINT_URL_DYNAMODB", gate.url()).spawn().unwrap())
    };
    insta::assert_snapshot!("inbox_denied", run(&["inbox", "ls"]).shown());
    for (arguments, action) in [
        (&["inbox", "release", "orders#stuck"][..], "dynamodb:UpdateItem"),
        (&["inbox", "forget", "orders#done", "--yes"], "dynamodb:DeleteItem"),
    ] {
        let ran = run(arguments);
        ran.exits(1);
        assert!(ran.stderr.contains(action), "{}", ran.stderr);
    }
    run(&["inbox", "get", "orders#done"]).exits(0);
}

#[tokio::test]
async fn ctrl_c_ends_a_scan_at_once() {
    let Some(shop) = Shop::open().await else { return };
    // Some hundreds of read units: minutes, at one a second.
    let checkpoint = ("checkpoint", AttributeValue::B(Blob::new(vec![7; 16_000])));
    for n in 0..120 {
        shop.put(
            &format!("orders#k{n}"),
            "released",
            0,
            std::slice::from_ref(&checkpoint),
        )
        .await;
    }
    let mut command = shop.command(&["inbox", "ls", "--read-capacity", "1", "--json"]);
    let mut child = command.spawn().unwrap();
    let mut lines = std::io::BufReader::new(child.stdout.take().unwrap());
    let mut first = String::new();
    std::io::BufRead::read_line(&mut lines, &mut first).unwrap();
    assert!(first.contains("orders#k"), "{first}");
    let killed = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status()
        .unwrap();
    assert!(killed.success());
    // What was printed meanwhile is read, so that it is not that which ends it.
    std::io::copy(&mut lines, &mut std::io::sink()).unwrap();
    let ran = Ran::of(child);
    assert_eq!(ran.code, 130, "{}", ran.stderr);
    assert!(ran.stderr.contains("interrupted"), "{}", ran.stderr);
}
