//! What a handler's run ends in: done, try again, or never.

use std::borrow::Cow;
use std::error::Error;
use std::time::Duration;
use std::{fmt, iter};

use bytes::Bytes;

use crate::inbox::InboxError;

/// The most bytes of an error's text that are kept in the inbox and sent along with a dead letter.
pub const MAX_ERROR_BYTES: usize = 1024;

/// Why a message is a dead letter. Its text form is what the envelope, the inbox record and the operator's filters use.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Reason {
    /// The handler said that it can never succeed.
    Rejected,
    /// It failed as often as it may.
    AttemptsExhausted,
    /// Its key was already used with another payload.
    FingerprintMismatch,
    /// It took its process down with it, more than once.
    WorkerDied,
    /// No route is for its type.
    Unroutable,
    /// It cannot be read as what the handler takes.
    Malformed,
    /// Delayed any longer it would outlive the queue's retention.
    Expiring,
    /// A reason of the handler's own, in `snake_case`.
    Other(Cow<'static, str>),
}

impl Reason {
    /// The reason's text form.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Rejected => "rejected",
            Self::AttemptsExhausted => "attempts_exhausted",
            Self::FingerprintMismatch => "fingerprint_mismatch",
            Self::WorkerDied => "worker_died",
            Self::Unroutable => "unroutable",
            Self::Malformed => "malformed",
            Self::Expiring => "expiring",
            Self::Other(text) => text,
        }
    }

    /// The reason with this text form.
    #[must_use]
    pub fn from_text(text: &str) -> Self {
        [
            Self::Rejected,
            Self::AttemptsExhausted,
            Self::FingerprintMismatch,
            Self::WorkerDied,
            Self::Unroutable,
            Self::Malformed,
            Self::Expiring,
        ]
        .into_iter()
        .find(|known| known.as_str() == text)
        .unwrap_or_else(|| Self::Other(Cow::Owned(text.to_owned())))
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What the inbox keeps of a handler's result.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum StoredResult {
    /// The handler returned nothing.
    #[default]
    Nothing,
    /// The result, as JSON.
    Json(Bytes),
    /// There was a result, but it could not be kept: too large, or not serialisable.
    Omitted,
}

/// How one run of a handler ended.
#[derive(Debug)]
#[non_exhaustive]
pub enum Outcome {
    /// It is done, for good.
    Done(StoredResult),
    /// It is not done.
    Failed(Failure),
}

/// A handler's failure: by default one that is worth another try.
///
/// Any error becomes one by `?`, and means: try again later, with backoff. At the call site
/// [`FailureExt`] chooses otherwise. One that comes from the inbox's being away, as a
/// [`CheckpointError`](crate::extract::CheckpointError) can, is no attempt, also where it is the
/// [source](std::error::Error::source) of another.
///
/// ```
/// use redrive::{Failure, FailureExt};
///
/// fn parse(amount: &str) -> Result<u32, Failure> {
///     amount.parse::<u32>().reject() // will never parse: dead-letter it
/// }
/// assert!(parse("12").is_ok());
/// assert!(parse("twelve").unwrap_err().is_reject());
/// ```
#[derive(Clone, Debug)]
pub struct Failure {
    verdict: Verdict,
    cause: Cause,
    counts: bool,
    error: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict {
    Retry { after: Option<Duration> },
    Reject { reason: Reason },
}

/// What kind of end a failed run came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Cause {
    /// The handler returned an error.
    Error,
    /// It took longer than its timeout.
    Timeout,
    /// It panicked.
    Panic,
}

impl Failure {
    /// Try again later, with backoff.
    pub fn retry(error: impl fmt::Display) -> Self {
        Self::new(Verdict::Retry { after: None }, error)
    }

    /// Try again after `delay`, whatever the backoff says.
    pub fn retry_after(error: impl fmt::Display, delay: Duration) -> Self {
        Self::new(Verdict::Retry { after: Some(delay) }, error)
    }

    /// It can never succeed: dead-letter it.
    pub fn reject(error: impl fmt::Display) -> Self {
        Self::new(
            Verdict::Reject {
                reason: Reason::Rejected,
            },
            error,
        )
    }

    /// The handler took longer than `limit`: try again.
    #[must_use]
    pub fn timed_out(limit: Duration) -> Self {
        Self {
            cause: Cause::Timeout,
            ..Self::retry(format_args!("timed out after {} ms", limit.as_millis()))
        }
    }

    /// The handler panicked with `message`: try again.
    pub fn panicked(message: impl fmt::Display) -> Self {
        Self {
            cause: Cause::Panic,
            ..Self::retry(format_args!("panicked: {message}"))
        }
    }

    /// The same failure as a reject for `reason`, which operators can filter by; `snake_case`.
    #[must_use]
    pub fn because(mut self, reason: impl Into<Cow<'static, str>>) -> Self {
        self.verdict = Verdict::Reject {
            reason: Reason::Other(reason.into()),
        };
        self
    }

    /// The same failure as a reject for a reason the crate itself knows.
    #[must_use]
    pub fn for_reason(mut self, reason: Reason) -> Self {
        self.verdict = Verdict::Reject { reason };
        self
    }

    /// The same failure as no attempt of its message: what was to be done was not even begun, because a breaker was open or a
    /// limit reached.
    #[must_use]
    pub fn uncounted(mut self) -> Self {
        self.counts = false;
        self
    }

    /// Whether it is an attempt of its message.
    #[must_use]
    pub fn counts(&self) -> bool {
        self.counts
    }

