//! `redrive queue`: whole queues.

mod ls;
mod peek;
mod purge;
mod send;
mod stats;

use clap::Subcommand;

use crate::connection::Aws;
use crate::failure::Outcome;
use crate::ui::Ui;

/// What is done with a queue.
#[derive(Debug, Subcommand)]
pub(crate) enum Queue {
    /// List queues: type, messages, dead-letter queue.
    #[command(after_help = ls::EXAMPLES)]
    Ls(ls::Ls),
    /// Show how a queue and its dead-letter queue are doing.
    #[command(after_help = stats::EXAMPLES)]
    Stats(stats::Stats),
    /// Look at some messages of a queue, and give them back.
    #[command(after_help = peek::EXAMPLES)]
    Peek(peek::Peek),
    /// Send a message, or a file of messages.
    #[command(after_help = send::EXAMPLES)]
    Send(Box<send::Send>),
    /// Delete every message of a queue.
    #[command(after_help = purge::EXAMPLES)]
    Purge(purge::Purge),
}

impl Queue {
    pub(crate) async fn run(&self, aws: &Aws, ui: &Ui) -> Outcome {
        match self {
            Self::Ls(command) => command.run(aws, ui).await,
            Self::Stats(command) => command.run(aws, ui).await,
            Self::Peek(command) => command.run(aws, ui).await,
            Self::Send(command) => command.run(aws, ui).await,
            Self::Purge(command) => command.run(aws, ui).await,
        }
    }
}
