//! Handlers: plain `async fn`s whose arguments are taken from the delivery, routers over them, and batch handlers.

pub mod context;

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;

use crate::message::Message;
use crate::outcome::Outcome;

pub use context::Context;

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
