//! Once each: duplicates, stored results.

use redrive::Failure;
use redrive::clock::Clock;
use redrive::extract::{IdempotencyKey, Json, State};
use redrive::inbox::{Inbox as _, Status};
use redrive::outcome::StoredResult;

use super::*;

#[derive(Clone, Default)]
struct Charged(Log<(String, u32)>);

async fn charge(
    State(charged): State<Charged>,
    key: IdempotencyKey,
    Json(amount): Json<u32>,
) -> Result<String, Failure> {
    charged.0.push((key.as_str().to_owned(), amount));
    Ok(format!("receipt of {amount}"))
}

#[tokio::test]
async fn inv02_a_key_is_handled_once_however_often_it_was_sent_and_its_result_is_offered_again() {
    let Some(lab) = Lab::open() else { return };
    let Queues { source, dead } = lab.queues("once", &Setup::default()).await;
    let inbox = lab.inbox(TABLE).await;
    let copies = |n: u32| (0..3).map(move |_| keyed(&format!("k{n}"), &n.to_string()));
    send(&source, (0..20).flat_map(copies).collect()).await;
    let charged = Charged::default();
    let offered = Log::default();
    let hook = offered.clone();
    let clock = Clock::system();
    let began = clock.now();
    let lease = Duration::from_secs(120);
    let running = Running::start(
        quick(&source, &inbox)
            .lease(lease)
            .on_duplicate(move |key, result| hook.push((key.as_str().to_owned(), result.clone())))
            .state(charged.clone())
            .handler(charge)
            .build()
            .unwrap(),
    );
    until("the queue is empty", async || is_empty(&source).await).await;
    assert!(
        clock.now().saturating_duration_since(began) < lease,
        "copies of a key that this worker handles wait for it, and not for its lease to end"
    );
    let totals = running.drained().await.totals;
    let mut handled = charged.0.all();
    handled.sort();
    let mut expected: Vec<_> = (0..20).map(|n| (format!("k{n}"), n)).collect();
    expected.sort();
    assert_eq!(handled, expected);
    assert_eq!((totals.completed, totals.duplicates), (20, 40));
    let offered = offered.all();
    assert_eq!(offered.len(), 40);
    for (key, result) in offered {
        let receipt = format!("\"receipt of {}\"", &key[1..]);
        assert_eq!(result, StoredResult::Json(receipt.into()), "{key}");
    }
    let record = inbox.get(&record_key(&source, "k7")).await.unwrap().unwrap();
    assert_eq!(record.status, Status::Completed);
    assert_eq!(record.result, StoredResult::Json("\"receipt of 7\"".into()));
    assert!(is_empty(&dead).await);
}

#[tokio::test]
async fn inv02_two_workers_at_once_handle_each_key_once() {
    let Some(lab) = Lab::open() else { return };
    let Queues { source, .. } = lab.queues("two-workers", &Setup::default()).await;
    let inbox = lab.inbox(TABLE).await;
    let copies = |n: u32| (0..2).map(move |_| keyed(&format!("k{n}"), &n.to_string()));
    send(&source, (0..50).flat_map(copies).collect()).await;
    let charged = Charged::default();
    let workers = [(); 2].map(|()| {
        let worker = quick(&source, &inbox).state(charged.clone()).handler(charge).build();
        Running::start(worker.unwrap())
    });
    until("the queue is empty", async || is_empty(&source).await).await;
    let mut sums = (0, 0);
    for worker in workers {
        let totals = worker.drained().await.totals;
        sums = (sums.0 + totals.completed, sums.1 + totals.duplicates);
    }
    assert_eq!(sums, (50, 50));
    let mut keys: Vec<String> = charged.0.all().into_iter().map(|(key, _)| key).collect();
    keys.sort();
    keys.dedup();
    assert_eq!((keys.len(), charged.0.all().len()), (50, 50));
}
