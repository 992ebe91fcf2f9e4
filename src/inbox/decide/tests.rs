//! Single decisions, rule by rule.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::sync::Arc;

use bytes::Bytes;

use super::*;
use crate::inbox::{Attempted, Claim, Rejection};
use crate::key::{Fingerprint, Key};
use crate::outcome::Reason;

const LEASE: Duration = Duration::from_secs(30);
const RETENTION: Duration = Duration::from_secs(35 * 24 * 3600);
const T0: u64 = 1_700_000_000_000;

fn at(ms: u64) -> ServiceTime {
    ServiceTime {
        lo: T0 + ms,
        hi: T0 + ms + 1_000,
    }
}

fn request(claim_id: &str, message_id: &str, payload: &str) -> ClaimRequest {
    ClaimRequest {
        key: RecordKey::new("orders", &Key::new("k")),
        claim_id: claim_id.into(),
        message_id: message_id.into(),
        fingerprint: (!payload.is_empty()).then(|| Fingerprint::of(payload.as_bytes())),
        lease: LEASE,
        retention: RETENTION,
        receive_count: 1,
        replayed: false,
    }
}

fn replayed(claim_id: &str, message_id: &str, payload: &str) -> ClaimRequest {
    ClaimRequest {
        replayed: true,
        ..request(claim_id, message_id, payload)
    }
}

#[track_caller]
fn taken(decision: Decision) -> (Record, Arc<Claim>) {
    match decision {
        Decision::Take(record, ClaimAnswer::Claimed(claim)) => (*record, claim),
        other => panic!("not claimed: {other:?}"),
    }
}

#[track_caller]
fn answered(decision: Decision) -> ClaimAnswer {
    match decision {
        Decision::Answer(answer) => answer,
        Decision::Take(record, answer) => panic!("taken: {record:?}, {answer:?}"),
    }
}

#[track_caller]
fn changed(record: &Record, claim: &Arc<Claim>, change: Change, time: ServiceTime) -> Record {
    match apply_write(Some(record), &Write::new(claim.clone(), change), time) {
        Applied::Changed(record, _) => *record,
        other => panic!("not changed: {other:?}"),
    }
}

fn first() -> (Record, Arc<Claim>) {
    taken(decide_claim(None, &request("c1", "m1", "p"), at(0)))
}

fn failure(attempts: u32) -> Change {
    Change::Release {
        failure: Some(Attempted {
            attempts,
            error: format!("error {attempts}"),
        }),
    }
}

fn rejection() -> Rejection {
    Rejection {
        reason: Reason::AttemptsExhausted,
        error: "declined".into(),
        attempts: 3,
    }
}

fn checkpoint(serial: u64, data: &'static str) -> Change {
    Change::Checkpoint {
        serial,
        data: Bytes::from(data),
    }
}

fn rejected(sent: bool) -> Record {
    let (record, claim) = first();
    let record = changed(&record, &claim, checkpoint(1, "half"), at(1));
    let record = changed(&record, &claim, Change::Reject(rejection()), at(1));
    if sent {
        changed(&record, &claim, Change::DeadLetterSent, at(1))
    } else {
        record
    }
}

#[test]
fn a_first_claim_writes_the_later_bound_and_starts_from_nothing() {
    let (record, claim) = first();
    assert_eq!(record.status, Status::Processing);
    assert_eq!(record.fencing_token, T0 + 1_000);
    assert_eq!(record.lease_until, T0 + 1_000 + 30_000);
    assert_eq!(record.first_seen, T0 + 1_000);
    assert_eq!(record.expires_at, T0 / 1000 + 1 + 35 * 24 * 3600);
    assert_eq!((claim.attempts, claim.deaths, claim.suspect), (0, 0, false));
    assert_eq!(claim.lease_until, record.lease_until);
}

#[test]
fn inv02_a_live_lease_is_not_taken_over_until_the_earlier_bound_has_passed_it() {
    let (record, _) = first();
    let other = request("c2", "m1", "p");
    let last = ServiceTime {
        lo: record.lease_until - 1,
        hi: record.lease_until + 60_000,
    };
    let lease_left = Duration::from_millis(1);
    assert_eq!(
        answered(decide_claim(Some(&record), &other, last)),
        ClaimAnswer::Running { lease_left }
    );
    let past = ServiceTime {
        lo: record.lease_until,
        hi: record.lease_until,
    };
    let (_, claim) = taken(decide_claim(Some(&record), &other, past));
    assert!(claim.suspect);
    assert!(claim.fencing_token > record.fencing_token);
}

