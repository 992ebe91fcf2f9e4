//! Who gets a key, and when.

use super::*;

/// 50 tasks race for one key, 200 times: a key never seen, one released, one whose lease ran out, one expired.
pub(crate) async fn inv02_of_fifty_racing_claims_exactly_one_wins(bench: Bench) {
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
            let mut answers = Vec::new();
            for key in keys.iter() {
                let mut request = bench.request(key, "m", "p");
                // Engines may look for a record first where a delivery was received before.
                request.receive_count = 1 + (task % 2) as u32;
                start.wait().await;
                // Judged when all are home: a task that left early would keep the others waiting.
                answers.extend(bench.inbox.claim(vec![request]).await);
            }
            answers
        });
    }
    let mut winners = vec![Vec::new(); ROUNDS];
    for answers in tasks.join_all().await {
        assert_eq!(answers.len(), ROUNDS);
        for (round, answer) in answers.into_iter().enumerate() {
            match answer {
                Ok(ClaimAnswer::Claimed(claim)) => winners[round].push(claim),
                Ok(ClaimAnswer::Running { .. }) => {}
                other => panic!("round {round}: {other:?}"),
            }
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

/// Of several deliveries of one key in a batch the first is tried; other keys do not suffer.
pub(crate) async fn inv02_of_one_key_twice_in_a_batch_only_the_first_is_claimed(bench: Bench) {
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

/// A lease that has run out is taken over, with a larger token and what was counted.
pub(crate) async fn inv02_a_run_out_lease_is_taken_over_and_a_live_one_is_not(bench: Bench) {
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
pub(crate) async fn inv02_a_renewed_lease_holds(bench: Bench) {
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

/// What is given back can be claimed at once, whatever was left of the lease.
pub(crate) async fn inv08_a_released_key_is_claimable_at_once(bench: Bench) {
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

/// A key in use with another payload is never run, and the other's record is left alone.
pub(crate) async fn another_payload_under_a_running_or_completed_key_is_a_mismatch(bench: Bench) {
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

/// A run-out lease makes a suspect; a suspect that dies started counts; neighbours that never started count nothing.
pub(crate) async fn deaths_are_counted_of_started_suspects_only(bench: Bench) {
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

/// Attempts are counted by failures only, absolutely, and belong to one message.
pub(crate) async fn inv09_attempts_belong_to_one_message_and_only_failures_count(bench: Bench) {
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

/// A record past its expiry counts for nothing although it is still stored, but its token is passed.
pub(crate) async fn an_expired_record_is_none_although_it_is_stored(bench: Bench) {
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

/// 60 claims, then 60 writes, of every fate: each is answered by its position.
pub(crate) async fn inv11_large_batches_answer_every_entry_by_its_position(bench: Bench) {
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
            2 => Change::Checkpoint {
                serial: 1,
                data: Bytes::from(vec![0; bench.inbox.max_result() + 1]),
            },
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
