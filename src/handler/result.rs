//! What handlers return, and what it means for the message.

use std::convert::Infallible;

use bytes::Bytes;
use serde::Serialize;

use crate::outcome::{Failure, Outcome, StoredResult};
use crate::telemetry::said;

/// What a handler may return.
///
/// - `Result<T, Failure>` with `T: Serialize`. The value is kept in the inbox as JSON and handed to whoever asks again for
///   the same key; what serialises as `null`, as `()` and `None` do, is kept as nothing. A value that cannot be serialised
///   is left out with a warning: the work is done, so it is no failure.
/// - `Result<T, E>` with an error of your own that is [`IntoFailure`].
/// - [`Outcome`], which says it all itself.
///
/// A handler that returns nothing at all, not even `Ok(())`, is refused: it is more often a forgotten `?` than meant.
#[diagnostic::on_unimplemented(
    message = "a handler cannot return `{Self}`",
    label = "its result says nothing about the message",
    note = "return `Result<T, Failure>` with `T: Serialize`, such as `Result<(), Failure>`, and end in `Ok(())`",
    note = "an error type of your own can implement `IntoFailure`; any other becomes a `Failure` by `?`"
)]
pub trait IntoOutcome {
    /// How the run ended.
    fn into_outcome(self) -> Outcome;
}

impl IntoOutcome for Outcome {
    fn into_outcome(self) -> Outcome {
        self
    }
}

impl<T: Serialize, E: IntoFailure> IntoOutcome for Result<T, E> {
    fn into_outcome(self) -> Outcome {
        match self {
            Ok(value) => Outcome::Done(stored(&value)),
            Err(error) => Outcome::Failed(error.into_failure()),
        }
    }
}

/// Errors that know whether the message is worth another try.
///
/// [`Failure`] is one. Every other error becomes a `Failure` by `?`, and means another try; implement this for an error type
/// of your own to decide by its cases.
///
/// ```
/// use redrive::{Failure, Reason, handler::IntoFailure};
///
/// enum ChargeError {
///     Declined,
///     GatewayDown(std::io::Error),
/// }
///
/// impl IntoFailure for ChargeError {
///     fn into_failure(self) -> Failure {
///         match self {
///             Self::Declined => Failure::reject("the card was declined").because("card_declined"),
///             Self::GatewayDown(error) => error.into(),
///         }
///     }
/// }
///
/// async fn charge() -> Result<(), ChargeError> {
///     Err(ChargeError::Declined)
/// }
/// # let _ = redrive::handler::Handler::into_service(charge, ());
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not say whether a message that failed with it is worth another try",
    label = "not a `Failure`",
    note = "return `Result<T, Failure>`: any error becomes a `Failure` by `?` and means another try, `.reject()?` means none",
    note = "or implement `IntoFailure` for it"
)]
pub trait IntoFailure {
    /// The failure it is.
    fn into_failure(self) -> Failure;
}

impl IntoFailure for Failure {
    fn into_failure(self) -> Failure {
        self
    }
}

impl IntoFailure for Infallible {
    fn into_failure(self) -> Failure {
        match self {}
    }
}

/// The value as the inbox keeps it.
fn stored<T: Serialize>(value: &T) -> StoredResult {
    // Most handlers return `()`; what has no size is tried without an allocation.
    if size_of::<T>() == 0 {
        let mut text = [0_u8; 4];
        if serde_json::to_writer(&mut text[..], value).is_ok() && text == *b"null" {
            return StoredResult::Nothing;
        }
    }
    match serde_json::to_vec(value) {
        Ok(json) if json == b"null" => StoredResult::Nothing,
        Ok(json) => StoredResult::Json(Bytes::from(json)),
        Err(error) => {
            tracing::warn!(
                result = std::any::type_name::<T>(),
                error = %said(&error),
                "a handler's result cannot be serialised and is not kept; the message is done all the same"
            );
            StoredResult::Omitted
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::ser::Error as _;

    use super::*;

    struct Broken;

    impl Serialize for Broken {
        fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
            Err(S::Error::custom("no"))
        }
    }

    #[derive(Serialize)]
    struct Unit;

    fn result<T: Serialize>(value: T) -> StoredResult {
        match Ok::<T, Failure>(value).into_outcome() {
            Outcome::Done(stored) => stored,
            Outcome::Failed(failure) => panic!("{failure}"),
        }
    }

    #[test]
    fn a_result_is_kept_as_json_and_null_as_nothing() {
        assert_eq!(result(()), StoredResult::Nothing);
        assert_eq!(result(None::<u8>), StoredResult::Nothing);
        assert_eq!(result(Unit), StoredResult::Nothing);
        assert_eq!(result([0_u8; 0]), StoredResult::Json(Bytes::from_static(b"[]")));
        assert_eq!(result("null"), StoredResult::Json(Bytes::from_static(b"\"null\"")));
        assert_eq!(result(7), StoredResult::Json(Bytes::from_static(b"7")));
    }

    #[test]
    fn a_result_that_cannot_be_serialised_is_omitted_and_the_work_is_done() {
        assert_eq!(result(Broken), StoredResult::Omitted);
        assert_eq!(result(BTreeMap::from([((1, 2), 3)])), StoredResult::Omitted);
    }
}
