//! Order within a group, groups side by side, and what a failure does to the tail.

use std::collections::BTreeMap;

use redrive::clock::Random;
use redrive::faults::Rates;
use redrive::flow::BreakerConfig;
use redrive::inbox::Status;
use redrive::worker::{AfterReject, Fate};
use redrive::{Context, Failure};

use crate::support::{Rig, Run, RunEnd, ms, now, secs, sleep, start};

/// The bodies of a group in the order their runs succeeded.
fn done_in(rig: &Rig, group: &str) -> Vec<u32> {
    let mut runs: Vec<Run> = rig.log.runs().into_iter().filter(|run| run.end == RunEnd::Ok).collect();
    runs.retain(|run| run.group.as_deref() == Some(group));
    runs.sort_by_key(|run| run.ended);
    runs.iter()
        .map(|run| run.body.split('-').next_back().unwrap().parse().unwrap())
        .collect()
}

/// Fails the test if two runs of a group overlapped, or one began after a later message of its group was done.
fn in_order(rig: &Rig) {
    let mut groups: BTreeMap<String, Vec<Run>> = BTreeMap::new();
    for run in rig.log.runs() {
        groups.entry(run.group.clone().unwrap()).or_default().push(run);
    }
    for (group, runs) in groups {
        let mut last = 0;
        for pair in runs.windows(2) {
            assert!(
                pair[0].ended.unwrap() <= pair[1].began,
                "{group}: two at once: {pair:?}"
            );
        }
        for run in runs {
            let n: u32 = run.body.split('-').next_back().unwrap().parse().unwrap();
            assert!(n >= last, "{group}: {n} ran after {last}");
            last = n;
        }
    }
}

