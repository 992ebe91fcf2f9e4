//! The operator's tool, run as a person would, on the local servers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "support/localstack.rs"]
mod localstack;
#[path = "support/stub.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod stub;

#[path = "cli/dlq_ls.rs"]
mod dlq_ls;
#[path = "cli/dlq_show.rs"]
mod dlq_show;
#[path = "cli/dlq_watch.rs"]
mod dlq_watch;
#[path = "cli/doctor.rs"]
mod doctor;
#[path = "cli/pages.rs"]
mod pages;
#[path = "cli/shell.rs"]
mod shell;
#[path = "cli/tool.rs"]
mod tool;
#[path = "cli/world.rs"]
mod world;
