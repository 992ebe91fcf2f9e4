//! The OpenTelemetry spans of deliveries: one from the receive until all is settled, linked to whoever sent the message, with
//! children for the claim, the handler's run and the settling.
//!
//! They are made through OpenTelemetry's global tracer, at the times the engine says. Where none is installed, nothing is made
//! and nothing allocated.

mod delivery;
mod send;

use std::sync::Arc;
use std::time::SystemTime;

use futures::future::FutureExt as _;
use opentelemetry::global::{self, BoxedTracer};
use opentelemetry::trace::{
    FutureExt as _, Link, Span as _, SpanBuilder, SpanContext, SpanId, SpanKind, TraceContextExt as _, TraceFlags,
    TraceId, TraceState, Tracer as _,
};
use opentelemetry::{Context, InstrumentationScope, KeyValue, Value};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use super::{AWS_SQS, OPERATION, QUEUE, SYSTEM, TraceContext, shown};
use crate::clock::{Clock, Instant};
use crate::message::{Delivery, Message};
use delivery::Trace;

pub(crate) use delivery::DeliveryTrace;
pub(crate) use send::SendTrace;

/// The instrumentation's name.
const SCOPE: &str = "redrive";

const OPERATION_TYPE: &str = "messaging.operation.type";
const MESSAGE_ID: &str = "messaging.message.id";
const BATCH_COUNT: &str = "messaging.batch.message_count";

/// The tracer of redrive's own spans.
fn tracer() -> BoxedTracer {
    let scope = InstrumentationScope::builder(SCOPE).with_version(env!("CARGO_PKG_VERSION"));
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
        let trace = || Box::new(Trace::new(spans, anchor, none.with_span(span)));
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

/// What a run is made within, so that the spans of what it calls are children of its own.
pub(crate) struct RunTrace(Option<Context>);

impl RunTrace {
    pub(crate) fn around<F: Future>(self, run: F) -> impl Future<Output = F::Output> {
        match self.0 {
            Some(context) => run.with_context(context).left_future(),
            None => run.right_future(),
        }
    }
}
