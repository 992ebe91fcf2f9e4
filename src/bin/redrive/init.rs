//! `redrive init`: all that a worker needs, made once.

use std::time::Duration;

use clap::Args;
use redrive::inbox::InboxError;
use redrive::queue::{Changes, QueuePlan, SetUpState};
use redrive::{DynamoInbox, SqsQueue};
use serde::Serialize;

use crate::connection::Aws;
use crate::failure::{Code, Failure, Outcome};
use crate::ui::{Column, Table, Ui, safe};
use crate::values;

pub(crate) const EXAMPLES: &str = "Examples:
  redrive init orders --dry-run
  redrive init orders
  redrive init orders --fifo --visibility 2m --dlq orders-dead
  redrive init orders --retention 7d --update

It makes the queue, its dead-letter queue, the policies that join them, and the inbox table. What is there already is left as
it is: a second run changes nothing, and says so. Where a setting differs from what you ask for, both are shown (exit code 3);
--update changes it.";

/// What `redrive init` is asked.
#[derive(Args, Debug)]
pub(crate) struct Init {
    /// The queue's name.
    queue: String,

    /// The inbox table. One table serves any number of queues.
    #[arg(
        long,
        value_name = "TABLE",
        env = "REDRIVE_INBOX_TABLE",
        default_value = "redrive-inbox"
    )]
    table: String,

    /// Make no table: for workers without an inbox.
    #[arg(long)]
    no_table: bool,

    /// A FIFO queue. Its name ends in .fifo, and that of its dead-letter queue too; both are added where they are missing.
    #[arg(long)]
    fifo: bool,

    /// How long a received message stays invisible, and how long a claim holds without a heartbeat. 30s unless given.
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    visibility: Option<Duration>,

    /// How long the queue keeps messages, to 14d. 4d unless given; the dead-letter queue keeps them for 14d.
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    retention: Option<Duration>,

    /// The dead-letter queue's name: the queue's own with -dlq unless given.
    #[arg(long, value_name = "NAME")]
    dlq: Option<String>,

    /// After how many receives SQS itself moves a message to the dead-letter queue. It is the backstop behind the worker's own
    /// count, so make it three times the worker's attempts or more (FIFO: ten times). 15 unless given (FIFO: 50).
    #[arg(long, value_name = "N")]
    max_receive_count: Option<u32>,

    /// Look, and say what would be done.
    #[arg(long)]
    dry_run: bool,

    /// Change settings of what is there already.
    #[arg(long, conflicts_with = "dry_run")]
    update: bool,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Item {
    /// `queue` or `table`.
    kind: &'static str,
    name: String,
    setting: &'static str,
    wanted: String,
    state: &'static str,
    /// What it is, or was before it was changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    is: Option<String>,
}

#[derive(Debug, Serialize)]
struct InitJson<'a> {
    dry_run: bool,
    queue: &'a str,
    table: Option<&'a str>,
    /// Whether something differs from what was asked for, and was left so.
    differs: bool,
    items: &'a [Item],
}

impl Init {
    pub(crate) async fn run(&self, aws: &Aws, ui: &Ui) -> Outcome {
        let name = self.with_suffix(&self.queue);
        let changes = match (self.dry_run, self.update) {
            (true, _) => Changes::None,
            (_, true) => Changes::All,
            _ => Changes::Missing,
        };
        // Looked at before anything is made: a name that no table can have, or a role that may not look, is found first.
        let found = if self.no_table {
            None
        } else {
            Some(self.look_at_table(aws).await?)
        };
        let steps = SqsQueue::set_up(aws.config(), &self.plan(&name), changes).await?;
        let mut items: Vec<Item> = steps
            .into_iter()
            .map(|step| {
                let (state, is) = said(step.state);
                Item {
                    kind: "queue",
                    name: step.queue,
                    setting: step.setting,
                    wanted: step.wanted,
                    state,
                    is,
                }
            })
            .collect();
        if let Some(found) = found {
            let made = self.table(aws, found, changes).await.inspect_err(|_| {
                // What was made of the queues stands, and is to be known.
                if !ui.is_json() {
                    show(&items, ui);
                }
            })?;
            items.push(made);
        }
        let differs = items.iter().any(|item| item.state == "differs");
        if ui.is_json() {
            ui.json(&InitJson {
                dry_run: self.dry_run,
                queue: &name,
                table: (!self.no_table).then_some(&self.table),
                differs,
                items: &items,
            });
        } else {
            show(&items, ui);
            self.next(&name, differs, &items, ui);
        }
        Ok(if differs { Code::Found } else { Code::Done })
    }

