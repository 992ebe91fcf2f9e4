//! What is given up explains itself, is sent before it is deleted, and is never run again.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use redrive::dlq::envelope::{ENVELOPE_ATTRIBUTE, Envelope};
use redrive::extract::{Json, State};
use redrive::faults::{Fault, Operation, Rates};
use redrive::inbox::{Record, Status};
use redrive::key::{Key, RecordKey};
use redrive::message::{Attribute, KEY_ATTRIBUTE, Outgoing, TRACEPARENT_ATTRIBUTE};
use redrive::outcome::StoredResult;
use redrive::queue::Queue;
use redrive::worker::{Fate, WithoutDeadLetters};
use redrive::{Context, Failure, MemoryInbox, Reason, Router};

use crate::support::{Rig, keyed, ms, secs, sleep, start};

const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn rejects(
    rig: &Rig,
) -> impl Fn(Context) -> futures::future::BoxFuture<'static, Result<(), Failure>> + Send + Sync + 'static {
    rig.runs(|_| async { Err(Failure::reject("card declined")) })
}

#[tokio::test(start_paused = true)]
async fn inv10_a_dead_letter_says_why_how_often_which_and_where_from() {
    let rig = Rig::new();
    let message = keyed("order-7", "a body")
        .attribute(TRACEPARENT_ATTRIBUTE, Attribute::string(TRACE))
        .attribute("colour", Attribute::string("red"));
    let id = rig.put(message.clone()).await;
    let handler = rig.runs(|context: Context| async move {
        match context.attempt() {
            1 => Err::<(), _>(Failure::retry("a hiccup")),
            _ => Err(Failure::reject("card declined").because("card_declined")),
        }
    });
    let running = start(rig.worker().handler(handler).build().unwrap());
    rig.emptied(&running).await;
    let letter = rig.letters().pop().unwrap();
    assert_eq!(letter.reason, "card_declined");
    assert_eq!(letter.error, "card declined");
    assert_eq!(letter.attempts, 2);
    assert_eq!(letter.key, "order-7");
    assert_eq!(letter.message_id, id);
    assert_eq!(letter.source, rig.queue.attributes().arn);
    assert_eq!(letter.trace.as_deref(), Some(TRACE));
    let dead = rig.dead.messages().pop().unwrap();
    assert_eq!(dead.body, "a body");
    assert_eq!(Envelope::original_attributes(&dead), message.attributes);
    let record = rig.record("order-7").unwrap();
    assert_eq!(record.reason.as_deref(), Some("card_declined"));
    assert_eq!(
        (record.status, record.dead_letter_sent, record.attempts),
        (Status::Rejected, true, 2)
    );
    assert_eq!(
        rig.fates.of("a body").last(),
        Some(&Fate::DeadLettered("card_declined".into()))
    );
    running.drain().await;
}

#[tokio::test(start_paused = true)]
async fn inv10_ten_attributes_in_use_are_all_kept() {
    let rig = Rig::new();
    let mut message = keyed("k", "1");
    for n in 0..9 {
        message = message.attribute(format!("a{n}"), Attribute::string(format!("v{n}")));
    }
    rig.put(message.clone()).await;
    let running = start(rig.worker().handler(rejects(&rig)).build().unwrap());
    rig.emptied(&running).await;
    let dead = rig.dead.messages().pop().unwrap();
    assert_eq!(dead.attributes.len(), 10);
    assert_eq!(Envelope::original_attributes(&dead), message.attributes);
    assert_eq!(Envelope::of(&dead).unwrap().reason, "rejected");
    running.drain().await;
}

