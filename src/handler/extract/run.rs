//! What the run itself is: its attempt, its key, its end.

use std::convert::Infallible;
use std::fmt;
use std::ops::Deref;

use tokio_util::sync::CancellationToken;

use super::{Envelope, FromDelivery};
use crate::handler::{Context, IntoFailure};
use crate::key::{Key, digest_id};
use crate::outcome::{Failure, Reason};

/// Which attempt this is, from 1: runs of this message that failed, plus this one. Drains, lost leases and dead processes
/// count nothing. Without an inbox it is the queue's receive count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Attempt(pub u32);

impl<S: Sync> FromDelivery<S> for Attempt {
    type Rejection = Infallible;

    async fn from_delivery(context: &Context, _: &S) -> Result<Self, Infallible> {
        Ok(Self(context.attempt()))
    }
}

/// The key that deduplication is by: the same for every delivery, copy and replay of one piece of work.
///
/// Hand it on to whatever the handler calls. The inbox alone cannot keep an effect outside it from happening twice, when a
/// process dies between the effect and the record of it; who makes the effect can, by this key. It is `&str` where one is
/// wanted.
///
/// ```
/// use redrive::{Failure, extract::IdempotencyKey};
/// # async fn charge(key: &str) -> Result<(), std::io::Error> { Ok(()) }
/// # async fn ship(key: &str) -> Result<(), std::io::Error> { Ok(()) }
///
/// async fn order(key: IdempotencyKey) -> Result<(), Failure> {
///     charge(&key).await?;
///     ship(&key.step("ship")).await?; // another effect, with a key of its own
///     Ok(())
/// }
/// # let _ = redrive::handler::Handler::into_service(order, ());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct IdempotencyKey(Key);

impl IdempotencyKey {
    /// The key's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// A key for one of several effects of the same run: the same for the same step of the same work, different from every
    /// other. It is 64 hexadecimal digits, however long the key is: the SHA-256 of key and name, each with its length.
    #[must_use]
    pub fn step(&self, name: &str) -> String {
        digest_id(&[self.as_str(), name])
    }
}

impl Deref for IdempotencyKey {
    type Target = str;

    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl AsRef<str> for IdempotencyKey {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl From<IdempotencyKey> for String {
    fn from(key: IdempotencyKey) -> Self {
        key.as_str().to_owned()
    }
}

impl fmt::Display for IdempotencyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self)
    }
}

impl<S: Sync> FromDelivery<S> for IdempotencyKey {
    type Rejection = Infallible;

    async fn from_delivery(context: &Context, _: &S) -> Result<Self, Infallible> {
        Ok(Self(context.key().clone()))
    }
}

impl<S: Sync> FromDelivery<S> for CancellationToken {
    type Rejection = Infallible;

    async fn from_delivery(context: &Context, _: &S) -> Result<Self, Infallible> {
        Ok(context.cancellation().clone())
    }
}

impl<S: Sync> FromDelivery<S> for Envelope {
    type Rejection = NotReplayed;

    async fn from_delivery(context: &Context, _: &S) -> Result<Self, NotReplayed> {
        context.envelope().cloned().ok_or(NotReplayed)
    }

    fn is_absent(_: &NotReplayed) -> bool {
        true
    }
}

/// The message is no replayed dead letter: it has no [`Envelope`]. A reject for the reason `malformed`; handlers that take
/// both take `Option<Envelope>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the message was not replayed: it carries no dead-letter envelope; take `Option<Envelope>` if it need not")]
pub struct NotReplayed;

impl IntoFailure for NotReplayed {
    fn into_failure(self) -> Failure {
        Failure::reject(self).for_reason(Reason::Malformed)
    }
}
