//! Handlers: plain `async fn`s whose arguments are taken from the delivery, routers over them, and batch handlers.
//!
//! ```
//! use redrive::extract::{IdempotencyKey, Json, State};
//! use redrive::{Failure, FailureExt};
//! # #[derive(Clone)] struct Gateway;
//! # impl Gateway { async fn charge(&self, _: &str, _: u64) -> Result<u64, std::io::Error> { Ok(7) } }
//! # #[derive(serde::Deserialize)] struct Order { amount: u64, card: String }
//!
//! async fn charge(
//!     State(gateway): State<Gateway>,
//!     key: IdempotencyKey,
//!     Json(order): Json<Order>,
//! ) -> Result<u64, Failure> {
//!     order.card.parse::<u64>().reject()?; // will never be a card number: dead-letter it
//!     Ok(gateway.charge(&key, order.amount).await?) // `?` on any error: try again later
//! }
//! # use redrive::handler::Handler;
//! # let _ = charge.into_service(Gateway);
//! ```
//!
//! - Arguments are extractors: see [`FromDelivery`](crate::extract::FromDelivery) and the list in [`extract`].
//! - What comes back is a `Result<T, Failure>` with `T: Serialize` (or `()`): see [`IntoOutcome`].
//! - A [`Router`] picks a handler by the message's type; [`batch`] takes several deliveries at once.
//! - [`Handler::layer`] puts any `tower` layer around a handler or a router.

mod batch;
mod boxed;
pub mod context;
pub mod extract;
mod function;
mod pointer;
mod result;
mod router;
mod service;

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tower_layer::Layer;
use tower_service::Service;

use crate::message::Message;
use crate::outcome::Outcome;

pub use batch::{BatchFn, FromState, IntoOutcomes, MAX_BATCH, MAX_LINGER, batch};
pub use boxed::BoxedHandler;
pub use context::Context;
pub(crate) use context::Kept;
pub use function::{HandlerFn, HandlerFuture};
pub use result::{IntoFailure, IntoOutcome};
pub use router::Router;
pub use service::{BoxError, HandlerService, OutcomeFuture, Share, Shared, from_service, share};

