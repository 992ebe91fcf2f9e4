//! A worker framework for Amazon SQS: effectively-once processing with an inbox, and flow control that keeps outages out
//! of the dead-letter queue.
#![forbid(unsafe_code)]

pub mod clock;
pub mod dlq;
pub mod flow;
pub mod handler;
pub mod inbox;
pub mod key;
pub mod message;
pub mod outcome;
pub mod queue;

pub use handler::{Context, Router, extract};
pub use outcome::{Failure, FailureExt, Outcome, Reason};
