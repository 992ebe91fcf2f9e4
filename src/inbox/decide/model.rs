//! The claim decisions against the table of who may claim what, written down a second time as plainly as can be: workers with
//! clocks of their own, several messages and payloads under one key, lost replies, operators, and records that vanish.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::inbox::decide::operator::{Hold, is_stuck, released};
use crate::inbox::{Attempted, Claim, Rejection};
use crate::key::{Fingerprint, Key};
use crate::outcome::Reason;
use crate::prop::cases;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Working,
    Done,
    GivenUp { told: bool },
    Back,
}

/// All that anybody knows of the key.
#[derive(Clone, Debug, PartialEq)]
struct Spec {
    stage: Stage,
    owner: String,
    token: u64,
    lease_end: u64,
    ends_s: u64,
    message: String,
    payload: Option<Fingerprint>,
    attempts: u32,
    error: Option<String>,
    reason: Option<String>,
    deaths: u32,
    announced: bool,
    notes: Option<Bytes>,
    newest_note: u64,
    result: StoredResult,
    first_seen: u64,
}

/// What a delivery is to be told.
#[derive(Clone, Debug, PartialEq)]
enum Told {
    Run { suspect: bool },
    SendDeadLetter(Rejection),
    Duplicate(StoredResult),
    GivenUp,
    Mismatch,
    Wait(Duration),
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap()
}

impl Spec {
    fn new(time: ServiceTime) -> Self {
        Self {
            stage: Stage::Back,
            owner: String::new(),
            token: 0,
            lease_end: 0,
            ends_s: 0,
            message: String::new(),
            payload: None,
            attempts: 0,
            error: None,
            reason: None,
            deaths: 0,
            announced: false,
            notes: None,
            newest_note: 0,
            result: StoredResult::Nothing,
            first_seen: time.hi,
        }
    }

    fn has_ended(&self, time: ServiceTime) -> bool {
        self.ends_s * 1_000 <= time.lo
    }

    /// The key's new state and what the delivery is told.
    fn claim(known: Option<&Self>, ask: &ClaimRequest, time: ServiceTime) -> (Option<Self>, Told) {
        let Some(old) = known else {
            return Self::new(time).run(ask, time, false);
        };
        if old.has_ended(time) {
            let mut fresh = Self::new(time);
            fresh.token = old.token;
            return fresh.run(ask, time, false);
        }
        let same_message = old.message == ask.message_id;
        let same_payload =
            same_message || old.payload.is_none() || ask.fingerprint.is_none() || old.payload == ask.fingerprint;
        let same_death = same_message || (same_payload && !ask.replayed);
        let in_force = time.lo < old.lease_end;
        let mine = old.owner == ask.claim_id;
        let wait = Told::Wait(Duration::from_millis(old.lease_end.saturating_sub(time.lo)));
        let keep = Some(old.clone());
        let afresh = |ran_out: bool| {
            let mut next = Self::new(time);
            next.token = old.token;
            next.first_seen = old.first_seen;
            if same_message {
                next.attempts = old.attempts;
                next.error.clone_from(&old.error);
            }
            if same_death {
                next.deaths = old.deaths + u32::from(old.announced);
            }
            if same_payload {
                next.notes.clone_from(&old.notes);
            }
            next.run(ask, time, ran_out)
        };
        match (old.stage, in_force) {
            (Stage::Done, _) if same_payload => (keep, Told::Duplicate(old.result.clone())),
            (Stage::Done, _) => (keep, Told::Mismatch),
            (Stage::Working, true) if mine => {
                let suspect = old.deaths > 0 || old.token != old.first_seen;
                (keep, Told::Run { suspect })
            }
            (Stage::Working, true) if same_payload => (keep, wait),
            (Stage::Working, true) => (keep, Told::Mismatch),
            (Stage::Working, false) => afresh(true),
            (Stage::Back, _) => afresh(false),
            (Stage::GivenUp { told: true }, _) if same_death => (keep, Told::GivenUp),
            (Stage::GivenUp { told: true }, _) => afresh(false),
            (Stage::GivenUp { told: false }, true) if !mine => (keep, wait),
            (Stage::GivenUp { told: false }, _) if !same_death => afresh(false),
            (Stage::GivenUp { told: false }, _) => {
                let told = Told::SendDeadLetter(Rejection {
                    reason: Reason::from_text(old.reason.as_deref().unwrap()),
                    error: old.error.clone().unwrap(),
                    attempts: old.attempts,
                });
                let mut next = old.clone();
                if !(mine && in_force) {
                    next.hold(ask, time);
                }
                (Some(next), told)
            }
        }
    }

