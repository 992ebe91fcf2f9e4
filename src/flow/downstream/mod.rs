mod builder;
mod error;
#[cfg(test)]
mod tests;
mod watch;

use std::fmt;
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

pub use builder::DownstreamBuilder;
pub use error::DownstreamError;
use tokio::time::{sleep, timeout};
pub use watch::BreakerWatch;

use super::breaker::report_transition;
use super::{
    Admission, Advice, Backoff, BreakerState, Bulkhead, BulkheadPermit, CircuitBreaker, Classify, LONGEST_DELAY,
    RateLimit, RetryBudget, Ticket, TokenBucket, Transition, Verdict, key_hash,
};
use crate::clock::{Clock, Instant, Random};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::telemetry::{self, BULKHEAD_FULL, DOWNSTREAM_TRIES, LIMITER_WAIT, NAME, OUTCOME, RETRY_BUDGET_SPENT};

/// Everything that stands around a call to another service: timeout, retries with jitter and `Retry-After`, retry budget,
/// circuit breaker, rate limit and bulkhead.
///
/// Make one per service and clone it: clones share all of it. A try takes a token first, then a slot, then asks the
/// breaker; it holds neither slot nor breaker while it waits. A failure that may pass counts for the breaker, as a timeout
/// does; a reject never does. One call's tries count as those of one key; [`keyed`](Self::keyed) makes all calls for one
/// message count so.
///
/// A call ends by itself: each of its tries takes at most twice the [longest wait](DownstreamBuilder::max_wait) and the
/// [timeout](DownstreamBuilder::timeout), and between them are the backoffs.
///
/// ```
/// use redrive::flow::{Advice, Classify, Downstream, DownstreamError};
/// use std::time::Duration;
///
/// #[derive(Debug, thiserror::Error)]
/// enum GatewayError {
///     #[error("status {0}")]
///     Status(u16),
/// }
///
/// impl Classify for GatewayError {
///     fn advice(&self) -> Advice {
///         let Self::Status(status) = self;
///         Advice::of_http(*status, None, 0).unwrap_or(Advice::Retry)
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let gateway = Downstream::builder("gateway").timeout(Duration::from_secs(2)).bulkhead(16).build()?;
///
/// let charged: Result<u32, _> = gateway.call(|| async { Ok::<_, GatewayError>(42) }).await;
/// assert_eq!(charged?, 42);
///
/// let declined = gateway.call(|| async { Err::<(), _>(GatewayError::Status(402)) }).await;
/// assert!(matches!(declined, Err(DownstreamError::Rejected { .. })));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Downstream {
    inner: Arc<Inner>,
    key: Option<u64>,
}

struct Inner {
    name: Arc<str>,
    timeout: Duration,
    retries: u32,
    max_wait: Duration,
    backoff: Backoff,
    budget: Mutex<RetryBudget>,
    breaker: Mutex<CircuitBreaker>,
    states: tokio::sync::watch::Sender<BreakerState>,
    bucket: TokenBucket,
    bulkhead: Option<Bulkhead>,
    calls: AtomicU64,
    clock: Clock,
    random: Random,
}

impl Downstream {
    /// Settings for the service of this name; the defaults are those of the setters.
    pub fn builder(name: impl Into<String>) -> DownstreamBuilder {
        DownstreamBuilder::new(name.into())
    }

    /// The name of the service.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// The same downstream for calls that belong to one key, an order's id or a message's key: however often they fail,
    /// the breaker takes them for failures of one.
    #[must_use]
    pub fn keyed(&self, key: impl Hash) -> Self {
        Self {
            inner: self.inner.clone(),
            key: Some(key_hash(key)),
        }
    }

    /// The circuit breaker, to watch.
    #[must_use]
    pub fn breaker(&self) -> BreakerWatch {
        BreakerWatch::new(&self.inner)
    }

    /// The bulkhead, to look at or resize.
    #[must_use]
    pub fn bulkhead(&self) -> Option<&Bulkhead> {
        self.inner.bulkhead.as_ref()
    }

    /// Changes the rate limit; `None` lifts it.
    pub fn set_rate(&self, limit: Option<RateLimit>) {
        self.inner.bucket.set(limit);
    }

    /// Calls the service: `f` makes one try, and is called again for a retry.
    ///
    /// Every try that times out is dropped where it stands: pass an idempotency key along, so that a try that arrived
    /// nevertheless does nothing twice.
    ///
    /// # Errors
    ///
    /// [`DownstreamError`] says whether the call was made, whether to try again, and when.
    pub async fn call<T, E, F, Fut>(&self, f: F) -> Result<T, DownstreamError<E>>
    where
        E: Classify,
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<T, E>>,
    {
        self.call_with(E::advice, f).await
    }

