//! `redrive queue send`.

mod message;

use std::io::{IsTerminal as _, Read as _};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use redrive::message::{Attribute, Attributes, KEY_ATTRIBUTE, Outgoing, TYPE_ATTRIBUTE};
use redrive::queue::{MAX_BYTES, Queue as _};
use redrive::{Producer, SqsQueue};

use crate::connection::Aws;
use crate::failure::{Code, Failure, Outcome};
use crate::lines::Source;
use crate::lines::send::{FileFlags, Sending, misfit};
use crate::ui::Ui;
use crate::values;
use message::{Given, named_attribute, of_line};

pub(crate) const EXAMPLES: &str = r#"Examples:
  redrive queue send orders '{"order":7}' --key order-7 --type order.created
  redrive queue send orders --file order.json --attr tenant=acme --attr amount:Number=12 --attr photo:Binary=@cat.png
  redrive queue send orders.fifo 'hello' --group customer-3
  redrive queue send orders --jsonl --file orders.jsonl --dry-run
  redrive queue send orders --jsonl --file orders.jsonl --lines 17,40-
  generate | redrive queue send orders --jsonl --rate 50

With --jsonl each line is a JSON object with a `body` (a text, or JSON that is sent as it stands), and any of `attributes`, `key`,
`type`, `group`, `deduplication_id`, `delay_s`. All lines are checked before the first is sent. What --attr, --type, --group and
--delay say holds for lines that do not say it themselves.

A message without a key gets one of its own, so that consumers recognise the copy that a lost answer makes this command send."#;

/// The longest that SQS hides a new message.
const LONGEST_DELAY: Duration = Duration::from_secs(15 * 60);

/// What `redrive queue send` is asked.
#[derive(Args, Debug)]
pub(crate) struct Send {
    /// The queue.
    queue: String,

    /// The body. Without it the body is read from --file or standard input, as it is.
    #[arg(conflicts_with_all = ["file", "jsonl"])]
    body: Option<String>,

    /// Read the body from this file, or with --jsonl the messages; `-` is standard input.
    #[arg(long, short, value_name = "FILE")]
    file: Option<PathBuf>,

    /// A message on every line.
    #[arg(long)]
    jsonl: bool,

    /// An attribute: a text, or with a type `name:Number=5`, `name:Binary=@FILE` or `name:Binary=BASE64`. May be repeated.
    #[arg(long, value_name = "NAME[:TYPE]=VALUE", value_parser = named_attribute)]
    attr: Vec<(String, Given)>,

    /// What deduplication is by: the same for every message that asks for the same piece of work.
    #[arg(long, conflicts_with = "jsonl")]
    key: Option<String>,

    /// The message's type, by which a router chooses the handler.
    #[arg(long = "type", value_name = "NAME")]
    message_type: Option<String>,

    /// The message group: the order of a FIFO queue, the tenant of a standard one.
    #[arg(long)]
    group: Option<String>,

    /// The FIFO deduplication id; made of the key unless given.
    #[arg(long, value_name = "ID", conflicts_with = "jsonl")]
    dedup_id: Option<String>,

    /// Hide it for so long first, such as 30s or 5m; at most 15 minutes, and not on a FIFO queue.
    #[arg(long, value_name = "TIME", value_parser = values::duration_within(Duration::ZERO, LONGEST_DELAY))]
    delay: Option<Duration>,

    #[command(flatten)]
    lines: FileFlags,
}

impl Send {
    pub(crate) async fn run(&self, aws: &Aws, ui: &Ui) -> Outcome {
        if self.body.is_none() && self.file.is_none() && std::io::stdin().is_terminal() {
            return Err(Failure::usage("there is nothing to send")
                .remedy("give the body after the queue's name, or --file, or pipe something in"));
        }
        if !self.jsonl && self.lines.any() {
            return Err(Failure::usage("--skip-bad, --from-line and --lines are for --jsonl"));
        }
        let attributes = self.attributes()?;
        let queue = aws.queue(&self.queue).await?;
        let producer = Producer::new(queue.clone());
        if !self.jsonl {
            return self.one(&queue, &producer, &attributes, ui).await;
        }
        let sending = Sending {
            queue: &queue,
            producer,
            source: self.source(),
            flags: &self.lines,
            read: Box::new(|_, line| of_line(line).map(|outgoing| self.with_flags(outgoing, &attributes))),
            verbatim: false,
        };
        sending.run(ui).await
    }

