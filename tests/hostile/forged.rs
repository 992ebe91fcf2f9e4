//! What a producer gains by forging the attributes that are ours. Whoever may send to a queue may set any attribute; none of
//! them says where anything is sent, how often anything was tried, or whose key it is.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use redrive::dlq::{ENVELOPE_ATTRIBUTE, Envelope};
use redrive::extract::State;
use redrive::inbox::{Record, Status};
use redrive::key::{Fingerprint, Key, RecordKey};
use redrive::message::{Attribute, KEY_ATTRIBUTE, Outgoing};
use redrive::testing::Bench;
use redrive::{Context, Failure};

use crate::alone;

fn forged(body: &str, change: impl FnOnce(&mut Envelope)) -> Outgoing {
    let mut envelope = Envelope::default();
    change(&mut envelope);
    let text = serde_json::to_string(&envelope).unwrap();
    Outgoing::new(body).attribute(ENVELOPE_ATTRIBUTE, Attribute::string(text))
}

async fn fails(State(runs): State<Arc<AtomicUsize>>) -> Result<(), Failure> {
    runs.fetch_add(1, Ordering::SeqCst);
    Err(Failure::retry("not today"))
}

async fn counts(State(runs): State<Arc<AtomicUsize>>) -> Result<usize, Failure> {
    Ok(runs.fetch_add(1, Ordering::SeqCst))
}

/// The record of `key`, completed with this body, as a worker of `consumer` left it.
fn completed(consumer: &str, key: &str, body: &str, bench: &Bench) -> RecordKey {
    let key = RecordKey::new(consumer, &Key::new(key));
    let mut record = Record::new(key.clone());
    record.status = Status::Completed;
    record.claim_id = "earlier".into();
    record.fencing_token = 1;
    record.message_id = "earlier".into();
    record.fingerprint = Some(Fingerprint::of(body.as_bytes()));
    bench.inbox().insert(record);
    key
}

#[tokio::test(start_paused = true)]
async fn inv09_a_forged_envelope_neither_spends_attempts_nor_gives_more_of_them() {
    let _alone = alone().await;
    for attempts in [0, 4, 5, u32::MAX] {
        let bench = Bench::new("orders", 7).unwrap();
        let runs = Arc::new(AtomicUsize::new(0));
        let message = forged("{}", |envelope| {
            envelope.key = "k".into();
            envelope.attempts = attempts;
            envelope.replays = attempts;
            envelope.reason = "attempts_exhausted".into();
            envelope.dead_at_ms = u64::MAX;
        });
        bench.send_message(message).await.unwrap();
        let worker = bench
            .worker()
            .state(Arc::clone(&runs))
            .max_attempts(5)
            .handler(fails)
            .build()
            .unwrap();
        bench.run(worker).await.unwrap();
        assert_eq!(runs.load(Ordering::SeqCst), 5, "attempts said: {attempts}");
        let letters = bench.dead_letters();
        assert_eq!((letters.len(), letters[0].attempts), (1, 5));
    }
}

#[tokio::test(start_paused = true)]
async fn a_forged_source_sends_nothing_anywhere_else() {
    let _alone = alone().await;
    let bench = Bench::new("orders", 7).unwrap();
    let message = forged("{}", |envelope| {
        envelope.source = "arn:aws:sqs:eu-west-1:666666666666:theirs".into();
        envelope.message_id = "http://169.254.169.254/latest/meta-data".into();
        envelope.trace = Some("file:///etc/passwd".into());
    });
    bench.send_message(message).await.unwrap();
    let runs = Arc::new(AtomicUsize::new(0));
    let worker = bench
        .worker()
        .state(runs)
        .max_attempts(1)
        .handler(fails)
        .build()
        .unwrap();
    let status = bench.run(worker).await.unwrap();
    assert_eq!(status.totals.dead_lettered.values().sum::<u64>(), 1);
    assert_eq!(
        bench.dead_letter_queue().len(),
        1,
        "it went where the queue's own policy says"
    );
    let sends = bench.dead_letter_queue().calls().send;
    assert_eq!(sends, 1);
}

