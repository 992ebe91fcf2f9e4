use std::time::Duration;

/// Whether a failed call is worth another try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Advice {
    /// It may succeed later.
    Retry,
    /// It may succeed later, and the service says how much later.
    RetryAfter(Duration),
    /// The same call can never succeed: its content is at fault, not the service.
    Reject,
}

/// Says of an error whether the call that ended in it is worth another try.
///
/// Implement it for the error of a client of yours; for errors of others there is
/// [`Downstream::call_with`](super::Downstream::call_with).
///
/// ```
/// use redrive::flow::{Advice, Classify};
///
/// enum GatewayError {
///     Unreachable,
///     CardDeclined,
/// }
///
/// impl Classify for GatewayError {
///     fn advice(&self) -> Advice {
///         match self {
///             Self::Unreachable => Advice::Retry,
///             Self::CardDeclined => Advice::Reject,
///         }
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`Downstream::call` does not know which `{Self}` is worth a retry",
    note = "implement `redrive::flow::Classify` for `{Self}`, or use `Downstream::call_with` and say it there"
)]
pub trait Classify {
    /// Whether the call that ended in this error is worth another try.
    fn advice(&self) -> Advice;
}
