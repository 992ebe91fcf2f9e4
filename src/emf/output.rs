//! Writing, on a thread of its own: standard output may block for as long as it likes, and may be gone.

use std::io::{self, Write};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::telemetry::said;

/// Where lines go.
pub(super) struct Output {
    batches: mpsc::Sender<Batch>,
    /// What was given last, while it is not written.
    under_way: Option<oneshot::Receiver<()>>,
    complained: bool,
}

struct Batch {
    text: String,
    done: oneshot::Sender<()>,
}

impl Output {
    pub(super) fn start(to: impl Write + Send + 'static) -> Option<Self> {
        let (batches, given) = mpsc::channel(1);
        let thread = std::thread::Builder::new()
            .name("redrive-emf".to_owned())
            .spawn(move || write_all(to, given));
        if let Err(error) = thread {
            tracing::warn!(error = %said(&error), "no metrics are written for CloudWatch: the thread for it cannot start");
            return None;
        }
        Some(Self {
            batches,
            under_way: None,
            complained: false,
        })
    }

    /// Whether all that was given is written. If not, what is counted meanwhile is for a later line.
    pub(super) fn is_free(&mut self) -> bool {
        let pending =
            |batch: &mut oneshot::Receiver<()>| matches!(batch.try_recv(), Err(oneshot::error::TryRecvError::Empty));
        if self.under_way.as_mut().is_some_and(pending) {
            if !std::mem::replace(&mut self.complained, true) {
                tracing::warn!(
                    "standard output does not take the metrics for CloudWatch: it is blocked; they are written together once it does"
                );
            }
            return false;
        }
        self.under_way = None;
        self.complained = false;
        true
    }

    pub(super) fn write(&mut self, lines: &[String]) {
        let mut text = lines.join("\n");
        text.push('\n');
        let (done, under_way) = oneshot::channel();
        // There is room: one is given at a time.
        if !lines.is_empty() && self.batches.try_send(Batch { text, done }).is_ok() {
            self.under_way = Some(under_way);
        }
    }

    /// Waits until all is written, but not for long.
    pub(super) async fn finish(&mut self, limit: Duration) {
        if let Some(under_way) = &mut self.under_way
            && tokio::time::timeout(limit, under_way).await.is_ok()
        {
            self.under_way = None;
        }
    }
}

fn write_all(mut to: impl Write, mut batches: mpsc::Receiver<Batch>) {
    let mut broken = false;
    while let Some(Batch { text, done }) = batches.blocking_recv() {
        let written = to.write_all(text.as_bytes()).and_then(|()| to.flush());
        match written {
            Ok(()) => broken = false,
            Err(error) => complain(&error, std::mem::replace(&mut broken, true)),
        }
        let _ = done.send(());
    }
}

fn complain(error: &io::Error, again: bool) {
    if !again {
        tracing::warn!(
            error = %said(error),
            "metrics for CloudWatch cannot be written to standard output, and the work goes on without them"
        );
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// What is written, and whether it can be.
    #[derive(Clone, Default)]
    struct Paper(Arc<Mutex<(Vec<u8>, bool)>>);

    impl Write for Paper {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut paper = self.0.lock().unwrap();
            if paper.1 {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            paper.0.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn an_output_that_is_gone_is_said_once_and_tried_again() {
        let (paper, log) = (Paper::default(), crate::logged::Log::default());
        let write = |texts: &[&str]| {
            let (batches, given) = mpsc::channel(texts.len());
            for text in texts {
                let (done, _) = oneshot::channel();
                let text = (*text).to_owned();
                assert!(batches.try_send(Batch { text, done }).is_ok());
            }
            drop(batches);
            write_all(paper.clone(), given);
        };
        let logged = log.take();
        paper.0.lock().unwrap().1 = true;
        write(&["a\n", "b\n", "c\n"]);
        paper.0.lock().unwrap().1 = false;
        write(&["d\n"]);
        drop(logged);
        assert_eq!(paper.0.lock().unwrap().0, b"d\n");
        let said = log.text();
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(said.contains("the work goes on without them"), "{said}");
    }
}
