//! What every inbox must do, whatever it stands on. An engine joins with an [`InboxLab`] and [`inbox_conformance!`].
//!
//! Every case runs twice: with calls of one entry, and with each call padded to a batch, since engines take other paths by
//! size.

#[path = "inbox_conformance/claims.rs"]
mod claims;
#[path = "inbox_conformance/fences.rs"]
mod fences;
#[path = "inbox_conformance/outcomes.rs"]
mod outcomes;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use redrive::inbox::{
    Attempted, Change, Claim, ClaimAnswer, ClaimRequest, Inbox, InboxError, MAX_DEATHS, Record, Rejection, Status,
    Write, Written,
};
use redrive::key::{Fingerprint, Key, RecordKey};
use redrive::outcome::{MAX_ERROR_BYTES, Reason, StoredResult};
use tokio::sync::Barrier;
use tokio::task::JoinSet;

pub(crate) use claims::*;
pub(crate) use fences::*;
pub(crate) use outcomes::*;

/// A lease that outlives every case.
const LONG: Duration = Duration::from_secs(600);

/// A lease that is waited for.
const SHORT: Duration = Duration::from_secs(1);

const RETENTION: Duration = Duration::from_secs(24 * 3600);

/// Where an engine is known to differ from what the suite asks for otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deviation {
    /// Its time is known only to lie between bounds some seconds apart, since answers carry it in whole seconds.
    CoarseTime,
}

/// Each engine's deviations.
pub(crate) const DEVIATIONS: &[(&str, &[Deviation])] = &[("memory", &[]), ("dynamodb-local", &[Deviation::CoarseTime])];

/// An engine, ready to be tested.
pub(crate) trait InboxLab: Send + Sync {
    /// Its name in [`DEVIATIONS`].
    fn engine(&self) -> &'static str;

    /// An inbox that holds nothing of [`consumer`](Self::consumer)'s.
    fn inbox(&self) -> Arc<dyn Inbox>;

    /// A consumer that no other case, and no earlier run, has used.
    fn consumer(&self) -> String;

    /// Lets this much time pass for the inbox, virtual or real.
    fn pass(&self, time: Duration) -> BoxFuture<'_, ()>;

    /// Stores a record past all rules.
    fn plant(&self, record: Record) -> BoxFuture<'_, ()>;

    /// Removes a record past all rules.
    fn remove<'a>(&'a self, key: &'a RecordKey) -> BoxFuture<'a, ()>;
}

/// How calls are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Calls {
    /// With the one entry that is meant.
    Single,
    /// With entries of other keys before and behind it.
    Padded,
}

/// A lab with a case's helpers.
pub(crate) struct Bench {
    lab: Box<dyn InboxLab>,
    inbox: Arc<dyn Inbox>,
    calls: Calls,
    consumer: String,
    counter: AtomicU64,
}

impl Bench {
    /// A bench in `lab`.
    pub(crate) fn new(lab: impl InboxLab + 'static, calls: Calls) -> Self {
        let known = DEVIATIONS.iter().any(|(engine, _)| *engine == lab.engine());
        assert!(known, "name {} in DEVIATIONS", lab.engine());
        Self {
            inbox: lab.inbox(),
            consumer: lab.consumer(),
            lab: Box::new(lab),
            calls,
            counter: AtomicU64::new(0),
        }
    }

    fn deviates(&self, deviation: Deviation) -> bool {
        let engine = self.lab.engine();
        DEVIATIONS
            .iter()
            .any(|(name, all)| *name == engine && all.contains(&deviation))
    }

    fn key(&self, name: impl Into<Arc<str>>) -> RecordKey {
        RecordKey::new(&self.consumer, &Key::new(name))
    }

    fn unique(&self, what: &str) -> String {
        format!("{what}-{}", self.counter.fetch_add(1, Ordering::Relaxed))
    }

    /// A claim of its own of `key`, for a message with this payload.
    fn request(&self, key: &RecordKey, message: &str, payload: &str) -> ClaimRequest {
        ClaimRequest {
            key: key.clone(),
            claim_id: self.unique("claim"),
            message_id: message.into(),
            fingerprint: (!payload.is_empty()).then(|| Fingerprint::of(payload.as_bytes())),
            lease: LONG,
            retention: RETENTION,
            receive_count: 1,
            replayed: false,
        }
    }

