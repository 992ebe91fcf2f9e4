//! What a worker logs of hostile messages, as text and as JSON, with everything switched on.

use redrive::dlq::ENVELOPE_ATTRIBUTE;
use redrive::extract::Json;
use redrive::message::{Attribute, KEY_ATTRIBUTE, Outgoing, TYPE_ATTRIBUTE};
use redrive::testing::{Bench, Fault, Operation};
use redrive::{Context, Failure, Router};

use crate::log::Log;
use crate::{alone, deceives};

/// A line end and a forged event, ANSI and C1 sequences, all that turns the direction of text, and what is not seen.
const EVIL: &str = "\n2026-01-01T00:00:00Z ERROR forged: paid\r\u{1b}[2J\u{1b}]0;owned\u{7}\u{9b}31m\u{7f}\u{85}\u{2028}\u{2029}\
    \u{202e}\u{2066}\u{200f}\u{61c}\u{feff}\t";

/// Only the body holds it, and no log may.
const SECRET: &str = "4111-1111-body-only";

/// `text` as SQS takes it.
fn legal(text: &str) -> String {
    text.chars()
        .filter(|c| matches!(c, '\t' | '\n' | '\r' | ' '..='\u{fffd}'))
        .collect()
}

async fn rejects(context: Context) -> Result<(), Failure> {
    Err(Failure::reject(format!("{EVIL}{}", context.key())).because(format!("evil{EVIL}")))
}

async fn panics() -> Result<(), Failure> {
    panic!("{EVIL}")
}

async fn reads(_: Json<u64>) -> Result<(), Failure> {
    Ok(())
}

/// A result that is too large to be kept, under a key that is told in a warning.
async fn answers() -> Result<String, Failure> {
    Ok("x".repeat(10_000))
}

async fn run() {
    let bench = Bench::new("orders", 7).unwrap();
    let evil = legal(EVIL);
    for kind in ["rejects", "panics", "reads", "answers", &format!("unknown{evil}")] {
        for key in [format!("{kind}{evil}"), format!("{kind}{}", "k\u{9b}".repeat(100_000))] {
            let message = Outgoing::new(format!("{{\"card\": \"{SECRET}\"{evil}"))
                .attribute(KEY_ATTRIBUTE, Attribute::string(key))
                .attribute(TYPE_ATTRIBUTE, Attribute::string(kind))
                .attribute("traceparent", Attribute::string(&evil))
                .attribute("tenant", Attribute::string(&evil));
            bench.send_message(message).await.unwrap();
        }
    }
    for envelope in [
        "no json",
        "{\"attempts\":\"\u{9b}\"}",
        &format!("{{\"key\":\"{}\"}}", "k".repeat(70_000)),
    ] {
        let message = Outgoing::new("{}")
            .attribute(ENVELOPE_ATTRIBUTE, Attribute::string(envelope))
            .attribute(TYPE_ATTRIBUTE, Attribute::string("answers"));
        bench.send_message(message).await.unwrap();
    }
    bench.faults().fail_next(Operation::Write, 2, Fault::After);
    bench.faults().fail_next(Operation::Delete, 2, Fault::Before);
    let router: Router = Router::new()
        .route("rejects", rejects)
        .route("panics", panics)
        .route("reads", reads)
        .route("answers", answers);
    let worker = bench.worker().max_attempts(2).handler(router).build().unwrap();
    bench.run(worker).await.unwrap();
    assert!(bench.dead_letters().len() >= 8, "{}", bench.dead_letters().len());
}

#[tokio::test(start_paused = true)]
async fn no_message_forges_a_line_of_the_log_or_reaches_the_terminal_through_it() {
    let _alone = alone().await;
    let log = Log::default();
    let capturing = log.capture("trace", false);
    run().await;
    drop(capturing);
    let text = log.text();
    assert!(text.lines().count() > 20, "{text}");
    for said in ["a handler failed", "given up", "is not kept", "left aside"] {
        assert!(text.contains(said), "{said} in {text}");
    }
    for line in text.lines() {
        assert!(!line.contains(deceives), "{line:?}");
        let forged = line.starts_with("2026-01-01T00:00:00Z ERROR forged");
        assert!(!forged, "{line}");
        assert!(line.len() < 8_000, "{} bytes: {}", line.len(), &line[..500]);
    }
    assert!(!text.contains(SECRET));
}

#[tokio::test(start_paused = true)]
async fn each_line_of_a_json_log_is_one_event_that_a_terminal_can_show() {
    let _alone = alone().await;
    let log = Log::default();
    let capturing = log.capture("trace", true);
    run().await;
    drop(capturing);
    let text = log.text();
    assert!(text.lines().count() > 20, "{text}");
    for line in text.lines() {
        assert!(!line.contains(deceives), "{line:?}");
        let event: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(event["fields"]["message"].is_string(), "{line}");
    }
    assert!(!text.contains(SECRET));
}
