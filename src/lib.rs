//! A worker framework for Amazon SQS: effectively-once processing with an inbox, and flow control that keeps outages out
//! of the dead-letter queue.
#![forbid(unsafe_code)]

#[cfg(feature = "aws")]
mod aws;
pub mod clock;
pub mod dlq;
#[cfg(doctest)]
mod docs;
pub mod error;
pub mod faults;
pub mod flow;
pub mod handler;
pub mod inbox;
pub mod key;
pub mod message;
pub mod outcome;
pub mod producer;
pub mod queue;
pub mod telemetry;
pub mod testing;
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
