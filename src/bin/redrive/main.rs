//! `redrive`: the operator's tool.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command-line tool speaks by printing"
)]

mod doctor;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Look after SQS workers: see whether a queue, its dead-letter queue and its inbox are set up as a worker needs them.
///
/// Credentials, region and endpoints come from the usual AWS variables and files.
#[derive(Debug, Parser)]
#[command(name = "redrive", version, after_help = EXIT_CODES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a worker's preflight on a queue and its inbox table: one line per finding, with the fix.
    #[command(after_help = doctor::EXAMPLES)]
    Doctor(doctor::Doctor),
}

const EXIT_CODES: &str = "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 found something.";

/// It could not be done.
const FAILED: u8 = 1;

/// It was done, and there is something to look at.
const FOUND: u8 = 3;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("redrive: the runtime cannot start: {error}");
            return ExitCode::from(FAILED);
        }
    };
    let done = runtime.block_on(async {
        match arguments.command {
            Command::Doctor(doctor) => doctor.run().await,
        }
    });
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("redrive: {error}");
            ExitCode::from(FAILED)
        }
    }
}
