//! What operators ask of an inbox and workers do not.

use std::time::Duration;

use aws_config::SdkConfig;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::ProvideErrorMetadata;
use aws_sdk_dynamodb::operation::delete_item::DeleteItemError;
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValuesOnConditionCheckFailure};

use super::convert::{Item, attribute, encode, text};
use super::entry::InboxEntry;
use super::error::call_error;
use super::table::{FailedCall, Table};
use super::{DynamoInbox, worker_settings};
use crate::clock::Clock;
use crate::inbox::decide::operator::{Hold, released};
use crate::inbox::record::Status;
use crate::inbox::{Inbox as _, InboxError};
use crate::key::RecordKey;

/// How far ahead of the service's time a token may be: more than the bounds of that time are ever apart.
const LONGEST_PASSING: Duration = Duration::from_secs(10);

/// Whether an operator's write minds who holds the key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Leases {
    /// A key that somebody may hold is left alone.
    #[default]
    Respect,
    /// It is taken away. See [`DynamoInbox::free`] for what that means.
    Override,
}

/// What became of an operator's write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Intervention {
    /// It was made.
    Done,
    /// Nothing was written: somebody may hold the key.
    Held {
        /// For how long at most; `None` where the item does not say.
        lease_left: Option<Duration>,
    },
    /// Nothing was written: there is no claim to release. The record has this status.
    NotClaimed(Status),
    /// Nothing was written: the item is not what was read any more.
    Changed,
}

/// What DynamoDB tells of a table. Counts and bytes are some hours old.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TableFacts {
    /// The table's ARN.
    pub arn: String,
    /// About how many items it holds.
    pub items: u64,
    /// About how many bytes they take.
    pub bytes: u64,
}

impl DynamoInbox {
    /// Reads a key's item as it is, consistently: also one that has expired, or that is no record any more.
    ///
    /// Needs `dynamodb:GetItem`.
    ///
    /// # Errors
    /// What calls fail with.
    pub async fn look(&self, key: &RecordKey) -> Result<Option<InboxEntry>, InboxError> {
        let call = self
            .table
            .client
            .get_item()
            .table_name(&*self.table.name)
            .key(attribute::KEY, text(key.as_str()))
            .consistent_read(true);
        let output = self.table.call("get", "GetItem", call.send()).await?;
        Ok(output.item.as_ref().map(InboxEntry::read))
    }

