//! Attempts are handler runs that ended in failure, timeout or panic, and nothing else.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use redrive::flow::{Backoff, Jitter};
use redrive::worker::Fate;
use redrive::{Context, Failure};

use crate::support::{Rig, RunEnd, ms, secs, sleep, start};

#[tokio::test(start_paused = true)]
async fn inv09_attempts_are_counted_one_by_one_until_they_are_spent() {
    let rig = Rig::new();
    rig.send("k", "1").await;
    let running = start(rig.worker().max_attempts(4).handler(rig.fails()).build().unwrap());
    rig.emptied(&running).await;
    let attempts: Vec<_> = rig.log.runs().iter().map(|run| run.attempt).collect();
    assert_eq!(attempts, [1, 2, 3, 4]);
    let letter = rig.letters().pop().unwrap();
    assert_eq!((letter.reason.as_str(), letter.attempts), ("attempts_exhausted", 4));
    assert_eq!(rig.record("k").unwrap().attempts, 4);
    let totals = running.drain().await.totals;
    assert_eq!((totals.retried, totals.dead_letters()), (3, 1));
    let before: Vec<_> = rig.fates.all().into_iter().map(|(_, _, attempts)| attempts).collect();
    assert_eq!(before, [0, 1, 2, 3]);
}

#[tokio::test(start_paused = true)]
async fn inv09_retries_wait_out_their_backoff() {
    let rig = Rig::new();
    rig.send("k", "1").await;
    let backoff = Backoff::new(secs(4), secs(20)).unwrap().jitter(Jitter::None);
    let worker = rig.worker().backoff(backoff).handler(rig.fails());
    let running = start(worker.build().unwrap());
    rig.emptied(&running).await;
    let runs = rig.log.runs();
    let waits: Vec<_> = runs
        .windows(2)
        .map(|pair| (pair[1].began - pair[0].began).as_secs())
        .collect();
    assert_eq!(waits, [4, 8, 16, 20]);
    running.drain().await;
}

#[tokio::test(start_paused = true)]
async fn inv09_retry_after_overrides_the_backoff() {
    let rig = Rig::new();
    rig.send("k", "1").await;
    let handler = rig.runs(|context: Context| async move {
        match context.attempt() {
            1 => Err(Failure::retry_after("busy", secs(75))),
            _ => Ok(()),
        }
    });
    let running = start(rig.worker().handler(handler).build().unwrap());
    rig.emptied(&running).await;
    let runs = rig.log.runs();
    let waited = runs[1].began - runs[0].began;
    assert!(waited >= secs(75) && waited < secs(77), "{waited:?}");
    running.drain().await;
}

#[tokio::test(start_paused = true)]
async fn inv09_a_timeout_and_a_panic_are_attempts() {
    let rig = Rig::new();
    rig.send("k", "1").await;
    let handler = rig.runs(|context: Context| async move {
        match context.attempt() {
            1 => sleep(secs(60)).await,
            2 => panic!("a bug in {}", "the handler"),
            _ => {}
        }
        Err::<(), _>(Failure::reject("enough"))
    });
    let worker = rig.worker().handler_timeout(secs(5)).handler(handler);
    let running = start(worker.build().unwrap());
    running
        .until("the first failed", |status| status.totals.retried == 1)
        .await;
    assert_eq!(rig.record("k").unwrap().last_error.unwrap(), "timed out after 5000 ms");
    running
        .until("the second failed", |status| status.totals.retried == 2)
        .await;
    assert_eq!(
        rig.record("k").unwrap().last_error.unwrap(),
        "panicked: a bug in the handler"
    );
    rig.emptied(&running).await;
    assert_eq!(rig.letters()[0].attempts, 3);
    let runs = rig.log.runs();
    assert_eq!(runs[0].ended.unwrap() - runs[0].began, secs(5));
    assert_eq!(runs[0].end, RunEnd::Dropped);
    running.drain().await;
}

#[tokio::test(start_paused = true)]
async fn inv09_drains_crashes_receives_and_twins_are_no_attempts() {
    let rig = Rig::new();
    let id = rig.send("k", "1").await;
    for round in 0..4 {
        let builder = rig.worker().drain_deadline(secs(10)).handler(rig.takes(secs(3_600)));
        let running = start(builder.build().unwrap());
        running.until("it runs", |status| status.running == 1).await;
        rig.send("k", "1").await;
        sleep(secs(2)).await;
        if round == 1 {
            running.crash().await;
        } else {
            running.drain().await;
        }
    }
    rig.queue.raise_receive_count(&id, 5).unwrap();
    let running = start(rig.worker().handler(rig.succeeds()).build().unwrap());
    rig.emptied(&running).await;
    running.drain().await;
    assert!(
        rig.log.runs().iter().all(|run| run.attempt == 1),
        "{:?}",
        rig.log.runs()
    );
    assert!(rig.dead.is_empty());
}

