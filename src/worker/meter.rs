//! The worker's metrics, with handles kept so that counting is cheap.

use std::time::Duration;

use metrics::{Counter, Gauge, Histogram};

use super::status::Fate;
use crate::message::Delivery;
use crate::outcome::{Cause, Outcome, StoredResult};
use crate::telemetry::{self as t, counter, gauge, histogram};

/// Calls of one operation: how many, and how full.
struct Calls {
    made: Counter,
    fill: Histogram,
}

pub(super) struct Meter {
    queue: String,
    consumed: Counter,
    age: Histogram,
    receive: Calls,
    delete: Calls,
    change_visibility: Calls,
    claim: Counter,
    write: Counter,
    start_delay: Histogram,
    silence: Gauge,
    running: Gauge,
    waiting: Gauge,
    ending: Gauge,
    concurrency: Gauge,
    completed: Counter,
    done: Histogram,
    failed: Histogram,
    heartbeats: Counter,
}

impl Meter {
    pub(super) fn new(queue: &str) -> Self {
        let calls = |operation| Calls {
            made: counter(&t::API_CALLS, &[(t::QUEUE, queue), (t::OPERATION, operation)]),
            fill: histogram(&t::BATCH_FILL, &[(t::QUEUE, queue), (t::OPERATION, operation)]),
        };
        let inbox = |operation| counter(&t::INBOX_CALLS, &[(t::NAME, queue), (t::OPERATION, operation)]);
        let held = |kind| gauge(&t::IN_FLIGHT, &[(t::QUEUE, queue), (t::KIND, kind)]);
        let ran = |outcome| {
            let labels = [(t::QUEUE, queue), (t::OPERATION, "process"), (t::OUTCOME, outcome)];
            histogram(&t::PROCESS_DURATION, &labels)
        };
        Self {
            consumed: counter(&t::CONSUMED, &[(t::QUEUE, queue), (t::OPERATION, "receive")]),
            age: histogram(&t::MESSAGE_AGE, &[(t::QUEUE, queue)]),
            receive: calls("receive"),
            delete: calls("delete"),
            change_visibility: calls("change_visibility"),
            claim: inbox("claim"),
            write: inbox("write"),
            start_delay: histogram(&t::START_DELAY, &[(t::QUEUE, queue)]),
            silence: gauge(&t::LAST_RECEIVE, &[(t::QUEUE, queue)]),
            running: held("running"),
            waiting: held("waiting"),
            ending: held("settling"),
            concurrency: gauge(&t::CONCURRENCY, &[(t::QUEUE, queue)]),
            completed: counter(&t::SETTLED, &[(t::QUEUE, queue), (t::OUTCOME, "completed")]),
            done: ran("completed"),
            failed: ran("failed"),
            heartbeats: counter(&t::HEARTBEATS, &[(t::QUEUE, queue), (t::OUTCOME, "sent")]),
            queue: queue.to_owned(),
        }
    }

    pub(super) fn receive_call(&self) {
        self.receive.made.increment(1);
    }

    #[allow(clippy::cast_precision_loss, reason = "ages and counts are far below 2^52")]
    pub(super) fn received(&self, deliveries: &[Delivery], now_ms: u64) {
        self.consumed.increment(deliveries.len() as u64);
        self.receive.fill.record(deliveries.len() as f64);
        for sent in deliveries.iter().filter_map(|delivery| delivery.message.sent_at_ms) {
            self.age.record(now_ms.saturating_sub(sent) as f64 / 1_000.0);
        }
    }

    pub(super) fn delete_call(&self, entries: usize) {
        Self::batch(&self.delete, entries);
    }

    pub(super) fn visibility_call(&self, entries: usize) {
        Self::batch(&self.change_visibility, entries);
    }

    #[allow(clippy::cast_precision_loss, reason = "a batch has at most ten entries")]
    fn batch(calls: &Calls, entries: usize) {
        calls.made.increment(1);
        calls.fill.record(entries as f64);
    }

    /// Dead letters are sent to another queue.
    #[allow(clippy::cast_precision_loss, reason = "a batch has at most ten entries")]
    pub(super) fn send_call(&self, queue: &str, entries: usize) {
        let labels = [(t::QUEUE, queue), (t::OPERATION, "send")];
        counter(&t::API_CALLS, &labels).increment(1);
        histogram(&t::BATCH_FILL, &labels).record(entries as f64);
    }

