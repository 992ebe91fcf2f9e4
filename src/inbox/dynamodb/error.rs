//! What failed calls and statements mean in the inbox's words.

use aws_sdk_dynamodb::types::BatchStatementErrorCodeEnum as StatementCode;

use crate::aws::{CallFailure, FailureKind};
use crate::inbox::InboxError;

/// A failed call of the action `operation` on table `inbox`. Actions have the names that IAM policies give them: those of
/// PartiQL statements are not those of the calls that do the same.
pub(super) fn call_error(inbox: &str, operation: &'static str, failure: CallFailure) -> InboxError {
    let inbox = inbox.to_owned();
    if failure.short_code() == "ResourceNotFoundException" {
        return InboxError::NotFound {
            inbox,
            detail: failure.detail,
        };
    }
    let conflict = matches!(
        failure.short_code(),
        "TransactionConflictException" | "ReplicatedWriteConflictException"
    );
    let CallFailure {
        kind,
        code,
        detail,
        request_id,
    } = failure;
    match kind {
        // Somebody else's write of the same item was under way: nothing is wrong with this one.
        _ if conflict => InboxError::Unavailable {
            inbox,
            operation,
            detail,
            request_id,
        },
        FailureKind::Unavailable => InboxError::Unavailable {
            inbox,
            operation,
            detail,
            request_id,
        },
        FailureKind::Throttled => InboxError::Throttled {
            inbox,
            operation,
            detail,
            request_id,
        },
        FailureKind::AccessDenied => denied(inbox, operation, &detail, request_id),
        FailureKind::NoCredentials => InboxError::Credentials {
            inbox,
            operation,
            detail,
            request_id,
        },
        FailureKind::WrongCredentials | FailureKind::Refused => InboxError::Refused {
            inbox,
            operation,
            code,
            detail,
            request_id,
        },
    }
}

/// A statement that failed by itself within a batch that was answered.
#[derive(Clone, Debug)]
pub(super) struct StatementFailure {
    pub(super) code: StatementCode,
    pub(super) message: String,
    pub(super) request_id: Option<String>,
}

/// The error of a statement, where its code says all; `None` where the single write is to find out.
pub(super) fn statement_error(inbox: &str, operation: &'static str, failure: &StatementFailure) -> Option<InboxError> {
    let inbox = inbox.to_owned();
    let detail = failure.message.clone();
    let request_id = failure.request_id.clone();
    match &failure.code {
        StatementCode::ThrottlingError
        | StatementCode::ProvisionedThroughputExceeded
        | StatementCode::RequestLimitExceeded => Some(InboxError::Throttled {
            inbox,
            operation,
            detail,
            request_id,
        }),
        StatementCode::InternalServerError => Some(InboxError::Unavailable {
            inbox,
            operation,
            detail,
            request_id,
        }),
        StatementCode::AccessDenied => Some(denied(inbox, operation, &detail, request_id)),
        StatementCode::ResourceNotFound => Some(InboxError::NotFound { inbox, detail }),
        StatementCode::ItemCollectionSizeLimitExceeded => Some(InboxError::Refused {
            inbox,
            operation,
            code: failure.code.as_str().to_owned(),
            detail,
            request_id,
        }),
        // A duplicate or a failed condition (`DuplicateItem`, `DuplicateItemException`, `ConditionalCheckFailed`), a conflict
        // with a transaction, a statement that was found wrong, and whatever else may be said some day.
        _ => None,
    }
}

fn denied(inbox: String, operation: &'static str, detail: &str, request_id: Option<String>) -> InboxError {
    InboxError::AccessDenied {
        inbox,
        operation,
        detail: format!("{detail} (the action is `dynamodb:{operation}`)"),
        request_id,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
mod tests {
    use super::*;
    use crate::aws::kind_of_code;

    fn call(code: &str) -> InboxError {
        let failure = CallFailure {
            kind: kind_of_code(code),
            code: code.to_owned(),
            detail: "the service's words".into(),
            request_id: Some("R1".into()),
        };
        call_error("orders-inbox", "PartiQLInsert", failure)
    }

    #[test]
    fn inv12_errors_say_what_failed_on_which_table_and_what_to_do() {
        let denied = call("AccessDeniedException");
        assert!(matches!(denied, InboxError::AccessDenied { .. }));
        let said = denied.to_string();
        for part in ["orders-inbox", "dynamodb:PartiQLInsert", "R1", "allow this action"] {
            assert!(said.contains(part), "{said} does not say {part}");
        }
        let missing = call("com.amazonaws.dynamodb.v20120810#ResourceNotFoundException");
        assert!(matches!(missing, InboxError::NotFound { .. }));
        assert!(missing.to_string().contains("`orders-inbox` does not exist"));
        let expired = call("ExpiredTokenException");
        assert!(matches!(expired, InboxError::Credentials { .. }), "{expired}");
        assert!(
            expired.to_string().contains("`orders-inbox` lacks AWS credentials"),
            "{expired}"
        );
        for code in [
            "UnrecognizedClientException",
            "ItemCollectionSizeLimitExceededException",
        ] {
            let refused = call(code);
            assert!(matches!(refused, InboxError::Refused { .. }), "{refused}");
            assert!(refused.to_string().contains(code), "{refused}");
        }
    }

    #[test]
    fn throttling_and_outages_are_transient_whatever_they_are_called() {
        for code in [
            "ProvisionedThroughputExceededException",
            "RequestLimitExceeded",
            "ThrottlingException",
            "InternalServerError",
            "TransactionConflictException",
            "ReplicatedWriteConflictException",
            "ExpiredTokenException",
        ] {
            assert!(call(code).is_transient(), "{code}");
        }
        for code in [
            "AccessDeniedException",
            "ValidationException",
            "InvalidSignatureException",
        ] {
            assert!(!call(code).is_transient(), "{code}");
        }
    }

    #[test]
    fn inv11_a_statement_that_only_lost_its_condition_is_left_to_the_single_write() {
        let statement = |code: &str| {
            let failure = StatementFailure {
                code: StatementCode::from(code),
                message: "words".into(),
                request_id: None,
            };
            statement_error("t", "PartiQLUpdate", &failure)
        };
        for code in [
            "DuplicateItem",
            "DuplicateItemException",
            "ConditionalCheckFailed",
            "ValidationError",
        ] {
            assert!(statement(code).is_none(), "{code}");
        }
        for code in [
            "ThrottlingError",
            "ProvisionedThroughputExceeded",
            "RequestLimitExceeded",
        ] {
            assert!(matches!(statement(code), Some(InboxError::Throttled { .. })), "{code}");
        }
        assert!(matches!(
            statement("AccessDenied"),
            Some(InboxError::AccessDenied { .. })
        ));
        assert!(matches!(
            statement("ResourceNotFound"),
            Some(InboxError::NotFound { .. })
        ));
        assert!(matches!(
            statement("InternalServerError"),
            Some(InboxError::Unavailable { .. })
        ));
    }
}