    /// Like [`call`](Self::call), for errors that cannot implement [`Classify`]: `advice` says which are worth a retry.
    ///
    /// # Errors
    ///
    /// [`DownstreamError`] says whether the call was made, whether to try again, and when.
    pub async fn call_with<T, E, A, F, Fut>(&self, advice: A, mut f: F) -> Result<T, DownstreamError<E>>
    where
        A: Fn(&E) -> Advice,
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<T, E>>,
    {
        let inner = &*self.inner;
        let serial = inner.calls.fetch_add(1, Ordering::Relaxed);
        let key = self.key.unwrap_or_else(|| key_hash(serial));
        inner.with_budget(|budget, now| budget.call(now));
        let mut last: Option<Failure<E>> = None;
        let mut delay = None;
        let mut tries = 0;
        loop {
            let entered = match inner.enter().await {
                Ok(entered) => entered,
                Err(refusal) => {
                    inner.count(refusal.outcome());
                    return Err(match last {
                        None => refusal.into_error(inner),
                        Some(last) => last.or_after(refusal.retry_after()).into_error(inner, tries),
                    });
                }
            };
            tries += 1;
            let failure = match timeout(inner.timeout, f()).await {
                Ok(Ok(value)) => {
                    entered.record(key, Verdict::Success, "ok");
                    return Ok(value);
                }
                Ok(Err(error)) => {
                    let retry_after = match advice(&error) {
                        Advice::Retry => None,
                        Advice::RetryAfter(wait) => Some(wait.min(LONGEST_DELAY)),
                        Advice::Reject => {
                            entered.record(key, Verdict::Ignored, "rejected");
                            let name = inner.name.clone();
                            return Err(DownstreamError::Rejected { name, error });
                        }
                    };
                    entered.record(key, Verdict::Failure, "failed");
                    Failure {
                        error: Some(error),
                        retry_after,
                    }
                }
                Err(_) => {
                    entered.record(key, Verdict::Failure, "timeout");
                    Failure {
                        error: None,
                        retry_after: None,
                    }
                }
            };
            match inner.wait_before_retry(tries, failure.retry_after, delay) {
                Ok(wait) => {
                    delay = Some(wait);
                    last = Some(failure);
                    sleep(wait).await;
                }
                Err(retry_after) => return Err(failure.or_after(retry_after).into_error(inner, tries)),
            }
        }
    }
}

impl Inner {
    /// Token, then slot, then the breaker's word: what is waited for first holds up nobody else.
    async fn enter(&self) -> Result<Entered<'_>, Refusal> {
        self.refuse_unless_admitted()?;
        self.token().await?;
        let permit = match &self.bulkhead {
            None => None,
            Some(bulkhead) => match timeout(self.max_wait, bulkhead.enter()).await {
                Ok(permit) => Some(permit),
                Err(_) => {
                    telemetry::counter(&BULKHEAD_FULL, &[(NAME, &self.name)]).increment(1);
                    return Err(Refusal::Full);
                }
            },
        };
        match self.with_breaker(|breaker, now| (breaker.admit(now), now)) {
            (Admission::Run(ticket) | Admission::Probe(ticket), _) => Ok(Entered {
                inner: self,
                ticket: Some(ticket),
                _permit: permit,
            }),
            (Admission::Wait { until }, now) => Err(Refusal::open(until, now)),
        }
    }

    /// Spends no token on what the breaker would refuse.
    fn refuse_unless_admitted(&self) -> Result<(), Refusal> {
        self.with_breaker(|breaker, now| match breaker.state(now) {
            _ if breaker.admits(now) => Ok(()),
            BreakerState::Open { until } => Err(Refusal::open(Some(until), now)),
            _ => Err(Refusal::open(None, now)),
        })
    }

    async fn token(&self) -> Result<(), Refusal> {
        let told = |wait| telemetry::histogram(&LIMITER_WAIT, &[(NAME, &self.name)]).record(wait);
        match self.bucket.reserve(self.clock.now(), self.max_wait) {
            Ok(Duration::ZERO) => {}
            Ok(wait) => {
                told(wait);
                sleep(wait).await;
            }
            Err(wait) => {
                told(wait);
                return Err(Refusal::Dry(wait));
            }
        }
        Ok(())
    }

    /// How long to wait before the next try; or that there is none, and when a later call may be worth it.
    fn wait_before_retry(
        &self,
        tries: u32,
        asked: Option<Duration>,
        previous: Option<Duration>,
    ) -> Result<Duration, Option<Duration>> {
        if tries > self.retries || asked.is_some_and(|wait| wait > self.max_wait) {
            return Err(None);
        }
        self.refuse_unless_admitted().map_err(|refusal| refusal.retry_after())?;
        if !self.with_budget(|budget, now| budget.try_retry(now)) {
            telemetry::counter(&RETRY_BUDGET_SPENT, &[(NAME, &self.name)]).increment(1);
            return Err(None);
        }
        Ok(match asked {
            // Never earlier than asked, and not all of them at once.
            Some(wait) => wait + self.random.up_to(self.backoff.base()),
            None => self.backoff.delay_after(tries, previous, &self.random),
        })
    }

    fn with_budget<T>(&self, f: impl FnOnce(&mut RetryBudget, Instant) -> T) -> T {
        f(
            &mut self.budget.lock().unwrap_or_else(PoisonError::into_inner),
            self.clock.now(),
        )
    }

    /// Does something with the breaker, and tells of the transition that its time, or `f`, brings about.
    fn with_breaker<T>(&self, f: impl FnOnce(&mut CircuitBreaker, Instant) -> T) -> T {
        let now = self.clock.now();
        let mut breaker = self.breaker.lock().unwrap_or_else(PoisonError::into_inner);
        let turned = breaker.turn(now);
        self.tell(turned, &breaker, now);
        f(&mut breaker, now)
    }

    /// Called with the breaker locked, so that states are told in their order.
    fn tell(&self, transition: Option<Transition>, breaker: &CircuitBreaker, now: Instant) {
        if let Some(transition) = transition {
            let state = breaker.state(now);
            report_transition(&self.name, transition, state);
            self.states.send_replace(state);
        }
    }

    fn count(&self, outcome: &'static str) {
        telemetry::counter(&DOWNSTREAM_TRIES, &[(NAME, &self.name), (OUTCOME, outcome)]).increment(1);
    }
}

