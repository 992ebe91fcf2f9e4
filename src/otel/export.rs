//! What stands around the exporter: a bound for what waits for it, and words for when it fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use opentelemetry::Context;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Span, SpanData, SpanExporter, SpanProcessor};

use crate::telemetry::said;

/// What became of spans.
#[derive(Debug)]
pub(super) struct Tally {
    /// The most that may wait.
    most: usize,
    /// Not yet taken by the exporter.
    waiting: AtomicUsize,
    /// Taken, and not answered yet.
    under_way: AtomicUsize,
    /// There was no room for them, or the exporter failed.
    lost: AtomicU64,
    overflowed: AtomicBool,
    is_down: AtomicBool,
    said: AtomicU64,
}

impl Tally {
    pub(super) fn new(most: usize) -> Self {
        Self {
            most,
            waiting: AtomicUsize::new(0),
            under_way: AtomicUsize::new(0),
            lost: AtomicU64::new(0),
            overflowed: AtomicBool::new(false),
            is_down: AtomicBool::new(false),
            said: AtomicU64::new(0),
        }
    }

    /// Whether there is room for one more to wait.
    fn admit(&self) -> bool {
        if self.waiting.fetch_add(1, Ordering::AcqRel) < self.most {
            return true;
        }
        self.waiting.fetch_sub(1, Ordering::AcqRel);
        self.lost.fetch_add(1, Ordering::AcqRel);
        if !self.overflowed.swap(true, Ordering::AcqRel) {
            tracing::warn!(
                waiting = self.most,
                "more spans are made than can be exported: those that find no room are dropped; raise OTEL_BSP_MAX_QUEUE_SIZE, or \
                 sample fewer by OTEL_TRACES_SAMPLER"
            );
        }
        false
    }

    fn taken(&self, spans: usize) {
        self.waiting.fetch_sub(spans, Ordering::AcqRel);
        self.under_way.fetch_add(spans, Ordering::AcqRel);
    }

    fn exported(&self, spans: usize, place: &str) {
        self.under_way.fetch_sub(spans, Ordering::AcqRel);
        if self.is_down.swap(false, Ordering::AcqRel) {
            let lost = self.lost.load(Ordering::Acquire);
            tracing::info!(endpoint = place, lost, "traces are exported again");
        }
    }

    fn failed(&self, spans: usize, place: &str, error: impl std::fmt::Display) {
        self.under_way.fetch_sub(spans, Ordering::AcqRel);
        self.lost.fetch_add(spans as u64, Ordering::AcqRel);
        if !self.is_down.swap(true, Ordering::AcqRel) {
            tracing::warn!(
                endpoint = place,
                error = %said(error),
                "traces cannot be exported: the work goes on, and spans are lost until they can be; this is said once"
            );
        }
    }

    /// Says how many spans were lost, if that was not said of as many before.
    pub(super) fn say_lost(&self) {
        let left = self.waiting.load(Ordering::Acquire) + self.under_way.load(Ordering::Acquire);
        let lost = self.lost.load(Ordering::Acquire) + left as u64;
        if lost > self.said.swap(lost, Ordering::AcqRel) {
            tracing::warn!(spans = lost, left, "these were not exported");
        }
    }
}

/// An exporter that is watched.
#[derive(Debug)]
pub(super) struct Watched<E> {
    exporter: E,
    /// Where it exports to, without secrets.
    place: String,
    tally: Arc<Tally>,
}

impl<E> Watched<E> {
    pub(super) fn new(exporter: E, place: String, tally: Arc<Tally>) -> Self {
        Self { exporter, place, tally }
    }
}

impl<E: SpanExporter> SpanExporter for Watched<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        self.tally.taken(spans);
        let exported = self.exporter.export(batch).await;
        match &exported {
            Ok(()) => self.tally.exported(spans, &self.place),
            Err(error) => self.tally.failed(spans, &self.place, error),
        }
        exported
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

/// Takes spans for as long as there is room for them.
#[derive(Debug)]
pub(super) struct Bounded<P> {
    inner: P,
    tally: Arc<Tally>,
}

impl<P> Bounded<P> {
    pub(super) fn new(inner: P, tally: Arc<Tally>) -> Self {
        Self { inner, tally }
    }
}

impl<P: SpanProcessor> SpanProcessor for Bounded<P> {
    fn on_start(&self, span: &mut Span, context: &Context) {
        self.inner.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        if self.tally.admit() {
            self.inner.on_end(span);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_finds_no_room_is_counted_and_what_was_taken_makes_room() {
        let tally = Tally::new(3);
        let admitted = |n: usize| (0..n).filter(|_| tally.admit()).count();
        assert_eq!(admitted(5), 3);
        assert_eq!(tally.lost.load(Ordering::Acquire), 2);
        tally.taken(2);
        assert_eq!(admitted(5), 2, "those under way wait no more");
        tally.failed(2, "http://localhost:4318", "refused");
        assert_eq!(tally.lost.load(Ordering::Acquire), 2 + 3 + 2);
        assert!(tally.is_down.load(Ordering::Acquire));
        tally.taken(3);
        tally.exported(3, "http://localhost:4318");
        assert!(!tally.is_down.load(Ordering::Acquire));
        assert_eq!(tally.under_way.load(Ordering::Acquire), 0);
    }
}
