//! Claims: one conditional write each, and many first claims in one call.

use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValuesOnConditionCheckFailure};
use futures::future::{BoxFuture, join_all};

use super::batch::{Statement, StatementAnswer, batches, refused_whole};
use super::convert::{Item, attribute, decode, encode, number, text};
use super::error::{call_error, statement_error};
use super::{DynamoInbox, in_order};
use crate::inbox::decide::{Decision, behind, decide_claim, repeats};
use crate::inbox::record::Record;
use crate::inbox::{Answers, ClaimAnswer, ClaimRequest, InboxError};
use crate::key::RecordKey;
use crate::telemetry::{said, shown};

/// How often a claim is tried against a record that changes between its reading and its writing.
const MAX_SWAPS: usize = 5;

/// What IAM calls a batched claim.
const ACTION: &str = "PartiQLInsert";

type Answer = Result<ClaimAnswer, InboxError>;

/// A first claim, as a statement of a batch.
struct Insert<'a> {
    position: usize,
    request: &'a ClaimRequest,
    answer: ClaimAnswer,
}

impl DynamoInbox {
    pub(super) async fn claim_all(&self, requests: Vec<ClaimRequest>) -> Answers<ClaimAnswer> {
        let repeats = repeats(&requests);
        let tried = || requests.iter().enumerate().filter(|(n, _)| repeats[*n].is_none());
        let first = |request: &ClaimRequest| request.receive_count <= 1;
        let batched = tried().filter(|(_, request)| first(request)).count() > 1;
        let (inserts, statements): (Vec<_>, Vec<_>) = tried()
            .filter(|(_, request)| batched && first(request))
            .filter_map(|(position, request)| self.insert(position, request))
            .unzip();
        let mut jobs: Vec<BoxFuture<'_, Vec<(usize, Answer)>>> = Vec::new();
        for range in batches(&statements) {
            jobs.push(Box::pin(self.insert_batch(&inserts[range.clone()], &statements[range])));
        }
        for (position, request) in tried().filter(|(_, request)| !(batched && first(request))) {
            jobs.push(Box::pin(async move { vec![(position, self.claim_one(request).await)] }));
        }
        let answers = join_all(jobs).await.into_iter().flatten().collect();
        let mut answers = in_order(requests.len(), answers);
        let time = self.now();
        for (position, earlier) in repeats.iter().enumerate() {
            if let Some(earlier) = earlier {
                answers[position] = Ok(behind(&answers[*earlier], &requests[position], time));
            }
        }
        answers
    }