#[tokio::test(start_paused = true)]
async fn inv10_a_message_of_the_largest_size_is_dead_lettered_and_explained_by_the_inbox() {
    let rig = Rig::new();
    let body = "x".repeat(1024 * 1024 - KEY_ATTRIBUTE.len() - "Stringk".len());
    rig.put(keyed("k", &body)).await;
    let running = start(rig.worker().handler(rejects(&rig)).build().unwrap());
    rig.emptied(&running).await;
    assert_eq!(rig.dead.messages()[0].body.len(), body.len());
    let record = rig.record("k").unwrap();
    assert_eq!(record.last_error.as_deref(), Some("rejected: card declined"));
    running.drain().await;
}

#[tokio::test(start_paused = true)]
async fn inv01_a_dead_letter_without_room_for_its_envelope_runs_again_when_sqs_moves_it_back() {
    let rig = Rig::new();
    let body = "x".repeat(1024 * 1024 - KEY_ATTRIBUTE.len() - "Stringk".len());
    rig.put(keyed("k", &body)).await;
    let mended = Arc::new(AtomicBool::new(false));
    let is_mended = mended.clone();
    let handler = rig.runs(move |_| {
        let done = is_mended.load(Ordering::SeqCst);
        async move {
            if done {
                Ok(())
            } else {
                Err(Failure::reject("card declined"))
            }
        }
    });
    let running = start(rig.worker().handler(handler).build().unwrap());
    rig.emptied(&running).await;
    assert_eq!((rig.log.len(), rig.dead.len()), (1, 1));
    mended.store(true, Ordering::SeqCst);
    let letter = rig.dead.messages().pop().unwrap();
    assert_eq!(letter.attribute(ENVELOPE_ATTRIBUTE), None);
    let mut moved = Outgoing::new(letter.body.clone());
    moved.attributes = letter.attributes.clone();
    rig.put(moved).await;
    rig.emptied(&running).await;
    assert_eq!(rig.log.len(), 2, "it was deleted unrun");
    assert_eq!(rig.record("k").unwrap().status, Status::Completed);
    running.drain().await;
}

#[tokio::test(start_paused = true)]
async fn inv01_a_message_whose_dead_letter_went_without_an_envelope_never_runs_again_by_itself() {
    let rig = Rig::new();
    let body = "x".repeat(1024 * 1024 - KEY_ATTRIBUTE.len() - "Stringk".len());
    rig.put(keyed("k", &body)).await;
    // Sent, but not deleted: it comes again under its own MessageId.
    rig.queue.faults().fail_next(Operation::Delete, 20, Fault::Before);
    let running = start(rig.worker().handler(rejects(&rig)).build().unwrap());
    rig.emptied(&running).await;
    assert!(rig.queue.calls().received > 1, "it did not come again");
    assert_eq!(rig.log.len(), 1);
    running.drain().await;
}

#[tokio::test(start_paused = true)]
async fn inv01_a_dead_letter_that_cannot_be_sent_is_held_to_the_end_of_the_retention_and_sent_once_it_can_be() {
    // Its message has not a minute to live: put aside for that long, it would vanish with nobody to send it.
    let rig = Rig::with(|queue| queue.retention(secs(150)));
    rig.send("k", "1").await;
    rig.dead.faults().set(Operation::Send, Rates::new().before(1.0));
    let handler = rig.runs(|_| async {
        sleep(secs(100)).await;
        Err::<(), _>(Failure::reject("card declined"))
    });
    let running = start(rig.worker().lease(secs(60)).handler(handler).build().unwrap());
    running
        .until("it ran", |_| rig.log.runs().iter().any(|run| run.ended.is_some()))
        .await;
    sleep(secs(40)).await;
    rig.dead.faults().heal();
    running.until("it is a dead letter", |_| rig.dead.len() == 1).await;
    assert_eq!(rig.log.len(), 1);
    running.drain().await;
}

