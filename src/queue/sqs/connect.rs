//! Opening a queue: finding it, reading its attributes, and opening the dead-letter queue its redrive policy names.

use std::collections::HashMap;
use std::error::Error;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_sdk_sqs::Client;
use aws_sdk_sqs::config::StalledStreamProtectionConfig;
use aws_sdk_sqs::config::http::HttpResponse;
use aws_sdk_sqs::config::retry::{RetryConfig, RetryPartition};
use aws_sdk_sqs::config::timeout::TimeoutConfig;
use aws_sdk_sqs::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_sqs::types::QueueAttributeName;
use futures::future::BoxFuture;

use super::super::{MAX_BYTES, MAX_WAIT, QueueAttributes, QueueError, RedrivePolicy};
use super::error::{code_of, queue_error};
use super::target::{Arn, Target};
use super::{Connection, SqsQueue};
use crate::aws::{EndpointProbe, origin, short_code};
use crate::clock::{Clock, Random};
use crate::telemetry::{self, ERROR_TYPE, OPERATION, OPERATION_DURATION, QUEUE};
use crate::transport;

/// How long a call may take in all, unless set: settling late is worse than settling again.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// How often one call is tried, unless set. Few, because what calls us retries too, with the whole picture.
const MAX_ATTEMPTS: u32 = 3;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// How a worker talks to SQS: timeouts, retries, and where the time comes from.
///
/// ```no_run
/// # async fn open() -> Result<(), redrive::queue::QueueError> {
/// use std::time::Duration;
/// use redrive::SqsQueue;
///
/// let aws = aws_config::load_from_env().await;
/// let orders = SqsQueue::builder(aws_sdk_sqs::Client::new(&aws), "orders")
///     .call_timeout(Duration::from_secs(5))
///     .connect()
///     .await?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
#[must_use = "nothing is opened before `connect`"]
pub struct SqsQueueBuilder {
    client: Client,
    queue: String,
    clock: Clock,
    random: Random,
    call_timeout: Duration,
    max_attempts: u32,
    allow_http: bool,
}

impl SqsQueueBuilder {
    pub(super) fn new(client: Client, queue: impl Into<String>) -> Self {
        Self {
            client,
            queue: queue.into(),
            clock: Clock::system(),
            random: Random::from_system(),
            call_timeout: CALL_TIMEOUT,
            max_attempts: MAX_ATTEMPTS,
            allow_http: transport::is_allowed(),
        }
    }

    /// The clock that stamps deliveries.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// The source of the ids that tell a FIFO queue which receives are retries of one.
    pub fn random(mut self, random: Random) -> Self {
        self.random = random;
        self
    }

    /// How long a call may take in all, its retries included; 10 s unless set. A receive may take as long on top of its
    /// wait.
    pub fn call_timeout(mut self, timeout: Duration) -> Self {
        self.call_timeout = timeout;
        self
    }

