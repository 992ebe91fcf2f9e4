//! Extractors: what a handler can ask for by the types of its arguments.
//!
//! | argument | what it is | rejects when |
//! |---|---|---|
//! | [`Json<T>`] | the body, read as JSON | it cannot be read as a `T` |
//! | [`Text`], [`Bytes`] | the body as it is, not copied | never |
//! | [`State<T>`] | the worker's state, or a part of it | never |
//! | [`IdempotencyKey`] | the key that deduplication is by, to hand on | never |
//! | [`Attempt`] | which attempt this is | never |
//! | [`Attrs<T>`] | message attributes, each read as its field of `T` asks | one is missing or cannot be read |
//! | [`Attributes`] | all message attributes | never |
//! | [`Message`], `Arc<`[`Delivery`]`>` | the message (a copy); the delivery with receive count and times (shared) | never |
//! | [`Checkpoint`] | what the last run kept, and a place to keep more | the worker has no inbox: refused when built |
//! | [`FencingToken`] | a number that grows with every claim of the key | as above |
//! | [`CancellationToken`] | fires when the run's result is no longer wanted | never |
//! | [`Envelope`] | what the message says of its last death, if it was replayed | it was not replayed |
//! | [`Context`] | all of it | never |
//! | `Option<E>` | `None` where there is nothing that `E` could be read from | `E` rejects what is there |
//! | `Result<E, E::Rejection>` | the handler sees to it | never |
//! | `(E, F, ..)` | several at once | one of them does |
//!
//! Extractors of your own implement [`FromDelivery`].

mod attrs;
mod body;
mod claim;
mod json;
mod locate;
mod run;
mod state;

use std::convert::Infallible;

use super::{Context, IntoFailure};
use crate::outcome::Failure;

pub use crate::dlq::envelope::Envelope;
pub use crate::message::{Attributes, Delivery, Message};
pub use attrs::{Attrs, AttrsRejection};
pub use body::Text;
pub use bytes::Bytes;
pub use claim::{Checkpoint, CheckpointError, FencingToken, NoInbox};
pub use json::{Json, JsonRejection};
pub use run::{Attempt, IdempotencyKey, NotReplayed};
pub use state::{FromRef, State};
pub use tokio_util::sync::CancellationToken;

/// What can be an argument of a handler: it is made from the delivery, for a worker with the state `S`.
///
/// ```
/// use redrive::extract::FromDelivery;
/// use redrive::handler::IntoFailure;
/// use redrive::{Context, Failure};
///
/// /// The tenant whose message it is.
/// struct Tenant(String);
///
/// struct NoTenant;
///
/// impl IntoFailure for NoTenant {
///     fn into_failure(self) -> Failure {
///         Failure::reject("the message has no attribute `tenant`").because("no_tenant")
///     }
/// }
///
/// impl<S: Sync> FromDelivery<S> for Tenant {
///     type Rejection = NoTenant;
///
///     async fn from_delivery(context: &Context, _: &S) -> Result<Self, NoTenant> {
///         let tenant = context.message().attribute("tenant").ok_or(NoTenant)?;
///         Ok(Self(tenant.to_owned()))
///     }
/// }
///
/// async fn handle(Tenant(tenant): Tenant) -> Result<(), Failure> {
///     println!("for {tenant}");
///     Ok(())
/// }
/// # let _ = redrive::handler::Handler::into_service(handle, ());
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no extractor: a handler cannot take it as an argument",
    label = "not an extractor",
    note = "take the body as `Json<{Self}>`, or the worker's state as `State<{Self}>`",
    note = "all extractors are listed in `redrive::extract`; a type of your own becomes one by implementing `FromDelivery`"
)]
pub trait FromDelivery<S>: Sized + Send + 'static {
    /// Why there may be none. It knows what that means for the message: try again, or dead-letter it.
    type Rejection: IntoFailure + Send;

    /// The extractor's name, if it cannot work in a worker without an inbox: such a worker is not built.
    const NEEDS_INBOX: Option<&'static str> = None;

    /// Makes it from what the run knows and the worker's state.
    fn from_delivery(context: &Context, state: &S) -> impl Future<Output = Result<Self, Self::Rejection>> + Send;

    /// Whether the rejection says that there was nothing to make it from. `Option<Self>` is then `None`; every other
    /// rejection stays one, so that what is there and wrong is not overlooked.
    #[must_use]
    fn is_absent(_: &Self::Rejection) -> bool {
        false
    }
}

impl<S: Sync, E: FromDelivery<S>> FromDelivery<S> for Option<E> {
    type Rejection = E::Rejection;

    async fn from_delivery(context: &Context, state: &S) -> Result<Self, Self::Rejection> {
        match E::from_delivery(context, state).await {
            Ok(value) => Ok(Some(value)),
            Err(rejection) if E::is_absent(&rejection) => Ok(None),
            Err(rejection) => Err(rejection),
        }
    }
}

impl<S: Sync, E> FromDelivery<S> for Result<E, E::Rejection>
where
    E: FromDelivery<S>,
    E::Rejection: 'static,
{
    type Rejection = Infallible;

    async fn from_delivery(context: &Context, state: &S) -> Result<Self, Infallible> {
        Ok(E::from_delivery(context, state).await)
    }
}

impl<S: Sync> FromDelivery<S> for Context {
    type Rejection = Infallible;

    async fn from_delivery(context: &Context, _: &S) -> Result<Self, Infallible> {
        Ok(context.clone())
    }
}

/// Calls a macro with the names of 0 to 12 type parameters.
macro_rules! every_arity {
    ($each:ident) => {
        $each!();
        $each!(T1);
        $each!(T1 T2);
        $each!(T1 T2 T3);
        $each!(T1 T2 T3 T4);
        $each!(T1 T2 T3 T4 T5);
        $each!(T1 T2 T3 T4 T5 T6);
        $each!(T1 T2 T3 T4 T5 T6 T7);
        $each!(T1 T2 T3 T4 T5 T6 T7 T8);
        $each!(T1 T2 T3 T4 T5 T6 T7 T8 T9);
        $each!(T1 T2 T3 T4 T5 T6 T7 T8 T9 T10);
        $each!(T1 T2 T3 T4 T5 T6 T7 T8 T9 T10 T11);
        $each!(T1 T2 T3 T4 T5 T6 T7 T8 T9 T10 T11 T12);
    };
}
pub(super) use every_arity;

macro_rules! tuples {
    ($($extractor:ident)*) => {
        #[allow(unused_variables, clippy::unused_unit, reason = "the empty tuple takes nothing")]
        impl<S: Sync, $($extractor: FromDelivery<S>),*> FromDelivery<S> for ($($extractor,)*) {
            type Rejection = Failure;

            const NEEDS_INBOX: Option<&'static str> = first_of(&[$($extractor::NEEDS_INBOX),*]);

            async fn from_delivery(context: &Context, state: &S) -> Result<Self, Failure> {
                Ok(($(
                    $extractor::from_delivery(context, state).await.map_err(IntoFailure::into_failure)?,
                )*))
            }
        }
    };
}

every_arity!(tuples);

const fn first_of(needs: &[Option<&'static str>]) -> Option<&'static str> {
    let mut at = 0;
    while at < needs.len() {
        if needs[at].is_some() {
            return needs[at];
        }
        at += 1;
    }
    None
}

#[cfg(test)]
mod tests;
