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
mod pretty;
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
    /// Write dead letters to a file, with nothing left out.
    #[command(after_help = export::EXAMPLES, after_long_help = export::long_help())]
    Export(export::Export),
    /// Send what was exported, or dropped, into the dead-letter queue again.
    #[command(after_help = import::EXAMPLES)]
    Import(import::Import),
    /// Delete dead letters, each written to a file before.
    #[command(after_help = drop::EXAMPLES, after_long_help = drop::long_help())]
    Drop(drop::Drop),
    /// Show all that is known of one dead letter: why it died, where it came from, what it says.
    #[command(after_help = show::EXAMPLES, after_long_help = show::long_help())]
    Show(show::Show),
    /// Count dead letters by reason, again and again.
    #[command(after_help = watch::EXAMPLES, after_long_help = watch::long_help())]
    Watch(watch::Watch),
}

impl Dlq {
    pub(crate) async fn run(&self, aws: &Aws, ui: &Ui) -> Outcome {
        match self {
            Self::Ls(command) => command.run(aws, ui).await,
            Self::Export(command) => command.run(aws, ui).await,
            Self::Import(command) => command.run(aws, ui).await,
            Self::Drop(command) => command.run(aws, ui).await,
            Self::Show(command) => command.run(aws, ui).await,
            Self::Watch(command) => command.run(aws, ui).await,
        }
    }
}
