//! The operator's tool, run as a person would, on the local servers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "support/localstack.rs"]
mod localstack;

#[path = "cli/doctor.rs"]
mod doctor;
#[path = "cli/pages.rs"]
mod pages;
#[path = "cli/replay.rs"]
mod replay;
#[path = "cli/replay_killed.rs"]
mod replay_killed;
#[path = "cli/send_failures.rs"]
mod send_failures;
#[path = "cli/shell.rs"]
mod shell;
#[path = "cli/tool.rs"]
mod tool;
#[path = "cli/world.rs"]
mod world;