    /// Releases a claim, so that the key's next delivery runs at once: for one whose worker is gone.
    ///
    /// It is one conditional write, on exactly the claim that `entry` was read with. The record gets `claim_id`, which must be
    /// unique to this release (and may name who made it), and a larger fencing token; attempts, deaths and checkpoint stay.
    ///
    /// A claim is live while its lease may hold by the service's clock. [`Leases::Override`] takes a live one away, and fences
    /// its holder out: each later write of it is lost, and at its next heartbeat its handler is cancelled. For the invariants
    /// that means:
    ///
    /// - nothing is lost: the holder cannot complete, and does not delete the message;
    /// - one at a time is broken until that heartbeat, if a delivery comes before it: the old handler and a new one may run
    ///   at once, and what the old one did outside is done again unless the key was handed on;
    /// - fenced holds: the new claim's token is the larger one.
    ///
    /// A lost answer is no matter: a repeated call that finds `claim_id` in place has succeeded.
    ///
    /// Needs `dynamodb:UpdateItem`.
    ///
    /// # Errors
    /// [`InboxError::Corrupt`] if the entry is no record, and what calls fail with.
    pub async fn free(&self, entry: &InboxEntry, claim_id: &str, leases: Leases) -> Result<Intervention, InboxError> {
        let record = entry.record.as_ref().map_err(|why| InboxError::Corrupt {
            inbox: self.table.name.to_string(),
            key: entry.key.clone(),
            why: why.clone(),
        })?;
        if record.status != Status::Processing {
            return Ok(Intervention::NotClaimed(record.status));
        }
        let time = self.time();
        let hold = entry.hold(time);
        if let Some(held) = refused(hold, leases) {
            return Ok(held);
        }
        let values = encode(&released(record, claim_id, hold != Hold::Free, time));
        let mut call = self
            .table
            .client
            .update_item()
            .table_name(&*self.table.name)
            .key(attribute::KEY, text(entry.key.as_str()))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        let mut sets = Vec::new();
        for name in [
            attribute::STATUS,
            attribute::CLAIM_ID,
            attribute::FENCING_TOKEN,
            attribute::LEASE_UNTIL,
            attribute::STARTED,
        ] {
            let value = values.iter().find(|(encoded, _)| *encoded == name);
            sets.push(format!("#{name} = :{name}"));
            call = call
                .expression_attribute_names(format!("#{name}"), name)
                .expression_attribute_values(
                    format!(":{name}"),
                    value.map_or(AttributeValue::Null(true), |(_, value)| value.clone()),
                );
        }
        let unchanged = Unchanged::of(entry, leases);
        call = call.expression_attribute_names(format!("#{}", attribute::KEY), attribute::KEY);
        for (placeholder, name) in unchanged.names {
            call = call.expression_attribute_names(placeholder, name);
        }
        for (placeholder, value) in unchanged.values {
            call = call.expression_attribute_values(placeholder, value);
        }
        let call = call
            .update_expression(format!("SET {}", sets.join(", ")))
            .condition_expression(format!(
                "attribute_exists(#{}) AND {}",
                attribute::KEY,
                unchanged.condition
            ));
        let Err(failed) = self.table.send("write", call.send()).await else {
            return Ok(Intervention::Done);
        };
        match failed.error.as_service_error() {
            Some(UpdateItemError::ConditionalCheckFailedException(met)) => {
                let ours = met.item.as_ref().and_then(|item| item.get(attribute::CLAIM_ID));
                Ok(match ours {
                    Some(AttributeValue::S(id)) if id == claim_id => Intervention::Done,
                    _ => Intervention::Changed,
                })
            }
            _ => Err(self.failed("UpdateItem", failed)),
        }
    }

    /// Forgets a key: deletes its item, so that the key's next delivery, replay or copy runs as if it had never been seen.
    /// That is its purpose; for a key that is completed it means that its work is done again.
    ///
    /// It is one conditional delete of exactly what `entry` was read as. What was forgotten and what a holder loses:
    ///
    /// - nothing is lost: no message is touched; a rejection whose dead letter is not sent yet is forgotten too, and its
    ///   message, which is still in the queue, runs again;
    /// - one at a time holds unless [`Leases::Override`] forgets a claim that is live: then as with [`free`](Self::free);
    /// - fenced holds: a holder's later writes find no record and are lost, and the next claim's token is larger. Tokens are
    ///   the service's time, as its bounds tell it, and those of a claim made a moment ago may be ahead of it: the delete waits
    ///   for that time to pass, a second or two.
    ///
    /// Needs `dynamodb:DeleteItem`.
    ///
    /// # Errors
    /// [`InboxError::Corrupt`] if the token is so far ahead of the service's time that no wait would do, unless
    /// [`Leases::Override`] takes that too; and what calls fail with.
    pub async fn forget(&self, entry: &InboxEntry, leases: Leases) -> Result<Intervention, InboxError> {
        if let Some(held) = refused(entry.hold(self.time()), leases) {
            return Ok(held);
        }
        self.let_token_pass(entry, leases).await?;
        let mut call = self
            .table
            .client
            .delete_item()
            .table_name(&*self.table.name)
            .key(attribute::KEY, text(entry.key.as_str()))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        let unchanged = Unchanged::of(entry, leases);
        for (placeholder, name) in unchanged.names {
            call = call.expression_attribute_names(placeholder, name);
        }
        for (placeholder, value) in unchanged.values {
            call = call.expression_attribute_values(placeholder, value);
        }
        let call = call.condition_expression(unchanged.condition);
        let Err(failed) = self.table.send("write", call.send()).await else {
            return Ok(Intervention::Done);
        };
        match failed.error.as_service_error() {
            // A delete whose answer was lost, or somebody else's: it is forgotten.
            Some(DeleteItemError::ConditionalCheckFailedException(met)) => Ok(met
                .item
                .as_ref()
                .map_or(Intervention::Done, |_: &Item| Intervention::Changed)),
            _ => Err(self.failed("DeleteItem", failed)),
        }
    }

