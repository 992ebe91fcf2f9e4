//! Without an inbox: at least once, attempts are receives, visibility is all that holds.

use redrive::Failure;
use redrive::faults::{Operation, Rates};
use redrive::worker::Fate;

use crate::support::{Rig, RunEnd, ms, secs, sleep, start};

#[tokio::test(start_paused = true)]
async fn every_message_is_processed_at_least_once_and_duplicates_again() {
    let rig = Rig::new();
    rig.send("k", "1").await;
    rig.send("k", "1").await;
    let running = start(rig.bare().handler(rig.succeeds()).build().unwrap());
    rig.emptied(&running).await;
    assert_eq!(rig.log.len(), 2);
    running.drain().await;
}

#[tokio::test(start_paused = true)]
async fn attempts_are_the_receive_count_and_end_in_a_dead_letter() {
    let rig = Rig::new();
    rig.send("k", "1").await;
    let running = start(rig.bare().max_attempts(3).handler(rig.fails()).build().unwrap());
    rig.emptied(&running).await;
    running.drain().await;
    let attempts: Vec<_> = rig.log.runs().iter().map(|run| run.attempt).collect();
    assert_eq!(attempts, [1, 2, 3]);
    let letter = rig.letters().pop().unwrap();
    assert_eq!(
        (letter.reason.as_str(), letter.attempts, letter.key.as_str()),
        ("attempts_exhausted", 3, "k")
    );
}

#[tokio::test(start_paused = true)]
async fn lost_visibility_cancels_the_handler() {
    let rig = Rig::new();
    rig.send("k", "1").await;
    rig.queue
        .faults()
        .set(Operation::ChangeVisibility, Rates::new().before(1.0));
    let running = start(rig.bare().handler(rig.takes(secs(100))).build().unwrap());
    running.until("it runs", |status| status.running == 1).await;
    // Else it would be received again here, which keeps it.
    running.handle.pause();
    running.until("it is lost", |status| status.totals.lost >= 1).await;
    let run = &rig.log.runs()[0];
    assert_eq!(run.end, RunEnd::Dropped);
    assert!(run.ended.unwrap() - run.began <= secs(31));
    assert_eq!(rig.fates.of("1")[0], Fate::Lost);
    rig.queue.faults().heal();
    running.handle.resume();
    rig.emptied(&running).await;
    running.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_long_handler_keeps_its_message_by_heartbeats() {
    let rig = Rig::new();
    rig.send("k", "1").await;
    let running = start(rig.bare().handler(rig.takes(secs(600))).build().unwrap());
    rig.emptied(&running).await;
    assert_eq!((rig.log.len(), running.drain().await.totals.lost), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn inv01_a_crash_loses_nothing_without_an_inbox_either() {
    for after in (0..40).step_by(3) {
        let rig = Rig::new();
        rig.send_many(10).await;
        for faults in [rig.queue.faults(), rig.dead.faults()] {
            faults.set_all(Rates::new().latency(ms(2), ms(6)));
        }
        let handler = || {
            rig.runs(|context: redrive::Context| async move {
                sleep(ms(3)).await;
                let reject = context.message().body.ends_with('3');
                if reject { Err(Failure::reject("never")) } else { Ok(()) }
            })
        };
        let first = start(rig.bare().handler(handler()).build().unwrap());
        sleep(ms(after)).await;
        first.crash().await;
        let second = start(rig.bare().handler(handler()).build().unwrap());
        rig.emptied(&second).await;
        second.drain().await;
        for n in 0..10 {
            assert!(rig.log.count(&format!("k{n}")) >= 1, "k{n}, killed after {after} ms");
        }
        assert!((1..=2).contains(&rig.dead.len()), "killed after {after} ms");
    }
}

#[tokio::test(start_paused = true)]
async fn a_drain_releases_and_an_unreachable_dead_letter_queue_delays() {
    let rig = Rig::new();
    rig.send("k", "1").await;
    rig.dead.faults().set_unreachable(true);
    let handler = rig.runs(|_| async { Err::<(), _>(Failure::reject("never")) });
    let running = start(rig.bare().handler(handler).build().unwrap());
    sleep(secs(120)).await;
    assert_eq!((rig.queue.len(), rig.dead.len()), (1, 0));
    rig.dead.faults().heal();
    rig.emptied(&running).await;
    assert_eq!(rig.dead.len(), 1);
    running.drain().await;
}

#[tokio::test(start_paused = true)]
async fn the_same_message_twice_in_flight_runs_once_in_one_worker() {
    let rig = Rig::new();
    let id = rig.send("k", "1").await;
    let running = start(rig.bare().handler(rig.takes(secs(10))).build().unwrap());
    running.until("it runs", |status| status.running == 1).await;
    rig.queue.duplicate(&id).unwrap();
    rig.emptied(&running).await;
    assert_eq!(rig.log.len(), 1);
    running.drain().await;
}
