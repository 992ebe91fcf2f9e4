//! Sending a file's messages: checked as a whole first, then sent with several batches under way, and answered by line.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;

use clap::Args;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt as _};
use redrive::clock::Clock;
use redrive::flow::{LONGEST_DELAY, RateLimit, TokenBucket};
use redrive::message::Outgoing;
use redrive::queue::{Queue as _, QueueAttributes};
use redrive::{NewMessage, Producer, ProducerError, SqsQueue};
use serde::Serialize;

use super::ranges::Ranges;
use super::{Lines, Source, Twice};
use crate::failure::{Code, Failure, Outcome};
use crate::ui::{self, Ui};
use crate::values;

/// The most messages under way at once: some batches full, and as much again waiting.
const MOST_MESSAGES: usize = 160;

/// The most bytes of messages under way at once.
const MOST_BYTES: usize = 16 * 1024 * 1024;

/// How many bad lines are shown.
const SHOWN: u64 = 20;

/// How a file of messages is sent.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct FileFlags {
    /// Send the good lines although others are bad; without it nothing is sent unless all are good.
    #[arg(long)]
    pub(crate) skip_bad: bool,

    /// Check every line and send nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// Send at most this many messages a second, such as 50 or 0.5/s.
    #[arg(long, value_name = "N", value_parser = values::rate_limit)]
    pub(crate) rate: Option<RateLimit>,

    /// Begin at this line: where a run before stopped.
    #[arg(long, value_name = "N", value_parser = values::limit)]
    pub(crate) from_line: Option<u64>,

    /// Only these lines, such as 3,7-12,40-: those a run before could not send.
    #[arg(long, value_name = "LINES", conflicts_with = "from_line")]
    pub(crate) lines: Option<Ranges>,
}

impl FileFlags {
    pub(crate) fn any(&self) -> bool {
        self.skip_bad || self.from_line.is_some() || self.lines.is_some()
    }

    fn wanted(&self) -> Ranges {
        self.lines
            .clone()
            .unwrap_or_else(|| Ranges::from_line(self.from_line.unwrap_or(1)))
    }
}

/// Reads the message of a line, given its number and text.
pub(crate) type Read<'a> = Box<dyn Fn(u64, &str) -> Result<Outgoing, String> + Send + Sync + 'a>;

/// What is sent, and where to.
pub(crate) struct Sending<'a> {
    pub(crate) queue: &'a SqsQueue,
    pub(crate) producer: Producer,
    pub(crate) source: Source,
    pub(crate) flags: &'a FileFlags,
    /// The message of a line.
    pub(crate) read: Read<'a>,
    /// Whether the messages were in a queue before; see [`NewMessage::verbatim`].
    pub(crate) verbatim: bool,
}

/// What became of a line; a line of the JSON result.
#[derive(Debug, Serialize)]
#[serde(tag = "status", rename_all = "snake_case")]
enum Event {
    Sent {
        line: u64,
        message_id: String,
    },
    /// No message that the queue would take; it was not sent.
    Bad {
        line: u64,
        error: String,
    },
    /// Not sent, or not known to be.
    Failed {
        line: u64,
        error: String,
    },
    /// It ended before its end: from this line on nothing was tried.
    Stopped {
        line: u64,
        why: String,
    },
}

#[derive(Debug, Default)]
struct Report {
    sent: u64,
    bad: u64,
    failed: u64,
    /// Lines to be sent again.
    left: Ranges,
    stop: Option<Stop>,
}

/// Why it ended before its end.
#[derive(Debug)]
enum Stop {
    Interrupted,
    Failed(Failure),
}

