//! A host that was suspended knows nothing of it: neither its monotonic clock nor what it knows of the service's time moved.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use futures::future::BoxFuture;
use redrive::clock::{Clock, Random};
use redrive::inbox::{
    Answers, ClaimAnswer, ClaimRequest, Inbox, InboxError, Record, ServiceTime, Status, Write, Written,
};
use redrive::key::RecordKey;
use redrive::{Context, MemoryInbox};

use crate::support::{Rig, RunEnd, ms, now, secs, sleep, start};

/// The inbox as a host sees it that was suspended: its time is where it was, until an answer tells better.
#[derive(Clone)]
struct AsBefore {
    inner: MemoryInbox,
    behind_ms: Arc<AtomicU64>,
}

impl Inbox for AsBefore {
    fn claim(&self, requests: Vec<ClaimRequest>) -> BoxFuture<'_, Answers<ClaimAnswer>> {
        Box::pin(async move {
            let answers = self.inner.claim(requests).await;
            self.behind_ms.store(0, Ordering::SeqCst);
            answers
        })
    }

    fn write(&self, writes: Vec<Write>) -> BoxFuture<'_, Answers<Written>> {
        Box::pin(async move {
            let answers = self.inner.write(writes).await;
            self.behind_ms.store(0, Ordering::SeqCst);
            answers
        })
    }

    fn get<'a>(&'a self, key: &'a RecordKey) -> BoxFuture<'a, Result<Option<Record>, InboxError>> {
        self.inner.get(key)
    }

    fn time(&self) -> ServiceTime {
        let behind = self.behind_ms.load(Ordering::SeqCst);
        let time = self.inner.time();
        ServiceTime {
            lo: time.lo - behind,
            hi: time.hi - behind,
        }
    }
}

/// A host's clock, the service's, and the inbox as that host sees it.
struct Host {
    clock: Clock,
    service: Clock,
    inbox: AsBefore,
}

impl Host {
    fn of(rig: &Rig) -> Self {
        let service = rig.clock.skewed_by(0);
        Self {
            clock: rig.clock.skewed_by(0),
            inbox: AsBefore {
                inner: MemoryInbox::builder().clock(service.clone()).build(),
                behind_ms: Arc::default(),
            },
            service,
        }
    }

    /// It is suspended: for the others time goes on.
    fn suspend(&self, ms: u64) {
        self.service.step_by(i64::try_from(ms).unwrap());
        self.inbox.behind_ms.store(ms, Ordering::SeqCst);
    }

    /// It goes on where it was, with the wall clock set to where it is.
    fn resume(&self, ms: u64) {
        self.clock.step_by(i64::try_from(ms).unwrap());
    }
}

#[tokio::test(start_paused = true)]
async fn inv02_a_host_that_was_suspended_starts_nothing_that_another_took_over_and_stops_what_runs() {
    let rig = Rig::new();
    let host = Host::of(&rig);
    let ids = [rig.send("long", "1").await, rig.send("short", "2").await];
    let free = Arc::new(AtomicBool::new(false));
    let is_free = free.clone();
    let handler = rig.runs(move |context: Context| {
        let free = is_free.clone();
        async move {
            while context.message().body == "1" && !free.load(Ordering::SeqCst) {
                sleep(ms(10)).await;
            }
            Ok(())
        }
    });
    // One runs, the other waits for the slot.
    let worker = rig.bare().clock(host.clock.clone()).inbox(host.inbox.clone());
    let slept = start(worker.concurrency(1).handler(handler).build().unwrap());
    slept
        .until("one runs and one waits", |status| {
            (status.running, status.waiting) == (1, 1)
        })
        .await;
    let first = rig.log.runs()[0].body.clone();
    assert_eq!(first, "1", "the order of the queue");
    host.suspend(300_000);
    for id in &ids {
        rig.queue.duplicate(id).unwrap();
    }
    let other = rig.bare().clock(host.service.clone()).random(Random::seeded(2));
    let other = start(
        other
            .inbox(host.inbox.inner.clone())
            .handler(rig.succeeds())
            .build()
            .unwrap(),
    );
    other
        .until("it has taken both over", |_| {
            let records = host.inbox.inner.records();
            records
                .iter()
                .filter(|record| record.status == Status::Completed)
                .count()
                == 2
        })
        .await;
    assert_eq!(slept.status().totals.lost, 0, "it slept");
    host.resume(300_000);
    let resumed = now();
    slept.until("both are lost", |status| status.totals.lost == 2).await;
    let took = now() - resumed;
    assert!(took <= secs(6), "it was noticed after {took:?}");
    free.store(true, Ordering::SeqCst);
    rig.emptied(&slept).await;
    rig.emptied(&other).await;
    assert_eq!(
        (rig.log.count("long"), rig.log.count("short")),
        (2, 1),
        "{:?}",
        rig.log.runs()
    );
    assert_eq!(rig.log.of("long")[0].end, RunEnd::Dropped);
    slept.drain().await;
    other.drain().await;
}

