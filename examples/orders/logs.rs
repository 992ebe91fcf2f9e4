//! Logs on the standard error; and traces to a collector, where this is built with `--features otel` and
//! `OTEL_EXPORTER_OTLP_ENDPOINT` is set.

use std::io::IsTerminal as _;

use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

use crate::Problem;

/// What exports traces, if anything does.
pub(crate) struct Traces {
    #[cfg(feature = "otel")]
    otel: Option<redrive::otel::Otel>,
}

pub(crate) fn start() -> Result<Traces, Problem> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt::layer()
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .with_filter(filter);
    let all = tracing_subscriber::registry().with(log);
    #[cfg(feature = "otel")]
    let otel = redrive::otel::Otel::from_env().map_err(|error| Problem::Setting(error.to_string()))?;
    #[cfg(feature = "otel")]
    let all = all.with(otel.as_ref().map(redrive::otel::Otel::layer));
    all.init();
    Ok(Traces {
        #[cfg(feature = "otel")]
        otel,
    })
}

impl Traces {
    /// What is left is not exported: the worker was told to end at once, and a collector may hang.
    pub(crate) fn leave(&mut self) {
        #[cfg(feature = "otel")]
        {
            self.otel = None;
        }
    }

    /// Exports what is left, for a second at most.
    pub(crate) async fn flush(&self) {
        #[cfg(feature = "otel")]
        if let Some(otel) = &self.otel {
            otel.flush().await;
        }
    }
}