    /// How often a call is tried within [`call_timeout`](Self::call_timeout), the first time included; 3 unless set.
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.max_attempts = attempts;
        self
    }

    /// Whether calls may go to other hosts than this one in the clear (`http://`), as between the containers of one
    /// machine; what `REDRIVE_ALLOW_HTTP` says unless set, else not.
    pub fn allow_http(mut self, allow: bool) -> Self {
        self.allow_http = allow;
        self
    }

    /// Finds the queue and reads its attributes and those of the dead-letter queue that its redrive policy names.
    ///
    /// # Errors
    /// When the queue's name, URL or ARN cannot be right or is of another region, when there is no such queue, and when
    /// the service cannot be reached or refuses. A dead-letter queue that does not exist or is not allowed is no error
    /// here: [`Queue::dead_letter_problem`](super::super::Queue::dead_letter_problem) tells it.
    pub async fn connect(self) -> Result<SqsQueue, QueueError> {
        // The SDK's futures are several kB each; the caller's own should not carry them.
        let opening: BoxFuture<'_, Result<SqsQueue, QueueError>> = Box::pin(self.open());
        opening.await
    }

    async fn open(self) -> Result<SqsQueue, QueueError> {
        self.check_settings()?;
        let target = Target::parse(&self.queue)?;
        let region = self.region()?;
        target.check_region(&self.queue, &region)?;

        let calls = self.calls()?;
        let attributes = calls.find(&target).await?;
        let (dead, problem) = match &attributes.redrive {
            Some(policy) => match calls.find_dead_letter_queue(&attributes.arn, policy, &region).await? {
                Ok(dead) => (Some(dead), None),
                Err(problem) => (None, Some(problem)),
            },
            None => (None, None),
        };
        let open = |attributes, dead, problem| SqsQueue {
            connection: Arc::new(Connection {
                calls: calls.clone(),
                attributes,
                attempt_prefix: self.random.next_u64(),
                attempts: AtomicU64::new(0),
            }),
            clock: self.clock.clone(),
            dead,
            problem,
        };
        let dead = dead.map(|attributes| Arc::new(open(attributes, None, None)));
        Ok(open(attributes, dead, problem))
    }

    /// What calls are made with.
    pub(super) fn calls(&self) -> Result<Calls, QueueError> {
        self.region()?;
        let endpoint = EndpointProbe::new(self.allow_http);
        Ok(Calls {
            client: self.worker_client(&endpoint),
            waiting: Arc::default(),
            endpoint,
            timeout: self.call_timeout,
            clock: self.clock.clone(),
        })
    }

    fn check_settings(&self) -> Result<(), QueueError> {
        let wrong = |what, value: String, why: &str| {
            Err(QueueError::Invalid {
                what,
                value,
                why: why.to_owned(),
            })
        };
        if self.call_timeout < Duration::from_millis(100) || self.call_timeout > Duration::from_secs(300) {
            let why = "a call may take 100 ms to 5 min; 10 s is the default";
            return wrong("call timeout", format!("{:?}", self.call_timeout), why);
        }
        if !(1..=10).contains(&self.max_attempts) {
            let why = "a call is tried 1 to 10 times; 3 is the default";
            return wrong("max attempts", self.max_attempts.to_string(), why);
        }
        Ok(())
    }

    fn region(&self) -> Result<String, QueueError> {
        match self.client.config().region() {
            Some(region) if !region.as_ref().is_empty() => Ok(region.as_ref().to_owned()),
            _ => Err(QueueError::Invalid {
                what: "AWS region",
                value: String::new(),
                why: format!(
                    "none is set, and queue `{}` cannot be called without one, not even at an endpoint of its own; set \
                     AWS_REGION or the region of the AWS configuration",
                    self.queue
                ),
            }),
        }
    }

    /// The client's own settings but for retries and timeouts. Its retries draw on an allowance that the SDK shares
    /// between all clients of a service in a process, and an adaptive client slows all its users down together: neither
    /// may couple a worker to what else runs here.
    fn worker_client(&self, endpoint: &EndpointProbe) -> Client {
        let retries = RetryConfig::standard()
            .with_max_attempts(self.max_attempts)
            .with_max_backoff(Duration::from_secs(2));
        let config = self
            .client
            .config()
            .to_builder()
            .retry_config(retries)
            .retry_partition(RetryPartition::new("redrive-sqs"))
            .timeout_config(timeouts(self.call_timeout, Duration::ZERO))
            // Answers are small and calls have their time limit: what it watches for ends there.
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .interceptor(endpoint.clone())
            .build();
        Client::from_conf(config)
    }
}

/// The timeouts of a call that the service may hold for `wait` before it answers. The connection's own timeouts are the
/// same for every call, because the SDK keeps a pool of connections for each pair of them.
pub(super) fn timeouts(call: Duration, wait: Duration) -> TimeoutConfig {
    let all = wait + call;
    // A call that is not held is tried again within its time; a long poll that went quiet is not waited for twice.
    let attempt = if wait.is_zero() { call / 2 } else { all };
    TimeoutConfig::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(MAX_WAIT + call)
        .operation_attempt_timeout(attempt)
        .operation_timeout(all)
        .build()
}

/// The client and what its calls share.
#[derive(Clone, Debug)]
pub(super) struct Calls {
    pub(super) client: Client,
    /// The client of the last receive and how long it waited: settings made anew for every call cost more than all else of it.
    waiting: Arc<Mutex<Option<(Duration, Client)>>>,
    pub(super) endpoint: EndpointProbe,
    pub(super) timeout: Duration,
    clock: Clock,
}

impl Calls {
    /// The client for calls that the service may hold for `wait`.
    pub(super) fn client_waiting(&self, wait: Duration) -> Client {
        if wait.is_zero() {
            return self.client.clone();
        }
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        match &*waiting {
            Some((for_this, client)) if *for_this == wait => client.clone(),
            _ => {
                let config = self.client.config().to_builder();
                let client = Client::from_conf(config.timeout_config(timeouts(self.timeout, wait)).build());
                *waiting = Some((wait, client.clone()));
                client
            }
        }
    }