#[test]
fn inv03_tokens_grow_even_if_the_clock_stands_or_the_record_has_expired() {
    let (mut record, _) = first();
    record.fencing_token += 1_000_000;
    record.status = Status::Released;
    let (again, _) = taken(decide_claim(Some(&record), &request("c2", "m1", "p"), at(0)));
    assert_eq!(again.fencing_token, record.fencing_token + 1);
    record.status = Status::Completed;
    record.expires_at = T0 / 1000 + 5;
    let (fresh, claim) = taken(decide_claim(Some(&record), &request("c2", "m9", "x"), at(5_000)));
    assert_eq!(fresh.fencing_token, record.fencing_token + 1);
    assert_eq!(fresh.first_seen, T0 + 6_000);
    assert_eq!(claim.attempts, 0);
}

#[test]
fn inv03_a_claim_repeated_after_a_lost_reply_is_ours_and_changes_nothing() {
    let (record, claim) = first();
    let again = answered(decide_claim(Some(&record), &request("c1", "m1", "p"), at(9)));
    assert_eq!(again, ClaimAnswer::Claimed(claim));
    let over = record.lease_until - T0;
    let (record, taken_over) = taken(decide_claim(Some(&record), &request("c2", "m1", "p"), at(over)));
    let again = answered(decide_claim(Some(&record), &request("c2", "m1", "p"), at(over + 1)));
    assert_eq!(again, ClaimAnswer::Claimed(taken_over), "still a suspect");
}

#[test]
fn another_payload_never_runs_under_a_running_or_completed_key() {
    let (record, claim) = first();
    let other = request("c2", "m2", "other");
    let mismatch = ClaimAnswer::FingerprintMismatch;
    assert_eq!(answered(decide_claim(Some(&record), &other, at(9))), mismatch);
    let result = StoredResult::Json(Bytes::from("7"));
    let done = changed(&record, &claim, Change::Complete { result: result.clone() }, at(10));
    assert_eq!(answered(decide_claim(Some(&done), &other, at(11))), mismatch);
    let completed = ClaimAnswer::Completed(result);
    for duplicate in [
        request("c2", "m2", "p"),
        replayed("c2", "m2", "p"),
        request("c2", "m2", ""),
        request("c2", "m1", "the same message, its fingerprint made another way"),
    ] {
        let answer = answered(decide_claim(Some(&done), &duplicate, at(99_000)));
        assert_eq!(answer, completed, "{duplicate:?}");
    }
}

#[test]
fn inv09_attempts_belong_to_one_message() {
    let (record, claim) = first();
    let record = changed(&record, &claim, checkpoint(1, "half"), at(1));
    let record = changed(&record, &claim, failure(2), at(2));
    let (_, same) = taken(decide_claim(Some(&record), &request("c2", "m1", "edited"), at(3)));
    assert_eq!((same.attempts, same.last_error.as_deref()), (2, Some("error 2")));
    let (_, copy) = taken(decide_claim(Some(&record), &request("c2", "m2", "p"), at(3)));
    assert_eq!((copy.attempts, copy.last_error.as_deref()), (0, None));
    assert_eq!(
        copy.checkpoint.as_deref(),
        Some(&b"half"[..]),
        "it is of the key's work"
    );
    let (_, other) = taken(decide_claim(Some(&record), &request("c2", "m2", "edited"), at(3)));
    assert_eq!(other.checkpoint, None);
}

#[test]
fn inv09_releases_without_a_failure_and_run_out_leases_count_nothing() {
    let (record, claim) = first();
    let record = changed(&record, &claim, failure(1), at(1));
    let (record, claim) = taken(decide_claim(Some(&record), &request("c2", "m1", "p"), at(2)));
    let record = changed(&record, &claim, Change::Release { failure: None }, at(3));
    assert_eq!(record.attempts, 1);
    let (record, _) = taken(decide_claim(Some(&record), &request("c3", "m1", "p"), at(4)));
    let (record, claim) = taken(decide_claim(Some(&record), &request("c4", "m1", "p"), at(99_000)));
    assert_eq!((record.attempts, claim.attempts), (1, 1));
}

#[test]
fn a_suspect_found_started_counts_a_death_and_innocents_count_none() {
    let (record, _) = first();
    let (record, claim) = taken(decide_claim(Some(&record), &request("c2", "m1", "p"), at(40_000)));
    assert_eq!((claim.suspect, claim.deaths), (true, 0));
    let (bystander, claim_of_bystander) = taken(decide_claim(Some(&record), &request("c3", "m1", "p"), at(80_000)));
    assert_eq!((claim_of_bystander.deaths, bystander.deaths), (0, 0));

    let record = changed(&record, &claim, Change::Start, at(40_001));
    let (record, claim) = taken(decide_claim(Some(&record), &request("c4", "m1", "p"), at(80_000)));
    assert_eq!((claim.suspect, claim.deaths, record.started), (true, 1, false));
    let released = changed(&record, &claim, Change::Release { failure: None }, at(80_001));
    let (_, later) = taken(decide_claim(Some(&released), &request("c5", "m1", "p"), at(80_002)));
    assert_eq!(
        (later.suspect, later.deaths),
        (true, 1),
        "an orderly release does not clear it"
    );
    let (_, copy) = taken(decide_claim(Some(&released), &request("c5", "m2", "p"), at(80_002)));
    assert_eq!(copy.deaths, 1, "what kills is the payload");
    let (_, fixed) = taken(decide_claim(Some(&released), &replayed("c5", "m2", "p"), at(80_002)));
    assert_eq!((fixed.suspect, fixed.deaths), (false, 0), "a replay starts afresh");

    let record = changed(&record, &claim, Change::Start, at(80_001));
    let (_, claim) = taken(decide_claim(Some(&record), &request("c6", "m1", "p"), at(120_000)));
    assert_eq!(claim.deaths, crate::inbox::MAX_DEATHS);
}

