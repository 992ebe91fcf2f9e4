//! Writes under a claim: each conditional on the claim's own id and fencing token, singly or many in one call.

use std::collections::BTreeMap;

use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValuesOnConditionCheckFailure};
use futures::future::{BoxFuture, join_all};

use super::batch::{Statement, StatementAnswer, batches, refused_whole};
use super::convert::{Item, attribute, decode, encode, number, text};
use super::error::{StatementFailure, call_error, statement_error};
use super::{DynamoInbox, in_order};
use crate::inbox::decide::{Applied, apply_write, within_bounds};
use crate::inbox::record::{Record, Status};
use crate::inbox::{Answers, Change, InboxError, ServiceTime, Write, Written};
use crate::key::RecordKey;
use crate::telemetry::{said, shown};

/// How often a write is tried again that its record allows but its condition did not.
const MAX_TRIES: usize = 4;

/// What IAM calls a batched write.
const ACTION: &str = "PartiQLUpdate";

type Answer = Result<Written, InboxError>;

/// What becomes of a write that was not simply made.
enum Judged {
    Answer(Answer),
    /// It is to be tried singly, like this.
    Again(Update),
}

impl DynamoInbox {
    pub(super) async fn write_all(&self, writes: Vec<Write>) -> Answers<Written> {
        let count = writes.len();
        let mut answers = Vec::with_capacity(count);
        let mut rounds: Vec<Vec<(usize, Write)>> = Vec::new();
        let mut written_before: BTreeMap<RecordKey, usize> = BTreeMap::new();
        for (position, write) in writes.into_iter().enumerate() {
            match within_bounds(write, self.max_result) {
                // Writes of one key are made in order, one a round: a batch takes a key only once.
                Ok(write) => {
                    let round = written_before.entry(write.claim.key.clone()).or_default();
                    if rounds.len() <= *round {
                        rounds.push(Vec::new());
                    }
                    rounds[*round].push((position, write));
                    *round += 1;
                }
                Err(error) => answers.push((position, Err(error))),
            }
        }
        for round in rounds {
            answers.extend(self.write_round(&round).await);
        }
        in_order(count, answers)
    }

