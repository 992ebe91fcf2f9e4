//! Logs of a worker: JSON lines on standard error, or text above the status line of a terminal.

use std::io::{self, Write as _};

use indicatif::ProgressBar;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

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

/// Starts the log: what RUST_LOG asks for, else what a worker does beyond its daily work, or only its warnings if `quiet`.
pub(super) fn start(format: Format, quiet: bool, bar: ProgressBar) {
    let usual = if quiet { "redrive=warn" } else { "redrive=info" };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(usual));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(AboveBar { bar })
        .with_ansi(console::colors_enabled_stderr())
        .with_target(false);
    let _ = match format {
        Format::Text => log.try_init(),
        Format::Json => log
            .json()
            .flatten_event(true)
            .with_span_list(false)
            .with_ansi(false)
            .try_init(),
    };
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
