//! The orders example as processes on SQS and DynamoDB servers: two workers, `kill -9`, SIGTERM.
#![cfg(all(feature = "aws", unix))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "support/aws.rs"]
mod aws;
#[path = "support/aws_lab.rs"]
mod aws_lab;
#[path = "support/localstack.rs"]
mod localstack;
#[path = "support/orders.rs"]
mod program;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

use redrive::clock::Clock;
use redrive::extract::Envelope;
use redrive::inbox::Inbox as _;
use redrive::queue::Queue as _;

use aws_lab::{Lab, Queues, Setup, is_empty, take_all, until};
use program::{Ledger, Program, Signal};

const ORDERS: usize = 5_000;

/// Handlers that one worker process runs at once.
const SLOTS: usize = 32;

/// What is sent, and what must become of it.
struct Orders {
    lines: String,
    messages: usize,
    /// Amount by key.
    to_be_charged: BTreeMap<String, u64>,
    /// Key and reason.
    poison: BTreeSet<(String, String)>,
}

/// Orders as the sample file has them: of each hundred one with a card that is always declined, one whose body is no JSON,
/// one of a type that no route is for, and three that are sent twice.
fn orders() -> Orders {
    let mut orders = Orders {
        lines: String::new(),
        messages: 0,
        to_be_charged: BTreeMap::new(),
        poison: BTreeSet::new(),
    };
    for n in 0..ORDERS {
        let key = format!("order-{n}");
        let cents = 100 + 7 * n as u64;
        let order = |card: &str| format!(r#"{{"id":"{n}","amount_cents":{cents},"card":"{card}"}}"#);
        let (kind, body, copies, poison) = match n % 100 {
            17 => ("order.card", order("tok_maestro_1"), 1, Some("card_declined")),
            42 => (
                "order.card",
                format!(r#""{{'id': '{n}', 'amount_cents'""#),
                1,
                Some("malformed"),
            ),
            71 => ("order.barter", order("tok_visa_1"), 1, Some("unroutable")),
            5 | 50 | 95 => ("order.card", order("tok_visa_1"), 2, None),
            _ => ("order.card", order("tok_visa_1"), 1, None),
        };
        for _ in 0..copies {
            writeln!(orders.lines, r#"{{"key":"{key}","type":"{kind}","body":{body}}}"#).unwrap();
            orders.messages += 1;
        }
        match poison {
            Some(reason) => drop(orders.poison.insert((key, reason.to_owned()))),
            None => drop(orders.to_be_charged.insert(key, cents)),
        }
    }
    orders
}

/// Queues of a test's own, and programs that use them.
struct Stage {
    lab: Lab,
    queues: Queues,
    table: String,
    ledger: Ledger,
}

impl Stage {
    async fn set(what: &str, visibility_secs: u32) -> Option<Self> {
        let lab = Lab::open()?;
        let setup = Setup {
            visibility_secs,
            ..Setup::default()
        };
        let queues = lab.queues(what, &setup).await;
        let table = Lab::unique(what);
        lab.inbox(&table).await;
        let ledger = Ledger::new(&Lab::unique(what));
        Some(Self {
            lab,
            queues,
            table,
            ledger,
        })
    }

    fn program(&self, arguments: &[&str]) -> Program {
        let name = &self.queues.source.attributes().name;
        Program::new(arguments)
            .set("AWS_ENDPOINT_URL_SQS", &self.lab.servers.sqs_url)
            .set("AWS_ENDPOINT_URL_DYNAMODB", &self.lab.servers.dynamodb_url)
            .set("AWS_REGION", "us-east-1")
            .set("AWS_ACCESS_KEY_ID", "test")
            .set("AWS_SECRET_ACCESS_KEY", "test")
            .set("ORDERS_QUEUE", name)
            .set("ORDERS_TABLE", &self.table)
            .set("ORDERS_LEDGER", self.ledger.path())
            .set("REDRIVE_LONG_POLL", "1s")
    }

    /// A worker process that has started.
    async fn worker(&self, gateway_ms: &str, concurrency: usize) -> Program {
        let worker = self
            .program(&["work"])
            .set("ORDERS_GATEWAY_MS", gateway_ms)
            .set("REDRIVE_CONCURRENCY", &concurrency.to_string())
            .start();
        worker.said("working").await;
        worker
    }

    /// The orders that are charged so far.
    fn charges(&self) -> Vec<program::Line> {
        let ledger = self.ledger.read();
        ledger.into_iter().filter(program::Line::is_charge).collect()
    }

    /// Sends card orders of these ids.
    async fn send(&self, ids: std::ops::Range<usize>) {
        let mut lines = String::new();
        for id in ids {
            let body = format!(r#"{{"id":"{id}","amount_cents":100,"card":"tok_visa_1"}}"#);
            writeln!(lines, r#"{{"key":"order-{id}","type":"order.card","body":{body}}}"#).unwrap();
        }
        let ended = self.program(&["produce", "-"]).run(&lines).await;
        assert!(ended.status.success(), "{}", ended.shown());
    }
}

#[tokio::test]
async fn inv01_each_order_is_charged_once_though_one_of_two_workers_is_killed_and_the_dlq_holds_exactly_the_poison() {
    let Some(stage) = Stage::set("orders", 10).await else {
        return;
    };
    let orders = orders();
    // Its time is what dead letters are dated by.
    let inbox = stage.lab.inbox(&stage.table).await;
    let mut victim = stage.worker("20", SLOTS).await;
    let survivor = stage.worker("20", SLOTS).await;
    let sent = stage.program(&["produce", "-"]).run(&orders.lines).await;
    assert!(sent.status.success(), "{}", sent.shown());
    assert!(
        sent.stdout.contains(&format!("{} orders sent", orders.messages)),
        "{}",
        sent.shown()
    );

    // Half way, and just when the victim has an order charged that it has not recorded: the entry is young.
    let mut seen = 0;
    until("half of the orders are charged, the last by the victim", async || {
        let ledger = stage.ledger.read();
        let fresh = ledger.len() > seen;
        seen = ledger.len();
        let charges = ledger.iter().filter(|line| line.is_charge()).count();
        fresh && charges >= orders.to_be_charged.len() / 2 && ledger.last().is_some_and(|line| line.pid == victim.id())
    })
    .await;
    victim.signal(Signal::Kill);
    let killed_at = (inbox.time().lo, inbox.time().hi + 1_000);
    assert_eq!(victim.ended().await.signal(), Some(Signal::Kill.number()));
    let restarted = stage.worker("20", SLOTS).await;

    until("the queue is empty", async || is_empty(&stage.queues.source).await).await;
    for mut worker in [survivor, restarted] {
        worker.signal(Signal::Terminate);
        let ended = worker.ended().await;
        assert!(ended.status.success(), "{}", ended.shown());
    }

    let ledger = stage.ledger.read();
    let mut charged: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for line in ledger.iter().filter(|line| line.is_charge()) {
        charged.entry(line.key.clone()).or_default().push(line.amount_cents);
    }
    let expected: BTreeMap<String, Vec<u64>> = orders
        .to_be_charged
        .iter()
        .map(|(key, &cents)| (key.clone(), vec![cents]))
        .collect();
    assert_eq!(
        charged, expected,
        "every order is charged once, and none that must not be"
    );

    // What the key had to make up for: requests beyond the first, by runs that the killed worker did not record. The inbox
    // keeps all others away.
    let repeated = ledger.len() - 2 * charged.len();
    let killed = victim.id();
    let mut first: BTreeMap<&str, u32> = BTreeMap::new();
    for line in ledger.iter().filter(|line| !line.is_charge()) {
        let before = *first.entry(&line.key).or_insert(line.pid);
        assert!(
            before == killed || before == line.pid && is_the_only_request(&ledger, &line.key),
            "{} was asked for again although the worker that ran it was alive",
            line.key
        );
    }
    assert!(repeated <= 4 * SLOTS, "{repeated} orders were run again");
    eprintln!(
        "{repeated} of {} orders were asked for twice and charged once",
        expected.len()
    );

    let mut dead: BTreeMap<(String, String), Vec<Envelope>> = BTreeMap::new();
    for letter in take_all(&stage.queues.dead, orders.poison.len()).await {
        let envelope = Envelope::of(&letter.message).expect("an envelope");
        let poison = (envelope.key.clone(), envelope.reason.clone());
        dead.entry(poison).or_default().push(envelope);
    }
    assert_eq!(dead.keys().cloned().collect::<BTreeSet<_>>(), orders.poison);
    // A dead letter that the killed worker had sent and not recorded is sent once more: none is lost for it.
    for (poison, letters) in dead.iter().filter(|(_, letters)| letters.len() > 1) {
        let sent: BTreeSet<u64> = letters.iter().map(|letter| letter.dead_at_ms).collect();
        let messages: BTreeSet<&str> = letters.iter().map(|letter| &*letter.message_id).collect();
        assert!(
            messages.len() == 1
                && sent.len() == 2
                && sent.first() <= Some(&killed_at.1)
                && sent.last() >= Some(&killed_at.0),
            "{poison:?} has dead letters beyond the one that the kill left unrecorded: {letters:#?}"
        );
    }
}

fn is_the_only_request(ledger: &[program::Line], key: &str) -> bool {
    ledger
        .iter()
        .filter(|line| line.key == key && !line.is_charge())
        .count()
        == 1
}

#[tokio::test]
async fn inv08_sigterm_lets_the_running_finish_hands_the_rest_back_and_ends_in_time() {
    // Visible again only after a minute by itself: whatever comes sooner was handed back.
    let Some(stage) = Stage::set("sigterm", 60).await else {
        return;
    };
    let clock = Clock::system();
    stage.send(0..12).await;
    // A charge is in the books after half of the time it takes: both run on for 3 s.
    let mut worker = stage.worker("6000", 2).await;
    until("both slots run and more is held", async || {
        stage.charges().len() == 2 && stage.queues.source.describe().await.unwrap().in_flight > 2
    })
    .await;
    let asked = clock.now();
    worker.signal(Signal::Terminate);
    let ended = worker.ended().await;
    let took = clock.now().saturating_duration_since(asked);
    assert!(ended.status.success(), "{}", ended.shown());
    assert!(took < Duration::from_secs(20), "{took:?}: {}", ended.shown());
    assert!(ended.stderr.contains("drained"), "{}", ended.shown());

    let charged = stage.charges();
    assert_eq!(charged.len(), 2, "the two that ran finished: {}", ended.shown());
    let left = take_all(&stage.queues.source, 10).await;
    assert_eq!(left.len(), 10);
    let took = clock.now().saturating_duration_since(asked);
    assert!(
        took < Duration::from_secs(40),
        "{took:?} until what waited was visible again"
    );
    for delivery in left {
        let key = delivery.message.attribute("Idempotency-Key").unwrap();
        assert!(charged.iter().all(|line| line.key != key), "{key} was charged and kept");
    }
}

#[tokio::test]
async fn inv08_a_second_sigterm_ends_the_worker_at_once() {
    let Some(stage) = Stage::set("sigterm-twice", 60).await else {
        return;
    };
    let clock = Clock::system();
    stage.send(0..2).await;
    // A charge is in the books after half of the time it takes: both run on for 15 s.
    let mut worker = stage.worker("30000", 2).await;
    until("both run", async || stage.charges().len() == 2).await;
    worker.signal(Signal::Terminate);
    worker.said("draining").await;
    let asked = clock.now();
    worker.signal(Signal::Terminate);
    let ended = worker.ended().await;
    let took = clock.now().saturating_duration_since(asked);
    assert!(ended.status.success(), "{}", ended.shown());
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert!(ended.stderr.contains("stopped at once"), "{}", ended.shown());
    let held = stage.queues.source.describe().await.unwrap().in_flight;
    assert_eq!(held, 2, "what was held comes back by its visibility timeout");
}

#[tokio::test]
async fn inv12_what_cannot_work_is_named_with_what_to_do() {
    let Some(stage) = Stage::set("orders-wrong", 10).await else {
        return;
    };
    let no_queue = Lab::unique("no-such-queue");
    let no_table = Lab::unique("no-such-table");
    let cases = [
        (
            stage.program(&["work"]).set("ORDERS_QUEUE", &no_queue),
            vec![&*no_queue, "localstack/up"],
        ),
        (
            stage.program(&["work"]).set("ORDERS_TABLE", &no_table),
            vec![&*no_table, "localstack/up"],
        ),
        (
            stage
                .program(&["work"])
                .set("AWS_ENDPOINT_URL_SQS", "http://127.0.0.1:9"),
            vec!["127.0.0.1:9", "localstack/up"],
        ),
        (
            stage.program(&["work"]).set("REDRIVE_CONCURRENCY", "many"),
            vec!["REDRIVE_CONCURRENCY", "many"],
        ),
        (
            stage.program(&["work"]).set("ORDERS_GATEWAY_MS", "soon"),
            vec!["ORDERS_GATEWAY_MS", "soon"],
        ),
        (
            stage.program(&["work"]).set("ORDERS_LEDGER", "/no/such/folder/ledger"),
            vec!["/no/such/folder/ledger"],
        ),
        (stage.program(&["produce", "/no/such/orders"]), vec!["/no/such/orders"]),
        (stage.program(&["produce"]), vec!["usage: orders"]),
        (stage.program(&[]), vec!["usage: orders"]),
        (stage.program(&["--fast"]), vec!["--fast", "usage: orders"]),
        (Program::new(&["work"]), vec!["AWS_REGION", "localstack/up"]),
    ];
    for (program, words) in cases {
        let ended = program.run("").await;
        assert!(!ended.status.success(), "{}", ended.shown());
        for word in words {
            assert!(ended.stderr.contains(word), "`{word}` is not said:\n{}", ended.shown());
        }
    }
    let lines = "{\"key\":\"k\",\"body\":1}\n{\"key\":\"k\"}\n";
    let ended = stage.program(&["produce", "-"]).run(lines).await;
    assert!(!ended.status.success(), "{}", ended.shown());
    for word in ["line 2", "body", "1 before it were sent"] {
        assert!(ended.stderr.contains(word), "`{word}` is not said:\n{}", ended.shown());
    }
}

#[tokio::test]
async fn without_aws_variables_the_same_orders_run_on_the_embedded_backends() {
    let mut lines = String::new();
    for (id, card) in [
        (1, "tok_visa_1"),
        (2, "tok_maestro_1"),
        (1, "tok_visa_1"),
        (3, "tok_amex_1"),
    ] {
        let body = format!(r#"{{"id":"{id}","amount_cents":100,"card":"{card}"}}"#);
        writeln!(lines, r#"{{"key":"order-{id}","type":"order.card","body":{body}}}"#).unwrap();
    }
    let ended = Program::new(&["-"]).run(&lines).await;
    assert!(ended.status.success(), "{}", ended.shown());
    let row = |what: &str| {
        let line = ended.stdout.lines().find(|line| line.starts_with(what));
        let count = line.and_then(|line| line.split_whitespace().last()?.parse::<u64>().ok());
        count.unwrap_or_else(|| panic!("no row `{what}`: {}", ended.shown()))
    };
    assert_eq!(
        (row("sent"), row("completed"), row("duplicates")),
        (4, 2, 1),
        "{}",
        ended.shown()
    );
    assert_eq!(
        (row("  card_declined"), row("charges"), row("cents")),
        (1, 2, 200),
        "{}",
        ended.shown()
    );
}