#[tokio::test(start_paused = true)]
async fn inv12_a_message_without_a_route_is_dead_lettered_as_unroutable() {
    let rig = Rig::new();
    rig.put(keyed("k", "1").attribute("type", Attribute::string("order.lost")))
        .await;
    let router: Router = Router::new().route("order.created", rig.succeeds());
    let running = start(rig.worker().handler(router).build().unwrap());
    rig.emptied(&running).await;
    let letter = rig.letters().pop().unwrap();
    assert_eq!(letter.reason, "unroutable");
    assert!(
        letter.error.contains("`order.lost`") && letter.error.contains("`order.created`"),
        "{}",
        letter.error
    );
    running.drain().await;
}

#[tokio::test(start_paused = true)]
async fn inv12_a_body_that_cannot_be_read_is_dead_lettered_as_malformed() {
    let rig = Rig::new();
    for body in ["not json", "{\"amount\":\"twelve\"}", "{", " "] {
        rig.put(Outgoing::new(body)).await;
    }
    #[derive(serde::Deserialize)]
    struct Order {
        #[allow(dead_code, reason = "only its form matters")]
        amount: u32,
    }
    async fn charge(Json(_): Json<Order>) -> Result<(), Failure> {
        Ok(())
    }
    let running = start(rig.worker().handler(charge).build().unwrap());
    rig.emptied(&running).await;
    assert_eq!(rig.reasons(), ["malformed"; 4]);
    assert!(
        rig.letters()
            .iter()
            .all(|letter| letter.attempts == 1 && !letter.error.is_empty())
    );
    running.drain().await;
}

#[tokio::test(start_paused = true)]
async fn inv10_another_payload_under_a_completed_key_is_dead_lettered_and_the_record_left_alone() {
    let rig = Rig::new();
    rig.send("k", "12 euros").await;
    let running = start(rig.worker().handler(rig.succeeds()).build().unwrap());
    rig.emptied(&running).await;
    let record = rig.record("k").unwrap();
    rig.send("k", "13 euros").await;
    rig.emptied(&running).await;
    assert_eq!(rig.log.bodies(), ["12 euros"]);
    let letter = rig.letters().pop().unwrap();
    assert_eq!(
        (letter.reason.as_str(), letter.key.as_str()),
        ("fingerprint_mismatch", "k")
    );
    assert_eq!(rig.record("k").unwrap(), record);
    running.drain().await;
}

#[tokio::test(start_paused = true)]
async fn inv10_another_payload_under_a_running_key_is_dead_lettered_here_and_elsewhere() {
    let rig = Rig::new();
    rig.send("k", "12 euros").await;
    let one = start(rig.worker().handler(rig.takes(secs(60))).build().unwrap());
    one.until("it runs", |status| status.running == 1).await;
    rig.send("k", "13 euros").await;
    one.until("known by itself", |status| status.totals.dead_letters() == 1)
        .await;
    one.handle.pause();
    sleep(secs(2)).await;
    let two = start(rig.worker().handler(rig.succeeds()).build().unwrap());
    rig.send("k", "14 euros").await;
    two.until("known by the inbox", |status| status.totals.dead_letters() == 1)
        .await;
    rig.emptied(&one).await;
    assert_eq!(rig.log.bodies(), ["12 euros"]);
    assert_eq!(rig.reasons(), ["fingerprint_mismatch", "fingerprint_mismatch"]);
    assert_eq!(rig.record("k").unwrap().status, Status::Completed);
    one.drain().await;
    two.drain().await;
}

