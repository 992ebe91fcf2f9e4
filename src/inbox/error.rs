//! What can go wrong with an inbox.

use crate::key::RecordKey;

/// A call to the inbox, or one entry of it, failed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InboxError {
    /// Another claim holds the key now, or the record is gone: nothing was written.
    #[error(
        "the claim of key `{key}` no longer holds: its lease ran out and was taken over, or the record was removed"
    )]
    LeaseLost {
        /// The key.
        key: RecordKey,
    },
    /// The service could not be reached, did not answer in time, or failed; the write may have had its effect.
    #[error("{operation} on inbox `{inbox}` failed: {detail}; it may have had its effect{}", request(.request_id.as_deref()))]
    Unavailable {
        /// The table.
        inbox: String,
        /// What was done.
        operation: &'static str,
        /// What is known of the failure.
        detail: String,
        /// The AWS request id.
        request_id: Option<String>,
    },
    /// The service asks for fewer calls, or the table's capacity is spent.
    #[error("{operation} on inbox `{inbox}` was throttled: {detail}; raise the table's capacity or its maximum{}", request(.request_id.as_deref()))]
    Throttled {
        /// The table.
        inbox: String,
        /// What was done.
        operation: &'static str,
        /// What the service said.
        detail: String,
        /// The AWS request id.
        request_id: Option<String>,
    },
    /// There are no AWS credentials, or they have expired; the call was not made, or had no effect.
    #[error("{operation} on inbox `{inbox}` has no valid AWS credentials: {detail}{}", request(.request_id.as_deref()))]
    Credentials {
        /// The table.
        inbox: String,
        /// What was done.
        operation: &'static str,
        /// What is wrong with them and what to do.
        detail: String,
        /// The AWS request id.
        request_id: Option<String>,
    },
    /// The service does not allow these credentials to make this call.
    #[error("{operation} on inbox `{inbox}` is not allowed: {detail}; allow this action on the table for the role in use{}", request(.request_id.as_deref()))]
    AccessDenied {
        /// The table.
        inbox: String,
        /// The DynamoDB action.
        operation: &'static str,
        /// What the service said.
        detail: String,
        /// The AWS request id.
        request_id: Option<String>,
    },
    /// The service understood the call and refused it.
    #[error("{operation} on inbox `{inbox}` was refused ({code}): {detail}{}", request(.request_id.as_deref()))]
    Refused {
        /// The table.
        inbox: String,
        /// What was done.
        operation: &'static str,
        /// The service's error code.
        code: String,
        /// What the service said.
        detail: String,
        /// The AWS request id.
        request_id: Option<String>,
    },
    /// There is no such table where it was looked for.
    #[error(
        "table `{inbox}` does not exist ({detail}); create it, or check its name, the account, the region and the endpoint"
    )]
    NotFound {
        /// The table.
        inbox: String,
        /// What the service said.
        detail: String,
    },
    /// The table is not as it must be.
    #[error("table `{inbox}` cannot be an inbox: {why}")]
    Schema {
        /// The table.
        inbox: String,
        /// What is wrong and what to do.
        why: String,
    },
    /// A record cannot be read as one: somebody else wrote to the table.
    #[error("inbox `{inbox}`: the record of key `{key}` cannot be read: {why}; mend or remove it")]
    Corrupt {
        /// The inbox.
        inbox: String,
        /// The key.
        key: RecordKey,
        /// What is wrong.
        why: String,
    },
    /// What was to be written is over its bound; nothing was written.
    #[error("{what} of {size} bytes is over the {limit} bytes allowed")]
    TooLarge {
        /// What was to be written.
        what: &'static str,
        /// Its size in bytes.
        size: usize,
        /// The bound in bytes.
        limit: usize,
    },
    /// The service answered fewer entries than it was asked.
    #[error("the inbox's answer leaves out an entry of the batch; it may have had its effect, and can be tried again")]
    NoAnswer,
}

impl InboxError {
    /// Whether the claim is gone, so that nothing more may be done under it.
    #[must_use]
    pub fn is_lease_lost(&self) -> bool {
        matches!(self, Self::LeaseLost { .. })
    }

    /// Whether the same call may succeed later.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::Credentials { .. } | Self::Unavailable { .. } | Self::Throttled { .. } | Self::NoAnswer
        )
    }

    /// Whether the inbox as a whole cannot be used now, whatever the message: also while it is not allowed, or not there.
    #[must_use]
    pub fn is_outage(&self) -> bool {
        self.is_transient() || matches!(self, Self::AccessDenied { .. } | Self::NotFound { .. })
    }
}

fn request(id: Option<&str>) -> String {
    id.map_or_else(String::new, |id| format!(" (request {id})"))
}
