//! `redrive completions` and `redrive man`: made from the command line's own description.

use std::path::PathBuf;

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use crate::Arguments;
use crate::failure::{Code, Failure, Outcome};
use crate::ui::Ui;

pub(crate) const COMPLETIONS_EXAMPLES: &str = "Examples:
  redrive completions bash > ~/.local/share/bash-completion/completions/redrive
  redrive completions zsh > ~/.zfunc/_redrive
  redrive completions fish > ~/.config/fish/completions/redrive.fish";

pub(crate) const MAN_EXAMPLES: &str = "Examples:
  redrive man ~/.local/share/man/man1
  man redrive-dlq-replay";

/// What `redrive completions` is asked.
#[derive(Args, Debug)]
pub(crate) struct Completions {
    /// The shell.
    shell: Shell,
}

/// What `redrive man` is asked.
#[derive(Args, Debug)]
pub(crate) struct Man {
    /// Where the pages go, one for each command; made if it is not there.
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
}

impl Completions {
    pub(crate) fn run(&self, ui: &Ui) -> Code {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Arguments::command(), "redrive", &mut script);
        ui.raw(&script);
        Code::Done
    }
}

impl Man {
    pub(crate) fn run(&self, ui: &Ui) -> Outcome {
        let failed = |error| {
            Failure::new(format_args!(
                "the manual cannot be written to {}: {error}",
                self.folder.display()
            ))
        };
        std::fs::create_dir_all(&self.folder).map_err(failed)?;
        clap_mangen::generate_to(Arguments::command(), &self.folder).map_err(failed)?;
        ui.note(format_args!("the manual is in {}", self.folder.display()));
        Ok(Code::Done)
    }
}