    pub(super) fn claim_call(&self) {
        self.claim.increment(1);
    }

    pub(super) fn write_call(&self) {
        self.write.increment(1);
    }

    /// A handler starts this long after its message was received.
    pub(super) fn starting(&self, delay: Duration) {
        self.start_delay.record(delay);
    }

    /// The last receive succeeded this long ago.
    pub(super) fn silent(&self, silence: Duration) {
        self.silence.set(silence);
    }

    #[allow(clippy::cast_precision_loss, reason = "counts of held messages are far below 2^52")]
    pub(super) fn held(&self, running: usize, waiting: usize, ending: usize) {
        self.running.set(running as f64);
        self.waiting.set(waiting as f64);
        self.ending.set(ending as f64);
    }

    #[allow(clippy::cast_precision_loss, reason = "a limit is far below 2^52")]
    pub(super) fn concurrency(&self, slots: usize) {
        self.concurrency.set(slots as f64);
    }

    pub(super) fn handled(&self, outcome: Option<&Outcome>, took: Duration) {
        match outcome {
            Some(Outcome::Done(result)) => {
                self.done.record(took);
                if *result == StoredResult::Omitted {
                    counter(&t::RESULTS_OMITTED, &[(t::QUEUE, &self.queue)]).increment(1);
                }
            }
            Some(Outcome::Failed(_)) => self.failed.record(took),
            None => {}
        }
    }

    pub(super) fn retried(&self, cause: Cause, counted: bool) {
        let kind = match (counted, cause) {
            (false, _) => "outage",
            (true, Cause::Timeout) => "timeout",
            (true, Cause::Panic) => "panic",
            (true, Cause::Error) => "error",
        };
        counter(&t::RETRIES, &[(t::QUEUE, &self.queue), (t::KIND, kind)]).increment(1);
    }

    /// `reason` is what the reason of a dead letter is counted as.
    pub(super) fn settled(&self, fate: &Fate, reason: Option<&str>) {
        if *fate == Fate::Completed {
            self.completed.increment(1);
            return;
        }
        counter(&t::SETTLED, &[(t::QUEUE, &self.queue), (t::OUTCOME, fate.as_str())]).increment(1);
        if let Some(reason) = reason {
            counter(&t::DEAD_LETTERS, &[(t::QUEUE, &self.queue), (t::REASON, reason)]).increment(1);
        }
    }

    pub(super) fn duplicate(&self, kind: &str) {
        counter(&t::DUPLICATES, &[(t::QUEUE, &self.queue), (t::KIND, kind)]).increment(1);
    }

    pub(super) fn lost_lease(&self) {
        counter(&t::LOST_LEASES, &[(t::QUEUE, &self.queue)]).increment(1);
    }

    pub(super) fn lost_visibility(&self) {
        counter(&t::LOST_VISIBILITY, &[(t::QUEUE, &self.queue)]).increment(1);
    }

    pub(super) fn late_delete(&self) {
        counter(&t::LATE_DELETES, &[(t::QUEUE, &self.queue)]).increment(1);
    }

    pub(super) fn death(&self) {
        counter(&t::DEATHS, &[(t::QUEUE, &self.queue)]).increment(1);
    }

    pub(super) fn heartbeats(&self, count: u64) {
        self.heartbeats.increment(count);
    }

    pub(super) fn limiter_wait(&self, which: &str, wait: Duration) {
        let name = format!("{}/{which}", self.queue);
        histogram(&t::LIMITER_WAIT, &[(t::NAME, &name)]).record(wait);
    }

    pub(super) fn bulkhead_full(&self, name: &str) {
        counter(&t::BULKHEAD_FULL, &[(t::NAME, name)]).increment(1);
    }

    pub(super) fn paused(&self, paused: bool) {
        gauge(&t::PAUSED, &[(t::QUEUE, &self.queue)]).set(if paused { 1.0 } else { 0.0 });
    }

    pub(super) fn drained(&self, how: &str, took: Duration) {
        counter(&t::DRAINS, &[(t::OUTCOME, how)]).increment(1);
        histogram(&t::DRAIN_DURATION, &[(t::OUTCOME, how)]).record(took);
    }
}
