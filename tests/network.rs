//! A network that misbehaves between a worker and its services: every fault on every call.
#![cfg(feature = "aws")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "support/fault_proxy.rs"]
mod fault_proxy;

#[path = "network/proxy.rs"]
mod proxy;
