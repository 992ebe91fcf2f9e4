//! What only the embedded queue can be asked: virtual time, faults, duplicates, ghosts, seeds. What it shares with SQS is
//! tested by the conformance suite.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::time::Duration;

use crate::clock::{Clock, Random};
use crate::faults::Rates;
use crate::queue::MAX_WAIT;

use super::*;

const NOW: Duration = Duration::ZERO;

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

async fn put(queue: &MemoryQueue, body: &str) -> String {
    queue.send(vec![Outgoing::new(body)]).await.unwrap().remove(0).unwrap()
}

async fn put_in(queue: &MemoryQueue, group: &str, body: &str) -> String {
    let message = Outgoing::new(body)
        .group(group)
        .deduplication_id(format!("{group}-{body}"));
    queue.send(vec![message]).await.unwrap().remove(0).unwrap()
}

async fn receive(queue: &MemoryQueue, max: usize, wait: Duration) -> Vec<Delivery> {
    queue.receive(Receive::new(max, wait)).await.unwrap()
}

fn bodies(deliveries: &[Delivery]) -> Vec<&str> {
    deliveries
        .iter()
        .map(|delivery| delivery.message.body.as_str())
        .collect()
}

async fn delete(queue: &MemoryQueue, delivery: &Delivery) -> Result<(), EntryError> {
    queue.delete(vec![delivery.receipt.clone()]).await.unwrap().remove(0)
}

#[tokio::test(start_paused = true)]
async fn a_long_poll_wakes_the_moment_a_message_is_sent_and_not_before_its_wait_is_over_otherwise() {
    let queue = MemoryQueue::new("q").unwrap();
    let start = Clock::system().now();
    assert!(receive(&queue, 1, MAX_WAIT).await.is_empty());
    assert_eq!(start.elapsed(), MAX_WAIT);

    let sender = async {
        tokio::time::sleep(secs(7)).await;
        put(&queue, "a").await;
    };
    let ((), received) = tokio::join!(sender, receive(&queue, 10, MAX_WAIT));
    assert_eq!((bodies(&received), start.elapsed()), (vec!["a"], secs(27)));
    assert_eq!(
        received[0].received_at,
        start + secs(20),
        "a delivery is dated by when it was asked for"
    );
}

#[tokio::test(start_paused = true)]
async fn a_long_poll_wakes_when_a_message_that_another_receive_took_meanwhile_comes_back() {
    let queue = MemoryQueue::builder("q").visibility_timeout(secs(5)).build().unwrap();
    let start = Clock::system().now();
    let first = async {
        tokio::time::sleep(secs(1)).await;
        put(&queue, "a").await;
    };
    // Both wait; one gets the message, the other must see it 5 s later, a time it could not know when it began to wait.
    let ((), one, other) = tokio::join!(first, receive(&queue, 1, secs(20)), receive(&queue, 1, secs(20)));
    assert_eq!((one.len(), other.len(), start.elapsed()), (1, 1, secs(6)));
    assert_eq!(one[0].receive_count + other[0].receive_count, 3);
}

