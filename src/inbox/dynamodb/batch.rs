//! Many statements in one call.

use aws_sdk_dynamodb::types::{AttributeValue, BatchStatementRequest, ReturnValuesOnConditionCheckFailure};

use super::convert::{Item, wire_size};
use super::error::StatementFailure;
use super::table::Table;
use crate::aws::{CallFailure, FailureKind};

/// The most statements of a batch: DynamoDB's limit.
const MAX_STATEMENTS: usize = 25;

/// The most bytes of parameters in a batch, so that one batch of large results does not take longer than an attempt may.
const MAX_BATCH_BYTES: usize = 1024 * 1024;

/// A PartiQL statement with what stands for its question marks.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Statement {
    pub(super) text: String,
    pub(super) parameters: Vec<AttributeValue>,
}

impl Statement {
    fn size(&self) -> usize {
        self.text.len() + self.parameters.iter().map(wire_size).sum::<usize>()
    }
}

/// What one statement of a batch came to.
#[derive(Clone, Debug)]
pub(super) enum StatementAnswer {
    /// It was done.
    Done,
    /// It failed by itself; with the item that it failed on, where the service tells.
    Failed(StatementFailure, Option<Item>),
    /// The answer holds nothing about it.
    Missing,
}

/// Splits statements into batches, evenly, so that no lone one is left over: ranges of positions.
pub(super) fn batches(statements: &[Statement]) -> Vec<std::ops::Range<usize>> {
    let fewest = statements.len().div_ceil(MAX_STATEMENTS).max(1);
    let most = statements.len().div_ceil(fewest).max(1);
    let mut batches = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (position, statement) in statements.iter().enumerate() {
        let size = statement.size();
        if position > start && (position - start == most || bytes + size > MAX_BATCH_BYTES) {
            batches.push(start..position);
            (start, bytes) = (position, 0);
        }
        bytes += size;
    }
    if start < statements.len() {
        batches.push(start..statements.len());
    }
    batches
}

/// Whether a batch that failed as a whole is to be tried entry by entry: it was refused, and an entry may be why.
pub(super) fn refused_whole(failure: &CallFailure) -> bool {
    failure.kind == FailureKind::Refused && failure.short_code() != "ResourceNotFoundException"
}

impl Table {
    /// Runs statements, each of another key, and answers by position.
    pub(super) async fn run_batch(
        &self,
        what: &'static str,
        statements: &[Statement],
    ) -> Result<Vec<StatementAnswer>, CallFailure> {
        let mut call = self.client.batch_execute_statement();
        for statement in statements {
            let request = BatchStatementRequest::builder()
                .statement(&statement.text)
                .set_parameters(Some(statement.parameters.clone()))
                .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
                .build();
            match request {
                Ok(request) => call = call.statements(request),
                Err(error) => return Err(self.not_built(&error)),
            }
        }
        let output = self.send(what, call.send()).await.map_err(|failed| failed.failure)?;
        let request_id = aws_sdk_dynamodb::operation::RequestId::request_id(&output).map(ToOwned::to_owned);
        let mut answers: Vec<StatementAnswer> = output
            .responses
            .unwrap_or_default()
            .into_iter()
            .map(|response| match response.error {
                None => StatementAnswer::Done,
                Some(error) => {
                    let failure = StatementFailure {
                        code: error.code.unwrap_or_else(|| "Unknown".into()),
                        message: error.message.unwrap_or_default(),
                        request_id: request_id.clone(),
                    };
                    StatementAnswer::Failed(failure, error.item.filter(|item| !item.is_empty()))
                }
            })
            .collect();
        answers.resize(statements.len(), StatementAnswer::Missing);
        Ok(answers)
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_dynamodb::primitives::Blob;

    use super::*;

    fn statements(count: usize, bytes: usize) -> Vec<Statement> {
        let statement = Statement {
            text: String::new(),
            parameters: vec![AttributeValue::B(Blob::new(vec![0; bytes]))],
        };
        vec![statement; count]
    }

    fn sizes(count: usize, bytes: usize) -> Vec<usize> {
        let batches = batches(&statements(count, bytes));
        let mut next = 0;
        for batch in &batches {
            assert_eq!(batch.start, next);
            next = batch.end;
        }
        assert_eq!(next, count);
        batches.iter().map(ExactSizeIterator::len).collect()
    }

    #[test]
    fn inv05_batches_are_even_and_at_most_25() {
        assert_eq!(sizes(0, 1), Vec::<usize>::new());
        assert_eq!(sizes(1, 1), [1]);
        assert_eq!(sizes(25, 1), [25]);
        assert_eq!(sizes(26, 1), [13, 13]);
        assert_eq!(sizes(60, 1), [20, 20, 20]);
    }

    #[test]
    fn inv05_batches_are_bounded_in_bytes_and_one_large_statement_goes_alone() {
        assert_eq!(sizes(10, 200 * 1024), [3, 3, 3, 1]);
        assert_eq!(sizes(3, 2 * 1024 * 1024), [1, 1, 1]);
    }
}
