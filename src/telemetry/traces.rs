//! The OpenTelemetry spans of deliveries: one from the receive until all is settled, linked to whoever sent the message, with
//! children for the claim, the handler's run and the settling.
//!
//! They are made through OpenTelemetry's global tracer, at the times the engine says. Where none is installed, nothing is made
//! and nothing allocated.

use std::sync::Arc;
use std::time::SystemTime;

use futures::future::FutureExt as _;
use opentelemetry::global::{self, BoxedSpan, BoxedTracer};
use opentelemetry::trace::{
    Event, FutureExt as _, Link, Span as _, SpanBuilder, SpanContext, SpanId, SpanKind, Status, TraceContextExt as _,
    TraceFlags, TraceId, TraceState, Tracer as _,
};
use opentelemetry::{Context, KeyValue, StringValue, Value};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use super::{AWS_SQS, ERROR_TYPE, OPERATION, QUEUE, SYSTEM, TraceContext, shown};
use crate::clock::{Clock, Instant};
use crate::message::{Attribute, Delivery, Message, Outgoing, TRACEPARENT_ATTRIBUTE};
use crate::outcome::{Cause, Failure, Outcome};
use crate::queue::MAX_ATTRIBUTES;

/// The instrumentation's name.
const SCOPE: &str = "redrive";

const OPERATION_TYPE: &str = "messaging.operation.type";
const MESSAGE_ID: &str = "messaging.message.id";
const BATCH_COUNT: &str = "messaging.batch.message_count";

/// Steps of settling that are noted at most; a delivery has six unless something is tried for long.
const MAX_STEPS: usize = 16;

/// The tracer of redrive's own spans.
fn tracer() -> BoxedTracer {
    let scope = opentelemetry::InstrumentationScope::builder(SCOPE).with_version(env!("CARGO_PKG_VERSION"));
    global::tracer_with_scope(scope.build())
}

/// The attributes by which samplers choose.
fn about(queue: &Arc<str>, operation: &'static str, kind: Option<&'static str>) -> Vec<KeyValue> {
    let mut about = Vec::with_capacity(10);
    about.push(KeyValue::new(SYSTEM, AWS_SQS));
    about.push(KeyValue::new(QUEUE, Value::String(Arc::clone(queue).into())));
    about.push(KeyValue::new(OPERATION, operation));
    if let Some(kind) = kind {
        about.push(KeyValue::new(OPERATION_TYPE, kind));
    }
    about
}

impl TraceContext {
    fn of_span(span: &SpanContext) -> Option<Self> {
        Self::new(
            u128::from_be_bytes(span.trace_id().to_bytes()),
            u64::from_be_bytes(span.span_id().to_bytes()),
            span.is_sampled(),
        )
    }

    /// As what a span is linked to.
    fn link(self) -> Link {
        let flags = TraceFlags::default().with_sampled(self.sampled());
        let trace_id = TraceId::from_bytes(self.trace_id.to_be_bytes());
        let span_id = SpanId::from_bytes(self.parent_id.to_be_bytes());
        Link::with_context(SpanContext::new(trace_id, span_id, flags, true, TraceState::default()))
    }
}

/// The context of the span that is current.
pub(super) fn current_context() -> Option<TraceContext> {
    current().and_then(|current| TraceContext::of_span(current.span().span_context()))
}

/// The OpenTelemetry context of where this is called, if it has a span.
fn current() -> Option<Context> {
    if let Some(active) = Context::map_current(|current| is_valid(current).then(|| current.clone())) {
        return Some(active);
    }
    let of_tracing = tracing::Span::current().context();
    is_valid(&of_tracing).then_some(of_tracing)
}

fn is_valid(context: &Context) -> bool {
    context.has_active_span() && context.span().span_context().is_valid()
}

/// A moment by both clocks, so that what is told by one is written by the other.
#[derive(Clone, Copy, Debug)]
struct Anchor {
    at: Instant,
    wall: SystemTime,
}

impl Anchor {
    fn of(clock: &Clock) -> Self {
        Self {
            at: clock.now(),
            wall: clock.system_time(),
        }
    }