#[tokio::test(start_paused = true)]
async fn inv01_a_producers_duplicate_of_a_dead_letter_is_deleted_and_a_replay_runs_afresh() {
    let rig = Rig::new();
    rig.send("k", "1").await;
    let running = start(rig.worker().handler(rejects(&rig)).build().unwrap());
    rig.emptied(&running).await;
    rig.send("k", "1").await;
    rig.emptied(&running).await;
    assert_eq!((rig.log.len(), rig.dead.len()), (1, 1));
    running.drain().await;
    // The cause is repaired, and the dead letter sent back as it is.
    let dead = rig.dead.messages().pop().unwrap();
    let mut back = Outgoing::new(dead.body.clone());
    back.attributes = dead.attributes.clone();
    assert!(back.attributes.contains_key(ENVELOPE_ATTRIBUTE));
    rig.put(back).await;
    let seen: Arc<Mutex<Vec<u32>>> = Arc::default();
    let note = seen.clone();
    let handler = rig.runs(move |context: Context| {
        note.lock().unwrap().push(context.message().attributes.len() as u32);
        async { Ok(()) }
    });
    let running = start(rig.worker().handler(handler).build().unwrap());
    rig.emptied(&running).await;
    let runs = rig.log.of("k");
    assert_eq!((runs.len(), runs[1].attempt), (2, 1), "attempts start afresh");
    assert_eq!(
        *seen.lock().unwrap(),
        [1],
        "handlers see the attributes that were first sent"
    );
    assert_eq!(rig.record("k").unwrap().status, Status::Completed);
    running.drain().await;
}

#[tokio::test(start_paused = true)]
async fn inv10_a_replay_that_dies_again_keeps_its_origin() {
    let rig = Rig::new();
    let id = rig.send("k", "1").await;
    let running = start(rig.worker().handler(rejects(&rig)).build().unwrap());
    rig.emptied(&running).await;
    let dead = rig.dead.messages().pop().unwrap();
    rig.dead.purge();
    let mut back = Outgoing::new(dead.body.clone());
    back.attributes = dead.attributes.clone();
    rig.put(back).await;
    rig.emptied(&running).await;
    let letter = rig.letters().pop().unwrap();
    assert_eq!(
        (letter.key.as_str(), letter.message_id.as_str(), letter.replays),
        ("k", id.as_str(), 1)
    );
    running.drain().await;
}

#[tokio::test(start_paused = true)]
async fn inv01_a_dead_letter_left_half_done_at_any_step_is_finished_by_the_next_worker() {
    // Every inbox and queue call takes 20 ms, so that a kill after n × 5 ms falls between any two steps.
    for after in (0..200).step_by(5) {
        let rig = Rig::new();
        rig.send("k", "1").await;
        for faults in [rig.queue.faults(), rig.inbox.faults(), rig.dead.faults()] {
            faults.set_all(Rates::new().latency(ms(20), ms(20)));
        }
        let first = start(rig.worker().handler(rejects(&rig)).build().unwrap());
        first.until("it is rejected", |_| rig.log.len() == 1).await;
        sleep(ms(after)).await;
        let rejected = rig.record("k").unwrap().status == Status::Rejected;
        first.crash().await;
        let second = start(rig.worker().handler(rejects(&rig)).build().unwrap());
        rig.emptied(&second).await;
        second.drain().await;
        let record = rig.record("k").unwrap();
        assert_eq!(
            (record.status, record.dead_letter_sent),
            (Status::Rejected, true),
            "killed after {after} ms"
        );
        assert!(
            (1..=2).contains(&rig.dead.len()),
            "killed after {after} ms: {} letters",
            rig.dead.len()
        );
        let runs = if rejected { 1 } else { 2 };
        assert!(
            rig.log.len() <= runs,
            "killed after {after} ms: ran {} times",
            rig.log.len()
        );
        let letter = rig.letters().pop().unwrap();
        assert_eq!(
            (letter.reason.as_str(), letter.error.as_str()),
            ("rejected", "card declined")
        );
    }
}

#[tokio::test(start_paused = true)]
async fn inv01_an_unreachable_dead_letter_queue_delays_and_never_runs_again() {
    let rig = Rig::new();
    rig.send("k", "1").await;
    rig.dead.faults().set_unreachable(true);
    let running = start(rig.worker().handler(rejects(&rig)).build().unwrap());
    sleep(secs(30 * 60)).await;
    assert_eq!((rig.log.len(), rig.queue.len(), rig.dead.len()), (1, 1, 0));
    assert_eq!(rig.record("k").unwrap().status, Status::Rejected);
    rig.dead.faults().heal();
    rig.emptied(&running).await;
    assert_eq!((rig.log.len(), rig.dead.len()), (1, 1));
    assert_eq!(rig.letters()[0].reason, "rejected");
    running.drain().await;
}

