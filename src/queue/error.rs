//! What can go wrong with a queue.

/// A call to a queue failed as a whole.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QueueError {
    /// There is no such queue where it was looked for.
    #[error("queue `{queue}` does not exist ({detail}); check its name, the account, the region and the endpoint")]
    NotFound {
        /// The queue.
        queue: String,
        /// What the service said.
        detail: String,
    },
    /// There are no AWS credentials, or they have expired; the call was not made, or had no effect.
    #[error("{operation} on queue `{queue}` lacks AWS credentials: {detail}{}", request(.request_id.as_deref()))]
    Credentials {
        /// The queue.
        queue: String,
        /// The SQS action.
        operation: &'static str,
        /// What is wrong with them and what to do.
        detail: String,
        /// The AWS request id.
        request_id: Option<String>,
    },
    /// The service does not allow these credentials to make this call.
    #[error(
        "{operation} on queue `{queue}` is not allowed: {detail}; allow `sqs:{operation}` on this queue for the role in use, \
         and look at the queue's own policy{}", request(.request_id.as_deref())
    )]
    AccessDenied {
        /// The queue.
        queue: String,
        /// The SQS action.
        operation: &'static str,
        /// What the service said.
        detail: String,
        /// The AWS request id.
        request_id: Option<String>,
    },
    /// The service asks for fewer calls.
    #[error("{operation} on queue `{queue}` was throttled: {detail}{}", request(.request_id.as_deref()))]
    Throttled {
        /// The queue.
        queue: String,
        /// The SQS action.
        operation: &'static str,
        /// What the service said.
        detail: String,
        /// The AWS request id.
        request_id: Option<String>,
    },
    /// As many messages of the queue are in flight as SQS allows; until some are settled it hands out no more.
    #[error(
        "{operation} on queue `{queue}` found as many messages in flight as SQS allows: {detail}; settle or release some, \
         or look for consumers that hold messages they do not settle{}", request(.request_id.as_deref())
    )]
    InFlightLimit {
        /// The queue.
        queue: String,
        /// The SQS action.
        operation: &'static str,
        /// What the service said.
        detail: String,
        /// The AWS request id.
        request_id: Option<String>,
    },
    /// The service could not be reached, did not answer in time, or failed; the call may have had its effect.
    #[error("{operation} on queue `{queue}` failed: {detail}; it may have had its effect{}", request(.request_id.as_deref()))]
    Unavailable {
        /// The queue.
        queue: String,
        /// The SQS action.
        operation: &'static str,
        /// What is known of the failure.
        detail: String,
        /// The AWS request id.
        request_id: Option<String>,
    },
    /// The service understood the call and refused it; sending it again will not help.
    #[error("{operation} on queue `{queue}` was refused ({code}): {detail}{}", request(.request_id.as_deref()))]
    Refused {
        /// The queue.
        queue: String,
        /// The SQS action.
        operation: &'static str,
        /// The service's error code.
        code: String,
        /// What the service said.
        detail: String,
        /// The AWS request id.
        request_id: Option<String>,
    },
    /// A setting or a name that cannot be right.
    #[error("{what} `{value}` cannot be used: {why}")]
    Invalid {
        /// What was given.
        what: &'static str,
        /// Its value.
        value: String,
        /// What is wrong and what to do.
        why: String,
    },
}

impl QueueError {
    /// Whether the same call may succeed later.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::Credentials { .. } | Self::Throttled { .. } | Self::InFlightLimit { .. } | Self::Unavailable { .. }
        )
    }
}

fn request(id: Option<&str>) -> String {
    id.map_or_else(String::new, |id| format!(" (request {id})"))
}

/// One entry of a batch failed; the others stand.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
#[non_exhaustive]
pub struct EntryError {
    /// The service's error code for the entry.
    pub code: String,
    /// What the service said.
    pub message: String,
    /// Whether the entry itself was wrong, so that sending it again will not help.
    pub sender_fault: bool,
}

impl EntryError {
    /// An entry's error.
    pub fn new(code: impl Into<String>, message: impl Into<String>, sender_fault: bool) -> Self {
        Self {
            code: code.into(),
            message: message.into(),
            sender_fault,
        }
    }

    /// Whether the receipt handle is no longer good: the delivery timed out, or the message is gone.
    #[must_use]
    pub fn is_stale_receipt(&self) -> bool {
        let code = self.code.rsplit('.').next().unwrap_or(&self.code);
        matches!(code, "ReceiptHandleIsInvalid" | "MessageNotInflight")
            || (code == "InvalidParameterValue" && self.message.contains("eceipt"))
    }
}
