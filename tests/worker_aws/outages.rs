//! Outages, bounds and heartbeats: what holds while handlers fail all at once, and while they take their time.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use redrive::Failure;
use redrive::extract::State;
use redrive::flow::BreakerConfig;

use super::*;

/// A service that is up or down, and counts who is with it.
#[derive(Clone, Default)]
struct Service {
    up: Arc<AtomicBool>,
    calls: Arc<AtomicUsize>,
    now: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

impl Service {
    fn up() -> Self {
        let service = Self::default();
        service.up.store(true, Ordering::SeqCst);
        service
    }

    async fn call(&self, takes: Duration) -> Result<(), Failure> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        tokio::time::sleep(takes).await;
        self.now.fetch_sub(1, Ordering::SeqCst);
        if self.up.load(Ordering::SeqCst) {
            Ok(())
        } else {
            Err(Failure::retry("the service is down"))
        }
    }
}

#[tokio::test]
async fn inv04_an_outage_spends_no_attempts_and_makes_no_dead_letters() {
    async fn call(State(service): State<Service>) -> Result<(), Failure> {
        service.call(Duration::from_millis(10)).await
    }

    let Some(lab) = Lab::open() else { return };
    let Queues { source, dead } = lab.queues("outage", &Setup::default()).await;
    let inbox = lab.inbox(TABLE).await;
    send(&source, (0..20).map(|n| keyed(&format!("k{n}"), "1")).collect()).await;
    let service = Service::default();
    let open = Duration::from_millis(500);
    let worker = quick(&source, &inbox)
        .max_attempts(2)
        .breaker(BreakerConfig::default().open_for(open, open).unwrap())
        .state(service.clone())
        .concurrency(4)
        .handler(call);
    let running = Running::start(worker.build().unwrap());
    // More failed probes than any message has attempts.
    running
        .until("the breaker opened again and again", |status| {
            status.totals.breaker_opened >= 6
        })
        .await;
    assert!(is_empty(&dead).await, "an outage made a dead letter");
    service.up.store(true, Ordering::SeqCst);
    running
        .until("all are completed", |status| status.totals.completed == 20)
        .await;
    until("the queue is empty", async || is_empty(&source).await).await;
    let totals = running.drained().await.totals;
    assert!(totals.uncounted_failures >= 6, "{totals:?}");
    assert_eq!(totals.dead_letters(), 0);
    assert!(is_empty(&dead).await);
}

#[tokio::test]
async fn inv05_no_more_handlers_run_than_there_are_slots() {
    async fn call(State(service): State<Service>) -> Result<(), Failure> {
        service.call(Duration::from_millis(20)).await
    }

    let Some(lab) = Lab::open() else { return };
    let Queues { source, .. } = lab.queues("slots", &Setup::default()).await;
    let inbox = lab.inbox(TABLE).await;
    send(&source, (0..60).map(|n| keyed(&format!("k{n}"), "1")).collect()).await;
    let service = Service::up();
    let worker = quick(&source, &inbox)
        .concurrency(5)
        .state(service.clone())
        .handler(call);
    let running = Running::start(worker.build().unwrap());
    running
        .until("all are completed", |status| status.totals.completed == 60)
        .await;
    running.drained().await;
    assert_eq!(service.most.load(Ordering::SeqCst), 5);
}

#[tokio::test]
async fn inv06_a_run_of_several_visibility_timeouts_is_kept_by_heartbeats_and_ends_them() {
    async fn call(State(service): State<Service>) -> Result<(), Failure> {
        service.call(Duration::from_secs(7)).await
    }

    let Some(lab) = Lab::open() else { return };
    let Queues { source, .. } = lab.queues("long-run", &Setup::default()).await;
    let inbox = lab.inbox(TABLE).await;
    send(&source, vec![keyed("k", "1")]).await;
    let service = Service::up();
    let worker = quick(&source, &inbox).state(service.clone()).handler(call);
    let running = Running::start(worker.build().unwrap());
    running
        .until("it is completed", |status| status.totals.completed == 1)
        .await;
    until("the queue is empty", async || is_empty(&source).await).await;
    let beats = running.status().totals.heartbeats;
    assert!(beats >= 3, "{beats} heartbeats");
    let totals = running.drained().await.totals;
    assert_eq!(
        (totals.heartbeats, totals.lost),
        (beats, 0),
        "no heartbeat after it was settled"
    );
    assert_eq!(service.calls.load(Ordering::SeqCst), 1);
}
