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
use crate::outcome::{Failure, Outcome};

/// A run ended: one delivery's, or those of a batch, with an outcome each.
pub(super) struct Ended {
    pub(super) ids: Vec<Id>,
    /// By position; none for a run that was stopped.
    pub(super) outcomes: Vec<Option<Outcome>>,
    pub(super) took: Duration,
}

impl Engine {
    /// Runs the handler for these deliveries in the loop's set of tasks.
    pub(super) fn run_handler(&mut self, ids: Vec<Id>, mut contexts: Vec<Context>, kills: Vec<CancellationToken>) {
        let handler = Arc::clone(&self.handler);
        let clock = self.config.clock.clone();
        let limit = self.config.handler_timeout;
        if handler.batch().is_some() {
            let count = ids.len();
            let run = async move { handler.call_batch(contexts).await };
            self.tasks.spawn(async move {
                let begun = clock.now();
                // A batch stops when none of its deliveries is wanted any more.
                let stopped = join_all(kills.iter().map(CancellationToken::cancelled)).map(|_| ());
                let outcomes = match guarded(Box::pin(run), limit, stopped).await {
                    Some(Ok(outcomes)) => outcomes.into_iter().map(Some).collect(),
                    Some(Err(failure)) => (0..count).map(|_| Some(Outcome::Failed(failure.clone()))).collect(),
                    None => (0..count).map(|_| None).collect(),
                };
                let took = clock.now().saturating_duration_since(begun);
                Event::Ended(Ended { ids, outcomes, took })
            });
            return;
        }
        let (Some(context), Some(kill)) = (contexts.pop(), kills.into_iter().next()) else {
            return;
        };
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
                let run = async move { handler.call(context).await };
                let outcome = match guarded(run, limit, kill.cancelled()).await {
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
