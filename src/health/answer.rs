//! What each request is answered: decided by what workers say of themselves, without I/O.

use serde::Serialize;

use super::status;
use crate::recorder::Recorder;
use crate::worker::{Status, WorkersHandle};

const TEXT: &str = "text/plain; charset=utf-8";
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";
const JSON: &str = "application/json";

const NO_METRICS: &str = "There are no metrics here: switch them on with `Health::with_metrics()`, or by REDRIVE_HEALTH; where \
                          the program has a recorder of its own, let that feed `redrive::recorder::Recorder::process()` too.\n";

/// An answer to be sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) code: u16,
    pub(super) kind: &'static str,
    pub(super) body: String,
    /// Which methods would have been right.
    pub(super) allow: bool,
}

impl Answer {
    fn text(code: u16, body: impl Into<String>) -> Self {
        Self {
            code,
            kind: TEXT,
            body: body.into(),
            allow: false,
        }
    }
}

/// What answers are made of.
pub(super) struct View {
    workers: WorkersHandle,
}

impl View {
    pub(super) fn of(workers: WorkersHandle) -> Self {
        Self { workers }
    }

    pub(super) fn answer(&self, method: &str, path: &str) -> Answer {
        if !matches!(path, "/livez" | "/readyz" | "/metrics" | "/status") {
            return Answer::text(404, "There are /livez, /readyz, /metrics and /status.\n");
        }
        if !matches!(method, "GET" | "HEAD") {
            return Answer {
                allow: true,
                ..Answer::text(405, "It can be read by GET and HEAD only.\n")
            };
        }
        match path {
            "/livez" => verdict("alive", &reasons(&self.workers.status(), why_dead)),
            "/readyz" => verdict("ready", &reasons(&self.workers.status(), why_unready)),
            "/metrics" => match Recorder::installed() {
                Some(recorder) => Answer {
                    kind: PROMETHEUS,
                    ..Answer::text(200, recorder.prometheus())
                },
                None => Answer::text(501, NO_METRICS),
            },
            _ => json(&status::page(&self.workers)),
        }
    }
}

fn json(page: &impl Serialize) -> Answer {
    match serde_json::to_string(page) {
        Ok(mut body) => {
            body.push('\n');
            Answer {
                kind: JSON,
                ..Answer::text(200, body)
            }
        }
        Err(error) => Answer::text(500, format!("The status cannot be written: {error}\n")),
    }
}

fn verdict(good: &str, reasons: &[String]) -> Answer {
    if reasons.is_empty() {
        Answer::text(200, format!("{good}\n"))
    } else {
        Answer::text(503, format!("{}\n", reasons.join("\n")))
    }
}

fn reasons(workers: &[Status], why: impl Fn(&Status) -> Option<String>) -> Vec<String> {
    let said = |worker: &Status| Some(format!("{}: {}", crate::telemetry::shown(&worker.name), why(worker)?));
    workers.iter().filter_map(said).collect()
}

/// What a restart would mend. Starting and draining are part of life. So are receives that fail: a fleet that is restarted while
/// its queue is away loses what its handlers are at, and comes back no better.
fn why_dead(worker: &Status) -> Option<String> {
    if worker.ended && !worker.draining {
        return Some("it has ended, and was not asked to".to_owned());
    }
    worker.stuck.then(|| STUCK.to_owned())
}

/// Why it does not work, or will soon not any more.
fn why_unready(worker: &Status) -> Option<String> {
    if worker.ended {
        return Some("it has ended".to_owned());
    }
    if !worker.started {
        return Some("it has not started: its preflight is under way".to_owned());
    }
    if worker.draining {
        return Some("it drains".to_owned());
    }
    if worker.stuck {
        return Some(STUCK.to_owned());
    }
    worker.stalled.then(|| match worker.last_receive {
        Some(ago) => format!("it is stalled: no receive has succeeded for {} s", ago.as_secs()),
        None => "it is stalled: no receive has succeeded since its start".to_owned(),
    })
}

const STUCK: &str =
    "it is stuck: its loop stands still, as handlers block the threads that it needs, or the process was stopped";

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
mod tests {
    use super::*;
    use crate::worker::{WithoutDeadLetters, Worker, Workers};
    use crate::{Failure, MemoryQueue};

    async fn nothing() -> Result<(), Failure> {
        Ok(())
    }

    fn worker() -> Worker {
        let builder = Worker::builder(MemoryQueue::new("orders").unwrap());
        builder
            .without_dead_letters(WithoutDeadLetters::Keep)
            .handler(nothing)
            .build()
            .unwrap()
    }

    /// The answers of `/livez` and `/readyz` to a worker that is so.
    fn verdicts(change: impl FnOnce(&mut Status)) -> (u16, u16) {
        let mut status = worker().handle().status();
        status.started = true;
        change(&mut status);
        let all = [status];
        (
            verdict("alive", &reasons(&all, why_dead)).code,
            verdict("ready", &reasons(&all, why_unready)).code,
        )
    }

    #[test]
    fn starting_draining_and_a_queue_that_is_away_are_part_of_life_and_a_loop_that_stands_still_or_an_unasked_end_are_not()
     {
        assert_eq!(verdicts(|_| {}), (200, 200));
        assert_eq!(verdicts(|worker| worker.started = false), (200, 503));
        assert_eq!(verdicts(|worker| worker.draining = true), (200, 503));
        assert_eq!(verdicts(|worker| worker.paused = true), (200, 200));
        assert_eq!(verdicts(|worker| worker.held_up = true), (200, 200));
        assert_eq!(verdicts(|worker| worker.stalled = true), (200, 503));
        assert_eq!(verdicts(|worker| worker.stuck = true), (503, 503));
        assert_eq!(verdicts(|worker| worker.ended = true), (503, 503));
        let drained = |worker: &mut Status| (worker.draining, worker.ended) = (true, true);
        assert_eq!(verdicts(drained), (200, 503));
    }

    #[test]
    fn what_is_not_there_is_404_and_what_may_not_be_is_405() {
        let view = View::of(Workers::new().with(worker()).handle());
        for path in ["/", "/livez/", "/livezz", "/Livez", "*", "", "/metrics/x", "/../livez"] {
            assert_eq!(view.answer("GET", path).code, 404, "{path}");
        }
        for method in ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "get"] {
            let answer = view.answer(method, "/livez");
            assert_eq!((answer.code, answer.allow), (405, true), "{method}");
        }
        for path in ["/livez", "/status"] {
            assert_eq!(view.answer("GET", path), view.answer("HEAD", path));
        }
    }
}