impl Sending<'_> {
    pub(crate) async fn run(&self, ui: &Ui) -> Outcome {
        let wanted = self.flags.wanted();
        let name = &self.queue.attributes().name;
        if self.flags.skip_bad && !self.flags.dry_run {
            let lines = Lines::of(self.source.open()?);
            return self.send(lines, &wanted, None, ui).await;
        }
        let twice = Twice::of(&self.source)?;
        let Some((good, bad)) = self.check(twice.first(&self.source)?, &wanted, ui).await? else {
            return Err(Failure::interrupted());
        };
        let total = good + bad;
        if bad > 0 && !self.flags.skip_bad {
            let lines = ui::count(total, "line");
            return Err(Failure::new(format_args!(
                "{bad} of {lines} of {} cannot be sent to `{name}`; nothing was sent",
                self.source
            ))
            .remedy("mend them, or leave them out with --skip-bad"));
        }
        if self.flags.dry_run {
            let said = format!("{} would be sent to `{name}`", ui::count(good, "message"));
            if ui.is_json() {
                ui.note(said);
            } else {
                ui.line(said);
            }
            return Ok(if bad > 0 { Code::Failed } else { Code::Done });
        }
        if total == 0 {
            ui.note(format_args!("{} has no message; nothing was sent", self.source));
            return Ok(Code::Done);
        }
        self.send(twice.second(&self.source)?, &wanted, Some(total), ui).await
    }

    /// Checks every line; how many are good and bad, or nothing where it was interrupted.
    async fn check(&self, mut lines: Lines, wanted: &Ranges, ui: &Ui) -> Result<Option<(u64, u64)>, Failure> {
        let bar = ui.progress(None, "checking");
        let (mut good, mut bad) = (0, 0);
        loop {
            let line = tokio::select! {
                biased;
                () = ui.interrupt().cancelled() => return Ok(None),
                line = lines.next() => line,
            };
            let Some(line) = line else { break };
            let line = line.map_err(|error| self.source.unreadable(&error))?;
            if !wanted.contains(line.number) {
                continue;
            }
            bar.inc(1);
            match self.message(line.number, line.text) {
                Ok(_) => good += 1,
                Err(error) => {
                    bad += 1;
                    bar.suspend(|| {
                        if ui.is_json() {
                            ui.json(&Event::Bad {
                                line: line.number,
                                error,
                            });
                        } else {
                            show_bad(ui, line.number, &error, bad);
                        }
                    });
                }
            }
        }
        bar.finish_and_clear();
        if bad > SHOWN && !ui.is_json() {
            ui.warn(format_args!("and {} more", bad - SHOWN));
        }
        Ok(Some((good, bad)))
    }

    /// The message of a line, if the queue will take it.
    fn message(&self, number: u64, text: Result<String, String>) -> Result<Checked, String> {
        let outgoing = (self.read)(number, &text?)?;
        let attributes = self.queue.attributes();
        if let Some(why) = misfit(&outgoing, attributes) {
            return Err(why);
        }
        let size = outgoing.size();
        let group = outgoing.group_id.clone().filter(|_| attributes.fifo);
        let message = if self.verbatim {
            NewMessage::verbatim(outgoing)
        } else {
            outgoing.into()
        };
        self.producer.check(&message).map_err(|error| match error {
            ProducerError::Invalid { what, why, .. } => format!("{what}: {why}"),
            other => other.to_string(),
        })?;
        Ok(Checked { message, size, group })
    }

    async fn send(&self, mut lines: Lines, wanted: &Ranges, total: Option<u64>, ui: &Ui) -> Outcome {
        let bar = ui.progress(total, "sending");
        let clock = Clock::system();
        let bucket = TokenBucket::new(self.flags.rate);
        let mut under_way = UnderWay::default();
        let mut report = Report::default();
        let say = |event: Event, report: &mut Report| bar.suspend(|| report.note(event, ui));
        // The line at which it goes on, if it ends before its end.
        let mut next = 1;
        loop {
            while let Some(answer) = under_way.take_ready() {
                under_way.settle(answer, &mut report);
                bar.inc(1);
            }
            under_way.say(&mut |event| say(event, &mut report));
            if report.stop.is_some() {
                break;
            }
            let line = tokio::select! {
                biased;
                () = ui.interrupt().cancelled() => {
                    report.stop = Some(Stop::Interrupted);
                    break;
                }
                Some(answer) = under_way.flying.next() => {
                    under_way.settle(answer, &mut report);
                    bar.inc(1);
                    continue;
                }
                line = lines.next(), if under_way.has_room() => line,
            };
            let line = match line {
                None => break,
                Some(Ok(line)) => line,
                Some(Err(error)) => {
                    report.stop = Some(Stop::Failed(self.source.unreadable(&error)));
                    break;
                }
            };
            next = line.number;
            if !wanted.contains(line.number) {
                next += 1;
                continue;
            }
            match self.message(line.number, line.text) {
                Err(error) => under_way.done(Event::Bad {
                    line: line.number,
                    error,
                }),
                Ok(message) => {
                    if let Ok(wait) = bucket.reserve(clock.now(), LONGEST_DELAY)
                        && !under_way.while_waiting(wait, ui, &mut report).await
                    {
                        report.stop.get_or_insert(Stop::Interrupted);
                        break;
                    }
                    while let Some(answer) = under_way.take_ready() {
                        under_way.settle(answer, &mut report);
                        bar.inc(1);
                    }
                    under_way.send(line.number, message, &self.producer);
                }
            }
            next += 1;
        }
        while let Some(answer) = under_way.flying.next().await {
            under_way.settle(answer, &mut report);
            bar.inc(1);
        }
        under_way.say(&mut |event| say(event, &mut report));
        bar.finish_and_clear();
        self.conclude(report, next, ui)
    }

    fn conclude(&self, mut report: Report, next: u64, ui: &Ui) -> Outcome {
        let name = &self.queue.attributes().name;
        if let Some(stop) = &report.stop {
            report.left.add_from(next);
            let why = match stop {
                Stop::Interrupted => "interrupted".to_owned(),
                Stop::Failed(failure) => failure.to_string(),
            };
            if ui.is_json() {
                ui.json(&Event::Stopped { line: next, why });
            }
        }
        let mut said = format!("{} sent to `{name}`", ui::count(report.sent, "message"));
        if report.bad > 0 {
            said.push_str(&format!(", {} skipped", ui::count(report.bad, "bad line")));
        }
        if report.failed > 0 {
            said.push_str(&format!(", {} failed", report.failed));
        }
        let again = format!("send what is left with --lines {}", report.left);
        match report.stop {
            Some(Stop::Failed(failure)) => {
                ui.note(&said);
                Err(failure.remedy(again))
            }
            Some(Stop::Interrupted) => {
                ui.note(format_args!("{said}; interrupted: {again}"));
                Ok(Code::Interrupted)
            }
            None if !report.left.is_empty() => Err(Failure::new(said).remedy(again)),
            None => {
                if ui.is_json() {
                    ui.note(&said);
                } else {
                    ui.line(&said);
                }
                Ok(if report.bad > 0 { Code::Failed } else { Code::Done })
            }
        }
    }
}

