//! `redrive`: the operator's tool.

mod child;
mod connection;
mod dlq;
mod doctor;
#[cfg(test)]
mod examples;
mod exec;
mod failure;
mod forward;
mod health;
mod inbox;
mod init;
mod interrupt;
mod keys;
mod lines;
mod queue;
mod record;
mod run;
mod shell;
mod ui;
mod values;

use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use connection::ConnectionFlags;
use failure::{Failure, Outcome};
use ui::{Ui, UiFlags};

/// Look after SQS workers: why messages died, how to mend and replay them, and whether all is set up as it must be.
///
/// Queues are given by name, URL or ARN. Credentials, region and endpoints come from the usual AWS variables and files.
#[derive(Debug, Parser)]
#[command(name = "redrive", version, after_help = EXIT_CODES, disable_help_subcommand = true)]
struct Arguments {
    #[command(flatten)]
    connection: ConnectionFlags,

    #[command(flatten)]
    ui: UiFlags,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// See why messages died, mend and replay them, export or drop them.
    #[command(subcommand)]
    Dlq(dlq::Dlq),
    /// Look at, fill and empty whole queues.
    #[command(subcommand)]
    Queue(queue::Queue),
    /// Look at the records of keys, and mend them: stuck claims, keys that shall run again.
    #[command(subcommand)]
    Inbox(inbox::Inbox),
    /// Make a queue, its dead-letter queue and the inbox table, or say what is already so.
    #[command(after_help = init::EXAMPLES)]
    Init(init::Init),
    /// Find out what is wrong with a queue and its inbox table before a worker does: one line per finding, with the fix.
    #[command(after_help = doctor::EXAMPLES)]
    Doctor(doctor::Doctor),
    /// Post each message of a queue to an HTTP endpoint: the answer decides.
    #[command(after_help = forward::EXAMPLES)]
    Forward(forward::Forward),
    /// Run a command for each message of a queue: body on standard input, the exit code decides.
    #[command(after_help = exec::EXAMPLES)]
    Exec(exec::Exec),
    /// Ask a worker's health endpoint: exit code 0 if it is healthy.
    #[command(after_help = health::EXAMPLES)]
    Health(health::Health),
    /// Print a shell's completions.
    #[command(after_help = shell::COMPLETIONS_EXAMPLES)]
    Completions(shell::Completions),
    /// Write the manual's pages into a folder.
    #[command(after_help = shell::MAN_EXAMPLES)]
    Man(shell::Man),
}

const EXIT_CODES: &str = "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 found something (a finding, a dead letter), \
                          130 interrupted.";

fn main() -> ExitCode {
    let matches = values::without_empty_variables(Arguments::command()).get_matches();
    let arguments = Arguments::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let done = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(run(arguments)),
        Err(error) => Err(Failure::new(format_args!("the runtime cannot start: {error}"))),
    };
    match done {
        Ok(code) => code.into(),
        Err(failure) => {
            Ui::failure(&failure);
            failure.exit_code()
        }
    }
}

async fn run(arguments: Arguments) -> Outcome {
    let interrupt =
        interrupt::listen().map_err(|error| Failure::new(format_args!("signals cannot be listened for: {error}")))?;
    let ui = Ui::new(&arguments.ui, interrupt);
    if !matches!(arguments.command, Command::Exec(_) | Command::Forward(_)) {
        log();
    }
    let outcome = command(&arguments, &ui).await;
    match (outcome, ui.unwritten()) {
        (outcome, None) => outcome,
        (Err(failure), Some(unwritten)) if !failure.is_interruption() => {
            Ui::failure(&unwritten);
            Err(failure)
        }
        (_, Some(unwritten)) => Err(unwritten),
    }
}

async fn command(arguments: &Arguments, ui: &Ui) -> Outcome {
    let aws = || arguments.connection.connect();
    match &arguments.command {
        Command::Dlq(command) => command.run(&aws().await, ui).await,
        Command::Queue(command) => command.run(&aws().await, ui).await,
        Command::Inbox(command) => command.run(&aws().await, ui).await,
        Command::Init(command) => command.run(&aws().await, ui).await,
        Command::Doctor(command) => command.run(&aws().await, ui).await,
        Command::Forward(command) => command.run(&aws().await, ui).await,
        Command::Exec(command) => command.run(&aws().await, ui).await,
        Command::Health(command) => command.run(ui).await,
        Command::Completions(command) => Ok(command.run(ui)),
        Command::Man(command) => command.run(ui),
    }
}

/// What the library says on its way goes to standard error: warnings, unless RUST_LOG asks for more.
fn log() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("redrive=warn"));
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // What it would do about a terminal that is gone is to panic.
        .log_internal_errors(false)
        .with_ansi(console::colors_enabled_stderr())
        .without_time()
        .with_target(false)
        .try_init();
}