/// A try that was let through. Dropped without a record, it was cancelled: its slot and its place as probe are free again.
struct Entered<'a> {
    inner: &'a Inner,
    ticket: Option<Ticket>,
    _permit: Option<BulkheadPermit>,
}

impl Entered<'_> {
    fn record(mut self, key: u64, verdict: Verdict, outcome: &'static str) {
        self.inner.count(outcome);
        if let Some(ticket) = self.ticket.take() {
            self.inner.with_breaker(|breaker, now| {
                let recorded = breaker.record(now, ticket, key, verdict);
                self.inner.tell(recorded.transition, breaker, now);
            });
        }
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.inner.count("cancelled");
            self.inner.with_breaker(|breaker, now| breaker.forget(now, ticket));
        }
    }
}

/// Why a try was not made.
enum Refusal {
    Open(Option<Duration>),
    Dry(Duration),
    Full,
}

impl Refusal {
    fn open(until: Option<Instant>, now: Instant) -> Self {
        Self::Open(until.map(|until| until.saturating_duration_since(now)))
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Open(retry_after) => *retry_after,
            Self::Dry(retry_after) => Some(*retry_after),
            Self::Full => None,
        }
    }

    fn outcome(&self) -> &'static str {
        match self {
            Self::Open(_) => "circuit_open",
            Self::Dry(_) => "rate_limited",
            Self::Full => "bulkhead_full",
        }
    }

    fn into_error<E>(self, inner: &Inner) -> DownstreamError<E> {
        let name = inner.name.clone();
        match self {
            Self::Open(retry_after) => DownstreamError::CircuitOpen { name, retry_after },
            Self::Dry(retry_after) => DownstreamError::RateLimited { name, retry_after },
            Self::Full => DownstreamError::BulkheadFull {
                name,
                waited: inner.max_wait,
            },
        }
    }
}

/// What a try that may be repeated ended in.
struct Failure<E> {
    /// `None` for a timeout.
    error: Option<E>,
    retry_after: Option<Duration>,
}

impl<E> Failure<E> {
    fn or_after(mut self, retry_after: Option<Duration>) -> Self {
        self.retry_after = self.retry_after.max(retry_after);
        self
    }

    fn into_error(self, inner: &Inner, tries: u32) -> DownstreamError<E> {
        let (name, retry_after) = (inner.name.clone(), self.retry_after);
        match self.error {
            Some(error) => DownstreamError::Failed {
                name,
                tries,
                retry_after,
                error,
            },
            None => DownstreamError::TimedOut {
                name,
                timeout: inner.timeout,
                tries,
                retry_after,
            },
        }
    }
}

impl fmt::Debug for Downstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Downstream")
            .field("name", &self.inner.name)
            .field("breaker", &*self.inner.states.borrow())
            .field("rate", &self.inner.bucket.limit())
            .field("bulkhead", &self.inner.bulkhead)
            .finish_non_exhaustive()
    }
}