impl Report {
    /// Counts what became of a line, in the order of the lines, and says it.
    fn note(&mut self, event: Event, ui: &Ui) {
        match &event {
            Event::Sent { .. } => self.sent += 1,
            Event::Bad { line, error } => {
                self.bad += 1;
                if !ui.is_json() {
                    show_bad(ui, *line, error, self.bad);
                }
            }
            Event::Failed { line, error } => {
                self.failed += 1;
                self.left.add(*line);
                if !ui.is_json() {
                    ui.warn(format_args!("line {line}: {}", ui::safe(error)));
                }
            }
            Event::Stopped { .. } => {}
        }
        if ui.is_json() {
            ui.json(&event);
        }
    }
}

fn show_bad(ui: &Ui, line: u64, error: &str, so_far: u64) {
    if so_far <= SHOWN {
        ui.warn(format_args!("line {line}: {}", ui::safe(error)));
    }
}

/// A message that the queue will take.
struct Checked {
    message: NewMessage,
    size: usize,
    /// Its group, where groups have an order.
    group: Option<String>,
}

type Answer = (u64, usize, Option<String>, Result<String, ProducerError>);

/// What is being sent, and what became of lines whose turn to be told has not come.
#[derive(Default)]
struct UnderWay {
    flying: FuturesUnordered<BoxFuture<'static, Answer>>,
    bytes: usize,
    lines: BTreeSet<u64>,
    done: BTreeMap<u64, Event>,
    /// FIFO groups of which a message failed: the rest would pass it.
    failed_groups: HashSet<String>,
}