    /// Whether it is a reject.
    #[must_use]
    pub fn is_reject(&self) -> bool {
        matches!(self.verdict, Verdict::Reject { .. })
    }

    /// The reason of a reject.
    #[must_use]
    pub fn reason(&self) -> Option<&Reason> {
        match &self.verdict {
            Verdict::Reject { reason } => Some(reason),
            Verdict::Retry { .. } => None,
        }
    }

    /// The delay that was asked for.
    #[must_use]
    pub fn delay(&self) -> Option<Duration> {
        match self.verdict {
            Verdict::Retry { after } => after,
            Verdict::Reject { .. } => None,
        }
    }

    /// What kind of end it was.
    #[must_use]
    pub fn cause(&self) -> Cause {
        self.cause
    }

    /// The error and its sources as text, at most [`MAX_ERROR_BYTES`].
    #[must_use]
    pub fn error(&self) -> &str {
        &self.error
    }

    /// An outage of the inbox is no failure of the message, so it is no attempt.
    fn of(verdict: Verdict, error: &dyn Error) -> Self {
        Self {
            counts: !is_outage_of_inbox(error),
            ..Self::new(verdict, Chain(error))
        }
    }

    fn new(verdict: Verdict, error: impl fmt::Display) -> Self {
        Self {
            verdict,
            cause: Cause::Error,
            counts: true,
            error: bounded(error.to_string(), MAX_ERROR_BYTES),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.verdict {
            Verdict::Retry { after: None } => write!(f, "to be tried again: {}", self.error),
            Verdict::Retry { after: Some(after) } => {
                write!(f, "to be tried again after {} ms: {}", after.as_millis(), self.error)
            }
            Verdict::Reject { reason } => write!(f, "rejected ({reason}): {}", self.error),
        }
    }
}

// `Failure` is no `std::error::Error` itself: that is what lets every error become one by `?`.
impl<E> From<E> for Failure
where
    E: Error,
{
    fn from(error: E) -> Self {
        Self::of(Verdict::Retry { after: None }, &error)
    }
}

/// Chooses at the call site what an error means for the message.
pub trait FailureExt<T> {
    /// Try again later, with backoff: what a bare `?` means.
    ///
    /// # Errors
    /// The error, as a [`Failure`].
    fn retry(self) -> Result<T, Failure>;

    /// Try again after `delay`.
    ///
    /// # Errors
    /// The error, as a [`Failure`].
    fn retry_after(self, delay: Duration) -> Result<T, Failure>;

    /// It can never succeed: dead-letter the message.
    ///
    /// # Errors
    /// The error, as a [`Failure`].
    fn reject(self) -> Result<T, Failure>;
}

impl<T, E: Error> FailureExt<T> for Result<T, E> {
    fn retry(self) -> Result<T, Failure> {
        self.map_err(Failure::from)
    }

    fn retry_after(self, delay: Duration) -> Result<T, Failure> {
        self.map_err(|error| Failure::of(Verdict::Retry { after: Some(delay) }, &error))
    }

    fn reject(self) -> Result<T, Failure> {
        self.map_err(|error| Failure::reject(Chain(&error)))
    }
}

/// Whether the inbox's being away is what it comes from. The error itself may have borrowed parts and so no known type;
/// that of a checkpoint has the inbox's as its source.
fn is_outage_of_inbox(error: &dyn Error) -> bool {
    let sources = iter::successors(error.source(), |&error| error.source());
    sources
        .filter_map(|source| source.downcast_ref::<InboxError>())
        .any(InboxError::is_outage)
}

/// An error with its sources: `a: b: c`, each said once.
pub(crate) struct Chain<'a>(pub(crate) &'a dyn Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut last = self.0.to_string();
        f.write_str(&last)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            let text = error.to_string();
            if !last.contains(&text) {
                write!(f, ": {text}")?;
            }
            last = text;
            source = error.source();
        }
        Ok(())
    }
}

/// `text`, cut at a character's end to at most `most` bytes, with an ellipsis where something was cut.
pub(crate) fn bounded(mut text: String, most: usize) -> String {
    if text.len() > most {
        let mut end = most.saturating_sub('…'.len_utf8());
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] Inner);

    #[derive(Debug, thiserror::Error)]
    #[error("inner")]
    struct Inner;

    #[test]
    fn a_bare_question_mark_means_retry_and_keeps_the_sources() {
        fn run() -> Result<(), Failure> {
            Err(Outer(Inner))?;
            Ok(())
        }
        let failure = run().unwrap_err();
        assert!(!failure.is_reject());
        assert_eq!(failure.error(), "outer: inner");
    }

    #[test]
    fn the_call_site_chooses() {
        let after = Duration::from_secs(9);
        assert_eq!(Err::<(), _>(Inner).retry_after(after).unwrap_err().delay(), Some(after));
        assert_eq!(
            Err::<(), _>(Inner).reject().unwrap_err().reason(),
            Some(&Reason::Rejected)
        );
        let custom = Failure::reject("declined").because("card_declined");
        assert_eq!(custom.reason().map(Reason::as_str), Some("card_declined"));
    }

    #[test]
    fn error_texts_are_bounded_at_a_character() {
        let failure = Failure::retry("ä".repeat(5_000));
        assert!(failure.error().len() <= MAX_ERROR_BYTES);
        assert!(failure.error().ends_with('…'));
    }

    #[test]
    fn every_reason_survives_its_text_form() {
        for text in ["rejected", "attempts_exhausted", "worker_died", "card_declined"] {
            assert_eq!(Reason::from_text(text).as_str(), text);
        }
        assert_eq!(Reason::from_text("malformed"), Reason::Malformed);
    }
}
