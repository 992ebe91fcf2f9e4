//! The span of a send, and the context that a message carries.

use opentelemetry::trace::SpanKind;
use redrive::faults::{Operation, Rates};
use redrive::message::{Attribute, KEY_ATTRIBUTE, Outgoing, TRACEPARENT_ATTRIBUTE};
use redrive::{MemoryQueue, NewMessage, Producer};
use tracing::Instrument as _;

use crate::collected::{Collected, Layer, error, install, links, text};

const OWN: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn traceparent(queue: &MemoryQueue) -> Option<String> {
    let message = queue.messages().remove(0);
    message.attribute(TRACEPARENT_ATTRIBUTE).map(str::to_owned)
}

/// Sends it within a span, and answers what it then carries.
async fn sent_within_a_span(queue: &MemoryQueue, message: NewMessage) -> Option<String> {
    let producer = Producer::new(queue.clone());
    let sending = producer.send(message).instrument(tracing::info_span!("request"));
    sending.await.unwrap();
    traceparent(queue)
}

fn the_send(all: &Collected, queue: &str) -> opentelemetry_sdk::trace::SpanData {
    let mut sends = all.named(&format!("send {queue}"));
    assert_eq!(sends.len(), 1);
    sends.remove(0)
}

#[tokio::test(start_paused = true)]
async fn a_message_that_is_sent_within_a_span_carries_the_context_of_a_span_of_its_own() {
    let (all, _guard) = install(Layer::Seen);
    let queue = MemoryQueue::new("sent").unwrap();
    let carried = sent_within_a_span(&queue, NewMessage::text("1").key("k")).await;
    let send = the_send(&all, "sent");
    let context = &send.span_context;
    assert_eq!(
        carried,
        Some(format!("00-{}-{}-01", context.trace_id(), context.span_id()))
    );
    assert_eq!(send.span_kind, SpanKind::Producer);
    for (name, value) in [
        ("messaging.system", "aws_sqs"),
        ("messaging.destination.name", "sent"),
        ("messaging.operation.name", "send"),
        ("messaging.operation.type", "send"),
        ("messaging.message.id", queue.messages()[0].id.as_str()),
    ] {
        assert_eq!(text(&send, name).as_deref(), Some(value), "{name}");
    }
    let request = all.named("request");
    let request = request
        .iter()
        .find(|span| span.span_context.trace_id() == context.trace_id())
        .unwrap();
    assert_eq!(send.parent_span_id, request.span_context.span_id());
    assert_eq!(error(&send), None);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_is_sent_outside_of_every_span_is_sent_as_it_is() {
    let (all, _guard) = install(Layer::Seen);
    let queue = MemoryQueue::new("bare").unwrap();
    Producer::new(queue.clone()).send(NewMessage::text("1")).await.unwrap();
    assert_eq!(traceparent(&queue), None);
    assert!(all.named("send bare").is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_context_of_the_messages_own_is_kept_and_linked_to() {
    let (all, _guard) = install(Layer::Seen);
    let queue = MemoryQueue::new("own").unwrap();
    let message = NewMessage::text("1").trace(OWN.parse().unwrap());
    assert_eq!(sent_within_a_span(&queue, message).await.as_deref(), Some(OWN));
    assert_eq!(links(&the_send(&all, "own")), [OWN]);
    let queue = MemoryQueue::new("x-ray").unwrap();
    let mut message = Outgoing::new("1");
    message.trace_header = Some("Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8".into());
    assert_eq!(sent_within_a_span(&queue, message.into()).await, None);
    assert_eq!(
        links(&the_send(&all, "x-ray")),
        ["00-5759e988bd862e3fe1be46a994272793-53995c3f42cd8ad8-00"]
    );
}

#[tokio::test(start_paused = true)]
async fn no_message_is_refused_for_the_context_that_was_to_travel_with_it() {
    let (all, _guard) = install(Layer::Seen);
    let queue = MemoryQueue::new("full").unwrap();
    let mut message = NewMessage::text("1").key("k");
    for n in 0..9 {
        message = message.attribute(format!("a{n}"), Attribute::number(n));
    }
    assert_eq!(sent_within_a_span(&queue, message).await, None);
    the_send(&all, "full");
    let queue = MemoryQueue::new("large").unwrap();
    let most = 1024 * 1024 - KEY_ATTRIBUTE.len() - "String".len() - "k".len();
    assert_eq!(
        sent_within_a_span(&queue, NewMessage::text("x".repeat(most)).key("k")).await,
        None
    );
    let queue = MemoryQueue::new("just-fits").unwrap();
    let most = most - TRACEPARENT_ATTRIBUTE.len() - "String".len() - OWN.len();
    assert!(
        sent_within_a_span(&queue, NewMessage::text("x".repeat(most)).key("k"))
            .await
            .is_some()
    );
}

#[tokio::test(start_paused = true)]
async fn what_was_in_a_queue_before_is_moved_as_it_is() {
    let (all, _guard) = install(Layer::Seen);
    let queue = MemoryQueue::new("moved").unwrap();
    assert_eq!(
        sent_within_a_span(&queue, NewMessage::verbatim(Outgoing::new("1"))).await,
        None
    );
    assert!(all.named("send moved").is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_send_that_fails_says_what_kind_of_error_it_was() {
    let (all, _guard) = install(Layer::Seen);
    let faults = redrive::faults::FaultPlan::seeded(1).on(Operation::Send, Rates::new().before(1.0));
    let queue = MemoryQueue::builder("unreachable").faults(faults).build().unwrap();
    let producer = Producer::builder(queue).attempts(2).build().unwrap();
    let sending = producer
        .send(NewMessage::text("1"))
        .instrument(tracing::info_span!("request"));
    sending.await.unwrap_err();
    assert_eq!(error(&the_send(&all, "unreachable")).as_deref(), Some("given_up"));
}