    fn plan(&self, name: &str) -> QueuePlan {
        let mut plan = QueuePlan::new(name);
        if let Some(dead) = &self.dlq {
            plan = plan.dead_letter(if name.ends_with(".fifo") {
                self.with_suffix(dead)
            } else {
                dead.clone()
            });
        }
        if let Some(time) = self.visibility {
            plan = plan.visibility(time);
        }
        if let Some(time) = self.retention {
            plan = plan.retention(time);
        }
        if let Some(count) = self.max_receive_count {
            plan = plan.max_receive_count(count);
        }
        plan
    }

    fn with_suffix(&self, name: &str) -> String {
        let is_fifo = self.fifo || self.queue.ends_with(".fifo");
        if is_fifo && !name.ends_with(".fifo") {
            format!("{name}.fifo")
        } else {
            name.to_owned()
        }
    }

    /// What keeps the table from being an inbox; `None` where it is not there.
    async fn look_at_table(&self, aws: &Aws) -> Result<Option<Vec<String>>, Failure> {
        match DynamoInbox::check_table(aws.config(), &self.table).await {
            Ok(wrong) => Ok(Some(wrong)),
            Err(InboxError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn table(&self, aws: &Aws, found: Option<Vec<String>>, changes: Changes) -> Result<Item, Failure> {
        let table = &self.table;
        let item = |state, is| Item {
            kind: "table",
            name: table.clone(),
            setting: "table",
            wanted: "key pk, time to live on expires_at".to_owned(),
            state,
            is,
        };
        match found {
            Some(wrong) if wrong.is_empty() => Ok(item("already so", None)),
            Some(wrong) if changes < Changes::All => Ok(item("differs", Some(wrong.join("; ")))),
            Some(wrong) => {
                DynamoInbox::create_table(aws.config(), table).await?;
                let left = DynamoInbox::check_table(aws.config(), table).await?;
                let state = if left.is_empty() { "changed" } else { "differs" };
                Ok(item(state, Some(if left.is_empty() { wrong } else { left }.join("; "))))
            }
            None if changes == Changes::None => Ok(item("missing", None)),
            None => {
                DynamoInbox::create_table(aws.config(), table).await?;
                Ok(item("created", None))
            }
        }
    }

    fn next(&self, name: &str, differs: bool, items: &[Item], ui: &Ui) {
        if differs {
            ui.note("what differs was left as it is: --update changes it");
        }
        if self.dry_run {
            if items.iter().any(|item| item.state == "missing") {
                ui.note("nothing was made: run it without --dry-run");
            }
            return;
        }
        let table = if self.no_table {
            String::new()
        } else {
            format!(" {}", self.table)
        };
        ui.note(format_args!("next: redrive doctor {name}{table}"));
    }
}

fn said(state: SetUpState) -> (&'static str, Option<String>) {
    match state {
        SetUpState::AlreadySo => ("already so", None),
        SetUpState::Missing => ("missing", None),
        SetUpState::Created => ("created", None),
        SetUpState::Differs { is } => ("differs", Some(is)),
        SetUpState::Changed { was } => ("changed", Some(was)),
        _ => ("unknown", None),
    }
}

fn show(items: &[Item], ui: &Ui) {
    let mut table = Table::new([
        Column::new("WHAT"),
        Column::new("NAME"),
        Column::new("SETTING"),
        Column::new("STATE"),
        Column::elastic("VALUE"),
    ]);
    for item in items {
        let whole = item.setting == item.kind;
        let wanted = if whole && item.kind == "queue" {
            ""
        } else {
            &item.wanted
        };
        let detail = match (item.state, &item.is) {
            ("differs", Some(is)) if item.kind == "table" => safe(is).into_owned(),
            ("differs", Some(is)) => format!("is {}, would be {wanted}", safe(is)),
            ("changed", Some(was)) if item.kind == "table" => format!("{wanted} (was: {})", safe(was)),
            ("changed", Some(was)) => format!("{wanted} (was {})", safe(was)),
            _ => wanted.to_owned(),
        };
        let setting = if whole { "" } else { item.setting };
        table.row([
            item.kind.to_owned(),
            item.name.clone(),
            setting.to_owned(),
            item.state.to_owned(),
            detail,
        ]);
    }
    ui.table(table);
}
