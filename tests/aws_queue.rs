//! `SqsQueue`: on a server that is told what to answer, and on a real SQS API.
#![cfg(feature = "aws")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

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

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_sqs::config::{Credentials, SharedCredentialsProvider};

/// The AWS configuration for an endpoint that takes any credentials, in `us-east-1`.
fn config(endpoint: &str) -> SdkConfig {
    SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::from_static("us-east-1"))
        .endpoint_url(endpoint)
        .credentials_provider(SharedCredentialsProvider::new(Credentials::new(
            "test", "test", None, None, "tests",
        )))
        .build()
}
