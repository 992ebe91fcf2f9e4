//! Handlers that take several deliveries at once.

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;

use super::extract::{FromDelivery, FromRef, State};
use super::function::HandlerFuture;
use super::{BatchPolicy, BoxedHandler, Context, ErasedHandler, IntoFailure, IntoOutcome};
use crate::message::Message;
use crate::outcome::{Failure, Outcome};

/// The most deliveries a batch handler can be given at once.
pub const MAX_BATCH: usize = 1_000;

/// The longest that the first delivery of a batch can wait for more.
pub const MAX_LINGER: Duration = Duration::from_secs(60);

/// A handler of up to `max` deliveries at once (1 to 1,000): for bulk writes and other work that is cheaper together. A batch
/// that is not full runs `linger` after its first delivery (at most 60 s).
///
/// It is an `async fn` that takes up to four [`State`]s and, last, a `Vec` of what each delivery is to be read as: an
/// extractor, or a tuple of several. It returns as many results, each by its delivery's position; or one error for all, so
/// that `?` can be used. What an extractor rejects is settled so and does not reach the handler. Deliveries are settled one
/// by one: a failed one does not fail its batch.
///
/// ```
/// use std::time::Duration;
/// use redrive::{Failure, extract::{IdempotencyKey, Json, State}, handler::{Handler, batch}};
/// # #[derive(Clone)] struct Db;
/// # impl Db { async fn insert(&self, _: &[(String, Order)]) -> Result<Vec<bool>, std::io::Error> { Ok(vec![true]) } }
/// # #[derive(serde::Deserialize)] struct Order;
///
/// async fn store(
///     State(db): State<Db>,
///     orders: Vec<(IdempotencyKey, Json<Order>)>,
/// ) -> Result<Vec<Result<(), Failure>>, Failure> {
///     let rows: Vec<_> = orders.into_iter().map(|(key, Json(order))| (key.into(), order)).collect();
///     let answers = db.insert(&rows).await?; // the database is down: all are tried again
///     let each = |stored| if stored { Ok(()) } else { Err(Failure::reject("no such customer")) };
///     Ok(answers.into_iter().map(each).collect())
/// }
///
/// let handler = batch(50, Duration::from_millis(20), store);
/// # let _ = handler.into_service(Db);
/// ```
pub fn batch<F, P, E, R, S>(max: usize, linger: Duration, handler: F) -> BoxedHandler<S>
where
    S: Send + Sync + 'static,
    F: BatchFn<P, E> + Send + Sync + 'static,
    F::Returned: HandlerFuture<Output = R> + Send + 'static,
    R: IntoOutcomes,
    P: FromState<S> + Send + 'static,
    E: FromDelivery<S>,
{
    let function = Arc::new(handler);
    BoxedHandler::binding(move |state| {
        Arc::new(Bound::<F, P, E, S> {
            function: Arc::clone(&function),
            state: Arc::clone(state),
            policy: BatchPolicy { max, linger },
            arguments: PhantomData,
        })
    })
}

/// What a batch handler may return for a batch: a `Vec` of [results](IntoOutcome), each by its delivery's position, or a
/// `Result` of one, whose error is that of every delivery.
#[diagnostic::on_unimplemented(
    message = "a batch handler cannot return `{Self}`",
    label = "does not say how each delivery ended",
    note = "return `Vec<Result<T, Failure>>`, one for each delivery, or `Result<Vec<Result<T, Failure>>, Failure>`"
)]
pub trait IntoOutcomes {
    /// How each of `count` deliveries ended.
    fn into_outcomes(self, count: usize) -> Vec<Outcome>;
}

impl<R: IntoOutcome> IntoOutcomes for Vec<R> {
    fn into_outcomes(self, _: usize) -> Vec<Outcome> {
        self.into_iter().map(IntoOutcome::into_outcome).collect()
    }
}

impl<R: IntoOutcome, E: IntoFailure> IntoOutcomes for Result<Vec<R>, E> {
    fn into_outcomes(self, count: usize) -> Vec<Outcome> {
        match self {
            Ok(results) => results.into_outcomes(count),
            Err(error) => {
                let failure = error.into_failure();
                (0..count).map(|_| Outcome::Failed(failure.clone())).collect()
            }
        }
    }
}

/// A function of up to four [`State`]s and a `Vec` of extractors.
///
/// Implemented for all such functions and closures; named in bounds so that the compiler can say what is wrong.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no batch handler",
    label = "not an `async fn` of a `Vec` of extractors",
    note = "a batch handler is an `async fn` of up to four `State<_>` and, last, a `Vec<E>` with an extractor `E`"
)]
pub trait BatchFn<States, E> {
    /// What a call returns: of an `async fn`, its future.
    type Returned;

    /// Calls it.
    fn call_with(&self, states: States, deliveries: Vec<E>) -> Self::Returned;
}

/// The states a batch handler takes.
pub trait FromState<S> {
    /// Takes them from the worker's state.
    fn from_state(state: &S) -> Self;
}

