//! Metrics and health.

use std::collections::BTreeMap;

use metrics_util::MetricKind;
use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use redrive::Failure;
use redrive::faults::{Operation, Rates};
use redrive::flow::{Advice, BreakerConfig, Downstream};

use crate::support::{Rig, secs, sleep, start};

/// Counters and gauges by name and labels, and how often each histogram was recorded.
struct Seen(BTreeMap<String, f64>);

impl Seen {
    fn of(snapshotter: &Snapshotter) -> Self {
        let mut seen = BTreeMap::new();
        for (key, _, _, value) in snapshotter.snapshot().into_vec() {
            let kind = key.kind();
            let (name, mut labels) = {
                let (name, labels) = key.key().clone().into_parts();
                let labels: Vec<_> = labels
                    .iter()
                    .map(|label| format!("{}={}", label.key(), label.value()))
                    .collect();
                (name.as_str().to_owned(), labels)
            };
            labels.sort();
            let value = match value {
                DebugValue::Counter(n) => n as f64,
                DebugValue::Gauge(n) => n.into_inner(),
                DebugValue::Histogram(all) => all.len() as f64,
            };
            assert!(kind == MetricKind::Counter || kind == MetricKind::Gauge || kind == MetricKind::Histogram);
            seen.insert(format!("{name}{{{}}}", labels.join(",")), value);
        }
        Self(seen)
    }

    /// The sum of all series of this name that have all these labels.
    fn sum(&self, name: &str, labels: &[&str]) -> f64 {
        let fits =
            |key: &&String| key.starts_with(&format!("{name}{{")) && labels.iter().all(|label| key.contains(label));
        self.0.iter().filter(|(key, _)| fits(key)).map(|(_, value)| value).sum()
    }
}

#[tokio::test(start_paused = true)]
async fn complaint_24_the_main_metrics_tell_what_happened() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let _local = metrics::set_default_local_recorder(&recorder);
    let rig = Rig::new();
    for (key, body) in [
        ("a", "ok"),
        ("b", "reject"),
        ("c", "retry"),
        ("d", "panic"),
        ("e", "slow"),
    ] {
        rig.send(key, body).await;
    }
    let handler = rig.runs(|context: redrive::Context| async move {
        let body = context.message().body.clone();
        if context.attempt() > 1 {
            return Ok(());
        }
        match body.as_str() {
            "reject" => Err(Failure::reject("no")),
            "retry" => Err(Failure::retry("once")),
            "panic" => panic!("a bug"),
            "slow" => {
                sleep(secs(60)).await;
                Ok(())
            }
            _ => Ok(()),
        }
    });
    let worker = rig
        .worker()
        .without_breaker()
        .handler_timeout(secs(40))
        .handler(handler);
    let running = start(worker.build().unwrap());
    rig.emptied(&running).await;
    rig.send("a", "ok").await;
    rig.emptied(&running).await;
    running.drain().await;
    let seen = Seen::of(&snapshotter);
    let sum = |name: &str, labels: &[&str]| seen.sum(name, labels);
    let queue = "messaging.destination.name=orders";
    assert_eq!(sum("messaging.client.consumed.messages", &[queue]), 9.0);
    assert_eq!(sum("redrive.settled.messages", &[queue, "outcome=completed"]), 4.0);
    assert_eq!(sum("redrive.settled.messages", &[queue, "outcome=duplicate"]), 1.0);
    assert_eq!(sum("redrive.settled.messages", &[queue, "outcome=retried"]), 3.0);
    assert_eq!(sum("redrive.dead_letters", &[queue, "reason=rejected"]), 1.0);
    assert_eq!(sum("redrive.duplicate.messages", &[queue, "kind=completed"]), 1.0);
    for kind in ["error", "panic", "timeout"] {
        assert_eq!(sum("redrive.retries", &[queue, &format!("kind={kind}")]), 1.0, "{kind}");
    }
    assert_eq!(sum("messaging.process.duration", &[queue]), 8.0, "runs");
    assert_eq!(sum("redrive.message.age", &[queue]), 9.0);
    assert_eq!(sum("redrive.drains", &["outcome=clean"]), 1.0);
    assert!(sum("redrive.heartbeats", &[queue]) >= 2.0);
    let calls = rig.queue.calls();
    let made = |operation: &str| {
        sum(
            "redrive.api.calls",
            &[queue, &format!("messaging.operation.name={operation}")],
        )
    };
    assert_eq!(made("receive"), calls.receive as f64);
    assert_eq!(made("delete"), calls.delete as f64);
    assert_eq!(made("change_visibility"), calls.change_visibility as f64);
    assert_eq!(
        sum("redrive.api.calls", &["orders-dlq", "messaging.operation.name=send"]),
        1.0
    );
    let inbox = rig.inbox.calls();
    assert_eq!(
        sum("redrive.inbox.calls", &["messaging.operation.name=claim"]),
        inbox.claims.calls as f64
    );
    assert_eq!(
        sum("redrive.inbox.calls", &["messaging.operation.name=write"]),
        inbox.writes.calls as f64
    );
    assert_eq!(sum("redrive.concurrency", &[queue]), 16.0);
    for kind in ["running", "waiting", "settling"] {
        assert_eq!(
            sum("redrive.in_flight.messages", &[queue, &format!("kind={kind}")]),
            0.0
        );
    }
}

