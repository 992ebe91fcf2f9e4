//! `redrive dlq import`: what was exported, sent again.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use clap::Args;
use redrive::Producer;
use redrive::clock::Random;
use redrive::dlq::{ENVELOPE_ATTRIBUTE, Envelope};
use redrive::key::KeySource;
use redrive::message::{Message, Outgoing};
use redrive::queue::Queue as _;

use super::look::Target;
use crate::connection::Aws;
use crate::failure::Outcome;
use crate::keys::KeyFlags;
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
stays with the worker, but for one that takes the FIFO deduplication id: say so here too. Without an envelope a worker would take it for a duplicate of the message that died, and delete it: so
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

    #[command(flatten)]
    keys: KeyFlags,
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
        let destination = Destination {
            to_workers: dead.named_source.is_none() && dead.sources.is_empty(),
            max_bytes: dead.queue.attributes().max_message_bytes,
            keys: &self.keys.source(aws, &dead).await?,
        };
        let bare = AtomicU64::new(u64::MAX);
        let sending = Sending {
            queue: &dead.queue,
            producer,
            source: Source::named(&self.file),
            flags: &self.lines,
            read: Box::new(|number, line| {
                let (mut outgoing, room) = destination.enveloped(record::read(line)?)?;
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

/// The queue that lines go to.
struct Destination<'a> {
    /// Whether workers receive from it, and no one looks at dead letters there.
    to_workers: bool,
    max_bytes: usize,
    keys: &'a KeySource,
}

impl Destination<'_> {
    /// The message of a line, with an envelope that is true; says whether there was room for it.
    fn enveloped(&self, read: Read) -> Result<(Outgoing, bool), String> {
        let mut message = Message::new(read.id.clone().unwrap_or_default(), read.outgoing.body);
        message.attributes = read.outgoing.attributes;
        message.group_id = read.outgoing.group_id;
        message.deduplication_id = read.deduplication_id;
        message.dead_letter_source = read.dead_letter_source;
        let envelope = self.envelope(&message, read.id.is_some());
        let attributes = envelope
            .as_ref()
            .and_then(|envelope| envelope.attached_to(&message, self.max_bytes));
        let room = envelope.is_none() || attributes.is_some();
        if self.to_workers && !room {
            return Err(format!(
                "it has no room for an envelope within the {} bytes that the queue takes, and without one workers may take \
                 it for a duplicate and delete it; make its body smaller, or import it to a dead-letter queue",
                self.max_bytes
            ));
        }
        let mut outgoing = Outgoing::new(message.body);
        outgoing.attributes = attributes.unwrap_or(message.attributes);
        outgoing.group_id = message.group_id;
        outgoing.trace_header = read.outgoing.trace_header;
        Ok((outgoing, room))
    }

    /// The envelope it gets, if it cannot stay as it is.
    fn envelope(&self, message: &Message, has_id: bool) -> Option<Envelope> {
        let source = message.dead_letter_source.as_ref();
        if let Some(mut told) = Envelope::of(message) {
            // SQS moved it after that death, and will not say so of the message that is sent.
            source.filter(|_| !told.reason.is_empty())?;
            told.reason.clear();
            told.error.clear();
            return Some(told);
        }
        let is_worth_it = (has_id || source.is_some()) && !message.attributes.contains_key(ENVELOPE_ATTRIBUTE);
        if !self.to_workers && !is_worth_it {
            return None;
        }
        let mut envelope = Envelope::default();
        envelope.message_id.clone_from(&message.id);
        envelope.source = source.cloned().unwrap_or_default();
        // Any other key is in what is sent, or is the id: the worker tells it as it did before.
        if matches!(self.keys, KeySource::DeduplicationId { .. }) && message.deduplication_id.is_some() {
            self.keys.key_of(message, None).as_str().clone_into(&mut envelope.key);
        }
        Some(envelope)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
mod tests {
    use super::*;

    fn read(line: &serde_json::Value, keys: &KeySource) -> Envelope {
        let destination = Destination {
            to_workers: false,
            max_bytes: 1024 * 1024,
            keys,
        };
        let read = record::read(&line.to_string()).unwrap();
        let (outgoing, room) = destination.enveloped(read).unwrap();
        assert!(room);
        let mut message = Message::new("fresh", outgoing.body);
        message.attributes = outgoing.attributes;
        Envelope::of(&message).unwrap()
    }

    #[test]
    fn a_key_that_was_the_deduplication_id_stays_where_that_is_said() {
        let line = serde_json::json!({
            "redrive_export": 1, "body": "{}", "id": "m-1", "group": "g", "deduplication_id": "d",
            "dead_letter_source": "arn:orders",
        });
        let key = |keys: &KeySource| read(&line, keys).key;
        assert_eq!(key(&KeySource::DeduplicationId { by_group: false }), "d");
        assert_eq!(key(&KeySource::DeduplicationId { by_group: true }), "g/d");
        let envelope = read(&line, &KeySource::Attribute);
        assert_eq!(
            (
                envelope.key.as_str(),
                envelope.message_id.as_str(),
                envelope.source.as_str()
            ),
            ("", "m-1", "arn:orders")
        );
    }

    #[test]
    fn an_old_reason_does_not_become_that_of_a_death_by_sqs() {
        let mut told = Envelope::default();
        told.key = "order-1".into();
        told.message_id = "first".into();
        told.reason = "card_declined".into();
        told.error = "no".into();
        let mut line = serde_json::json!({
            "redrive_export": 1, "body": "{}", "id": "m-2",
            "attributes": {ENVELOPE_ATTRIBUTE: {"data_type": "String", "value": serde_json::to_string(&told).unwrap()}},
        });
        assert_eq!(read(&line, &KeySource::Attribute), told, "it is as it was");
        line["dead_letter_source"] = "arn:orders".into();
        let envelope = read(&line, &KeySource::Attribute);
        assert_eq!((envelope.reason.as_str(), envelope.error.as_str()), ("", ""));
        assert_eq!(
            (envelope.key.as_str(), envelope.message_id.as_str()),
            ("order-1", "first")
        );
    }
}
