//! What a role may do to a queue, and how far the host's clock is from the service's: found out without an effect.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use aws_config::SdkConfig;
use aws_sdk_sqs::Client;
use aws_sdk_sqs::config::interceptors::{
    BeforeDeserializationInterceptorContextRef, BeforeTransmitInterceptorContextRef,
};
use aws_sdk_sqs::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_sqs::error::BoxError;
use aws_sdk_sqs::types::{
    ChangeMessageVisibilityBatchRequestEntry, DeleteMessageBatchRequestEntry, QueueAttributeName,
    SendMessageBatchRequestEntry,
};

use super::SqsQueue;
use super::target::Target;
use crate::clock::Clock;
use crate::permission::{Permission, Verdict};
use crate::queue::QueueError;

/// A receipt handle that no receive has given.
const NO_RECEIPT: &str = "redrive-doctor-has-received-nothing";

/// Under whose name entries go; nothing carries it, since all of them are refused.
const ENTRY: &str = "0";

/// What a worker uses a queue for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum QueueRole {
    /// It receives from it.
    Source,
    /// It sends its dead letters there.
    DeadLetters,
}

/// How far this host's clock is from a service's, as one answer tells: it carries the service's time to the second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClockSkew {
    /// By how many ms this host's clock is ahead, at least; negative where it is behind. Zero means within a second.
    pub ahead_ms: i64,
}

impl ClockSkew {
    /// The skew that a `Date` of `date_s` (s since 1970) shows in the answer to a request that was sent at `sent_ms` and
    /// answered by `received_ms` of this host.
    fn of(sent_ms: u64, received_ms: u64, date_s: u64) -> Self {
        let ms = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        let (first, last) = (ms(date_s * 1_000), ms(date_s * 1_000 + 1_000));
        let ahead = ms(sent_ms) - last;
        let behind = first - ms(received_ms);
        Self {
            ahead_ms: if ahead > 0 { ahead } else { -behind.max(0) },
        }
    }
}

impl SqsQueue {
    /// Which of the actions a worker needs on this queue are allowed. No message is received, changed or sent, and no
    /// message of the queue is touched. `sqs:GetQueueUrl` and `sqs:GetQueueAttributes` are known from opening it.
    pub async fn permissions(&self, role: QueueRole) -> Vec<Permission> {
        let arn = &self.connection.attributes.arn;
        let allowed = |action| Permission::new(action, arn, Verdict::Allowed);
        let mut permissions = vec![allowed("sqs:GetQueueUrl"), allowed("sqs:GetQueueAttributes")];
        match role {
            QueueRole::Source => {
                permissions.push(Permission::new(
                    "sqs:ReceiveMessage",
                    arn,
                    Verdict::Untested("a receive hides messages from workers and counts against maxReceiveCount"),
                ));
                let delete = self.try_delete().await;
                permissions.push(Permission::new("sqs:DeleteMessage", arn, verdict(delete)));
                let change = self.try_change().await;
                permissions.push(Permission::new("sqs:ChangeMessageVisibility", arn, verdict(change)));
            }
            QueueRole::DeadLetters => {
                let send = self.try_send().await;
                permissions.push(Permission::new("sqs:SendMessage", arn, verdict(send)));
            }
        }
        permissions
    }

    /// How far this host's clock is from SQS's. Requests are signed with the host's time, and refused when it is more than
    /// five minutes off. Any answer tells, also one that refuses the call; `queue` need not exist.
    ///
    /// # Errors
    /// When the queue's name cannot be right, and when no answer came or it carried no `Date`.
    pub async fn clock_skew(config: &SdkConfig, queue: &str, clock: &Clock) -> Result<ClockSkew, QueueError> {
        const OPERATION: &str = "GetQueueUrl";
        let target = Target::parse(queue)?;
        let calls = Self::builder(Client::new(config), queue).calls()?;
        let dated = Dated {
            clock: clock.clone(),
            seen: Arc::default(),
        };
        let call = calls
            .client
            .get_queue_url()
            .queue_name(target.name())
            .customize()
            .interceptor(dated.clone());
        let answer = calls.answer(target.name(), OPERATION, call.send()).await;
        let seen = *dated.seen.lock().unwrap_or_else(PoisonError::into_inner);
        match (seen, answer) {
            (Seen { skew: Some(skew), .. }, _) => Ok(skew),
            (_, Err(error)) => Err(error),
            (_, Ok(_)) => Err(super::connect::unreadable(
                target.name(),
                OPERATION,
                "it carries no `Date` header".to_owned(),
            )),
        }
    }

