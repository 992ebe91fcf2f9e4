//! A framework for workers that run background work from Amazon SQS. A worker processes each message effectively once,
//! keeps messages out of the dead-letter queue while what it calls is down, and says of each message that did get there why
//! it failed.
//!
#![cfg_attr(feature = "aws", doc = "```no_run")]
#![cfg_attr(not(feature = "aws"), doc = "```ignore")]
//! use redrive::extract::{IdempotencyKey, Json, State};
//! use redrive::{DynamoInbox, Failure, SqsQueue, Worker};
//! # #[derive(serde::Deserialize)] struct Order;
//! # #[derive(serde::Serialize)] struct Receipt;
//! # #[derive(Clone)] struct Gateway;
//! # impl Gateway { async fn charge(&self, _: &str, _: &Order) -> Result<Receipt, std::io::Error> { Ok(Receipt) } }
//!
//! async fn charge(
//!     State(gateway): State<Gateway>,
//!     key: IdempotencyKey,
//!     Json(order): Json<Order>,
//! ) -> Result<Receipt, Failure> {
//!     Ok(gateway.charge(&key, &order).await?) // `?` on any error: try again later, with backoff
//! }
//!
//! #[tokio::main]
//! async fn main() -> Result<(), redrive::Error> {
//!     let aws = aws_config::load_from_env().await;
//!     Worker::builder(SqsQueue::connect(&aws, "orders").await?)
//!         .inbox(DynamoInbox::connect(&aws, "redrive-inbox").await?)
//!         .state(Gateway)
//!         .concurrency(64)
//!         .handler(charge)
//!         .build()?
//!         .run() // until SIGTERM or ctrl-c, then drains
//!         .await
//! }
//! ```
//!
//! The key goes on to the gateway: an effect outside the inbox happens once only if whoever makes it knows the key.
//!
//! | for | see |
//! |---|---|
//! | what a handler takes and returns | [`handler`], [`extract`], [`Failure`] |
//! | every setting of a worker | [`worker::Builder`], [`Workers`] for several in one process |
//! | keys, claims and what is kept of them | [`inbox`], [`key`] |
//! | rates, bulkheads, the circuit breaker, calls to other services | [`flow`] |
//! | dead letters and their replay | [`dlq`] |
//! | sending | [`producer`] |
//! | tests of your worker, in process, under virtual time | [`testing`] |
//! | metrics and trace context | [`telemetry`]; with the feature `otel`, the module of that name for exported traces |
//! | a health endpoint, Prometheus, CloudWatch | `health`, `emf`, by the features of these names |
//!
//! With [`MemoryQueue`] and [`MemoryInbox`] a worker runs in one process, without AWS. The feature `aws`, on by default,
//! brings `SqsQueue` and `DynamoInbox`. The pages in the repository's folder `docs` explain the guarantees and their limits.
#![forbid(unsafe_code)]

#[cfg(feature = "aws")]
mod aws;
#[cfg(redrive_bench)]
#[doc(hidden)]
pub mod bench;
pub mod clock;
pub mod dlq;
#[cfg(doctest)]
mod docs;
#[cfg(feature = "ecs")]
pub mod ecs;
#[cfg(feature = "emf")]
pub mod emf;
pub mod error;
pub mod faults;
#[cfg(not(feature = "flaws"))]
mod flaw;
#[cfg(feature = "flaws")]
#[doc(hidden)]
pub mod flaw;
pub mod flow;
pub mod handler;
#[cfg(feature = "health")]
pub mod health;
pub mod inbox;
pub mod key;
#[cfg(test)]
mod logged;
pub mod message;
#[cfg(feature = "otel")]
pub mod otel;
pub mod outcome;
#[cfg(feature = "aws")]
pub mod permission;
pub mod producer;
#[cfg(test)]
mod prop;
pub mod queue;
#[cfg(any(feature = "health", feature = "emf"))]
pub mod recorder;
mod sync;
pub mod telemetry;
pub mod testing;
#[doc(hidden)]
pub mod transport;
pub mod worker;

pub use error::Error;
pub use handler::{Context, Router, extract};
#[cfg(feature = "aws")]
pub use inbox::DynamoInbox;
pub use inbox::MemoryInbox;
pub use outcome::{Failure, FailureExt, Outcome, Reason};
pub use producer::{NewMessage, Producer, ProducerError};
pub use queue::MemoryQueue;
#[cfg(feature = "aws")]
pub use queue::SqsQueue;
pub use worker::{Worker, Workers};