    fn wall(&self, at: Instant) -> SystemTime {
        let later = at.saturating_duration_since(self.at);
        let earlier = self.at.saturating_duration_since(at);
        (self.wall + later).checked_sub(earlier).unwrap_or(self.wall)
    }
}

/// Makes the spans of one worker's deliveries.
pub(crate) struct Traces {
    queue: Arc<str>,
    clock: Clock,
    maker: Maker,
}

enum Maker {
    /// No delivery came yet.
    Unknown,
    /// None is installed.
    None,
    Installed(Arc<Spans>),
}

struct Spans {
    tracer: BoxedTracer,
    clock: Clock,
    queue: Arc<str>,
    process: String,
    claim: String,
    handle: String,
    settle: String,
}

impl Spans {
    fn new(queue: &Arc<str>, clock: &Clock) -> Self {
        let destination = shown(queue);
        let named = |operation: &str| format!("{operation} {destination}");
        Self {
            tracer: tracer(),
            clock: clock.clone(),
            queue: Arc::clone(queue),
            process: named("process"),
            claim: named("claim"),
            handle: named("handle"),
            settle: named("settle"),
        }
    }
}

impl Traces {
    /// For a worker of this queue. Whether a tracer is installed is found out with the first delivery.
    pub(crate) fn new(queue: &str, clock: &Clock) -> Self {
        Self {
            queue: queue.into(),
            clock: clock.clone(),
            maker: Maker::Unknown,
        }
    }

    /// A delivery was received at `at`. `earlier` is the trace context it had before it became a dead letter.
    pub(crate) fn received(
        &mut self,
        at: Instant,
        delivery: &Delivery,
        key: &str,
        earlier: Option<&str>,
    ) -> DeliveryTrace {
        let spans = match &self.maker {
            Maker::None => return DeliveryTrace(None),
            Maker::Installed(spans) => Arc::clone(spans),
            Maker::Unknown => Arc::new(Spans::new(&self.queue, &self.clock)),
        };
        let anchor = Anchor::of(&self.clock);
        let message = &delivery.message;
        let mut attributes = about(&spans.queue, "process", Some("process"));
        attributes.push(KeyValue::new(MESSAGE_ID, shown(&message.id)));
        attributes.push(KeyValue::new("redrive.key", shown(key)));
        attributes.push(KeyValue::new(
            "redrive.receive_count",
            i64::from(delivery.receive_count),
        ));
        if let Some(group) = &message.group_id {
            attributes.push(KeyValue::new("redrive.group", shown(group)));
        }
        let mut builder = SpanBuilder::from_name(spans.process.clone())
            .with_kind(SpanKind::Consumer)
            .with_start_time(anchor.wall(at))
            .with_attributes(attributes);
        if let Some(sender) = sender(message, earlier) {
            builder = builder.with_links(vec![sender.link()]);
        }
        let none = Context::new();
        let span = spans.tracer.build_with_context(builder, &none);
        let is_made = span.span_context().is_valid();
        if matches!(self.maker, Maker::Unknown) {
            self.maker = if is_made {
                Maker::Installed(Arc::clone(&spans))
            } else {
                Maker::None
            };
        }
        let trace = || {
            Box::new(Trace {
                spans,
                anchor,
                process: none.with_span(span),
                claim_sent: None,
                run: None,
                settling: None,
                failed: None,
            })
        };
        DeliveryTrace(is_made.then(trace))
    }

    /// A run of the handler for these deliveries together: one span for all of them, linked to each. To be asked for after
    /// [`DeliveryTrace::run_started`] of each.
    pub(crate) fn batch<'a>(&self, now: Instant, deliveries: impl Iterator<Item = &'a DeliveryTrace>) -> RunTrace {
        let Maker::Installed(spans) = &self.maker else {
            return RunTrace(None);
        };
        let runs: Vec<_> = deliveries
            .filter_map(|delivery| delivery.0.as_ref()?.run.as_ref())
            .collect();
        let links = runs
            .iter()
            .map(|run| Link::with_context(run.context.span().span_context().clone()));
        let mut attributes = about(&spans.queue, "handle", None);
        attributes.push(KeyValue::new(
            BATCH_COUNT,
            i64::try_from(runs.len()).unwrap_or(i64::MAX),
        ));
        let builder = SpanBuilder::from_name(spans.handle.clone())
            .with_start_time(Anchor::of(&self.clock).wall(now))
            .with_attributes(attributes)
            .with_links(links.collect());
        let none = Context::new();
        let span = spans.tracer.build_with_context(builder, &none);
        let made_by = span.span_context().clone();
        for run in runs {
            run.context.span().add_link(made_by.clone(), Vec::new());
        }
        RunTrace(Some(none.with_span(span)))
    }
}

