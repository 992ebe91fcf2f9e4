//! Running a handler: timed, cancellable, panic-safe.

use std::any::Any;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{AbortHandle, AbortRegistration, Abortable, Either, join_all, select};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::{Engine, Event, Id, Instant};
use crate::handler::Context;
use crate::inbox::Inbox;
use crate::outcome::{Failure, Outcome};
use crate::telemetry::RunTrace;

/// A run ended: one delivery's, or those of a batch. The outcome is none where the run was stopped.
pub(super) enum Ended {
    One {
        id: Id,
        outcome: Option<Outcome>,
        took: Duration,
    },
    /// Outcomes by position.
    Batch {
        ids: Vec<Id>,
        outcomes: Vec<Option<Outcome>>,
        took: Duration,
    },
}

/// A delivery whose handler is about to be called.
pub(super) struct Start {
    pub(super) id: Id,
    pub(super) context: Context,
    pub(super) stopped: AbortRegistration,
    pub(super) lease: Option<Lease>,
}

/// What is known of a run before it is one of its own or of a batch.
pub(super) struct Begun {
    pub(super) start: Start,
    /// None for one of a batch.
    pub(super) span: tracing::Span,
    pub(super) trace: RunTrace,
}

/// Ends a run.
pub(in crate::worker) struct Stop {
    asked: CancellationToken,
    now: AbortHandle,
}

impl Stop {
    /// What ends a run, the token by which it is asked to end, and what tells the run that it is stopped.
    pub(super) fn new() -> (Self, CancellationToken, AbortRegistration) {
        let (now, stopped) = AbortHandle::new_pair();
        let asked = CancellationToken::new();
        let stop = Self {
            asked: asked.clone(),
            now,
        };
        (stop, asked, stopped)
    }

    /// Asks the handler to end.
    pub(super) fn ask(&self) {
        self.asked.cancel();
    }

    /// Drops the handler, and tells whatever it has begun elsewhere.
    pub(super) fn now(&self) {
        self.asked.cancel();
        self.now.abort();
    }
}

/// What a delivery is held by, as it was when its run was decided on.
///
/// A process may be stopped, or its machine be too busy, between that decision and the first step of the run's task. Then the
/// lease may be over, and somebody else's run of the key have begun, before this one has.
pub(super) struct Lease {
    pub(super) inbox: Arc<dyn Inbox>,
    pub(super) until: u64,
}

impl Start {
    /// Whether its handler may be called now.
    fn may_begin(&self) -> bool {
        let lease = self.lease.as_ref();
        lease.is_none_or(|lease| lease.inbox.time().hi < lease.until)
    }
}

impl Engine {
    /// Runs the handler for a delivery in the loop's set of tasks. What is no longer held when the task begins is not run, and
    /// ends like a run that was stopped.
    pub(super) fn run_one(&mut self, begun: Begun) {
        let Begun { start, span, trace } = begun;
        let handler = Arc::clone(&self.handler);
        let clock = self.config.clock.clone();
        let limit = self.config.handler_timeout;
        let id = start.id;
        let run = async move {
            let begun = clock.now();
            let outcome = if start.may_begin() {
                let Start { context, stopped, .. } = start;
                let run = async move { handler.call(context).await };
                match guarded(run, limit, told(stopped)).await {
                    Some(Ok(outcome)) => Some(outcome),
                    Some(Err(failure)) => Some(Outcome::Failed(failure)),
                    None => None,
                }
            } else {
                None
            };
            let took = clock.now().saturating_duration_since(begun);
            (outcome, took)
        };
        let ended = move |(outcome, took)| Event::Ended(Ended::One { id, outcome, took });
        self.tasks.spawn(trace.around(run.instrument(span)).map(ended));
    }

    /// As [`run_one`](Self::run_one), for all deliveries of a batch.
    pub(super) fn run_batch(&mut self, now: Instant, begun: Vec<Begun>) {
        let mut starts: Vec<Start> = begun.into_iter().map(|begun| begun.start).collect();
        let handler = Arc::clone(&self.handler);
        let clock = self.config.clock.clone();
        let limit = self.config.handler_timeout;
        // All of them run within the span of the batch.
        let held = starts.iter().filter_map(|start| self.items.get(&start.id));
        let trace = self.traces.batch(now, held.map(|item| &item.trace));
        self.tasks.spawn(trace.around(async move {
            let begun = clock.now();
            let ids: Vec<Id> = starts.iter().map(|start| start.id).collect();
            let held: Vec<bool> = starts.iter().map(Start::may_begin).collect();
            let mut is_held = held.iter().copied();
            starts.retain(|_| is_held.next().unwrap_or(false));
            let count = starts.len();
            let (contexts, stops): (Vec<_>, Vec<_>) =
                starts.into_iter().map(|start| (start.context, start.stopped)).unzip();
            // A batch stops when none of its deliveries is wanted any more, and does not begin without any.
            let stopped = join_all(stops.into_iter().map(told)).map(|_| ());
            let run = async move { handler.call_batch(contexts).await };
            let outcomes: Vec<Option<Outcome>> = match guarded(run, limit, stopped).await {
                Some(Ok(outcomes)) => outcomes.into_iter().map(Some).collect(),
                Some(Err(failure)) => (0..count).map(|_| Some(Outcome::Failed(failure.clone()))).collect(),
                None => Vec::new(),
            };
            let mut outcomes = outcomes.into_iter();
            let outcomes = held
                .into_iter()
                .map(|held| if held { outcomes.next().flatten() } else { None })
                .collect();
            let took = clock.now().saturating_duration_since(begun);
            Event::Ended(Ended::Batch { ids, outcomes, took })
        }));
    }
}

/// Ends when the run is stopped.
fn told(stopped: AbortRegistration) -> impl Future<Output = ()> {
    Abortable::new(std::future::pending::<()>(), stopped).map(|_| ())
}

/// Runs to the end, to the time limit, or to a panic; `None` when it was stopped. What is stopped is dropped, and a panic of
/// that is caught as well.
///
/// No `async fn`, which would keep its arguments beside what it makes of them: every running handler holds one of these.
fn guarded<T>(
    run: impl Future<Output = T>,
    limit: Option<Duration>,
    stopped: impl Future<Output = ()>,
) -> impl Future<Output = Option<Result<T, Failure>>> {
    let timed = match limit {
        None => run.map(Ok).left_future(),
        Some(limit) => {
            let failed = move |_| Failure::timed_out(limit);
            Box::pin(tokio::time::timeout(limit, run).map(move |ended| ended.map_err(failed))).right_future()
        }
    };
    let whole = async move {
        let (timed, stopped) = (pin!(timed), pin!(stopped));
        match select(stopped, timed).await {
            Either::Left(_) => None,
            Either::Right((ended, _)) => Some(ended),
        }
    };
    let caught = std::panic::AssertUnwindSafe(whole).catch_unwind();
    caught.map(|ended| ended.unwrap_or_else(|panic| Some(Err(Failure::panicked(text_of(&*panic))))))
}

/// What a panic said.
fn text_of(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without a message")
}