    /// Waits until any claim of a key without a record would get a larger token than the entry's.
    async fn let_token_pass(&self, entry: &InboxEntry, leases: Leases) -> Result<(), InboxError> {
        let Some(token) = entry.fencing_token() else {
            return Ok(());
        };
        let ahead = Duration::from_millis(token.saturating_add(1).saturating_sub(self.time().lo));
        if ahead <= LONGEST_PASSING {
            tokio::time::sleep(ahead).await;
            return Ok(());
        }
        match leases {
            Leases::Override => Ok(()),
            Leases::Respect => Err(InboxError::Corrupt {
                inbox: self.table.name.to_string(),
                key: entry.key.clone(),
                why: format!(
                    "its fencing token {token} is {} s ahead of the service's time, so that the key's next one would be \
                     smaller",
                    ahead.as_secs()
                ),
            }),
        }
    }

    /// What DynamoDB tells of the table.
    ///
    /// Needs `dynamodb:DescribeTable`.
    ///
    /// # Errors
    /// What calls fail with.
    pub async fn facts(&self) -> Result<TableFacts, InboxError> {
        let table = self.table.describe().await?;
        let count = |number: Option<i64>| u64::try_from(number.unwrap_or(0)).unwrap_or(0);
        Ok(TableFacts {
            arn: table.table_arn().unwrap_or_default().to_owned(),
            items: count(table.item_count()),
            bytes: count(table.table_size_bytes()),
        })
    }

    /// What keeps a table from being an inbox, each in a sentence that says what to do, without opening it; empty where
    /// nothing does.
    ///
    /// # Errors
    /// [`InboxError::NotFound`] if there is no such table, and what calls fail with.
    pub async fn check_table(config: &SdkConfig, table: impl Into<String>) -> Result<Vec<String>, InboxError> {
        let client = Client::from_conf(worker_settings(config));
        Table::new(&client, table.into(), Clock::system(), crate::transport::is_allowed())?
            .findings(false)
            .await
    }

    pub(super) fn failed<E>(&self, action: &'static str, failed: FailedCall<E>) -> InboxError
    where
        E: ProvideErrorMetadata,
    {
        call_error(&self.table.name, action, failed.failure)
    }
}

fn refused(hold: Hold, leases: Leases) -> Option<Intervention> {
    match (leases, hold) {
        (Leases::Override, _) | (_, Hold::Free) => None,
        (Leases::Respect, Hold::Until(left)) => Some(Intervention::Held { lease_left: Some(left) }),
        (Leases::Respect, Hold::Unknown) => Some(Intervention::Held { lease_left: None }),
    }
}

/// That an item is still what was read.
struct Unchanged {
    condition: String,
    names: Vec<(String, &'static str)>,
    values: Vec<(String, AttributeValue)>,
}

impl Unchanged {
    fn of(entry: &InboxEntry, leases: Leases) -> Self {
        let (mut parts, mut names, mut values) = (Vec::new(), Vec::new(), Vec::new());
        for (name, value) in entry.conditions(leases == Leases::Override) {
            names.push((format!("#{name}"), name));
            match value {
                Some(value) => {
                    parts.push(format!("#{name} = :if_{name}"));
                    values.push((format!(":if_{name}"), value.clone()));
                }
                None => parts.push(format!("attribute_not_exists(#{name})")),
            }
        }
        Self {
            condition: parts.join(" AND "),
            names,
            values,
        }
    }
}