#[tokio::test(start_paused = true)]
async fn retention_runs_from_enqueueing_also_in_a_standard_dead_letter_queue_and_anew_in_a_fifo_one() {
    for suffix in ["", ".fifo"] {
        let dead = MemoryQueue::builder(format!("dead{suffix}"))
            .retention(secs(100))
            .build()
            .unwrap();
        let queue = MemoryQueue::builder(format!("q{suffix}"))
            .dead_letter(&dead, 1)
            .build()
            .unwrap();
        if suffix.is_empty() {
            put(&queue, "a").await;
        } else {
            put_in(&queue, "g", "a").await;
        }
        receive(&queue, 1, NOW).await;
        tokio::time::advance(secs(60)).await;
        assert!(receive(&queue, 1, NOW).await.is_empty());
        assert_eq!((queue.len(), dead.len()), (0, 1));
        tokio::time::advance(secs(50)).await;
        assert_eq!(dead.len(), usize::from(!suffix.is_empty()));
        tokio::time::advance(secs(50)).await;
        assert!(dead.is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_moved_message_keeps_body_attributes_and_group_under_a_new_id() {
    let dead = MemoryQueue::new("dead.fifo").unwrap();
    let queue = MemoryQueue::builder("q.fifo").dead_letter(&dead, 1).build().unwrap();
    let id = put_in(&queue, "g", "a").await;
    queue.raise_receive_count(&id, 1).unwrap();
    put_in(&queue, "g", "b").await;
    assert_eq!(
        bodies(&receive(&queue, 10, NOW).await),
        ["b"],
        "the next of the group comes in the same receive"
    );
    let moved = dead.messages().remove(0);
    assert_eq!((moved.body.as_str(), moved.group_id.as_deref()), ("a", Some("g")));
    assert_ne!(moved.id, id);
    assert_eq!(
        moved.dead_letter_source.as_deref(),
        Some(queue.attributes().arn.as_str())
    );
    assert_ne!(
        moved.deduplication_id.as_deref(),
        Some("g-a"),
        "a FIFO dead-letter queue replaces the deduplication id"
    );
    assert_eq!(dead.peek(&moved.id).unwrap().receive_count, 0);
}

#[tokio::test(start_paused = true)]
async fn a_duplicate_is_a_second_delivery_of_a_message_in_flight_and_either_delete_ends_both() {
    let queue = MemoryQueue::new("q").unwrap();
    let id = put(&queue, "a").await;
    let first = receive(&queue, 10, NOW).await;
    queue.duplicate(&id).unwrap();
    let second = receive(&queue, 10, NOW).await;
    assert_eq!(second[0].message.id, id);
    assert_ne!(second[0].receipt, first[0].receipt);
    assert_eq!((second[0].receive_count, queue.len(), queue.in_flight()), (2, 1, 2));
    delete(&queue, &first[0]).await.unwrap();
    assert!(queue.is_empty());
    assert_eq!((queue.in_flight(), queue.visible()), (0, 0));
    delete(&queue, &second[0]).await.unwrap();
    assert_eq!(queue.calls().stale_deletes, 1);
    assert!(queue.duplicate(&id).is_err());
}

#[tokio::test(start_paused = true)]
async fn a_ghost_is_a_deleted_message_delivered_again_under_its_old_id() {
    let queue = MemoryQueue::new("q").unwrap();
    let id = put(&queue, "a").await;
    assert!(queue.ghost(&id).is_err(), "it is still held");
    let first = receive(&queue, 1, NOW).await;
    delete(&queue, &first[0]).await.unwrap();
    queue.ghost(&id).unwrap();
    let ghost = receive(&queue, 1, NOW).await;
    assert_eq!((ghost[0].message.id.as_str(), ghost[0].receive_count), (id.as_str(), 2));
    delete(&queue, &first[0]).await.unwrap();
    assert_eq!(queue.len(), 1, "the handle of its first life does not delete it");
    delete(&queue, &ghost[0]).await.unwrap();
    assert!(queue.is_empty());
}

#[tokio::test(start_paused = true)]
async fn fifo_queues_refuse_to_make_duplicates_and_ghosts() {
    let queue = MemoryQueue::new("q.fifo").unwrap();
    let id = put_in(&queue, "g", "a").await;
    assert!(queue.duplicate(&id).unwrap_err().to_string().contains("FIFO"));
    assert!(queue.ghost(&id).unwrap_err().to_string().contains("FIFO"));
}

#[tokio::test(start_paused = true)]
async fn at_the_in_flight_cap_a_standard_queue_refuses_and_a_fifo_queue_answers_nothing_until_there_is_room() {
    let queue = MemoryQueue::builder("q").in_flight_cap(2).build().unwrap();
    for body in ["a", "b", "c"] {
        put(&queue, body).await;
    }
    let two = receive(&queue, 10, NOW).await;
    assert_eq!(bodies(&two), ["a", "b"]);
    let refused = queue.receive(Receive::new(1, secs(20))).await.unwrap_err();
    assert!(matches!(&refused, QueueError::InFlightLimit { .. }), "{refused}");
    delete(&queue, &two[0]).await.unwrap();
    assert_eq!(bodies(&receive(&queue, 10, NOW).await), ["c"]);

    let fifo = MemoryQueue::builder("q.fifo").in_flight_cap(1).build().unwrap();
    for group in ["g", "h"] {
        put_in(&fifo, group, "a").await;
    }
    let one = receive(&fifo, 10, NOW).await;
    assert_eq!(one.len(), 1);
    assert!(receive(&fifo, 10, NOW).await.is_empty());
    let start = Clock::system().now();
    let deleter = async {
        tokio::time::sleep(secs(3)).await;
        delete(&fifo, &one[0]).await.unwrap();
    };
    let ((), next) = tokio::join!(deleter, receive(&fifo, 10, secs(20)));
    assert_eq!((next.len(), start.elapsed()), (1, secs(3)));
}

#[tokio::test(start_paused = true)]
async fn faults_before_after_and_throttled_have_the_effect_they_are_named_for() {
    let queue = MemoryQueue::new("q").unwrap();
    let plan = queue.faults().clone();
    plan.fail_next(Operation::Send, 1, Fault::Before);
    assert!(matches!(
        queue.send(vec![Outgoing::new("a")]).await,
        Err(QueueError::Unavailable { .. })
    ));
    assert!(queue.is_empty());
    plan.fail_next(Operation::Send, 1, Fault::Throttled);
    assert!(matches!(
        queue.send(vec![Outgoing::new("a")]).await,
        Err(QueueError::Throttled { .. })
    ));
    assert!(queue.is_empty());
    plan.fail_next(Operation::Send, 1, Fault::After);
    assert!(matches!(
        queue.send(vec![Outgoing::new("a")]).await,
        Err(QueueError::Unavailable { .. })
    ));
    assert_eq!(queue.len(), 1);
    plan.fail_next(Operation::Receive, 1, Fault::After);
    assert!(queue.receive(Receive::new(1, NOW)).await.unwrap_err().is_transient());
    assert_eq!(queue.in_flight(), 1, "received, though nobody saw it");
    plan.fail_next_entries(Operation::Send, [1]);
    let sent = queue.send(["b", "c", "d"].map(Outgoing::new).into()).await.unwrap();
    assert!(sent[0].is_ok() && sent[2].is_ok());
    assert!(!sent[1].as_ref().unwrap_err().sender_fault);
    assert_eq!(bodies(&receive(&queue, 10, NOW).await), ["b", "d"]);
    assert_eq!((queue.calls().send, queue.calls().total()), (4, 6));
}

#[tokio::test(start_paused = true)]
async fn latency_is_spent_half_before_and_half_after_the_effect() {
    let queue = MemoryQueue::new("q").unwrap();
    queue.faults().slow_next(Operation::Send, 1, secs(4));
    let watch = async {
        tokio::time::sleep(Duration::from_millis(1_900)).await;
        assert!(queue.is_empty());
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(queue.len(), 1);
    };
    let start = Clock::system().now();
    tokio::join!(watch, put(&queue, "a"));
    assert_eq!(start.elapsed(), secs(4));
}

#[tokio::test(start_paused = true)]
async fn a_cut_connection_fails_calls_and_polls_that_wait() {
    let queue = MemoryQueue::builder("q").build().unwrap();
    let cutter = async {
        tokio::time::sleep(secs(2)).await;
        queue.faults().set_unreachable(true);
        assert!(queue.send(vec![Outgoing::new("a")]).await.is_err());
    };
    let ((), received) = tokio::join!(cutter, queue.receive(Receive::new(1, secs(20))));
    assert!(received.unwrap_err().is_transient());
    queue.faults().set_unreachable(false);
    put(&queue, "b").await;
    assert_eq!(bodies(&receive(&queue, 1, NOW).await), ["b"]);
}

#[tokio::test(start_paused = true)]
async fn a_receive_given_up_while_it_waits_takes_nothing() {
    let queue = MemoryQueue::new("q").unwrap();
    let waiting = queue.receive(Receive::new(1, secs(20)));
    assert!(tokio::time::timeout(secs(1), waiting).await.is_err());
    put(&queue, "a").await;
    assert_eq!((queue.visible(), queue.in_flight()), (1, 0));
    assert_eq!(receive(&queue, 1, NOW).await[0].receive_count, 1);
}

/// What a client sees of a run with everything random switched on.
async fn history(seed: u64, name: &str) -> Vec<String> {
    let rates = Rates::new()
        .before(0.1)
        .after(0.1)
        .throttled(0.05)
        .entries(0.1)
        .latency(NOW, secs(3));
    let dead = MemoryQueue::new(format!("dead-{name}")).unwrap();
    let queue = MemoryQueue::builder(name)
        .visibility_timeout(secs(5))
        .dead_letter(&dead, 3)
        .reorder(0.5)
        .short_receives(0.5)
        .random(Random::seeded(seed))
        .faults(FaultPlan::seeded(seed).on_all(rates))
        .build()
        .unwrap();
    let mut seen = Vec::new();
    for round in 0..100 {
        let sent = queue
            .send((0..10).map(|n| Outgoing::new(format!("{round}-{n}"))).collect())
            .await;
        let received = queue.receive(Receive::new(10, secs(1))).await;
        seen.push(format!("{sent:?}"));
        let Ok(received) = received else { continue };
        seen.push(format!(
            "{:?}",
            received
                .iter()
                .map(|d| (&d.message.id, d.receive_count))
                .collect::<Vec<_>>()
        ));
        let receipts: Vec<Receipt> = received.into_iter().map(|d| d.receipt).take(5).collect();
        if !receipts.is_empty() {
            seen.push(format!("{:?}", queue.delete(receipts).await));
        }
    }
    seen.push(format!("{} {} {:?}", queue.len(), dead.len(), queue.calls()));
    assert!(!dead.is_empty() && queue.faults().injected() > 10, "the run is lively");
    seen
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_and_calls_give_the_same_history() {
    let first = history(11, "q").await;
    assert_eq!(first, history(11, "q").await);
    assert_ne!(first, history(12, "q").await);
}

#[tokio::test(start_paused = true)]
async fn shaken_order_and_short_receives_lose_nothing_and_keep_groups_in_order() {
    let queue = MemoryQueue::builder("q.fifo")
        .reorder(0.7)
        .short_receives(0.7)
        .random(Random::seeded(5))
        .build()
        .unwrap();
    for n in 0..50 {
        for group in ["a", "b", "c", "d"] {
            put_in(&queue, group, &format!("{n:02}")).await;
        }
    }
    let mut seen: std::collections::BTreeMap<String, Vec<String>> = std::collections::BTreeMap::new();
    let mut sizes = std::collections::BTreeSet::new();
    let mut firsts = Vec::new();
    while !queue.is_empty() {
        let received = receive(&queue, 10, secs(1)).await;
        assert!(
            !received.is_empty(),
            "a long poll is never empty while messages are there"
        );
        sizes.insert(received.len());
        firsts.push(received[0].message.group_id.clone().unwrap());
        for delivery in &received {
            let group = delivery.message.group_id.clone().unwrap();
            seen.entry(group).or_default().push(delivery.message.body.clone());
        }
        let receipts = received.iter().map(|delivery| delivery.receipt.clone()).collect();
        assert!(queue.delete(receipts).await.unwrap().iter().all(Result::is_ok));
    }
    let in_order: Vec<String> = (0..50).map(|n| format!("{n:02}")).collect();
    assert_eq!(seen.len(), 4);
    assert!(seen.values().all(|bodies| *bodies == in_order));
    assert!(sizes.len() > 3, "{sizes:?}");
    assert!(
        firsts.windows(2).filter(|pair| pair[0] > pair[1]).count() > 3,
        "{firsts:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn ids_differ_between_queues_of_one_seed() {
    let (a, b) = (MemoryQueue::new("a").unwrap(), MemoryQueue::new("b").unwrap());
    let (one, other) = (put(&a, "x").await, put(&b, "x").await);
    assert_ne!(one, other);
    assert_eq!(one.len(), 36);
    let handle = receive(&a, 1, NOW).await.remove(0).receipt;
    receive(&b, 1, NOW).await;
    let foreign = b.delete(vec![handle]).await.unwrap().remove(0).unwrap_err();
    assert_eq!(foreign.code, "ReceiptHandleIsInvalid");
}

#[tokio::test(start_paused = true)]
async fn a_purged_queue_holds_nothing_and_its_handles_are_stale() {
    let queue = MemoryQueue::new("q").unwrap();
    put(&queue, "a").await;
    put(&queue, "b").await;
    let received = receive(&queue, 1, NOW).await;
    queue.purge();
    assert_eq!(
        (queue.len(), queue.visible(), queue.in_flight(), queue.delayed()),
        (0, 0, 0, 0)
    );
    delete(&queue, &received[0]).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_message_is_in_flight_for_12_hours_at_most_however_often_it_is_extended() {
    let queue = MemoryQueue::new("q").unwrap();
    put(&queue, "a").await;
    let receipt = receive(&queue, 1, NOW).await.remove(0).receipt;
    let change = async |timeout| {
        queue
            .change_visibility(vec![(receipt.clone(), timeout)])
            .await
            .unwrap()
            .remove(0)
    };
    change(secs(43_200)).await.unwrap();
    tokio::time::advance(secs(3_600)).await;
    let error = change(secs(39_601)).await.unwrap_err();
    assert_eq!(
        (error.code.as_str(), error.is_stale_receipt()),
        ("InvalidParameterValue", false)
    );
    change(secs(39_600)).await.unwrap();
    tokio::time::advance(secs(39_599)).await;
    assert_eq!(queue.visible(), 0);
    tokio::time::advance(secs(1)).await;
    assert_eq!(queue.visible(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_deduplication_id_is_free_again_after_five_minutes() {
    let queue = MemoryQueue::new("q.fifo").unwrap();
    let first = put_in(&queue, "g", "a").await;
    tokio::time::advance(Duration::from_millis(299_999)).await;
    assert_eq!(put_in(&queue, "g", "a").await, first);
    tokio::time::advance(Duration::from_millis(1)).await;
    assert_ne!(
        put_in(&queue, "g", "a").await,
        first,
        "the repeat did not prolong the window"
    );
    assert_eq!(queue.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn messages_that_only_the_service_itself_refuses() {
    let queue = MemoryQueue::new("q").unwrap();
    let cases = [
        (Outgoing::new("a").delay(secs(901)), "15 minutes"),
        (
            Outgoing::new("a").attribute("n", crate::message::Attribute::number("seven")),
            "seven",
        ),
        (
            Outgoing::new("a").attribute("a..b", crate::message::Attribute::string("x")),
            "a..b",
        ),
        (
            Outgoing::new("a").attribute("b", crate::message::Attribute::binary(Vec::new())),
            "empty",
        ),
    ];
    for (message, why) in cases {
        let error = queue.send(vec![message]).await.unwrap().remove(0).unwrap_err();
        assert!(error.sender_fault && error.message.contains(why), "{error}");
    }
    assert!(queue.is_empty());
    let mut absurd = Receive::new(1, NOW);
    absurd.max = 0;
    assert!(matches!(queue.receive(absurd).await, Err(QueueError::Refused { .. })));
}

#[test]
fn absurd_settings_are_refused_with_what_and_why() {
    let dead = MemoryQueue::new("dead").unwrap();
    let dead_fifo = MemoryQueue::new("dead.fifo").unwrap();
    let cases: Vec<(MemoryQueueBuilder, &str, &str)> = vec![
        (MemoryQueue::builder(""), "queue name", "1 to 80"),
        (MemoryQueue::builder("a b"), "queue name", "letters"),
        (MemoryQueue::builder(".fifo"), "queue name", "FIFO"),
        (MemoryQueue::builder("q".repeat(81)), "queue name", "80"),
        (
            MemoryQueue::builder("q").visibility_timeout(NOW),
            "visibility timeout",
            "12 hours",
        ),
        (
            MemoryQueue::builder("q").visibility_timeout(secs(43_201)),
            "visibility timeout",
            "12 hours",
        ),
        (MemoryQueue::builder("q").retention(secs(59)), "retention", "14 days"),
        (MemoryQueue::builder("q").delay(secs(901)), "delay", "15 minutes"),
        (
            MemoryQueue::builder("q").max_message_bytes(1),
            "max message bytes",
            "1,024",
        ),
        (
            MemoryQueue::builder("q").in_flight_cap(0),
            "in-flight cap",
            "at least 1",
        ),
        (
            MemoryQueue::builder("q").content_based_deduplication(true),
            "content-based deduplication",
            "q.fifo",
        ),
        (
            MemoryQueue::builder("q").deduplication_by_group(true),
            "deduplication by group",
            "q.fifo",
        ),
        (MemoryQueue::builder("q").reorder(1.5), "reorder", "0 to 1"),
        (
            MemoryQueue::builder("q").short_receives(f64::NAN),
            "short receives",
            "0 to 1",
        ),
        (
            MemoryQueue::builder("dead").dead_letter(&dead, 3),
            "dead-letter queue",
            "itself",
        ),
        (
            MemoryQueue::builder("q").dead_letter(&dead_fifo, 3),
            "dead-letter queue",
            "one kind",
        ),
        (
            MemoryQueue::builder("q.fifo").dead_letter(&dead, 3),
            "dead-letter queue",
            "one kind",
        ),
        (
            MemoryQueue::builder("q").dead_letter(&dead, 0),
            "max receive count",
            "1,000",
        ),
    ];
    for (builder, what, why) in cases {
        let said = builder.build().unwrap_err().to_string();
        assert!(said.contains(what) && said.contains(why), "{said}");
    }
}

#[tokio::test]
async fn a_receive_does_not_scan_the_queue() {
    let queue = MemoryQueue::builder("q").build().unwrap();
    let time = |clock: &Clock, from: Instant| clock.now() - from;
    let clock = Clock::system();
    let drain = |most: usize| {
        let queue = queue.clone();
        async move {
            for _ in 0..most {
                let received = receive(&queue, 10, NOW).await;
                queue
                    .delete(received.into_iter().map(|d| d.receipt).collect())
                    .await
                    .unwrap();
            }
        }
    };
    let fill = |batches: usize| {
        let queue = queue.clone();
        async move {
            for _ in 0..batches {
                queue.send(vec![Outgoing::new("a"); 10]).await.unwrap();
            }
        }
    };
    fill(1_000).await;
    let start = clock.now();
    drain(1_000).await;
    let small = time(&clock, start);
    fill(20_000).await;
    let start = clock.now();
    drain(1_000).await;
    let large = time(&clock, start);
    assert_eq!(queue.len(), 190_000);
    // A scan would cost thousands of times as much; caches and depth cost a few times.
    assert!(
        large < small * 40 + secs(1),
        "{small:?} for a queue of 10 thousand, {large:?} for one of 200 thousand"
    );
}