    /// The statement of a first claim.
    fn insert<'a>(&self, position: usize, request: &'a ClaimRequest) -> Option<(Insert<'a>, Statement)> {
        let Decision::Take(record, answer) = decide_claim(None, request, self.now()) else {
            return None;
        };
        let (names, parameters): (Vec<_>, Vec<_>) = encode(&record).into_iter().unzip();
        let fields: Vec<String> = names.iter().map(|name| format!("'{name}':?")).collect();
        let text = format!("INSERT INTO \"{}\" VALUE {{{}}}", self.table.name, fields.join(","));
        let insert = Insert {
            position,
            request,
            answer,
        };
        Some((insert, Statement { text, parameters }))
    }

    /// Runs first claims as one batch; those that it cannot decide are claimed one by one.
    async fn insert_batch(&self, inserts: &[Insert<'_>], statements: &[Statement]) -> Vec<(usize, Answer)> {
        let mut undecided = Vec::new();
        let mut answers = Vec::with_capacity(inserts.len());
        match self.table.run_batch("claim", statements).await {
            Ok(outcomes) => {
                for (insert, outcome) in inserts.iter().zip(outcomes) {
                    let decided = match outcome {
                        StatementAnswer::Done => Some(Ok(insert.answer.clone())),
                        StatementAnswer::Failed(failure, _) => {
                            statement_error(&self.table.name, ACTION, &failure).map(Err)
                        }
                        // It may have been claimed, which the single write recognises.
                        StatementAnswer::Missing => None,
                    };
                    match decided {
                        Some(answer) => answers.push((insert.position, answer)),
                        None => undecided.push(insert),
                    }
                }
            }
            Err(failure) if refused_whole(&failure) => {
                tracing::warn!(
                    table = %self.table.name,
                    code = %shown(failure.short_code()),
                    detail = %said(&failure.detail),
                    "a batch of claims was refused; they are made one by one"
                );
                undecided.extend(inserts);
            }
            Err(failure) => {
                let error = call_error(&self.table.name, ACTION, failure);
                answers.extend(inserts.iter().map(|insert| (insert.position, Err(error.clone()))));
            }
        }
        let singly = undecided
            .into_iter()
            .map(async |insert| (insert.position, self.claim_one(insert.request).await));
        answers.extend(join_all(singly).await);
        answers
    }

    /// Claims one key: writes what the decision says on the condition that the record is the one it was made on, and decides
    /// again where it is not.
    async fn claim_one(&self, request: &ClaimRequest) -> Answer {
        let mut existing: Option<Record> = None;
        for _ in 0..MAX_SWAPS {
            match decide_claim(existing.as_ref(), request, self.now()) {
                Decision::Answer(answer) => return Ok(answer),
                Decision::Take(record, answer) => match self.swap(existing.as_ref(), &record).await? {
                    Swapped::Done => return Ok(answer),
                    Swapped::Not(found) => existing = found.map(|found| *found),
                },
            }
        }
        // Whoever keeps changing it is alive.
        Ok(ClaimAnswer::Running {
            lease_left: request.lease,
        })
    }

    /// Writes `new` in place of `old`, or of nothing.
    async fn swap(&self, old: Option<&Record>, new: &Record) -> Result<Swapped, InboxError> {
        let condition = old.map_or_else(Condition::absent, Condition::unchanged);
        let call = self
            .table
            .client
            .put_item()
            .table_name(&*self.table.name)
            .set_item(Some(
                encode(new)
                    .into_iter()
                    .map(|(name, value)| (name.to_owned(), value))
                    .collect(),
            ))
            .condition_expression(condition.expression)
            .set_expression_attribute_names(Some(condition.names))
            .set_expression_attribute_values((!condition.values.is_empty()).then_some(condition.values))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        let failed = match self.table.send("claim", call.send()).await {
            Ok(_) => return Ok(Swapped::Done),
            Err(failed) => failed,
        };
        match failed.error.as_service_error() {
            Some(PutItemError::ConditionalCheckFailedException(met)) => {
                self.found(&new.key, met.item.as_ref()).map(Swapped::Not)
            }
            _ => Err(call_error(&self.table.name, "PutItem", failed.failure)),
        }
    }

    /// The record a condition failed on; none where there was none.
    pub(super) fn found(&self, key: &RecordKey, item: Option<&Item>) -> Result<Option<Box<Record>>, InboxError> {
        item.filter(|item| !item.is_empty())
            .map(|item| decode(&self.table.name, key, item).map(Box::new))
            .transpose()
    }
}

enum Swapped {
    Done,
    Not(Option<Box<Record>>),
}

/// A condition expression with what its placeholders stand for.
struct Condition {
    expression: String,
    names: std::collections::HashMap<String, String>,
    values: std::collections::HashMap<String, AttributeValue>,
}

impl Condition {
    /// That the key has no record.
    fn absent() -> Self {
        Self {
            expression: "attribute_not_exists(#pk)".to_owned(),
            names: [("#pk".to_owned(), attribute::KEY.to_owned())].into(),
            values: [].into(),
        }
    }

    /// That the record is still this one, in everything that is written under a claim.
    fn unchanged(record: &Record) -> Self {
        let mut condition = Self {
            expression: String::new(),
            names: [].into(),
            values: [].into(),
        };
        let stored = encode(record);
        let value_of = |name: &str| {
            stored
                .iter()
                .find(|(stored, _)| *stored == name)
                .map(|(_, value)| value.clone())
        };
        condition.require(attribute::CLAIM_ID, Some(text(&record.claim_id)));
        condition.require(attribute::FENCING_TOKEN, Some(number(record.fencing_token)));
        condition.require(attribute::STATUS, Some(text(record.status.as_str())));
        condition.require(attribute::LEASE_UNTIL, Some(number(record.lease_until)));
        condition.require(attribute::DEAD_LETTER_SENT, value_of(attribute::DEAD_LETTER_SENT));
        condition.require(attribute::STARTED, value_of(attribute::STARTED));
        condition.require(attribute::CHECKPOINT, value_of(attribute::CHECKPOINT));
        condition
    }

    /// Adds that the attribute has this value; for none, that it holds nothing.
    fn require(&mut self, name: &str, value: Option<AttributeValue>) {
        if !self.expression.is_empty() {
            self.expression.push_str(" AND ");
        }
        self.names.insert(format!("#{name}"), name.to_owned());
        match value {
            Some(value) => {
                self.expression.push_str(&format!("#{name} = :{name}"));
                self.values.insert(format!(":{name}"), value);
            }
            None => {
                self.expression.push_str(&format!(
                    "(attribute_not_exists(#{name}) OR #{name} IN (:null, :false))"
                ));
                self.values.insert(":null".to_owned(), AttributeValue::Null(true));
                self.values.insert(":false".to_owned(), AttributeValue::Bool(false));
            }
        }
    }
}