/// Who sent a message: as it says itself, else as its dead letter knew.
fn sender(message: &Message, earlier: Option<&str>) -> Option<TraceContext> {
    TraceContext::of(message).or_else(|| {
        let earlier = earlier?;
        earlier.parse().ok().or_else(|| TraceContext::from_aws_header(earlier))
    })
}

/// The spans of one delivery.
pub(crate) struct DeliveryTrace(Option<Box<Trace>>);

struct Trace {
    spans: Arc<Spans>,
    anchor: Anchor,
    /// The span of the whole delivery.
    process: Context,
    claim_sent: Option<Instant>,
    run: Option<Run>,
    settling: Option<Settling>,
    /// What failed last: a claim, or a run.
    failed: Option<String>,
}

/// The span of a handler's run.
struct Run {
    context: Context,
    /// It is this one's, which then ends it.
    span: Option<tracing::Span>,
}

struct Settling {
    since: Instant,
    steps: Vec<Event>,
}

impl DeliveryTrace {
    /// Its claim is asked for.
    pub(crate) fn claim_sent(&mut self, now: Instant) {
        if let Some(trace) = &mut self.0 {
            trace.claim_sent = Some(now);
        }
    }

    /// The inbox answered, or failed with an error of this kind.
    pub(crate) fn claim_answered(&mut self, now: Instant, answer: Result<&'static str, &'static str>) {
        let Some(trace) = &mut self.0 else { return };
        let Some(sent) = trace.claim_sent.take() else { return };
        trace.failed = answer.err().map(str::to_owned);
        let mut attributes = about(&trace.spans.queue, "claim", None);
        match answer {
            Ok(answer) => attributes.push(KeyValue::new("redrive.claim", answer)),
            Err(kind) => attributes.push(KeyValue::new(ERROR_TYPE, kind)),
        }
        let builder = SpanBuilder::from_name(trace.spans.claim.clone()).with_attributes(attributes);
        trace.child(builder, sent, now, answer.err());
    }

    /// It was claimed under this fencing token.
    pub(crate) fn claimed(&mut self, fencing_token: u64) {
        if let Some(trace) = &mut self.0 {
            let token = i64::try_from(fencing_token).unwrap_or(i64::MAX);
            trace
                .process
                .span()
                .set_attribute(KeyValue::new("redrive.fencing_token", token));
        }
    }

    /// It was received again while it was held.
    pub(crate) fn received_again(&mut self, now: Instant) {
        if let Some(trace) = &mut self.0 {
            let at = trace.anchor.wall(now);
            trace
                .process
                .span()
                .add_event_with_timestamp("received_again", at, Vec::new());
        }
    }

    /// Its handler is about to run, in `span` where there is one, which becomes the run's own if a layer of OpenTelemetry sees
    /// it.
    pub(crate) fn run_started(&mut self, now: Instant, attempt: u32, span: Option<&tracing::Span>) -> RunTrace {
        let Some(trace) = &mut self.0 else {
            return RunTrace(None);
        };
        let attempt = KeyValue::new("redrive.attempt", i64::from(attempt));
        trace.process.span().set_attribute(attempt.clone());
        if let Some(span) = span
            && let Some(context) = trace.seen(span)
        {
            let own = context.span();
            own.update_name(trace.spans.handle.clone());
            own.set_attributes(about(&trace.spans.queue, "handle", None));
            own.set_attribute(attempt);
            trace.run = Some(Run {
                context,
                span: Some(span.clone()),
            });
            return RunTrace(None);
        }
        let mut attributes = about(&trace.spans.queue, "handle", None);
        attributes.push(attempt);
        let builder = SpanBuilder::from_name(trace.spans.handle.clone())
            .with_start_time(trace.anchor.wall(now))
            .with_attributes(attributes);
        let own = trace.spans.tracer.build_with_context(builder, &trace.process);
        let context = trace.process.with_span(own);
        trace.run = Some(Run {
            context: context.clone(),
            span: None,
        });
        RunTrace(Some(context))
    }

