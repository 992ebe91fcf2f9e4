//! Running a handler: timed, cancellable, panic-safe.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::join_all;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::{Engine, Event, Id};
use crate::handler::Context;
use crate::inbox::Inbox;
use crate::outcome::{Failure, Outcome};

/// A run ended: one delivery's, or those of a batch, with an outcome each.
pub(super) struct Ended {
    pub(super) ids: Vec<Id>,
    /// By position; none for a run that was stopped.
    pub(super) outcomes: Vec<Option<Outcome>>,
    pub(super) took: Duration,
}

/// A delivery whose handler is about to be called.
pub(super) struct Start {
    pub(super) context: Context,
    pub(super) kill: CancellationToken,
    pub(super) lease: Option<Lease>,
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
    /// Runs the handler for these deliveries in the loop's set of tasks. What is no longer held when its task begins is not run,
    /// and ends like a run that was stopped.
    pub(super) fn run_handler(&mut self, ids: Vec<Id>, mut starts: Vec<Start>) {
        let handler = Arc::clone(&self.handler);
        let clock = self.config.clock.clone();
        let limit = self.config.handler_timeout;
        if handler.batch().is_some() {
            self.tasks.spawn(async move {
                let begun = clock.now();
                let held: Vec<bool> = starts.iter().map(Start::may_begin).collect();
                let mut is_held = held.iter().copied();
                starts.retain(|_| is_held.next().unwrap_or(false));
                let count = starts.len();
                let (contexts, kills): (Vec<_>, Vec<_>) =
                    starts.into_iter().map(|start| (start.context, start.kill)).unzip();
                // A batch stops when none of its deliveries is wanted any more, and does not begin without any.
                let stopped = join_all(kills.iter().map(CancellationToken::cancelled)).map(|_| ());
                let run = async move { handler.call_batch(contexts).await };
                let outcomes: Vec<Option<Outcome>> = match guarded(Box::pin(run), limit, stopped).await {
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
                Event::Ended(Ended { ids, outcomes, took })
            });
            return;
        }
        let Some(start) = starts.pop() else { return };
        let context = &start.context;
        let span = crate::telemetry::delivery_span(
            context.queue(),
            context.message(),
            context.key().as_str(),
            context.attempt(),
            context.claim().map(|claim| claim.fencing_token),
        );
        self.tasks.spawn(
            async move {
                let begun = clock.now();
                let held = start.may_begin();
                let Start { context, kill, .. } = start;
                let ended = if held {
                    guarded(async move { handler.call(context).await }, limit, kill.cancelled()).await
                } else {
                    None
                };
                let outcome = match ended {
                    Some(Ok(outcome)) => Some(outcome),
                    Some(Err(failure)) => Some(Outcome::Failed(failure)),
                    None => None,
                };
                let took = clock.now().saturating_duration_since(begun);
                Event::Ended(Ended {
                    ids,
                    outcomes: vec![outcome],
                    took,
                })
            }
            .instrument(span),
        );
    }
}

/// Runs to the end, to the time limit, or to a panic; `None` when it was stopped. What is stopped is dropped, and a panic of
/// that is caught as well.
async fn guarded<T>(
    run: impl Future<Output = T>,
    limit: Option<Duration>,
    stopped: impl Future<Output = ()>,
) -> Option<Result<T, Failure>> {
    let timed = async {
        match limit {
            None => Ok(run.await),
            Some(limit) => tokio::time::timeout(limit, run)
                .await
                .map_err(|_| Failure::timed_out(limit)),
        }
    };
    let whole = async {
        tokio::select! {
            biased;
            () = stopped => None,
            ended = timed => Some(ended),
        }
    };
    let caught = std::panic::AssertUnwindSafe(whole).catch_unwind().await;
    caught.unwrap_or_else(|panic| Some(Err(Failure::panicked(text_of(&*panic)))))
}

/// What a panic said.
fn text_of(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without a message")
}
