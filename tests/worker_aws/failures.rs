//! Failures: another attempt, and in the end a dead letter that explains itself.

use redrive::clock::{Clock, Instant};
use redrive::extract::{Attempt, Envelope, IdempotencyKey, Json, State};
use redrive::flow::{Backoff, Jitter};
use redrive::inbox::{Inbox as _, Status};
use redrive::{Failure, Router};

use super::*;

fn steady(base: Duration) -> Backoff {
    Backoff::new(base, base).unwrap().jitter(Jitter::None)
}

#[tokio::test]
async fn inv09_a_failure_is_tried_again_after_its_backoff_and_counted() {
    #[derive(Clone, Default)]
    struct Runs(Log<(u32, Instant)>);

    async fn second_time_lucky(State(runs): State<Runs>, Attempt(attempt): Attempt) -> Result<(), Failure> {
        runs.0.push((attempt, Clock::system().now()));
        if attempt < 3 {
            return Err(Failure::retry("the gateway is busy"));
        }
        Ok(())
    }

    let Some(lab) = Lab::open() else { return };
    let Queues { source, dead } = lab.queues("backoff", &Setup::default()).await;
    let inbox = lab.inbox(TABLE).await;
    send(&source, vec![keyed("k", "1")]).await;
    let runs = Runs::default();
    let base = Duration::from_secs(1);
    let worker = quick(&source, &inbox)
        .backoff(steady(base))
        .state(runs.clone())
        .handler(second_time_lucky);
    let running = Running::start(worker.build().unwrap());
    running
        .until("it is completed", |status| status.totals.completed == 1)
        .await;
    until("the queue is empty", async || is_empty(&source).await).await;
    assert_eq!(running.drained().await.totals.retried, 2);
    let runs = runs.0.all();
    assert_eq!(runs.iter().map(|(attempt, _)| *attempt).collect::<Vec<_>>(), [1, 2, 3]);
    for pair in runs.windows(2) {
        let gap = pair[1].1.saturating_duration_since(pair[0].1);
        // SQS times by whole seconds of its own clock.
        assert!(gap > base / 2, "{gap:?} between two attempts");
    }
    assert!(is_empty(&dead).await);
}

#[tokio::test]
async fn inv10_a_dead_letter_says_why_it_died_and_its_record_says_the_same() {
    async fn pay(Json(_): Json<u32>) -> Result<(), Failure> {
        Err(Failure::retry("the gateway is down"))
    }
    async fn refund(Json(_): Json<u32>) -> Result<(), Failure> {
        Err(Failure::reject("it was refunded").because("refunded_before"))
    }

    let Some(lab) = Lab::open() else { return };
    let Queues { source, dead } = lab.queues("dead-letters", &Setup::default()).await;
    let inbox = lab.inbox(TABLE).await;
    let typed = |key: &str, kind: &str, body: &str| keyed(key, body).attribute("type", Attribute::string(kind));
    let messages = [
        typed("paid", "pay", "1").attribute("tenant", Attribute::string("t-1")),
        typed("refunded", "refund", "2"),
        typed("unreadable", "pay", "one"),
        typed("unknown", "barter", "3"),
    ];
    send(&source, messages.to_vec()).await;
    let worker = quick(&source, &inbox)
        .backoff(steady(Duration::from_millis(100)))
        .max_attempts(2)
        .handler(Router::new().route("pay", pay).route("refund", refund));
    let running = Running::start(worker.build().unwrap());
    let letters = take_all(&dead, 4).await;
    assert_eq!(letters.len(), 4);
    until("the queue is empty", async || is_empty(&source).await).await;
    let totals = running.drained().await.totals;
    assert_eq!((totals.dead_letters(), totals.completed), (4, 0));

    for (key, body, reason, error, attempts) in [
        ("paid", "1", "attempts_exhausted", "the gateway is down", 2),
        ("refunded", "2", "refunded_before", "it was refunded", 1),
        ("unreadable", "one", "malformed", "not JSON", 1),
        ("unknown", "3", "unroutable", "barter", 1),
    ] {
        let of_key = |letter: &&redrive::message::Delivery| letter.message.attribute(KEY_ATTRIBUTE) == Some(key);
        let letter = letters.iter().find(of_key).unwrap();
        let envelope = Envelope::of(&letter.message).unwrap();
        assert_eq!((letter.message.body.as_str(), envelope.key.as_str()), (body, key));
        assert_eq!(envelope.reason, reason, "{key}");
        assert!(envelope.error.contains(error), "{key}: {}", envelope.error);
        assert_eq!(envelope.attempts, attempts, "{key}");
        assert_eq!(envelope.source, source.attributes().arn);
        assert_ne!(envelope.message_id, letter.message.id, "the id it had before");
        let record = inbox.get(&record_key(&source, key)).await.unwrap().unwrap();
        assert_eq!(
            (record.status, record.dead_letter_sent),
            (Status::Rejected, true),
            "{key}"
        );
        assert_eq!(record.reason.as_deref(), Some(reason));
        assert_eq!(record.message_id, envelope.message_id);
    }
    let paid = letters.iter().find(|letter| letter.message.body == "1").unwrap();
    assert_eq!(paid.message.attribute("tenant"), Some("t-1"), "attributes travel along");
}

#[tokio::test]
async fn inv10_a_known_key_with_another_payload_is_dead_lettered_and_the_known_record_stays() {
    async fn charge(
        State(log): State<Log<String>>,
        key: IdempotencyKey,
        Json(amount): Json<u32>,
    ) -> Result<u32, Failure> {
        log.push(format!("{}: {amount}", key.as_str()));
        Ok(amount)
    }

    let Some(lab) = Lab::open() else { return };
    let Queues { source, dead } = lab.queues("mismatch", &Setup::default()).await;
    let inbox = lab.inbox(TABLE).await;
    let log = Log::default();
    let worker = quick(&source, &inbox).state(log.clone()).handler(charge);
    let running = Running::start(worker.build().unwrap());
    send(&source, vec![keyed("k", "100")]).await;
    running
        .until("it is completed", |status| status.totals.completed == 1)
        .await;
    let before = inbox.get(&record_key(&source, "k")).await.unwrap().unwrap();
    send(&source, vec![keyed("k", "999"), keyed("k", "100")]).await;
    let letters = take_all(&dead, 1).await;
    until("the queue is empty", async || is_empty(&source).await).await;
    let totals = running.drained().await.totals;
    assert_eq!((totals.completed, totals.duplicates, totals.dead_letters()), (1, 1, 1));
    assert_eq!(log.all(), ["k: 100"]);
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].message.body, "999");
    let envelope = Envelope::of(&letters[0].message).unwrap();
    assert_eq!(
        (envelope.reason.as_str(), envelope.attempts),
        ("fingerprint_mismatch", 0)
    );
    let after = inbox.get(&record_key(&source, "k")).await.unwrap().unwrap();
    assert_eq!(after, before);
}
