//! `redrive dlq`: dead letters.

mod drop;
mod export;
mod file;
pub(crate) mod filter;
mod find;
mod import;
mod inbox;
pub(crate) mod look;
mod ls;
mod moves;
mod pretty;
mod replay;
mod show;
mod story;
pub(crate) mod summary;
mod watch;

use clap::Subcommand;

use crate::connection::Aws;
use crate::failure::Outcome;
use crate::ui::Ui;

/// The commands on dead letters.
#[derive(Debug, Subcommand)]
pub(crate) enum Dlq {
    /// List dead letters, or count them by what they died of.
    #[command(after_help = ls::EXAMPLES, after_long_help = ls::long_help())]
    Ls(ls::Ls),
    /// Show all that is known of one dead letter: why it died, where it came from, what it says.
    #[command(after_help = show::EXAMPLES, after_long_help = show::long_help())]
    Show(show::Show),
    /// Count dead letters by reason, again and again.
    #[command(after_help = watch::EXAMPLES, after_long_help = watch::long_help())]
    Watch(watch::Watch),
    /// Send dead letters back to be handled again, without losing one and without running what is done.
    #[command(after_help = replay::EXAMPLES, after_long_help = replay::long_help())]
    Replay(Box<replay::Replay>),
    /// Show SQS's own moves of a dead-letter queue's messages: those of `dlq replay --native`, or of the AWS console.
    #[command(after_help = moves::EXAMPLES)]
    Moves(moves::Moves),
    /// Cancel SQS's own move of a dead-letter queue's messages.
    #[command(after_help = moves::CANCEL_EXAMPLES)]
    CancelMove(moves::CancelMove),
    /// Write dead letters to a file, with nothing left out.
    #[command(after_help = export::EXAMPLES, after_long_help = export::long_help())]
    Export(export::Export),
    /// Send what was exported, or dropped, into the dead-letter queue again.
    #[command(after_help = import::EXAMPLES)]
    Import(import::Import),
    /// Delete dead letters, each written to a file before.
    #[command(after_help = drop::EXAMPLES, after_long_help = drop::long_help())]
    Drop(drop::Drop),
}

impl Dlq {
    pub(crate) async fn run(&self, aws: &Aws, ui: &Ui) -> Outcome {
        match self {
            Self::Ls(command) => command.run(aws, ui).await,
            Self::Show(command) => command.run(aws, ui).await,
            Self::Watch(command) => command.run(aws, ui).await,
            Self::Replay(command) => command.run(aws, ui).await,
            Self::Moves(command) => command.run(aws, ui).await,
            Self::CancelMove(command) => command.run(aws, ui).await,
            Self::Export(command) => command.run(aws, ui).await,
            Self::Import(command) => command.run(aws, ui).await,
            Self::Drop(command) => command.run(aws, ui).await,
        }
    }
}
