//! A worker framework for Amazon SQS: effectively-once processing with an inbox, and flow control that keeps outages out
//! of the dead-letter queue.
#![forbid(unsafe_code)]

#[cfg(feature = "aws")]
mod aws;
pub mod clock;
pub mod dlq;
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

pub use handler::{Context, extract};
#[cfg(feature = "aws")]
pub use inbox::DynamoInbox;
pub use outcome::{Failure, FailureExt, Outcome, Reason};
#[cfg(feature = "aws")]
pub use queue::SqsQueue;
