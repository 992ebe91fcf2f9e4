//! `redrive dlq show`: one dead letter's whole story.

use clap::Args;
use redrive::clock::Clock;
use redrive::dlq::{ScanEnd, ScanReport};
use redrive::queue::Queue as _;

use super::find::{Candidate, Finder, Found};
use super::inbox::InboxFlags;
use super::look::{self, COST, Target};
use super::story::Story;
use super::summary::{TEXT_WIDTH, ago, brief};
use crate::connection::{Aws, DeadLetters};
use crate::failure::{Code, Failure, Outcome};
use crate::keys::KeyFlags;
use crate::ui::{Ui, count, safe};

pub(crate) const EXAMPLES: &str = "Examples:
  redrive dlq show orders 3f2504e0
  redrive dlq show orders order-1001 --table redrive-inbox
  redrive dlq show orders 3f2504e0 --raw > body.json
  redrive dlq show orders 3f2504e0 --json | jq .attributes";

pub(crate) fn long_help() -> String {
    format!("{EXAMPLES}\n\n{COST}\nA look for a full id ends as soon as it is found.")
}

/// What `redrive dlq show` is asked.
#[derive(Args, Debug)]
pub(crate) struct Show {
    #[command(flatten)]
    target: Target,

    /// The letter's id, or the first four characters or more of it; its key; or the MessageId it had before it died.
    #[arg(value_name = "ID")]
    id: String,

    #[command(flatten)]
    inbox: InboxFlags,

    #[command(flatten)]
    keys: KeyFlags,

    /// Print the body's bytes and nothing else, control characters too.
    #[arg(long, conflicts_with = "json")]
    raw: bool,
}

impl Show {
    pub(crate) async fn run(&self, aws: &Aws, ui: &Ui) -> Outcome {
        let dead = self.target.open(aws, ui).await?;
        // Opened first: a table that is not there is better known before the look, which costs something.
        let inbox = self.inbox.open(aws, &dead).await?;
        let keys = self.keys.source(aws, &dead).await?;
        let mut finder = Finder::new(&self.id);
        let report = look::look(&dead, keys, ui, |letter| finder.offer(letter)).await?;
        if report.end == ScanEnd::Cancelled {
            look::account(&dead, ui, &report);
            return Ok(Code::Interrupted);
        }
        let letter = match finder.into_found() {
            Found::One(letter) => letter,
            Found::Nothing => {
                look::account(&dead, ui, &report);
                return Err(self.not_found(&dead, &report));
            }
            Found::Several { candidates, all } => {
                look::account(&dead, ui, &report);
                return Err(self.ambiguous(&candidates, all));
            }
        };
        if self.raw {
            ui.raw(letter.body().as_bytes());
            look::account(&dead, ui, &report);
            return Ok(Code::Done);
        }
        let mut story = Story::of(&letter, &dead.queue.attributes().name, Clock::system().epoch_ms());
        if let Some(inbox) = &inbox {
            story = story.with_inbox(inbox.table(), inbox.record(&letter).await?);
        }
        if ui.is_json() {
            ui.json(&story);
        } else {
            story.tell(ui);
        }
        look::account(&dead, ui, &report);
        Ok(Code::Done)
    }

    fn not_found(&self, dead: &DeadLetters, report: &ScanReport) -> Failure {
        let wanted = safe(&self.id);
        if report.seen == 0 {
            return Failure::new(format_args!("`{wanted}` is not found: {}", look::nothing_in(dead)));
        }
        let name = &dead.queue.attributes().name;
        let failure = Failure::new(format_args!(
            "none of the {} seen in `{name}` has the id or key `{wanted}`, or an id that begins so",
            count(report.seen, "message"),
        ));
        let queue = safe(&self.target.queue);
        failure.remedy(format_args!(
            "list what is there: redrive dlq ls {queue}; of an id at least four characters are needed, of a key all of it"
        ))
    }

    fn ambiguous(&self, candidates: &[Candidate], all: u64) -> Failure {
        let now_ms = Clock::system().epoch_ms();
        let mut lines = format!("`{}` fits {all} dead letters:", safe(&self.id));
        for Candidate { id, reason, died_at_ms } in candidates {
            let died = ago(*died_at_ms, now_ms);
            lines.push_str(&format!("\n    {}  {died}  {}", safe(id), brief(reason, TEXT_WIDTH)));
        }
        let more = all.saturating_sub(candidates.len() as u64);
        if more > 0 {
            lines.push_str(&format!("\n    and {more} more"));
        }
        Failure::new(lines).remedy("give one of these ids, or as much of it as makes it the only one")
    }
}
