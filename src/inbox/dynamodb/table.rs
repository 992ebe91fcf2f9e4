//! The table: how it is called, how it must be, and how it is made.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_dynamodb::config::StalledStreamProtectionConfig;
use aws_sdk_dynamodb::config::timeout::TimeoutConfig;
use aws_sdk_dynamodb::error::{BuildError, ProvideErrorMetadata};
use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, KeySchemaElement, KeyType, MultiRegionConsistency, ScalarAttributeType,
    TableDescription, TableStatus, TimeToLiveSpecification, TimeToLiveStatus,
};
use aws_sdk_dynamodb::{Client, Config, config};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use tokio::sync::Semaphore;

use super::convert::attribute;
use super::dating::Dating;
use super::error::call_error;
use super::genuine::Genuine;
use super::time_limits;
use crate::aws::{CallFailure, EndpointProbe, FailureKind, call_failure};
use crate::clock::{Clock, Instant};
use crate::inbox::service_clock::{SLOWEST_ANSWER, SharedServiceClock};
use crate::inbox::{InboxError, ServiceTime};
use crate::telemetry::{self, ERROR_TYPE, INBOX_DURATION, NAME, OPERATION};

/// The most calls that run at once.
const MAX_CALLS: usize = 64;

/// How often a table is described for the sake of an answer's `Date`.
const MAX_DATE_CALLS: usize = 4;

/// How long a table may take to become usable.
const CREATION: Duration = Duration::from_secs(120);
const FIRST_LOOK: Duration = Duration::from_millis(100);
const LAST_LOOK: Duration = Duration::from_secs(2);

/// A call that failed: what the SDK says, and what that means.
pub(super) struct FailedCall<E> {
    pub(super) error: Box<SdkError<E, HttpResponse>>,
    pub(super) failure: CallFailure,
}

/// A table, with the client that calls it and the time its answers tell.
pub(super) struct Table {
    pub(super) client: Client,
    pub(super) name: Arc<str>,
    pub(super) service: SharedServiceClock,
    clock: Clock,
    endpoint: EndpointProbe,
    calls: Semaphore,
}

impl Table {
    pub(super) fn new(client: &Client, name: String, clock: Clock, allow_http: bool) -> Result<Self, InboxError> {
        if let Some(why) = not_a_name(&name) {
            return Err(InboxError::Schema { inbox: name, why });
        }
        let service = SharedServiceClock::default();
        let endpoint = EndpointProbe::new(allow_http);
        let dating = Dating {
            table: name.as_str().into(),
            clock: clock.clone(),
            service: service.clone(),
            named: Default::default(),
        };
        let config = bounded(client.config())
            .interceptor(dating)
            .interceptor(endpoint.clone())
            .interceptor(Genuine)
            .build();
        Ok(Self {
            client: Client::from_conf(config),
            name: name.into(),
            service,
            clock,
            endpoint,
            calls: Semaphore::new(MAX_CALLS),
        })
    }

    /// Now, on the monotonic clock.
    pub(super) fn now(&self) -> Instant {
        self.clock.now()
    }

    /// The bounds of the service's time now, once an answer told them.
    pub(super) fn time(&self) -> Option<ServiceTime> {
        self.service.time(self.clock.now())
    }

