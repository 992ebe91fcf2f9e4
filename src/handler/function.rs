//! Plain `async fn`s as handlers.

use std::marker::PhantomData;
use std::sync::Arc;

use futures::future::BoxFuture;

use super::extract::FromDelivery;
use super::{BatchPolicy, BoxedHandler, Context, ErasedHandler, Handler, IntoFailure, IntoOutcome, SharedHandler};
use crate::message::Message;
use crate::outcome::Outcome;

/// A function of the arguments `Args`, as a tuple of up to 12.
///
/// Implemented for all functions and closures; named in the bounds of [`Handler`] so that the compiler can say which
/// argument or result is wrong.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no handler",
    label = "not an `async fn` of up to 12 extractors",
    note = "a handler is an `async fn` of up to 12 extractors that returns `Result<T, Failure>`, a `Router`, a `batch(..)`, or `from_service(..)`",
    note = "of a closure, write out the types of its arguments; of a function, pass its name without `()`"
)]
pub trait HandlerFn<Args> {
    /// What a call returns: of an `async fn`, its future.
    type Returned;

    /// Calls it.
    fn call_with(&self, args: Args) -> Self::Returned;
}

/// The future of an `async fn`.
#[diagnostic::on_unimplemented(
    message = "a handler must be an `async fn`, but this one returns `{Self}` at once",
    label = "not an `async fn`",
    note = "write `async fn` instead of `fn`; work that blocks goes in `tokio::task::spawn_blocking`"
)]
pub trait HandlerFuture: Future {}

#[diagnostic::do_not_recommend]
impl<F: Future> HandlerFuture for F {}

impl<F, Args, S> Handler<(Args,), S> for F
where
    S: Send + Sync + 'static,
    F: HandlerFn<Args> + Send + Sync + 'static,
    F::Returned: HandlerFuture + Send + 'static,
    <F::Returned as Future>::Output: IntoOutcome,
    Args: FromDelivery<S> + 'static,
{
    fn boxed(self) -> BoxedHandler<S> {
        let function = Arc::new(self);
        BoxedHandler::binding(move |state| {
            Arc::new(Bound::<F, Args, S> {
                parts: Arc::new(Parts {
                    function: Arc::clone(&function),
                    state: Arc::clone(state),
                }),
                args: PhantomData,
            })
        })
    }
}

struct Bound<F, Args, S> {
    parts: Arc<Parts<F, S>>,
    args: PhantomData<fn(Args)>,
}

struct Parts<F, S> {
    function: Arc<F>,
    state: Arc<S>,
}

impl<F, Args, S> ErasedHandler for Bound<F, Args, S>
where
    S: Send + Sync + 'static,
    F: HandlerFn<Args> + Send + Sync + 'static,
    F::Returned: HandlerFuture + Send + 'static,
    <F::Returned as Future>::Output: IntoOutcome,
    Args: FromDelivery<S> + 'static,
{
    fn needs_inbox(&self) -> Option<&'static str> {
        Args::NEEDS_INBOX
    }

    fn batch(&self) -> Option<BatchPolicy> {
        None
    }

    fn bulkhead(&self, _: &Message) -> Option<&str> {
        None
    }

    fn bulkheads(&self) -> Vec<String> {
        Vec::new()
    }

    fn call(&self, context: Context) -> BoxFuture<'static, Outcome> {
        let parts = Arc::clone(&self.parts);
        Box::pin(async move {
            match Args::from_delivery(&context, &parts.state).await {
                Ok(args) => parts.function.call_with(args).await.into_outcome(),
                Err(rejection) => Outcome::Failed(rejection.into_failure()),
            }
        })
    }

    fn call_batch(&self, contexts: Vec<Context>) -> BoxFuture<'static, Vec<Outcome>> {
        let handler: SharedHandler = Arc::new(Self {
            parts: Arc::clone(&self.parts),
            args: PhantomData,
        });
        super::one_by_one(handler, contexts)
    }
}

macro_rules! functions {
    ($($argument:ident)*) => {
        impl<F, R, $($argument,)*> HandlerFn<($($argument,)*)> for F
        where
            F: Fn($($argument),*) -> R,
        {
            type Returned = R;

            #[allow(non_snake_case, reason = "the arguments are named after their types")]
            fn call_with(&self, ($($argument,)*): ($($argument,)*)) -> R {
                self($($argument),*)
            }
        }
    };
}

super::extract::every_arity!(functions);
