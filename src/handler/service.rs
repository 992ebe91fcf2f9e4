//! Handlers as `tower` services, and `tower` layers around them.

use std::convert::Infallible;
use std::error::Error;
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, ready};

use futures::future::BoxFuture;
use tower_layer::Layer;
use tower_service::Service;

use super::{BatchPolicy, BoxedHandler, Context, ErasedHandler, SharedHandler};
use crate::message::Message;
use crate::outcome::{Failure, Outcome};

/// Any error of a layer.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// A handler with its state, as a `tower` service of [`Context`]: what layers are put around. Clones share.
///
/// It never fails as a service: how the run ended is its answer.
#[derive(Clone)]
pub struct HandlerService {
    handler: SharedHandler,
}

impl HandlerService {
    pub(super) fn new(handler: SharedHandler) -> Self {
        Self { handler }
    }

    /// Runs the handler for one delivery.
    pub async fn run(&self, context: Context) -> Outcome {
        self.handler.call(context).await
    }

    /// Runs the handler for several deliveries and answers each by its position: a [batch handler](super::batch) at once,
    /// any other one by one.
    pub async fn run_batch(&self, contexts: Vec<Context>) -> Vec<Outcome> {
        self.handler.call_batch(contexts).await
    }

    /// What is wrong with the handler as it is put together, each a sentence that says what to do. A worker with such a
    /// handler is not built.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        self.handler.problems()
    }
}

impl fmt::Debug for HandlerService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandlerService").finish_non_exhaustive()
    }
}

impl Service<Context> for HandlerService {
    type Response = Outcome;
    type Error = Infallible;
    type Future = OutcomeFuture;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, context: Context) -> OutcomeFuture {
        OutcomeFuture {
            run: self.handler.call(context),
        }
    }
}

/// The run of a [`HandlerService`].
pub struct OutcomeFuture {
    run: BoxFuture<'static, Outcome>,
}

impl Future for OutcomeFuture {
    type Output = Result<Outcome, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(Ok(ready!(self.run.as_mut().poll(cx))))
    }
}

impl fmt::Debug for OutcomeFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutcomeFuture").finish_non_exhaustive()
    }
}

/// A handler that is a `tower` service of [`Context`]: for handlers that are written as such, and for stacks of middleware
/// that are built elsewhere.
///
/// Its answer must be an [`Outcome`]; its errors become failures that are worth another try. It is cloned for each delivery.
///
/// ```
/// use redrive::{Context, Outcome, handler::{Router, from_service}, outcome::StoredResult};
///
/// let count = tower::service_fn(|context: Context| async move {
///     println!("{} bytes", context.message().size());
///     Ok::<_, std::convert::Infallible>(Outcome::Done(StoredResult::Nothing))
/// });
/// let router: Router = Router::new().fallback(from_service(count));
/// ```
pub fn from_service<S, V>(service: V) -> BoxedHandler<S>
where
    S: Send + Sync + 'static,
    V: Service<Context, Response = Outcome> + Clone + Send + 'static,
    V::Error: Into<BoxError>,
    V::Future: Send,
{
    let service = Mutex::new(service);
    BoxedHandler::binding(move |_| {
        Arc::new(Layered {
            inner: None,
            service: Mutex::new(copy(&service)),
        })
    })
}

/// `layer` around `handler`.
pub(super) fn layered<S, L>(handler: BoxedHandler<S>, layer: L) -> BoxedHandler<S>
where
    S: Send + Sync + 'static,
    L: Layer<HandlerService> + Send + Sync + 'static,
    L::Service: Service<Context, Response = Outcome> + Clone + Send + 'static,
    <L::Service as Service<Context>>::Error: Into<BoxError>,
    <L::Service as Service<Context>>::Future: Send,
{
    BoxedHandler::binding(move |state| {
        let inner = handler.bind(state);
        let service = layer.layer(HandlerService::new(Arc::clone(&inner)));
        Arc::new(Layered {
            inner: Some(inner),
            service: Mutex::new(service),
        })
    })
}

/// A service, and the handler within it, if it is known. The lock lets services in that are not `Sync`; it is held only to
/// clone.
struct Layered<V> {
    inner: Option<SharedHandler>,
    service: Mutex<V>,
}