    async fn try_delete(&self) -> Result<(), QueueError> {
        const OPERATION: &str = "DeleteMessageBatch";
        let entry = DeleteMessageBatchRequestEntry::builder()
            .id(ENTRY)
            .receipt_handle(NO_RECEIPT)
            .build()
            .map_err(|error| self.unbuildable(OPERATION, &error))?;
        let call = self
            .client()
            .delete_message_batch()
            .queue_url(self.url())
            .entries(entry);
        self.answer(OPERATION, call.send()).await.map(drop)
    }

    async fn try_change(&self) -> Result<(), QueueError> {
        const OPERATION: &str = "ChangeMessageVisibilityBatch";
        let entry = ChangeMessageVisibilityBatchRequestEntry::builder()
            .id(ENTRY)
            .receipt_handle(NO_RECEIPT)
            .visibility_timeout(0)
            .build()
            .map_err(|error| self.unbuildable(OPERATION, &error))?;
        let call = self
            .client()
            .change_message_visibility_batch()
            .queue_url(self.url())
            .entries(entry);
        self.answer(OPERATION, call.send()).await.map(drop)
    }

    /// Nothing can take this message: its body has characters that SQS does not allow, its delay is days too long, and on a
    /// FIFO queue it lacks a group.
    async fn try_send(&self) -> Result<(), QueueError> {
        const OPERATION: &str = "SendMessageBatch";
        let entry = SendMessageBatchRequestEntry::builder()
            .id(ENTRY)
            .message_body("\u{1}\u{ffff}")
            .delay_seconds(1_000_000)
            .build()
            .map_err(|error| self.unbuildable(OPERATION, &error))?;
        let call = self.client().send_message_batch().queue_url(self.url()).entries(entry);
        self.answer(OPERATION, call.send()).await.map(drop)
    }
}

/// What the answer to a call that cannot succeed says of its permission: entries are looked at after it.
fn verdict(answer: Result<(), QueueError>) -> Verdict {
    match answer {
        Ok(()) => Verdict::Allowed,
        Err(QueueError::AccessDenied { detail, .. }) => Verdict::Denied(detail),
        Err(QueueError::Refused { code, .. }) if is_about_the_entry(&code) => Verdict::Allowed,
        Err(other) => Verdict::Unknown(other.to_string()),
    }
}

fn is_about_the_entry(code: &str) -> bool {
    matches!(
        crate::aws::short_code(code),
        "InvalidParameterValue"
            | "InvalidMessageContents"
            | "ReceiptHandleIsInvalid"
            | "MissingParameter"
            | "InvalidIdFormat"
    )
}

/// Notes when a request was sent and what the `Date` of its answer shows.
#[derive(Clone, Debug)]
struct Dated {
    clock: Clock,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    sent_ms: u64,
    skew: Option<ClockSkew>,
}

impl Intercept for Dated {
    fn name(&self) -> &'static str {
        "redrive::Dated"
    }

    fn read_before_transmit(
        &self,
        _context: &BeforeTransmitInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).sent_ms = self.clock.epoch_ms();
        Ok(())
    }

    fn read_after_transmit(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let date = context.response().headers().get("date");
        let date = date.and_then(|date| httpdate::parse_http_date(date).ok());
        if let Some(since) = date.and_then(|date| date.duration_since(UNIX_EPOCH).ok()) {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.skew = Some(ClockSkew::of(seen.sent_ms, self.clock.epoch_ms(), since.as_secs()));
        }
        Ok(())
    }
}

/// Who may name a queue as its dead-letter queue.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RedriveAllow {
    /// Every queue of the account and region. So it is unless set.
    Everyone,
    /// None.
    Nobody,
    /// The queues with these ARNs.
    Queues(Vec<String>),
}

impl RedriveAllow {
    /// Whether the queue with this ARN may.
    #[must_use]
    pub fn admits(&self, source_arn: &str) -> bool {
        match self {
            Self::Everyone => true,
            Self::Nobody => false,
            Self::Queues(arns) => arns.iter().any(|arn| arn == source_arn),
        }
    }

