//! SQS's own moves of a dead-letter queue's messages: `dlq replay --native`, `dlq moves`, `dlq cancel-move`.

use clap::Args;
use console::Style;
use redrive::queue::{MAX_MOVE_RATE, MoveStatus, MoveTask, Queue as _};
use serde::Serialize;

use super::look::Target;
use crate::connection::{Aws, DeadLetters, name_in};
use crate::failure::{Code, Failure, Outcome};
use crate::ui::{Column, Table, Ui, count, safe, timestamp};

pub(crate) const EXAMPLES: &str = "Examples:
  redrive dlq moves orders
  redrive dlq moves orders --json";

pub(crate) const CANCEL_EXAMPLES: &str = "Examples:
  redrive dlq cancel-move orders";

/// What SQS's own moving cannot do, for the help of `dlq replay`.
pub(super) const LIMITS: &str = "With --native SQS moves the messages itself: faster for a very large queue, and it goes on \
                                 without this tool. But it moves the whole queue: no filter, edit, limit, dry run or job, \
                                 no look into the inbox, at most 500 messages/s, one move per queue, and only of the \
                                 dead-letter queues of SQS queues. Letters that a worker sent carry no source that SQS knows, \
                                 so where there are several sources it needs --to for them. A letter without an \
                                 envelope (SQS's redrive policy brought it, or it had no room for one) gets none: it keeps \
                                 its key only where that is in the message itself, and workers with an inbox that rejected \
                                 it take it for a duplicate and delete it. Follow it with `dlq moves`, end it with \
                                 `dlq cancel-move`.";

/// What `redrive dlq moves` is asked.
#[derive(Args, Debug)]
pub(crate) struct Moves {
    #[command(flatten)]
    target: Target,
}

/// What `redrive dlq cancel-move` is asked.
#[derive(Args, Debug)]
pub(crate) struct CancelMove {
    #[command(flatten)]
    target: Target,

    /// The task's handle, as it was printed when it was started; the one that runs unless given.
    #[arg(long, value_name = "HANDLE")]
    task: Option<String>,
}

impl Moves {
    pub(crate) async fn run(&self, aws: &Aws, ui: &Ui) -> Outcome {
        let dead = self.target.open(aws, ui).await?;
        let tasks = dead.queue.moves().await?;
        if ui.is_json() {
            ui.json(&tasks.iter().map(TaskJson::of).collect::<Vec<_>>());
            return Ok(Code::Done);
        }
        if tasks.is_empty() {
            ui.line(format_args!("SQS knows no move of `{}`", dead.queue.attributes().name));
            return Ok(Code::Done);
        }
        let mut table = Table::new([
            Column::new("STARTED"),
            Column::new("STATUS"),
            Column::number("MOVED"),
            Column::number("OF"),
            Column::number("RATE"),
            Column::elastic("TO"),
            Column::elastic("FAILURE"),
        ]);
        for task in &tasks {
            table.row([
                timestamp(task.started_at_ms),
                status(&task.status),
                indicatif::HumanCount(task.moved).to_string(),
                task.to_move
                    .map_or("-".to_owned(), |all| indicatif::HumanCount(all).to_string()),
                task.per_second.map_or("-".to_owned(), |rate| format!("{rate}/s")),
                task.to
                    .as_deref()
                    .map_or("(each its source)".into(), |arn| safe(name_in(arn)))
                    .into_owned(),
                task.failure.as_deref().map_or("-".into(), safe).into_owned(),
            ]);
        }
        ui.table(table);
        let unknown = |task: &MoveTask| task.failure.as_deref() == Some("CouldNotDetermineMessageSource");
        if tasks.first().is_some_and(unknown) {
            ui.note("SQS does not know where letters came from that a worker sent: start again with --to, or replay without --native");
        }
        Ok(Code::Done)
    }
}

