//! What every inbox must do, whatever it stands on. An engine joins with an [`InboxLab`] and [`inbox_conformance!`].
//!
//! Every case runs twice: with calls of one entry, and with each call padded to a batch, since engines take other paths by
//! size.

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

/// A lease that outlives every case.
const LONG: Duration = Duration::from_secs(600);

/// A lease that is waited for.
const SHORT: Duration = Duration::from_secs(1);

const RETENTION: Duration = Duration::from_secs(24 * 3600);

/// Where an engine is known to differ from what the suite asks for otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deviation {
    /// Its time is known only to lie between bounds some seconds apart, since answers carry it in whole seconds.
    CoarseTime,
}

/// Each engine's deviations.
pub const DEVIATIONS: &[(&str, &[Deviation])] = &[("memory", &[]), ("dynamodb-local", &[Deviation::CoarseTime])];

/// An engine, ready to be tested.
pub trait InboxLab: Send + Sync {
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
pub enum Calls {
    /// With the one entry that is meant.
    Single,
    /// With entries of other keys before and behind it.
    Padded,
}

/// A lab with a case's helpers.
pub struct Bench {
    lab: Box<dyn InboxLab>,
    inbox: Arc<dyn Inbox>,
    calls: Calls,
    consumer: String,
    counter: AtomicU64,
}

impl Bench {
    /// A bench in `lab`.
    pub fn new(lab: impl InboxLab + 'static, calls: Calls) -> Self {
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
        while self.inbox.time().lo < lease_until {
            self.lab.pass(Duration::from_millis(100)).await;
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

fn every_change() -> Vec<Change> {
    vec![
        Change::Renew { lease: LONG },
        Change::Start,
        Change::Checkpoint(Bytes::from_static(b"zombie")),
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

/// 50 tasks race for one key, 200 times: a key never seen, one released, one whose lease ran out, one expired.
pub async fn inv02_of_fifty_racing_claims_exactly_one_wins(bench: Bench) {
    const TASKS: usize = 50;
    const ROUNDS: usize = 200;
    let bench = Arc::new(bench);
    let start = Arc::new(Barrier::new(TASKS));
    // Something must have been answered before the inbox's time means anything.
    bench.win(bench.filler()).await;
    let mut keys = Vec::new();
    for round in 0..ROUNDS {
        let key = bench.key(format!("race-{round}"));
        let planted = match round % 4 {
            0 => None,
            1 => Some(bench.past(&key, Status::Released, "m", "p")),
            2 => Some(bench.past(&key, Status::Processing, "m", "p")),
            _ => {
                let mut record = bench.past(&key, Status::Completed, "m", "p");
                record.expires_at = bench.inbox.time().lo / 1000 - 5;
                Some(record)
            }
        };
        if let Some(record) = planted {
            bench.plant(&record).await;
        }
        keys.push(key);
    }
    let keys = Arc::new(keys);
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        let (bench, start, keys) = (bench.clone(), start.clone(), keys.clone());
        tasks.spawn(async move {
            let mut won = Vec::new();
            for (round, key) in keys.iter().enumerate() {
                let mut request = bench.request(key, "m", "p");
                // Engines may look for a record first where a delivery was received before.
                request.receive_count = 1 + (task % 2) as u32;
                start.wait().await;
                let answers = bench.inbox.claim(vec![request]).await;
                match answers.into_iter().next() {
                    Some(Ok(ClaimAnswer::Claimed(claim))) => won.push((round, claim)),
                    Some(Ok(ClaimAnswer::Running { .. })) => {}
                    other => panic!("round {round}: {other:?}"),
                }
            }
            won
        });
    }
    let mut winners = vec![Vec::new(); ROUNDS];
    while let Some(won) = tasks.join_next().await {
        for (round, claim) in won.expect("the task ends") {
            winners[round].push(claim);
        }
    }
    for (round, claims) in winners.iter().enumerate() {
        let [claim] = claims.as_slice() else {
            panic!("round {round} had {} winners: {claims:?}", claims.len());
        };
        let record = bench.record(&claim.key).await;
        assert_eq!(
            (&record.claim_id, record.fencing_token),
            (&claim.claim_id, claim.fencing_token)
        );
    }
}

/// A holder whose lease ran out completes while others take over: never both.
pub async fn inv02_completing_and_taking_over_at_once_never_both_succeed(bench: Bench) {
    const ROUNDS: usize = 40;
    let bench = Arc::new(bench);
    let mut claims = Vec::new();
    for round in 0..ROUNDS {
        let key = bench.key(format!("late-{round}"));
        claims.push(bench.win(bench.brief(&key, "m", "p")).await);
    }
    let last = claims.iter().map(|claim| claim.lease_until).max().expect("some");
    bench.run_out(last).await;
    let mut kept = 0;
    for claim in &claims {
        let start = Arc::new(Barrier::new(3));
        let mut takers = JoinSet::new();
        for _ in 0..2 {
            let (bench, start, claim) = (bench.clone(), start.clone(), claim.clone());
            takers.spawn(async move {
                start.wait().await;
                bench.claim(bench.request(&claim.key, "m", "p")).await
            });
        }
        start.wait().await;
        let completed = bench.inbox.complete(vec![(claim.clone(), StoredResult::Nothing)]).await;
        let answers = takers.join_all().await;
        let taken: Vec<_> = answers
            .iter()
            .filter(|answer| matches!(answer, ClaimAnswer::Claimed(_)))
            .collect();
        match &completed[0] {
            Ok(_) => {
                kept += 1;
                assert!(taken.is_empty(), "completed and taken over: {taken:?}");
            }
            Err(error) => {
                assert!(error.is_lease_lost(), "{error}");
                assert_eq!(taken.len(), 1, "{answers:?}");
            }
        }
    }
    println!("{kept} of {ROUNDS} late holders completed first");
}

/// A worker that lost its lease tries every write, one by one and all at once, whatever became of the key.
pub async fn inv03_a_zombie_can_write_nothing(bench: Bench) {
    let fates: [(&str, Vec<Change>); 5] = [
        ("running", vec![]),
        ("completed", vec![done()]),
        ("released", vec![UNRUN]),
        ("rejected", vec![Change::Reject(rejection())]),
        ("sent", vec![Change::Reject(rejection()), Change::DeadLetterSent]),
    ];
    let mut zombies = Vec::new();
    for (fate, _) in &fates {
        zombies.push(bench.win(bench.brief(&bench.key(*fate), "m", "p")).await);
    }
    let last = zombies.iter().map(|claim| claim.lease_until).max().expect("some");
    bench.run_out(last).await;
    for ((fate, changes), zombie) in fates.into_iter().zip(zombies) {
        let claim = bench.win(bench.request(&zombie.key, "m", "p")).await;
        assert!(claim.fencing_token > zombie.fencing_token, "tokens grow");
        for change in changes {
            bench.written(&claim, change).await;
        }
        let before = bench.record(&claim.key).await;
        for change in every_change() {
            let what = format!("{change:?} on {fate}");
            assert_lost(bench.write(&zombie, change).await, &zombie.key, &what);
        }
        let all = every_change();
        let all = all.into_iter().map(|change| Write::new(zombie.clone(), change));
        for answer in bench.inbox.write(all.collect()).await {
            assert_lost(answer, &zombie.key, fate);
        }
        assert_eq!(bench.record(&claim.key).await, before, "{fate} is left alone");
    }
}

/// Neither the claim's id nor its token is enough by itself.
pub async fn inv03_every_write_needs_both_the_id_and_the_token(bench: Bench) {
    let key = bench.key("both");
    let claim = bench.win(bench.request(&key, "m", "p")).await;
    let mut older = (*claim).clone();
    older.fencing_token -= 1;
    let mut stranger = (*claim).clone();
    stranger.claim_id.push('x');
    for forged in [Arc::new(older), Arc::new(stranger)] {
        for change in every_change() {
            let what = format!("{change:?}");
            assert_lost(bench.write(&forged, change).await, &key, &what);
        }
    }
    let record = bench.record(&key).await;
    assert_eq!(
        (record.status, record.claim_id),
        (Status::Processing, claim.claim_id.clone())
    );
}

/// What was removed stays removed, and the next claim passes the token all the same.
pub async fn inv03_a_removed_record_is_not_brought_back_and_tokens_still_grow(bench: Bench) {
    let key = bench.key("removed");
    let claim = bench.win(bench.request(&key, "m", "p")).await;
    bench.lab.remove(&key).await;
    for change in every_change() {
        let what = format!("{change:?}");
        assert_lost(bench.write(&claim, change).await, &key, &what);
    }
    assert_eq!(bench.stored(&key).await, None);
    bench.lab.pass(Duration::from_millis(1_100)).await;
    let again = bench.win(bench.request(&key, "m", "p")).await;
    assert!(again.fencing_token > claim.fencing_token);
}

/// Each write made again, its reply lost, succeeds; a claim made again is the same claim.
pub async fn inv03_what_is_repeated_after_a_lost_reply_succeeds(bench: Bench) {
    for (n, changes) in [
        vec![Change::Start, Change::Checkpoint(Bytes::from_static(b"half")), done()],
        vec![UNRUN],
        vec![failure(1, "timeout")],
        vec![
            Change::Renew { lease: LONG },
            Change::Reject(rejection()),
            Change::Renew { lease: LONG },
            Change::DeadLetterSent,
        ],
    ]
    .into_iter()
    .enumerate()
    {
        let key = bench.key(format!("lost-{n}"));
        let request = bench.request(&key, "m", "p");
        let claim = bench.win(request.clone()).await;
        assert_eq!(bench.win(request).await, claim, "ours, and the same");
        for change in changes {
            bench.written(&claim, change.clone()).await;
            let made = bench.record(&key).await;
            bench.written(&claim, change.clone()).await;
            let again = bench.record(&key).await;
            assert_eq!(
                (
                    again.status,
                    again.attempts,
                    again.result,
                    again.checkpoint,
                    again.started
                ),
                (made.status, made.attempts, made.result, made.checkpoint, made.started),
                "{change:?} twice"
            );
        }
    }
}

/// Of several deliveries of one key in a batch the first is tried; other keys do not suffer.
pub async fn inv02_of_one_key_twice_in_a_batch_only_the_first_is_claimed(bench: Bench) {
    let (twice, once, finished) = (bench.key("twice"), bench.key("once"), bench.key("finished"));
    let claim = bench.win(bench.request(&finished, "m", "p")).await;
    bench.written(&claim, done()).await;
    let batch = vec![
        bench.request(&twice, "m1", "p"),
        bench.request(&twice, "m2", "p"),
        bench.request(&once, "m3", "p"),
        bench.request(&finished, "m4", "p"),
        bench.request(&finished, "m5", "p"),
        bench.request(&twice, "m1", "other"),
    ];
    let first = batch[0].claim_id.clone();
    let answers: Vec<_> = bench.inbox.claim(batch).await.into_iter().map(Result::unwrap).collect();
    assert!(
        matches!(&answers[0], ClaimAnswer::Claimed(claim) if claim.claim_id == first),
        "{answers:?}"
    );
    assert!(is_running(&answers[1]), "{answers:?}");
    assert!(matches!(answers[2], ClaimAnswer::Claimed(_)), "{answers:?}");
    assert!(matches!(answers[3], ClaimAnswer::Completed(_)), "{answers:?}");
    assert!(is_running(&answers[4]), "{answers:?}");
    assert!(is_running(&answers[5]), "{answers:?}");
    assert_eq!(bench.record(&twice).await.claim_id, first);
}

/// 60 claims, then 60 writes, of every fate: each is answered by its position.
pub async fn inv11_large_batches_answer_every_entry_by_its_position(bench: Bench) {
    bench.win(bench.filler()).await;
    let mut claims = Vec::new();
    for n in 0..60_u32 {
        let key = bench.key(format!("mixed-{n}"));
        let mut past = bench.past(&key, Status::Released, "m", "p");
        match n % 6 {
            0 => {}
            1 => {
                past.status = Status::Completed;
                past.result = StoredResult::Json(Bytes::from(n.to_string()));
            }
            2 => {
                past.status = Status::Completed;
                past.fingerprint = Some(Fingerprint::of(b"other"));
                past.message_id = "other".into();
            }
            3 => {
                past.status = Status::Processing;
                past.lease_until = bench.inbox.time().hi + 600_000;
            }
            4 => {
                past.status = Status::Rejected;
                past.dead_letter_sent = true;
            }
            _ => past.attempts = n,
        }
        if n % 6 != 0 {
            bench.plant(&past).await;
        }
        claims.push(ClaimRequest {
            receive_count: 1 + n / 30,
            ..bench.request(&key, "m", "p")
        });
    }
    let answers = bench.inbox.claim(claims.clone()).await;
    assert_eq!(answers.len(), 60);
    let mut won = Vec::new();
    for ((n, request), answer) in (0..60_u32).zip(&claims).zip(answers) {
        let answer = answer.unwrap_or_else(|error| panic!("entry {n}: {error}"));
        match (n % 6, answer) {
            (0, ClaimAnswer::Claimed(claim)) => {
                assert_eq!((&claim.key, claim.attempts), (&request.key, 0));
                won.push(claim);
            }
            (1, ClaimAnswer::Completed(StoredResult::Json(json))) => assert_eq!(json, n.to_string()),
            (2, ClaimAnswer::FingerprintMismatch) | (3, ClaimAnswer::Running { .. }) | (4, ClaimAnswer::Rejected) => {}
            (5, ClaimAnswer::Claimed(claim)) => {
                assert_eq!((&claim.key, claim.attempts), (&request.key, n));
                won.push(claim);
            }
            (_, other) => panic!("entry {n}: {other:?}"),
        }
    }
    let more = (0..40).map(|_| bench.filler()).collect();
    won.extend(
        bench
            .inbox
            .claim(more)
            .await
            .into_iter()
            .map(|answer| Bench::won(answer.unwrap())),
    );
    assert_eq!(won.len(), 60);
    let mut writes = Vec::new();
    for (n, claim) in won.iter().enumerate() {
        let mut claim = claim.clone();
        if n % 4 == 1 {
            Arc::make_mut(&mut claim).fencing_token -= 1;
        }
        let change = match n % 4 {
            0 | 1 => Change::Complete {
                result: StoredResult::Json(Bytes::from(n.to_string())),
            },
            2 => Change::Checkpoint(Bytes::from(vec![0; bench.inbox.max_result() + 1])),
            _ => failure(n as u32 + 1, "failed"),
        };
        writes.push(Write::new(claim, change));
    }
    let answers = bench.inbox.write(writes).await;
    assert_eq!(answers.len(), 60);
    for ((n, claim), answer) in won.iter().enumerate().zip(answers) {
        let record = bench.record(&claim.key).await;
        match (n % 4, answer) {
            (0, Ok(_)) => assert_eq!(record.result, StoredResult::Json(Bytes::from(n.to_string()))),
            (1, answer @ Err(_)) => assert_lost(answer, &claim.key, "an older token"),
            (2, Err(InboxError::TooLarge { .. })) => assert_eq!(record.checkpoint, None),
            (3, Ok(_)) => assert_eq!((record.status, record.attempts), (Status::Released, n as u32 + 1)),
            (_, other) => panic!("entry {n}: {other:?}"),
        }
    }
}

/// Several changes under one claim in one batch are made in their order.
pub async fn changes_of_one_key_in_one_batch_keep_their_order(bench: Bench) {
    let key = bench.key("ordered");
    let claim = bench.win(bench.request(&key, "m", "p")).await;
    let changes = [
        Change::Start,
        Change::Checkpoint(Bytes::from_static(b"1")),
        Change::Renew { lease: LONG },
        Change::Checkpoint(Bytes::from_static(b"2")),
        failure(1, "failed"),
        done(),
    ];
    let writes = changes.into_iter().map(|change| Write::new(claim.clone(), change));
    let answers = bench.inbox.write(writes.collect()).await;
    assert!(answers[..5].iter().all(Result::is_ok), "{answers:?}");
    assert!(matches!(answers[5], Err(InboxError::LeaseLost { .. })), "{answers:?}");
    let record = bench.record(&key).await;
    assert_eq!((record.status, record.attempts), (Status::Released, 1));
    assert_eq!(record.checkpoint.as_deref(), Some(&b"2"[..]));
}

/// Empty batches are answered by nothing.
pub async fn empty_batches_are_answered_by_nothing(bench: Bench) {
    assert!(bench.inbox.claim(Vec::new()).await.is_empty());
    assert!(bench.inbox.write(Vec::new()).await.is_empty());
}

/// A key in use with another payload is never run, and the other's record is left alone.
pub async fn another_payload_under_a_running_or_completed_key_is_a_mismatch(bench: Bench) {
    let key = bench.key("mismatch");
    let claim = bench.win(bench.request(&key, "m1", "amount 7")).await;
    let running = bench.record(&key).await;
    let answer = bench.claim(bench.request(&key, "m2", "amount 8")).await;
    assert_eq!(answer, ClaimAnswer::FingerprintMismatch);
    assert!(is_running(&bench.claim(bench.request(&key, "m2", "amount 7")).await));
    assert!(
        is_running(&bench.claim(bench.request(&key, "m2", "")).await),
        "fingerprints off"
    );
    assert_eq!(bench.record(&key).await, running);
    bench.written(&claim, done()).await;
    let completed = bench.record(&key).await;
    let answer = bench.claim(bench.request(&key, "m2", "amount 8")).await;
    assert_eq!(answer, ClaimAnswer::FingerprintMismatch);
    assert_eq!(bench.record(&key).await, completed);
    let released = bench.key("released");
    let claim = bench.win(bench.request(&released, "m1", "amount 7")).await;
    bench.written(&claim, UNRUN).await;
    bench.win(bench.request(&released, "m2", "amount 8")).await;
    let stored = bench.record(&released).await.fingerprint;
    assert_eq!(stored, Some(Fingerprint::of(b"amount 8")), "a claim overwrites it");
}

/// A duplicate is told the stored result, whatever kind it is, a replay too.
pub async fn a_duplicate_is_told_the_result(bench: Bench) {
    for (n, result) in [
        StoredResult::Nothing,
        StoredResult::Json(Bytes::from_static("{\"receipt\":\"№ 7\"}".as_bytes())),
        StoredResult::Omitted,
    ]
    .into_iter()
    .enumerate()
    {
        let key = bench.key(format!("result-{n}"));
        let claim = bench.win(bench.request(&key, "m1", "p")).await;
        bench.written(&claim, Change::Complete { result: result.clone() }).await;
        for duplicate in [
            bench.request(&key, "m1", "p"),
            bench.request(&key, "m2", "p"),
            bench.request(&key, "m2", ""),
            bench.replay(&key, "m3", "p"),
        ] {
            assert_eq!(bench.claim(duplicate).await, ClaimAnswer::Completed(result.clone()));
        }
    }
}

/// A result over its bound is told as omitted, an error is cut; neither fails the write.
pub async fn inv05_results_and_errors_over_their_bounds_do_not_fail_the_write(bench: Bench) {
    let max = bench.inbox.max_result();
    for (size, kept) in [(max, true), (max + 1, false), (600 * 1024, false)] {
        let key = bench.key(format!("size-{size}"));
        let json = Bytes::from(vec![b'1'; size]);
        let claim = bench.win(bench.request(&key, "m", "p")).await;
        let result = StoredResult::Json(json.clone());
        bench.written(&claim, Change::Complete { result }).await;
        let expected = if kept {
            StoredResult::Json(json)
        } else {
            StoredResult::Omitted
        };
        assert_eq!(
            bench.claim(bench.request(&key, "m", "p")).await,
            ClaimAnswer::Completed(expected)
        );
    }
    let long = "ä".repeat(300_000);
    let key = bench.key("long error");
    let claim = bench.win(bench.request(&key, "m", "p")).await;
    bench.written(&claim, failure(1, &long)).await;
    let claim = bench.win(bench.request(&key, "m", "p")).await;
    let kept = claim.last_error.as_deref().expect("an error is kept");
    assert!(
        kept.len() <= MAX_ERROR_BYTES && kept.starts_with("ää"),
        "{} bytes",
        kept.len()
    );
    let error = long;
    let rejection = Rejection { error, ..rejection() };
    bench.written(&claim, Change::Reject(rejection)).await;
    let kept = bench.record(&key).await.last_error.expect("an error is kept");
    assert!(kept.len() <= MAX_ERROR_BYTES && kept.starts_with("ää"));
}

/// A checkpoint reaches the next run, is replaced and bounded, and ends with the work or with another payload.
pub async fn inv05_a_checkpoint_outlives_its_run_and_is_bounded(bench: Bench) {
    let key = bench.key("checkpoint");
    let claim = bench.win(bench.request(&key, "m1", "p")).await;
    assert_eq!(claim.checkpoint, None);
    bench
        .written(&claim, Change::Checkpoint(Bytes::from_static(b"1")))
        .await;
    let largest = Bytes::from(vec![7; bench.inbox.max_result()]);
    bench.written(&claim, Change::Checkpoint(largest.clone())).await;
    let over = Bytes::from(vec![8; bench.inbox.max_result() + 1]);
    let refused = bench.write(&claim, Change::Checkpoint(over)).await;
    let (size, limit) = (bench.inbox.max_result() + 1, bench.inbox.max_result());
    assert!(
        matches!(refused, Err(InboxError::TooLarge { size: s, limit: l, .. }) if (s, l) == (size, limit)),
        "{refused:?}"
    );
    bench.written(&claim, failure(1, "timeout")).await;
    let claim = bench.win(bench.brief(&key, "m1", "p")).await;
    assert_eq!(claim.checkpoint, Some(largest.clone()), "after a release");
    bench.run_out(claim.lease_until).await;
    let claim = bench.win(bench.request(&key, "m2", "p")).await;
    assert_eq!(claim.checkpoint, Some(largest), "after a takeover, by a copy");
    bench.written(&claim, Change::Checkpoint(Bytes::new())).await;
    bench.written(&claim, UNRUN).await;
    let claim = bench.win(bench.request(&key, "m2", "p")).await;
    assert_eq!(claim.checkpoint, Some(Bytes::new()), "even an empty one");
    bench.written(&claim, UNRUN).await;
    let claim = bench.win(bench.request(&key, "m3", "edited")).await;
    assert_eq!(claim.checkpoint, None, "other work begins afresh");
    bench
        .written(&claim, Change::Checkpoint(Bytes::from_static(b"2")))
        .await;
    bench.written(&claim, done()).await;
    assert_eq!(bench.record(&key).await.checkpoint, None, "nothing to go on with");
}

/// A run-out lease makes a suspect; a suspect that dies started counts; neighbours that never started count nothing.
pub async fn deaths_are_counted_of_started_suspects_only(bench: Bench) {
    let (killer, neighbour) = (bench.key("killer"), bench.key("neighbour"));
    for life in 0..=MAX_DEATHS + 1 {
        let mut last = 0;
        for key in [&killer, &neighbour] {
            let claim = bench.win(bench.brief(key, "m", "p")).await;
            last = last.max(claim.lease_until);
            assert_eq!(claim.suspect, life > 0, "{key} in life {life}");
            let deaths = if *key == killer { life.saturating_sub(1) } else { 0 };
            assert_eq!((claim.deaths, claim.attempts), (deaths, 0), "{key} in life {life}");
            if claim.suspect && *key == killer {
                bench.written(&claim, Change::Start).await;
                assert!(bench.record(key).await.started);
            }
        }
        bench.run_out(last).await;
    }
    let claim = bench.win(bench.request(&killer, "m", "p")).await;
    bench.written(&claim, UNRUN).await;
    let claim = bench.win(bench.request(&killer, "m", "p")).await;
    assert!(
        claim.suspect && claim.deaths > MAX_DEATHS,
        "an orderly release clears nothing"
    );
    let claim = bench.win(bench.request(&neighbour, "m", "p")).await;
    bench.written(&claim, Change::Start).await;
    bench.written(&claim, failure(1, "timeout")).await;
    let claim = bench.win(bench.request(&neighbour, "m", "p")).await;
    assert!(!claim.suspect && claim.deaths == 0, "its run ended and was reported");
}

/// A lease that has run out is taken over, with a larger token and what was counted.
pub async fn inv02_a_run_out_lease_is_taken_over_and_a_live_one_is_not(bench: Bench) {
    let key = bench.key("takeover");
    let claim = bench.win(bench.request(&key, "m", "p")).await;
    bench.written(&claim, failure(2, "timeout")).await;
    let claim = bench.win(bench.brief(&key, "m", "p")).await;
    match bench.claim(bench.request(&key, "m", "p")).await {
        ClaimAnswer::Running { lease_left } => {
            assert!(lease_left > Duration::ZERO && lease_left < SHORT + Duration::from_secs(30));
        }
        other => panic!("{other:?}"),
    }
    bench.run_out(claim.lease_until).await;
    let taken = bench.win(bench.request(&key, "m", "p")).await;
    assert!(taken.fencing_token > claim.fencing_token);
    assert!(taken.suspect);
    assert_eq!((taken.attempts, taken.last_error.as_deref()), (2, Some("timeout")));
}

/// A renewed lease holds beyond its first end, and is never shortened.
pub async fn inv02_a_renewed_lease_holds(bench: Bench) {
    let key = bench.key("renewed");
    let claim = bench.win(bench.brief(&key, "m", "p")).await;
    let renewed = bench.written(&claim, Change::Renew { lease: LONG }).await;
    let until = renewed.lease_until.expect("a renewal tells the lease's end");
    assert!(until >= claim.lease_until + 500_000);
    let shorter = bench.written(&claim, Change::Renew { lease: SHORT }).await;
    assert_eq!(shorter.lease_until, Some(until));
    bench.run_out(claim.lease_until).await;
    assert!(is_running(&bench.claim(bench.request(&key, "m", "p")).await));
    assert_eq!(bench.record(&key).await.lease_until, until);
    bench.written(&claim, done()).await;
    let late = bench.write(&claim, Change::Renew { lease: LONG }).await;
    assert_lost(late, &key, "what is completed is not renewed");
}

/// A record past its expiry counts for nothing although it is still stored, but its token is passed.
pub async fn an_expired_record_is_none_although_it_is_stored(bench: Bench) {
    bench.win(bench.filler()).await;
    for (n, status) in [
        Status::Completed,
        Status::Rejected,
        Status::Released,
        Status::Processing,
    ]
    .into_iter()
    .enumerate()
    {
        let key = bench.key(format!("expired-{n}"));
        let mut record = bench.past(&key, status, "m", "p");
        record.expires_at = bench.inbox.time().lo / 1000 - 5;
        record.fencing_token += 1_000_000_000;
        record.attempts = 3;
        record.deaths = 1;
        record.dead_letter_sent = status == Status::Rejected;
        record.checkpoint = Some(Bytes::from_static(b"old"));
        bench.plant(&record).await;
        assert_eq!(bench.stored(&key).await, None);
        let claim = bench.win(bench.request(&key, "m", "edited")).await;
        assert_eq!(claim.fencing_token, record.fencing_token + 1);
        assert_eq!((claim.attempts, claim.deaths, claim.suspect), (0, 0, false));
        assert_eq!(claim.checkpoint, None);
        assert!(bench.record(&key).await.first_seen > record.first_seen);
    }
}

/// What a record is kept for: its retention from the last write.
pub async fn a_record_is_kept_for_its_retention_from_its_last_write(bench: Bench) {
    let key = bench.key("kept");
    let claim = bench.win(bench.request(&key, "m", "p")).await;
    let within = |record: &Record| {
        let time = bench.inbox.time();
        let least = time.lo / 1000 + RETENTION.as_secs();
        assert!(
            (least - 5..=least + 10).contains(&record.expires_at),
            "{record:?} at {time:?}"
        );
        record.expires_at
    };
    let claimed = within(&bench.record(&key).await);
    bench.lab.pass(Duration::from_millis(1_100)).await;
    bench.written(&claim, done()).await;
    let completed = within(&bench.record(&key).await);
    assert!(completed >= claimed);
}

/// The half-done dead letter: finished by whoever brings the message or a copy, never run.
pub async fn inv01_a_half_done_dead_letter_is_finished_not_run(bench: Bench) {
    bench.win(bench.filler()).await;
    let mut half_done = Vec::new();
    for n in 0..5 {
        let key = bench.key(format!("half-{n}"));
        let request = bench.brief(&key, "m1", "p");
        let claim = bench.win(request.clone()).await;
        bench.written(&claim, Change::Renew { lease: SHORT }).await;
        bench.written(&claim, Change::Reject(rejection())).await;
        let again = bench.claim(request).await;
        assert!(
            matches!(&again, ClaimAnswer::FinishDeadLetter(_, why) if *why == rejection()),
            "{again:?}"
        );
        half_done.push(key);
    }
    let live = bench.key("live");
    let claim = bench.win(bench.request(&live, "m1", "p")).await;
    bench.written(&claim, Change::Reject(rejection())).await;
    for other in [
        bench.request(&live, "m1", "p"),
        bench.request(&live, "m2", "edited"),
        bench.replay(&live, "m2", "p"),
    ] {
        assert!(is_running(&bench.claim(other).await), "its holder is at it");
    }
    let mut last = 0;
    for key in &half_done {
        last = last.max(bench.record(key).await.lease_until);
    }
    bench.run_out(last).await;
    let [same, copy, same_replayed, edited, replay] = half_done.try_into().expect("five");
    for (request, who) in [
        (bench.request(&same, "m1", "p"), "the message"),
        (bench.request(&copy, "m2", "p"), "a copy"),
        (bench.replay(&same_replayed, "m1", "p"), "the message, itself a replay"),
    ] {
        let key = request.key.clone();
        let id = request.claim_id.clone();
        let (claim, why) = match bench.claim(request).await {
            ClaimAnswer::FinishDeadLetter(claim, why) => (claim, why),
            other => panic!("{who}: {other:?}"),
        };
        assert_eq!((why, &claim.claim_id), (rejection(), &id), "{who}");
        let record = bench.record(&key).await;
        assert_eq!(
            (record.status, record.message_id.as_str()),
            (Status::Rejected, "m1"),
            "{who}"
        );
        bench.written(&claim, Change::DeadLetterSent).await;
        assert_eq!(bench.claim(bench.request(&key, "m1", "p")).await, ClaimAnswer::Rejected);
    }
    for request in [bench.request(&edited, "m2", "edited"), bench.replay(&replay, "m2", "p")] {
        let claim = bench.win(request).await;
        assert_eq!((claim.attempts, claim.last_error.as_deref()), (0, None));
    }
}

/// Rejected and sent: suppresses the message and producers' duplicates; a replay and other work run.
pub async fn a_sent_rejection_suppresses_duplicates_and_lets_replays_run(bench: Bench) {
    let reject = async |name: &str| {
        let key = bench.key(name);
        let claim = bench.win(bench.request(&key, "m1", "p")).await;
        bench.written(&claim, Change::Reject(rejection())).await;
        let record = bench.record(&key).await;
        assert_eq!(record.reason.as_deref(), Some("card_declined"));
        assert_eq!((record.attempts, record.dead_letter_sent), (3, false));
        bench.written(&claim, Change::DeadLetterSent).await;
        assert!(bench.record(&key).await.dead_letter_sent);
        key
    };
    let key = reject("suppressed").await;
    for duplicate in [
        bench.request(&key, "m1", "p"),
        bench.replay(&key, "m1", "p"),
        bench.request(&key, "m2", "p"),
        bench.request(&key, "m2", ""),
    ] {
        let asked = format!("{duplicate:?}");
        assert_eq!(bench.claim(duplicate).await, ClaimAnswer::Rejected, "{asked}");
    }
    let replayed = reject("replayed").await;
    let edited = reject("edited").await;
    let other = reject("other").await;
    for request in [
        bench.replay(&replayed, "m2", "p"),
        bench.replay(&edited, "m2", "edited"),
        bench.request(&other, "m2", "edited"),
    ] {
        let key = request.key.clone();
        let before = bench.record(&key).await;
        let claim = bench.win(request).await;
        assert_eq!(
            (claim.attempts, claim.last_error.as_deref(), claim.suspect),
            (0, None, false)
        );
        assert!(claim.fencing_token > before.fencing_token);
        let record = bench.record(&key).await;
        assert_eq!((record.status, record.message_id.as_str()), (Status::Processing, "m2"));
        assert_eq!((record.reason.as_deref(), record.dead_letter_sent), (None, false));
        assert_eq!(record.first_seen, before.first_seen);
        bench.written(&claim, done()).await;
    }
}

/// Attempts are counted by failures only, absolutely, and belong to one message.
pub async fn inv09_attempts_belong_to_one_message_and_only_failures_count(bench: Bench) {
    let key = bench.key("attempts");
    for (attempts, release) in [
        (0, failure(1, "first")),
        (1, UNRUN),
        (1, failure(2, "second")),
        (2, UNRUN),
    ] {
        let claim = bench.win(bench.request(&key, "m1", "p")).await;
        assert_eq!(claim.attempts, attempts);
        bench.written(&claim, release.clone()).await;
        bench.written(&claim, release).await;
    }
    let claim = bench.win(bench.request(&key, "m1", "p")).await;
    assert_eq!((claim.attempts, claim.last_error.as_deref()), (2, Some("second")));
    bench.written(&claim, UNRUN).await;
    let claim = bench.win(bench.request(&key, "m2", "p")).await;
    assert_eq!((claim.attempts, claim.last_error.as_deref()), (0, None));
}

/// What is given back can be claimed at once, whatever was left of the lease.
pub async fn inv08_a_released_key_is_claimable_at_once(bench: Bench) {
    let key = bench.key("released");
    let mut token = 0;
    for n in 0..5 {
        let claim = bench.win(bench.request(&key, &format!("m{n}"), "p")).await;
        assert!(claim.fencing_token > token, "tokens grow");
        assert!(!claim.suspect);
        token = claim.fencing_token;
        bench.written(&claim, UNRUN).await;
    }
}

/// A record is read as it was stored, with every field set and with none.
pub async fn a_record_is_read_as_it_was_stored(bench: Bench) {
    bench.win(bench.filler()).await;
    assert_eq!(bench.stored(&bench.key("unknown")).await, None);
    let now = bench.inbox.time().hi;
    let mut full = bench.past(&bench.key("full"), Status::Processing, "m", "p");
    full.lease_until = now + 600_000;
    full.attempts = 4;
    full.last_error = Some("äußerst \"schlecht\"\n".into());
    full.started = true;
    full.deaths = 1;
    full.checkpoint = Some(Bytes::from_static(&[0, 255, 7]));
    bench.plant(&full).await;
    assert_eq!(bench.record(&full.key).await, full);
    let mut rejected = bench.past(&bench.key("rejected"), Status::Rejected, "m", "p");
    rejected.reason = Some("card_declined".into());
    rejected.dead_letter_sent = true;
    bench.plant(&rejected).await;
    assert_eq!(bench.record(&rejected.key).await, rejected);
    for (n, result) in [
        StoredResult::Nothing,
        StoredResult::Omitted,
        StoredResult::Json(Bytes::from_static(b"[]")),
    ]
    .into_iter()
    .enumerate()
    {
        let mut completed = bench.past(&bench.key(format!("completed-{n}")), Status::Completed, "m", "p");
        completed.result = result;
        completed.fingerprint = None;
        bench.plant(&completed).await;
        assert_eq!(bench.record(&completed.key).await, completed);
    }
}

/// Keys of any text are told apart, and one consumer's from another's.
pub async fn inv12_keys_of_any_text_are_told_apart(bench: Bench) {
    let keys: Vec<_> = [
        "a",
        "A",
        "a ",
        "ä",
        "'; --",
        "\"",
        "a#b",
        "\u{1F980}",
        &"k".repeat(1_024),
        &"k".repeat(100_000),
    ]
    .into_iter()
    .map(|text| bench.key(text))
    .chain([RecordKey::new(&format!("{}-other", bench.consumer), &Key::new("a"))])
    .collect();
    let mut claims = Vec::new();
    for key in &keys {
        claims.push(bench.win(bench.request(key, "m", "p")).await);
    }
    for (key, claim) in keys.iter().zip(&claims) {
        assert_eq!(bench.record(key).await.claim_id, claim.claim_id);
        bench.written(claim, done()).await;
    }
}

/// The inbox's own time is bounded, and moves.
pub async fn the_time_is_bounded_and_moves(bench: Bench) {
    bench.win(bench.filler()).await;
    let before = bench.inbox.time();
    let most = if bench.deviates(Deviation::CoarseTime) {
        5_000
    } else {
        0
    };
    assert!(before.lo <= before.hi && before.hi - before.lo <= most, "{before:?}");
    bench.lab.pass(Duration::from_millis(1_500)).await;
    let after = bench.inbox.time();
    assert!(
        after.lo > before.lo && after.hi > before.lo + 1_000,
        "{before:?}, {after:?}"
    );
}

/// Runs the suite: `inbox_conformance!(lab, tokio::test(start_paused = true))`, where `lab` is an async function that makes
/// an [`InboxLab`], and the attribute is what makes tests of the cases that need one thread only.
#[macro_export]
macro_rules! inbox_conformance {
    ($lab:path, $test:meta) => {
        $crate::inbox_conformance!(@calls single, Single, $lab, $test);
        $crate::inbox_conformance!(@calls padded, Padded, $lab, $test);

        mod racing {
            use super::inbox_conformance::{self as suite, Bench, Calls};

            #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn inv02_of_fifty_racing_claims_exactly_one_wins() {
                let bench = Bench::new(super::$lab().await, Calls::Single);
                suite::inv02_of_fifty_racing_claims_exactly_one_wins(bench).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn inv02_completing_and_taking_over_at_once_never_both_succeed() {
                for calls in [Calls::Single, Calls::Padded] {
                    let bench = Bench::new(super::$lab().await, calls);
                    suite::inv02_completing_and_taking_over_at_once_never_both_succeed(bench).await;
                }
            }
        }
    };
    (@calls $module:ident, $calls:ident, $lab:path, $test:meta) => {
        $crate::inbox_conformance!(@cases $module, $calls, $lab, $test,
            inv03_a_zombie_can_write_nothing,
            inv03_every_write_needs_both_the_id_and_the_token,
            inv03_a_removed_record_is_not_brought_back_and_tokens_still_grow,
            inv03_what_is_repeated_after_a_lost_reply_succeeds,
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
    (@cases $module:ident, $calls:ident, $lab:path, $test:meta, $($case:ident),+ $(,)?) => {
        mod $module {
            use super::inbox_conformance::{self as suite, Bench, Calls};
            $(
                #[$test]
                async fn $case() {
                    suite::$case(Bench::new(super::$lab().await, Calls::$calls)).await;
                }
            )+
        }
    };
}