impl UnderWay {
    fn has_room(&self) -> bool {
        self.flying.len() < MOST_MESSAGES && self.bytes < MOST_BYTES && self.done.len() < MOST_MESSAGES
    }

    fn send(&mut self, line: u64, message: Checked, producer: &Producer) {
        let Checked { message, size, group } = message;
        if let Some(group) = group.as_ref().filter(|group| self.failed_groups.contains(*group)) {
            let error = format!("not sent: an earlier message of its group `{group}` failed");
            self.done(Event::Failed { line, error });
            return;
        }
        self.bytes += size;
        self.lines.insert(line);
        let producer = producer.clone();
        self.flying.push(Box::pin(async move {
            let answer = producer.send(message).await;
            (line, size, group, answer)
        }));
    }

    fn done(&mut self, event: Event) {
        if let Event::Sent { line, .. } | Event::Bad { line, .. } | Event::Failed { line, .. } = event {
            self.done.insert(line, event);
        }
    }

    /// What has been answered already.
    fn take_ready(&mut self) -> Option<Answer> {
        use futures::FutureExt as _;
        self.flying.next().now_or_never().flatten()
    }

    fn settle(&mut self, (line, size, group, answer): Answer, report: &mut Report) {
        self.bytes -= size;
        self.lines.remove(&line);
        let error = match answer {
            Ok(message_id) => return self.done(Event::Sent { line, message_id }),
            Err(error) => error,
        };
        if let Some(group) = group {
            self.failed_groups.insert(group);
        }
        let said = error.to_string();
        let one_message = matches!(
            error,
            ProducerError::Refused { .. } | ProducerError::GroupFailed { .. } | ProducerError::Invalid { .. }
        );
        if !one_message && report.stop.is_none() {
            report.stop = Some(Stop::Failed(error.into()));
        }
        self.done(Event::Failed { line, error: said });
    }

    /// Tells what became of lines before which none is under way.
    fn say(&mut self, say: &mut dyn FnMut(Event)) {
        let until = self.lines.first().copied().unwrap_or(u64::MAX);
        while let Some(first) = self.done.first_entry().filter(|first| *first.key() < until) {
            say(first.remove());
        }
    }

    /// Goes on sending for `wait`; false if it was interrupted, or nothing more can be sent.
    async fn while_waiting(&mut self, wait: Duration, ui: &Ui, report: &mut Report) -> bool {
        let mut waited = std::pin::pin!(tokio::time::sleep(wait));
        loop {
            tokio::select! {
                biased;
                () = ui.interrupt().cancelled() => return false,
                Some(answer) = self.flying.next() => {
                    self.settle(answer, report);
                    if report.stop.is_some() {
                        return false;
                    }
                }
                () = &mut waited => return true,
            }
        }
    }
}

/// Why a queue takes no such message, in the words of whoever types it.
pub(crate) fn misfit(outgoing: &Outgoing, queue: &QueueAttributes) -> Option<String> {
    let name = &queue.name;
    if queue.fifo && outgoing.group_id.is_none() {
        return Some(format!("it has no group, and `{name}` is a FIFO queue"));
    }
    if queue.fifo && outgoing.delay.is_some_and(|delay| !delay.is_zero()) {
        return Some(format!(
            "it has a delay, and `{name}` is a FIFO queue, which takes none for a message"
        ));
    }
    if !queue.fifo && outgoing.deduplication_id.is_some() {
        return Some(format!(
            "it has a deduplication id, and `{name}` is no FIFO queue; give a key instead"
        ));
    }
    None
}
