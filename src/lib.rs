//! A worker framework for Amazon SQS: effectively-once processing with an inbox, and flow control that keeps outages out
//! of the dead-letter queue.
#![forbid(unsafe_code)]

pub mod clock;
pub mod flow;
