//! `redrive queue peek`.

use clap::Args;
use redrive::clock::Clock;
use redrive::dlq::{Browser, DeadLetter, ScanEnd, Visit};
use redrive::message::AttributeValue;
use redrive::queue::{Queue as _, QueueAttributes};

use crate::connection::Aws;
use crate::failure::{Code, Outcome};
use crate::record::Written;
use crate::ui::{self, Column, Table, Ui};
use crate::values;

pub(crate) const EXAMPLES: &str = "Examples:
  redrive queue peek orders
  redrive queue peek orders --limit 1 --full
  redrive queue peek orders --json | jq -r .body

SQS has no browsing: a look receives the messages, holds them for a moment and gives them back. It counts as a receive of
each, and meanwhile no worker gets them. Dead letters are looked at with `redrive dlq ls` and `redrive dlq show`.";

/// How much of a body a row shows.
const BRIEF: usize = 80;

/// What `redrive queue peek` is asked.
#[derive(Args, Debug)]
pub(crate) struct Peek {
    /// The queue.
    queue: String,

    /// At most this many messages; no more than these are received.
    #[arg(
        long,
        short = 'n',
        alias = "count",
        short_alias = 'c',
        value_name = "N",
        default_value_t = 10,
        value_parser = at_most
    )]
    limit: u64,

    /// Show whole messages: every attribute, and the body.
    #[arg(long)]
    full: bool,
}

/// More would be held than a look at a working queue should.
fn at_most(text: &str) -> Result<u64, String> {
    match values::limit(text)? {
        number @ ..=1_000 => Ok(number),
        _ => Err("it must be from 1 to 1000".to_owned()),
    }
}

impl Peek {
    pub(crate) async fn run(&self, aws: &Aws, ui: &Ui) -> Outcome {
        let queue = aws.queue(&self.queue).await?;
        let attributes = queue.attributes().clone();
        cost(&attributes, ui);
        let bar = ui.progress(None, "receiving");
        let now = Clock::system().epoch_ms();
        let mut table = table();
        let browser = Browser::new(queue)
            .limit(usize::try_from(self.limit).unwrap_or(usize::MAX))
            .cancel(ui.interrupt().clone());
        let report = browser
            .scan(|letter| {
                bar.inc(1);
                if ui.is_json() {
                    ui.json(&Written::of(letter, &attributes.name));
                } else if self.full {
                    bar.suspend(|| whole(letter, now, ui));
                } else {
                    table.row(row(letter, now));
                }
                Visit::Keep
            })
            .await;
        bar.finish_and_clear();
        let report = report?;
        if !table.is_empty() {
            ui.table(table);
        }
        if report.end == ScanEnd::Cancelled {
            return Ok(Code::Interrupted);
        }
        let name = &attributes.name;
        if report.seen == 0 {
            let elsewhere = if attributes.in_flight + attributes.delayed > 0 {
                format!(" ({} in flight, {} delayed)", attributes.in_flight, attributes.delayed)
            } else {
                String::new()
            };
            ui.note(format_args!("`{name}` has no message to be received{elsewhere}"));
        }
        if report.lost_hold > 0 {
            ui.warn(format_args!(
                "{} could not be given back at once; SQS does within two minutes",
                ui::count(report.lost_hold, "message")
            ));
        }
        Ok(Code::Done)
    }
}

/// Says what a look costs.
fn cost(queue: &QueueAttributes, ui: &Ui) {
    let name = &queue.name;
    match &queue.redrive {
        Some(policy) => ui.warn(format_args!(
            "a look is a receive, and after {} `{name}` gives a message up to its dead-letter queue; workers do not get \
             these messages meanwhile",
            ui::count(u64::from(policy.max_receive_count), "receive"),
        )),
        None => ui.note(format_args!(
            "a look counts as a receive of each message; nobody else gets them meanwhile"
        )),
    }
    if queue.fifo {
        ui.note("of a FIFO queue it sees the first few messages of each group (at most ten)");
    }
}

fn table() -> Table {
    Table::new([
        Column::new("ID"),
        Column::number("AGE"),
        Column::number("RECEIVES"),
        Column::new("KEY"),
        Column::new("TYPE"),
        Column::number("SIZE"),
        Column::elastic("BODY"),
    ])
}

fn row(letter: &DeadLetter, now: u64) -> [String; 7] {
    let message = letter.message();
    let brief: String = message.body.chars().take(BRIEF).collect();
    let more = if brief.len() < message.body.len() { "…" } else { "" };
    [
        ui::safe(&message.id).into_owned(),
        age(message.sent_at_ms, now),
        letter.delivery.receive_count.to_string(),
        // Without one of its own its id is its key.
        match letter.key().as_str() {
            key if key == message.id => "-".to_owned(),
            key => ui::safe(key).into_owned(),
        },
        letter
            .message_type()
            .map_or_else(|| "-".to_owned(), |name| ui::safe(name).into_owned()),
        ui::bytes(letter.size() as u64),
        format!("{}{more}", ui::safe(&brief)),
    ]
}

fn age(sent_at_ms: Option<u64>, now: u64) -> String {
    sent_at_ms.map_or_else(
        || "?".to_owned(),
        |at| ui::short_age(std::time::Duration::from_millis(now.saturating_sub(at))),
    )
}

/// A message with all that came with it.
fn whole(letter: &DeadLetter, now: u64, ui: &Ui) {
    let message = letter.message();
    ui.line(format_args!("{}", ui::safe(&message.id)));
    let field = |name: &str, value: &str| ui.line(format_args!("  {name}: {}", ui::safe(value)));
    if let Some(at) = message.sent_at_ms {
        field("sent", &format!("{} ({} ago)", ui::timestamp(at), age(Some(at), now)));
    }
    field("receives", &letter.delivery.receive_count.to_string());
    for (name, value) in [
        ("group", &message.group_id),
        ("deduplication id", &message.deduplication_id),
        ("trace header", &message.trace_header),
    ] {
        if let Some(value) = value {
            field(name, value);
        }
    }
    for (name, attribute) in &message.attributes {
        let value = match &attribute.value {
            AttributeValue::Text(text) => text.clone(),
            AttributeValue::Binary(bytes) => format!("({})", ui::bytes(bytes.len() as u64)),
        };
        field(&format!("{name} ({})", attribute.data_type), &value);
    }
    let body = ui::safe_lines(&message.body);
    ui.line("  body:");
    for line in body.lines() {
        ui.line(format_args!("    {line}"));
    }
}