    fn run(mut self, ask: &ClaimRequest, time: ServiceTime, ran_out: bool) -> (Option<Self>, Told) {
        self.stage = Stage::Working;
        self.message.clone_from(&ask.message_id);
        self.payload = ask.fingerprint;
        self.hold(ask, time);
        let suspect = ran_out || self.deaths > 0;
        (Some(self), Told::Run { suspect })
    }

    fn hold(&mut self, ask: &ClaimRequest, time: ServiceTime) {
        self.owner.clone_from(&ask.claim_id);
        self.token = (self.token + 1).max(time.hi);
        self.lease_end = time.hi + ms(ask.lease);
        self.keep(ask.retention, time);
    }

    fn keep(&mut self, retention: Duration, time: ServiceTime) {
        self.ends_s = (time.hi + ms(retention)).max(self.lease_end).div_ceil(1_000);
    }

    /// The key's state after a write, and what the holder is told of its lease; `None` where the claim is lost.
    fn write(known: Option<&Self>, write: &Write, time: ServiceTime) -> Option<(Self, Option<u64>)> {
        let old = known?;
        if (&old.owner, old.token) != (&write.claim.claim_id, write.claim.fencing_token) {
            return None;
        }
        let mut next = old.clone();
        let mut lease = None;
        let wanted = match &write.change {
            Change::Complete { .. } => Some(Stage::Done),
            Change::Release { .. } => Some(Stage::Back),
            Change::Reject(_) => Some(Stage::GivenUp { told: false }),
            _ => None,
        };
        let rejected = matches!(old.stage, Stage::GivenUp { .. });
        let repeated = match wanted {
            Some(Stage::GivenUp { .. }) => rejected,
            Some(stage) => stage == old.stage,
            None => false,
        };
        if repeated {
            return Some((next, None));
        }
        match (&write.change, old.stage) {
            (Change::Renew { lease: most }, Stage::Working | Stage::GivenUp { told: false }) => {
                next.lease_end = next.lease_end.max(time.hi + ms(*most));
                lease = Some(next.lease_end);
            }
            (Change::DeadLetterSent, Stage::GivenUp { .. }) => next.stage = Stage::GivenUp { told: true },
            (Change::Start, Stage::Working) => next.announced = true,
            (Change::Checkpoint { serial, data }, Stage::Working) => {
                if *serial > old.newest_note {
                    next.newest_note = *serial;
                    next.notes = Some(data.clone());
                }
            }
            (Change::Complete { result }, Stage::Working) => {
                next.stage = Stage::Done;
                next.result = result.clone();
                next.notes = None;
                next.announced = false;
            }
            (Change::Release { failure }, Stage::Working) => {
                next.stage = Stage::Back;
                next.announced = false;
                if let Some(failure) = failure {
                    next.attempts = failure.attempts;
                    next.error = Some(failure.error.clone());
                }
            }
            (Change::Reject(rejection), Stage::Working) => {
                next.stage = Stage::GivenUp { told: false };
                next.reason = Some(rejection.reason.as_str().to_owned());
                next.error = Some(rejection.error.clone());
                next.attempts = rejection.attempts;
                next.announced = false;
            }
            _ => return None,
        }
        if next != *old {
            next.keep(write.claim.retention, time);
        }
        Some((next, lease))
    }

