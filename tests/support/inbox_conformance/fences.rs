//! What can be written, and under which claim.

use super::*;

/// A holder whose lease ran out completes while others take over: never both.
pub(crate) async fn inv02_completing_and_taking_over_at_once_never_both_succeed(bench: Bench) {
    const ROUNDS: usize = 40;
    let bench = Arc::new(bench);
    let mut claims = Vec::new();
    for round in 0..ROUNDS {
        let key = bench.key(format!("late-{round}"));
        claims.push(bench.win(bench.brief(&key, "m", "p")).await);
    }
    let last = claims.iter().map(|claim| claim.lease_until).max().expect("some");
    bench.run_out(last).await;
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
            Ok(_) => assert!(taken.is_empty(), "completed and taken over: {taken:?}"),
            Err(error) => {
                assert!(error.is_lease_lost(), "{error}");
                assert_eq!(taken.len(), 1, "{answers:?}");
            }
        }
    }
}

/// A worker that lost its lease tries every write, one by one and all at once, whatever became of the key.
pub(crate) async fn inv03_a_zombie_can_write_nothing(bench: Bench) {
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
pub(crate) async fn inv03_every_write_needs_both_the_id_and_the_token(bench: Bench) {
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
pub(crate) async fn inv03_a_removed_record_is_not_brought_back_and_tokens_still_grow(bench: Bench) {
    let key = bench.key("removed");
    let claim = bench.win(bench.request(&key, "m", "p")).await;
    bench.lab.remove(&key).await;
    for change in every_change() {
        let what = format!("{change:?}");
        assert_lost(bench.write(&claim, change).await, &key, &what);
    }
    assert_eq!(bench.stored(&key).await, None);
    // Stores remove a record long after its claims: by then the time has passed the token.
    bench.run_out(claim.fencing_token + 1).await;
    let again = bench.win(bench.request(&key, "m", "p")).await;
    assert!(again.fencing_token > claim.fencing_token);
}

/// Each write made again, its reply lost, succeeds; a claim made again is the same claim.
pub(crate) async fn inv03_what_is_repeated_after_a_lost_reply_succeeds(bench: Bench) {
    for (n, changes) in [
        vec![Change::Start, checkpoint(1, b"half"), done()],
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

/// A save that its sender gave up may arrive after the next one, singly or in a batch: it changes nothing then, and each
/// claim of the key counts its own.
pub(crate) async fn inv03_a_checkpoint_that_arrives_late_does_not_replace_a_newer_one(bench: Bench) {
    let keys = [bench.key("late-1"), bench.key("late-2")];
    let mut claims = Vec::new();
    for key in &keys {
        let claim = bench.win(bench.request(key, "m", "p")).await;
        bench.written(&claim, checkpoint(2, b"later")).await;
        claims.push(claim);
    }
    bench.written(&claims[0], checkpoint(1, b"early")).await;
    let late = claims
        .iter()
        .map(|claim| Write::new(claim.clone(), checkpoint(1, b"early")));
    let answers = bench.inbox.write(late.collect()).await;
    assert!(answers.iter().all(Result::is_ok), "it did arrive: {answers:?}");
    for (key, claim) in keys.iter().zip(&claims) {
        assert_eq!(bench.record(key).await.checkpoint.as_deref(), Some(&b"later"[..]));
        bench.written(claim, checkpoint(3, b"last")).await;
        assert_eq!(bench.record(key).await.checkpoint.as_deref(), Some(&b"last"[..]));
        bench.written(claim, UNRUN).await;
        let claim = bench.win(bench.request(key, "m", "p")).await;
        bench.written(&claim, checkpoint(1, b"again")).await;
        assert_eq!(bench.record(key).await.checkpoint.as_deref(), Some(&b"again"[..]));
    }
}

/// Several changes under one claim in one batch are made in their order.
pub(crate) async fn changes_of_one_key_in_one_batch_keep_their_order(bench: Bench) {
    let key = bench.key("ordered");
    let claim = bench.win(bench.request(&key, "m", "p")).await;
    let changes = [
        Change::Start,
        checkpoint(1, b"1"),
        Change::Renew { lease: LONG },
        checkpoint(2, b"2"),
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
pub(crate) async fn empty_batches_are_answered_by_nothing(bench: Bench) {
    assert!(bench.inbox.claim(Vec::new()).await.is_empty());
    assert!(bench.inbox.write(Vec::new()).await.is_empty());
}
