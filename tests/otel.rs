//! Traces: the spans of deliveries and sends as an exporter gets them, and exporters as they are in the field.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "tests"
)]

#[path = "support/child.rs"]
mod child;
#[path = "otel/collected.rs"]
mod collected;
#[path = "support/collector.rs"]
mod collector;
#[path = "otel/deliveries.rs"]
mod deliveries;
#[path = "otel/exporting.rs"]
mod exporting;
#[path = "otel/failures.rs"]
mod failures;
#[path = "otel/producing.rs"]
mod producing;
#[path = "otel/runs.rs"]
mod runs;
#[path = "worker/support.rs"]
#[allow(dead_code, reason = "the workers' tests use the rest")]
mod support;