    /// Makes writes of different keys.
    async fn write_round(&self, writes: &[(usize, Write)]) -> Vec<(usize, Answer)> {
        let time = self.now();
        let updates: Vec<Update> = writes.iter().map(|(_, write)| Update::expected(write, time)).collect();
        let statements: Vec<Statement> = writes
            .iter()
            .zip(&updates)
            .map(|((_, write), update)| update.statement(&self.table.name, write))
            .collect();
        let jobs = batches(&statements).into_iter().map(|range| {
            let job: BoxFuture<'_, Vec<(usize, Answer)>> = match (&writes[range.clone()], &updates[range.clone()]) {
                ([(position, write)], [update]) => {
                    Box::pin(async move { vec![(*position, self.write_one(write, update.clone()).await)] })
                }
                (many, updates) => Box::pin(self.write_batch(many, updates, &statements[range])),
            };
            job
        });
        join_all(jobs).await.into_iter().flatten().collect()
    }

    /// Runs writes as one batch; those that it cannot decide are made one by one.
    async fn write_batch(
        &self,
        writes: &[(usize, Write)],
        updates: &[Update],
        statements: &[Statement],
    ) -> Vec<(usize, Answer)> {
        let mut undecided = Vec::new();
        let mut answers = Vec::with_capacity(writes.len());
        match self.table.run_batch("write", statements).await {
            Ok(outcomes) => {
                for (((position, write), update), outcome) in writes.iter().zip(updates).zip(outcomes) {
                    let judged = match outcome {
                        StatementAnswer::Done => Judged::Answer(Ok(update.written)),
                        StatementAnswer::Failed(failure, item) => self.judge_statement(write, update, &failure, item),
                        // It may have been made, which a second try finds out.
                        StatementAnswer::Missing => Judged::Again(update.clone()),
                    };
                    match judged {
                        Judged::Answer(answer) => answers.push((*position, answer)),
                        Judged::Again(update) => undecided.push((*position, write, update)),
                    }
                }
            }
            Err(failure) if refused_whole(&failure) => {
                tracing::warn!(
                    table = %self.table.name,
                    code = %shown(failure.short_code()),
                    detail = %said(&failure.detail),
                    "a batch of writes was refused; they are made one by one"
                );
                let all = writes.iter().zip(updates);
                undecided.extend(all.map(|((position, write), update)| (*position, write, update.clone())));
            }
            Err(failure) => {
                let error = call_error(&self.table.name, ACTION, failure);
                answers.extend(writes.iter().map(|(position, _)| (*position, Err(error.clone()))));
            }
        }
        let singly = undecided
            .into_iter()
            .map(async |(position, write, update)| (position, self.write_one(write, update).await));
        answers.extend(join_all(singly).await);
        answers
    }

    /// Makes one write. Where its condition fails, the record tells whether it was made before, or the claim is lost, or
    /// the write is to be tried again on what the record has become.
    async fn write_one(&self, write: &Write, mut update: Update) -> Answer {
        for _ in 0..MAX_TRIES {
            let Some(found) = self.update(write, &update).await? else {
                return Ok(update.written);
            };
            match self.judge(write, found.as_deref()) {
                Judged::Again(changed) => update = changed,
                Judged::Answer(answer) => return answer,
            }
        }
        Err(InboxError::Unavailable {
            inbox: self.table.name.to_string(),
            operation: "UpdateItem",
            detail: format!(
                "the record of key `{}` changed between {MAX_TRIES} tries",
                write.claim.key
            ),
            request_id: None,
        })
    }

    /// What a write whose condition failed on `found` comes to.
    fn judge(&self, write: &Write, found: Option<&Record>) -> Judged {
        match (apply_write(found, write, self.now()), found) {
            (Applied::Changed(record, written), Some(found)) => {
                Judged::Again(Update::new(&write.change, found.status, &record, written))
            }
            (Applied::AlreadyDone(written), _) => Judged::Answer(Ok(written)),
            (Applied::Changed(..) | Applied::Lost, _) => Judged::Answer(Err(InboxError::LeaseLost {
                key: write.claim.key.clone(),
            })),
        }
    }

    /// What a write comes to whose statement failed, on `item` where that is told.
    fn judge_statement(
        &self,
        write: &Write,
        update: &Update,
        failure: &StatementFailure,
        item: Option<Item>,
    ) -> Judged {
        if let Some(error) = statement_error(&self.table.name, ACTION, failure) {
            return Judged::Answer(Err(error));
        }
        match item.map(|item| decode(&self.table.name, &write.claim.key, &item)) {
            Some(Ok(record)) => self.judge(write, Some(&record)),
            Some(Err(error)) => Judged::Answer(Err(error)),
            // The single write tells a missing record from one that is not told.
            None => Judged::Again(update.clone()),
        }
    }

    /// One conditional update; answers what its condition failed on, if it did.
    async fn update(&self, write: &Write, update: &Update) -> Result<Option<Option<Box<Record>>>, InboxError> {
        let mut call = self
            .table
            .client
            .update_item()
            .table_name(&*self.table.name)
            .key(attribute::KEY, text(write.claim.key.as_str()))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        let mut sets = Vec::new();
        for (name, value) in &update.sets {
            sets.push(format!("#{name} = :{name}"));
            call = call
                .expression_attribute_names(format!("#{name}"), *name)
                .expression_attribute_values(format!(":{name}"), value.clone());
        }
        let mut conditions = Vec::new();
        for (name, comparison, value) in update.conditions(write) {
            conditions.push(format!("#{name} {comparison} :if_{name}"));
            call = call
                .expression_attribute_names(format!("#{name}"), name)
                .expression_attribute_values(format!(":if_{name}"), value);
        }
        let call = call
            .update_expression(format!("SET {}", sets.join(", ")))
            .condition_expression(conditions.join(" AND "));
        let failed = match self.table.send("write", call.send()).await {
            Ok(_) => return Ok(None),
            Err(failed) => failed,
        };
        match failed.error.as_service_error() {
            Some(UpdateItemError::ConditionalCheckFailedException(met)) => {
                self.found(&write.claim.key, met.item.as_ref()).map(Some)
            }
            _ => Err(call_error(&self.table.name, "UpdateItem", failed.failure)),
        }
    }
}

/// The attributes a write sets, and what they are conditional on beside the claim.
#[derive(Clone, Debug, PartialEq)]
struct Update {
    sets: Vec<(&'static str, AttributeValue)>,
    status: Status,
    /// A renewal that arrives late must not shorten a lease that a later one has extended.
    lease_until: Option<u64>,
    /// Nor may a checkpoint that arrives late take the place of a later one.
    checkpoint_serial: Option<u64>,
    written: Written,
}

impl Update {
    /// The update that makes `change` of a record with `status`, which becomes `record` by it.
    fn new(change: &Change, status: Status, record: &Record, written: Written) -> Self {
        let values = encode(record);
        let value_of = |name: &str| {
            let value = values.iter().find(|(encoded, _)| *encoded == name);
            value.map_or(AttributeValue::Null(true), |(_, value)| value.clone())
        };
        Self {
            sets: touched(change).iter().map(|name| (*name, value_of(name))).collect(),
            status,
            lease_until: matches!(change, Change::Renew { .. }).then_some(record.lease_until),
            checkpoint_serial: matches!(change, Change::Checkpoint { .. }).then_some(record.checkpoint_serial),
            written,
        }
    }

