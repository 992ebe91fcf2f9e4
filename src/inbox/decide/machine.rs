//! Histories drawn at random: several workers, each with its own bounds of the time, claim one key and write under whatever
//! claims they were ever given.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::inbox::{Attempted, Claim, Rejection};
use crate::key::{Fingerprint, Key};
use crate::outcome::Reason;

const LEASE_MS: u64 = 10_000;

#[derive(Clone, Debug)]
enum Step {
    Wait(u64),
    Claim {
        message: u8,
        payload: Option<u8>,
        replayed: bool,
    },
    /// The last claim again, its reply lost.
    ClaimAgain,
    Write {
        claim: prop::sample::Index,
        change: Change,
    },
}

/// What a worker knows of the service's time: how far below and above the truth its bounds are.
type Bounds = (u64, u64);

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        4 => (1..=LEASE_MS).prop_map(|ms| Change::Renew { lease: Duration::from_millis(ms) }),
        2 => Just(Change::Start),
        1 => (any::<u8>(), 1..4_u64).prop_map(|(n, serial)| Change::Checkpoint { serial, data: vec![n].into() }),
        2 => Just(Change::Complete { result: StoredResult::Nothing }),
        2 => Just(Change::Release { failure: None }),
        2 => (1..9_u32).prop_map(|attempts| Change::Release {
            failure: Some(Attempted { attempts, error: "failed".into() }),
        }),
        1 => (1..9_u32).prop_map(|attempts| Change::Reject(Rejection {
            reason: Reason::Rejected,
            error: "rejected".into(),
            attempts,
        })),
        2 => Just(Change::DeadLetterSent),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..LEASE_MS * 3 / 2).prop_map(Step::Wait),
        5 => (0..3_u8, prop::option::of(0..2_u8), any::<bool>())
            .prop_map(|(message, payload, replayed)| Step::Claim { message, payload, replayed }),
        1 => Just(Step::ClaimAgain),
        6 => (any::<prop::sample::Index>(), change()).prop_map(|(claim, change)| Step::Write { claim, change }),
    ]
}

/// One key, and what its claims were told.
#[derive(Default)]
struct History {
    now: u64,
    record: Option<Record>,
    requests: Vec<ClaimRequest>,
    /// Every claim given, in order, with the end of its lease as its holder knows it.
    claims: Vec<(Arc<Claim>, u64)>,
    completed_by: Vec<String>,
}

impl History {
    fn time(&self, (below, above): Bounds) -> ServiceTime {
        ServiceTime {
            lo: self.now - below,
            hi: self.now + above,
        }
    }

    fn claim(&mut self, request: ClaimRequest, time: ServiceTime) {
        let before = self.record.clone();
        let decision = decide_claim(before.as_ref(), &request, time);
        self.requests.push(request.clone());
        let answer = match decision {
            Decision::Take(record, answer) => {
                self.check_take(before.as_ref(), &record);
                self.record = Some(*record);
                answer
            }
            Decision::Answer(answer) => answer,
        };
        if let ClaimAnswer::Claimed(claim) | ClaimAnswer::FinishDeadLetter(claim, _) = answer {
            assert_eq!(claim.claim_id, request.claim_id, "a claim is given to who asked");
            let record = self.record.as_ref().unwrap();
            assert_eq!(claim.fencing_token, record.fencing_token);
            let lease_until = claim.lease_until;
            self.claims.push((claim, lease_until));
        }
    }

    fn check_take(&self, before: Option<&Record>, after: &Record) {
        let Some(before) = before else { return };
        assert!(after.fencing_token > before.fencing_token, "tokens only grow");
        assert!(after.attempts <= before.attempts, "no claim counts an attempt");
        assert_ne!(before.status, Status::Completed, "nothing completed is ever run again");
        let unfinished = matches!(before.status, Status::Processing)
            || (before.status == Status::Rejected && !before.dead_letter_sent);
        if unfinished && before.claim_id != after.claim_id {
            for (claim, lease_until) in &self.claims {
                assert!(
                    claim.fencing_token != before.fencing_token || *lease_until <= self.now,
                    "taken over while its holder trusts its lease, at {}: {claim:?}",
                    self.now
                );
            }
        }
    }

    fn write(&mut self, position: usize, change: Change, time: ServiceTime) {
        let (claim, lease_until) = &mut self.claims[position];
        let write = Write::new(claim.clone(), change);
        let current = self.record.as_ref().unwrap();
        let last = current.claim_id == claim.claim_id && current.fencing_token == claim.fencing_token;
        match apply_write(self.record.as_ref(), &write, time) {
            Applied::Lost => {}
            Applied::AlreadyDone(written) => {
                assert!(last, "a claim that was passed over is never told of success");
                *lease_until = written.lease_until.unwrap_or(*lease_until);
            }
            Applied::Changed(record, written) => {
                assert!(last, "a claim that was passed over never changes anything");
                assert_eq!(record.fencing_token, current.fencing_token);
                assert!(record.lease_until >= current.lease_until, "no lease is shortened");
                assert!(record.expires_at * 1000 >= record.lease_until);
                let counts = matches!(write.change, Change::Release { failure: Some(_) } | Change::Reject(_));
                assert!(
                    counts || record.attempts == current.attempts,
                    "only failures count attempts"
                );
                *lease_until = written.lease_until.unwrap_or(*lease_until);
                if matches!(write.change, Change::Complete { .. }) {
                    self.completed_by.push(write.claim.claim_id.clone());
                }
                let again = apply_write(Some(&record), &write, time);
                assert!(matches!(again, Applied::AlreadyDone(_)), "{write:?} again: {again:?}");
                self.record = Some(*record);
            }
        }
        assert!(self.completed_by.len() <= 1, "completed twice: {:?}", self.completed_by);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn inv02_inv03_inv09_hold_in_every_history(
        steps in prop::collection::vec((step(), (0..900_u64, 0..900_u64)), 1..60)
    ) {
        let mut history = History { now: 1_700_000_000_000, ..History::default() };
        for (number, (step, bounds)) in steps.into_iter().enumerate() {
            let time = history.time(bounds);
            match step {
                Step::Wait(ms) => history.now += ms,
                Step::Claim { message, payload, replayed } => {
                    let request = ClaimRequest {
                        key: RecordKey::new("orders", &Key::new("k")),
                        claim_id: format!("c{number}"),
                        message_id: format!("m{message}"),
                        fingerprint: payload.map(|payload| Fingerprint::of(&[payload])),
                        lease: Duration::from_millis(LEASE_MS),
                        retention: Duration::from_secs(3600),
                        receive_count: 1,
                        replayed,
                    };
                    history.claim(request, time);
                }
                Step::ClaimAgain => {
                    if let Some(request) = history.requests.last().cloned() {
                        history.claim(request, time);
                    }
                }
                Step::Write { claim, change } => {
                    if !history.claims.is_empty() {
                        let position = claim.index(history.claims.len());
                        history.write(position, change, time);
                    }
                }
            }
        }
    }
}