    fn source(&self) -> Source {
        self.file.as_deref().map_or(Source::Stdin, Source::named)
    }

    async fn one(&self, queue: &SqsQueue, producer: &Producer, attributes: &Attributes, ui: &Ui) -> Outcome {
        let body = match &self.body {
            Some(body) => body.clone(),
            None => self.read_body(ui).await?,
        };
        let mut outgoing = self.with_flags(Outgoing::new(body), attributes);
        outgoing.deduplication_id.clone_from(&self.dedup_id);
        let name = &queue.attributes().name;
        if let Some(why) = misfit(&outgoing, queue.attributes()) {
            let failure = Failure::new(format_args!("the message cannot be sent: {why}"));
            return Err(if queue.attributes().fifo && outgoing.group_id.is_none() {
                failure.remedy("say with --group which messages must stay in order")
            } else {
                failure
            });
        }
        let message = outgoing.into();
        producer.check(&message)?;
        if self.lines.dry_run {
            ui.note(format_args!("the message would be sent to `{name}`"));
            return Ok(Code::Done);
        }
        let id = producer.send(message).await?;
        if ui.is_json() {
            ui.json(&serde_json::json!({ "queue": name, "message_id": id }));
        } else {
            ui.line(format_args!("sent to `{name}`: {id}"));
        }
        Ok(Code::Done)
    }

    /// The attributes that the flags give.
    fn attributes(&self) -> Result<Attributes, Failure> {
        let mut attributes = Attributes::new();
        for (name, given) in &self.attr {
            if attributes.insert(name.clone(), given.attribute()?).is_some() {
                return Err(Failure::usage(format_args!("--attr {name} is given twice")));
            }
        }
        for (flag, name, value) in [
            ("--key", KEY_ATTRIBUTE, &self.key),
            ("--type", TYPE_ATTRIBUTE, &self.message_type),
        ] {
            if let Some(value) = value
                && attributes.insert(name.to_owned(), Attribute::string(value)).is_some()
            {
                return Err(Failure::usage(format_args!(
                    "{flag} and --attr {name} are the same attribute"
                )));
            }
        }
        Ok(attributes)
    }

    /// What the flags say of a message that does not say it itself.
    fn with_flags(&self, mut outgoing: Outgoing, attributes: &Attributes) -> Outgoing {
        for (name, attribute) in attributes {
            outgoing
                .attributes
                .entry(name.clone())
                .or_insert_with(|| attribute.clone());
        }
        outgoing.group_id = outgoing.group_id.or_else(|| self.group.clone());
        outgoing.delay = outgoing.delay.or(self.delay);
        outgoing
    }

    async fn read_body(&self, ui: &Ui) -> Result<String, Failure> {
        let source = self.source();
        let opened = source.open()?;
        let (answer, answered) = tokio::sync::oneshot::channel();
        // A thread of its own, because a read of a pipe cannot be called off: it ends with the process.
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            // One byte too many is enough to see that it is too long.
            let read = opened.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes);
            let _ = answer.send(read.map(|_| bytes));
        });
        let read = tokio::select! {
            biased;
            () = ui.interrupt().cancelled() => return Err(Failure::interrupted()),
            read = answered => read,
        };
        let bytes = read
            .unwrap_or_else(|_| Err(std::io::ErrorKind::UnexpectedEof.into()))
            .map_err(|error| source.unreadable(&error))?;
        if bytes.len() > MAX_BYTES {
            return Err(
                Failure::new(format_args!("{source} is over 1 MiB, the most that SQS takes"))
                    .remedy("put the payload elsewhere and send where it is; or send a file of messages with --jsonl"),
            );
        }
        String::from_utf8(bytes).map_err(|error| {
            Failure::new(format_args!(
                "{source} is not text: it is no UTF-8 at byte {}",
                error.utf8_error().valid_up_to() + 1
            ))
            .remedy("encode it, in base64 say, or send it as an attribute: --attr name:Binary=@FILE")
        })
    }
}