    /// The update for the record as it is in all likelihood: the claim's own, in the status the change is for. What the
    /// change leaves alone is not known, and not written.
    fn expected(write: &Write, time: ServiceTime) -> Self {
        let claim = &write.claim;
        let mut record = Record::new(claim.key.clone());
        record.status = match write.change {
            Change::DeadLetterSent => Status::Rejected,
            _ => Status::Processing,
        };
        record.claim_id.clone_from(&claim.claim_id);
        record.fencing_token = claim.fencing_token;
        if !matches!(write.change, Change::Renew { .. }) {
            record.lease_until = claim.lease_until;
        }
        let status = record.status;
        match apply_write(Some(&record), write, time) {
            Applied::Changed(record, written) => Self::new(&write.change, status, &record, written),
            // No change finds itself made on a record without a history.
            Applied::AlreadyDone(written) => Self::new(&write.change, status, &record, written),
            Applied::Lost => Self::new(&write.change, status, &record, Written { lease_until: None }),
        }
    }

    fn conditions(&self, write: &Write) -> Vec<(&'static str, &'static str, AttributeValue)> {
        let mut conditions = vec![
            (attribute::CLAIM_ID, "=", text(&write.claim.claim_id)),
            (attribute::FENCING_TOKEN, "=", number(write.claim.fencing_token)),
            (attribute::STATUS, "=", text(self.status.as_str())),
        ];
        if let Some(lease_until) = self.lease_until {
            conditions.push((attribute::LEASE_UNTIL, "<=", number(lease_until)));
        }
        if let Some(serial) = self.checkpoint_serial {
            conditions.push((attribute::CHECKPOINT_SERIAL, "<", number(serial)));
        }
        conditions
    }

