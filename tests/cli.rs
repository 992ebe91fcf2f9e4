//! The operator's tool, run as a person would, on the local servers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "support/localstack.rs"]
mod localstack;

#[path = "cli/doctor.rs"]
mod doctor;
#[path = "cli/endpoint.rs"]
mod endpoint;
#[path = "cli/exec.rs"]
mod exec;
#[path = "cli/forward.rs"]
mod forward;
#[path = "cli/pages.rs"]
mod pages;
#[path = "cli/running.rs"]
mod running;
#[path = "cli/shell.rs"]
mod shell;
#[path = "cli/tool.rs"]
mod tool;
#[path = "cli/world.rs"]
mod world;
