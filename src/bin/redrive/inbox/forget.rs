//! `redrive inbox forget`.

use clap::Args;
use redrive::inbox::{Inbox as _, InboxError, Intervention, Leases};
use serde::Serialize;

use super::get::show;
use super::release::{changed, held};
use super::shown::{RecordJson, status};
use super::{KeyFlags, TableFlags};
use crate::connection::Aws;
use crate::failure::{Code, Failure, Outcome};
use crate::ui::{Ui, safe};

pub(crate) const EXAMPLES: &str = "Examples:
  redrive inbox forget orders#order-1001
  redrive inbox forget order-1001 --consumer orders --yes

No message is sent or touched: the key's next delivery, duplicate or replay runs as if the key had never been seen. What it
did before is done again, unless what it calls knows the key.";

/// What `redrive inbox forget` is asked.
#[derive(Args, Debug)]
pub(crate) struct Forget {
    #[command(flatten)]
    key: KeyFlags,

    #[command(flatten)]
    table: TableFlags,

    /// Forget it also while a worker may be running it.
    #[arg(long)]
    force: bool,

    /// Do not ask.
    #[arg(long, short)]
    yes: bool,
}

#[derive(Debug, Serialize)]
struct ForgottenJson<'a> {
    key: &'a str,
    forgotten: bool,
    was: RecordJson<'a>,
}

impl Forget {
    pub(crate) async fn run(&self, aws: &Aws, ui: &Ui) -> Outcome {
        self.key.record_key()?;
        let inbox = self.table.open(aws).await?;
        let entry = self.key.look(&inbox).await?;
        let key = safe(entry.key.as_str());
        let time = inbox.time();
        let leases = if self.force { Leases::Override } else { Leases::Respect };
        if leases == Leases::Respect
            && let Some(left) = entry.held_for(time)
        {
            return Err(held(&key, Some(left)));
        }
        let was = status(&entry, time);
        if !self.yes && !ui.is_json() {
            show(&entry, time, ui);
        }
        ui.confirm(
            format_args!("forget `{key}` ({was}), so that it can run again?"),
            self.yes,
            format_args!("look with: redrive inbox get '{key}'; then give --yes"),
        )?;
        let forgotten = inbox.forget(&entry, leases).await.map_err(|error| {
            let damaged = matches!(error, InboxError::Corrupt { .. });
            let failure = Failure::from(error);
            if damaged {
                failure.remedy("--force forgets it as it is")
            } else {
                failure
            }
        });
        match forgotten? {
            Intervention::Done => {}
            Intervention::Held { lease_left } => return Err(held(&key, lease_left)),
            _ => return Err(changed(&key)),
        }
        if ui.is_json() {
            ui.json(&ForgottenJson {
                key: entry.key.as_str(),
                forgotten: true,
                was: RecordJson::new(&entry, time),
            });
        } else {
            ui.line(format_args!("forgot {key} ({was}): its next delivery or replay runs"));
        }
        Ok(Code::Done)
    }
}
