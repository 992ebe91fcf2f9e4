//! `redrive dlq`: dead letters.

mod drop;
mod export;
mod file;
pub(crate) mod filter;
mod import;
pub(crate) mod look;
mod ls;
pub(crate) mod summary;

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
            Self::Export(command) => command.run(aws, ui).await,
            Self::Import(command) => command.run(aws, ui).await,
            Self::Drop(command) => command.run(aws, ui).await,
        }
    }
}
