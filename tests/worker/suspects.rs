//! What was running when its process died, or seemed to have died.

use redrive::inbox::Status;
use redrive::key::{Key, RecordKey};

use crate::support::{Rig, secs, sleep, start};

/// A worker of 64 long jobs dies; the one that is left brings them all to their end, a few at a time.
#[tokio::test(start_paused = true)]
async fn inv05_suspects_are_not_hoarded_and_get_their_turn_soon() {
    let rig = Rig::new();
    rig.send_many(64).await;
    let lease = secs(15 * 60);
    let worker = |time| {
        rig.worker()
            .lease(lease)
            .concurrency(64)
            .handler(rig.takes(time))
            .build()
            .unwrap()
    };
    let first = start(worker(secs(36_000)));
    first.until("all run", |status| status.running == 64).await;
    first.crash().await;
    let begun = rig.clock.epoch_ms();
    let second = start(worker(secs(60)));
    let mut most = 0;
    while !rig.queue.is_empty() {
        most = most.max(second.status().waiting);
        sleep(secs(1)).await;
        assert!(
            rig.clock.epoch_ms() - begun < 4 * 3_600_000,
            "{} are left",
            rig.queue.len()
        );
    }
    assert!(most <= 40, "{most} held at once");
    assert_eq!((rig.log.done(), rig.dead.len()), (64, 0));
    second.drain().await;
}

/// Several workers died with all of them, so that they have come often; each takes but a moment.
#[tokio::test(start_paused = true)]
async fn suspects_that_are_quick_are_done_soon_however_often_they_came() {
    let rig = Rig::new();
    rig.send_many(64).await;
    for _ in 0..8 {
        let running = start(
            rig.worker()
                .concurrency(64)
                .handler(rig.takes(secs(3_600)))
                .build()
                .unwrap(),
        );
        sleep(secs(25)).await;
        running.crash().await;
    }
    let begun = rig.clock.epoch_ms();
    let last = start(
        rig.worker()
            .concurrency(64)
            .handler(rig.takes(secs(1)))
            .build()
            .unwrap(),
    );
    rig.emptied(&last).await;
    let took = (rig.clock.epoch_ms() - begun) / 1_000;

    assert!(took < 150, "{took} s");
    assert_eq!((rig.log.done(), rig.dead.len()), (64, 0));
    last.drain().await;
}

/// One handler, three outages of the inbox longer than its lease: no process ever died.
#[tokio::test(start_paused = true)]
async fn inv09_leases_lost_in_outages_of_the_inbox_are_no_deaths() {
    let rig = Rig::new();
    rig.send("k", "1").await;
    let running = start(rig.worker().handler(rig.takes(secs(600))).build().unwrap());
    for outage in 0..4 {
        let begun = rig.log.len();
        running.until("it runs", |_| rig.log.running() == 1).await;
        assert!(rig.dead.is_empty(), "outage {outage}: {:?}", rig.reasons());
        sleep(secs(60)).await;
        rig.inbox.faults().set_unreachable(true);
        sleep(secs(120)).await;
        rig.inbox.faults().heal();
        running
            .until("it runs again", |_| rig.log.len() > begun || !rig.dead.is_empty())
            .await;
    }
    rig.emptied(&running).await;
    let deaths = rig.record("k").map(|record| record.deaths);
    assert_eq!((deaths, rig.dead.len()), (Some(0), 0));
    running.drain().await;
}

/// Whatever makes the processes die, it is none of the messages. Each time one of these runs, announced as a suspect.
#[tokio::test(start_paused = true)]
async fn inv09_processes_that_die_soon_after_each_start_make_no_dead_letters_of_what_they_held() {
    let rig = Rig::new();
    rig.send_many(3).await;
    for _ in 0..18 {
        let running = start(rig.worker().handler(rig.takes(secs(40))).build().unwrap());
        sleep(secs(20)).await;
        running.crash().await;
    }
    let deaths: Vec<u32> = rig.inbox.records().iter().map(|record| record.deaths).collect();
    assert_eq!((deaths, rig.reasons()), (vec![1; 3], vec![]));
    let running = start(rig.worker().handler(rig.takes(secs(40))).build().unwrap());
    rig.emptied(&running).await;
    assert_eq!((rig.log.done(), rig.dead.len()), (3, 0));
    running.drain().await;
}

/// As the workers of a batch job, or of a function that is frozen between its calls.
#[tokio::test(start_paused = true)]
async fn what_has_a_death_against_it_is_run_by_short_lived_workers_too() {
    let rig = Rig::new();
    rig.send("k", "1").await;
    let key = RecordKey::new("orders", &Key::new("k"));
    let first = start(rig.worker().handler(rig.takes(secs(600))).build().unwrap());
    first.until("it runs", |status| status.running == 1).await;
    first.crash().await;
    let mut record = rig.inbox.record(&key).unwrap();
    record.deaths = 1;
    rig.inbox.insert(record);
    for lived in 1.. {
        let running = start(rig.worker().handler(rig.succeeds()).build().unwrap());
        sleep(secs(10)).await;
        running.drain().await;
        if rig.queue.is_empty() {
            break;
        }
        assert!(lived < 20, "{:?}", rig.inbox.record(&key));
    }
    assert_eq!(rig.inbox.record(&key).unwrap().status, Status::Completed);
    assert_eq!((rig.log.done(), rig.dead.len()), (1, 0));
}
