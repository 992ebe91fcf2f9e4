//! Steady load with faults, for a minute or for hours: memory, tasks, file descriptors and connections stay flat (invariant 5).
//!
//! Two worker processes are measured from outside, one after the other: the engine alone, on a queue without end that it
//! empties as fast as it can, so that a few bytes kept for each message would be seen; and a worker on SQS and DynamoDB
//! servers behind proxies that let calls go wrong.
//!
//! ```text
//! cargo test --all-features --test soak -- --minutes 60 [--seed N] [--json FILE]
//! ```
//!
//! Plainly run it takes less than a minute, and 80 s where `CI` is set.
//!
//! `--leak 200` lets the handlers keep 200 bytes of each message, to see that the engine's soak notices.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "tests"
)]

#[cfg(all(feature = "aws", target_os = "linux"))]
#[path = "support/aws.rs"]
mod aws;
#[cfg(all(feature = "aws", target_os = "linux"))]
#[path = "support/aws_lab.rs"]
mod aws_lab;
#[cfg(all(feature = "aws", target_os = "linux"))]
#[path = "support/child.rs"]
mod child;
#[cfg(all(feature = "aws", target_os = "linux"))]
#[path = "support/fault_proxy.rs"]
mod fault_proxy;
#[cfg(all(feature = "aws", target_os = "linux"))]
#[path = "support/localstack.rs"]
mod localstack;

#[cfg(all(feature = "aws", target_os = "linux"))]
#[path = "soak/harness.rs"]
mod harness;

#[cfg(all(feature = "aws", target_os = "linux"))]
fn main() -> std::process::ExitCode {
    harness::main()
}

/// What is measured is read from `/proc`.
#[cfg(not(all(feature = "aws", target_os = "linux")))]
fn main() {}