    /// Awaits a call of the SQS action `operation` on a queue, and notes how long it took.
    pub(super) async fn answer<T, E>(
        &self,
        queue: &str,
        operation: &'static str,
        call: impl Future<Output = Result<T, SdkError<E, HttpResponse>>>,
    ) -> Result<T, QueueError>
    where
        E: ProvideErrorMetadata + Error + 'static,
    {
        let started = self.clock.now();
        let answer = call
            .await
            .map_err(|error| queue_error(queue, operation, &error, self.endpoint.endpoint()));
        let took = self.clock.now().saturating_duration_since(started);
        let mut labels = vec![(QUEUE, queue), (OPERATION, label(operation))];
        if let Err(error) = &answer {
            labels.push((ERROR_TYPE, short_code(code_of(error))));
        }
        telemetry::histogram(&OPERATION_DURATION, &labels).record(took);
        answer
    }

    pub(super) async fn find(&self, target: &Target) -> Result<QueueAttributes, QueueError> {
        let name = target.name();
        let url = match target {
            Target::Url { url, .. } => {
                let found = self.attributes(name, url).await;
                return found.map_err(|error| misdirected(error, url, self.endpoint.endpoint()));
            }
            Target::Name(_) => self.url_of(name, None).await?,
            Target::Arn(arn) => self.url_of(name, Some(arn.account.clone())).await?,
        };
        self.attributes(name, &url).await
    }

    async fn url_of(&self, name: &str, account: Option<String>) -> Result<String, QueueError> {
        const OPERATION: &str = "GetQueueUrl";
        let call = self
            .client
            .get_queue_url()
            .queue_name(name)
            .set_queue_owner_aws_account_id(account);
        self.answer(name, OPERATION, call.send())
            .await?
            .queue_url
            .filter(|url| !url.is_empty())
            .ok_or_else(|| unreadable(name, OPERATION, "it holds no queue URL".to_owned()))
    }

    /// Reads a queue's attributes.
    pub(super) async fn attributes(&self, name: &str, url: &str) -> Result<QueueAttributes, QueueError> {
        const OPERATION: &str = "GetQueueAttributes";
        let fifo = name.ends_with(".fifo");
        let call = self
            .client
            .get_queue_attributes()
            .queue_url(url)
            .set_attribute_names(Some(wanted(fifo)));
        let answer = self.answer(name, OPERATION, call.send()).await?;
        parse(name, url, &answer.attributes.unwrap_or_default()).map_err(|why| unreadable(name, OPERATION, why))
    }

    /// Opens the queue that a redrive policy names; says why where its absence or a missing permission is in the way.
    async fn find_dead_letter_queue(
        &self,
        source_arn: &str,
        policy: &RedrivePolicy,
        region: &str,
    ) -> Result<Result<QueueAttributes, String>, QueueError> {
        let dead = &policy.dead_letter_arn;
        if dead == source_arn {
            return Ok(Err(format!(
                "the redrive policy names the queue itself (`{dead}`) as its dead-letter queue, so a message that fails \
                 goes round for ever; create another queue and name that"
            )));
        }
        let arn = match Arn::parse(dead) {
            Ok(arn) => Target::Arn(arn),
            Err(error) => return Ok(Err(format!("the redrive policy's dead-letter queue: {error}"))),
        };
        if let Err(error) = arn.check_region(dead, region) {
            return Ok(Err(format!("the redrive policy's dead-letter queue: {error}")));
        }
        match self.find(&arn).await {
            Ok(attributes) => Ok(Ok(attributes)),
            // What time heals must not pass for a queue without dead letters.
            Err(error) if error.is_transient() => Err(error),
            Err(error) => Ok(Err(format!(
                "the dead-letter queue that the redrive policy names, `{dead}`, could not be opened: {error}"
            ))),
        }
    }
}

/// What an SQS action is called in metrics.
fn label(operation: &str) -> &'static str {
    match operation {
        "ReceiveMessage" => "receive",
        "DeleteMessageBatch" => "delete",
        "ChangeMessageVisibilityBatch" => "change_visibility",
        "SendMessageBatch" => "send",
        _ => "describe",
    }
}