fn copy<V: Clone>(service: &Mutex<V>) -> V {
    service.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

impl<V> ErasedHandler for Layered<V>
where
    V: Service<Context, Response = Outcome> + Clone + Send + 'static,
    V::Error: Into<BoxError>,
    V::Future: Send,
{
    fn needs_inbox(&self) -> Option<&'static str> {
        self.inner.as_ref().and_then(|inner| inner.needs_inbox())
    }

    fn batch(&self) -> Option<BatchPolicy> {
        None
    }

    fn bulkhead(&self, message: &Message) -> Option<&str> {
        self.inner.as_ref().and_then(|inner| inner.bulkhead(message))
    }

    fn bulkheads(&self) -> Vec<String> {
        self.inner.as_ref().map(|inner| inner.bulkheads()).unwrap_or_default()
    }

    fn problems(&self) -> Vec<String> {
        let Some(inner) = &self.inner else { return Vec::new() };
        let mut problems = inner.problems();
        if inner.batch().is_some() {
            problems.push(
                "a layer is around a batch handler, but layers see single deliveries; put the layer's work in the handler"
                    .to_owned(),
            );
        }
        problems
    }

    fn call(&self, context: Context) -> BoxFuture<'static, Outcome> {
        Box::pin(oneshot(copy(&self.service), context))
    }

    fn call_batch(&self, contexts: Vec<Context>) -> BoxFuture<'static, Vec<Outcome>> {
        let handler: SharedHandler = Arc::new(Self {
            inner: self.inner.clone(),
            service: Mutex::new(copy(&self.service)),
        });
        super::one_by_one(handler, contexts)
    }
}

/// Waits until the service is ready, then calls it once.
async fn oneshot<V>(mut service: V, context: Context) -> Outcome
where
    V: Service<Context, Response = Outcome>,
    V::Error: Into<BoxError>,
{
    if let Err(error) = poll_fn(|cx| service.poll_ready(cx)).await {
        return failed(error);
    }
    service.call(context).await.unwrap_or_else(failed)
}

fn failed(error: impl Into<BoxError>) -> Outcome {
    let error: BoxError = error.into();
    Outcome::Failed(Failure::from(&*error))
}

/// Makes a layer whose service cannot be cloned fit around a handler, such as `tower`'s `RateLimitLayer`: all deliveries
/// share one service and wait in line for its readiness.
///
/// ```
/// use std::time::Duration;
/// use redrive::{Failure, extract::Text, handler::{Handler, Router, share}};
/// use tower::limit::RateLimitLayer;
///
/// async fn mail(to: Text) -> Result<(), Failure> {
///     Ok(())
/// }
/// let ten_a_second = RateLimitLayer::new(10, Duration::from_secs(1));
/// let router: Router = Router::new().route("mail", mail.layer(share(ten_a_second)));
/// ```
pub fn share<L>(layer: L) -> Share<L> {
    Share { layer }
}

/// A layer whose service is shared instead of cloned; see [`share`].
#[derive(Clone, Debug)]
pub struct Share<L> {
    layer: L,
}

impl<L: Layer<V>, V> Layer<V> for Share<L> {
    type Service = Shared<L::Service>;

    fn layer(&self, inner: V) -> Self::Service {
        Shared {
            service: Arc::new(tokio::sync::Mutex::new(self.layer.layer(inner))),
        }
    }
}

/// One service that many callers wait in line for; see [`share`].
#[derive(Debug)]
pub struct Shared<V> {
    service: Arc<tokio::sync::Mutex<V>>,
}

impl<V> Clone for Shared<V> {
    fn clone(&self) -> Self {
        Self {
            service: Arc::clone(&self.service),
        }
    }
}

impl<V, R> Service<R> for Shared<V>
where
    V: Service<R> + Send + 'static,
    V::Future: Send,
    R: Send + 'static,
{
    type Response = V::Response;
    type Error = V::Error;
    type Future = BoxFuture<'static, Result<V::Response, V::Error>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> Poll<Result<(), V::Error>> {
        // Readiness is the shared service's, and waited for in line.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: R) -> Self::Future {
        let service = Arc::clone(&self.service);
        Box::pin(async move {
            let answer = {
                let mut service = service.lock_owned().await;
                poll_fn(|cx| service.poll_ready(cx)).await?;
                service.call(request)
            };
            answer.await
        })
    }
}