#[test]
fn a_half_done_dead_letter_is_finished_and_never_run() {
    let record = rejected(false);
    for (who, time) in [
        (request("c1", "m1", "p"), at(5)),
        (request("c2", "m1", "p"), at(40_000)),
        (replayed("c2", "m1", "edited"), at(40_000)),
        (request("c2", "m2", "p"), at(40_000)),
    ] {
        let (record, claim) = match decide_claim(Some(&record), &who, time) {
            Decision::Take(record, ClaimAnswer::FinishDeadLetter(claim, why)) => {
                assert_eq!(why, rejection());
                (*record, claim)
            }
            Decision::Answer(ClaimAnswer::FinishDeadLetter(claim, why)) => {
                assert_eq!((why, who.claim_id.as_str()), (rejection(), "c1"));
                (record.clone(), claim)
            }
            other => panic!("{who:?}: {other:?}"),
        };
        assert_eq!((record.status, record.message_id.as_str()), (Status::Rejected, "m1"));
        let sent = changed(&record, &claim, Change::DeadLetterSent, time);
        assert!(sent.dead_letter_sent);
    }
}

#[test]
fn a_half_done_dead_letter_is_left_to_its_holder_and_given_up_for_other_work() {
    let record = rejected(false);
    for other in [
        request("c2", "m1", "p"),
        request("c2", "m2", "edited"),
        replayed("c2", "m2", "p"),
    ] {
        let answer = answered(decide_claim(Some(&record), &other, at(5)));
        assert!(matches!(answer, ClaimAnswer::Running { .. }), "{other:?}: {answer:?}");
    }
    for other in [request("c2", "m2", "edited"), replayed("c2", "m2", "p")] {
        let (record, claim) = taken(decide_claim(Some(&record), &other, at(40_000)));
        assert_eq!((claim.attempts, record.reason.as_deref()), (0, None));
        assert!(!claim.suspect);
    }
}

#[test]
fn a_rejection_suppresses_its_message_and_its_duplicates_but_no_replay_and_no_other_work() {
    let record = rejected(true);
    for duplicate in [
        request("c2", "m1", "p"),
        replayed("c2", "m1", "p"),
        request("c2", "m2", "p"),
        request("c2", "m2", ""),
    ] {
        let answer = answered(decide_claim(Some(&record), &duplicate, at(5)));
        assert_eq!(answer, ClaimAnswer::Rejected, "{duplicate:?}");
    }
    let (fresh, claim) = taken(decide_claim(Some(&record), &replayed("c2", "m2", "p"), at(5)));
    assert_eq!((claim.attempts, claim.last_error.as_deref()), (0, None));
    assert_eq!((fresh.dead_letter_sent, fresh.first_seen), (false, record.first_seen));
    assert_eq!(claim.checkpoint.as_deref(), Some(&b"half"[..]));
    let (edited, claim) = taken(decide_claim(Some(&record), &replayed("c2", "m2", "edited"), at(5)));
    assert_eq!(claim.checkpoint, None);
    assert_eq!(edited.fingerprint, Some(Fingerprint::of(b"edited")));
    taken(decide_claim(Some(&record), &request("c2", "m2", "edited"), at(5)));
}

#[test]
fn inv03_every_write_repeated_after_a_lost_reply_has_succeeded() {
    let (record, claim) = first();
    let changes = [
        Change::Start,
        checkpoint(1, "half"),
        Change::Complete {
            result: StoredResult::Omitted,
        },
        Change::Release { failure: None },
        failure(1),
        Change::Reject(rejection()),
    ];
    for change in changes {
        let done = changed(&record, &claim, change.clone(), at(1));
        let again = apply_write(Some(&done), &Write::new(claim.clone(), change.clone()), at(2));
        assert_eq!(again, Applied::AlreadyDone(DONE), "{change:?}");
    }
    let sent = rejected(true);
    let again = apply_write(Some(&sent), &Write::new(claim, Change::DeadLetterSent), at(2));
    assert_eq!(again, Applied::AlreadyDone(DONE));
}