#[tokio::test(start_paused = true)]
async fn inv02_a_freed_slot_is_given_to_nothing_in_doubt() {
    // The slot is free in the very moment of the resumption.
    let rig = Rig::new();
    let host = Host::of(&rig);
    rig.send("long", "1").await;
    let short = rig.send("short", "2").await;
    let free = Arc::new(AtomicBool::new(false));
    let is_free = free.clone();
    let handler = rig.runs(move |context: Context| {
        let free = is_free.clone();
        async move {
            while context.message().body == "1" && !free.load(Ordering::SeqCst) {
                sleep(ms(1)).await;
            }
            Ok(())
        }
    });
    let worker = rig.bare().clock(host.clock.clone()).inbox(host.inbox.clone());
    let slept = start(worker.concurrency(1).handler(handler).build().unwrap());
    slept
        .until("one runs and one waits", |status| {
            (status.running, status.waiting) == (1, 1)
        })
        .await;
    host.suspend(300_000);
    rig.queue.duplicate(&short).unwrap();
    let other = rig.bare().clock(host.service.clone()).random(Random::seeded(2));
    let other = start(
        other
            .inbox(host.inbox.inner.clone())
            .handler(rig.succeeds())
            .build()
            .unwrap(),
    );
    other
        .until("it has taken it over", |status| status.totals.completed == 1)
        .await;
    host.resume(300_000);
    free.store(true, Ordering::SeqCst);
    rig.emptied(&slept).await;
    rig.emptied(&other).await;
    assert_eq!(rig.log.count("short"), 1, "{:?}", rig.log.runs());
    slept.drain().await;
    other.drain().await;
}

#[tokio::test(start_paused = true)]
async fn inv02_a_wall_clock_that_is_set_costs_a_renewal_and_no_lease() {
    let rig = Rig::new();
    let host = rig.clock.skewed_by(0);
    rig.send_many(6).await;
    let worker = rig.worker().clock(host.clone()).concurrency(2);
    let running = start(worker.handler(rig.takes(secs(20))).build().unwrap());
    running.until("two run", |status| status.running == 2).await;
    let renewals = || rig.inbox.calls().writes.entries;
    let before = renewals();
    host.step_by(-3_600_000);
    sleep(secs(2)).await;
    assert_eq!(renewals(), before, "a clock set back says nothing");
    host.step_by(7_200_000);
    sleep(secs(6)).await;
    let held = usize::try_from(renewals() - before).unwrap();
    assert_eq!(
        held,
        running.status().running + running.status().waiting,
        "each is renewed once"
    );
    for step in [60_000, -60_000, 3_000, 1_000_000, -5_000] {
        host.step_by(step);
        sleep(secs(7)).await;
    }
    rig.emptied(&running).await;
    assert_eq!((rig.log.len(), rig.log.done()), (6, 6));
    assert_eq!(running.drain().await.totals.lost, 0);
}

#[tokio::test(start_paused = true)]
async fn inv02_without_heartbeats_what_is_in_doubt_is_asked_for_all_the_same() {
    let rig = Rig::new();
    let host = rig.clock.skewed_by(0);
    rig.send_many(3).await;
    let worker = rig.worker().clock(host.clone()).concurrency(1).without_heartbeat();
    let running = start(worker.handler(rig.takes(secs(5))).build().unwrap());
    running.until("one runs", |status| status.running == 1).await;
    host.step_by(60_000);
    rig.emptied(&running).await;
    assert_eq!((rig.log.len(), rig.log.done()), (3, 3));
    assert_eq!(running.drain().await.totals.lost, 0);
}