impl CancelMove {
    pub(crate) async fn run(&self, aws: &Aws, ui: &Ui) -> Outcome {
        let dead = self.target.open(aws, ui).await?;
        let name = &dead.queue.attributes().name;
        let handle = match &self.task {
            Some(handle) => handle.clone(),
            None => {
                let tasks = dead.queue.moves().await?;
                let running = tasks.into_iter().find(|task| task.status == MoveStatus::Running);
                running.and_then(|task| task.handle).ok_or_else(|| {
                    Failure::new(format_args!("SQS moves nothing out of `{name}` now"))
                        .remedy(format_args!("redrive dlq moves {name}"))
                })?
            }
        };
        let moved = dead.queue.cancel_move(&handle).await?;
        if ui.is_json() {
            ui.json(&serde_json::json!({ "queue": name, "moved": moved }));
        } else {
            ui.line(format_args!(
                "cancelled: SQS had moved about {} out of `{name}`, which stay moved",
                count(moved, "message")
            ));
        }
        Ok(Code::Done)
    }
}

/// Starts a move of the whole queue.
pub(super) async fn start(dead: &DeadLetters, to: Option<&str>, rate: Option<f64>, yes: bool, ui: &Ui) -> Outcome {
    let attributes = dead.queue.attributes();
    let per_second = rate.map(whole_rate).transpose()?;
    let shown = to.map_or("the queues they came from".to_owned(), |arn| {
        format!("`{}`", safe(name_in(arn)))
    });
    let messages = count(attributes.visible, "message");
    ui.confirm(
        format_args!(
            "have SQS move all messages of `{}` (about {messages}) to {shown}, where workers with an inbox may delete \
             those without an envelope as duplicates?",
            attributes.name
        ),
        yes,
        format_args!("look with: redrive dlq ls {}; then give --yes", attributes.name),
    )?;
    let handle = dead.queue.start_move(to, per_second).await.map_err(|error| {
        let running = error.to_string().contains("already a task running");
        let failure = Failure::from(error);
        if running {
            failure.remedy("wait for the move that runs (`redrive dlq moves`), or end it (`redrive dlq cancel-move`)")
        } else {
            failure
        }
    })?;
    if ui.is_json() {
        ui.json(&serde_json::json!({
            "from": attributes.name, "to": to, "rate": per_second, "task": handle, "messages": attributes.visible,
        }));
    } else {
        ui.line(format_args!(
            "SQS moves about {messages} from `{}` to {shown}, also when this ends",
            attributes.name
        ));
        ui.line(format_args!("task {}", safe(&handle)));
        ui.note(format_args!("follow it with: redrive dlq moves {}", attributes.name));
    }
    Ok(Code::Done)
}

fn whole_rate(rate: f64) -> Result<u32, Failure> {
    (1..=MAX_MOVE_RATE)
        .find(|&whole| f64::from(whole) == rate)
        .ok_or_else(|| {
            Failure::usage(format_args!(
                "--rate {rate}: with --native it is a whole number from 1 to {MAX_MOVE_RATE}"
            ))
        })
}

fn status(status: &MoveStatus) -> String {
    let style = match status {
        MoveStatus::Completed => Style::new().green(),
        MoveStatus::Failed => Style::new().red(),
        _ => Style::new().yellow(),
    };
    style.apply_to(safe(status.as_str())).to_string()
}

#[derive(Serialize)]
struct TaskJson<'a> {
    task: Option<&'a str>,
    status: &'a str,
    to: Option<&'a str>,
    rate: Option<u32>,
    moved: u64,
    to_move: Option<u64>,
    failure: Option<&'a str>,
    started_at_ms: u64,
}

impl<'a> TaskJson<'a> {
    fn of(task: &'a MoveTask) -> Self {
        Self {
            task: task.handle.as_deref(),
            status: task.status.as_str(),
            to: task.to.as_deref(),
            rate: task.per_second,
            moved: task.moved,
            to_move: task.to_move,
            failure: task.failure.as_deref(),
            started_at_ms: task.started_at_ms,
        }
    }
}
