//! Traces, exported by OpenTelemetry's protocol over HTTP: feature `otel`.
//!
//! A worker makes a span of each delivery, from its receive until it is settled, in a trace of its own that is linked to the
//! span of whoever sent the message, with children for the claim, the handler's run and the settling. What a handler does in
//! spans of [`tracing`] or OpenTelemetry is below the run's. A [`Producer`](crate::Producer) makes a span of what it sends
//! within another span, and has the message carry its context. Names and attributes are those of OpenTelemetry's semantic
//! conventions for messaging; the page `docs/tracing.md` lists them.
//!
//! [`Otel`] sets an exporter up from the standard `OTEL_*` variables. A program that has its own need not use it: spans go to
//! OpenTelemetry's global tracer provider, whoever installed it, if it did before the worker runs.

mod export;
mod variables;

use std::sync::Arc;
use std::time::Duration;

use opentelemetry::global;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{BatchConfigBuilder, BatchSpanProcessor, SdkTracerProvider};
use tokio::sync::oneshot;
use tracing::Subscriber;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::registry::LookupSpan;

use crate::telemetry::said;
use crate::worker::{Beside, Companion};
use export::{Bounded, Tally, Watched};
use variables::Variables;

/// How long what is left may take to be exported at the end: within the second that a [`Companion`] has.
const FLUSH: Duration = Duration::from_millis(900);

/// Traces cannot be exported as the environment says.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OtelError {
    /// A variable's value cannot be used.
    #[error("{name}{}: {why}", given(.value.as_deref()))]
    Variable {
        /// The variable.
        name: &'static str,
        /// Its value, unless it holds a secret.
        value: Option<String>,
        /// What is wrong with it, and what to do.
        why: &'static str,
    },
    /// The exporter cannot be made.
    #[error("traces cannot be exported: {0}")]
    Exporter(String),
}

fn given(value: Option<&str>) -> String {
    value.map(|value| format!("=`{value}`")).unwrap_or_default()
}

/// Exports the spans of this process: of workers, of producers, and of the program itself.
///
/// ```no_run
/// use redrive::otel::Otel;
/// use redrive::worker::WithoutDeadLetters;
/// use redrive::{Failure, MemoryQueue, Worker};
/// use tracing_subscriber::layer::SubscriberExt as _;
/// use tracing_subscriber::util::SubscriberInitExt as _;
///
/// #[tokio::main]
/// async fn main() -> Result<(), redrive::Error> {
///     // Nothing, where OTEL_EXPORTER_OTLP_ENDPOINT is not set.
///     let otel = Otel::from_env()?;
///     tracing_subscriber::registry()
///         .with(tracing_subscriber::fmt::layer())
///         .with(otel.as_ref().map(Otel::layer))
///         .init();
///     Worker::builder(MemoryQueue::new("orders")?)
///         .without_dead_letters(WithoutDeadLetters::Keep)
///         .handler(async || Ok::<_, Failure>(()))
///         .beside(otel) // exports what is left when the worker has ended
///         .build()?
///         .run()
///         .await
/// }
/// ```
///
/// An exporter that cannot be reached, refuses or hangs holds nothing up: up to `OTEL_BSP_MAX_QUEUE_SIZE` spans wait for it,
/// those beyond are dropped and counted, and a warning says so, once. Clones are of the same exporter.
#[derive(Clone, Debug)]
pub struct Otel {
    provider: SdkTracerProvider,
    tally: Arc<Tally>,
}

impl Otel {
    /// An exporter as the standard variables say, installed as OpenTelemetry's global tracer provider, with W3C Trace Context
    /// for the global propagator. To be called once, before the workers run.
    ///
    /// `None` where none is asked for: neither `OTEL_EXPORTER_OTLP_ENDPOINT` nor `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` is set,
    /// or `OTEL_TRACES_EXPORTER` is `none`, or `OTEL_SDK_DISABLED` is `true`.
    ///
    /// # Errors
    /// [`OtelError`] if a variable has a value that cannot be used. That the exporter can be reached is not asked.
    pub fn from_env() -> Result<Option<Self>, OtelError> {
        let Some(variables) = Variables::read(|name| std::env::var(name).ok())? else {
            return Ok(None);
        };
        // The rest of the variables is read by the exporter itself.
        let exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_http()
            .build()
            .map_err(|error| OtelError::Exporter(said(error)))?;
        let tally = Arc::new(Tally::new(variables.queue));
        let exporter = Watched::new(exporter, variables.place, Arc::clone(&tally));
        let batches = BatchConfigBuilder::default().with_max_queue_size(variables.queue);
        let batches = BatchSpanProcessor::builder(exporter).with_batch_config(batches.build());
        let provider = SdkTracerProvider::builder()
            .with_span_processor(Bounded::new(batches.build(), Arc::clone(&tally)))
            .build();
        global::set_tracer_provider(provider.clone());
        global::set_text_map_propagator(TraceContextPropagator::new());
        Ok(Some(Self { provider, tally }))
    }

    /// Makes OpenTelemetry spans of the program's [`tracing`] spans of level `INFO` and above, and has those in a handler be
    /// children of its run's. Without it there are redrive's own spans alone.
    pub fn layer<S>(&self) -> impl Layer<S> + Send + Sync + use<S>
    where
        S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
    {
        tracing_opentelemetry::layer()
            .with_tracer(self.provider.tracer(env!("CARGO_PKG_NAME")))
            .with_location(false)
            .with_threads(false)
            .with_tracked_inactivity(false)
            .with_target(false)
            .with_filter(LevelFilter::INFO)
    }

    /// Exports what is left, for a second at most, and says how many spans could not be exported. For programs without a
    /// worker to be [beside](crate::worker::Builder::beside), or that make spans after it has ended.
    pub async fn flush(&self) {
        let provider = self.provider.clone();
        let (done, is_done) = oneshot::channel();
        // A thread of its own: the runtime would wait for one of its own, and the flush for an exporter that hangs.
        let flush = std::thread::Builder::new()
            .name("otel-flush".to_owned())
            .spawn(move || {
                // What failed was said by the exporter, and is counted.
                let _ = provider.force_flush();
                let _ = done.send(());
            });
        if flush.is_ok() {
            let _ = tokio::time::timeout(FLUSH, is_done).await;
        }
        self.tally.say_lost();
    }
}

impl Companion for Otel {
    async fn run(self, beside: Beside) {
        beside.ended().await;
        self.flush().await;
    }
}
