//! The servers for the tests on real SQS and DynamoDB APIs: `localstack/up` starts them, or reuses running ones.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

/// Set to `1`, it leaves the tests on real servers out.
const SKIP: &str = "REDRIVE_SKIP_AWS_TESTS";

/// Where the servers answer. Any credentials do; the region is `us-east-1`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Servers {
    /// The SQS endpoint, such as `http://127.0.0.1:4566`.
    pub(crate) sqs_url: String,
    /// The DynamoDB endpoint, such as `http://127.0.0.1:8000`.
    pub(crate) dynamodb_url: String,
}

/// The servers, started by the first call of this process if they do not run yet. They are left running for the next
/// test binary: a start takes many times longer than a reuse.
///
/// `None` only where `REDRIVE_SKIP_AWS_TESTS=1` leaves these tests out; the test then returns at once.
///
/// # Panics
///
/// When they cannot be started, with the script's own words about what is missing. Every test that asks gets them.
pub(crate) fn servers() -> Option<Servers> {
    static SERVERS: OnceLock<Result<Option<Servers>, String>> = OnceLock::new();
    match SERVERS.get_or_init(start) {
        Ok(servers) => servers.clone(),
        Err(message) => panic!("{message}"),
    }
}

/// Whether the tests on real servers are left out.
#[allow(dead_code, reason = "test binaries share this module")]
pub(crate) fn are_left_out() -> bool {
    std::env::var_os(SKIP).is_some_and(|value| value == "1")
}

fn start() -> Result<Option<Servers>, String> {
    if are_left_out() {
        say("SKIPPED: the tests on SQS and DynamoDB servers, because REDRIVE_SKIP_AWS_TESTS=1 is set");
        return Ok(None);
    }
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("localstack");
    run(&scripts.join("up"))?;
    parse(&run(&scripts.join("env"))?).map(Some)
}

/// Runs a script and returns what it prints.
fn run(script: &Path) -> Result<String, String> {
    let shown = script.display();
    let output = Command::new("bash")
        .arg(script)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("bash, which {shown} needs, cannot be run: {error}"))?;
    let Output { status, stdout, stderr } = output;
    let stdout = String::from_utf8_lossy(&stdout).into_owned();
    if status.success() {
        return Ok(stdout);
    }
    Err(format!(
        "{shown} failed ({status}), so the tests on SQS and DynamoDB cannot run.\n{stdout}{}\
         Provide what is missing, or set {SKIP}=1 to leave these tests out.",
        String::from_utf8_lossy(&stderr),
    ))
}

/// Reads the endpoints out of the `export NAME=value` lines of `localstack/env`.
fn parse(exports: &str) -> Result<Servers, String> {
    let value = |name: &str| {
        exports
            .lines()
            .filter_map(|line| line.strip_prefix("export ")?.split_once('='))
            .find_map(|(key, value)| (key == name).then(|| value.to_owned()))
            .ok_or_else(|| format!("localstack/env printed no {name}:\n{exports}"))
    };
    Ok(Servers {
        sqs_url: value("AWS_ENDPOINT_URL_SQS")?,
        dynamodb_url: value("AWS_ENDPOINT_URL_DYNAMODB")?,
    })
}

/// Past the test harness's capture, so that it is seen even though the tests pass.
fn say(line: &str) {
    // A closed standard error is no reason to fail a test.
    let _ = writeln!(std::io::stderr(), "{line}");
}
