//! What a test's own thread logs.

use std::io::Write;
use std::sync::{Arc, Mutex, OnceLock};

use tracing::Dispatch;
use tracing::subscriber::{DefaultGuard, NoSubscriber, set_default};
use tracing_subscriber::EnvFilter;

/// All that was logged. Clones share.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    /// Takes what passes the filter, of this thread, which is where the worker runs, for as long as the guard lives.
    pub(crate) fn capture(&self, filter: &str, json: bool) -> DefaultGuard {
        // While there is a single subscriber, tracing asks that of the thread at hand whether a new place of the code is of
        // interest, once for all threads: a test beside this one, which has none, would have it logged never.
        static ANOTHER: OnceLock<Dispatch> = OnceLock::new();
        ANOTHER.get_or_init(|| Dispatch::new(NoSubscriber::new()));
        let writer = self.clone();
        let log = tracing_subscriber::fmt()
            .with_env_filter(EnvFilter::new(filter))
            .with_ansi(false)
            .with_writer(move || writer.clone());
        if json {
            set_default(log.json().finish())
        } else {
            set_default(log.finish())
        }
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}
