//! Handlers of one type, whatever they were made of.

use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;

use super::{BatchPolicy, Context, ErasedHandler, Handler, SharedHandler};
use crate::message::Message;
use crate::outcome::Outcome;

type Bind<S> = dyn Fn(&Arc<S>) -> SharedHandler + Send + Sync;

/// A handler whose kind is forgotten and whose state `S` is still to come. Clones share.
///
/// ```
/// use redrive::{Failure, handler::{BoxedHandler, Handler}};
///
/// let drop_it = |yes: bool| -> BoxedHandler<()> {
///     if yes {
///         (|| async { Err::<(), _>(Failure::reject("not wanted any more")) }).boxed()
///     } else {
///         (|| async { Ok::<_, Failure>(()) }).boxed()
///     }
/// };
/// let handler = drop_it(true);
/// ```
pub struct BoxedHandler<S> {
    bind: Arc<Bind<S>>,
}

impl<S: Send + Sync + 'static> BoxedHandler<S> {
    /// The handler with its kind forgotten.
    pub fn new<M, H: Handler<M, S>>(handler: H) -> Self {
        handler.boxed()
    }

    pub(super) fn binding(bind: impl Fn(&Arc<S>) -> SharedHandler + Send + Sync + 'static) -> Self {
        Self { bind: Arc::new(bind) }
    }

    /// The handler, ready to run.
    pub(crate) fn with_state(&self, state: S) -> SharedHandler {
        self.bind(&Arc::new(state))
    }

    pub(super) fn bind(&self, state: &Arc<S>) -> SharedHandler {
        (self.bind)(state)
    }
}

impl<S> Clone for BoxedHandler<S> {
    fn clone(&self) -> Self {
        Self {
            bind: Arc::clone(&self.bind),
        }
    }
}

impl<S> fmt::Debug for BoxedHandler<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoxedHandler").finish_non_exhaustive()
    }
}

/// Marks [`BoxedHandler`] among the kinds of handlers.
#[derive(Debug)]
pub enum IsBoxed {}

#[diagnostic::do_not_recommend]
impl<S: Send + Sync + 'static> Handler<IsBoxed, S> for BoxedHandler<S> {
    fn boxed(self) -> Self {
        self
    }
}

/// `handler`, run in the bulkhead `name` wherever it has none of its own.
pub(super) fn in_bulkhead<S: Send + Sync + 'static>(handler: BoxedHandler<S>, name: String) -> BoxedHandler<S> {
    BoxedHandler::binding(move |state| {
        Arc::new(InBulkhead {
            inner: handler.bind(state),
            name: name.clone(),
        })
    })
}

struct InBulkhead {
    inner: SharedHandler,
    name: String,
}

impl ErasedHandler for InBulkhead {
    fn needs_inbox(&self) -> Option<&'static str> {
        self.inner.needs_inbox()
    }

    fn batch(&self) -> Option<BatchPolicy> {
        self.inner.batch()
    }

    fn bulkhead(&self, message: &Message) -> Option<&str> {
        self.inner.bulkhead(message).or(Some(&self.name))
    }

    fn bulkheads(&self) -> Vec<String> {
        let mut names = self.inner.bulkheads();
        if !names.contains(&self.name) {
            names.push(self.name.clone());
        }
        names
    }

    fn problems(&self) -> Vec<String> {
        let mut problems = self.inner.problems();
        if self.name.trim().is_empty() {
            problems.push("a handler's bulkhead has an empty name; give `.bulkhead(..)` the name of one".to_owned());
        }
        problems
    }

    fn call(&self, context: Context) -> BoxFuture<'static, Outcome> {
        self.inner.call(context)
    }

    fn call_batch(&self, contexts: Vec<Context>) -> BoxFuture<'static, Vec<Outcome>> {
        self.inner.call_batch(contexts)
    }
}