    /// The same, by a delivery that carries our dead-letter envelope.
    fn replay(&self, key: &RecordKey, message: &str, payload: &str) -> ClaimRequest {
        ClaimRequest {
            replayed: true,
            ..self.request(key, message, payload)
        }
    }

    /// The same with a lease that runs out soon.
    fn brief(&self, key: &RecordKey, message: &str, payload: &str) -> ClaimRequest {
        ClaimRequest {
            lease: SHORT,
            ..self.request(key, message, payload)
        }
    }

    fn filler(&self) -> ClaimRequest {
        let name = self.unique("filler");
        self.request(&self.key(name.as_str()), &name, "filler")
    }

    async fn claim(&self, request: ClaimRequest) -> ClaimAnswer {
        let (batch, position) = match self.calls {
            Calls::Single => (vec![request], 0),
            Calls::Padded => (vec![self.filler(), request, self.filler()], 1),
        };
        let expected = batch.len();
        let mut answers = self.inbox.claim(batch).await;
        assert_eq!(answers.len(), expected, "every entry is answered");
        answers.swap_remove(position).expect("the claim is answered")
    }

    #[track_caller]
    fn won(answer: ClaimAnswer) -> Arc<Claim> {
        match answer {
            ClaimAnswer::Claimed(claim) => claim,
            other => panic!("not claimed: {other:?}"),
        }
    }

    async fn win(&self, request: ClaimRequest) -> Arc<Claim> {
        let asked = format!("{request:?}");
        match self.claim(request).await {
            ClaimAnswer::Claimed(claim) => claim,
            other => panic!("not claimed: {other:?} to {asked}"),
        }
    }

    async fn write(&self, claim: &Arc<Claim>, change: Change) -> Result<Written, InboxError> {
        let write = Write::new(claim.clone(), change);
        let (batch, position) = match self.calls {
            Calls::Single => (vec![write], 0),
            Calls::Padded => {
                let mut padding = self.inbox.claim(vec![self.filler(), self.filler()]).await;
                let mut pad = || {
                    let claim = Self::won(padding.pop().expect("two").expect("claimed"));
                    Write::new(claim, Change::Release { failure: None })
                };
                (vec![pad(), write, pad()], 1)
            }
        };
        let expected = batch.len();
        let mut answers = self.inbox.write(batch).await;
        assert_eq!(answers.len(), expected, "every entry is answered");
        answers.swap_remove(position)
    }

    async fn written(&self, claim: &Arc<Claim>, change: Change) -> Written {
        let shown = format!("{change:?}");
        match self.write(claim, change).await {
            Ok(written) => written,
            Err(error) => panic!("{shown}: {error}"),
        }
    }

    async fn stored(&self, key: &RecordKey) -> Option<Record> {
        self.inbox.get(key).await.expect("the record is read")
    }

    async fn record(&self, key: &RecordKey) -> Record {
        self.stored(key).await.expect("there is a record")
    }

    /// Waits until a lease that ends then has certainly run out.
    async fn run_out(&self, lease_until: u64) {
        let nothing = self.key("nothing");
        while self.inbox.time().lo < lease_until {
            self.lab.pass(Duration::from_millis(100)).await;
            // An engine that learns the time from answers needs some.
            assert_eq!(self.stored(&nothing).await, None);
        }
    }

    /// A record like one that a claim at an earlier time left, its lease long run out.
    fn past(&self, key: &RecordKey, status: Status, message: &str, payload: &str) -> Record {
        let now = self.inbox.time().lo;
        let mut record = Record::new(key.clone());
        record.status = status;
        record.claim_id = self.unique("past");
        record.fencing_token = now - 600_000;
        record.lease_until = now - 300_000;
        record.fingerprint = Some(Fingerprint::of(payload.as_bytes()));
        record.message_id = message.into();
        record.first_seen = now - 900_000;
        record.expires_at = now / 1000 + 3600;
        record
    }

    async fn plant(&self, record: &Record) {
        self.lab.plant(record.clone()).await;
    }
}

fn failure(attempts: u32, error: &str) -> Change {
    Change::Release {
        failure: Some(Attempted {
            attempts,
            error: error.into(),
        }),
    }
}

const UNRUN: Change = Change::Release { failure: None };

fn done() -> Change {
    Change::Complete {
        result: StoredResult::Json(Bytes::from_static(b"{\"charged\":7}")),
    }
}

fn rejection() -> Rejection {
    Rejection {
        reason: Reason::Other("card_declined".into()),
        error: "the card was declined".into(),
        attempts: 3,
    }
}