#[test]
fn inv03_a_checkpoint_that_arrives_late_does_not_replace_a_newer_one() {
    let (record, claim) = first();
    let later = changed(&record, &claim, checkpoint(2, "later"), at(1));
    let late = apply_write(Some(&later), &Write::new(claim.clone(), checkpoint(1, "early")), at(2));
    assert_eq!(late, Applied::AlreadyDone(DONE));
    let next = changed(&later, &claim, checkpoint(3, "early"), at(2));
    assert_eq!(next.checkpoint, Some(Bytes::from("early")), "saved anew it does");
    let record = changed(&next, &claim, failure(1), at(3));
    let (record, claim) = taken(decide_claim(Some(&record), &request("c2", "m1", "p"), at(4)));
    let record = changed(&record, &claim, checkpoint(1, "again"), at(5));
    assert_eq!(
        record.checkpoint,
        Some(Bytes::from("again")),
        "each claim counts its own"
    );
}

#[test]
fn inv03_a_lease_is_never_shortened_and_what_has_ended_is_never_renewed() {
    let (record, claim) = first();
    let renew = |record: &Record, time| {
        let write = Write::new(claim.clone(), Change::Renew { lease: LEASE });
        apply_write(Some(record), &write, time)
    };
    let Applied::Changed(renewed, written) = renew(&record, at(10_000)) else {
        panic!("not renewed");
    };
    assert_eq!(renewed.lease_until, T0 + 41_000);
    assert_eq!(written.lease_until, Some(T0 + 41_000));
    let late = renew(&renewed, at(5_000));
    assert_eq!(
        late,
        Applied::AlreadyDone(Written {
            lease_until: Some(T0 + 41_000)
        })
    );
    assert!(matches!(renew(&rejected(false), at(1)), Applied::Changed(..)));
    let release = Change::Release { failure: None };
    let complete = Change::Complete {
        result: StoredResult::Nothing,
    };
    for ended in [
        changed(&record, &claim, release, at(1)),
        changed(&record, &claim, complete, at(1)),
        rejected(true),
    ] {
        assert_eq!(renew(&ended, at(2)), Applied::Lost, "{ended:?}");
    }
    assert_eq!(
        apply_write(None, &Write::new(claim.clone(), Change::Start), at(1)),
        Applied::Lost
    );
}

#[test]
fn results_and_errors_over_their_bounds_are_cut_and_checkpoints_refused() {
    let (_, claim) = first();
    let bound = |change| within_bounds(Write::new(claim.clone(), change), 10).map(|write| write.change);
    let json = |size: usize| Change::Complete {
        result: StoredResult::Json(Bytes::from(vec![b'1'; size])),
    };
    assert_eq!(bound(json(10)).unwrap(), json(10));
    let omitted = Change::Complete {
        result: StoredResult::Omitted,
    };
    assert_eq!(bound(json(11)).unwrap(), omitted);
    let checkpoint = |size: usize| Change::Checkpoint {
        serial: 1,
        data: Bytes::from(vec![0; size]),
    };
    assert_eq!(bound(checkpoint(10)).unwrap(), checkpoint(10));
    let refused = bound(checkpoint(11)).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "a checkpoint of 11 bytes is over the 10 bytes allowed"
    );
    let Change::Reject(cut) = bound(Change::Reject(Rejection {
        error: "ä".repeat(2_000),
        ..rejection()
    }))
    .unwrap() else {
        panic!("another change");
    };
    assert!(cut.error.len() <= MAX_ERROR_BYTES);
}

#[test]
fn only_the_first_claim_of_a_key_in_a_batch_is_tried() {
    let other = ClaimRequest {
        key: RecordKey::new("orders", &Key::new("other")),
        ..request("c3", "m3", "p")
    };
    let batch = [
        request("c1", "m1", "p"),
        request("c2", "m1", "p"),
        other,
        request("c4", "m1", "p"),
    ];
    assert_eq!(repeats(&batch), [None, Some(0), None, Some(0)]);
    let many: Vec<ClaimRequest> = batch.iter().cycle().take(40).cloned().collect();
    let expected = (0..40).map(|n| match (n, n % 4) {
        (0 | 2, _) => None,
        (_, 2) => Some(2),
        _ => Some(0),
    });
    assert!(repeats(&many).into_iter().eq(expected), "of any number");
    let (_, claim) = first();
    let running = |millis| ClaimAnswer::Running {
        lease_left: Duration::from_millis(millis),
    };
    assert_eq!(
        behind(&Ok(ClaimAnswer::Claimed(claim)), &batch[1], at(0)),
        running(31_000)
    );
    assert_eq!(behind(&Ok(ClaimAnswer::Rejected), &batch[1], at(0)), running(0));
    assert_eq!(behind(&Err(InboxError::NoAnswer), &batch[1], at(0)), running(30_000));
}