    /// Its run ended, or was stopped.
    pub(crate) fn run_ended(&mut self, now: Instant, outcome: Option<&Outcome>) {
        let Some(trace) = &mut self.0 else { return };
        let failure = match outcome {
            Some(Outcome::Failed(failure)) => Some(failure),
            _ => None,
        };
        trace.failed = failure.map(|failure| shown(kind_of(failure)));
        trace.end_run(now, failure.map(Failure::error), outcome.is_none());
    }

    /// What is left to do for it is begun.
    pub(crate) fn settling(&mut self, now: Instant) {
        if let Some(trace) = &mut self.0 {
            trace.settling.get_or_insert_with(|| Settling {
                since: now,
                steps: Vec::new(),
            });
        }
    }

    /// A step of that is done.
    pub(crate) fn settled(&mut self, now: Instant, step: &'static str) {
        let Some(trace) = &mut self.0 else { return };
        let at = trace.anchor.wall(now);
        if let Some(settling) = &mut trace.settling
            && settling.steps.len() < MAX_STEPS
        {
            settling.steps.push(Event::new(step, at, Vec::new(), 0));
        }
    }

    /// It is no longer held: `outcome` is what became of it, `reason` why it was given up.
    pub(crate) fn ended(mut self, now: Instant, outcome: &'static str, reason: Option<&str>) {
        if let Some(trace) = self.0.take() {
            trace.ended(now, outcome, reason);
        }
    }
}

/// The worker ended at once, with this in its hands.
impl Drop for DeliveryTrace {
    fn drop(&mut self) {
        if let Some(trace) = self.0.take() {
            let now = trace.spans.clock.now();
            trace.ended(now, "unsettled", None);
        }
    }
}

impl Trace {
    /// A child that has ended already.
    fn child(&self, builder: SpanBuilder, since: Instant, until: Instant, error: Option<&str>) {
        if !self.process.span().is_recording() {
            return;
        }
        let builder = builder.with_start_time(self.anchor.wall(since));
        let mut span = self.spans.tracer.build_with_context(builder, &self.process);
        if let Some(error) = error {
            span.set_status(Status::error(shown(error)));
        }
        span.end_with_timestamp(self.anchor.wall(until));
    }

    /// The context of `span` as a child of this one's, if a layer of OpenTelemetry makes it one.
    fn seen(&self, span: &tracing::Span) -> Option<Context> {
        // Not seen by any layer, or disabled: the answer below says so in every case.
        let _ = span.set_parent(self.process.clone());
        let context = span.context();
        let trace_id = |context: &Context| context.span().span_context().trace_id();
        (is_valid(&context) && trace_id(&context) == trace_id(&self.process)).then_some(context)
    }

    fn end_run(&mut self, now: Instant, error: Option<&str>, stopped: bool) {
        let Some(run) = self.run.take() else { return };
        let span = run.context.span();
        if let Some(kind) = &self.failed {
            span.set_attribute(KeyValue::new(ERROR_TYPE, kind.clone()));
            span.set_status(Status::error(kind.clone()));
            let about = vec![
                KeyValue::new("exception.type", kind.clone()),
                KeyValue::new("exception.message", shown(error.unwrap_or_default())),
            ];
            span.add_event_with_timestamp("exception", self.anchor.wall(now), about);
        } else if stopped {
            span.set_attribute(KeyValue::new(ERROR_TYPE, "stopped"));
            span.set_status(Status::error("stopped"));
        }
        if run.span.is_none() {
            span.end_with_timestamp(self.anchor.wall(now));
        }
    }