    fn of(record: &Record) -> Self {
        Self {
            stage: match record.status {
                Status::Processing => Stage::Working,
                Status::Completed => Stage::Done,
                Status::Released => Stage::Back,
                Status::Rejected => Stage::GivenUp {
                    told: record.dead_letter_sent,
                },
            },
            owner: record.claim_id.clone(),
            token: record.fencing_token,
            lease_end: record.lease_until,
            ends_s: record.expires_at,
            message: record.message_id.clone(),
            payload: record.fingerprint,
            attempts: record.attempts,
            error: record.last_error.clone(),
            reason: record.reason.clone(),
            deaths: record.deaths,
            announced: record.started,
            notes: record.checkpoint.clone(),
            newest_note: record.checkpoint_serial,
            result: record.result.clone(),
            first_seen: record.first_seen,
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Wait(u64),
    Claim {
        message: u8,
        payload: Option<u8>,
        replayed: bool,
    },
    ClaimAgain(prop::sample::Index),
    Write {
        claim: prop::sample::Index,
        late: bool,
        change: Change,
    },
    Operator,
    /// The table's TTL, at last.
    Vanish,
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        4 => (1..12_000u64).prop_map(|ms| Change::Renew { lease: Duration::from_millis(ms) }),
        3 => Just(Change::Start),
        2 => (0..3u8, 1..5u64).prop_map(|(n, serial)| Change::Checkpoint { serial, data: vec![n].into() }),
        1 => (0..2u8).prop_map(|n| Change::Complete { result: StoredResult::Json(vec![b'0' + n].into()) }),
        1 => Just(Change::Release { failure: None }),
        2 => (1..6_u32).prop_map(|attempts| Change::Release {
            failure: Some(Attempted { attempts, error: format!("failed {attempts}") }),
        }),
        2 => (1..6_u32).prop_map(|attempts| Change::Reject(Rejection {
            reason: if attempts > 3 { Reason::AttemptsExhausted } else { Reason::Rejected },
            error: format!("given up {attempts}"),
            attempts,
        })),
        2 => Just(Change::DeadLetterSent),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => prop_oneof![0..50u64, 0..15_000u64, Just(40_000u64)].prop_map(Step::Wait),
        6 => (0..3_u8, prop::option::of(0..2_u8), any::<bool>())
            .prop_map(|(message, payload, replayed)| Step::Claim { message, payload, replayed }),
        2 => any::<prop::sample::Index>().prop_map(Step::ClaimAgain),
        8 => (any::<prop::sample::Index>(), prop::bool::weighted(0.3), change())
            .prop_map(|(claim, late, change)| Step::Write { claim, late, change }),
        1 => Just(Step::Operator),
        1 => Just(Step::Vanish),
    ]
}

/// Engine and model side by side.
#[derive(Default)]
struct Pair {
    record: Option<Record>,
    spec: Option<Spec>,
    claims: Vec<Arc<Claim>>,
    newest: u64,
}

impl Pair {
    fn claim(&mut self, ask: &ClaimRequest, time: ServiceTime) {
        let (spec, told) = Spec::claim(self.spec.as_ref(), ask, time);
        let (record, answer) = match decide_claim(self.record.as_ref(), ask, time) {
            Decision::Take(record, answer) => (Some(*record), answer),
            Decision::Answer(answer) => (self.record.clone(), answer),
        };
        let mut claimed = None;
        let said = match answer {
            ClaimAnswer::Claimed(claim) => {
                let suspect = claim.suspect;
                claimed = Some(claim);
                Told::Run { suspect }
            }
            ClaimAnswer::FinishDeadLetter(claim, rejection) => {
                claimed = Some(claim);
                Told::SendDeadLetter(rejection)
            }
            ClaimAnswer::Completed(result) => Told::Duplicate(result),
            ClaimAnswer::Rejected => Told::GivenUp,
            ClaimAnswer::FingerprintMismatch => Told::Mismatch,
            ClaimAnswer::Running { lease_left } => Told::Wait(lease_left),
        };
        assert_eq!(said, told, "{:?}", self.record);
        if let Some(claim) = claimed {
            let spec = spec.as_ref().unwrap();
            assert_eq!(
                (
                    &claim.claim_id,
                    claim.fencing_token,
                    claim.lease_until,
                    claim.attempts,
                    claim.deaths
                ),
                (&spec.owner, spec.token, spec.lease_end, spec.attempts, spec.deaths)
            );
            assert_eq!((&claim.last_error, &claim.checkpoint), (&spec.error, &spec.notes));
            let news = self
                .claims
                .iter()
                .all(|earlier| earlier.fencing_token != claim.fencing_token);
            assert!(
                !news || claim.fencing_token > self.newest,
                "a token that is no larger than an earlier one"
            );
            self.newest = self.newest.max(claim.fencing_token);
            self.claims.push(claim);
        }
        (self.record, self.spec) = (record, spec);
    }

