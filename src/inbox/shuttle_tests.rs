//! Inboxes under many orders of the threads that share them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::time::Duration;

use shuttle::future::block_on;
use shuttle::thread;

use super::service_clock::{Observed, SharedServiceClock};
use super::*;
use crate::clock::Clock;
use crate::key::Key;
use crate::sync::explore;

fn request(claim_id: String) -> ClaimRequest {
    ClaimRequest {
        key: RecordKey::new("orders", &Key::new("k")),
        claim_id,
        message_id: "m".into(),
        fingerprint: None,
        lease: Duration::from_secs(30),
        retention: Duration::from_secs(3_600),
        receive_count: 1,
        replayed: false,
    }
}

#[test]
fn inv02_shuttle_of_threads_that_claim_one_key_one_gets_it_and_one_completes_it() {
    explore(3_000, || {
        let inbox = MemoryInbox::new();
        let claiming: Vec<_> = (0..3)
            .map(|n| {
                let inbox = inbox.clone();
                thread::spawn(move || {
                    let mut answers = block_on(inbox.claim(vec![request(format!("c{n}"))]));
                    match answers.remove(0).unwrap() {
                        ClaimAnswer::Claimed(claim) => {
                            let result = StoredResult::Nothing;
                            let written = block_on(inbox.write(vec![Write::new(claim, Change::Complete { result })]));
                            assert!(written[0].is_ok());
                            (1, 0)
                        }
                        ClaimAnswer::Completed(_) => (0, 1),
                        ClaimAnswer::Running { .. } => (0, 0),
                        other => panic!("{other:?}"),
                    }
                })
            })
            .collect();
        let claimed: usize = claiming.into_iter().map(|claiming| claiming.join().unwrap().0).sum();
        assert_eq!(claimed, 1);
        let counts = inbox.calls();
        assert_eq!(
            (
                counts.claims.calls,
                counts.writes.calls,
                counts.claims.failed_conditions
            ),
            (3, 1, 2)
        );
    });
}

#[test]
fn inv03_shuttle_of_threads_that_write_under_one_claim_the_first_outcome_stays() {
    explore(3_000, || {
        let inbox = MemoryInbox::new();
        let Ok(ClaimAnswer::Claimed(claim)) = block_on(inbox.claim(vec![request("c".into())])).remove(0) else {
            panic!("nobody else claims");
        };
        let changes = [
            Change::Complete {
                result: StoredResult::Nothing,
            },
            Change::Release { failure: None },
            Change::Renew {
                lease: Duration::from_secs(60),
            },
        ];
        let writing: Vec<_> = changes
            .into_iter()
            .map(|change| {
                let (inbox, write) = (inbox.clone(), Write::new(claim.clone(), change));
                thread::spawn(move || block_on(inbox.write(vec![write])).remove(0).is_ok())
            })
            .collect();
        let made: Vec<bool> = writing.into_iter().map(|write| write.join().unwrap()).collect();
        assert!(made[0] != made[1], "{made:?}");
        let status = inbox.record(&claim.key).unwrap().status;
        assert_eq!(status == Status::Completed, made[0], "{status:?}");
    });
}

#[test]
fn shuttle_the_services_time_is_within_its_bounds_whatever_order_answers_are_taken_in() {
    explore(3_000, || {
        const START_S: u64 = 1_800_000_000;
        let (clock, origin) = (SharedServiceClock::default(), Clock::system().now());
        let at = move |ms: u64| origin + Duration::from_millis(ms);
        let answers: Vec<_> = [(950u64, 990u64), (700, 1_010), (1_990, 2_020)]
            .into_iter()
            .map(|(sent, received)| {
                let clock = clock.clone();
                let date_s = START_S + received / 1_000;
                thread::spawn(move || clock.observe(at(sent), at(received), date_s))
            })
            .collect();
        for now in [2_100, 5_000] {
            if let Some(time) = clock.time(at(now)) {
                let truth = START_S * 1_000 + now;
                assert!(time.lo <= truth && truth <= time.hi, "{now} {time:?}");
            }
        }
        for answer in answers {
            assert_eq!(answer.join().unwrap(), Observed::Used);
        }
        let time = clock.time(at(2_100)).unwrap();
        assert!(time.hi - time.lo < 80, "all three were taken in: {time:?}");
        assert_eq!(clock.restarts(), 0);
    });
}
