//! The pure decisions about a record: who may claim a key, and which change a claim may still make.
//!
//! Engines read the record, ask here, and write what comes out on the condition that the record is still the one they
//! read. They hold no rule of their own.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::flaw::{self, Flaw};
use crate::inbox::record::{Record, Status, after};
use crate::inbox::{Change, ClaimAnswer, ClaimRequest, InboxError, ServiceTime, Write, Written};
use crate::key::RecordKey;
use crate::outcome::{MAX_ERROR_BYTES, StoredResult, bounded};
use crate::telemetry::shown;

/// What to do about a claim.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Decision {
    /// Write this record in place of the one that was read, and on success answer this.
    Take(Box<Record>, ClaimAnswer),
    /// Write nothing and answer this.
    Answer(ClaimAnswer),
}

/// What becomes of a write.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Applied {
    /// Write this record in place of the one that was read, and on success answer this.
    Changed(Box<Record>, Written),
    /// It was made before, and its reply was lost: write nothing and answer this.
    AlreadyDone(Written),
    /// The claim no longer holds, or the key's work under it has ended otherwise: write nothing.
    Lost,
}

const DONE: Written = Written { lease_until: None };

/// Decides a claim of a key whose record, if there is one, is `existing`.
///
/// Two deliveries are of the same *message* if their MessageIds are equal, and of the same *payload* if they are of the same
/// message or their fingerprints agree or one of them has none. What SQS holds under one MessageId never changes, so a
/// fingerprint that differs there only means that fingerprints are made another way since.
///
/// What a claim that takes the key carries over:
///
/// | | carried over to |
/// |---|---|
/// | attempts, last error | the same message |
/// | deaths | the same message, or the same payload unless replayed: what kills is the payload, whichever copy brings it; a replay means that somebody repaired the cause |
/// | checkpoint | the same payload: it is of the key's work |
/// | first seen | all, unless the record has expired |
/// | fencing token, as the one to be passed | all, even an expired record's |
pub(crate) fn decide_claim(existing: Option<&Record>, request: &ClaimRequest, time: ServiceTime) -> Decision {
    let Some(record) = existing else {
        return claim_first(0, request, time);
    };
    if record.is_expired(time) {
        return claim_first(record.fencing_token, request, time);
    }
    let own = record.claim_id == request.claim_id;
    let leased = record.is_leased(time);
    let running = || {
        Decision::Answer(ClaimAnswer::Running {
            lease_left: record.lease_left(time),
        })
    };
    match record.status {
        Status::Processing if own && leased => Decision::Answer(ClaimAnswer::Claimed(
            record.claim(suspect_again(record), request.retention),
        )),
        Status::Processing if leased && !same_payload(record, request) => {
            Decision::Answer(ClaimAnswer::FingerprintMismatch)
        }
        Status::Processing if leased => running(),
        Status::Processing => claim_again(record, request, time, true),
        Status::Released => claim_again(record, request, time, false),
        Status::Completed if same_payload(record, request) => {
            Decision::Answer(ClaimAnswer::Completed(record.result.clone()))
        }
        Status::Completed => Decision::Answer(ClaimAnswer::FingerprintMismatch),
        Status::Rejected if record.dead_letter_sent => {
            if is_rejected_with(record, request) {
                Decision::Answer(ClaimAnswer::Rejected)
            } else {
                claim_again(record, request, time, false)
            }
        }
        Status::Rejected if leased && !own => running(),
        Status::Rejected if is_rejected_with(record, request) => finish_dead_letter(record, request, time),
        Status::Rejected => claim_again(record, request, time, false),
    }
}

fn same_payload(record: &Record, request: &ClaimRequest) -> bool {
    record.message_id == request.message_id
        || match (record.fingerprint, request.fingerprint) {
            (Some(stored), Some(given)) => stored == given,
            _ => true,
        }
}

/// Whether the record's rejection, or its deaths, are the delivery's too: it is the same message, or a producer's duplicate
/// of it and no replay.
fn is_rejected_with(record: &Record, request: &ClaimRequest) -> bool {
    record.message_id == request.message_id || (!request.replayed && same_payload(record, request))
}

/// Whether a claim whose reply was lost is to be taken as a suspect's. That is not stored. Only a key's first claim has a
/// token equal to the time it was first seen, and is none for sure; any other is taken for one, which costs a write.
fn suspect_again(record: &Record) -> bool {
    record.deaths > 0 || record.fencing_token != record.first_seen
}

