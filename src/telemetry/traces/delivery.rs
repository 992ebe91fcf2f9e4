//! One delivery's span and its children.

use std::sync::Arc;

use opentelemetry::trace::{Event, Span as _, SpanBuilder, SpanKind, Status, TraceContextExt as _, Tracer as _};
use opentelemetry::{Context, KeyValue};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use super::{Anchor, RunTrace, Spans, about, is_valid};
use crate::clock::Instant;
use crate::outcome::{Cause, Failure, Outcome};
use crate::telemetry::{ERROR_TYPE, shown};

/// Steps of settling that are noted at most; a delivery has six unless something is tried for long.
const MAX_STEPS: usize = 16;

/// The spans of one delivery.
pub(crate) struct DeliveryTrace(pub(super) Option<Box<Trace>>);

pub(super) struct Trace {
    spans: Arc<Spans>,
    anchor: Anchor,
    /// The span of the whole delivery.
    process: Context,
    claim_sent: Option<Instant>,
    pub(super) run: Option<Run>,
    settling: Option<Settling>,
    /// What failed last: a claim, or a run.
    failed: Option<String>,
}

/// The span of a handler's run.
pub(super) struct Run {
    pub(super) context: Context,
    /// What it was begun by: the layer's clock is the system's.
    anchor: Anchor,
    /// It is this one's, which would end it with the future of the run, before what the outcome says is known.
    _span: Option<tracing::Span>,
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

    /// Its handler is about to run within `span`, which becomes the run's own if a layer of OpenTelemetry sees it.
    pub(crate) fn run_started(&mut self, now: Instant, attempt: u32, span: &tracing::Span) -> RunTrace {
        let Some(trace) = &mut self.0 else {
            return RunTrace(None);
        };
        let attempt = KeyValue::new("redrive.attempt", i64::from(attempt));
        trace.process.span().set_attribute(attempt.clone());
        if let Some(context) = trace.seen(span) {
            let own = context.span();
            own.update_name(trace.spans.handle.clone());
            own.set_attributes(about(&trace.spans.queue, "handle", None));
            own.set_attribute(attempt);
            trace.run = Some(Run {
                context,
                anchor: Anchor::of(&trace.spans.clock),
                _span: Some(span.clone()),
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
            anchor: trace.anchor,
            _span: None,
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
    pub(super) fn new(spans: Arc<Spans>, anchor: Anchor, process: Context) -> Self {
        Self {
            spans,
            anchor,
            process,
            claim_sent: None,
            run: None,
            settling: None,
            failed: None,
        }
    }

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
            span.add_event_with_timestamp("exception", run.anchor.wall(now), about);
        } else if stopped {
            span.set_attribute(KeyValue::new(ERROR_TYPE, "stopped"));
            span.set_status(Status::error("stopped"));
        }
        // A task that the handler left behind may hold its span for long: the run has ended all the same.
        span.end_with_timestamp(run.anchor.wall(now));
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
            if reason.is_some() {
                span.set_attribute(KeyValue::new("redrive.reason", failed.clone()));
            }
            span.set_attribute(KeyValue::new(ERROR_TYPE, failed.clone()));
            span.set_status(Status::error(failed));
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