#[tokio::test(start_paused = true)]
async fn inv01_a_lost_reply_of_the_dead_letter_queue_makes_at_most_copies() {
    let rig = Rig::new();
    rig.send("k", "1").await;
    rig.dead.faults().fail_next(Operation::Send, 2, Fault::After);
    let running = start(rig.worker().handler(rejects(&rig)).build().unwrap());
    rig.emptied(&running).await;
    assert_eq!(
        (rig.log.len(), rig.dead.len()),
        (1, 3),
        "a standard queue keeps what was sent three times"
    );
    running.drain().await;

    let rig = Rig::fifo();
    rig.send("k", "1").await;
    rig.dead.faults().fail_next(Operation::Send, 2, Fault::After);
    let running = start(rig.worker().handler(rejects(&rig)).build().unwrap());
    rig.emptied(&running).await;
    assert_eq!((rig.log.len(), rig.dead.len()), (1, 1), "a FIFO queue knows its id");
    running.drain().await;
}

#[tokio::test(start_paused = true)]
async fn dead_letter_by_redrive_policy_sends_nothing_and_lets_sqs_move_it() {
    let dead = Rig::new();
    let rig = Rig::with(|queue| queue.dead_letter(&dead.dead, 4));
    rig.send("k", "1").await;
    let worker = rig.worker().dead_letter_by_redrive_policy().handler(rejects(&rig));
    let running = start(worker.build().unwrap());
    rig.emptied(&running).await;
    let status = running.drain().await;
    assert_eq!((rig.log.len(), dead.dead.len(), dead.dead.calls().send), (1, 1, 0));
    assert!(status.totals.given_up >= 1, "{status:?}");
    assert_eq!(dead.dead.messages()[0].attribute(ENVELOPE_ATTRIBUTE), None);
}

#[tokio::test(start_paused = true)]
async fn without_dead_letters_keep_holds_the_message_and_never_runs_it_again() {
    let rig = Rig::new();
    let id = rig.send("k", "1").await;
    let worker = rig
        .worker()
        .without_dead_letters(WithoutDeadLetters::Keep)
        .handler(rejects(&rig));
    let running = start(worker.build().unwrap());
    sleep(secs(2 * 60 * 60)).await;
    assert_eq!((rig.log.len(), rig.dead.calls().send), (1, 0));
    assert!(rig.queue.contains(&id));
    let receives = rig.queue.peek(&id).unwrap().receive_count;
    assert!(receives <= 10, "received {receives} times in two hours");
    assert_eq!(rig.fates.of("1")[0], Fate::GivenUp("rejected".into()));
    running.drain().await;
}

#[tokio::test(start_paused = true)]
async fn without_dead_letters_discard_deletes_it_and_its_duplicates() {
    let rig = Rig::new();
    rig.send("k", "1").await;
    let worker = rig
        .worker()
        .without_dead_letters(WithoutDeadLetters::Discard)
        .handler(rejects(&rig));
    let running = start(worker.build().unwrap());
    rig.emptied(&running).await;
    rig.send("k", "1").await;
    rig.emptied(&running).await;
    assert_eq!((rig.log.len(), rig.dead.len(), rig.dead.calls().send), (1, 0, 0));
    assert_eq!(rig.fates.of("1"), [Fate::GivenUp("rejected".into()), Fate::Duplicate]);
    running.drain().await;
}

#[tokio::test(start_paused = true)]
async fn dead_letters_go_where_the_builder_says() {
    let (rig, other) = (Rig::new(), Rig::named("others", |queue| queue));
    rig.send("k", "1").await;
    let worker = rig.worker().dead_letter(other.dead.clone()).handler(rejects(&rig));
    let running = start(worker.build().unwrap());
    rig.emptied(&running).await;
    assert_eq!((rig.dead.len(), other.dead.len()), (0, 1));
    running.drain().await;
}