macro_rules! batches {
    ($($part:ident)*) => {
        impl<F, R, E, $($part),*> BatchFn<($(State<$part>,)*), E> for F
        where
            F: Fn($(State<$part>,)* Vec<E>) -> R,
        {
            type Returned = R;

            #[allow(non_snake_case, reason = "the arguments are named after their types")]
            fn call_with(&self, ($($part,)*): ($(State<$part>,)*), deliveries: Vec<E>) -> R {
                self($($part,)* deliveries)
            }
        }

        #[allow(unused_variables, clippy::unused_unit, reason = "the empty tuple takes nothing")]
        impl<S, $($part: FromRef<S>),*> FromState<S> for ($(State<$part>,)*) {
            fn from_state(state: &S) -> Self {
                ($(State($part::from_ref(state)),)*)
            }
        }
    };
}

batches!();
batches!(T1);
batches!(T1 T2);
batches!(T1 T2 T3);
batches!(T1 T2 T3 T4);

struct Bound<F, P, E, S> {
    function: Arc<F>,
    state: Arc<S>,
    policy: BatchPolicy,
    arguments: PhantomData<fn(P, E)>,
}

impl<F, P, E, S> ErasedHandler for Bound<F, P, E, S>
where
    S: Send + Sync + 'static,
    F: BatchFn<P, E> + Send + Sync + 'static,
    F::Returned: HandlerFuture + Send + 'static,
    <F::Returned as Future>::Output: IntoOutcomes,
    P: FromState<S> + Send + 'static,
    E: FromDelivery<S>,
{
    fn needs_inbox(&self) -> Option<&'static str> {
        E::NEEDS_INBOX
    }

    fn batch(&self) -> Option<BatchPolicy> {
        Some(self.policy)
    }

    fn bulkhead(&self, _: &Message) -> Option<&str> {
        None
    }

    fn bulkheads(&self) -> Vec<String> {
        Vec::new()
    }

    fn problems(&self) -> Vec<String> {
        let BatchPolicy { max, linger } = self.policy;
        let mut problems = Vec::new();
        if !(1..=MAX_BATCH).contains(&max) {
            problems.push(format!(
                "a batch handler takes {max} deliveries at once; set 1 to {MAX_BATCH}"
            ));
        }
        if linger > MAX_LINGER {
            problems.push(format!(
                "a batch handler lets deliveries wait {} s for more; set at most {} s",
                linger.as_secs(),
                MAX_LINGER.as_secs()
            ));
        }
        problems
    }

    fn call(&self, context: Context) -> BoxFuture<'static, Outcome> {
        let run = self.call_batch(vec![context]);
        Box::pin(async move { run.await.pop().unwrap_or_else(|| Outcome::Failed(miscounted(0, 1))) })
    }

    fn call_batch(&self, contexts: Vec<Context>) -> BoxFuture<'static, Vec<Outcome>> {
        let (function, state) = (Arc::clone(&self.function), Arc::clone(&self.state));
        Box::pin(async move {
            let mut outcomes = Vec::with_capacity(contexts.len());
            let mut deliveries = Vec::with_capacity(contexts.len());
            for context in &contexts {
                outcomes.push(match E::from_delivery(context, &state).await {
                    Ok(delivery) => {
                        deliveries.push(delivery);
                        None
                    }
                    Err(rejection) => Some(Outcome::Failed(rejection.into_failure())),
                });
            }
            let asked = deliveries.len();
            if asked == 0 {
                return outcomes.into_iter().flatten().collect();
            }
            let returned = function.call_with(P::from_state(&state), deliveries).await;
            let answers = returned.into_outcomes(asked);
            let answered = answers.len();
            let mut answers = (answered == asked).then_some(answers).into_iter().flatten();
            let mut next = || {
                answers
                    .next()
                    .unwrap_or_else(|| Outcome::Failed(miscounted(answered, asked)))
            };
            outcomes
                .into_iter()
                .map(|known| known.unwrap_or_else(&mut next))
                .collect()
        })
    }
}

