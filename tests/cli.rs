//! The operator's tool, run as a person would, on the local servers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "support/localstack.rs"]
mod localstack;

use std::process::{Command, Output};

use localstack::Servers;

fn redrive(servers: &Servers, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_redrive"))
        .args(arguments)
        .env("AWS_ENDPOINT_URL_SQS", &servers.sqs_url)
        .env("AWS_ENDPOINT_URL_DYNAMODB", &servers.dynamodb_url)
        .env("AWS_REGION", "us-east-1")
        .env("AWS_ACCESS_KEY_ID", "test")
        .env("AWS_SECRET_ACCESS_KEY", "test")
        .env_remove("AWS_PROFILE")
        .output()
        .expect("the tool runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn doctor_finds_nothing_wrong_with_what_localstack_up_creates() {
    let Some(servers) = localstack::servers() else { return };
    let output = redrive(&servers, &["doctor", "orders", "--table", "redrive-inbox"]);
    assert_eq!(
        output.status.code(),
        Some(0),
        "{}{}",
        text(&output.stdout),
        text(&output.stderr)
    );
    assert_eq!(text(&output.stdout), "ok: nothing to change\n");
}

#[test]
fn doctor_prints_a_line_for_each_finding_and_exits_with_3() {
    let Some(servers) = localstack::servers() else { return };
    let output = redrive(&servers, &["doctor", "orders", "--attempts", "50"]);
    assert_eq!(output.status.code(), Some(3), "{}", text(&output.stderr));
    let found = text(&output.stdout);
    assert!(
        found.starts_with("warning: maxReceiveCount of `orders` is 15; set it to at least 150"),
        "{found}"
    );

    let output = redrive(&servers, &["doctor", "orders", "--attempts", "50", "--json"]);
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found[0]["severity"], "warning");
}

#[test]
fn inv12_a_queue_that_is_not_there_is_named_with_what_to_do() {
    let Some(servers) = localstack::servers() else { return };
    let output = redrive(&servers, &["doctor", "no-such-queue"]);
    assert_eq!(output.status.code(), Some(1));
    let error = text(&output.stderr);
    assert!(
        error.contains("no-such-queue") && error.contains("check its name"),
        "{error}"
    );

    let output = redrive(&servers, &["doctor", "orders", "--table", "no-such-table"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stderr).contains("no-such-table"),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn wrong_usage_exits_with_2_and_help_teaches_by_example() {
    let tool = || Command::new(env!("CARGO_BIN_EXE_redrive"));
    let output = tool().args(["doctor", "orders", "--attempts", "0"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let help = tool().args(["doctor", "--help"]).output().unwrap();
    assert!(text(&help.stdout).contains("redrive doctor orders --table redrive-inbox"));
}