fn checkpoint(serial: u64, data: &'static [u8]) -> Change {
    Change::Checkpoint {
        serial,
        data: Bytes::from_static(data),
    }
}

fn every_change() -> Vec<Change> {
    vec![
        Change::Renew { lease: LONG },
        Change::Start,
        checkpoint(9, b"zombie"),
        done(),
        UNRUN,
        failure(9, "zombie"),
        Change::Reject(rejection()),
        Change::DeadLetterSent,
    ]
}

fn is_running(answer: &ClaimAnswer) -> bool {
    matches!(answer, ClaimAnswer::Running { .. })
}

#[track_caller]
fn assert_lost(answer: Result<Written, InboxError>, key: &RecordKey, what: &str) {
    match answer {
        Err(InboxError::LeaseLost { key: named }) => assert_eq!(&named, key),
        other => panic!("{what}: {other:?}"),
    }
}

/// Runs the suite: `inbox_conformance!(lab, tokio::test(start_paused = true))`, where `lab` is an async function that makes
/// an [`InboxLab`], or none where the engine's tests are left out, and the attribute is what makes tests of the cases that
/// need one thread only.
#[macro_export]
macro_rules! inbox_conformance {
    ($lab:ident, $test:meta) => {
        $crate::inbox_conformance!(@calls single, Single, $lab, $test);
        $crate::inbox_conformance!(@calls padded, Padded, $lab, $test);

        mod racing {
            use super::inbox_conformance::{self as suite, Bench, Calls};

            #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn inv02_of_fifty_racing_claims_exactly_one_wins() {
                let Some(lab) = super::$lab().await else { return };
                let bench = Bench::new(lab, Calls::Single);
                suite::inv02_of_fifty_racing_claims_exactly_one_wins(bench).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn inv02_completing_and_taking_over_at_once_never_both_succeed() {
                for calls in [Calls::Single, Calls::Padded] {
                    let Some(lab) = super::$lab().await else { return };
                    let bench = Bench::new(lab, calls);
                    suite::inv02_completing_and_taking_over_at_once_never_both_succeed(bench).await;
                }
            }
        }
    };
    (@calls $module:ident, $calls:ident, $lab:ident, $test:meta) => {
        $crate::inbox_conformance!(@cases $module, $calls, $lab, $test,
            inv03_a_zombie_can_write_nothing,
            inv03_every_write_needs_both_the_id_and_the_token,
            inv03_a_removed_record_is_not_brought_back_and_tokens_still_grow,
            inv03_what_is_repeated_after_a_lost_reply_succeeds,
            inv03_a_checkpoint_that_arrives_late_does_not_replace_a_newer_one,
            inv02_of_one_key_twice_in_a_batch_only_the_first_is_claimed,
            inv11_large_batches_answer_every_entry_by_its_position,
            changes_of_one_key_in_one_batch_keep_their_order,
            empty_batches_are_answered_by_nothing,
            another_payload_under_a_running_or_completed_key_is_a_mismatch,
            a_duplicate_is_told_the_result,
            inv05_results_and_errors_over_their_bounds_do_not_fail_the_write,
            inv05_a_checkpoint_outlives_its_run_and_is_bounded,
            deaths_are_counted_of_started_suspects_only,
            inv02_a_run_out_lease_is_taken_over_and_a_live_one_is_not,
            inv02_a_renewed_lease_holds,
            an_expired_record_is_none_although_it_is_stored,
            a_record_is_kept_for_its_retention_from_its_last_write,
            inv01_a_half_done_dead_letter_is_finished_not_run,
            a_sent_rejection_suppresses_duplicates_and_lets_replays_run,
            inv09_attempts_belong_to_one_message_and_only_failures_count,
            inv08_a_released_key_is_claimable_at_once,
            a_record_is_read_as_it_was_stored,
            inv12_keys_of_any_text_are_told_apart,
            the_time_is_bounded_and_moves,
        );
    };
    (@cases $module:ident, $calls:ident, $lab:ident, $test:meta, $($case:ident),+ $(,)?) => {
        mod $module {
            use super::inbox_conformance::{self as suite, Bench, Calls};
            $(
                #[$test]
                async fn $case() {
                    let Some(lab) = super::$lab().await else { return };
                    suite::$case(Bench::new(lab, Calls::$calls)).await;
                }
            )+
        }
    };
}