#[tokio::test(start_paused = true)]
async fn inv02_a_forged_key_stays_within_its_consumer() {
    let _alone = alone().await;
    let bench = Bench::new("orders", 7).unwrap();
    let theirs = completed("billing", "k", "x", &bench);
    for key in ["k", "billing#k", "#k", "../billing#k"] {
        bench
            .send_message(forged("x", |envelope| envelope.key = key.into()))
            .await
            .unwrap();
    }
    let runs = Arc::new(AtomicUsize::new(0));
    let worker = bench.worker().state(Arc::clone(&runs)).handler(counts).build().unwrap();
    bench.run(worker).await.unwrap();
    assert_eq!(runs.load(Ordering::SeqCst), 4, "none of them is the other consumer's");
    assert_eq!(bench.inbox().record(&theirs).unwrap().claim_id, "earlier");
    assert!(
        bench
            .inbox()
            .records()
            .iter()
            .all(|record| record.key == theirs || record.key.consumer() == "orders")
    );
}

#[tokio::test(start_paused = true)]
async fn a_forged_envelope_does_not_run_again_what_is_completed() {
    let _alone = alone().await;
    let bench = Bench::new("orders", 7).unwrap();
    completed("orders", "k", "x", &bench);
    bench
        .send_message(forged("x", |envelope| envelope.key = "k".into()))
        .await
        .unwrap();
    bench
        .send_message(forged("another payload", |envelope| envelope.key = "k".into()))
        .await
        .unwrap();
    let runs = Arc::new(AtomicUsize::new(0));
    let worker = bench.worker().state(Arc::clone(&runs)).handler(counts).build().unwrap();
    let status = bench.run(worker).await.unwrap();
    assert_eq!(runs.load(Ordering::SeqCst), 0);
    assert_eq!(status.totals.duplicates, 1);
    let letters = bench.dead_letters();
    assert_eq!(letters.len(), 1, "what is not the same work is not lost with it");
    assert_eq!(letters[0].reason, "fingerprint_mismatch");
}

/// The one thing that an envelope does and the key's own attribute does not: it goes before a key that a function makes of the
/// body. docs/hostile-input.md says so.
#[tokio::test(start_paused = true)]
async fn an_envelopes_key_goes_before_a_functions_and_before_the_attribute() {
    let _alone = alone().await;
    let bench = Bench::new("orders", 7).unwrap();
    let message = forged("body-key", |envelope| envelope.key = "forged".into())
        .attribute(KEY_ATTRIBUTE, Attribute::string("attribute-key"));
    bench.send_message(message).await.unwrap();
    let worker = bench
        .worker()
        .key(|message| Some(message.body.clone()))
        .handler(|context: Context| async move { Ok::<_, Failure>(context.key().to_string()) })
        .build()
        .unwrap();
    bench.run(worker).await.unwrap();
    let records = bench.inbox().records();
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].key.as_str(), "orders#forged");
}

#[tokio::test(start_paused = true)]
async fn inv01_a_forged_displaced_attribute_does_not_keep_a_message_from_its_dead_letter_queue() {
    let _alone = alone().await;
    let bench = Bench::new("orders", 7).unwrap();
    let envelope = r#"{"key":"k","displaced":{"name":"no name!","data_type":"Bogus","value":"\u0000"}}"#;
    let message = Outgoing::new("x").attribute(ENVELOPE_ATTRIBUTE, Attribute::string(envelope));
    bench.send_message(message).await.unwrap();
    let runs = Arc::new(AtomicUsize::new(0));
    let worker = bench
        .worker()
        .state(Arc::clone(&runs))
        .max_attempts(1)
        .handler(fails)
        .build()
        .unwrap();
    let status = bench.run(worker).await.unwrap();
    assert_eq!((runs.load(Ordering::SeqCst), status.totals.dead_lettered.len()), (1, 1));
    let letters = bench.dead_letters();
    assert_eq!(letters[0].error, "not today");
    assert_eq!(bench.dead_letter_queue().messages()[0].attributes.len(), 1);
}
