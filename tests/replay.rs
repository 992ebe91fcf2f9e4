//! Browsing and replaying dead letters on the embedded queue, with faults, kills and reruns.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use redrive::clock::{Clock, Random};
use redrive::dlq::{
    Browser, CompletedKeys, ENVELOPE_ATTRIBUTE, Envelope, Intent, Journal, Replay, ReplayEnd, ReplayError,
    ReplayReport, ScanEnd, Visit, browse,
};
use redrive::faults::{Operation, Rates};
use redrive::inbox::{ClaimAnswer, ClaimRequest, Inbox};
use redrive::key::{Fingerprint, Key, RecordKey};
use redrive::message::{Attribute, Delivery, Message, Outgoing, Receipt};
use redrive::outcome::StoredResult;
use redrive::queue::{EntryResults, Queue, QueueAttributes, QueueError, Receive};
use redrive::{Failure, MemoryInbox, MemoryQueue, Worker};
use tokio_util::sync::CancellationToken;

fn queue(name: &str) -> MemoryQueue {
    MemoryQueue::new(name).unwrap()
}

fn shared(queue: &MemoryQueue) -> Arc<dyn Queue> {
    Arc::new(queue.clone())
}

/// A dead letter as the worker sends it.
fn dead(n: usize, reason: &str) -> Outgoing {
    let mut envelope = Envelope::default();
    envelope.key = format!("k{n}");
    envelope.reason = reason.to_owned();
    envelope.error = format!("order {n} failed");
    envelope.attempts = 3;
    envelope.message_id = format!("first-{n}");
    let text = serde_json::to_string(&envelope).unwrap();
    Outgoing::new(n.to_string()).attribute(ENVELOPE_ATTRIBUTE, Attribute::string(text))
}

fn every_third_timed_out(count: usize) -> impl Iterator<Item = Outgoing> {
    (0..count).map(|n| dead(n, if n % 3 == 0 { "timeout" } else { "rejected" }))
}

async fn fill(queue: &MemoryQueue, letters: impl IntoIterator<Item = Outgoing>) {
    for letter in letters {
        queue.send(vec![letter]).await.unwrap().remove(0).unwrap();
    }
}

fn replay(from: &MemoryQueue, to: &MemoryQueue) -> Replay {
    Replay::new(shared(from), shared(to), "job").random(Random::seeded(1))
}

fn keys(queue: &MemoryQueue) -> Vec<String> {
    let key = |message: &Message| Envelope::of(message).map_or_else(|| message.id.clone(), |envelope| envelope.key);
    queue.messages().iter().map(key).collect()
}

fn bodies(queue: &MemoryQueue) -> Vec<String> {
    queue.messages().into_iter().map(|message| message.body).collect()
}

fn balanced(report: &ReplayReport) -> bool {
    report.seen
        == report.replayed
            + report.resumed
            + report.completed
            + report.dropped
            + report.skipped
            + report.behind_group
            + report.not_reached
            + report.came_back
            + report.failed
}

fn faulty() -> Rates {
    Rates::new()
        .before(0.05)
        .after(0.05)
        .throttled(0.05)
        .entries(0.05)
        .latency(Duration::ZERO, Duration::from_millis(100))
}

#[derive(Default)]
struct Notes(Mutex<BTreeSet<String>>);