#[tokio::test(start_paused = true)]
async fn complaint_24_outages_and_losses_show_in_metrics() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let _local = metrics::set_default_local_recorder(&recorder);
    let rig = Rig::new();
    rig.send_many(20).await;
    let running = start(rig.worker().handler(rig.fails()).build().unwrap());
    running.until("open", |status| status.totals.breaker_opened > 0).await;
    sleep(secs(1)).await;
    let seen = Seen::of(&snapshotter);
    assert_eq!(seen.sum("redrive.receive.paused", &[]), 1.0);
    assert_eq!(seen.sum("redrive.breaker.state", &["name=orders/worker"]), 2.0);
    assert!(seen.sum("redrive.retries", &["kind=outage"]) >= 1.0);
    running.crash().await;

    let rig = Rig::named("mails", |queue| queue);
    rig.send("k", "1").await;
    let running = start(rig.worker().handler(rig.takes(secs(600))).build().unwrap());
    running.until("it runs", |status| status.running == 1).await;
    rig.inbox.faults().set(Operation::Write, Rates::new().before(1.0));
    running.until("it is lost", |status| status.totals.lost == 1).await;
    let seen = Seen::of(&snapshotter);
    assert_eq!(
        seen.sum("redrive.lost.leases", &["messaging.destination.name=mails"]),
        1.0
    );
    running.crash().await;
}

#[tokio::test(start_paused = true)]
async fn every_metric_in_the_table_that_a_worker_could_emit_is_known_by_name() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let _local = metrics::set_default_local_recorder(&recorder);
    let rig = Rig::new();
    rig.send_many(30).await;
    let running = start(rig.worker().handler(rig.succeeds()).build().unwrap());
    rig.emptied(&running).await;
    running.drain().await;
    let known: Vec<_> = redrive::telemetry::METRICS.iter().map(|metric| metric.name).collect();
    for key in Seen::of(&snapshotter).0.keys() {
        let name = key.split('{').next().unwrap();
        assert!(known.contains(&name), "{name} is not in the table of metrics");
    }
}

#[tokio::test(start_paused = true)]
async fn breakers_show_their_state_before_the_first_outage() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let gateway = Downstream::builder("gateway").build().unwrap();
    // Installed after the downstream was made.
    let _local = metrics::set_default_local_recorder(&recorder);
    let rig = Rig::new();
    let worker = rig.worker().watch(&gateway).handler(rig.succeeds());
    let running = start(worker.build().unwrap());
    sleep(secs(1)).await;
    let seen = Seen::of(&snapshotter);
    for name in ["orders/worker", "orders/inbox", "gateway"] {
        let series = format!("redrive.breaker.state{{name={name}}}");
        assert_eq!(seen.0.get(&series), Some(&0.0), "{name}");
    }
    running.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_watched_breakers_outage_ends_in_the_gauge_by_time_with_an_empty_queue() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let _local = metrics::set_default_local_recorder(&recorder);
    let breaker = BreakerConfig::default().failures_in_a_row(3).unwrap();
    let gateway = Downstream::builder("gateway")
        .retries(0)
        .breaker(breaker)
        .build()
        .unwrap();
    let rig = Rig::new();
    let worker = rig.worker().watch(&gateway).handler(rig.succeeds());
    let running = start(worker.build().unwrap());
    let state = || Seen::of(&snapshotter).sum("redrive.breaker.state", &["name=gateway"]);
    for _ in 0..3 {
        let failed = gateway.call_with(|_: &&str| Advice::Retry, || async { Err::<(), _>("down") });
        assert!(failed.await.is_err());
    }
    assert_eq!(state(), 2.0);
    // Nothing calls it any more.
    sleep(secs(600)).await;
    assert_eq!(state(), 1.0);
    running.drain().await;
}
