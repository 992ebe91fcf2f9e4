//! Names of the metrics, the span of a delivery, and trace context.
//!
//! Metrics go through the [`metrics`] facade: they cost next to nothing until the application installs a recorder, an
//! exporter for Prometheus or OpenTelemetry, say. Names are those of OpenTelemetry's semantic conventions for messaging where
//! these have one (`messaging.…`) and begin with `redrive.` elsewhere. The page `docs/metrics.md` lists all of them, and
//! [`METRICS`] is the same list for programs.

#[cfg(not(feature = "otel"))]
#[path = "telemetry/no_traces.rs"]
mod traces;
#[cfg(feature = "otel")]
mod traces;

use std::borrow::Cow;
use std::fmt;

use metrics::{Counter, Gauge, Histogram, Label, Unit};

use crate::message::{Attribute, Message, TRACEPARENT_ATTRIBUTE};

pub(crate) use traces::{DeliveryTrace, RunTrace, SendTrace, Traces};

/// What a metric is counted by: the queue's name.
pub const QUEUE: &str = "messaging.destination.name";

/// What a metric is counted by: the operation, `receive`, `delete`, `change_visibility`, `send` or `describe` on a queue,
/// `claim`, `write` or `get` on an inbox.
pub const OPERATION: &str = "messaging.operation.name";

/// What a metric is counted by: the kind of error, absent where there was none.
pub const ERROR_TYPE: &str = "error.type";

/// What a metric is counted by: the messaging system, always [`AWS_SQS`].
pub const SYSTEM: &str = "messaging.system";

/// The value of [`SYSTEM`].
pub const AWS_SQS: &str = "aws_sqs";

/// What a metric is counted by: how something ended.
pub const OUTCOME: &str = "outcome";

/// What a metric is counted by: why a message became a dead letter.
pub const REASON: &str = "reason";

/// What a metric is counted by: the kind of a duplicate, of a failure, of what is held.
pub const KIND: &str = "kind";

/// What a metric is counted by: the name of a breaker, limiter, bulkhead or downstream.
pub const NAME: &str = "name";

/// What kind of instrument a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Instrument {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// A distribution.
    Histogram,
}

impl fmt::Display for Instrument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        })
    }
}

/// A metric: its name, kind and unit, what it is counted by and what it means.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// What kind of instrument it is.
    pub instrument: Instrument,
    /// Its unit as UCUM writes it: `s`, `{message}`.
    pub unit: &'static str,
    /// What it is counted by, besides nothing.
    pub labels: &'static [&'static str],
    /// What it means.
    pub description: &'static str,
}

macro_rules! metrics_table {
    ($($konst:ident = $instrument:ident $name:literal in $unit:literal by [$($label:ident),*]: $text:literal;)*) => {
        $(
            #[doc = $text]
            pub const $konst: Metric = Metric {
                name: $name,
                instrument: Instrument::$instrument,
                unit: $unit,
                labels: &[$($label),*],
                description: $text,
            };
        )*

        /// Every metric, in the order of the page.
        pub const METRICS: &[Metric] = &[$($konst),*];

        /// Their constants' names, in the same order.
        #[cfg(test)]
        const CONSTANTS: &[&str] = &[$(stringify!($konst)),*];
    };
}