impl Journal for Notes {
    fn was_sent(&self, message_id: &str) -> bool {
        self.0.lock().unwrap().contains(message_id)
    }
    fn record(&self, message_ids: &[String]) -> std::io::Result<()> {
        self.0.lock().unwrap().extend(message_ids.iter().cloned());
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn inv10_everything_goes_back_with_its_key_and_first_message_id() {
    let (dlq, orders) = (queue("orders-dlq"), queue("orders"));
    fill(&dlq, (0..95).map(|n| dead(n, "rejected"))).await;
    let report = replay(&dlq, &orders).run().await.unwrap();
    assert_eq!(
        (report.seen, report.replayed, report.end),
        (95, 95, ReplayEnd::Exhausted)
    );
    assert!(dlq.is_empty() && balanced(&report));
    let found: BTreeSet<_> = keys(&orders).into_iter().collect();
    assert_eq!(found, (0..95).map(|n| format!("k{n}")).collect());
    let message = &orders.messages()[0];
    assert_eq!(
        Envelope::of(message).unwrap().message_id,
        format!("first-{}", message.body)
    );
    assert_eq!(report.by_reason["rejected"].replayed, 95);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_sqs_moved_by_itself_gets_an_envelope_even_with_ten_attributes() {
    let (dlq, orders) = (queue("orders-dlq"), queue("orders"));
    let mut ten = Outgoing::new("x");
    for n in 0..10 {
        ten = ten.attribute(format!("a{n}"), Attribute::binary(vec![n, 255]));
    }
    fill(&dlq, [ten.clone()]).await;
    let id = dlq.messages()[0].id.clone();
    replay(&dlq, &orders).run().await.unwrap();
    let message = &orders.messages()[0];
    let envelope = Envelope::of(message).unwrap();
    assert_eq!(
        (envelope.key.as_str(), envelope.message_id.as_str()),
        (id.as_str(), id.as_str())
    );
    assert_eq!(Envelope::original_attributes(message), ten.attributes);
}

#[tokio::test(start_paused = true)]
async fn inv01_inv11_under_faults_of_every_kind_nothing_is_lost() {
    for seed in 0..15 {
        let (dlq, orders) = (queue("orders-dlq"), queue("orders"));
        fill(&dlq, (0..200).map(|n| dead(n, "rejected"))).await;
        for queue in [&dlq, &orders] {
            queue.faults().set_all(faulty());
        }
        let report = Replay::new(shared(&dlq), shared(&orders), "job")
            .random(Random::seeded(seed))
            .run()
            .await
            .unwrap();
        assert!(balanced(&report), "{report:?}");
        let there: BTreeSet<_> = keys(&orders).into_iter().collect();
        let left: BTreeSet<_> = keys(&dlq).into_iter().collect();
        assert_eq!(there.union(&left).count(), 200, "seed {seed}: {report:?}");
        assert!(there.len() as u64 >= report.replayed, "what was confirmed is there");
        assert!(left.len() as u64 <= report.seen - report.replayed + report.not_deleted + (200 - report.seen));
    }
}

#[tokio::test(start_paused = true)]
async fn inv01_killed_at_any_point_and_run_again_it_loses_nothing_and_repeats_at_most_a_batch_a_kill() {
    for seed in 0..10 {
        let (dlq, orders) = (queue("orders-dlq"), queue("orders"));
        fill(&dlq, (0..300).map(|n| dead(n, "rejected"))).await;
        for queue in [&dlq, &orders] {
            let rates = Rates::new().latency(Duration::from_millis(5), Duration::from_millis(50));
            queue.faults().set_all(rates);
        }
        let notes = Arc::new(Notes::default());
        let random = Random::seeded(seed);
        let run = || {
            Replay::new(shared(&dlq), shared(&orders), "job")
                .journal(notes.clone())
                .random(random.clone())
                .run()
        };
        let mut kills = 0;
        for _ in 0..10 {
            let after = Duration::from_millis(random.below(400));
            // Dropped where it stands, as a kill would.
            if tokio::time::timeout(after, run()).await.is_err() {
                kills += 1;
            }
            // What it held comes back by itself.
            tokio::time::advance(Duration::from_secs(121)).await;
        }
        assert!(kills >= 5);
        let report = run().await.unwrap();
        assert!(dlq.is_empty(), "seed {seed}: {report:?}");
        let mut count: BTreeMap<String, usize> = BTreeMap::new();
        for key in keys(&orders) {
            *count.entry(key).or_default() += 1;
        }
        assert_eq!(count.len(), 300, "seed {seed}: lost");
        let twice = count.values().filter(|&&n| n > 1).count();
        assert!(
            twice <= kills * 40,
            "at most the batches under way: {twice} after {kills} kills"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_journal_has_as_sent_is_only_deleted() {
    let (dlq, orders) = (queue("orders-dlq"), queue("orders"));
    fill(&dlq, (0..5).map(|n| dead(n, "rejected"))).await;
    let notes = Arc::new(Notes::default());
    notes.record(&[dlq.messages()[2].id.clone()]).unwrap();
    let report = replay(&dlq, &orders).journal(notes).run().await.unwrap();
    assert_eq!((report.replayed, report.resumed), (4, 1));
    assert!(dlq.is_empty() && !keys(&orders).contains(&"k2".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn inv01_a_run_of_an_earlier_job_deletes_what_that_sent_though_its_limit_is_used_up() {
    struct Earlier(Notes);
    impl Journal for Earlier {
        fn was_sent(&self, message_id: &str) -> bool {
            self.0.was_sent(message_id)
        }
        fn record(&self, message_ids: &[String]) -> std::io::Result<()> {
            self.0.record(message_ids)
        }
        fn is_resumed(&self) -> bool {
            true
        }
    }
    let (dlq, orders) = (queue("orders-dlq"), queue("orders"));
    fill(&dlq, (0..50).map(|n| dead(n, "rejected"))).await;
    let notes = Notes::default();
    notes.record(&[dlq.messages()[47].id.clone()]).unwrap();
    let report = replay(&dlq, &orders)
        .journal(Arc::new(Earlier(notes)))
        .limit(0)
        .run()
        .await
        .unwrap();
    assert_eq!(
        (report.replayed, report.resumed, report.not_reached),
        (0, 1, 49),
        "{report:?}"
    );
    assert_eq!((report.end, dlq.len(), dlq.in_flight()), (ReplayEnd::Limit, 49, 0));
}

#[tokio::test(start_paused = true)]
async fn a_journal_that_cannot_be_written_stops_the_replay_and_loses_nothing() {
    struct Full;
    impl Journal for Full {
        fn was_sent(&self, _: &str) -> bool {
            false
        }
        fn record(&self, _: &[String]) -> std::io::Result<()> {
            Err(std::io::Error::other("disk full"))
        }
    }
    let (dlq, orders) = (queue("orders-dlq"), queue("orders"));
    fill(&dlq, (0..100).map(|n| dead(n, "rejected"))).await;
    let error = replay(&dlq, &orders).journal(Arc::new(Full)).run().await.unwrap_err();
    assert!(matches!(&error, ReplayError::Journal { .. }) && error.to_string().contains("disk full"));
    assert_eq!(error.report().unwrap().end, ReplayEnd::Failed);
    assert_eq!(dlq.len() + orders.len(), 100);
    assert_eq!(dlq.in_flight(), 0, "given back");
}

#[tokio::test(start_paused = true)]
async fn only_what_the_filter_says_goes_and_the_rest_is_given_back() {
    let (dlq, orders) = (queue("orders-dlq"), queue("orders"));
    fill(&dlq, every_third_timed_out(60)).await;
    let report = replay(&dlq, &orders)
        .filter(|letter| letter.reason() == "timeout")
        .run()
        .await
        .unwrap();
    assert_eq!((report.replayed, report.skipped), (20, 40));
    assert_eq!((orders.len(), dlq.len(), dlq.in_flight()), (20, 40, 0));
    assert_eq!(report.by_reason["rejected"].seen, 40);
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_counts_and_moves_nothing() {
    let (dlq, orders) = (queue("orders-dlq"), queue("orders"));
    fill(&dlq, every_third_timed_out(60)).await;
    let report = replay(&dlq, &orders).dry_run(true).run().await.unwrap();
    assert_eq!((report.seen, report.replayed), (60, 60));
    assert_eq!(report.by_reason["timeout"].replayed, 20);
    assert_eq!((orders.len(), dlq.len(), dlq.in_flight()), (0, 60, 0));
}

#[tokio::test(start_paused = true)]
async fn a_limit_is_kept_exactly() {
    for limit in [0, 1, 25, 60, 100] {
        let (dlq, orders) = (queue("orders-dlq"), queue("orders"));
        fill(&dlq, (0..60).map(|n| dead(n, "rejected"))).await;
        let report = replay(&dlq, &orders).limit(limit).run().await.unwrap();
        assert_eq!(report.replayed, limit.min(60));
        assert_eq!(
            (orders.len() as u64, dlq.len() as u64),
            (limit.min(60), 60 - limit.min(60))
        );
        assert_eq!(dlq.in_flight(), 0);
        assert!(balanced(&report));
    }
}

#[tokio::test(start_paused = true)]
async fn inv05_a_rate_is_never_exceeded_and_messages_are_held_while_they_wait() {
    for (rate, count) in [(50.0, 200), (0.2, 30)] {
        let (dlq, orders) = (queue("orders-dlq"), queue("orders"));
        fill(&dlq, (0..count).map(|n| dead(n, "rejected"))).await;
        let start = Clock::system().now();
        let report = replay(&dlq, &orders).rate(rate).unwrap().run().await.unwrap();
        assert_eq!(report.replayed as usize, count);
        let least = Duration::from_secs_f64((count - 10) as f64 / rate);
        assert!(start.elapsed() >= least, "{:?} at {rate}/s", start.elapsed());
        assert!(start.elapsed() <= least + Duration::from_secs_f64(10.0 / rate + 10.0));
        assert_eq!(
            (report.lost_hold, orders.len()),
            (0, count),
            "none came back to be sent twice"
        );
    }
}

/// Sends to it come back to the dead-letter queue at once.
struct Boomerang {
    attributes: QueueAttributes,
    dlq: MemoryQueue,
}

impl Queue for Boomerang {
    fn attributes(&self) -> &QueueAttributes {
        &self.attributes
    }
    fn dead_letter_queue(&self) -> Option<Arc<dyn Queue>> {
        None
    }
    fn describe(&self) -> BoxFuture<'_, Result<QueueAttributes, QueueError>> {
        self.dlq.describe()
    }
    fn receive(&self, request: Receive) -> BoxFuture<'_, Result<Vec<Delivery>, QueueError>> {
        self.dlq.receive(request)
    }
    fn delete(&self, receipts: Vec<Receipt>) -> BoxFuture<'_, Result<EntryResults<()>, QueueError>> {
        self.dlq.delete(receipts)
    }
    fn change_visibility(&self, to: Vec<(Receipt, Duration)>) -> BoxFuture<'_, Result<EntryResults<()>, QueueError>> {
        self.dlq.change_visibility(to)
    }
    fn send(&self, messages: Vec<Outgoing>) -> BoxFuture<'_, Result<EntryResults<String>, QueueError>> {
        self.dlq.send(messages)
    }
}

#[tokio::test(start_paused = true)]
async fn what_dies_again_at_once_is_not_sent_round_for_ever() {
    let dlq = queue("orders-dlq");
    fill(&dlq, (0..30).map(|n| dead(n, "rejected"))).await;
    let orders = Arc::new(Boomerang {
        attributes: QueueAttributes::new("orders"),
        dlq: dlq.clone(),
    });
    let report = Replay::new(shared(&dlq), orders, "job")
        .random(Random::seeded(1))
        .run()
        .await
        .unwrap();
    assert_eq!((report.replayed, report.came_back), (30, 30));
    assert_eq!(dlq.len(), 30);
}

async fn complete(inbox: &MemoryInbox, key: &str, payload: &str) {
    let request = ClaimRequest {
        key: RecordKey::new("orders", &Key::new(key)),
        claim_id: format!("claim of {key}"),
        message_id: "mid".into(),
        fingerprint: Some(Fingerprint::of(payload.as_bytes())),
        lease: Duration::from_secs(30),
        retention: Duration::from_secs(86_400),
        receive_count: 1,
        replayed: false,
    };
    let Ok(ClaimAnswer::Claimed(claim)) = inbox.claim(vec![request]).await.remove(0) else {
        panic!("the claim of a new key is won");
    };
    inbox
        .complete(vec![(claim, StoredResult::Nothing)])
        .await
        .remove(0)
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn keys_that_are_completed_stay_or_are_dropped_or_run_again_under_a_new_key() {
    for policy in [CompletedKeys::Skip, CompletedKeys::Drop, CompletedKeys::Force] {
        let (dlq, orders) = (queue("orders-dlq"), queue("orders"));
        let inbox = MemoryInbox::builder()
            .clock(Clock::starting_at(1_700_000_000_000))
            .build();
        for n in [1, 2] {
            complete(&inbox, &format!("k{n}"), &n.to_string()).await;
        }
        complete(&inbox, "k3", "an edited 3").await;
        let letters = [
            dead(0, "rejected"),
            dead(1, "rejected"),
            dead(2, "fingerprint_mismatch"),
            dead(3, "rejected"),
        ];
        fill(&dlq, letters).await;
        let kept = Arc::new(Mutex::new(Vec::new()));
        let backup = Arc::clone(&kept);
        let report = replay(&dlq, &orders)
            .inbox(Arc::new(inbox), "orders")
            .completed(policy)
            .backup(move |letters| {
                let bodies = letters.iter().map(|letter| letter.body().to_owned());
                backup.lock().unwrap().extend(bodies);
                Ok(())
            })
            .run()
            .await
            .unwrap();
        assert!(balanced(&report));
        let sent: BTreeSet<_> = keys(&orders).into_iter().collect();
        match policy {
            CompletedKeys::Skip => {
                assert_eq!((report.replayed, report.completed), (1, 3));
                assert_eq!(bodies(&dlq), ["1", "2", "3"]);
            }
            CompletedKeys::Drop => {
                assert_eq!((report.replayed, report.dropped, report.completed), (1, 1, 2));
                assert_eq!(*kept.lock().unwrap(), ["1"], "kept before it is deleted");
                assert_eq!(
                    bodies(&dlq),
                    ["2", "3"],
                    "another payload under the key is no copy of work that is done"
                );
            }
            _ => {
                assert_eq!(report.replayed, 4);
                assert_eq!(sent, ["k0", "k1~job", "k2~job", "k3~job"].map(str::to_owned).into());
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn inv01_what_cannot_be_kept_is_not_dropped() {
    let (dlq, orders) = (queue("orders-dlq"), queue("orders"));
    let inbox = MemoryInbox::builder()
        .clock(Clock::starting_at(1_700_000_000_000))
        .build();
    complete(&inbox, "k0", "0").await;
    fill(&dlq, [dead(0, "rejected")]).await;
    let run = |dry: bool| {
        replay(&dlq, &orders)
            .inbox(Arc::new(inbox.clone()), "orders")
            .completed(CompletedKeys::Drop)
            .backup(|_| Err(std::io::Error::other("disk full")))
            .dry_run(dry)
            .run()
    };
    assert_eq!(
        run(true).await.unwrap().dropped,
        1,
        "a dry run keeps and deletes nothing"
    );
    let error = run(false).await.unwrap_err();
    assert!(matches!(&error, ReplayError::Backup { .. }) && error.to_string().contains("disk full"));
    let report = error.report().unwrap();
    assert_eq!(
        (report.dropped, report.not_reached, dlq.len(), dlq.in_flight()),
        (0, 1, 1, 0)
    );
    assert!(balanced(report));
}

#[tokio::test(start_paused = true)]
async fn an_inbox_that_cannot_be_asked_stops_the_replay_before_anything_is_sent() {
    let (dlq, orders) = (queue("orders-dlq"), queue("orders"));
    let inbox = MemoryInbox::builder()
        .clock(Clock::starting_at(1_700_000_000_000))
        .build();
    inbox.faults().set_unreachable(true);
    fill(&dlq, (0..5).map(|n| dead(n, "rejected"))).await;
    let error = replay(&dlq, &orders)
        .inbox(Arc::new(inbox), "orders")
        .run()
        .await
        .unwrap_err();
    assert!(
        matches!(&error, ReplayError::Inbox { report, .. } if report.replayed == 0 && balanced(report)),
        "{error}"
    );
    assert_eq!((orders.len(), dlq.len(), dlq.in_flight()), (0, 5, 0));
}

#[tokio::test(start_paused = true)]
async fn an_edit_changes_the_body_and_one_that_fails_leaves_the_message() {
    let (dlq, orders) = (queue("orders-dlq"), queue("orders"));
    fill(&dlq, (0..4).map(|n| dead(n, "rejected"))).await;
    let report = replay(&dlq, &orders)
        .edit(|letter, outgoing| {
            if letter.body() == "2" {
                return Err("two is beyond repair".into());
            }
            outgoing.body = format!("mended {}", outgoing.body);
            Ok(())
        })
        .run()
        .await
        .unwrap();
    assert_eq!((report.replayed, report.failed), (3, 1));
    assert!(report.failures[0].error.contains("beyond repair"));
    assert_eq!(bodies(&dlq), ["2"]);
    assert!(bodies(&orders).iter().all(|body| body.starts_with("mended ")));
    assert_eq!(keys(&orders).len(), 3);
}

#[tokio::test(start_paused = true)]
async fn cancelled_it_finishes_what_is_under_way_and_gives_back_the_rest() {
    let (dlq, orders) = (queue("orders-dlq"), queue("orders"));
    fill(&dlq, (0..100).map(|n| dead(n, "rejected"))).await;
    let token = CancellationToken::new();
    let stop = token.clone();
    let report = replay(&dlq, &orders)
        .rate(20.0)
        .unwrap()
        .cancel(token)
        .progress(move |report| {
            if report.replayed >= 20 {
                stop.cancel();
            }
        })
        .run()
        .await
        .unwrap();
    assert_eq!(report.end, ReplayEnd::Cancelled);
    assert!(balanced(&report), "{report:?}");
    assert!((20..100).contains(&report.replayed));
    assert_eq!(
        (orders.len() as u64, orders.len() + dlq.len(), dlq.in_flight()),
        (report.replayed, 100, 0)
    );
}

#[tokio::test(start_paused = true)]
async fn inv12_a_queue_cannot_be_replayed_into_itself() {
    let dlq = queue("orders-dlq");
    let error = replay(&dlq, &dlq).run().await.unwrap_err();
    assert!(error.to_string().contains("`orders-dlq` into itself"));
}

#[tokio::test(start_paused = true)]
async fn inv11_one_message_the_target_cannot_take_fails_alone() {
    let (dlq, orders) = (
        queue("orders-dlq"),
        MemoryQueue::builder("orders").max_message_bytes(1_024).build().unwrap(),
    );
    let mut large = dead(3, "rejected");
    large.body = "x".repeat(2_000);
    fill(&dlq, [dead(1, "rejected"), large, dead(2, "rejected")]).await;
    let report = replay(&dlq, &orders).run().await.unwrap();
    assert_eq!((report.replayed, report.failed), (2, 1));
    assert!(report.failures[0].error.contains("1024") && report.failures[0].key == "k3");
    assert_eq!((orders.len(), dlq.len()), (2, 1));
}

/// Receives all of a FIFO queue once and lets SQS's redrive policy move it.
async fn die_by_policy(orders: &MemoryQueue, dlq: &MemoryQueue, count: usize) {
    while dlq.len() < count {
        for delivery in orders.receive(Receive::new(10, Duration::ZERO)).await.unwrap() {
            orders
                .change_visibility(vec![(delivery.receipt, Duration::ZERO)])
                .await
                .unwrap();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn inv07_replayed_and_dead_twice_within_five_minutes_nothing_is_swallowed_and_groups_stay_in_order() {
    let dlq = queue("orders-dlq.fifo");
    let orders = MemoryQueue::builder("orders.fifo")
        .dead_letter(&dlq, 1)
        .build()
        .unwrap();
    let start = Clock::system().now();
    for n in 0..40 {
        let order = Outgoing::new(n.to_string())
            .group(format!("g{}", n % 4))
            .deduplication_id(format!("d{n}"));
        fill(&orders, [order]).await;
    }
    let first_ids: BTreeSet<_> = orders.messages().into_iter().map(|message| message.id).collect();
    for _ in 0..3 {
        die_by_policy(&orders, &dlq, 40).await;
        let report = replay(&dlq, &orders).run().await.unwrap();
        assert_eq!((report.replayed, orders.len(), dlq.len()), (40, 40, 0), "{report:?}");
        let mut groups: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for message in orders.messages() {
            groups
                .entry(message.group_id.unwrap())
                .or_default()
                .push(message.body.parse().unwrap());
        }
        assert!(
            groups
                .values()
                .all(|numbers| numbers.is_sorted() && numbers.len() == 10),
            "{groups:?}"
        );
    }
    assert!(
        start.elapsed() < Duration::from_secs(300),
        "all within SQS's deduplication window"
    );
    let known: BTreeSet<_> = orders
        .messages()
        .iter()
        .map(|message| Envelope::of(message).unwrap().message_id)
        .collect();
    assert_eq!(known.len(), 40);
    let first_dead = known.iter().filter(|id| first_ids.contains(*id)).count();
    assert!(
        first_dead == 40 || first_dead == 0,
        "the first MessageId known is kept by every later replay"
    );
}

#[tokio::test(start_paused = true)]
async fn inv07_what_is_left_of_a_group_holds_back_what_comes_after_it_and_not_what_comes_before() {
    let (dlq, orders) = (queue("orders-dlq.fifo"), queue("orders.fifo"));
    let letter = |n: usize| {
        dead(n, "rejected")
            .group(format!("g{}", n % 2))
            .deduplication_id(format!("d{n}"))
    };
    fill(&dlq, (0..40).map(letter)).await;
    let report = replay(&dlq, &orders)
        .filter(|letter| letter.body() != "15")
        .run()
        .await
        .unwrap();
    let mut left: Vec<usize> = bodies(&dlq).iter().map(|body| body.parse().unwrap()).collect();
    left.sort_unstable();
    assert_eq!(left, (15..40).step_by(2).collect::<Vec<_>>(), "{report:?}");
}

/// Letters of FIFO groups, as `group` says of each.
fn grouped(count: usize, group: impl Fn(usize) -> usize) -> Vec<Outgoing> {
    let letter = |n: usize| {
        dead(n, "rejected")
            .group(format!("g{}", group(n)))
            .deduplication_id(format!("d{n}"))
    };
    (0..count).map(letter).collect()
}

fn numbers(queue: &MemoryQueue) -> Vec<usize> {
    let mut numbers: Vec<usize> = bodies(queue).iter().map(|body| body.parse().unwrap()).collect();
    numbers.sort_unstable();
    numbers
}

#[tokio::test(start_paused = true)]
async fn inv07_with_skip_order_all_of_a_group_is_seen_past_what_is_left_of_it() {
    // (letters, groups, how many are left at the head and elsewhere)
    for (count, groups, left) in [
        (25, 1, vec![0]),
        (95, 1, vec![0, 1, 20, 21, 50, 94]),
        (300, 7, vec![0, 8, 9, 16, 33, 150, 299]),
        (200, 150, (0..200).step_by(2).collect()),
    ] {
        let (dlq, orders) = (queue("orders-dlq.fifo"), queue("orders.fifo"));
        fill(&dlq, grouped(count, |n| n % groups)).await;
        let stay = left.clone();
        let report = replay(&dlq, &orders)
            .filter(move |letter| !stay.contains(&letter.body().parse().unwrap()))
            .skip_order(true)
            .run()
            .await
            .unwrap();
        assert_eq!(numbers(&dlq), left, "{report:?}");
        assert_eq!(
            (report.end, report.unseen_groups),
            (ReplayEnd::Exhausted, 0),
            "{report:?}"
        );
        assert_eq!((report.skipped as usize, dlq.in_flight()), (left.len(), 0));
        assert!(balanced(&report), "{report:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn inv07_what_ten_letters_that_are_left_hide_is_told_and_not_taken_for_the_end() {
    for (count, unseen) in [(9, 0), (25, 1)] {
        let (dlq, orders) = (queue("orders-dlq.fifo"), queue("orders.fifo"));
        fill(&dlq, grouped(count, |_| 0)).await;
        let run = |filter: fn(usize) -> bool, dry: bool| {
            replay(&dlq, &orders)
                .filter(move |letter| filter(letter.body().parse().unwrap()))
                .skip_order(true)
                .dry_run(dry)
                .run()
        };
        let report = run(|n| n > 9, false).await.unwrap();
        assert_eq!((report.replayed, report.unseen_groups), (0, unseen), "{report:?}");
        let report = run(|_| true, true).await.unwrap();
        assert_eq!(
            (report.replayed, report.unseen_groups),
            (count.min(10) as u64, unseen),
            "{report:?}"
        );
        assert_eq!(dlq.len(), count);
    }
}

#[tokio::test(start_paused = true)]
async fn inv07_that_a_group_goes_on_behind_what_stops_it_is_always_seen() {
    for last in [3, 9, 10, 19, 24] {
        let (dlq, orders) = (queue("orders-dlq.fifo"), queue("orders.fifo"));
        fill(&dlq, grouped(25, |_| 0)).await;
        let report = replay(&dlq, &orders)
            .filter(move |letter| letter.body() != last.to_string())
            .run()
            .await
            .unwrap();
        assert_eq!((report.replayed, report.skipped), (last, 1), "{report:?}");
        assert_eq!(report.behind_group > 0, last < 24, "{report:?}");
        assert_eq!(report.unseen_groups, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn inv07_a_completed_key_does_not_hide_the_rest_of_its_group() {
    let (dlq, orders) = (queue("orders-dlq.fifo"), queue("orders.fifo"));
    let inbox = MemoryInbox::builder()
        .clock(Clock::starting_at(1_700_000_000_000))
        .build();
    complete(&inbox, "k0", "0").await;
    fill(&dlq, grouped(25, |_| 0)).await;
    let report = replay(&dlq, &orders)
        .inbox(Arc::new(inbox), "orders")
        .run()
        .await
        .unwrap();
    assert_eq!((report.replayed, report.completed, report.unseen_groups), (24, 1, 0));
    assert_eq!(numbers(&dlq), [0]);
}

#[tokio::test(start_paused = true)]
async fn inv01_a_dry_run_deletes_nothing_though_what_it_would_drop_is_received_again() {
    let (dlq, orders) = (queue("orders-dlq.fifo"), queue("orders.fifo"));
    let inbox = MemoryInbox::builder()
        .clock(Clock::starting_at(1_700_000_000_000))
        .build();
    complete(&inbox, "k0", "0").await;
    fill(&dlq, grouped(3, |_| 0)).await;
    let report = replay(&dlq, &orders)
        .inbox(Arc::new(inbox), "orders")
        .completed(CompletedKeys::Drop)
        .dry_run(true)
        .run()
        .await
        .unwrap();
    assert_eq!((report.dropped, report.replayed, report.seen), (1, 2, 3), "{report:?}");
    assert_eq!(numbers(&dlq), [0, 1, 2]);
}

#[tokio::test(start_paused = true)]
async fn it_ends_though_nothing_can_be_deleted_of_a_fifo_queue() {
    let (dlq, orders) = (queue("orders-dlq.fifo"), queue("orders.fifo"));
    fill(&dlq, grouped(3, |_| 0)).await;
    dlq.faults().set(Operation::Delete, Rates::new().before(1.0));
    let run = replay(&dlq, &orders).journal(Arc::new(Notes::default())).run();
    let report = tokio::time::timeout(Duration::from_secs(24 * 3_600), run)
        .await
        .expect("it ends")
        .unwrap();
    assert_eq!((report.seen, report.replayed, report.resumed), (3, 3, 0), "{report:?}");
    assert!(balanced(&report), "{report:?}");
    assert_eq!((orders.len(), dlq.len()), (3, 3));
}

#[tokio::test(start_paused = true)]
async fn inv07_what_the_queue_would_not_take_stops_its_group_before_the_next_is_sent() {
    let (dlq, orders) = (queue("orders-dlq.fifo"), queue("orders.fifo"));
    fill(&dlq, grouped(6, |n| n % 2)).await;
    let report = replay(&dlq, &orders)
        .edit(|letter, outgoing| {
            if letter.body() == "2" {
                outgoing.body = "\u{1b}[31m".to_owned();
            }
            Ok(())
        })
        .run()
        .await
        .unwrap();
    assert_eq!(
        (report.replayed, report.failed, report.behind_group),
        (4, 1, 1),
        "{report:?}"
    );
    assert_eq!(numbers(&dlq), [2, 4]);
}

#[tokio::test(start_paused = true)]
async fn inv07_fifo_groups_are_replayed_from_their_heads_under_faults() {
    for seed in 0..10 {
        let (dlq, orders) = (queue("orders-dlq.fifo"), queue("orders.fifo"));
        let letter = |n: usize| {
            dead(n, "rejected")
                .group(format!("g{}", n % 3))
                .deduplication_id(format!("d{n}"))
        };
        fill(&dlq, (0..60).map(letter)).await;
        for queue in [&dlq, &orders] {
            queue.faults().set_all(faulty());
        }
        // The head of a group that is left keeps the rest of it.
        let report = Replay::new(shared(&dlq), shared(&orders), "job")
            .filter(|letter| letter.body() != "31")
            .random(Random::seeded(seed))
            .run()
            .await
            .unwrap();
        let mut groups: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for message in orders.messages() {
            groups
                .entry(message.group_id.unwrap())
                .or_default()
                .push(message.body.parse().unwrap());
        }
        assert!(
            groups.values().all(|numbers| numbers.is_sorted()),
            "seed {seed}: {groups:?}"
        );
        let stopped = groups.get("g1").map_or(&[][..], Vec::as_slice);
        assert!(stopped.iter().all(|&n| n < 31), "seed {seed}: {groups:?}");
        let there: BTreeSet<_> = keys(&orders).into_iter().chain(keys(&dlq)).collect();
        assert_eq!(there.len(), 60, "seed {seed}: {report:?}");
    }
}

/// A queue named `name` whose dead letters go to `dlq` at their second receive.
fn source(name: &str, dlq: &MemoryQueue) -> MemoryQueue {
    MemoryQueue::builder(name).dead_letter(dlq, 1).build().unwrap()
}

#[tokio::test(start_paused = true)]
async fn the_letters_of_a_shared_dead_letter_queue_go_back_to_the_queues_they_came_from() {
    let dlq = queue("dead");
    let (orders, bills, gone) = (source("orders", &dlq), source("bills", &dlq), source("gone", &dlq));
    for (number, queue) in [&orders, &bills, &gone].into_iter().enumerate() {
        fill(queue, (0..5).map(|n| Outgoing::new(format!("{number}-{n}")))).await;
        die_by_policy(queue, &dlq, 5 * (number + 1)).await;
    }
    let mut told = dead(7, "rejected");
    let mut envelope: Envelope = serde_json::from_str(told.attributes[ENVELOPE_ATTRIBUTE].as_str().unwrap()).unwrap();
    envelope.source = bills.attributes().arn.clone();
    let text = serde_json::to_string(&envelope).unwrap();
    told.attributes
        .insert(ENVELOPE_ATTRIBUTE.into(), Attribute::string(text));
    fill(&dlq, [told, dead(8, "rejected")]).await;
    let report = Replay::to_sources(shared(&dlq), [shared(&orders), shared(&bills)], "job")
        .random(Random::seeded(1))
        .run()
        .await
        .unwrap();
    assert!(balanced(&report), "{report:?}");
    assert_eq!((report.replayed, report.failed, report.unrouted), (11, 6, 6));
    assert_eq!(bodies(&orders), ["0-0", "0-1", "0-2", "0-3", "0-4"]);
    assert_eq!(bodies(&bills).len(), 6);
    assert_eq!(dlq.visible(), 6);
    let errors: BTreeSet<_> = report.failures.into_iter().map(|failure| failure.error).collect();
    assert!(
        errors.iter().any(|error| error.contains(&gone.attributes().arn)),
        "{errors:?}"
    );
    assert!(errors.iter().any(|error| error.contains("not known")), "{errors:?}");
}

#[tokio::test(start_paused = true)]
async fn watching_sees_what_comes_back_after_the_last_send_and_sends_nothing_more() {
    let dlq = queue("orders-dlq");
    let orders = source("orders", &dlq);
    fill(&dlq, (0..30).map(|n| dead(n, "rejected"))).await;
    let replaying = replay(&dlq, &orders).watch(Duration::from_secs(60)).run();
    let later = async {
        tokio::time::sleep(Duration::from_secs(30)).await;
        assert_eq!(orders.len(), 30);
        die_by_policy(&orders, &dlq, 10).await;
        fill(&dlq, [dead(99, "rejected")]).await;
    };
    let start = Clock::system().now();
    let (report, ()) = tokio::join!(replaying, later);
    let report = report.unwrap();
    assert!(start.elapsed() >= Duration::from_secs(60));
    assert_eq!(report.replayed, 30, "what died since is not sent");
    assert!(
        report.came_back >= 10 && report.died_again == report.came_back,
        "{report:?}"
    );
    assert_eq!((orders.len() + dlq.len(), dlq.in_flight()), (31, 0));
}

/// Workers whose handler turns down what `bad` says, until the returned future is dropped.
async fn work(orders: &MemoryQueue, dlq: &MemoryQueue, inbox: &MemoryInbox, clock: &Clock, bad: fn(usize) -> bool) {
    let handler = move |body: redrive::extract::Text| async move {
        if bad(body.parse().unwrap()) {
            return Err(Failure::reject("still wrong"));
        }
        Ok(())
    };
    let worker = Worker::builder(orders.clone())
        .dead_letter(dlq.clone())
        .inbox(inbox.clone())
        .clock(clock.clone())
        .random(Random::seeded(5))
        .handler(handler)
        .build()
        .unwrap();
    worker.run_until_drained().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn it_stops_by_itself_when_the_inbox_says_that_too_much_died_again() {
    let clock = Clock::starting_at(1_700_000_000_000);
    let made = |name: &str| MemoryQueue::builder(name).clock(clock.clone()).build().unwrap();
    for (bad, stops) in [((|_| true) as fn(usize) -> bool, true), (|n| n % 50 == 0, false)] {
        let (dlq, orders) = (made("orders-dlq"), made("orders"));
        let inbox = MemoryInbox::builder().clock(clock.clone()).build();
        fill(&dlq, (0..600).map(|n| dead(n, "rejected"))).await;
        let replaying = replay(&dlq, &orders)
            .clock(clock.clone())
            .rate(20.0)
            .unwrap()
            .inbox(Arc::new(inbox.clone()), "orders")
            .watch(Duration::from_secs(120))
            .stop_when(|report| report.died_again >= 5 && report.died_again * 10 > report.replayed)
            .run();
        let start = clock.now();
        let report = tokio::select! {
            () = work(&orders, &dlq, &inbox, &clock, bad) => panic!("the worker ended"),
            report = replaying => report.unwrap(),
        };
        assert!(balanced(&report), "{report:?}");
        if stops {
            assert_eq!(report.end, ReplayEnd::Stopped);
            assert!(report.replayed < 200, "long before all were sent: {report:?}");
        } else {
            assert_eq!((report.end, report.replayed), (ReplayEnd::Exhausted, 600));
            assert_eq!((report.handled, report.died_again), (588, 12));
            assert!(
                start.elapsed() < Duration::from_secs(60),
                "all is known: it need not wait"
            );
        }
        assert_eq!(dlq.in_flight(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_sent_elsewhere_is_followed_under_the_name_of_the_queue_it_went_to() {
    let clock = Clock::starting_at(1_700_000_000_000);
    let made = |name: &str| MemoryQueue::builder(name).clock(clock.clone()).build().unwrap();
    let (dlq, elsewhere, graveyard) = (made("orders-dlq"), made("elsewhere"), made("graveyard"));
    let inbox = MemoryInbox::builder().clock(clock.clone()).build();
    for round in 0..2 {
        fill(&dlq, (0..40).map(|n| dead(n, "rejected"))).await;
        let replaying = Replay::new(shared(&dlq), shared(&elsewhere), format!("job {round}"))
            .random(Random::seeded(1))
            .clock(clock.clone())
            .inbox_of_sources(Arc::new(inbox.clone()), "orders")
            .watch(Duration::from_secs(120))
            .run();
        let report = tokio::select! {
            () = work(&elsewhere, &graveyard, &inbox, &clock, |n| n % 2 == 0) => panic!("the worker ended"),
            report = replaying => report.unwrap(),
        };
        assert_eq!(
            (report.replayed, report.handled, report.died_again),
            (40, 20, 20),
            "round {round}: {report:?}"
        );
    }
}

/// A journal that keeps intents, and is cut off after `left` records as by a kill.
#[derive(Default)]
struct Intents {
    sent: Mutex<BTreeSet<String>>,
    open: Mutex<BTreeMap<String, Intent>>,
    killed: CancellationToken,
}

impl Journal for Intents {
    fn was_sent(&self, message_id: &str) -> bool {
        self.sent.lock().unwrap().contains(message_id)
    }
    fn record(&self, message_ids: &[String]) -> std::io::Result<()> {
        if !self.killed.is_cancelled() {
            self.killed.cancel();
            return Err(std::io::Error::other("killed"));
        }
        self.sent.lock().unwrap().extend(message_ids.iter().cloned());
        Ok(())
    }
    fn intend(&self, about_to_send: &[Intent]) -> std::io::Result<()> {
        let mut open = self.open.lock().unwrap();
        open.extend(
            about_to_send
                .iter()
                .map(|intent| (intent.message_id.clone(), intent.clone())),
        );
        Ok(())
    }
    fn intended(&self, message_id: &str) -> Option<Intent> {
        self.open.lock().unwrap().get(message_id).cloned()
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_about_to_be_sent_is_known_by_its_key_and_never_forced_to_run_twice() {
    let (dlq, orders) = (queue("orders-dlq"), queue("orders"));
    let inbox = MemoryInbox::builder()
        .clock(Clock::starting_at(1_700_000_000_000))
        .build();
    fill(&dlq, (0..5).map(|n| dead(n, "rejected"))).await;
    let journal = Arc::new(Intents::default());
    let run = || {
        replay(&dlq, &orders)
            .inbox(Arc::new(inbox.clone()), "orders")
            .completed(CompletedKeys::Force)
            .journal(journal.clone())
            .wait_for_hidden(Duration::from_secs(125))
            .run()
    };
    // Killed after the send, before the journal had it and before the delete.
    let slow = Rates::new().latency(Duration::from_millis(50), Duration::from_millis(50));
    dlq.faults().set(Operation::Delete, slow);
    tokio::select! {
        biased;
        () = journal.killed.cancelled() => {}
        _ = run() => panic!("it is killed first"),
    }
    assert_eq!((orders.len(), dlq.len()), (5, 5));
    for n in 0..5 {
        complete(&inbox, &format!("k{n}"), &n.to_string()).await;
    }
    let report = run().await.unwrap();
    assert_eq!((report.resumed, report.replayed, dlq.len()), (5, 0, 0), "{report:?}");
    assert_eq!(orders.len(), 5, "not run once more under another key");
}

#[tokio::test(start_paused = true)]
async fn what_a_killed_run_held_is_waited_for_if_asked() {
    for wait in [0, 130] {
        let (dlq, orders) = (queue("orders-dlq"), queue("orders"));
        fill(&dlq, (0..100).map(|n| dead(n, "rejected"))).await;
        let slow = || replay(&dlq, &orders).rate(1.0).unwrap().run();
        assert!(tokio::time::timeout(Duration::from_secs(5), slow()).await.is_err());
        assert!(dlq.in_flight() >= 10);
        let wait = Duration::from_secs(wait);
        let report = replay(&dlq, &orders).wait_for_hidden(wait).run().await.unwrap();
        assert!(balanced(&report));
        assert_eq!(dlq.is_empty(), !wait.is_zero());
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_edit_keeps_its_messages_held_and_ends_when_cancelled() {
    let (dlq, orders) = (queue("orders-dlq"), queue("orders"));
    fill(&dlq, (0..40).map(|n| dead(n, "rejected"))).await;
    let slow = || {
        replay(&dlq, &orders).edit_with(|_, mut outgoing| async {
            tokio::time::sleep(Duration::from_secs(25)).await;
            outgoing.body.push('!');
            Ok(outgoing)
        })
    };
    let token = CancellationToken::new();
    let cancelled = slow().cancel(token.clone()).run();
    let (report, ()) = tokio::join!(cancelled, async {
        tokio::time::sleep(Duration::from_secs(30)).await;
        token.cancel();
    });
    let report = report.unwrap();
    assert!(balanced(&report) && report.end == ReplayEnd::Cancelled, "{report:?}");
    assert_eq!((report.replayed, dlq.in_flight()), (0, 0));
    let report = slow().run().await.unwrap();
    assert_eq!(
        (report.replayed, report.lost_hold, orders.len()),
        (40, 0, 40),
        "{report:?}"
    );
    assert!(bodies(&orders).iter().all(|body| body.ends_with('!')));
}

#[tokio::test(start_paused = true)]
async fn a_scan_shows_each_message_once_and_gives_all_back() {
    let dlq = queue("orders-dlq");
    fill(&dlq, (0..250).map(|n| dead(n, "rejected"))).await;
    let mut shown = Vec::new();
    let report = Browser::new(shared(&dlq))
        .random(Random::seeded(1))
        .scan(|letter| {
            shown.push(letter.key().as_str().to_owned());
            Visit::Keep
        })
        .await
        .unwrap();
    assert_eq!(
        (report.seen, report.released, report.end),
        (250, 250, ScanEnd::Exhausted)
    );
    assert_eq!(shown.iter().collect::<BTreeSet<_>>().len(), 250);
    assert_eq!((dlq.len(), dlq.visible()), (250, 250));
}

#[tokio::test(start_paused = true)]
async fn a_slow_scan_renews_what_it_holds() {
    let dlq = queue("orders-dlq");
    fill(&dlq, (0..40).map(|n| dead(n, "rejected"))).await;
    dlq.faults().set(
        Operation::Receive,
        Rates::new().latency(Duration::from_secs(18), Duration::from_secs(18)),
    );
    let report = Browser::new(shared(&dlq))
        .hold(Duration::from_secs(40))
        .random(Random::seeded(1))
        .scan(|_| Visit::Keep)
        .await
        .unwrap();
    assert_eq!((report.seen, report.lost_hold), (40, 0));
    for message in dlq.messages() {
        assert_eq!(dlq.peek(&message.id).unwrap().receive_count, 1, "held throughout");
    }
}

#[tokio::test(start_paused = true)]
async fn a_scan_deletes_what_it_is_told_to_stops_when_told_to_and_keeps_its_limit() {
    let dlq = queue("orders-dlq");
    fill(&dlq, (0..50).map(|n| dead(n, "rejected"))).await;
    let browser = Browser::new(shared(&dlq)).random(Random::seeded(1));
    let odd = |body: &str| body.parse::<usize>().unwrap() % 2 == 1;
    let visit = |letter: &redrive::dlq::DeadLetter| if odd(letter.body()) { Visit::Delete } else { Visit::Keep };
    let report = browser.scan(visit).await.unwrap();
    assert_eq!((report.seen, report.deleted, dlq.len()), (50, 25, 25));
    let report = browser.clone().limit(7).scan(|_| Visit::Keep).await.unwrap();
    assert_eq!((report.seen, report.end, dlq.visible()), (7, ScanEnd::Limit, 25));
    let report = browser.scan(|_| Visit::Stop).await.unwrap();
    assert_eq!((report.seen, report.end, dlq.visible()), (1, ScanEnd::Stopped, 25));
    let token = CancellationToken::new();
    token.cancel();
    let report = browser.clone().cancel(token).scan(|_| Visit::Keep).await.unwrap();
    assert_eq!((report.end, dlq.visible()), (ScanEnd::Cancelled, 25));
}

#[tokio::test(start_paused = true)]
async fn a_scan_with_a_limit_spends_no_receive_of_other_messages() {
    let dlq = queue("orders-dlq");
    fill(&dlq, (0..50).map(|n| dead(n, "rejected"))).await;
    let browser = Browser::new(shared(&dlq)).random(Random::seeded(1)).limit(17);
    assert_eq!(browser.scan(|_| Visit::Keep).await.unwrap().seen, 17);
    let mut counts = BTreeMap::<u32, usize>::new();
    for _ in 0..5 {
        for delivery in dlq.receive(Receive::new(10, Duration::ZERO)).await.unwrap() {
            *counts.entry(delivery.receive_count).or_default() += 1;
        }
    }
    assert_eq!(counts, BTreeMap::from([(1, 33), (2, 17)]));
}

/// What is deleted is not held: only what is kept counts.
#[tokio::test(start_paused = true)]
async fn a_scan_that_deletes_goes_on_beyond_what_it_may_hold() {
    let count = browse::MAX_HELD + 1_000;
    let dlq = queue("orders-dlq");
    for first in (0..count).step_by(10) {
        dlq.send((first..first + 10).map(|n| Outgoing::new(n.to_string())).collect())
            .await
            .unwrap();
    }
    let browser = Browser::new(shared(&dlq)).random(Random::seeded(1));
    let report = browser
        .scan_pages(|letters| vec![Visit::Delete; letters.len()])
        .await
        .unwrap();
    assert_eq!(
        (report.deleted as usize, report.end, dlq.len()),
        (count, ScanEnd::Exhausted, 0)
    );
}

#[tokio::test(start_paused = true)]
async fn a_page_is_deleted_after_it_was_shown_and_only_what_was_answered_so() {
    let dlq = queue("orders-dlq");
    fill(&dlq, (0..50).map(|n| dead(n, "rejected"))).await;
    let browser = Browser::new(shared(&dlq)).random(Random::seeded(1));
    let mut shown = BTreeSet::new();
    let visit = |letters: &[redrive::dlq::DeadLetter]| {
        shown.extend(letters.iter().map(|letter| letter.body().to_owned()));
        assert!((1..=10).contains(&letters.len()));
        // What was shown before is deleted by now, and nothing else.
        assert!(dlq.len() >= 50 - shown.len() + letters.len());
        let visit = if shown.len() > 20 { Visit::Stop } else { Visit::Delete };
        vec![visit; letters.len()]
    };
    let report = browser.scan_pages(visit).await.unwrap();
    assert_eq!((report.seen, report.deleted, report.end), (21, 20, ScanEnd::Stopped));
    assert_eq!((dlq.len(), dlq.visible()), (30, 30));
    let deleted_only_what_was_shown = (0..50)
        .map(|n| n.to_string())
        .all(|n| shown.contains(&n) || bodies(&dlq).contains(&n));
    assert!(deleted_only_what_was_shown);
    let report = browser
        .scan_pages(|letters| vec![Visit::Delete; letters.len() - 1])
        .await
        .unwrap();
    assert_eq!(
        (dlq.len(), dlq.visible()),
        (30 - report.deleted as usize, 30 - report.deleted as usize)
    );
}

#[tokio::test(start_paused = true)]
async fn a_scan_ends_with_what_it_can_get_where_no_more_may_be_in_flight() {
    let dlq = MemoryQueue::builder("orders-dlq").in_flight_cap(30).build().unwrap();
    fill(&dlq, (0..50).map(|n| dead(n, "rejected"))).await;
    let report = Browser::new(shared(&dlq))
        .random(Random::seeded(1))
        .scan(|_| Visit::Keep)
        .await
        .unwrap();
    assert_eq!((report.seen, report.end), (30, ScanEnd::InFlightLimit));
    assert_eq!(dlq.visible(), 50);
}

#[tokio::test(start_paused = true)]
async fn a_scan_under_faults_sees_all_and_a_dead_queue_is_an_error() {
    for seed in 0..10 {
        let dlq = queue("orders-dlq");
        fill(&dlq, (0..100).map(|n| dead(n, "rejected"))).await;
        dlq.faults().set(Operation::ChangeVisibility, faulty());
        let browser = Browser::new(shared(&dlq)).random(Random::seeded(seed));
        let report = browser.scan(|_| Visit::Keep).await.unwrap();
        assert_eq!((report.seen, report.released + report.lost_hold), (100, 100));
        assert_eq!(dlq.len(), 100);
        dlq.faults().set_unreachable(true);
        assert!(browser.scan(|_| Visit::Keep).await.is_err());
    }
}

#[tokio::test(start_paused = true)]
async fn of_a_fifo_queue_a_scan_sees_the_heads_of_its_groups() {
    let dlq = queue("orders-dlq.fifo");
    let letter = |n: usize| {
        dead(n, "rejected")
            .group(format!("g{}", n % 2))
            .deduplication_id(format!("d{n}"))
    };
    fill(&dlq, (0..60).map(letter)).await;
    let mut seen: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    Browser::new(shared(&dlq))
        .random(Random::seeded(1))
        .scan(|letter| {
            let group = letter.message().group_id.clone().unwrap();
            seen.entry(group).or_default().push(letter.body().parse().unwrap());
            Visit::Keep
        })
        .await
        .unwrap();
    assert_eq!(seen.len(), 2);
    for (group, numbers) in seen {
        assert!(numbers.len() <= 10 && numbers.is_sorted(), "{group}: {numbers:?}");
    }
    assert_eq!(dlq.visible(), 60);
}

/// A queue whose session expires once it has handed out its first messages.
struct Expiring {
    queue: MemoryQueue,
    receives: AtomicU32,
    calls: AtomicU32,
}

impl Expiring {
    fn expired(&self, operation: &'static str) -> QueueError {
        self.calls.fetch_add(1, Ordering::Relaxed);
        QueueError::Credentials {
            queue: "orders-dlq".into(),
            operation,
            detail: "the session has expired".into(),
            request_id: None,
        }
    }
}

impl Queue for Expiring {
    fn attributes(&self) -> &QueueAttributes {
        self.queue.attributes()
    }
    fn dead_letter_queue(&self) -> Option<Arc<dyn Queue>> {
        None
    }
    fn describe(&self) -> BoxFuture<'_, Result<QueueAttributes, QueueError>> {
        self.queue.describe()
    }
    fn receive(&self, request: Receive) -> BoxFuture<'_, Result<Vec<Delivery>, QueueError>> {
        if self.receives.fetch_add(1, Ordering::Relaxed) < 40 {
            return self.queue.receive(request);
        }
        Box::pin(async { Err(self.expired("ReceiveMessage")) })
    }
    fn delete(&self, _: Vec<Receipt>) -> BoxFuture<'_, Result<EntryResults<()>, QueueError>> {
        Box::pin(async { Err(self.expired("DeleteMessageBatch")) })
    }
    fn change_visibility(&self, _: Vec<(Receipt, Duration)>) -> BoxFuture<'_, Result<EntryResults<()>, QueueError>> {
        Box::pin(async { Err(self.expired("ChangeMessageVisibilityBatch")) })
    }
    fn send(&self, messages: Vec<Outgoing>) -> BoxFuture<'_, Result<EntryResults<String>, QueueError>> {
        self.queue.send(messages)
    }
}

#[tokio::test(start_paused = true)]
async fn inv12_a_session_that_expires_on_the_way_is_told_at_once() {
    let dlq = queue("orders-dlq");
    fill(&dlq, (0..400).map(|n| dead(n, "rejected"))).await;
    let expiring = Arc::new(Expiring {
        queue: dlq.clone(),
        receives: AtomicU32::new(0),
        calls: AtomicU32::new(0),
    });
    let clock = Clock::system();
    let begun = clock.now();
    let error = Browser::new(Arc::clone(&expiring))
        .random(Random::seeded(1))
        .scan(|_| Visit::Keep)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("the session has expired"), "{error}");
    assert_eq!(clock.now().duration_since(begun), Duration::ZERO);
    // What is held is tried to be given back, once: not batch by batch, and not again and again.
    let calls = expiring.calls.load(Ordering::Relaxed);
    assert!(calls <= 4 + 8, "{calls}");
}

#[test]
fn a_replay_can_run_in_a_task_of_its_own() {
    fn is_for_a_task<T: Send + 'static>(_: &T) {}
    is_for_a_task(&replay(&queue("orders-dlq"), &queue("orders")).run());
}
