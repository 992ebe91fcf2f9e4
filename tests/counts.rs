//! What the work costs in calls to SQS and DynamoDB, counted on the server's side: the worker as it is used, on the real
//! queue and inbox through the AWS SDK, over HTTP against the stand-in of `benches/stand_in`.
//!
//! The bounds are of the cost of a message, in calls per 1,000 messages and in write units. What is billed is asserted
//! exactly. How many deletes or inbox writes share a call depends on how close together they come, within the linger: a
//! machine that stands still for longer than that sends a call early, and it is the code's cost that is to be found, so
//! such a count is the least of a few runs. All else is the same on any machine.
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