async fn fill(rig: &Rig, groups: u32, each: u32) {
    for n in 0..each {
        for group in 0..groups {
            let group = format!("g{group}");
            rig.send_in(&group, &format!("{group}-{n}"), &format!("{group}-{n}"))
                .await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn inv07_a_group_runs_one_at_a_time_in_order_through_failures() {
    let rig = Rig::fifo();
    fill(&rig, 3, 15).await;
    let handler = rig.runs(|context: Context| async move {
        sleep(ms(300)).await;
        let n: u32 = context.message().body.split('-').next_back().unwrap().parse().unwrap();
        if n % 4 == 1 && context.attempt() < 3 {
            Err(Failure::retry("no luck yet"))
        } else {
            Ok(())
        }
    });
    let running = start(rig.worker().without_breaker().handler(handler).build().unwrap());
    rig.emptied(&running).await;
    running.drain().await;
    in_order(&rig);
    for group in ["g0", "g1", "g2"] {
        assert_eq!(done_in(&rig, group), (0..15).collect::<Vec<_>>());
    }
}

#[tokio::test(start_paused = true)]
async fn inv07_groups_run_side_by_side() {
    let rig = Rig::fifo();
    fill(&rig, 12, 5).await;
    let began = now();
    let running = start(rig.worker().handler(rig.takes(secs(1))).build().unwrap());
    rig.emptied(&running).await;
    running.drain().await;
    in_order(&rig);
    assert_eq!(rig.log.peak(), 12);
    assert!(
        now() - began < secs(10),
        "{:?} for five rounds of a second",
        now() - began
    );
}

#[tokio::test(start_paused = true)]
async fn complaint_17_a_failure_does_not_block_its_group_for_the_visibility_timeout() {
    let rig = Rig::named("orders.fifo", |queue| queue.visibility_timeout(secs(600)));
    fill(&rig, 1, 10).await;
    let handler = rig.runs(|context: Context| async move {
        if context.message().body == "g0-0" && context.attempt() == 1 {
            Err(Failure::retry("once"))
        } else {
            Ok(())
        }
    });
    let began = now();
    let running = start(rig.worker().handler(handler).build().unwrap());
    rig.emptied(&running).await;
    running.drain().await;
    assert!(now() - began < secs(10), "{:?}", now() - began);
    assert_eq!(done_in(&rig, "g0"), (0..10).collect::<Vec<_>>());
    assert!(
        rig.log.runs().iter().all(|run| run.attempt == 1 || run.body == "g0-0"),
        "the tail counts nothing"
    );
}

#[tokio::test(start_paused = true)]
async fn complaint_18_a_group_batch_that_outlives_the_visibility_timeout_runs_once() {
    let rig = Rig::fifo();
    fill(&rig, 1, 10).await;
    let running = start(rig.worker().handler(rig.takes(secs(25))).build().unwrap());
    rig.emptied(&running).await;
    let totals = running.drain().await.totals;
    assert_eq!((rig.log.len(), totals.completed, totals.lost), (10, 10, 0));
    in_order(&rig);
}

#[tokio::test(start_paused = true)]
async fn inv07_the_next_starts_only_when_the_one_before_is_recorded() {
    let rig = Rig::fifo();
    fill(&rig, 1, 6).await;
    rig.inbox.faults().set_all(Rates::new().latency(ms(400), ms(400)));
    let inbox = rig.inbox.clone();
    let handler = rig.runs(move |context: Context| {
        let n: usize = context.message().body.split('-').next_back().unwrap().parse().unwrap();
        let records = inbox.records();
        let durable = records.iter().filter(|record| match record.status {
            Status::Completed => true,
            Status::Rejected => record.dead_letter_sent,
            _ => false,
        });
        assert_eq!(durable.count(), n, "those before are recorded: {records:?}");
        async move { if n == 2 { Err(Failure::reject("never")) } else { Ok(()) } }
    });
    let running = start(rig.worker().handler(handler).build().unwrap());
    rig.emptied(&running).await;
    let totals = running.drain().await.totals;
    assert_eq!((totals.completed, totals.dead_letters(), totals.retried), (5, 1, 0));
    in_order(&rig);
}

#[tokio::test(start_paused = true)]
async fn inv07_after_a_reject_the_group_goes_on() {
    let rig = Rig::fifo();
    fill(&rig, 2, 5).await;
    let handler = rig.runs(|context: Context| async move {
        if context.message().body == "g0-2" {
            Err(Failure::reject("never"))
        } else {
            Ok(())
        }
    });
    let running = start(rig.worker().handler(handler).build().unwrap());
    rig.emptied(&running).await;
    running.drain().await;
    assert_eq!(done_in(&rig, "g0"), [0, 1, 3, 4]);
    assert_eq!(done_in(&rig, "g1"), [0, 1, 2, 3, 4]);
    let dead = rig.dead.messages().pop().unwrap();
    assert_eq!((dead.body.as_str(), dead.group_id.as_deref()), ("g0-2", Some("g0")));
    in_order(&rig);
}

#[tokio::test(start_paused = true)]
async fn inv07_after_a_reject_the_group_blocks_where_so_set_and_others_go_on() {
    let rig = Rig::fifo();
    fill(&rig, 2, 5).await;
    let handler = rig.runs(|context: Context| async move {
        if context.message().body == "g0-2" {
            Err(Failure::reject("never"))
        } else {
            Ok(())
        }
    });
    let running = start(
        rig.worker()
            .after_reject(AfterReject::Block)
            .handler(handler)
            .build()
            .unwrap(),
    );
    sleep(secs(2 * 60 * 60)).await;
    assert_eq!(done_in(&rig, "g0"), [0, 1]);
    assert_eq!(done_in(&rig, "g1"), [0, 1, 2, 3, 4]);
    assert_eq!(rig.log.of("g0-2").len(), 1, "it is not run again");
    assert_eq!((rig.queue.len(), rig.dead.len()), (3, 0));
    let head = &rig.queue.messages()[0];
    assert_eq!(head.body, "g0-2");
    assert!(rig.queue.peek(&head.id).unwrap().receive_count < 20);
    assert_eq!(rig.fates.of("g0-2")[0], Fate::GivenUp("rejected".into()));
    running.drain().await;
}

#[tokio::test(start_paused = true)]
async fn inv07_attempts_exhausted_makes_way_for_the_next() {
    let rig = Rig::fifo();
    fill(&rig, 1, 4).await;
    let handler = rig.runs(|context: Context| async move {
        if context.message().body == "g0-1" {
            Err(Failure::retry("no luck"))
        } else {
            Ok(())
        }
    });
    let running = start(rig.worker().max_attempts(3).handler(handler).build().unwrap());
    rig.emptied(&running).await;
    running.drain().await;
    assert_eq!(
        (done_in(&rig, "g0"), rig.reasons()),
        (vec![0, 2, 3], vec!["attempts_exhausted".to_owned()])
    );
    in_order(&rig);
}

#[tokio::test(start_paused = true)]
async fn inv07_one_key_twice_in_a_group_runs_once_and_keeps_the_order() {
    let rig = Rig::fifo();
    for (at, key) in ["a", "b", "a", "c", "b", "d"].iter().enumerate() {
        let message = crate::support::keyed(key, "same")
            .group("g")
            .deduplication_id(at.to_string());
        rig.put(message).await;
    }
    let running = start(rig.worker().handler(rig.takes(ms(200))).build().unwrap());
    rig.emptied(&running).await;
    running.drain().await;
    let keys: Vec<_> = rig.log.runs().into_iter().map(|run| run.key).collect();
    assert_eq!(keys, ["a", "b", "c", "d"]);
}

#[tokio::test(start_paused = true)]
async fn inv07_order_survives_crashes_drains_two_workers_and_faulty_services() {
    for seed in 0..6 {
        let rig = Rig::fifo();
        fill(&rig, 4, 10).await;
        for faults in [rig.queue.faults(), rig.inbox.faults(), rig.dead.faults()] {
            faults.set_all(Rates::new().before(0.05).after(0.05).latency(ms(1), ms(30)));
        }
        let worker = |n: u64| {
            let handler = rig.runs(|context: Context| async move {
                sleep(ms(200)).await;
                let n: u32 = context.message().body.split('-').next_back().unwrap().parse().unwrap();
                if n % 3 == 1 && context.attempt() < 2 {
                    Err(Failure::retry("no luck yet"))
                } else {
                    Ok(())
                }
            });
            let builder = rig.worker().random(Random::seeded(seed * 100 + n)).without_breaker();
            start(builder.max_attempts(50).handler(handler).build().unwrap())
        };
        let (one, two) = (worker(1), worker(2));
        sleep(ms(700 + seed * 130)).await;
        one.crash().await;
        sleep(ms(400)).await;
        two.drain().await;
        let three = worker(3);
        rig.emptied(&three).await;
        three.drain().await;
        in_order(&rig);
        for record in rig.inbox.records() {
            assert_eq!(record.status, Status::Completed, "seed {seed}: {record:?}");
        }
        for group in ["g0", "g1", "g2", "g3"] {
            let mut done = done_in(&rig, group);
            done.dedup();
            assert_eq!(done, (0..10).collect::<Vec<_>>(), "seed {seed}, {group}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn inv07_without_an_inbox_the_next_starts_only_when_the_one_before_is_deleted() {
    let rig = Rig::fifo();
    fill(&rig, 2, 6).await;
    rig.queue.faults().set(
        redrive::faults::Operation::Delete,
        Rates::new().latency(ms(300), ms(300)),
    );
    let handler = rig.runs(|context: Context| async move {
        if context.message().body == "g0-1" && context.attempt() == 1 {
            Err(Failure::retry("once"))
        } else {
            Ok(())
        }
    });
    let running = start(rig.bare().handler(handler).build().unwrap());
    rig.emptied(&running).await;
    running.drain().await;
    in_order(&rig);
    let runs = rig.log.runs();
    let of_group: Vec<_> = runs.iter().filter(|run| run.group.as_deref() == Some("g1")).collect();
    for pair in of_group.windows(2) {
        assert!(
            pair[1].began - pair[0].ended.unwrap() >= ms(150),
            "it did not wait for the delete"
        );
    }
    assert_eq!(done_in(&rig, "g0"), (0..6).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn complaint_08_a_late_delete_is_counted_and_the_message_not_run_again() {
    let rig = Rig::fifo();
    fill(&rig, 1, 1).await;
    // Its visibility ends before the delete arrives; with an inbox the lease still holds.
    let faults = rig.queue.faults().clone();
    faults.set(redrive::faults::Operation::ChangeVisibility, Rates::new().before(1.0));
    faults.set(redrive::faults::Operation::Receive, Rates::new());
    let handler = rig.runs(move |_| {
        faults.set(redrive::faults::Operation::Receive, Rates::new().before(1.0));
        async {
            sleep(secs(45)).await;
            Ok(())
        }
    });
    let running = start(rig.worker().handler(handler).build().unwrap());
    running
        .until("the late delete is seen", |status| status.totals.late_deletes == 1)
        .await;
    assert_eq!((rig.queue.len(), rig.log.len()), (1, 1));
    rig.queue.faults().heal();
    rig.emptied(&running).await;
    let totals = running.drain().await.totals;
    assert_eq!((rig.log.len(), totals.completed, totals.duplicates), (1, 1, 1));
}

#[tokio::test(start_paused = true)]
async fn inv07_keys_can_come_from_deduplication_ids() {
    let rig = Rig::fifo();
    for (id, body) in [("d1", "1"), ("d2", "2")] {
        rig.put(redrive::message::Outgoing::new(body).group("g").deduplication_id(id))
            .await;
    }
    sleep(secs(301)).await;
    rig.put(redrive::message::Outgoing::new("1").group("g").deduplication_id("d1"))
        .await;
    let running = start(
        rig.worker()
            .key_from_deduplication_id()
            .handler(rig.succeeds())
            .build()
            .unwrap(),
    );
    rig.emptied(&running).await;
    running.drain().await;
    assert_eq!(rig.log.bodies(), ["1", "2"]);
    assert_eq!(rig.log.runs()[0].key, "d1");
}

#[tokio::test(start_paused = true)]
async fn inv07_what_an_open_breaker_kept_long_enough_goes_back_from_the_head() {
    let rig = Rig::fifo();
    rig.send_in("g", "head", "g-0").await;
    rig.send_in("g", "tail", "g-1").await;
    for other in ["a", "b", "c"] {
        rig.send_in(other, other, other).await;
    }
    // The head ends some time after the others have opened the breaker: from then on it is kept, and its tail for longer.
    let handler = rig.runs(|context: Context| async move {
        sleep(secs(if context.message().body == "g-0" { 15 } else { 1 })).await;
        Err::<(), _>(Failure::retry("down"))
    });
    let config = BreakerConfig::default().failures_in_a_row(3).unwrap();
    let worker = rig.worker().breaker(config).keep_while_open(secs(20));
    let running = start(worker.handler(handler).build().unwrap());
    running
        .until("something was given back", |status| status.totals.released > 0)
        .await;
    let back = |body: &str| !rig.fates.of(body).is_empty();
    while !back("g-1") {
        sleep(ms(10)).await;
    }
    assert!(back("g-0"), "the tail is given back, and its head is held");
    running.drain().await;
}

/// A receive brings ten of one group, and nine of them cannot run: that they are held must not keep the slots from other groups.
#[tokio::test(start_paused = true)]
async fn inv07_deep_groups_leave_no_slot_idle_and_inv05_what_is_held_behind_others_is_bounded() {
    const SLOTS: usize = 16;
    let rig = Rig::fifo();
    for group in 0..100 {
        for n in 0..10 {
            rig.send_in(&format!("g{group}"), &format!("k{group}-{n}"), &format!("{group}-{n}"))
                .await;
        }
    }
    let worker = rig.bare().concurrency(SLOTS).handler(rig.takes(ms(20)));
    let running = start(worker.build().unwrap());
    let began = now();
    let mut most = 0;
    while rig.log.done() < 1_000 {
        let status = running.status();
        most = most.max(status.running + status.waiting);
        sleep(ms(1)).await;
    }
    // 1,000 messages of 20 ms on 16 slots take 1.25 s.
    let took = now() - began;
    assert!(took < ms(1_500), "{took:?}");
    assert!(most <= SLOTS + 2 * SLOTS + 10 * (SLOTS + 1), "{most} held");
    running.drain().await;
}
