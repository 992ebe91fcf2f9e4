//! `SqsQueue`: on a server that is told what to answer, and on a real SQS API.
#![cfg(feature = "aws")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "support/aws.rs"]
mod aws;
#[path = "aws_queue/conformance.rs"]
mod conformance;
#[path = "aws_queue/live.rs"]
mod live;
#[path = "support/localstack.rs"]
mod localstack;
#[path = "support/queue_conformance.rs"]
mod queue_conformance;
#[path = "support/stub.rs"]
mod stub;
#[path = "aws_queue/wire.rs"]
mod wire;

use aws::config;