    fn ended(mut self, now: Instant, outcome: &'static str, reason: Option<&str>) {
        let left = matches!(outcome, "lost" | "unsettled");
        let failed = match (reason, self.failed.take()) {
            (Some(reason), _) => Some(shown(reason)),
            _ if left => Some(outcome.to_owned()),
            (None, failed) if outcome != "completed" => failed,
            _ => None,
        };
        self.end_run(now, None, true);
        if let Some(Settling { since, steps }) = self.settling.take() {
            let builder = SpanBuilder::from_name(self.spans.settle.clone())
                .with_kind(SpanKind::Client)
                .with_attributes(about(&self.spans.queue, "settle", Some("settle")))
                .with_events(steps);
            self.child(builder, since, now, left.then_some(outcome));
        }
        let span = self.process.span();
        span.set_attribute(KeyValue::new("redrive.outcome", outcome));
        if let Some(failed) = failed {
            let failed = StringValue::from(failed);
            if reason.is_some() {
                span.set_attribute(KeyValue::new("redrive.reason", failed.clone()));
            }
            span.set_attribute(KeyValue::new(ERROR_TYPE, failed.clone()));
            span.set_status(Status::error(failed.as_str().to_owned()));
        }
        span.end_with_timestamp(self.anchor.wall(now));
    }
}

/// What a failure is counted as.
fn kind_of(failure: &Failure) -> &str {
    match failure.reason() {
        Some(reason) => reason.as_str(),
        None => match failure.cause() {
            Cause::Error => "error",
            Cause::Timeout => "timeout",
            Cause::Panic => "panic",
        },
    }
}

/// The span of a message's sending, from when it is taken until it is answered.
pub(crate) struct SendTrace(Option<Sending>);

struct Sending {
    span: BoxedSpan,
    clock: Clock,
    anchor: Anchor,
}

impl SendTrace {
    /// A message for `queue` is about to be sent. Where a span is current it gets one of its own, whose context travels with
    /// the message as long as the queue takes `max_bytes`; one that has a context of its own keeps that.
    pub(crate) fn begun(queue: &str, max_bytes: usize, clock: &Clock, message: &mut Outgoing) -> Self {
        let Some(current) = current() else { return Self(None) };
        let anchor = Anchor::of(clock);
        let own = message
            .attributes
            .get(TRACEPARENT_ATTRIBUTE)
            .and_then(Attribute::as_str);
        let own = own.and_then(|text| text.parse::<TraceContext>().ok());
        let carries_none = message.trace_header.is_none() && !message.attributes.contains_key(TRACEPARENT_ATTRIBUTE);
        let mut builder = SpanBuilder::from_name(format!("send {}", shown(queue)))
            .with_kind(SpanKind::Producer)
            .with_start_time(anchor.wall(anchor.at))
            .with_attributes(about(&queue.into(), "send", Some("send")));
        if let Some(own) = own {
            builder = builder.with_links(vec![own.link()]);
        }
        let span = tracer().build_with_context(builder, &current);
        // What is not recorded by anybody still tells those after it not to.
        let sent = TraceContext::of_span(span.span_context());
        if let Some(context) = sent.filter(|_| carries_none && message.attributes.len() < MAX_ATTRIBUTES) {
            let (name, attribute) = context.as_attribute();
            if message.size() + name.len() + attribute.size() <= max_bytes {
                message.attributes.insert(name.to_owned(), attribute);
            }
        }
        Self(Some(Sending {
            span,
            clock: clock.clone(),
            anchor,
        }))
    }

    /// The queue took it under this MessageId, or it failed with an error of this kind.
    pub(crate) fn answered(&mut self, answer: Result<&str, &str>) {
        let Some(Sending {
            mut span,
            clock,
            anchor,
        }) = self.0.take()
        else {
            return;
        };
        match answer {
            Ok(message_id) => span.set_attribute(KeyValue::new(MESSAGE_ID, shown(message_id))),
            Err(kind) => {
                span.set_attribute(KeyValue::new(ERROR_TYPE, shown(kind)));
                span.set_status(Status::error(shown(kind)));
            }
        }
        span.end_with_timestamp(anchor.wall(clock.now()));
    }
}

/// What a run is made within, so that the spans of what it calls are children of its own.
pub(crate) struct RunTrace(Option<Context>);

impl RunTrace {
    pub(crate) fn none() -> Self {
        Self(None)
    }

    pub(crate) fn around<F: Future>(self, run: F) -> impl Future<Output = F::Output> {
        match self.0 {
            Some(context) => run.with_context(context).left_future(),
            None => run.right_future(),
        }
    }
}