    /// Awaits a call in its turn, and times it as `what`: `claim`, `write`, `get`, `scan` or `describe`. Futures of the SDK take
    /// several kB each, and so do its errors.
    pub(super) async fn send<T, E>(
        &self,
        what: &'static str,
        call: impl Future<Output = Result<T, SdkError<E, HttpResponse>>> + Send,
    ) -> Result<T, FailedCall<E>>
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        let call = Box::pin(call);
        let _turn = self.calls.acquire().await;
        let started = self.clock.now();
        let result = call.await.map_err(|error| FailedCall {
            failure: call_failure(&error, self.endpoint.endpoint()),
            error: Box::new(error),
        });
        let took = self.clock.now().saturating_duration_since(started);
        let mut labels = vec![(NAME, &*self.name), (OPERATION, what)];
        if let Err(failed) = &result
            && failed.failure.short_code() != "ConditionalCheckFailedException"
        {
            labels.push((ERROR_TYPE, failed.failure.short_code()));
        }
        telemetry::histogram(&INBOX_DURATION, &labels).record(took);
        result
    }

    /// As [`send`](Self::send), with the error in the inbox's words.
    pub(super) async fn call<T, E>(
        &self,
        what: &'static str,
        action: &'static str,
        call: impl Future<Output = Result<T, SdkError<E, HttpResponse>>> + Send,
    ) -> Result<T, InboxError>
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        let answer = self.send(what, call).await;
        answer.map_err(|failed| call_error(&self.name, action, failed.failure))
    }

    /// A request that the SDK would not build.
    pub(super) fn not_built(&self, error: &BuildError) -> CallFailure {
        CallFailure {
            kind: FailureKind::Refused,
            code: "NotSent".to_owned(),
            detail: format!("the request could not be made ({error})"),
            request_id: None,
        }
    }

    /// Makes sure that the table can be an inbox, and that the service's time is known.
    pub(super) async fn verify(&self, allow_missing_ttl: bool) -> Result<(), InboxError> {
        let table = self.describe().await?;
        if let Some(why) = not_usable(&table).or_else(|| wrong_key(&table)) {
            return Err(self.unfit(why));
        }
        if !allow_missing_ttl && let Some(why) = self.missing_ttl().await? {
            return Err(self.unfit(why));
        }
        for _ in 1..MAX_DATE_CALLS {
            if self.time().is_some() {
                return Ok(());
            }
            self.describe().await?;
        }
        match self.time() {
            Some(_) => Ok(()),
            None => Err(self.unfit(format!(
                "no answer of {} within {} s carries a `Date` header, by which leases are timed; look at what stands \
                 between here and DynamoDB",
                self.endpoint.endpoint().unwrap_or("the service"),
                SLOWEST_ANSWER.as_secs()
            ))),
        }
    }

    /// What is wrong with the table, or will be, each in a sentence that says what to do.
    pub(super) async fn findings(&self, allow_missing_ttl: bool) -> Result<Vec<String>, InboxError> {
        let table = self.describe().await?;
        let mut findings: Vec<String> = [not_usable(&table), wrong_key(&table)].into_iter().flatten().collect();
        if !allow_missing_ttl {
            findings.extend(self.missing_ttl().await?);
        }
        let one_truth = table.multi_region_consistency() == Some(&MultiRegionConsistency::Strong);
        if !table.replicas().is_empty() && !one_truth {
            findings.push(
                "it is a global table that is eventually consistent: claims made in two regions at once can both win; let \
                 the workers of all regions use the table of one"
                    .to_owned(),
            );
        }
        Ok(findings
            .into_iter()
            .map(|finding| format!("table `{}`: {finding}", self.name))
            .collect())
    }

    /// Creates the table if it is not there, and waits until it can be used.
    pub(super) async fn create(&self) -> Result<(), InboxError> {
        let key = AttributeDefinition::builder()
            .attribute_name(attribute::KEY)
            .attribute_type(ScalarAttributeType::S)
            .build();
        let schema = KeySchemaElement::builder()
            .attribute_name(attribute::KEY)
            .key_type(KeyType::Hash)
            .build();
        let (key, schema) = match (key, schema) {
            (Ok(key), Ok(schema)) => (key, schema),
            (Err(error), _) | (_, Err(error)) => {
                return Err(call_error(&self.name, "CreateTable", self.not_built(&error)));
            }
        };
        let call = self
            .client
            .create_table()
            .table_name(&*self.name)
            .attribute_definitions(key)
            .key_schema(schema)
            .billing_mode(BillingMode::PayPerRequest);
        if let Err(failed) = self.send("describe", call.send()).await
            && failed.failure.short_code() != "ResourceInUseException"
        {
            return Err(call_error(&self.name, "CreateTable", failed.failure));
        }
        self.await_usable().await?;
        if self.missing_ttl().await?.is_some() {
            self.enable_ttl().await?;
        }
        Ok(())
    }

    async fn await_usable(&self) -> Result<(), InboxError> {
        let started = self.clock.now();
        let mut pause = FIRST_LOOK;
        loop {
            // A table that was made a moment ago may not be found yet.
            let why = match self.describe().await {
                Ok(table) => match (not_usable(&table), wrong_key(&table)) {
                    (None, None) => return Ok(()),
                    (_, Some(why)) => return Err(self.unfit(why)),
                    (Some(why), None) => why,
                },
                Err(error @ InboxError::NotFound { .. }) => error.to_string(),
                Err(error) => return Err(error),
            };
            if self.clock.now().saturating_duration_since(started) > CREATION {
                return Err(InboxError::Unavailable {
                    inbox: self.name.to_string(),
                    operation: "CreateTable",
                    detail: format!("not ready after {} s: {why}", CREATION.as_secs()),
                    request_id: None,
                });
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LAST_LOOK);
        }
    }

    async fn enable_ttl(&self) -> Result<(), InboxError> {
        let setting = TimeToLiveSpecification::builder()
            .enabled(true)
            .attribute_name(attribute::EXPIRES_AT)
            .build()
            .map_err(|error| call_error(&self.name, "UpdateTimeToLive", self.not_built(&error)))?;
        let call = self
            .client
            .update_time_to_live()
            .table_name(&*self.name)
            .time_to_live_specification(setting);
        let Err(error) = self.call("describe", "UpdateTimeToLive", call.send()).await else {
            return Ok(());
        };
        // Another process may have been faster, or it is on another attribute.
        match self.missing_ttl().await? {
            None => Ok(()),
            Some(why) if matches!(error, InboxError::Refused { .. }) => Err(self.unfit(why)),
            Some(_) => Err(error),
        }
    }

    pub(super) async fn describe(&self) -> Result<TableDescription, InboxError> {
        let call = self.client.describe_table().table_name(&*self.name);
        let output = self.call("describe", "DescribeTable", call.send()).await?;
        output.table.ok_or_else(|| InboxError::Unavailable {
            inbox: self.name.to_string(),
            operation: "DescribeTable",
            detail: "the answer describes no table".to_owned(),
            request_id: None,
        })
    }

    /// Why expired records would stay.
    async fn missing_ttl(&self) -> Result<Option<String>, InboxError> {
        let call = self.client.describe_time_to_live().table_name(&*self.name);
        let output = self.call("describe", "DescribeTimeToLive", call.send()).await?;
        let ttl = output.time_to_live_description;
        let on = ttl.as_ref().is_some_and(|ttl| {
            matches!(
                ttl.time_to_live_status,
                Some(TimeToLiveStatus::Enabled | TimeToLiveStatus::Enabling)
            )
        });
        Ok(match ttl.and_then(|ttl| ttl.attribute_name).filter(|_| on) {
            Some(name) if name == attribute::EXPIRES_AT => None,
            Some(name) => Some(format!(
                "its time to live is on `{name}`, so that records are never deleted; disable it there and enable it on `{}`",
                attribute::EXPIRES_AT
            )),
            None => Some(format!(
                "its time to live is off, so that records are never deleted; enable it on `{}`, or accept that by \
                 `allow_missing_ttl`",
                attribute::EXPIRES_AT
            )),
        })
    }

    fn unfit(&self, why: String) -> InboxError {
        InboxError::Schema {
            inbox: self.name.to_string(),
            why,
        }
    }
}

