//! What SQS's failures mean for a queue.

use std::error::Error;

use aws_sdk_sqs::config::http::HttpResponse;
use aws_sdk_sqs::error::{ProvideErrorMetadata, SdkError};

use super::super::QueueError;
use crate::aws::{CallFailure, FailureKind, call_failure, kind_of_code, short_code};

/// Turns a failed call into a queue's error. `endpoint` is where the call went, as far as known.
pub(super) fn queue_error<E>(
    queue: &str,
    operation: &'static str,
    error: &SdkError<E, HttpResponse>,
    endpoint: Option<&str>,
) -> QueueError
where
    E: ProvideErrorMetadata + Error + 'static,
{
    from_failure(queue, operation, call_failure(error, endpoint), endpoint)
}

fn from_failure(queue: &str, operation: &'static str, failure: CallFailure, endpoint: Option<&str>) -> QueueError {
    let short = failure.short_code().to_owned();
    let from_kms = is_kms(&failure.code);
    let CallFailure {
        kind,
        code,
        detail,
        request_id,
    } = failure;
    let queue = queue.to_owned();
    match (kind, short.as_str()) {
        (FailureKind::Refused, "NonExistentQueue" | "QueueDoesNotExist") => QueueError::NotFound {
            queue,
            detail: format!(
                "{operation} at {}: {detail}{}",
                endpoint.unwrap_or("the SDK's endpoint"),
                request_id.map_or_else(String::new, |id| format!(", request {id}"))
            ),
        },
        (FailureKind::Refused, "OverLimit") => QueueError::InFlightLimit {
            queue,
            operation,
            detail,
            request_id,
        },
        (FailureKind::Throttled, _) => QueueError::Throttled {
            queue,
            operation,
            detail: format!("{code}: {detail}"),
            request_id,
        },
        (FailureKind::AccessDenied, _) => QueueError::AccessDenied {
            queue,
            operation,
            detail,
            request_id,
        },
        (FailureKind::NoCredentials, _) => QueueError::Credentials {
            queue,
            operation,
            detail,
            request_id,
        },
        (FailureKind::Unavailable, _) => QueueError::Unavailable {
            queue,
            operation,
            detail,
            request_id,
        },
        (FailureKind::WrongCredentials | FailureKind::Refused, _) => QueueError::Refused {
            queue,
            operation,
            detail: if from_kms { kms_advice(&short, &detail) } else { detail },
            code,
            request_id,
        },
    }
}

fn is_kms(code: &str) -> bool {
    code.starts_with("KMS.") || short_code(code).starts_with("Kms")
}

/// The queue is encrypted with a customer key, and the key is the obstacle, not the queue.
fn kms_advice(short: &str, said: &str) -> String {
    let advice = match short {
        "AccessDeniedException" | "KmsAccessDenied" => {
            "allow `kms:Decrypt` (to receive) and `kms:GenerateDataKey` (to send) on the queue's key for the role in use, \
             in the key's own policy too"
        }
        "DisabledException" | "KmsDisabled" => "enable the queue's key again, or give the queue another",
        "NotFoundException" | "KmsNotFound" => {
            "the queue's key is gone: give the queue another; messages encrypted with it are lost"
        }
        "InvalidStateException" | "KmsInvalidState" => "look at the state of the queue's key: is its deletion pending?",
        _ => "look at the queue's key in KMS",
    };
    format!("the key that encrypts the queue refused: {said}; {advice}")
}

/// Whether a batch that was refused so may hold entries that would be taken alone. Refusals that are about the caller,
/// the queue or its key meet every entry alike.
pub(super) fn may_be_one_entrys_fault(error: &QueueError) -> bool {
    let QueueError::Refused { code, .. } = error else {
        return false;
    };
    kind_of_code(code) == FailureKind::Refused
        && !is_kms(code)
        && !matches!(
            short_code(code),
            "InvalidSecurity" | "InvalidAddress" | "UnsupportedOperation" | "NoRegion" | "NotSent"
        )
}

