//! Logs of a worker: JSON lines on standard error, or text above the status line of a terminal.

use std::io::{self, Write as _};

use indicatif::ProgressBar;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

use crate::failure::Failure;

/// How logs are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Text,
    Json,
}

impl Format {
    /// As asked for, else text where somebody looks on.
    pub(super) fn of(asked: Option<&str>, terminal: bool) -> Self {
        match asked {
            Some("json") => Self::Json,
            Some("text") => Self::Text,
            _ if terminal => Self::Text,
            _ => Self::Json,
        }
    }
}

/// What exports traces, where the tool is built with `otel` and the standard variables ask for it.
#[derive(Default)]
pub(super) struct Traces {
    #[cfg(feature = "otel")]
    otel: Option<redrive::otel::Otel>,
}

impl Traces {
    fn start() -> Result<Self, Failure> {
        Ok(Self {
            #[cfg(feature = "otel")]
            otel: redrive::otel::Otel::from_env().map_err(Failure::usage)?,
        })
    }

    /// Exports what is left, for a second at most.
    pub(super) async fn flush(&self) {
        #[cfg(feature = "otel")]
        if let Some(otel) = &self.otel {
            otel.flush().await;
        }
    }
}

/// Starts the log: what RUST_LOG asks for, else what a worker does beyond its daily work, or only its warnings if `quiet`.
/// And what exports traces.
pub(super) fn start(format: Format, quiet: bool, bar: ProgressBar) -> Result<Traces, Failure> {
    let traces = Traces::start()?;
    let usual = if quiet { "redrive=warn" } else { "redrive=info" };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(usual));
    let log = tracing_subscriber::fmt::layer()
        .with_writer(AboveBar { bar })
        .with_ansi(console::colors_enabled_stderr())
        .with_target(false);
    let log = match format {
        Format::Text => log.boxed(),
        Format::Json => log
            .json()
            .flatten_event(true)
            .with_span_list(false)
            .with_ansi(false)
            .boxed(),
    };
    let all = tracing_subscriber::registry().with(log.with_filter(filter));
    #[cfg(feature = "otel")]
    let all = all.with(traces.otel.as_ref().map(redrive::otel::Otel::layer));
    let _ = all.try_init();
    Ok(traces)
}

/// Writes each event above the status line.
struct AboveBar {
    bar: ProgressBar,
}

/// One event, written whole when it is complete.
struct Event<'a> {
    bar: &'a ProgressBar,
    text: Vec<u8>,
}

impl<'a> MakeWriter<'a> for AboveBar {
    type Writer = Event<'a>;

    fn make_writer(&'a self) -> Event<'a> {
        Event {
            bar: &self.bar,
            text: Vec::new(),
        }
    }
}

impl io::Write for Event<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Event<'_> {
    fn drop(&mut self) {
        // A log that nobody takes any more is no reason to stop working.
        self.bar.suspend(|| {
            let _ = io::stderr().lock().write_all(&self.text);
        });
    }
}