metrics_table! {
    CONSUMED = Counter "messaging.client.consumed.messages" in "{message}" by [QUEUE, OPERATION, SYSTEM]:
        "Messages received, each delivery counted once.";
    SENT = Counter "messaging.client.sent.messages" in "{message}" by [QUEUE, OPERATION, SYSTEM, ERROR_TYPE]:
        "Messages given to a queue by producers and replays; with the kind of error, those the queue did not take.";
    OPERATION_DURATION = Histogram "messaging.client.operation.duration" in "s" by [QUEUE, OPERATION, SYSTEM, ERROR_TYPE]:
        "How long a call to SQS took, its tries included; a receive's long poll counts in.";
    PROCESS_DURATION = Histogram "messaging.process.duration" in "s" by [QUEUE, OPERATION, SYSTEM, OUTCOME]:
        "How long a run of the handler took: `completed` or `failed`.";
    API_CALLS = Counter "redrive.api.calls" in "{call}" by [QUEUE, OPERATION]:
        "Calls to the queue's service, what SQS bills.";
    BATCH_FILL = Histogram "redrive.batch.fill" in "{entry}" by [QUEUE, OPERATION]:
        "Entries in a batch that was sent, or messages in a receive that was answered; 10 is full.";
    SETTLED = Counter "redrive.settled.messages" in "{message}" by [QUEUE, OUTCOME]:
        "Deliveries settled: `completed`, `duplicate`, `in_flight_duplicate`, `retried`, `delayed`, `dead_lettered`, `given_up` without a dead letter, `released`, or `lost` with their lease.";
    DUPLICATES = Counter "redrive.duplicate.messages" in "{message}" by [QUEUE, KIND]:
        "Deliveries of a key already `completed`, `rejected`, `in_flight` or `held` by this worker: none of them was run. In shadow mode, `shadow_…`: what would not have been run.";
    RETRIES = Counter "redrive.retries" in "{message}" by [QUEUE, KIND]:
        "Failed runs that are tried again: `error`, `timeout`, `panic`, or `outage`, which counts no attempt.";
    DEAD_LETTERS = Counter "redrive.dead_letters" in "{message}" by [QUEUE, REASON]:
        "Messages that became dead letters. Beyond 100 reasons of a worker, others are `other`.";
    IN_FLIGHT = Gauge "redrive.in_flight.messages" in "{message}" by [QUEUE, KIND]:
        "Messages held: `running`, `waiting` for a token, a slot or a breaker, or `settling`.";
    CONCURRENCY = Gauge "redrive.concurrency" in "{message}" by [QUEUE]:
        "Handlers that may run at once: as set, or as an adaptive limit finds best now.";
    MESSAGE_AGE = Histogram "redrive.message.age" in "s" by [QUEUE]:
        "How old a message is when it is received, from when it was sent, by the service's and the host's clocks.";
    START_DELAY = Histogram "redrive.start.delay" in "s" by [QUEUE]:
        "How long a message waits from its receive until its handler starts.";
    LAST_RECEIVE = Gauge "redrive.receive.silence" in "s" by [QUEUE]:
        "How long ago the last receive succeeded, as of the worker's last step; it grows while the worker is stalled or paused.";
    PAUSED = Gauge "redrive.receive.paused" in "1" by [QUEUE]:
        "1 while receiving is paused, by the breaker or by hand, else 0.";
    HEARTBEATS = Counter "redrive.heartbeats" in "{message}" by [QUEUE, OUTCOME]:
        "Messages whose lease or visibility was asked to be extended, outcome `sent`; what was lost all the same is in `redrive.lost.leases` and `redrive.lost.visibility`.";
    LOST_LEASES = Counter "redrive.lost.leases" in "{message}" by [QUEUE]:
        "Runs cancelled because another worker may have taken their key: make leases longer, or find what stalled.";
    LOST_VISIBILITY = Counter "redrive.lost.visibility" in "{message}" by [QUEUE]:
        "Deliveries that the queue took back while they were held.";
    LATE_DELETES = Counter "redrive.late.deletes" in "{message}" by [QUEUE]:
        "Deletes whose receipt was no longer good: the message comes back once and is recognised as a duplicate.";
    DEATHS = Counter "redrive.deaths" in "{message}" by [QUEUE]:
        "Messages found whose process died while it ran them.";
    RESULTS_OMITTED = Counter "redrive.results.omitted" in "{message}" by [QUEUE]:
        "Handlers' results not kept: too large, or not serialisable.";
    INBOX_CALLS = Counter "redrive.inbox.calls" in "{call}" by [NAME, OPERATION]:
        "Calls that the worker of the queue `name` makes of its inbox; each may take several of the service's.";
    INBOX_DURATION = Histogram "redrive.inbox.operation.duration" in "s" by [NAME, OPERATION, ERROR_TYPE]:
        "How long a call to the service of the inbox `name` took, its tries included; its count is that of the calls.";
    INBOX_CLOCK_RESTARTS = Counter "redrive.inbox.clock.restarts" in "{restart}" by [NAME]:
        "Times the bounds of the inbox's own time stopped meeting, so that they are found anew: a clock jumped.";
    BREAKER_STATE = Gauge "redrive.breaker.state" in "1" by [NAME]:
        "0 while a circuit breaker is closed, 1 half open, 2 open.";
    BREAKER_OPENED = Counter "redrive.breaker.opened" in "{event}" by [NAME]:
        "Times a circuit breaker opened.";
    DOWNSTREAM_TRIES = Counter "redrive.downstream.tries" in "{call}" by [NAME, OUTCOME]:
        "Tries of calls to a downstream: `ok`, `failed`, `timeout`, `rejected` or `cancelled`; and those not made: `circuit_open`, `rate_limited` or `bulkhead_full`.";
    LIMITER_WAIT = Histogram "redrive.limiter.wait" in "s" by [NAME]:
        "How long a call or a message that found its rate limit spent had to wait for it.";
    BULKHEAD_FULL = Counter "redrive.bulkhead.full" in "{event}" by [NAME]:
        "Times a bulkhead had no place left.";
    RETRY_BUDGET_SPENT = Counter "redrive.retry_budget.spent" in "{event}" by [NAME]:
        "Retries not made because the retry budget was spent.";
    DRAINS = Counter "redrive.drains" in "{event}" by [OUTCOME]:
        "Drains that ended: `clean`, or at the `deadline` with handlers cancelled.";
    DRAIN_DURATION = Histogram "redrive.drain.duration" in "s" by [OUTCOME]:
        "How long a drain took.";
    PRODUCER_BUFFERED = Gauge "redrive.producer.buffered" in "{message}" by [QUEUE]:
        "Messages the producer has taken and not yet answered.";
    PRODUCER_RETRIES = Counter "redrive.producer.retries" in "{message}" by [QUEUE]:
        "Entries of batches that the producer sent again.";
    PROTECTED = Gauge "redrive.scale_in.protected" in "1" by []:
        "1 while the ECS task is protected from scale-in, else 0.";
    PROTECTION_CALLS = Counter "redrive.scale_in.calls" in "{call}" by [OUTCOME]:
        "Calls to the ECS agent for scale-in protection: `ok`, `refused`, or `unreachable`.";
    REPLAYED = Counter "redrive.replayed.messages" in "{message}" by [QUEUE, OUTCOME]:
        "Dead letters looked at by a replay: `replayed`, `dropped`, `completed` already, `skipped` or `failed`.";
}

