//! The span of a message's sending.

use opentelemetry::KeyValue;
use opentelemetry::global::BoxedSpan;
use opentelemetry::trace::{Span as _, SpanBuilder, SpanKind, Status, Tracer as _};

use super::{Anchor, MESSAGE_ID, about, current, tracer};
use crate::clock::Clock;
use crate::message::{Attribute, Outgoing, TRACEPARENT_ATTRIBUTE};
use crate::queue::MAX_ATTRIBUTES;
use crate::telemetry::{ERROR_TYPE, TraceContext, shown};

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
        let own = TraceContext::carried(own, message.trace_header.as_deref());
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