/// The SDK sends calls to the endpoint of its configuration, whatever host a queue's URL names.
fn misdirected(error: QueueError, url: &str, endpoint: Option<&str>) -> QueueError {
    match (error, endpoint) {
        (QueueError::NotFound { queue, detail }, Some(endpoint)) if origin(url) != endpoint => QueueError::NotFound {
            queue,
            detail: format!(
                "{detail}; the URL names {}, but the AWS configuration sends calls to {endpoint}: set the endpoint too \
                 (AWS_ENDPOINT_URL_SQS)",
                origin(url)
            ),
        },
        (error, _) => error,
    }
}

pub(super) fn unreadable(queue: &str, operation: &'static str, why: String) -> QueueError {
    QueueError::Refused {
        queue: queue.to_owned(),
        operation,
        code: "UnreadableAnswer".to_owned(),
        detail: format!("the answer is not what SQS answers: {why}; is the endpoint an SQS endpoint?"),
        request_id: None,
    }
}

/// The attributes that are used. A standard queue refuses the FIFO ones by name.
fn wanted(fifo: bool) -> Vec<QueueAttributeName> {
    let mut wanted = vec![
        QueueAttributeName::QueueArn,
        QueueAttributeName::VisibilityTimeout,
        QueueAttributeName::MessageRetentionPeriod,
        QueueAttributeName::MaximumMessageSize,
        QueueAttributeName::RedrivePolicy,
        QueueAttributeName::ApproximateNumberOfMessages,
        QueueAttributeName::ApproximateNumberOfMessagesNotVisible,
        QueueAttributeName::ApproximateNumberOfMessagesDelayed,
    ];
    if fifo {
        wanted.extend([
            QueueAttributeName::ContentBasedDeduplication,
            QueueAttributeName::DeduplicationScope,
        ]);
    }
    wanted
}

fn parse(name: &str, url: &str, given: &HashMap<QueueAttributeName, String>) -> Result<QueueAttributes, String> {
    let text = |name: QueueAttributeName| given.get(&name).map(String::as_str);
    let number = |name: QueueAttributeName| match given.get(&name) {
        None => Ok(None),
        Some(value) => match value.parse::<u64>() {
            Ok(value) => Ok(Some(value)),
            Err(_) => Err(format!("{name} is `{value}`, not a number")),
        },
    };
    let needed = |name: QueueAttributeName| number(name.clone())?.ok_or_else(|| format!("it lacks {name}"));

    let mut attributes = QueueAttributes::new(name);
    attributes.url = url.to_owned();
    attributes.arn = text(QueueAttributeName::QueueArn)
        .filter(|arn| !arn.is_empty())
        .ok_or("it lacks QueueArn")?
        .to_owned();
    attributes.visibility_timeout = Duration::from_secs(needed(QueueAttributeName::VisibilityTimeout)?);
    attributes.retention = Duration::from_secs(needed(QueueAttributeName::MessageRetentionPeriod)?);
    attributes.max_message_bytes = number(QueueAttributeName::MaximumMessageSize)?
        .and_then(|bytes| usize::try_from(bytes).ok())
        .unwrap_or(MAX_BYTES);
    attributes.content_based_deduplication = text(QueueAttributeName::ContentBasedDeduplication) == Some("true");
    attributes.deduplication_by_group = text(QueueAttributeName::DeduplicationScope) == Some("messageGroup");
    attributes.visible = number(QueueAttributeName::ApproximateNumberOfMessages)?.unwrap_or(0);
    attributes.in_flight = number(QueueAttributeName::ApproximateNumberOfMessagesNotVisible)?.unwrap_or(0);
    attributes.delayed = number(QueueAttributeName::ApproximateNumberOfMessagesDelayed)?.unwrap_or(0);
    attributes.redrive = match text(QueueAttributeName::RedrivePolicy) {
        None | Some("") => None,
        Some(policy) => Some(redrive_policy(policy)?),
    };
    Ok(attributes)
}