#[tokio::test(start_paused = true)]
async fn the_stored_result_is_offered_to_the_duplicate() {
    let rig = Rig::new();
    rig.send("k", "1").await;
    let seen: Arc<Mutex<Vec<(String, StoredResult)>>> = Arc::default();
    let note = seen.clone();
    let handler = rig.runs(|_| async { Ok(serde_json::json!({ "receipt": 7 })) });
    let worker = rig
        .worker()
        .on_duplicate(move |key, result| note.lock().unwrap().push((key.as_str().to_owned(), result.clone())))
        .handler(handler);
    let running = start(worker.build().unwrap());
    rig.emptied(&running).await;
    assert!(seen.lock().unwrap().is_empty());
    rig.send("k", "1").await;
    rig.emptied(&running).await;
    let json = StoredResult::Json(bytes::Bytes::from_static(br#"{"receipt":7}"#));
    assert_eq!(*seen.lock().unwrap(), [("k".to_owned(), json)]);
    running.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_result_over_its_bound_is_omitted_and_its_message_done_all_the_same() {
    let rig = Rig::new();
    rig.send("k", "1").await;
    let inbox = MemoryInbox::builder()
        .clock(rig.clock.clone())
        .max_result(100)
        .unwrap()
        .build();
    let handler = rig.runs(|_| async { Ok("x".repeat(101)) });
    let worker = rig.bare().inbox(inbox.clone()).handler(handler);
    let running = start(worker.build().unwrap());
    rig.emptied(&running).await;
    rig.send("k", "1").await;
    rig.emptied(&running).await;
    assert_eq!(rig.log.len(), 1);
    assert_eq!(inbox.records()[0].result, StoredResult::Omitted);
    running.drain().await;
}

#[tokio::test(start_paused = true)]
async fn rejects_for_known_and_own_reasons_carry_them() {
    let rig = Rig::new();
    rig.send("a", "a").await;
    rig.send("b", "b").await;
    #[derive(Clone)]
    struct Shop;
    async fn handle(State(_): State<Shop>, message: redrive::message::Message) -> Result<(), Failure> {
        match message.body.as_str() {
            "a" => Err(Failure::reject("too old").for_reason(Reason::Expiring)),
            _ => Err(Failure::reject("no such customer").because("unknown_customer")),
        }
    }
    let running = start(rig.worker().state(Shop).handler(handle).build().unwrap());
    rig.emptied(&running).await;
    let mut reasons = rig.reasons();
    reasons.sort();
    assert_eq!(reasons, ["expiring", "unknown_customer"]);
    let totals = running.drain().await.totals;
    assert_eq!(totals.dead_lettered["unknown_customer"], 1);
}

#[tokio::test(start_paused = true)]
async fn inv10_an_expiring_letter_tells_the_attempts_made_before() {
    let rig = Rig::with(|queue| queue.retention(secs(400)));
    rig.send("k", "1").await;
    let mut record = Record::new(RecordKey::new("orders", &Key::new("k")));
    let id = rig.queue.messages()[0].id.clone();
    record.message_id = id;
    record.attempts = 3;
    record.last_error = Some("the gateway was closed".to_owned());
    rig.inbox.insert(record);
    sleep(secs(375)).await;
    let handler = rig.runs(|_| async { Err::<(), _>(Failure::retry("down").uncounted()) });
    let running = start(rig.worker().handler(handler).build().unwrap());
    rig.emptied(&running).await;
    running.drain().await;
    let letter = rig.letters().pop().unwrap();
    assert_eq!((letter.reason.as_str(), letter.attempts), ("expiring", 3));
    assert!(letter.error.contains("the gateway was closed"), "{}", letter.error);
}
