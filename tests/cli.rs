//! The operator's tool, run as a person would, on the local servers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[cfg(feature = "otel")]
#[path = "support/collector.rs"]
mod collector;
#[path = "support/localstack.rs"]
mod localstack;
#[path = "support/stub.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod stub;

#[path = "cli/dlq_drop.rs"]
mod dlq_drop;
#[path = "cli/dlq_export.rs"]
mod dlq_export;
#[path = "cli/dlq_import.rs"]
mod dlq_import;
#[path = "cli/dlq_ls.rs"]
mod dlq_ls;
#[path = "cli/dlq_replay.rs"]
mod dlq_replay;
#[path = "cli/dlq_replay_killed.rs"]
mod dlq_replay_killed;
#[path = "cli/dlq_show.rs"]
mod dlq_show;
#[path = "cli/dlq_watch.rs"]
mod dlq_watch;
#[path = "cli/doctor.rs"]
mod doctor;
#[path = "cli/endpoint.rs"]
mod endpoint;
#[path = "cli/exec.rs"]
mod exec;
#[path = "cli/forward.rs"]
mod forward;
#[path = "cli/gate.rs"]
mod gate;
#[path = "cli/health.rs"]
mod health;
#[path = "cli/inbox.rs"]
mod inbox;
#[path = "cli/init.rs"]
mod init;
#[path = "cli/pages.rs"]
mod pages;
#[path = "cli/queue_ls.rs"]
mod queue_ls;
#[path = "cli/queue_peek.rs"]
mod queue_peek;
#[path = "cli/queue_purge.rs"]
mod queue_purge;
#[path = "cli/queue_send.rs"]
mod queue_send;
#[path = "cli/queue_stats.rs"]
mod queue_stats;
#[path = "cli/running.rs"]
mod running;
#[path = "cli/scripted.rs"]
mod scripted;
#[path = "cli/secrets.rs"]
mod secrets;
#[path = "cli/send_failures.rs"]
mod send_failures;
#[path = "cli/shell.rs"]
mod shell;
#[path = "cli/tool.rs"]
mod tool;
#[cfg(feature = "otel")]
#[path = "cli/traces.rs"]
mod traces;
#[path = "cli/world.rs"]
mod world;
