//! `redrive dlq`: dead letters.

pub(crate) mod filter;
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
}

impl Dlq {
    pub(crate) async fn run(&self, aws: &Aws, ui: &Ui) -> Outcome {
        match self {
            Self::Ls(command) => command.run(aws, ui).await,
        }
    }
}
