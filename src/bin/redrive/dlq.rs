//! `redrive dlq`: dead letters.

pub(crate) mod filter;
pub(crate) mod look;
mod ls;
mod moves;
mod replay;
pub(crate) mod summary;

use clap::Subcommand;

use crate::connection::Aws;
use crate::failure::Outcome;
use crate::ui::Ui;

/// The commands on dead letters.
#[derive(Debug, Subcommand)]
pub(crate) enum Dlq {
    /// Cancel SQS's own move of a dead-letter queue's messages.
    #[command(after_help = moves::CANCEL_EXAMPLES)]
    CancelMove(moves::CancelMove),
    /// List dead letters, or count them by what they died of.
    #[command(after_help = ls::EXAMPLES, after_long_help = ls::long_help())]
    Ls(ls::Ls),
    /// Show SQS's own moves of a dead-letter queue's messages: those of `dlq replay --native`, or of the AWS console.
    #[command(after_help = moves::EXAMPLES)]
    Moves(moves::Moves),
    /// Send dead letters back to be handled again, without losing one and without running what is done.
    #[command(after_help = replay::EXAMPLES, after_long_help = replay::long_help())]
    Replay(Box<replay::Replay>),
}

impl Dlq {
    pub(crate) async fn run(&self, aws: &Aws, ui: &Ui) -> Outcome {
        match self {
            Self::CancelMove(command) => command.run(aws, ui).await,
            Self::Ls(command) => command.run(aws, ui).await,
            Self::Moves(command) => command.run(aws, ui).await,
            Self::Replay(command) => command.run(aws, ui).await,
        }
    }
}