    /// Reads `{"redrivePermission":"byQueue","sourceQueueArns":["…"]}`.
    pub(super) fn parse(policy: Option<&str>) -> Result<Self, String> {
        let Some(policy) = policy.filter(|policy| !policy.is_empty()) else {
            return Ok(Self::Everyone);
        };
        let json: serde_json::Value = serde_json::from_str(policy)
            .map_err(|error| format!("RedriveAllowPolicy `{policy}` is not JSON ({error})"))?;
        match json["redrivePermission"].as_str() {
            Some("allowAll") => Ok(Self::Everyone),
            Some("denyAll") => Ok(Self::Nobody),
            Some("byQueue") => {
                let arns = json["sourceQueueArns"]
                    .as_array()
                    .map(Vec::as_slice)
                    .unwrap_or_default();
                let arns = arns.iter().filter_map(|arn| arn.as_str().map(ToOwned::to_owned));
                Ok(Self::Queues(arns.collect()))
            }
            _ => Err(format!(
                "RedriveAllowPolicy `{policy}` has a redrivePermission that is not known"
            )),
        }
    }
}

/// Settings of a queue that matter to operators and not to workers.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueueSettings {
    /// Who may name it as its dead-letter queue.
    pub redrive_allow: RedriveAllow,
    /// The KMS key that encrypts it, if it has one of its own.
    pub kms_key: Option<String>,
    /// How long a message is hidden after it was sent, unless it says so itself.
    pub delay: Duration,
}

impl SqsQueue {
    /// Reads settings that a worker has no use for.
    ///
    /// Needs `sqs:GetQueueAttributes`.
    ///
    /// # Errors
    /// When the service cannot be reached or refuses.
    pub async fn settings(&self) -> Result<QueueSettings, QueueError> {
        const OPERATION: &str = "GetQueueAttributes";
        let call = self
            .client()
            .get_queue_attributes()
            .queue_url(self.url())
            .attribute_names(QueueAttributeName::RedriveAllowPolicy)
            .attribute_names(QueueAttributeName::KmsMasterKeyId)
            .attribute_names(QueueAttributeName::DelaySeconds);
        let answer = self.answer(OPERATION, call.send()).await?;
        let given = answer.attributes.unwrap_or_default();
        let text = |name| given.get(&name).map(String::as_str).filter(|text| !text.is_empty());
        let redrive_allow = RedriveAllow::parse(text(QueueAttributeName::RedriveAllowPolicy))
            .map_err(|why| super::connect::unreadable(&self.connection.attributes.name, OPERATION, why))?;
        let delay = text(QueueAttributeName::DelaySeconds).and_then(|seconds| seconds.parse().ok());
        Ok(QueueSettings {
            redrive_allow,
            kms_key: text(QueueAttributeName::KmsMasterKeyId).map(ToOwned::to_owned),
            delay: Duration::from_secs(delay.unwrap_or(0)),
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_skew_is_what_the_second_and_the_way_cannot_explain() {
        let ahead = |sent, received, date| ClockSkew::of(sent, received, date).ahead_ms;
        assert_eq!(ahead(10_000, 10_050, 10), 0);
        assert_eq!(ahead(10_990, 11_010, 10), 0);
        // An answer that took long says less.
        assert_eq!(ahead(8_000, 15_000, 12), 0);
        assert_eq!(ahead(71_000, 71_100, 10), 60_000);
        assert_eq!(ahead(10_000, 10_100, 71), -60_900);
    }

    #[test]
    fn a_redrive_allow_policy_says_who_may() {
        let read = |text| RedriveAllow::parse(Some(text)).unwrap();
        assert!(RedriveAllow::parse(None).unwrap().admits("a"));
        assert!(read(r#"{"redrivePermission":"allowAll"}"#).admits("a"));
        assert!(!read(r#"{"redrivePermission":"denyAll"}"#).admits("a"));
        let some = read(r#"{"redrivePermission":"byQueue","sourceQueueArns":["a"]}"#);
        assert!(some.admits("a") && !some.admits("b"));
        assert!(RedriveAllow::parse(Some("{")).is_err());
        assert!(RedriveAllow::parse(Some("{}")).is_err());
    }
}
