//! What is kept of a key, and what it is told to later deliveries.

use super::*;

/// A duplicate is told the stored result, whatever kind it is, a replay too.
pub(crate) async fn a_duplicate_is_told_the_result(bench: Bench) {
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
pub(crate) async fn inv05_results_and_errors_over_their_bounds_do_not_fail_the_write(bench: Bench) {
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
pub(crate) async fn inv05_a_checkpoint_outlives_its_run_and_is_bounded(bench: Bench) {
    let key = bench.key("checkpoint");
    let claim = bench.win(bench.request(&key, "m1", "p")).await;
    assert_eq!(claim.checkpoint, None);
    bench.written(&claim, checkpoint(1, b"1")).await;
    let largest = Bytes::from(vec![7; bench.inbox.max_result()]);
    let save = |serial, data| Change::Checkpoint { serial, data };
    bench.written(&claim, save(2, largest.clone())).await;
    let over = Bytes::from(vec![8; bench.inbox.max_result() + 1]);
    let refused = bench.write(&claim, save(3, over)).await;
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
    bench.written(&claim, checkpoint(1, b"")).await;
    bench.written(&claim, UNRUN).await;
    let claim = bench.win(bench.request(&key, "m2", "p")).await;
    assert_eq!(claim.checkpoint, Some(Bytes::new()), "even an empty one");
    bench.written(&claim, UNRUN).await;
    let claim = bench.win(bench.request(&key, "m3", "edited")).await;
    assert_eq!(claim.checkpoint, None, "other work begins afresh");
    bench.written(&claim, checkpoint(1, b"2")).await;
    bench.written(&claim, done()).await;
    assert_eq!(bench.record(&key).await.checkpoint, None, "nothing to go on with");
}

/// What a record is kept for: its retention from the last write.
pub(crate) async fn a_record_is_kept_for_its_retention_from_its_last_write(bench: Bench) {
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
pub(crate) async fn inv01_a_half_done_dead_letter_is_finished_not_run(bench: Bench) {
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
pub(crate) async fn a_sent_rejection_suppresses_duplicates_and_lets_replays_run(bench: Bench) {
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

/// A record is read as it was stored, with every field set and with none.
pub(crate) async fn a_record_is_read_as_it_was_stored(bench: Bench) {
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
pub(crate) async fn inv12_keys_of_any_text_are_told_apart(bench: Bench) {
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
pub(crate) async fn the_time_is_bounded_and_moves(bench: Bench) {
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
