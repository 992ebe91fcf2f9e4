//! A network that misbehaves between a worker and its services: every fault on every call.
#![cfg(feature = "aws")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "support/aws.rs"]
mod aws;
#[path = "support/aws_lab.rs"]
mod aws_lab;
#[path = "support/fault_proxy.rs"]
mod fault_proxy;
#[path = "support/localstack.rs"]
mod localstack;

#[path = "network/calls.rs"]
mod calls;
#[path = "network/credentials.rs"]
mod credentials;
#[path = "network/faults.rs"]
mod faults;
#[path = "network/mix.rs"]
mod mix;
#[path = "network/producing.rs"]
mod producing;
#[path = "network/proxy.rs"]
mod proxy;
#[path = "network/reading.rs"]
mod reading;
#[path = "network/scene.rs"]
mod scene;
#[path = "network/start.rs"]
mod start;
#[path = "network/windows.rs"]
mod windows;
