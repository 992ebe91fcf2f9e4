//! `redrive dlq import`: what was exported, sent again.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use clap::Args;
use redrive::Producer;
use redrive::clock::Random;
use redrive::dlq::{ENVELOPE_ATTRIBUTE, Envelope};
use redrive::message::{Message, Outgoing};
use redrive::queue::Queue as _;

use super::look::Target;
use crate::connection::Aws;
use crate::failure::Outcome;
use crate::lines::Source;
use crate::lines::send::{FileFlags, Sending};
use crate::record::{self, Read};
use crate::ui::Ui;

pub(crate) const EXAMPLES: &str = "Examples:
  redrive dlq import orders dead.jsonl --dry-run
  redrive dlq import orders dead.jsonl
  redrive dlq import orders dead.jsonl --exact
  redrive dlq import orders dead.jsonl --lines 17,40-

The messages go to the dead-letter queue of QUEUE, as they came from there: body, attributes, the envelope that says why they
died, group and trace header. With --exact they go to QUEUE itself, and its workers take each for a replay of the message that
died. What SQS gives every message, it gives anew: ids, times, receive counts; on a FIFO queue the deduplication id is fresh too.

What SQS had moved by itself has no envelope. It gets one, with the id it had and the queue it came from; what its key is
stays with the worker. Without an envelope a worker would take it for a duplicate of the message that died, and delete it: so
with --exact a line that has no room for one is bad, unless QUEUE is a dead-letter queue.

Every line is checked before the first is sent. When it ends before its end, it names the lines that are left for --lines.";

/// What `redrive dlq import` is asked.
#[derive(Args, Debug)]
pub(crate) struct Import {
    #[command(flatten)]
    target: Target,

    /// The file that `dlq export` or `dlq drop` wrote; `-` is standard input.
    #[arg(value_name = "FILE")]
    file: PathBuf,

    #[command(flatten)]
    lines: FileFlags,
}

impl Import {
    pub(crate) async fn run(&self, aws: &Aws, ui: &Ui) -> Outcome {
        let dead = self.target.open(aws, ui).await?;
        let fifo = dead.queue.attributes().fifo;
        if fifo && self.lines.skip_bad {
            ui.warn("on a FIFO queue the rest of a group goes although a bad line of it is left out");
        }
        // SQS swallows what repeats a deduplication id within five minutes. So no two runs have one in common, and no two
        // lines; the producer's own tries to send a line do.
        let random = Random::from_system();
        let run = format!("{:016x}{:016x}", random.next_u64(), random.next_u64());
        // What was exported is what is sent: no key of the producer's own.
        let producer = Producer::builder(dead.queue.clone()).own_keys(false).build()?;
        // An envelope is what tells a worker that a message is no duplicate. Where nothing handles it, it may lie without.
        let to_workers = dead.named_source.is_none() && dead.sources.is_empty();
        let max_bytes = dead.queue.attributes().max_message_bytes;
        let bare = AtomicU64::new(u64::MAX);
        let sending = Sending {
            queue: &dead.queue,
            producer,
            source: Source::named(&self.file),
            flags: &self.lines,
            read: Box::new(|number, line| {
                let (mut outgoing, room) = enveloped(record::read(line)?, to_workers, max_bytes)?;
                if !room {
                    bare.fetch_min(number, Ordering::Relaxed);
                }
                outgoing.deduplication_id = fifo.then(|| format!("redrive-import-{run}-{number}"));
                Ok(outgoing)
            }),
            verbatim: true,
        };
        let done = sending.run(ui).await;
        drop(sending);
        let first = bare.into_inner();
        if first < u64::MAX {
            ui.warn(format_args!(
                "line {first} had no room for an envelope, and any like it: the id it had and the queue it came from are \
                 in the file only"
            ));
        }
        done
    }
}

/// The message of a line, with an envelope where it has none: with the id it had and the queue it came from. Its key is for
/// the worker to tell, as it was before; without one of its own it is that id. Says whether there was room for it.
fn enveloped(read: Read, to_workers: bool, max_bytes: usize) -> Result<(Outgoing, bool), String> {
    let mut message = Message::new(read.id.clone().unwrap_or_default(), read.outgoing.body);
    message.attributes = read.outgoing.attributes;
    let nothing_known = read.id.is_none() && read.dead_letter_source.is_none();
    let wanted = Envelope::of(&message).is_none()
        && (to_workers || !(nothing_known || message.attributes.contains_key(ENVELOPE_ATTRIBUTE)));
    let attributes = if wanted {
        let mut envelope = Envelope::default();
        envelope.message_id = read.id.unwrap_or_default();
        envelope.source = read.dead_letter_source.unwrap_or_default();
        envelope.attached_to(&message, max_bytes)
    } else {
        None
    };
    let room = !wanted || attributes.is_some();
    if to_workers && !room {
        return Err(format!(
            "it has no room for an envelope within the {max_bytes} bytes that the queue takes, and without one workers may \
             take it for a duplicate and delete it; make its body smaller, or import it to a dead-letter queue"
        ));
    }
    let mut outgoing = Outgoing::new(message.body);
    outgoing.attributes = attributes.unwrap_or(message.attributes);
    outgoing.group_id = read.outgoing.group_id;
    outgoing.trace_header = read.outgoing.trace_header;
    Ok((outgoing, room))
}
