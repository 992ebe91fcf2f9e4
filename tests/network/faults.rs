//! The table of the suite: which calls a worker makes, and what can happen to each.

use std::time::Duration;

use crate::fault_proxy::{Effect, Fault, FaultProxy, Reply, Rule, Service};
use crate::scene::Scene;

/// A call that a worker makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Receive,
    Delete,
    ChangeVisibility,
    SendDeadLetter,
    ClaimSingly,
    ClaimInBatch,
    WriteSingly,
    WriteInBatch,
}

impl Call {
    pub(crate) const ALL: [Self; 8] = [
        Self::Receive,
        Self::Delete,
        Self::ChangeVisibility,
        Self::SendDeadLetter,
        Self::ClaimSingly,
        Self::ClaimInBatch,
        Self::WriteSingly,
        Self::WriteInBatch,
    ];

    fn service(self) -> Service {
        match self {
            Self::Receive | Self::Delete | Self::ChangeVisibility | Self::SendDeadLetter => Service::Sqs,
            _ => Service::DynamoDb,
        }
    }

    fn operation(self) -> &'static str {
        match self {
            Self::Receive => "ReceiveMessage",
            Self::Delete => "DeleteMessageBatch",
            Self::ChangeVisibility => "ChangeMessageVisibilityBatch",
            Self::SendDeadLetter => "SendMessageBatch",
            Self::ClaimSingly => "PutItem",
            Self::ClaimInBatch | Self::WriteInBatch => "BatchExecuteStatement",
            Self::WriteSingly => "UpdateItem",
        }
    }

    fn is_batch(self) -> bool {
        !matches!(self, Self::Receive | Self::ClaimSingly | Self::WriteSingly)
    }

    /// A fault on this call.
    pub(crate) fn rule(self, fault: Fault) -> Rule {
        let rule = Rule::on(self.operation(), fault);
        match self {
            Self::ClaimInBatch => rule.when(|request| request.text().contains("INSERT INTO")),
            Self::WriteInBatch => rule.when(|request| request.text().contains("UPDATE ")),
            _ => rule,
        }
    }

    pub(crate) fn proxy(self, scene: &Scene) -> &FaultProxy {
        match self.service() {
            Service::Sqs => &scene.sqs,
            Service::DynamoDb => &scene.dynamodb,
        }
    }

    /// What can happen to it.
    pub(crate) fn faults(self) -> Vec<Fault> {
        let (before, after) = (Effect::None, Effect::Done);
        let mut faults = vec![
            Fault::Reset(before),
            Fault::Reset(after),
            Fault::Close(before),
            Fault::Close(after),
            Fault::Stall(before),
            Fault::Stall(after),
            Fault::StallInBody,
            Fault::Trickle(Duration::from_millis(60)),
            Fault::Late(Duration::from_millis(800)),
            Fault::Truncated,
            Fault::TruncatedHead,
            Fault::Answered(before, Reply::Status(500)),
            Fault::Answered(after, Reply::Status(503)),
            Fault::Answered(before, Reply::Html(502)),
            Fault::Answered(after, Reply::Html(504)),
            Fault::Answered(before, Reply::Html(200)),
            Fault::Answered(before, Reply::Garbage),
            Fault::Answered(after, Reply::Garbage),
            Fault::Answered(before, Reply::OtherJson),
            Fault::Answered(before, Reply::Empty),
            Fault::Answered(after, Reply::Empty),
            Fault::error(403, "AccessDeniedException"),
            Fault::DateMoved(-600),
            Fault::DateMoved(600),
            Fault::NoDate,
            Fault::BadDate,
        ];
        let errors: &[(u16, &str)] = match self.service() {
            Service::Sqs => &[
                (400, "RequestThrottled"),
                (503, "ThrottlingException"),
                (403, "ExpiredToken"),
                (403, "InvalidClientTokenId"),
                (500, "InternalFailure"),
                (503, "ServiceUnavailable"),
            ],
            Service::DynamoDb => &[
                (400, "ProvisionedThroughputExceededException"),
                (400, "ThrottlingException"),
                (400, "RequestLimitExceeded"),
                (400, "ExpiredTokenException"),
                (400, "UnrecognizedClientException"),
                (500, "InternalServerError"),
                (503, "ServiceUnavailable"),
            ],
        };
        faults.extend(errors.iter().map(|(status, code)| Fault::error(*status, code)));
        faults.push(Fault::Answered(after, Reply::Error(500, "InternalServerError")));
        if self.is_batch() {
            let codes: &[&str] = match self.service() {
                Service::Sqs => &["InternalError", "RequestThrottled"],
                Service::DynamoDb => &[
                    "ThrottlingError",
                    "ProvisionedThroughputExceeded",
                    "InternalServerError",
                    "TransactionConflict",
                ],
            };
            for code in codes {
                faults.extend([Fault::Entries(before, code), Fault::AllEntries(after, code)]);
            }
            faults.push(Fault::AllEntries(before, codes[0]));
            faults.push(Fault::EntriesMissing);
        }
        faults
    }
}
