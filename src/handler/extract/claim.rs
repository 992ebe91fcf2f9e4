//! What the claim gives a run: its fencing token and its checkpoint.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::FromDelivery;
use crate::handler::{Context, IntoFailure};
use crate::inbox::InboxError;
use crate::outcome::Failure;

/// The claim's fencing token: a number that is larger than that of every earlier claim of the key.
///
/// A store that remembers the largest one it has seen, and refuses smaller ones, cannot be written to by a run whose lease
/// was lost, however late it wakes up. Needs an inbox.
///
/// ```
/// use redrive::{Failure, extract::FencingToken};
/// # struct Db; impl Db { async fn put_if_newer(&self, _: u64) -> Result<(), std::io::Error> { Ok(()) } }
///
/// async fn store(FencingToken(token): FencingToken) -> Result<(), Failure> {
///     // Such as DynamoDB's condition `attribute_not_exists(fence) OR fence <= :token`.
///     # let db = Db;
///     Ok(db.put_if_newer(token).await?)
/// }
/// # let _ = redrive::handler::Handler::into_service(store, ());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FencingToken(pub u64);

impl<S: Sync> FromDelivery<S> for FencingToken {
    type Rejection = NoInbox;

    const NEEDS_INBOX: Option<&'static str> = Some("FencingToken");

    async fn from_delivery(context: &Context, _: &S) -> Result<Self, NoInbox> {
        let claim = context.claim().ok_or(NoInbox {
            extractor: "FencingToken",
        })?;
        Ok(Self(claim.fencing_token))
    }

    fn is_absent(_: &NoInbox) -> bool {
        true
    }
}

/// What the last run of this message kept, and a place to keep more: a handler of several steps goes on from there instead
/// of starting over. Needs an inbox.
///
/// Every save is one fenced write to the inbox: it fails once the lease is lost. It is kept through failures, releases and
/// dead processes, until the message is done; at most 4 KiB unless the inbox is set higher.
///
/// ```
/// use redrive::{Failure, extract::{Checkpoint, IdempotencyKey}};
/// # async fn charge(_: &str) -> Result<String, std::io::Error> { Ok(String::new()) }
/// # async fn ship(_: &str, _: &str) -> Result<(), std::io::Error> { Ok(()) }
///
/// async fn order(key: IdempotencyKey, checkpoint: Checkpoint) -> Result<(), Failure> {
///     let receipt: String = match checkpoint.load().await? {
///         Some(receipt) => receipt,
///         None => {
///             let receipt = charge(&key.step("charge")).await?;
///             checkpoint.save(&receipt).await?;
///             receipt
///         }
///     };
///     Ok(ship(&key.step("ship"), &receipt).await?)
/// }
/// # let _ = redrive::handler::Handler::into_service(order, ());
/// ```
#[derive(Clone, Debug)]
pub struct Checkpoint {
    context: Context,
}

impl Checkpoint {
    /// What was kept last, by this run or an earlier one.
    ///
    /// # Errors
    /// When it cannot be read as a `T`: another version of the handler kept something else.
    pub async fn load<T: DeserializeOwned>(&self) -> Result<Option<T>, CheckpointError> {
        let Some(data) = self.context.checkpoint() else {
            return Ok(None);
        };
        serde_json::from_slice(&data)
            .map(Some)
            .map_err(|error| CheckpointError::Unreadable {
                expected: std::any::type_name::<T>(),
                error,
            })
    }

    /// Keeps `value`, as JSON, instead of what was kept before.
    ///
    /// # Errors
    /// When it cannot be serialised or is too large, when the inbox cannot be reached, or when the lease is lost: nothing
    /// more may then be done under it. Handed on by `?`, that the inbox could not be reached is no attempt.
    pub async fn save<T: Serialize + ?Sized>(&self, value: &T) -> Result<(), CheckpointError> {
        let data = serde_json::to_vec(value).map_err(|error| CheckpointError::Unserialisable {
            given: std::any::type_name::<T>(),
            error,
        })?;
        let (Some(inbox), Some(claim)) = (self.context.inbox().cloned(), self.context.claim().cloned()) else {
            return Err(CheckpointError::NoInbox(NoInbox { extractor: NAME }));
        };
        let limit = inbox.max_result();
        if data.len() > limit {
            return Err(CheckpointError::Inbox(InboxError::TooLarge {
                what: "a checkpoint",
                size: data.len(),
                limit,
            }));
        }
        let data = Bytes::from(data);
        let serial = self.context.keeping_checkpoint();
        inbox.checkpoint(claim, serial, data.clone()).await?;
        self.context.keep_checkpoint(data);
        Ok(())
    }
}

const NAME: &str = "Checkpoint";

impl<S: Sync> FromDelivery<S> for Checkpoint {
    type Rejection = NoInbox;

    const NEEDS_INBOX: Option<&'static str> = Some(NAME);

    async fn from_delivery(context: &Context, _: &S) -> Result<Self, NoInbox> {
        if context.claim().is_none() {
            return Err(NoInbox { extractor: NAME });
        }
        Ok(Self {
            context: context.clone(),
        })
    }

    fn is_absent(_: &NoInbox) -> bool {
        true
    }
}

/// The handler takes what only an inbox gives, and the worker has none. Workers are not built so; where it happens all the
/// same, the message is tried again and not given up for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the handler takes a `{extractor}`, but the worker has no inbox; give it one by `.inbox(..)`")]
pub struct NoInbox {
    pub(super) extractor: &'static str,
}

impl IntoFailure for NoInbox {
    fn into_failure(self) -> Failure {
        Failure::retry(self)
    }
}

/// A checkpoint could not be read or kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// What was kept is no `T`.
    #[error(
        "the checkpoint cannot be read as `{expected}`; another version of the handler kept it: let the type read both forms"
    )]
    Unreadable {
        /// The type it was to be read as.
        expected: &'static str,
        /// What is wrong.
        #[source]
        error: serde_json::Error,
    },
    /// The value has no form in JSON.
    #[error("a `{given}` cannot be kept as a checkpoint, as it cannot be serialised")]
    Unserialisable {
        /// The value's type.
        given: &'static str,
        /// What is wrong.
        #[source]
        error: serde_json::Error,
    },
    /// The inbox did not keep it. Its error is the source, by which a [`Failure`] tells an outage, which is no attempt.
    #[error("{0}")]
    Inbox(#[from] InboxError),
    /// The worker has no inbox.
    #[error(transparent)]
    NoInbox(NoInbox),
}

impl CheckpointError {
    /// Whether the lease is lost, so that nothing more may be done for this message.
    #[must_use]
    pub fn is_lease_lost(&self) -> bool {
        matches!(self, Self::Inbox(error) if error.is_lease_lost())
    }
}
