use std::sync::Arc;
use std::time::Duration;

use crate::outcome::{Failure, FailureExt as _};

/// Why a [`Downstream`](super::Downstream) has no answer.
///
/// The error of the call itself is the [source](std::error::Error::source).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DownstreamError<E> {
    /// The circuit breaker let nothing through: the call was not made.
    #[error("`{name}` was not called: its circuit breaker is open")]
    CircuitOpen {
        /// The name of the downstream.
        name: Arc<str>,
        /// When it will let a probe through; `None` while one is under way.
        retry_after: Option<Duration>,
    },
    /// No token within the longest wait: the call was not made.
    #[error("`{name}` was not called: over its rate limit, next token in {retry_after:?}")]
    RateLimited {
        /// The name of the downstream.
        name: Arc<str>,
        /// When there will be a token, as far as is known.
        retry_after: Duration,
    },
    /// No slot within the longest wait: the call was not made.
    #[error("`{name}` was not called: its bulkhead was full for {waited:?}")]
    BulkheadFull {
        /// The name of the downstream.
        name: Arc<str>,
        /// How long a slot was waited for.
        waited: Duration,
    },
    /// No answer in time, at the last try. What the call should have done may have been done.
    #[error("`{name}` gave no answer within {timeout:?} (tries: {tries})")]
    TimedOut {
        /// The name of the downstream.
        name: Arc<str>,
        /// The time one try has.
        timeout: Duration,
        /// How often it was tried.
        tries: u32,
        /// When to try again, if that is known.
        retry_after: Option<Duration>,
    },
    /// It failed, at the last try, in a way that may pass.
    #[error("`{name}` failed (tries: {tries})")]
    Failed {
        /// The name of the downstream.
        name: Arc<str>,
        /// How often it was tried.
        tries: u32,
        /// When to try again, if that is known.
        retry_after: Option<Duration>,
        /// What the last try ended in.
        #[source]
        error: E,
    },
    /// It answered that this call can never succeed.
    #[error("`{name}` rejected the call")]
    Rejected {
        /// The name of the downstream.
        name: Arc<str>,
        /// What the call ended in.
        #[source]
        error: E,
    },
}

impl<E> DownstreamError<E> {
    /// How long to wait before it is worth trying again, where that is known: from `Retry-After`, from the breaker's open
    /// time, or from the rate limit.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::CircuitOpen { retry_after, .. }
            | Self::TimedOut { retry_after, .. }
            | Self::Failed { retry_after, .. } => *retry_after,
            Self::RateLimited { retry_after, .. } => Some(*retry_after),
            Self::BulkheadFull { .. } | Self::Rejected { .. } => None,
        }
    }

    /// Whether the same call can never succeed.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        matches!(self, Self::Rejected { .. })
    }

    /// Whether the call was never made, so that nothing can have come of it.
    #[must_use]
    pub fn was_not_called(&self) -> bool {
        matches!(
            self,
            Self::CircuitOpen { .. } | Self::RateLimited { .. } | Self::BulkheadFull { .. }
        )
    }

    /// What the last try ended in, if it ended in an error of its own.
    #[must_use]
    pub fn into_inner(self) -> Option<E> {
        match self {
            Self::Failed { error, .. } | Self::Rejected { error, .. } => Some(error),
            _ => None,
        }
    }
}

impl<E: std::error::Error + 'static> DownstreamError<E> {
    /// What it means for a message whose handler made the call: a reject where the call can never succeed, else another try,
    /// after the wait that is known; no attempt where the call was not made. A bare `?` would always mean another try, with the worker's own backoff.
    ///
    /// ```
    /// # use redrive::flow::{Advice, Downstream, DownstreamError};
    /// # async fn charge(gateway: &Downstream) -> Result<u64, redrive::Failure> {
    /// let receipt = gateway
    ///     .call_with(|_| Advice::Retry, || async { Ok::<_, std::io::Error>(7) })
    ///     .await
    ///     .map_err(DownstreamError::into_failure)?;
    /// # Ok(receipt)
    /// # }
    /// ```
    #[must_use]
    pub fn into_failure(self) -> Failure {
        let (permanent, wait, begun) = (self.is_permanent(), self.retry_after(), !self.was_not_called());
        let result: Result<(), Self> = Err(self);
        let failure = match wait {
            _ if permanent => result.reject(),
            Some(wait) => result.retry_after(wait),
            None => result.retry(),
        };
        let failure = failure.err().unwrap_or_else(|| Failure::retry("no error"));
        if begun { failure } else { failure.uncounted() }
    }
}
