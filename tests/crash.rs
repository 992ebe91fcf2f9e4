//! Worker processes on SQS and DynamoDB servers that are killed and stopped while they work, and whose servers go away under
//! them: nothing is lost, and no effect is made twice.
//!
//! Plainly run it is small. At full size:
//!
//! ```text
//! cargo test --all-features --test crash -- --messages 20000 --kills 200 [--seed N] [--workers N] [--visibility S] \
//!     [--in-flight-delay-ms MS] [--minutes N] [--json FILE]
//! ```
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "tests"
)]

#[cfg(all(feature = "aws", unix))]
#[path = "support/aws.rs"]
mod aws;
#[cfg(all(feature = "aws", unix))]
#[path = "support/aws_lab.rs"]
mod aws_lab;
#[cfg(all(feature = "aws", unix))]
#[path = "support/child.rs"]
mod child;
#[cfg(all(feature = "aws", unix))]
#[path = "support/fault_proxy.rs"]
mod fault_proxy;
#[cfg(all(feature = "aws", unix))]
#[path = "support/localstack.rs"]
mod localstack;
#[cfg(all(feature = "aws", unix))]
#[path = "support/own_servers.rs"]
mod own_servers;

#[cfg(all(feature = "aws", unix))]
#[path = "crash/harness.rs"]
mod harness;

#[cfg(all(feature = "aws", unix))]
fn main() -> std::process::ExitCode {
    harness::main()
}

#[cfg(not(all(feature = "aws", unix)))]
fn main() {}
