//! `redrive inbox release`.

use std::time::Duration;

use clap::Args;
use redrive::clock::Random;
use redrive::inbox::{Inbox as _, Intervention, Leases, Status};
use serde::Serialize;

use super::{KeyFlags, TableFlags, operator_claim};
use crate::connection::Aws;
use crate::failure::{Code, Failure, Outcome};
use crate::ui::{Ui, count, safe, short_age};

pub(crate) const EXAMPLES: &str = "Examples:
  redrive inbox release orders#order-1001
  redrive inbox release orders#order-1001 --force
  redrive inbox release orders#order-1001 --force --yes

A claim whose lease has run out is taken over by the key's next delivery anyway; releasing it says that nobody has it. A live
one is refused: its worker may be running it. --force takes it away: whatever that worker writes from then on is refused, and
its handler is cancelled at its next heartbeat. Until then a new delivery can run beside it.";

/// What `redrive inbox release` is asked.
#[derive(Args, Debug)]
pub(crate) struct Release {
    #[command(flatten)]
    key: KeyFlags,

    #[command(flatten)]
    table: TableFlags,

    /// Take the claim away from a worker that may still run it.
    #[arg(long)]
    force: bool,

    /// Do not ask before a live claim is taken away.
    #[arg(long, short)]
    yes: bool,
}

#[derive(Debug, Serialize)]
struct ReleasedJson<'a> {
    key: &'a str,
    released: bool,
    forced: bool,
    attempts: u32,
}

impl Release {
    pub(crate) async fn run(&self, aws: &Aws, ui: &Ui) -> Outcome {
        self.key.record_key()?;
        let inbox = self.table.open(aws).await?;
        let entry = self.key.look(&inbox).await?;
        let key = safe(entry.key.as_str());
        let held_for = entry.held_for(inbox.time());
        let live = held_for.is_some();
        let leases = if self.force { Leases::Override } else { Leases::Respect };
        let attempts = entry.record.as_ref().map_or(0, |record| record.attempts);
        if let Err(why) = &entry.record {
            return Err(Failure::new(format_args!(
                "`{key}` was edited by hand and is no claim: {}",
                safe(why)
            ))
            .remedy(format_args!(
                "mend it in the table, or let the key run again: redrive inbox forget '{key}'"
            )));
        }
        if self.force && live {
            ui.confirm(
                format_args!("take `{key}` away from its worker? ({})", lease(held_for)),
                self.yes,
                format_args!("look with: redrive inbox get '{key}'; then give --yes"),
            )?;
        }
        let released = match inbox
            .free(&entry, &operator_claim(&Random::from_system()), leases)
            .await?
        {
            Intervention::Done => true,
            // It is as it is wanted: a second try is no error.
            Intervention::NotClaimed(Status::Released) => false,
            Intervention::NotClaimed(status) => {
                return Err(Failure::new(format_args!(
                    "`{key}` is {}: there is no claim to release",
                    status.as_str()
                ))
                .remedy(format_args!("redrive inbox forget '{key}' lets it run again")));
            }
            Intervention::Held { lease_left } => return Err(held(&key, lease_left)),
            _ => return Err(changed(&key)),
        };
        if ui.is_json() {
            ui.json(&ReleasedJson {
                key: entry.key.as_str(),
                released,
                forced: released && live,
                attempts,
            });
        } else if released {
            let fenced = if live {
                "; whatever its holder still writes is refused"
            } else {
                ""
            };
            ui.line(format_args!(
                "released {key}: its next delivery runs at once, with {} counted{fenced}",
                count(u64::from(attempts), "attempt")
            ));
        } else {
            ui.line(format_args!("{key} is released already"));
        }
        Ok(Code::Done)
    }
}

/// Somebody may hold the key.
pub(super) fn held(key: &str, lease_left: Option<Duration>) -> Failure {
    Failure::new(format_args!("a worker may be running `{key}`: {}", lease(lease_left))).remedy(
        "wait for the lease to run out, or stop the worker; --force takes the key away from it, and a new delivery can run \
         beside it until its next heartbeat",
    )
}

fn lease(left: Option<Duration>) -> String {
    match left {
        Some(left) => format!("its lease holds for up to {} more", short_age(left)),
        None => "until when its lease holds cannot be read".to_owned(),
    }
}

/// Somebody else wrote between the read and the write.
pub(super) fn changed(key: &str) -> Failure {
    Failure::new(format_args!(
        "`{key}` changed while this was done, and was left alone: a worker has it"
    ))
    .remedy(format_args!("look again: redrive inbox get '{key}'"))
}
