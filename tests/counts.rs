//! What the work costs in calls to SQS and DynamoDB, counted on the server's side: the worker as it is used, on the real
//! queue and inbox through the AWS SDK, over HTTP against the stand-in of `benches/stand_in`.
//!
//! The bounds are of the cost of a message: in calls per 1,000 messages and in write units. They hold whatever the timing.
//! How many deletes or inbox writes share a call would depend on it, as they wait for each other only for so long: here the
//! linger is long where that counts, and `tests/worker/counts.rs` has the default one, under virtual time.
#![cfg(feature = "aws")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "support/aws.rs"]
mod aws;
#[path = "counts/backlog.rs"]
mod backlog;
#[path = "counts/duplicates.rs"]
mod duplicates;
#[path = "counts/fifo.rs"]
mod fifo;
#[path = "counts/quiet.rs"]
mod quiet;
#[path = "counts/rig.rs"]
mod rig;
