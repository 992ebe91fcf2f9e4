//! A record in the inbox that somebody edited by hand, so that it cannot be read: what the worker does with its message.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use futures::future::BoxFuture;
use redrive::extract::{IdempotencyKey, State};
use redrive::inbox::{Answers, ClaimAnswer, ClaimRequest, Inbox, InboxError, Record, ServiceTime, Write, Written};
use redrive::key::RecordKey;
use redrive::testing::{Bench, MemoryInbox};
use redrive::{Failure, Worker};

use crate::alone;

/// An inbox in which the record of `damaged` cannot be read until somebody mends it, as the one in a table answers then.
#[derive(Clone)]
struct Edited {
    inbox: MemoryInbox,
    mended: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
}

fn corrupt(key: &RecordKey) -> InboxError {
    InboxError::Corrupt {
        inbox: "inbox".to_owned(),
        key: key.clone(),
        why: "`lease_until` is a string instead of a number".into(),
    }
}

impl Edited {
    fn is_damaged(&self, key: &RecordKey) -> bool {
        key.key() == "damaged" && !self.mended.load(Ordering::SeqCst)
    }
}

impl Inbox for Edited {
    fn claim(&self, requests: Vec<ClaimRequest>) -> BoxFuture<'_, Answers<ClaimAnswer>> {
        Box::pin(async move {
            let mut answers = Vec::new();
            for request in requests {
                if self.is_damaged(&request.key) {
                    self.asked.fetch_add(1, Ordering::SeqCst);
                    answers.push(Err(corrupt(&request.key)));
                } else {
                    answers.extend(self.inbox.claim(vec![request]).await);
                }
            }
            answers
        })
    }

    fn write(&self, writes: Vec<Write>) -> BoxFuture<'_, Answers<Written>> {
        self.inbox.write(writes)
    }

    fn get<'a>(&'a self, key: &'a RecordKey) -> BoxFuture<'a, Result<Option<Record>, InboxError>> {
        Box::pin(async move {
            if self.is_damaged(key) {
                return Err(corrupt(key));
            }
            self.inbox.get(key).await
        })
    }

    fn time(&self) -> ServiceTime {
        self.inbox.time()
    }
}

type Runs = Arc<Mutex<BTreeMap<String, usize>>>;

async fn count(State(runs): State<Runs>, key: IdempotencyKey) -> Result<(), Failure> {
    *runs.lock().unwrap().entry(key.to_string()).or_default() += 1;
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn inv12_a_message_whose_record_cannot_be_read_waits_unrun_and_the_others_go_on() {
    let _alone = alone().await;
    let bench = Bench::new("orders", 7).unwrap();
    let inbox = Edited {
        inbox: bench.inbox().clone(),
        mended: Arc::default(),
        asked: Arc::default(),
    };
    let runs = Runs::default();
    bench.send("damaged", "x").await.unwrap();
    for n in 0..50 {
        bench.send(&format!("key-{n}"), "x").await.unwrap();
    }
    let worker = Worker::builder(bench.queue().clone())
        .inbox(inbox.clone())
        .clock(bench.clock().clone())
        .state(Arc::clone(&runs))
        .handler(count)
        .build()
        .unwrap();
    let handle = worker.handle();
    let watch = async {
        // The others are done although one of them is met again and again.
        while handle.status().totals.completed < 50 || inbox.asked.load(Ordering::SeqCst) < 3 {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        assert_eq!(
            runs.lock().unwrap().get("damaged"),
            None,
            "nobody knows whether it ran: it is not run"
        );
        assert_eq!(bench.queue().len(), 1, "and it is not lost");
        assert!(bench.dead_letters().is_empty(), "nor given up");
        let at_most = inbox.asked.load(Ordering::SeqCst);
        // It comes with ever longer delays, and not in a loop.
        assert!(at_most < 20, "{at_most}");
        for n in 50..60 {
            bench.send(&format!("key-{n}"), "x").await.unwrap();
        }
        while handle.status().totals.completed < 60 {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        inbox.mended.store(true, Ordering::SeqCst);
        while !bench.queue().is_empty() {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        handle.drain();
    };
    let (ended, ()) = futures::join!(worker.run_until_drained(), watch);
    ended.unwrap();
    assert!(
        runs.lock().unwrap().values().all(|&count| count == 1),
        "each ran once: {runs:?}"
    );
    assert_eq!(runs.lock().unwrap().len(), 61);
}