#[tokio::test(start_paused = true)]
async fn inv09_two_deaths_of_its_process_make_a_dead_letter_and_innocent_neighbours_count_nothing() {
    let rig = Rig::new();
    rig.send("poison", "poison").await;
    for n in 0..8 {
        rig.send(&format!("k{n}"), "innocent").await;
    }
    // The worker dies whenever the poison runs, with all neighbours running.
    let mut deaths = 0;
    loop {
        let handler = rig.runs(|_| async {
            sleep(secs(5)).await;
            Ok(())
        });
        let running = start(rig.worker().handler(handler).build().unwrap());
        let seen = rig.log.count("poison");
        running
            .until("the poison runs or all is done", |_| {
                rig.log.count("poison") > seen || rig.queue.is_empty()
            })
            .await;
        if rig.queue.is_empty() {
            running.drain().await;
            break;
        }
        deaths += 1;
        running.crash().await;
    }
    assert_eq!(deaths, 3, "the first death of a process points at nobody yet");
    let letter = rig.letters().pop().unwrap();
    assert_eq!(
        (letter.reason.as_str(), letter.key.as_str(), letter.attempts),
        ("worker_died", "poison", 0)
    );
    assert_eq!(rig.dead.len(), 1);
    for n in 0..8 {
        let record = rig.record(&format!("k{n}")).unwrap();
        assert_eq!(
            (record.status, record.deaths, record.attempts),
            (redrive::inbox::Status::Completed, 0, 0)
        );
    }
}

#[tokio::test(start_paused = true)]
async fn inv09_a_suspect_that_fails_the_ordinary_way_is_no_death() {
    let rig = Rig::new();
    rig.send("k", "1").await;
    let first = start(rig.worker().handler(rig.takes(secs(60))).build().unwrap());
    first.until("it runs", |status| status.running == 1).await;
    first.crash().await;
    let second = start(rig.worker().max_attempts(3).handler(rig.fails()).build().unwrap());
    rig.emptied(&second).await;
    second.drain().await;
    let letter = rig.letters().pop().unwrap();
    assert_eq!((letter.reason.as_str(), letter.attempts), ("attempts_exhausted", 3));
    assert_eq!(rig.record("k").unwrap().deaths, 0);
}

#[tokio::test(start_paused = true)]
async fn inv09_suspects_run_one_at_a_time_until_they_have_proven_themselves() {
    let rig = Rig::new();
    rig.send_many(6).await;
    let first = start(rig.worker().handler(rig.takes(secs(60))).build().unwrap());
    first.until("all run", |status| status.running == 6).await;
    first.crash().await;
    let before = rig.log.len();
    let second = start(rig.worker().handler(rig.takes(secs(2))).build().unwrap());
    rig.emptied(&second).await;
    second.drain().await;
    let runs = rig.log.runs().split_off(before);
    assert_eq!(runs.len(), 6);
    for pair in runs.windows(2) {
        assert!(
            pair[1].began >= pair[0].ended.unwrap(),
            "two suspects at once: {pair:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn inv09_suspects_that_were_lost_while_they_waited_do_not_block_those_after_them() {
    let rig = Rig::new();
    rig.send_many(6).await;
    let first = start(rig.worker().handler(rig.takes(secs(60))).build().unwrap());
    first.until("all run", |status| status.running == 6).await;
    first.crash().await;
    let before = rig.log.len();
    let second = start(rig.worker().handler(rig.takes(secs(20))).build().unwrap());
    second.until("a suspect runs", |_| rig.log.len() > before).await;
    // All leases are lost, those of the waiting ones too.
    rig.inbox.faults().set(
        redrive::faults::Operation::Write,
        redrive::faults::Rates::new().before(1.0),
    );
    second.until("all are lost", |status| status.totals.lost == 6).await;
    rig.inbox.faults().heal();
    rig.emptied(&second).await;
    second.drain().await;
    assert_eq!(rig.log.done(), 6);
}

#[tokio::test(start_paused = true)]
async fn inv09_a_new_message_of_a_released_key_starts_afresh() {
    let rig = Rig::new();
    let first = rig.send("k", "1").await;
    let runs = Arc::new(AtomicU32::new(0));
    let counted = runs.clone();
    let handler = rig.runs(move |_| {
        let n = counted.fetch_add(1, Ordering::SeqCst);
        async move {
            if n < 3 {
                Err(Failure::retry_after("no luck", secs(600)))
            } else {
                Ok(())
            }
        }
    });
    let running = start(rig.worker().max_attempts(5).handler(handler).build().unwrap());
    running.until("it failed", |status| status.totals.retried == 1).await;
    rig.send("k", "2").await;
    running
        .until("the other failed", |status| status.totals.retried == 2)
        .await;
    assert_eq!(rig.log.runs().iter().map(|run| run.attempt).collect::<Vec<_>>(), [1, 1]);
    assert!(rig.queue.contains(&first));
    rig.emptied(&running).await;
    running.drain().await;
}

#[tokio::test(start_paused = true)]
async fn inv09_fates_are_told_to_the_observer_in_order() {
    let rig = Rig::new();
    rig.send("k", "1").await;
    let handler = rig.runs(|context: Context| async move {
        if context.attempt() < 3 {
            Err(Failure::retry("no luck"))
        } else {
            Ok(())
        }
    });
    let running = start(rig.worker().handler(handler).build().unwrap());
    rig.emptied(&running).await;
    assert_eq!(rig.fates.of("1"), [Fate::Retried, Fate::Retried, Fate::Completed]);
    assert_eq!(running.drain().await.totals.retried, 2);
    assert_eq!(rig.log.runs().len(), 3);
    sleep(ms(1)).await;
}
