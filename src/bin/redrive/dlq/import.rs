//! `redrive dlq import`: what was exported, sent again.

use std::path::PathBuf;

use clap::Args;
use redrive::Producer;
use redrive::clock::Random;
use redrive::queue::Queue as _;

use super::look::Target;
use crate::connection::Aws;
use crate::failure::Outcome;
use crate::lines::Source;
use crate::lines::send::{FileFlags, Sending};
use crate::record;
use crate::ui::Ui;

pub(crate) const EXAMPLES: &str = "Examples:
  redrive dlq import orders dead.jsonl --dry-run
  redrive dlq import orders dead.jsonl
  redrive dlq import orders dead.jsonl --exact
  redrive dlq import orders dead.jsonl --lines 17,40-

The messages go to the dead-letter queue of QUEUE, as they came from there: body, attributes, the envelope that says why they
died, group and trace header. With --exact they go to QUEUE itself, and its workers take each for a replay of the message that
died. What SQS gives every message, it gives anew: ids, times, receive counts; on a FIFO queue the deduplication id is fresh too.

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
        let sending = Sending {
            queue: &dead.queue,
            producer,
            source: Source::named(&self.file),
            flags: &self.lines,
            read: Box::new(|number, line| {
                let mut outgoing = record::read(line)?;
                outgoing.deduplication_id = fifo.then(|| format!("redrive-import-{run}-{number}"));
                Ok(outgoing)
            }),
            verbatim: true,
        };
        sending.run(ui).await
    }
}
