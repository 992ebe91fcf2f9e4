//! The worker on its embedded backends under virtual time: DESIGN's invariants, the field's complaints, every setting.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "tests"
)]

#[path = "worker/support.rs"]
mod support;

#[path = "worker/checkpoints.rs"]
mod checkpoints;
#[path = "worker/complaints.rs"]
mod complaints;
#[path = "worker/corrected_copies.rs"]
mod corrected_copies;
#[path = "worker/counts.rs"]
mod counts;
#[path = "worker/dead_letters.rs"]
mod dead_letters;
#[path = "worker/drain.rs"]
mod drain;
#[path = "worker/fifo.rs"]
mod fifo;
#[path = "worker/flow.rs"]
mod flow;
#[path = "worker/inv01_nothing_lost.rs"]
mod inv01_nothing_lost;
#[path = "worker/inv02_inv03_fenced.rs"]
mod inv02_inv03_fenced;
#[path = "worker/inv03_letters.rs"]
mod inv03_letters;
#[path = "worker/inv04_inbox_outages.rs"]
mod inv04_inbox_outages;
#[path = "worker/inv04_outages.rs"]
mod inv04_outages;
#[path = "worker/inv06_heartbeats.rs"]
mod inv06_heartbeats;
#[path = "worker/inv09_attempts.rs"]
mod inv09_attempts;
#[path = "worker/inv12_build_errors.rs"]
mod inv12_build_errors;
#[path = "worker/late_starts.rs"]
mod late_starts;
#[path = "worker/preflight.rs"]
mod preflight;
#[path = "worker/settings.rs"]
mod settings;
#[path = "worker/suspects.rs"]
mod suspects;
#[path = "worker/suspended.rs"]
mod suspended;
#[path = "worker/telemetry.rs"]
mod telemetry;
#[path = "worker/without_inbox.rs"]
mod without_inbox;
#[path = "worker/workers.rs"]
mod workers;
