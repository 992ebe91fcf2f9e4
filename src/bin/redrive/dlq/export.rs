//! `redrive dlq export`: dead letters into a file, with nothing left out.

use std::io;
use std::path::{Path, PathBuf};

use clap::Args;
use redrive::clock::Clock;
use redrive::dlq::{DeadLetter, ScanEnd, Visit};
use redrive::queue::Queue as _;
use serde::Serialize;

use super::file::{Whole, unwritable};
use super::filter::{LANGUAGE, Where};
use super::look::{self, COST, Target};
use crate::connection::Aws;
use crate::failure::{Code, Failure, Outcome};
use crate::keys::KeyFlags;
use crate::record::Written;
use crate::ui::{self, Ui};

pub(crate) const EXAMPLES: &str = "Examples:
  redrive dlq export orders --out dead.jsonl
  redrive dlq export orders --where 'reason = malformed' --out - | jq -r .body
  redrive dlq import orders dead.jsonl";

/// What `redrive dlq export` is asked.
#[derive(Args, Debug)]
pub(crate) struct Export {
    #[command(flatten)]
    target: Target,

    #[command(flatten)]
    filter: Where,

    /// The file; it gets its name when it is whole. `-` is standard output.
    #[arg(long, short, value_name = "FILE", default_value = "-")]
    out: PathBuf,

    /// Let it take the place of a file that is there.
    #[arg(long)]
    overwrite: bool,

    #[command(flatten)]
    keys: KeyFlags,
}

pub(crate) fn long_help() -> String {
    format!("{EXAMPLES}\n\n{LANGUAGE}\n\n{COST}")
}

/// The JSON result, where the messages go to a file.
#[derive(Serialize)]
struct Exported<'a> {
    queue: &'a str,
    file: &'a Path,
    messages: u64,
    seen: u64,
}

impl Export {
    pub(crate) async fn run(&self, aws: &Aws, ui: &Ui) -> Outcome {
        let dead = self.target.open(aws, ui).await?;
        let keys = self.keys.source(aws, &dead).await?;
        let name = dead.queue.attributes().name.clone();
        let mut file = if self.out.as_os_str() == "-" {
            None
        } else {
            Some(Whole::create(&self.out, self.overwrite)?)
        };
        let now_ms = Clock::system().epoch_ms();
        let mut messages = 0;
        let mut failed = None;
        let report = look::look(&dead, keys, ui, |letter| {
            if !self.filter.matches(letter, now_ms) {
                return Visit::Keep;
            }
            match write(letter, &name, file.as_mut(), ui) {
                Ok(()) => {
                    messages += 1;
                    Visit::Keep
                }
                Err(error) => {
                    failed = Some(error);
                    Visit::Stop
                }
            }
        })
        .await?;
        look::account(&dead, ui, &report);
        if let Some(error) = failed {
            return Err(match error.kind() {
                io::ErrorKind::StorageFull => unwritable(&self.out, &error).remedy("make room, or give another place"),
                _ => unwritable(&self.out, &error),
            });
        }
        if report.end == ScanEnd::Cancelled {
            if file.is_some() {
                ui.note(format_args!("`{}` was not written", self.out.display()));
            }
            return Ok(Code::Interrupted);
        }
        let said = format!("{} of `{name}`", ui::count(messages, "message"));
        match file {
            None => ui.note(format_args!("exported {said}")),
            Some(file) => {
                file.finish()?;
                if ui.is_json() {
                    ui.json(&Exported {
                        queue: &name,
                        file: &self.out,
                        messages,
                        seen: report.seen,
                    });
                } else {
                    ui.line(format_args!("exported {said} to `{}`", self.out.display()));
                }
            }
        }
        // An export that is not whole must not pass for one.
        if matches!(report.end, ScanEnd::InFlightLimit | ScanEnd::Limit) {
            return Err(Failure::new(format_args!("`{name}` may hold more than was exported"))
                .remedy("drop or replay what was exported, then export the rest"));
        }
        Ok(Code::Done)
    }
}

fn write(letter: &DeadLetter, queue: &str, file: Option<&mut Whole>, ui: &Ui) -> io::Result<()> {
    let line = Written::of(letter, queue).line()?;
    match file {
        None => ui.raw_json(&line),
        Some(file) => file.write(&line)?,
    }
    Ok(())
}
