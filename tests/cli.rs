//! The operator's tool, run as a person would, on the local servers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "support/localstack.rs"]
mod localstack;

#[path = "cli/doctor.rs"]
mod doctor;
#[path = "cli/gate.rs"]
mod gate;
#[path = "cli/inbox.rs"]
mod inbox;
#[path = "cli/init.rs"]
mod init;
#[path = "cli/pages.rs"]
mod pages;
#[path = "cli/shell.rs"]
mod shell;
#[path = "cli/tool.rs"]
mod tool;
#[path = "cli/world.rs"]
mod world;