/// What a worker runs for its deliveries.
///
/// Every `async fn` is one that
/// - takes up to 12 arguments, each an [extractor](crate::extract::FromDelivery) of the worker's state `S`,
/// - returns what is [`IntoOutcome`]: `Result<T, Failure>` with `T: Serialize`,
/// - is `Send`: holds nothing across an `.await` that may not change threads.
///
/// So are closures of that kind, [`Router`]s, [batch handlers](batch), services ([`from_service`]), and what the methods
/// here return. `M` only tells the kinds apart; it is never written out.
///
/// ```
/// use redrive::extract::{Attempt, Text};
/// use redrive::handler::Handler;
/// use redrive::{Context, Failure, Outcome, key::Key, message::{Delivery, Message, Receipt}};
/// # use std::sync::Arc;
///
/// async fn greet(Attempt(attempt): Attempt, name: Text) -> Result<String, Failure> {
///     Ok(format!("hello {name}, for the {attempt}. time"))
/// }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// // A handler is a tower service in the end, and can be run as one.
/// let service = greet.into_service(());
/// let message = Message::new("id-1", "world");
/// let delivery = Delivery::new(message, Receipt::new("r"), 1, redrive::clock::Clock::system().now());
/// let context = Context::new(Arc::new(delivery), Key::new("id-1"), 2, "greetings".into());
/// assert!(matches!(service.run(context).await, Outcome::Done(_)));
/// # }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no handler",
    label = "not a handler",
    note = "a handler is an `async fn` of up to 12 extractors that returns `Result<T, Failure>`, a `Router`, a `batch(..)`, or `from_service(..)`"
)]
pub trait Handler<M, S>: Sized
where
    S: Send + Sync + 'static,
{
    /// The handler with its kind forgotten.
    fn boxed(self) -> BoxedHandler<S>;

    /// Puts a `tower` layer around the handler; around a [`Router`], around all its routes together.
    ///
    /// The layer's service must answer an [`Outcome`]; its errors become failures that are worth another try. It waits
    /// for the layer's readiness, in the time and the slot of the delivery. The service is cloned for each delivery, as
    /// `tower` means it; a layer whose service cannot be cloned goes in [`share`].
    ///
    /// ```
    /// use redrive::{Failure, extract::Text, handler::{Handler, Router}};
    /// use tower::limit::ConcurrencyLimitLayer;
    ///
    /// async fn mail(to: Text) -> Result<(), Failure> {
    ///     Ok(())
    /// }
    /// let router: Router = Router::new().route("mail", mail.layer(ConcurrencyLimitLayer::new(4)));
    /// ```
    fn layer<L>(self, layer: L) -> BoxedHandler<S>
    where
        L: Layer<HandlerService> + Send + Sync + 'static,
        L::Service: Service<Context, Response = Outcome> + Clone + Send + 'static,
        <L::Service as Service<Context>>::Error: Into<BoxError>,
        <L::Service as Service<Context>>::Future: Send,
    {
        service::layered(self.boxed(), layer)
    }

    /// Runs the handler in the named bulkhead, so that it cannot take all of the worker's slots. Within a handler that has
    /// one already, such as a route, that one stays.
    ///
    /// ```
    /// # use redrive::{Failure, handler::{Handler, Router}};
    /// # async fn charge() -> Result<(), Failure> { Ok(()) }
    /// # async fn mail() -> Result<(), Failure> { Ok(()) }
    /// let router: Router = Router::new()
    ///     .route("order.created", charge.bulkhead("gateway"))
    ///     .route("order.refunded", charge.bulkhead("gateway"))
    ///     .route("order.shipped", mail);
    /// ```
    fn bulkhead(self, name: impl Into<String>) -> BoxedHandler<S> {
        boxed::in_bulkhead(self.boxed(), name.into())
    }

    /// The handler with its state, as a `tower` service: what the worker runs, and tests can.
    fn into_service(self, state: S) -> HandlerService {
        HandlerService::new(self.boxed().with_state(state))
    }
}

/// A handler with its state, as the worker runs it.
pub(crate) trait ErasedHandler: Send + Sync {
    /// The extractor that cannot work without an inbox, if the handler has one.
    fn needs_inbox(&self) -> Option<&'static str>;

    /// How deliveries are gathered, if it takes several at once.
    fn batch(&self) -> Option<BatchPolicy>;

    /// The named bulkhead that this message's route runs in.
    fn bulkhead(&self, message: &Message) -> Option<&str>;

    /// All named bulkheads that routes ask for.
    fn bulkheads(&self) -> Vec<String>;

    /// What is wrong with the handler as it is put together, each a sentence that says what to do. A worker with such a
    /// handler must not be built.
    fn problems(&self) -> Vec<String> {
        Vec::new()
    }

    /// Runs it for one delivery. Panics are the caller's to catch, timeouts the caller's to set.
    fn call(&self, context: Context) -> BoxFuture<'static, Outcome>;

    /// Runs it for several deliveries at once and answers each by its position; only where [`batch`](Self::batch) says so.
    fn call_batch(&self, contexts: Vec<Context>) -> BoxFuture<'static, Vec<Outcome>>;
}

/// A handler with its state, shared by all that runs it.
pub(crate) type SharedHandler = Arc<dyn ErasedHandler>;

/// How deliveries are gathered for a batch handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BatchPolicy {
    /// At most this many at once.
    pub(crate) max: usize,
    /// How long the first waits for more.
    pub(crate) linger: Duration,
}

/// Runs single deliveries one after the other, for handlers that take one at a time.
fn one_by_one(handler: SharedHandler, contexts: Vec<Context>) -> BoxFuture<'static, Vec<Outcome>> {
    Box::pin(async move {
        let mut outcomes = Vec::with_capacity(contexts.len());
        for context in contexts {
            outcomes.push(handler.call(context).await);
        }
        outcomes
    })
}

#[cfg(test)]
mod testing;