fn miscounted(answered: usize, asked: usize) -> Failure {
    Failure::retry(format_args!(
        "the batch handler returned {answered} results for {asked} deliveries, so that none can be told to be whose; \
         it must return one for each, in order"
    ))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
mod tests {
    use super::*;
    use crate::extract::{Checkpoint, Json, Text};
    use crate::handler::Handler;
    use crate::handler::testing::{context, failure, json};
    use crate::outcome::{Cause, Reason};

    const LINGER: Duration = Duration::from_millis(5);

    async fn halve(numbers: Vec<Json<u64>>) -> Vec<Result<u64, Failure>> {
        let each = |Json(n)| {
            if n % 2 == 0 {
                Ok(n / 2)
            } else {
                Err(Failure::reject(format!("{n} is odd")))
            }
        };
        numbers.into_iter().map(each).collect()
    }

    async fn run(handler: BoxedHandler<()>, bodies: &[&str]) -> Vec<Outcome> {
        handler
            .into_service(())
            .run_batch(bodies.iter().map(|body| context(body)).collect())
            .await
    }

    #[tokio::test]
    async fn inv11_one_bad_entry_does_not_fail_its_batch_and_positions_stay_right() {
        let mut outcomes = run(batch(10, LINGER, halve), &["4", "x", "3", "", "10"])
            .await
            .into_iter();
        assert_eq!(json(outcomes.next().unwrap()), "2");
        assert_eq!(failure(outcomes.next().unwrap()).reason(), Some(&Reason::Malformed));
        assert_eq!(failure(outcomes.next().unwrap()).error(), "3 is odd");
        assert_eq!(failure(outcomes.next().unwrap()).reason(), Some(&Reason::Malformed));
        assert_eq!(json(outcomes.next().unwrap()), "5");
        assert!(outcomes.next().is_none());
    }

    #[tokio::test]
    async fn a_batch_without_a_readable_delivery_does_not_run() {
        async fn never(_: Vec<Json<u64>>) -> Vec<Result<(), Failure>> {
            panic!("it ran")
        }
        assert_eq!(run(batch(10, LINGER, never), &["x", ""]).await.len(), 2);
        assert!(run(batch(10, LINGER, never), &[]).await.is_empty());
    }

    #[tokio::test]
    async fn a_wrong_number_of_results_has_all_tried_again() {
        async fn short(_: Vec<Json<u64>>) -> Vec<Result<(), Failure>> {
            vec![Ok(())]
        }
        async fn long(given: Vec<Json<u64>>) -> Vec<Result<(), Failure>> {
            (0..=given.len()).map(|_| Ok(())).collect()
        }
        let mut outcomes = run(batch(10, LINGER, short), &["1", "x", "2"]).await;
        assert!(
            failure(outcomes.pop().unwrap())
                .error()
                .contains("1 results for 2 deliveries")
        );
        assert_eq!(failure(outcomes.pop().unwrap()).reason(), Some(&Reason::Malformed));
        assert!(!failure(outcomes.pop().unwrap()).is_reject());
        let all = run(batch(10, LINGER, long), &["1", "2"]).await;
        assert!(
            all.into_iter()
                .all(|outcome| failure(outcome).error().contains("3 results"))
        );
    }

    #[tokio::test]
    async fn an_error_of_the_whole_batch_is_that_of_every_delivery() {
        async fn down(_: Vec<Text>) -> Result<Vec<Result<(), Failure>>, Failure> {
            Err(Failure::retry_after("down", Duration::from_secs(9)))
        }
        async fn refused(_: Vec<Text>) -> Result<Vec<Result<(), Failure>>, Failure> {
            Err(Failure::reject("no").because("refused"))
        }
        async fn late(_: Vec<Text>) -> Result<Vec<Result<(), Failure>>, Failure> {
            Err(Failure::timed_out(Duration::from_secs(1)))
        }
        for outcome in run(batch(10, LINGER, down), &["1", "2"]).await {
            let failed = failure(outcome);
            assert_eq!((failed.error(), failed.delay()), ("down", Some(Duration::from_secs(9))));
        }
        for outcome in run(batch(10, LINGER, refused), &["1", "2"]).await {
            assert_eq!(failure(outcome).reason(), Some(&Reason::Other("refused".into())));
        }
        for outcome in run(batch(10, LINGER, late), &["1", "2"]).await {
            assert_eq!(failure(outcome).cause(), Cause::Timeout);
        }
    }

    #[tokio::test]
    async fn a_batch_handler_takes_states_and_tuples_of_extractors() {
        #[derive(Clone)]
        struct Factor(u64);
        async fn multiply(
            State(Factor(factor)): State<Factor>,
            State(_): State<Factor>,
            numbers: Vec<(Text, Json<u64>)>,
        ) -> Vec<Result<u64, Failure>> {
            numbers.into_iter().map(|(_, Json(n))| Ok(n * factor)).collect()
        }
        let service = batch(2, LINGER, multiply).into_service(Factor(3));
        assert_eq!(json(service.run(context("7")).await), "21");
    }

    #[test]
    fn its_settings_are_told_and_absurd_ones_are_refused() {
        let of = |max, linger| batch(max, linger, halve).bulkhead("db").with_state(());
        assert_eq!(
            of(50, LINGER).batch(),
            Some(BatchPolicy {
                max: 50,
                linger: LINGER
            })
        );
        assert_eq!(of(1, LINGER).bulkheads(), ["db"]);
        assert!(of(1, LINGER).problems().is_empty() && of(MAX_BATCH, MAX_LINGER).problems().is_empty());
        assert!(of(0, LINGER).problems()[0].contains("set 1 to 1000"));
        assert!(of(1_001, LINGER).problems()[0].contains("1001"));
        assert!(of(1, Duration::from_secs(61)).problems()[0].contains("at most 60 s"));
    }

    #[test]
    fn it_needs_an_inbox_if_its_extractor_does() {
        async fn steps(given: Vec<(Text, Checkpoint)>) -> Vec<Result<(), Failure>> {
            given.iter().map(|_| Ok(())).collect()
        }
        let handler = batch(10, LINGER, steps).boxed();
        assert_eq!(
            BoxedHandler::<()>::with_state(&handler, ()).needs_inbox(),
            Some("Checkpoint")
        );
    }
}