/// The key's first claim, or the first after its record expired.
fn claim_first(passed_token: u64, request: &ClaimRequest, time: ServiceTime) -> Decision {
    let mut record = Record::new(request.key.clone());
    record.fencing_token = passed_token;
    record.first_seen = time.hi;
    take(record, request, time, false)
}

/// A claim of a key that was claimed before, with what carries over.
fn claim_again(old: &Record, request: &ClaimRequest, time: ServiceTime, ran_out: bool) -> Decision {
    let mut record = Record::new(request.key.clone());
    record.fencing_token = old.fencing_token;
    record.first_seen = old.first_seen;
    if old.message_id == request.message_id {
        record.attempts = old.attempts;
        record.last_error.clone_from(&old.last_error);
    }
    if is_rejected_with(old, request) {
        record.deaths = old.deaths.saturating_add(u32::from(old.started));
    }
    if same_payload(old, request) {
        record.checkpoint.clone_from(&old.checkpoint);
    }
    take(record, request, time, ran_out)
}

fn take(mut record: Record, request: &ClaimRequest, time: ServiceTime, ran_out: bool) -> Decision {
    record.status = Status::Processing;
    // Not `clone_from`, which costs twice as much where there is nothing yet to be overwritten.
    record.message_id = request.message_id.clone();
    record.fingerprint = request.fingerprint;
    hold(&mut record, request, time);
    let claim = record.claim(ran_out || record.deaths > 0, request.retention);
    Decision::Take(Box::new(record), ClaimAnswer::Claimed(claim))
}

/// The record stays rejected and keeps the message and fingerprint its rejection belongs to: whoever sends the dead letter,
/// the message that was rejected is recognised afterwards.
fn finish_dead_letter(old: &Record, request: &ClaimRequest, time: ServiceTime) -> Decision {
    let finish =
        |record: &Record| ClaimAnswer::FinishDeadLetter(record.claim(false, request.retention), record.rejection());
    if old.claim_id == request.claim_id && old.is_leased(time) {
        return Decision::Answer(finish(old));
    }
    let mut record = old.clone();
    hold(&mut record, request, time);
    let answer = finish(&record);
    Decision::Take(Box::new(record), answer)
}

fn hold(record: &mut Record, request: &ClaimRequest, time: ServiceTime) {
    record.claim_id = request.claim_id.clone();
    record.fencing_token = record.fencing_token.saturating_add(1).max(time.hi);
    record.lease_until = after(time, request.lease);
    record.keep(request.retention, time);
}

/// Decides a write to a key whose record, if there is one, is `record`. It must have passed [`within_bounds`].
///
/// | change | needs | found already made |
/// |---|---|---|
/// | renew | processing, or rejected with its dead letter unsent | the lease already ends later: it is never shortened |
/// | start | processing | started |
/// | checkpoint | processing | the same, or one saved later |
/// | complete | processing | completed |
/// | release | processing | released |
/// | reject | processing | rejected |
/// | dead letter sent | rejected | sent |
///
/// A renewal of what has ended is lost: it must bring nothing back, and there is no lease left to tell of.
pub(crate) fn apply_write(record: Option<&Record>, write: &Write, time: ServiceTime) -> Applied {
    let claim = &write.claim;
    let unfenced = match &write.change {
        Change::Complete { .. } => flaw::is(Flaw::CompletesUnfenced),
        Change::Renew { .. } => flaw::is(Flaw::RenewsForAnybody),
        _ => false,
    };
    let held = |record: &&Record| {
        unfenced || (record.claim_id == claim.claim_id && record.fencing_token == claim.fencing_token)
    };
    let Some(old) = record.filter(held) else {
        return Applied::Lost;
    };
    let mut new = old.clone();
    let mut written = DONE;
    match (&write.change, old.status) {
        (Change::Renew { lease }, Status::Processing | Status::Rejected) if !old.dead_letter_sent => {
            new.lease_until = after(time, *lease).max(old.lease_until);
            written.lease_until = Some(new.lease_until);
            if new.lease_until == old.lease_until {
                return Applied::AlreadyDone(written);
            }
        }
        (Change::Start, Status::Processing) => {
            if old.started {
                return Applied::AlreadyDone(DONE);
            }
            new.started = true;
        }
        (Change::Checkpoint { serial, data }, Status::Processing) => {
            if *serial <= old.checkpoint_serial {
                return Applied::AlreadyDone(DONE);
            }
            new.checkpoint = Some(data.clone());
            new.checkpoint_serial = *serial;
        }
        (Change::Complete { result }, Status::Processing) => {
            new.status = Status::Completed;
            new.result = result.clone();
            new.checkpoint = None;
            new.started = false;
        }
        (Change::Release { failure }, Status::Processing) => {
            new.status = Status::Released;
            new.started = false;
            if let Some(failure) = failure {
                new.attempts = failure.attempts;
                new.last_error = Some(failure.error.clone());
            }
        }
        (Change::Reject(rejection), Status::Processing) => {
            new.status = Status::Rejected;
            new.reason = Some(rejection.reason.as_str().to_owned());
            new.last_error = Some(rejection.error.clone());
            new.attempts = rejection.attempts;
            new.dead_letter_sent = false;
            new.started = false;
        }
        (Change::DeadLetterSent, Status::Rejected) => {
            if old.dead_letter_sent {
                return Applied::AlreadyDone(DONE);
            }
            new.dead_letter_sent = true;
        }
        (Change::Complete { .. }, Status::Completed)
        | (Change::Release { .. }, Status::Released)
        | (Change::Reject(_), Status::Rejected) => return Applied::AlreadyDone(DONE),
        _ => return Applied::Lost,
    }
    new.keep(claim.retention, time);
    Applied::Changed(Box::new(new), written)
}