/// Reads `{"deadLetterTargetArn":"…","maxReceiveCount":5}`; the count comes as a number or as text, as it was set.
fn redrive_policy(policy: &str) -> Result<RedrivePolicy, String> {
    let json: serde_json::Value =
        serde_json::from_str(policy).map_err(|error| format!("RedrivePolicy `{policy}` is not JSON ({error})"))?;
    let arn = json["deadLetterTargetArn"]
        .as_str()
        .ok_or_else(|| format!("RedrivePolicy `{policy}` lacks deadLetterTargetArn"))?;
    let count = &json["maxReceiveCount"];
    let count = count
        .as_u64()
        .or_else(|| count.as_str()?.parse().ok())
        .and_then(|count| u32::try_from(count).ok())
        .ok_or_else(|| format!("RedrivePolicy `{policy}` lacks a maxReceiveCount"))?;
    Ok(RedrivePolicy::new(arn, count))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
mod tests {
    use super::*;

    fn answer(extra: &[(QueueAttributeName, &str)]) -> HashMap<QueueAttributeName, String> {
        [
            (
                QueueAttributeName::QueueArn,
                "arn:aws:sqs:eu-west-1:123456789012:orders.fifo",
            ),
            (QueueAttributeName::VisibilityTimeout, "45"),
            (QueueAttributeName::MessageRetentionPeriod, "1209600"),
        ]
        .into_iter()
        .chain(extra.iter().cloned())
        .map(|(name, value)| (name, value.to_owned()))
        .collect()
    }

    #[test]
    fn a_queues_own_attributes_are_read() {
        let given = answer(&[
            (QueueAttributeName::MaximumMessageSize, "262144"),
            (QueueAttributeName::ContentBasedDeduplication, "true"),
            (QueueAttributeName::DeduplicationScope, "messageGroup"),
            (QueueAttributeName::ApproximateNumberOfMessages, "3"),
            (QueueAttributeName::ApproximateNumberOfMessagesNotVisible, "2"),
            (QueueAttributeName::ApproximateNumberOfMessagesDelayed, "1"),
            (
                QueueAttributeName::RedrivePolicy,
                r#"{"deadLetterTargetArn":"arn:aws:sqs:eu-west-1:123456789012:dead.fifo","maxReceiveCount":"15"}"#,
            ),
        ]);
        let read = parse("orders.fifo", "https://host/1/orders.fifo", &given).unwrap();
        assert_eq!(read.url, "https://host/1/orders.fifo");
        assert_eq!(read.arn, "arn:aws:sqs:eu-west-1:123456789012:orders.fifo");
        assert!(read.fifo && read.content_based_deduplication && read.deduplication_by_group);
        assert_eq!(read.visibility_timeout, Duration::from_secs(45));
        assert_eq!(read.retention, Duration::from_secs(14 * 24 * 3600));
        assert_eq!(read.max_message_bytes, 262_144);
        assert_eq!((read.visible, read.in_flight, read.delayed), (3, 2, 1));
        let policy = read.redrive.unwrap();
        assert_eq!(policy.max_receive_count, 15);
        assert!(policy.dead_letter_arn.ends_with("dead.fifo"));
    }

    #[test]
    fn inv12_an_answer_that_cannot_be_read_says_what_was_wrong() {
        for (extra, says) in [
            (
                (QueueAttributeName::VisibilityTimeout, "soon"),
                "VisibilityTimeout is `soon`",
            ),
            ((QueueAttributeName::QueueArn, ""), "lacks QueueArn"),
            ((QueueAttributeName::RedrivePolicy, "no json"), "is not JSON"),
            ((QueueAttributeName::RedrivePolicy, "{}"), "lacks deadLetterTargetArn"),
            (
                (
                    QueueAttributeName::RedrivePolicy,
                    r#"{"deadLetterTargetArn":"a","maxReceiveCount":-1}"#,
                ),
                "lacks a maxReceiveCount",
            ),
        ] {
            let error = parse("orders", "url", &answer(&[extra])).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
        assert!(parse("orders", "url", &HashMap::new()).is_err());
    }

    #[test]
    fn a_standard_queue_is_not_asked_for_what_only_a_fifo_queue_has() {
        assert!(!wanted(false).contains(&QueueAttributeName::DeduplicationScope));
        assert!(wanted(true).contains(&QueueAttributeName::DeduplicationScope));
    }

    #[test]
    fn connections_are_shared_between_long_polls_and_other_calls() {
        let (short, long) = (timeouts(CALL_TIMEOUT, Duration::ZERO), timeouts(CALL_TIMEOUT, MAX_WAIT));
        assert_eq!(short.connect_timeout(), long.connect_timeout());
        assert_eq!(short.read_timeout(), long.read_timeout());
        assert!(long.read_timeout().unwrap() > MAX_WAIT);
        assert!(long.operation_attempt_timeout().unwrap() > MAX_WAIT);
        assert_eq!(short.operation_timeout(), Some(CALL_TIMEOUT));
    }
}
