//! Workers that are too late, die or drain.

use std::pin::pin;

use redrive::Failure;
use redrive::clock::Clock;
use redrive::extract::{Attempt, FencingToken, State};
use redrive::inbox::{Inbox as _, Status};
use redrive::outcome::StoredResult;
use redrive::queue::Receive;
use tokio::sync::Semaphore;

use super::*;

/// Handlers that enter and then wait to be let through.
#[derive(Clone)]
struct Gate {
    entered: Log<(String, u32, u64)>,
    open: Arc<Semaphore>,
}

impl Gate {
    fn shut() -> Self {
        Self {
            entered: Log::default(),
            open: Arc::new(Semaphore::new(0)),
        }
    }

    fn open(&self) {
        self.open.add_permits(Semaphore::MAX_PERMITS / 2);
    }
}

async fn pass(
    State((name, gate)): State<(&'static str, Gate)>,
    message: redrive::extract::Message,
    Attempt(attempt): Attempt,
    FencingToken(fence): FencingToken,
) -> Result<&'static str, Failure> {
    gate.entered.push((message.body, attempt, fence));
    drop(gate.open.acquire().await);
    Ok(name)
}

#[tokio::test]
async fn inv03_a_worker_that_slept_through_its_lease_can_neither_complete_nor_delete() {
    let Some(lab) = Lab::open() else { return };
    let Queues { source, dead } = lab.queues("zombie", &Setup::default()).await;
    let inbox = lab.inbox(TABLE).await;
    send(&source, vec![keyed("k", "1")]).await;

    let sleeping = Gate::shut();
    let worker = quick(&source, &inbox).state(("zombie", sleeping.clone())).handler(pass);
    let worker = worker.build().unwrap();
    let zombie = worker.handle();
    let mut asleep = pin!(worker.run_until_drained());
    tokio::select! {
        biased;
        ended = &mut asleep => panic!("it ended: {ended:?}"),
        () = until("the zombie runs it", async || sleeping.entered.all().len() == 1) => {}
    }

    // From here on nobody polls it, as if its process were stopped: no heartbeat, no answer is read.
    let gate = Gate::shut();
    let worker = quick(&source, &inbox).state(("successor", gate.clone())).handler(pass);
    let successor = Running::start(worker.build().unwrap());
    until("the lease runs out and another takes over", async || {
        gate.entered.all().len() == 1
    })
    .await;

    // The zombie wakes up, its handler returns, while the successor's still runs.
    sleeping.open();
    let woken = async {
        until("the zombie has noticed", async || zombie.status().totals.lost == 1).await;
        zombie.drain();
    };
    let (ended, ()) = futures::join!(asleep, woken);
    ended.unwrap();
    let totals = zombie.status().totals;
    assert_eq!(
        (totals.completed, totals.lost, totals.late_deletes),
        (0, 1, 0),
        "{totals:?}"
    );
    let record = inbox.get(&record_key(&source, "k")).await.unwrap().unwrap();
    assert_eq!(
        record.status,
        Status::Processing,
        "what the zombie returned is not recorded"
    );
    assert!(!is_empty(&source).await, "nor is the message deleted");

    gate.open();
    until("the queue is empty", async || is_empty(&source).await).await;
    assert_eq!(successor.drained().await.totals.completed, 1);
    let record = inbox.get(&record_key(&source, "k")).await.unwrap().unwrap();
    assert_eq!(record.status, Status::Completed);
    assert_eq!(record.result, StoredResult::Json("\"successor\"".into()));
    assert!(
        record.fencing_token > sleeping.entered.all()[0].2,
        "the fence has grown"
    );
    assert!(is_empty(&dead).await);
}

#[tokio::test]
async fn inv09_what_a_crashed_worker_ran_is_run_again_and_no_attempt_is_counted() {
    let Some(lab) = Lab::open() else { return };
    let Queues { source, dead } = lab.queues("crash", &Setup::default()).await;
    let inbox = lab.inbox(TABLE).await;
    send(
        &source,
        (0..3).map(|n| keyed(&format!("k{n}"), &n.to_string())).collect(),
    )
    .await;
    let gate = Gate::shut();
    let worker = quick(&source, &inbox).state(("first", gate.clone())).handler(pass);
    let first = Running::start(worker.build().unwrap());
    until("all three run", async || gate.entered.all().len() == 3).await;
    drop(first);

    let after = Gate::shut();
    after.open();
    let worker = quick(&source, &inbox).state(("second", after.clone())).handler(pass);
    let second = Running::start(worker.build().unwrap());
    until("the queue is empty", async || is_empty(&source).await).await;
    assert_eq!(second.drained().await.totals.completed, 3);
    let mut runs: Vec<_> = after
        .entered
        .all()
        .into_iter()
        .map(|(body, attempt, _)| (body, attempt))
        .collect();
    runs.sort();
    let first_attempts: Vec<_> = (0..3).map(|n| (n.to_string(), 1)).collect();
    assert_eq!(runs, first_attempts);
    assert!(is_empty(&dead).await);
}

#[tokio::test]
async fn inv08_a_drain_makes_what_waits_visible_at_once() {
    // By themselves they would be visible again after a minute.
    let setup = Setup {
        visibility_secs: 60,
        ..Setup::default()
    };
    let Some(lab) = Lab::open() else { return };
    let Queues { source, .. } = lab.queues("drain", &setup).await;
    let inbox = lab.inbox(TABLE).await;
    send(
        &source,
        (0..6).map(|n| keyed(&format!("k{n}"), &n.to_string())).collect(),
    )
    .await;
    let gate = Gate::shut();
    let worker = quick(&source, &inbox)
        .lease(Duration::from_secs(60))
        .concurrency(1)
        .state(("first", gate.clone()))
        .handler(pass);
    let running = Running::start(worker.build().unwrap());
    running
        .until("one runs and others wait", |status| {
            status.running == 1 && status.waiting >= 1
        })
        .await;
    let clock = Clock::system();
    let began = clock.now();
    running.handle.drain();
    running
        .until("what waited is given back", |status| {
            status.totals.released >= 1 && status.waiting == 0
        })
        .await;
    gate.open();
    let totals = running.drained().await.totals;
    assert_eq!(totals.completed, 1);

    let mut back = Vec::new();
    until("the others are visible", async || {
        let receive = Receive::new(10, Duration::from_millis(500));
        back.extend(source.receive(receive).await.unwrap());
        back.len() == 5
    })
    .await;
    let took = clock.now().saturating_duration_since(began);
    assert!(took < Duration::from_secs(30), "{took:?}");
    for delivery in back {
        let key = delivery.message.attribute(KEY_ATTRIBUTE).unwrap();
        // Their claims were freed before: whoever receives them next may run them.
        let record = inbox.get(&record_key(&source, key)).await.unwrap();
        assert!(
            record.is_none_or(|record| record.status == Status::Released && record.attempts == 0),
            "{key} is still claimed"
        );
    }
}