    fn write(&mut self, write: &Write, time: ServiceTime) {
        let expected = Spec::write(self.spec.as_ref(), write, time);
        match (apply_write(self.record.as_ref(), write, time), expected) {
            (Applied::Lost, None) => {}
            (Applied::AlreadyDone(written), Some((spec, lease))) => {
                assert_eq!(
                    (Some(&spec), written.lease_until),
                    (self.spec.as_ref(), lease),
                    "nothing was to change"
                );
            }
            (Applied::Changed(record, written), Some((spec, lease))) => {
                assert_eq!(written.lease_until, lease);
                (self.record, self.spec) = (Some(*record), Some(spec));
            }
            (applied, expected) => panic!("{write:?}: {applied:?}, not {expected:?}"),
        }
    }

    /// An operator takes the key from whoever has it.
    fn operator(&mut self, name: &str, time: ServiceTime) {
        let (Some(record), Some(spec)) = (&self.record, &mut self.spec) else {
            return;
        };
        let active = matches!(spec.stage, Stage::Working | Stage::GivenUp { told: false });
        let in_force = time.lo < spec.lease_end && !spec.has_ended(time);
        let hold = match active && in_force {
            true => Hold::Until(Duration::from_millis(spec.lease_end - time.lo)),
            false => Hold::Free,
        };
        assert_eq!(Hold::of(record, time), hold);
        let stuck = spec.stage == Stage::Working && time.lo >= spec.lease_end && !spec.has_ended(time);
        assert_eq!(is_stuck(record, time), stuck);
        // The tools show nobody a record that has ended.
        if spec.stage != Stage::Working || spec.has_ended(time) {
            return;
        }
        let after = released(record, name, in_force, time);
        spec.stage = Stage::Back;
        spec.owner = name.to_owned();
        spec.token = (spec.token + 1).max(time.hi);
        spec.lease_end = spec.lease_end.min(time.lo);
        spec.announced = spec.announced && !in_force;
        self.newest = self.newest.max(spec.token);
        self.record = Some(after);
    }
}

proptest! {
    #![proptest_config(cases(768))]

    #[test]
    fn inv02_inv03_inv09_every_decision_is_the_one_of_the_table(
        steps in prop::collection::vec((step(), (0..900_u64, 0..900_u64)), 1..70),
        retention in prop_oneof![Just(5_u64), Just(100), Just(3_600)],
        lease in prop_oneof![Just(1_u64), Just(10_000)],
    ) {
        let mut pair = Pair::default();
        let mut asked: Vec<ClaimRequest> = Vec::new();
        let mut now = 1_700_000_000_000_u64;
        for (number, (step, (below, above))) in steps.into_iter().enumerate() {
            let time = ServiceTime { lo: now - below, hi: now + above };
            match step {
                Step::Wait(ms) => now += ms,
                Step::Claim { message, payload, replayed } => {
                    let ask = ClaimRequest {
                        key: RecordKey::new("orders", &Key::new("k")),
                        claim_id: format!("c{number}"),
                        message_id: format!("m{message}"),
                        fingerprint: payload.map(|payload| Fingerprint::of(&[payload])),
                        lease: Duration::from_millis(lease),
                        retention: Duration::from_secs(retention),
                        receive_count: 1,
                        replayed,
                    };
                    pair.claim(&ask, time);
                    asked.push(ask);
                }
                Step::ClaimAgain(which) if !asked.is_empty() => {
                    // Mostly the last one.
                    let back = which.index(asked.len().min(3));
                    let ask = asked[asked.len() - 1 - back].clone();
                    pair.claim(&ask, time);
                }
                Step::Write { claim, late, change } if !pair.claims.is_empty() => {
                    let last = pair.claims.len() - 1;
                    let claim = if late { claim.index(pair.claims.len()) } else { last };
                    pair.write(&Write::new(pair.claims[claim].clone(), change), time);
                }
                Step::Operator => pair.operator(&format!("operator-{number}"), time),
                Step::Vanish if pair.spec.as_ref().is_some_and(|spec| spec.ends_s * 1_000 <= now) => {
                    (pair.record, pair.spec) = (None, None);
                }
                _ => {}
            }
            prop_assert_eq!(pair.record.as_ref().map(Spec::of), pair.spec.clone());
        }
    }
}
