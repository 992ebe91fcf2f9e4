//! What is exported: spans of all tests of this process, told apart by their queues.

use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use opentelemetry::trace::{SpanId, SpanKind, Status};
use opentelemetry::{Value, global};
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData, SpanExporter};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

#[derive(Clone, Debug, Default)]
pub(crate) struct Collected(Arc<Mutex<Vec<SpanData>>>);

impl SpanExporter for Collected {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        self.0.lock().unwrap().extend(batch);
        Ok(())
    }
}

/// What [`tracing`] tells OpenTelemetry of: as a program that has a layer, with or without redrive's own spans, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layer {
    Seen,
    Disabled,
}

/// All that is exported, and a subscriber for this thread. Everything a program has of OpenTelemetry is installed.
pub(crate) fn install(layer: Layer) -> (Collected, tracing::subscriber::DefaultGuard) {
    static ALL: OnceLock<(Collected, SdkTracerProvider)> = OnceLock::new();
    // With a single subscriber, a thread that has none would decide for all that a new place of the code is of no interest.
    static ANOTHER: OnceLock<tracing::Dispatch> = OnceLock::new();
    ANOTHER.get_or_init(|| tracing::Dispatch::new(tracing::subscriber::NoSubscriber::new()));
    let (all, provider) = ALL.get_or_init(|| {
        let all = Collected::default();
        let provider = SdkTracerProvider::builder().with_simple_exporter(all.clone()).build();
        global::set_tracer_provider(provider.clone());
        (all, provider)
    });
    use opentelemetry::trace::TracerProvider as _;
    use tracing_subscriber::filter::filter_fn;
    let layer_of_otel = tracing_opentelemetry::layer().with_tracer(provider.tracer("the program"));
    let delivery = |name: &str| name == "delivery";
    let seen = tracing_subscriber::registry()
        .with(layer_of_otel)
        .with(filter_fn(move |meta| layer == Layer::Seen || !delivery(meta.name())));
    (all.clone(), seen.set_default())
}

impl Collected {
    pub(crate) fn all(&self) -> Vec<SpanData> {
        self.0.lock().unwrap().clone()
    }

    /// The deliveries of this queue, in the order in which they ended.
    pub(crate) fn deliveries(&self, queue: &str) -> Vec<Tree> {
        let all = self.all();
        let roots = all.iter().filter(|span| {
            span.span_kind == SpanKind::Consumer && text(span, "messaging.destination.name").as_deref() == Some(queue)
        });
        roots
            .map(|root| Tree {
                root: root.clone(),
                rest: all
                    .iter()
                    .filter(|span| span.span_context.trace_id() == root.span_context.trace_id())
                    .filter(|span| span.span_context.span_id() != root.span_context.span_id())
                    .cloned()
                    .collect(),
            })
            .collect()
    }

    /// The only delivery of this queue.
    pub(crate) fn delivery(&self, queue: &str) -> Tree {
        let mut all = self.deliveries(queue);
        assert_eq!(all.len(), 1, "{all:#?}");
        all.remove(0)
    }

    pub(crate) fn named(&self, name: &str) -> Vec<SpanData> {
        self.all().into_iter().filter(|span| span.name == name).collect()
    }
}

/// A delivery's span and what else is in its trace.
#[derive(Clone, Debug)]
pub(crate) struct Tree {
    pub(crate) root: SpanData,
    pub(crate) rest: Vec<SpanData>,
}

impl Tree {
    pub(crate) fn names(&self) -> Vec<String> {
        let mut rest: Vec<&SpanData> = self.rest.iter().collect();
        rest.sort_by_key(|span| span.end_time);
        rest.iter().map(|span| span.name.to_string()).collect()
    }

    /// The only span of this operation, which is a child of the delivery's.
    pub(crate) fn child(&self, operation: &str) -> &SpanData {
        let is = |span: &&SpanData| text(span, "messaging.operation.name").as_deref() == Some(operation);
        let found: Vec<_> = self.rest.iter().filter(is).collect();
        assert_eq!(found.len(), 1, "{operation}: {:?}", self.names());
        assert_eq!(found[0].parent_span_id, self.id(), "{operation}");
        found[0]
    }

    pub(crate) fn id(&self) -> SpanId {
        self.root.span_context.span_id()
    }

    pub(crate) fn is(&self, name: &str) -> Option<String> {
        text(&self.root, name)
    }
}

pub(crate) fn text(span: &SpanData, name: &str) -> Option<String> {
    let found = span
        .attributes
        .iter()
        .filter(|attribute| attribute.key.as_str() == name);
    let found: Vec<_> = found.collect();
    assert!(found.len() < 2, "{name} twice: {found:?}");
    found.first().map(|attribute| match &attribute.value {
        Value::String(text) => text.as_str().to_owned(),
        other => other.to_string(),
    })
}

pub(crate) fn lasts(span: &SpanData) -> Duration {
    span.end_time.duration_since(span.start_time).unwrap()
}

pub(crate) fn error(span: &SpanData) -> Option<String> {
    match &span.status {
        Status::Error { description } => {
            assert_eq!(
                text(span, "error.type").as_deref(),
                Some(description.as_ref()),
                "{}",
                span.name
            );
            Some(description.to_string())
        }
        _ => {
            assert_eq!(text(span, "error.type"), None, "{}", span.name);
            None
        }
    }
}

/// The contexts it is linked to, as a `traceparent`.
pub(crate) fn links(span: &SpanData) -> Vec<String> {
    let contexts = span.links.links.iter().map(|link| &link.span_context);
    contexts
        .map(|context| {
            let flags = context.trace_flags().to_u8();
            format!("00-{}-{}-{flags:02x}", context.trace_id(), context.span_id())
        })
        .collect()
}

pub(crate) fn events(span: &SpanData) -> Vec<String> {
    span.events.iter().map(|event| event.name.to_string()).collect()
}