impl Metric {
    fn unit(&self) -> Unit {
        match self.unit {
            "s" => Unit::Seconds,
            _ => Unit::Count,
        }
    }
}

/// Tells the installed recorder every metric's unit and meaning. Call it once, after the recorder is installed; a worker does
/// so when it starts.
pub fn describe() {
    for metric in METRICS {
        match metric.instrument {
            Instrument::Counter => metrics::describe_counter!(metric.name, metric.unit(), metric.description),
            Instrument::Gauge => metrics::describe_gauge!(metric.name, metric.unit(), metric.description),
            Instrument::Histogram => metrics::describe_histogram!(metric.name, metric.unit(), metric.description),
        }
    }
}

/// The counter `metric` with these labels. Whoever counts often keeps it.
pub(crate) fn counter(metric: &Metric, labels: &[(&'static str, &str)]) -> Counter {
    debug_assert_eq!(metric.instrument, Instrument::Counter, "{}", metric.name);
    metrics::counter!(metric.name, labelled(metric, labels))
}

/// Counts a call of `operation` on `queue`.
pub(crate) fn count_call(queue: &str, operation: &str) {
    counter(&API_CALLS, &[(QUEUE, queue), (OPERATION, operation)]).increment(1);
}

/// Counts how full the batch of a call was that was sent, or the answer of a receive that brought something.
pub(crate) fn count_entries(queue: &str, operation: &str, entries: usize) {
    let entries = u32::try_from(entries).unwrap_or(u32::MAX);
    histogram(&BATCH_FILL, &[(QUEUE, queue), (OPERATION, operation)]).record(entries);
}

/// The gauge `metric` with these labels.
pub(crate) fn gauge(metric: &Metric, labels: &[(&'static str, &str)]) -> Gauge {
    debug_assert_eq!(metric.instrument, Instrument::Gauge, "{}", metric.name);
    metrics::gauge!(metric.name, labelled(metric, labels))
}

/// The histogram `metric` with these labels.
pub(crate) fn histogram(metric: &Metric, labels: &[(&'static str, &str)]) -> Histogram {
    debug_assert_eq!(metric.instrument, Instrument::Histogram, "{}", metric.name);
    metrics::histogram!(metric.name, labelled(metric, labels))
}

fn labelled(metric: &Metric, labels: &[(&'static str, &str)]) -> Vec<Label> {
    debug_assert!(
        labels.iter().all(|(name, _)| metric.labels.contains(name)),
        "{} is counted by {:?}, not by {labels:?}",
        metric.name,
        metric.labels
    );
    let system = metric
        .labels
        .contains(&SYSTEM)
        .then(|| Label::from_static_parts(SYSTEM, AWS_SQS));
    labels
        .iter()
        .map(|&(name, value)| Label::new(name, value.to_owned()))
        .chain(system)
        .collect()
}

/// Where a piece of work belongs in a distributed trace: W3C Trace Context's `traceparent`.
///
/// ```
/// use redrive::telemetry::TraceContext;
///
/// let context: TraceContext = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".parse()?;
/// assert_eq!(context.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
/// assert!(context.sampled());
/// # Ok::<(), redrive::telemetry::TraceContextError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TraceContext {
    trace_id: u128,
    parent_id: u64,
    flags: u8,
}

/// A text is no `traceparent`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no W3C traceparent: {why}; it looks like 00-<32 hex digits>-<16 hex digits>-<2 hex digits>")]
#[non_exhaustive]
pub struct TraceContextError {
    /// What was given, shortened.
    pub text: String,
    /// What is wrong with it.
    pub why: &'static str,
}

impl TraceContext {
    /// The context with these ids; `None` if either is zero, which the standard reserves for "none".
    #[must_use]
    pub fn new(trace_id: u128, parent_id: u64, sampled: bool) -> Option<Self> {
        (trace_id != 0 && parent_id != 0).then_some(Self {
            trace_id,
            parent_id,
            flags: u8::from(sampled),
        })
    }

    /// The context a message came with: its `traceparent` attribute, else its `AWSTraceHeader`, where either can be read.
    #[must_use]
    pub fn of(message: &Message) -> Option<Self> {
        Self::carried(
            message.attribute(TRACEPARENT_ATTRIBUTE),
            message.trace_header.as_deref(),
        )
    }

    /// What one of the two says, the standard one first.
    fn carried(traceparent: Option<&str>, aws_header: Option<&str>) -> Option<Self> {
        traceparent
            .and_then(|text| text.parse().ok())
            .or_else(|| Self::from_aws_header(aws_header?))
    }

    /// The context in an X-Ray header, `Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1`.
    #[must_use]
    pub fn from_aws_header(header: &str) -> Option<Self> {
        let field = |name: &str| {
            header
                .split(';')
                .filter_map(|part| part.trim().split_once('='))
                .find(|(key, _)| key.eq_ignore_ascii_case(name))
                .map(|(_, value)| value.trim())
        };
        let (time, rest) = field("Root")?.strip_prefix("1-")?.split_once('-')?;
        let trace_id = (u128::from(hex_number(time, 8)?) << 96) | hex_wide(rest, 24)?;
        let parent_id = hex_number(field("Parent")?, 16)?;
        Self::new(trace_id, parent_id, field("Sampled") == Some("1"))
    }

    /// The trace's id, 32 hexadecimal digits.
    #[must_use]
    pub fn trace_id(&self) -> String {
        format!("{:032x}", self.trace_id)
    }

    /// The id of the span that sent the work, 16 hexadecimal digits.
    #[must_use]
    pub fn parent_id(&self) -> String {
        format!("{:016x}", self.parent_id)
    }

    /// The context of the span that is current here: OpenTelemetry's, else that of the current [`tracing`] span, where a layer
    /// of `tracing_opentelemetry` knows it. `None` outside of any span, where no tracer is installed, and without the feature
    /// `otel`.
    ///
    /// What a [`Producer`](crate::Producer) sends within a span carries its context by itself. Other senders put
    /// [`as_attribute`](Self::as_attribute) among a message's attributes.
    #[must_use]
    pub fn current() -> Option<Self> {
        traces::current_context()
    }

    /// As a message carries it: the attribute's name, and the attribute.
    ///
    /// ```
    /// use redrive::message::Outgoing;
    /// use redrive::telemetry::TraceContext;
    ///
    /// let context: TraceContext = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".parse()?;
    /// let (name, attribute) = context.as_attribute();
    /// let message = Outgoing::new("{}").attribute(name, attribute);
    /// assert!(message.attributes.contains_key("traceparent"));
    /// # Ok::<(), redrive::telemetry::TraceContextError>(())
    /// ```
    #[must_use]
    pub fn as_attribute(&self) -> (&'static str, Attribute) {
        (TRACEPARENT_ATTRIBUTE, Attribute::string(self.to_string()))
    }

    /// Whether the sender recorded the trace.
    #[must_use]
    pub fn sampled(&self) -> bool {
        self.flags & 1 == 1
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "00-{:032x}-{:016x}-{:02x}",
            self.trace_id, self.parent_id, self.flags
        )
    }
}

impl std::str::FromStr for TraceContext {
    type Err = TraceContextError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = |why| TraceContextError {
            text: crate::outcome::bounded(printable(text).into_owned(), 80),
            why,
        };
        let mut parts = text.splitn(5, '-');
        let mut next = || parts.next().unwrap_or_default();
        let version = hex_number(next(), 2).ok_or_else(|| error("its version is not two lower-case hex digits"))?;
        let trace_id = hex_wide(next(), 32).ok_or_else(|| error("its trace id is not 32 lower-case hex digits"))?;
        let parent_id = hex_number(next(), 16).ok_or_else(|| error("its parent id is not 16 lower-case hex digits"))?;
        let flags = hex_number(next(), 2).ok_or_else(|| error("its flags are not two lower-case hex digits"))?;
        if version == 0xff {
            return Err(error("version ff is not allowed"));
        }
        // Later versions may add fields at the end; version 0 has four.
        if version == 0 && parts.next().is_some() {
            return Err(error("it has more than four fields"));
        }
        if trace_id == 0 || parent_id == 0 {
            return Err(error("an id of zeros means there is none"));
        }
        Ok(Self {
            trace_id,
            parent_id,
            flags: u8::try_from(flags).unwrap_or_default(),
        })
    }
}

fn hex_wide(text: &str, digits: usize) -> Option<u128> {
    let lower_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    (text.len() == digits && text.bytes().all(lower_hex))
        .then(|| u128::from_str_radix(text, 16).ok())
        .flatten()
}

fn hex_number(text: &str, digits: usize) -> Option<u64> {
    hex_wide(text, digits).and_then(|number| u64::try_from(number).ok())
}

/// The most bytes of a value that go into a span.
const MAX_FIELD: usize = 256;

/// The most bytes of an error that go into a log.
const MAX_SAID: usize = 2 * 1024;

/// The span of one delivery. What comes from outside is escaped, so that no message can forge a line of the log, and bounded;
/// bodies are never in it. The fencing token is recorded later where it is not known yet.
pub(crate) fn delivery_span(
    queue: &str,
    message: &Message,
    key: &str,
    attempt: u32,
    fencing_token: Option<u64>,
) -> tracing::Span {
    let span = tracing::info_span!(
        "delivery",
        queue = %shown(queue),
        message_id = %shown(&message.id),
        key = %shown(key),
        attempt,
        fencing_token = tracing::field::Empty,
        trace_id = tracing::field::Empty,
    );
    if let Some(token) = fencing_token {
        span.record("fencing_token", token);
    }
    if let Some(context) = TraceContext::of(message) {
        span.record("trace_id", tracing::field::display(context.trace_id()));
    }
    span
}

/// `text` as it may stand in a log line: bounded, and without characters that end a line or drive a terminal. Every foreign
/// text of a log goes through here, keys and ids above all.
pub(crate) fn shown(text: &str) -> String {
    escaped(text, MAX_FIELD)
}

/// An error as it may stand in a log line: as [`shown`], with room for what it says and for what to do.
pub(crate) fn said(error: impl fmt::Display) -> String {
    escaped(&error.to_string(), MAX_SAID)
}

fn escaped(text: &str, most: usize) -> String {
    // What will be cut off need not be escaped first: a key may have a megabyte.
    let start = &text[..text.floor_char_boundary(most + 1)];
    crate::outcome::bounded(printable(start).into_owned(), most)
}

/// Control characters, line ends of Unicode, and what changes the direction of text or is not seen.
fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// `text` with control characters, and those that change the direction of text, escaped.
pub(crate) fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(is_hidden) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if is_hidden(c) {
            safe.extend(c.escape_default());
        } else {
            safe.push(c);
        }
    }
    Cow::Owned(safe)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::fmt::Write as _;

    /// The page's table as the list of metrics makes it.
    fn rows() -> Vec<String> {
        METRICS
            .iter()
            .map(|metric| {
                let mut labels = String::new();
                for label in metric.labels {
                    let _ = write!(labels, "{}`{label}`", if labels.is_empty() { "" } else { ", " });
                }
                format!(
                    "| `{}` | {} | `{}` | {labels} | {} |",
                    metric.name, metric.instrument, metric.unit, metric.description
                )
            })
            .collect()
    }

    #[test]
    fn the_page_of_metrics_lists_exactly_the_metrics_there_are() {
        let page = include_str!("../docs/metrics.md");
        let listed: Vec<&str> = page.lines().filter(|line| line.starts_with("| `")).collect();
        assert_eq!(
            listed,
            rows(),
            "docs/metrics.md should have this table:\n{}\n",
            rows().join("\n")
        );
    }

    #[test]
    fn every_metric_is_one_that_some_code_reports() {
        fn read(folder: &std::path::Path, text: &mut String) {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    read(&path, text);
                } else if path.extension().is_some_and(|kind| kind == "rs") && !path.ends_with("telemetry.rs") {
                    text.push_str(&std::fs::read_to_string(path).unwrap());
                }
            }
        }
        let source = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let own = std::fs::read_to_string(source.join("telemetry.rs")).unwrap();
        let mut text = own.split("pub(crate) fn count_call").nth(1).unwrap().to_owned();
        text.truncate(text.find("#[cfg(test)]").unwrap());
        read(&source, &mut text);
        for name in CONSTANTS {
            let made = [format!("(&{name},"), format!("::{name},")];
            assert!(made.iter().any(|made| text.contains(made)), "nothing reports {name}");
        }
    }

    #[test]
    fn names_are_unique_and_in_the_facades_manner() {
        let names: BTreeSet<_> = METRICS.iter().map(|metric| metric.name).collect();
        assert_eq!(names.len(), METRICS.len());
        for name in names {
            assert!(name.starts_with("messaging.") || name.starts_with("redrive."), "{name}");
        }
    }

    #[test]
    fn what_is_counted_arrives_at_the_recorder_with_its_unit_and_labels() {
        let recorder = metrics_util::debugging::DebuggingRecorder::new();
        metrics::with_local_recorder(&recorder, || {
            describe();
            counter(&CONSUMED, &[(QUEUE, "orders"), (OPERATION, "receive")]).increment(3);
        });
        let seen = recorder.snapshotter().snapshot().into_vec();
        let (key, unit, description, value) = seen.into_iter().next().unwrap();
        assert_eq!(key.key().name(), "messaging.client.consumed.messages");
        let labels: BTreeSet<_> = key
            .key()
            .labels()
            .map(|l| (l.key().to_owned(), l.value().to_owned()))
            .collect();
        assert!(labels.contains(&(QUEUE.into(), "orders".into())));
        assert!(labels.contains(&(SYSTEM.into(), AWS_SQS.into())));
        assert_eq!(unit, Some(Unit::Count));
        assert_eq!(description.unwrap().as_ref(), CONSUMED.description);
        assert_eq!(value, metrics_util::debugging::DebugValue::Counter(3));
    }

    #[test]
    fn a_traceparent_is_taken_only_as_the_standard_writes_it() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(good.parse::<TraceContext>().unwrap().to_string(), good);
        assert!(format!("cc{}-more", &good[2..]).parse::<TraceContext>().is_ok());
        for bad in [
            "",
            "00",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-äbf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
        ] {
            assert!(bad.parse::<TraceContext>().is_err(), "{bad}");
        }
    }

    #[test]
    fn trace_context_is_read_from_the_attribute_else_from_the_aws_header() {
        let mut message = Message::new("mid", "{}");
        assert_eq!(TraceContext::of(&message), None);
        message.trace_header =
            Some("Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1".into());
        let context = TraceContext::of(&message).unwrap();
        assert_eq!(
            context.to_string(),
            "00-5759e988bd862e3fe1be46a994272793-53995c3f42cd8ad8-01"
        );
        let own = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
        message
            .attributes
            .insert(TRACEPARENT_ATTRIBUTE.into(), Attribute::string(own));
        assert_eq!(TraceContext::of(&message).unwrap().to_string(), own);
        for bad in [
            "",
            "Root=1-5759e988",
            "Root=1-x-y;Parent=z",
            "Parent=53995c3f42cd8ad8",
            ";;=;",
        ] {
            assert_eq!(TraceContext::from_aws_header(bad), None);
        }
    }

    #[test]
    fn no_message_can_forge_a_line_of_the_log() {
        let shown = shown("a\nERROR forged\u{1b}[2J\u{202e}b\u{61c}");
        assert!(!shown.chars().any(char::is_control));
        assert_eq!(shown, "a\\nERROR forged\\u{1b}[2J\\u{202e}b\\u{61c}");
        assert!(super::shown(&"x".repeat(10_000)).len() <= MAX_FIELD);
        assert_eq!(super::shown("größe"), "größe");
    }

    #[test]
    fn the_span_of_a_delivery_says_what_it_is_of_and_never_the_body() {
        let log = crate::logged::Log::default();
        let logged = log.take();
        let message = Message::new("mid-1", "secret body");
        let span = delivery_span("orders", &message, "order-7\nforged", 2, Some(9));
        span.in_scope(|| tracing::info!("started"));
        drop(logged);
        let text = log.text();
        for part in [
            "queue=orders",
            "message_id=mid-1",
            "key=order-7\\nforged",
            "attempt=2",
            "fencing_token=9",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(!text.contains("secret"));
        assert_eq!(text.lines().count(), 1);
    }
}