/// `write` within an inbox's bounds: error texts are cut, and a result over `max_result` bytes is stored as omitted, with a
/// warning, since a handler that succeeded must never run again for the size of what it returned.
///
/// # Errors
/// [`InboxError::TooLarge`] for a checkpoint over `max_result` bytes.
pub(crate) fn within_bounds(write: Write, max_result: usize) -> Result<Write, InboxError> {
    let Write { claim, change } = write;
    let change = match change {
        Change::Checkpoint { data, .. } if data.len() > max_result => {
            return Err(InboxError::TooLarge {
                what: "a checkpoint",
                size: data.len(),
                limit: max_result,
            });
        }
        Change::Complete {
            result: StoredResult::Json(json),
        } if json.len() > max_result => {
            tracing::warn!(
                key = %shown(claim.key.as_str()),
                size = json.len(),
                limit = max_result,
                "the result is over the bytes allowed and is not kept: duplicates of this message are told so"
            );
            Change::Complete {
                result: StoredResult::Omitted,
            }
        }
        Change::Release {
            failure: Some(mut failure),
        } => {
            failure.error = bounded(failure.error, MAX_ERROR_BYTES);
            Change::Release { failure: Some(failure) }
        }
        Change::Reject(mut rejection) => {
            rejection.error = bounded(rejection.error, MAX_ERROR_BYTES);
            Change::Reject(rejection)
        }
        other => other,
    };
    Ok(Write { claim, change })
}

/// For each claim of a batch, the position of an earlier claim of the same key in it, if there is one: only the first claim
/// of a key is tried.
pub(crate) fn repeats(requests: &[ClaimRequest]) -> Vec<Option<usize>> {
    /// Up to how many claims are compared with each other, which costs less than a map of them.
    const FEW: usize = 16;
    if requests.len() <= FEW {
        let earlier = |(position, request): (usize, &ClaimRequest)| {
            let before = requests.get(..position)?;
            before.iter().position(|earlier| earlier.key == request.key)
        };
        return requests.iter().enumerate().map(earlier).collect();
    }
    let mut first: BTreeMap<&RecordKey, usize> = BTreeMap::new();
    requests
        .iter()
        .enumerate()
        .map(|(position, request)| {
            let earlier = first.get(&request.key).copied();
            if earlier.is_none() {
                first.insert(&request.key, position);
            }
            earlier
        })
        .collect()
}

/// What a claim is answered whose key an earlier claim of the same batch was tried for, with `first` as its answer.
pub(crate) fn behind(
    first: &Result<ClaimAnswer, InboxError>,
    request: &ClaimRequest,
    time: ServiceTime,
) -> ClaimAnswer {
    let lease_left = match first {
        Ok(ClaimAnswer::Claimed(claim) | ClaimAnswer::FinishDeadLetter(claim, _)) => {
            Duration::from_millis(claim.lease_until.saturating_sub(time.lo))
        }
        Ok(ClaimAnswer::Running { lease_left }) => *lease_left,
        // Nothing is running: the delivery may come back as soon as it likes and is answered then.
        Ok(_) => Duration::ZERO,
        Err(_) => request.lease,
    };
    ClaimAnswer::Running { lease_left }
}

#[cfg(test)]
mod machine;
#[cfg(test)]
mod model;
#[cfg(any(test, feature = "aws"))]
pub(crate) mod operator;
#[cfg(test)]
mod tests;
