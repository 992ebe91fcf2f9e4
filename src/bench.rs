//! What `benches/micro` sees of the private parts: no promise, and not built otherwise.
#![allow(missing_docs, reason = "no public item, whatever its visibility")]

use crate::inbox::decide::{Applied, Decision, apply_write, decide_claim};
use crate::inbox::{ClaimAnswer, ClaimRequest, Record, ServiceTime, Write};

pub use crate::worker::bench::{Batches, Leases};

/// The record to be written, if one is, and the answer.
#[must_use]
pub fn claim(
    existing: Option<&Record>,
    request: &ClaimRequest,
    time: ServiceTime,
) -> (Option<Box<Record>>, ClaimAnswer) {
    match decide_claim(existing, request, time) {
        Decision::Take(record, answer) => (Some(record), answer),
        Decision::Answer(answer) => (None, answer),
    }
}

/// The record to be written, if one is.
#[must_use]
pub fn write(record: Option<&Record>, write: &Write, time: ServiceTime) -> Option<Box<Record>> {
    match apply_write(record, write, time) {
        Applied::Changed(record, _) => Some(record),
        Applied::AlreadyDone(_) | Applied::Lost => None,
    }
}