    /// The same update in PartiQL, its condition flat: anything but `AND` makes DynamoDB look for keys in it.
    fn statement(&self, table: &str, write: &Write) -> Statement {
        let mut statement = format!("UPDATE \"{table}\"");
        let mut parameters = Vec::new();
        for (name, value) in &self.sets {
            statement.push_str(&format!(" SET \"{name}\"=?"));
            parameters.push(value.clone());
        }
        statement.push_str(&format!(" WHERE \"{}\"=?", attribute::KEY));
        parameters.push(text(write.claim.key.as_str()));
        for (name, comparison, value) in self.conditions(write) {
            statement.push_str(&format!(" AND \"{name}\"{comparison}?"));
            parameters.push(value);
        }
        Statement {
            text: statement,
            parameters,
        }
    }
}

/// The attributes a change writes, whatever they held.
fn touched(change: &Change) -> &'static [&'static str] {
    use attribute::*;
    match change {
        Change::Renew { .. } => &[LEASE_UNTIL, EXPIRES_AT],
        Change::Start => &[STARTED, EXPIRES_AT],
        Change::Checkpoint { .. } => &[CHECKPOINT, CHECKPOINT_SERIAL, EXPIRES_AT],
        Change::Complete { .. } => &[STATUS, RESULT, CHECKPOINT, STARTED, EXPIRES_AT],
        Change::Release { failure: None } => &[STATUS, STARTED, EXPIRES_AT],
        Change::Release { failure: Some(_) } => &[STATUS, STARTED, ATTEMPTS, LAST_ERROR, EXPIRES_AT],
        Change::Reject(_) => &[
            STATUS,
            STARTED,
            ATTEMPTS,
            LAST_ERROR,
            REASON,
            DEAD_LETTER_SENT,
            EXPIRES_AT,
        ],
        Change::DeadLetterSent => &[DEAD_LETTER_SENT, EXPIRES_AT],
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use bytes::Bytes;
    use proptest::prelude::*;

    use super::super::convert::tests::{any_record, any_record_fixed, item_of};
    use super::*;
    use crate::inbox::{Attempted, Rejection};
    use crate::outcome::{Reason, StoredResult};

    fn any_change() -> impl Strategy<Value = Change> {
        prop_oneof![
            (10u64..900).prop_map(|s| Change::Renew {
                lease: Duration::from_secs(s)
            }),
            Just(Change::Start),
            (1..9u64, prop::collection::vec(any::<u8>(), 0..20)).prop_map(|(serial, data)| Change::Checkpoint {
                serial,
                data: data.into()
            }),
            prop_oneof![
                Just(StoredResult::Nothing),
                Just(StoredResult::Omitted),
                Just(StoredResult::Json(Bytes::from_static(b"7")))
            ]
            .prop_map(|result| Change::Complete { result }),
            Just(Change::Release { failure: None }),
            (1u32..9, ".{0,9}").prop_map(|(attempts, error)| Change::Release {
                failure: Some(Attempted { attempts, error })
            }),
            (1u32..9, ".{0,9}").prop_map(|(attempts, error)| Change::Reject(Rejection {
                reason: Reason::AttemptsExhausted,
                error,
                attempts
            })),
            Just(Change::DeadLetterSent),
        ]
    }

    proptest! {
        /// The update is written without a look at the record; it must come to what the decision about the record says.
        #[test]
        fn an_update_that_meets_its_condition_does_what_the_decision_says(
            mut record in any_record(),
            change in any_change(),
            now in 1_800_000_000_000u64..1_900_000_000_000,
            lease_left in 0u64..900_000,
        ) {
            record.lease_until = now + lease_left;
            record.dead_letter_sent &= record.status == Status::Rejected;
            let claim = record.claim(false, Duration::from_secs(3_024_000));
            let write = Write::new(claim, change);
            let time = ServiceTime { lo: now, hi: now + 40 };
            let update = Update::expected(&write, time);
            let holds = update.status == record.status
                && update.lease_until.is_none_or(|lease_until| record.lease_until <= lease_until)
                && update.checkpoint_serial.is_none_or(|serial| record.checkpoint_serial < serial);
            match apply_write(Some(&record), &write, time) {
                Applied::Changed(wanted, written) if holds => {
                    let mut item = item_of(&record);
                    item.extend(update.sets.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
                    prop_assert_eq!(&decode("inbox", &record.key, &item).unwrap(), &*wanted);
                    prop_assert_eq!(update.written, written);
                }
                // The same once more changes nothing but how long the record is kept.
                Applied::AlreadyDone(_) if holds => {
                    let mut item = item_of(&record);
                    item.extend(update.sets.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
                    let again = Record { expires_at: record.expires_at, ..decode("inbox", &record.key, &item).unwrap() };
                    prop_assert_eq!(again, record);
                }
                Applied::Lost if holds => prop_assert!(false, "the condition lets a lost write pass"),
                _ => {}
            }
        }

        #[test]
        fn inv03_every_write_is_conditional_on_claim_id_and_fencing_token(change in any_change()) {
            let record = any_record_fixed();
            let write = Write::new(record.claim(false, Duration::from_secs(60)), change);
            let update = Update::expected(&write, ServiceTime { lo: 1, hi: 2 });
            let statement = update.statement("inbox", &write);
            let condition = statement.text.split(" WHERE ").nth(1).unwrap();
            prop_assert!(condition.starts_with(r#""pk"=? AND "claim_id"=? AND "fencing_token"=? AND "status"=?"#));
            prop_assert!(!condition.contains(" OR ") && !condition.contains('('));
            prop_assert_eq!(statement.text.matches('?').count(), statement.parameters.len());
        }
    }

    #[test]
    fn inv02_a_renewal_that_arrives_late_cannot_shorten_the_lease() {
        let record = any_record_fixed();
        let lease = Duration::from_secs(30);
        let write = Write::new(record.claim(false, Duration::from_secs(60)), Change::Renew { lease });
        let update = Update::expected(&write, ServiceTime { lo: 1_000, hi: 2_000 });
        assert!(
            update
                .conditions(&write)
                .contains(&(attribute::LEASE_UNTIL, "<=", number(32_000)))
        );
        assert_eq!(update.written.lease_until, Some(32_000));
    }

    #[test]
    fn a_statement_quotes_every_name() {
        let record = any_record_fixed();
        let claim: Arc<_> = record.claim(false, Duration::from_secs(60));
        let write = Write::new(claim, Change::Release { failure: None });
        let statement = Update::expected(&write, ServiceTime { lo: 1, hi: 2 }).statement("my.inbox", &write);
        assert_eq!(
            statement.text,
            "UPDATE \"my.inbox\" SET \"status\"=? SET \"started\"=? SET \"expires_at\"=? WHERE \"pk\"=? AND \
             \"claim_id\"=? AND \"fencing_token\"=? AND \"status\"=?"
        );
    }
}