/// The code and words of an error that ended a call as a whole, for entries that have to bear it.
pub(super) fn code_of(error: &QueueError) -> &str {
    match error {
        QueueError::NotFound { .. } => "QueueDoesNotExist",
        QueueError::Credentials { .. } => "NoCredentials",
        QueueError::AccessDenied { .. } => "AccessDenied",
        QueueError::InFlightLimit { .. } => "OverLimit",
        QueueError::Throttled { .. } => "RequestThrottled",
        QueueError::Unavailable { .. } => "Unavailable",
        QueueError::Refused { code, .. } => code,
        QueueError::Invalid { .. } => "Invalid",
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
mod tests {
    use super::*;

    fn mapped(kind: FailureKind, code: &str) -> QueueError {
        let failure = CallFailure {
            kind,
            code: code.to_owned(),
            detail: "said".to_owned(),
            request_id: Some("req-1".to_owned()),
        };
        from_failure("orders", "ReceiveMessage", failure, Some("http://host:1"))
    }

    #[test]
    fn every_error_names_queue_operation_request_and_cause() {
        for (kind, code) in [
            (FailureKind::Refused, "AWS.SimpleQueueService.NonExistentQueue"),
            (FailureKind::Refused, "OverLimit"),
            (FailureKind::Throttled, "RequestThrottled"),
            (FailureKind::AccessDenied, "AccessDenied"),
            (FailureKind::Unavailable, "Timeout"),
            (FailureKind::NoCredentials, "ExpiredToken"),
            (FailureKind::WrongCredentials, "InvalidClientTokenId"),
            (FailureKind::Refused, "InvalidParameterValue"),
        ] {
            let text = mapped(kind, code).to_string();
            for part in ["orders", "ReceiveMessage", "req-1", "said"] {
                assert!(text.contains(part), "{code}: {part} is not in {text:?}");
            }
        }
    }

    #[test]
    fn a_key_that_refuses_is_told_from_a_queue_that_refuses() {
        let error = mapped(FailureKind::Refused, "KMS.AccessDeniedException");
        assert!(matches!(error, QueueError::Refused { .. }), "{error:?}");
        assert!(error.to_string().contains("kms:Decrypt"), "{error}");
        assert!(!may_be_one_entrys_fault(&error));
        assert!(
            mapped(FailureKind::Refused, "KmsDisabled")
                .to_string()
                .contains("enable")
        );
        assert!(mapped(FailureKind::Throttled, "KMS.ThrottlingException").is_transient());
    }

    #[test]
    fn a_worker_outlives_what_time_can_heal() {
        assert!(mapped(FailureKind::Refused, "OverLimit").is_transient());
        for code in ["ExpiredToken", "NoCredentials"] {
            let error = mapped(FailureKind::NoCredentials, code);
            assert!(matches!(error, QueueError::Credentials { .. }), "{error:?}");
            assert!(error.is_transient());
        }
        assert!(!mapped(FailureKind::WrongCredentials, "SignatureDoesNotMatch").is_transient());
        assert!(!mapped(FailureKind::AccessDenied, "AccessDenied").is_transient());
    }

    #[test]
    fn inv11_only_refusals_that_one_entry_can_cause_are_tried_one_by_one() {
        for code in [
            "AWS.SimpleQueueService.BatchEntryIdsNotDistinct",
            "AWS.SimpleQueueService.BatchRequestTooLong",
            "InvalidBatchEntryId",
            "InvalidMessageContents",
            "InvalidParameterValue",
            "ReceiptHandleIsInvalid",
        ] {
            assert!(may_be_one_entrys_fault(&mapped(FailureKind::Refused, code)), "{code}");
        }
        for (kind, code) in [
            (FailureKind::Throttled, "RequestThrottled"),
            (FailureKind::AccessDenied, "AccessDenied"),
            (FailureKind::Unavailable, "InternalError"),
            (FailureKind::WrongCredentials, "SignatureDoesNotMatch"),
            (FailureKind::Refused, "NonExistentQueue"),
            (FailureKind::Refused, "UnsupportedOperation"),
        ] {
            assert!(!may_be_one_entrys_fault(&mapped(kind, code)), "{code}");
        }
    }
}