/// The client's settings, with a worker's time limits where a call has none at all, not even a lifted one: one that is never
/// answered would hang whoever waits for it.
fn bounded(config: &Config) -> config::Builder {
    // Answers are small and calls have their time limit: what this protection watches for ends there.
    let builder = config
        .to_builder()
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
    let own = config.timeout_config().cloned();
    let mut limits = own.unwrap_or_else(|| TimeoutConfig::builder().build());
    if limits.operation_timeout().is_some() || limits.operation_attempt_timeout().is_some() {
        return builder;
    }
    limits.take_defaults_from(&time_limits());
    builder.timeout_config(limits)
}

/// Why a table of this name cannot exist. The name goes into statements as it is.
fn not_a_name(name: &str) -> Option<String> {
    if name.starts_with("arn:") {
        return Some(
            "that is an ARN; give the table's name, and a configuration for its region and account".to_owned(),
        );
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    (!(3..=255).contains(&name.len()) || !name.chars().all(plain)).then(|| {
        "that is no table's name: it has 3 to 255 characters, each a letter of a to z, a digit, `-`, `_` or `.`"
            .to_owned()
    })
}

fn not_usable(table: &TableDescription) -> Option<String> {
    match table.table_status() {
        // It works on while it is changed.
        Some(TableStatus::Active | TableStatus::Updating) => None,
        Some(TableStatus::Creating) => Some("it is being created; wait until it is ACTIVE".to_owned()),
        Some(TableStatus::InaccessibleEncryptionCredentials) => {
            Some("its encryption key cannot be used; allow DynamoDB to use the key, or enable it again".to_owned())
        }
        status => Some(format!(
            "its status is {}, and must be ACTIVE",
            status.map_or("unknown", TableStatus::as_str)
        )),
    }
}

fn wrong_key(table: &TableDescription) -> Option<String> {
    let type_of = |name: &str| {
        let definition = table
            .attribute_definitions()
            .iter()
            .find(|known| known.attribute_name() == name);
        definition.map(|known| known.attribute_type())
    };
    let right = matches!(
        table.key_schema(),
        [key] if *key.key_type() == KeyType::Hash
            && key.attribute_name() == attribute::KEY
            && type_of(attribute::KEY) == Some(&ScalarAttributeType::S)
    );
    if right {
        return None;
    }
    let found: Vec<String> = table
        .key_schema()
        .iter()
        .map(|key| {
            let kind = type_of(key.attribute_name()).map_or("?", ScalarAttributeType::as_str);
            format!("`{}` ({}, {kind})", key.attribute_name(), key.key_type().as_str())
        })
        .collect();
    Some(format!(
        "its key is {}, and must be `{}` (HASH, S) alone; a table's key cannot be changed: use another table, which \
         `DynamoInbox::create_table` makes",
        found.join(" and "),
        attribute::KEY
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inv12_what_cannot_be_a_tables_name_is_refused_before_any_call() {
        for name in ["redrive-inbox", "a.b_c-1", "abc"] {
            assert_eq!(not_a_name(name), None, "{name}");
        }
        for name in ["", "ab", "a b c", "in\"box", "tablé", &"x".repeat(256)] {
            assert!(not_a_name(name).is_some(), "{name}");
        }
        let said = not_a_name("arn:aws:dynamodb:eu-west-1:123456789012:table/inbox").unwrap_or_default();
        assert!(said.contains("ARN"), "{said}");
    }
}
