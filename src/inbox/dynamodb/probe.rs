//! What a role may do to the table, found out without an effect.

use aws_sdk_dynamodb::error::ProvideErrorMetadata;

use super::DynamoInbox;
use aws_sdk_dynamodb::types::BatchStatementErrorCodeEnum as StatementCode;

use super::batch::{Statement, StatementAnswer};
use super::convert::{attribute, number, text};
use super::error::{call_error, statement_error};
use super::table::FailedCall;
use crate::aws::{CallFailure, FailureKind};
use crate::inbox::InboxError;
use crate::permission::{Permission, Verdict};

/// A consumer that no queue can be named like, so that no worker has keys there.
const CONSUMER: &str = "(redrive doctor)";

impl DynamoInbox {
    /// Which of the actions a worker needs on the table are allowed. Each is tried on a key of no consumer, with a condition
    /// that it cannot meet; `probe` makes the key one that nobody used before. `dynamodb:DescribeTable` and
    /// `DescribeTimeToLive` are known from opening it.
    ///
    /// # Errors
    /// When the table cannot be described.
    pub async fn permissions(&self, probe: &str) -> Result<Vec<Permission>, InboxError> {
        let arn = self.facts().await?.arn;
        let key = text(&format!("{CONSUMER}#{probe}"));
        let (client, name) = (&self.table.client, &*self.table.name);
        let exists = "attribute_exists(#pk)";

        let get = client.get_item().table_name(name).key(attribute::KEY, key.clone());
        let get = self.tried("GetItem", self.table.send("get", get.send()).await);
        let put = client
            .put_item()
            .table_name(name)
            .item(attribute::KEY, key.clone())
            .condition_expression(exists)
            .expression_attribute_names("#pk", attribute::KEY);
        let put = self.tried("PutItem", self.table.send("claim", put.send()).await);
        let update = client
            .update_item()
            .table_name(name)
            .key(attribute::KEY, key.clone())
            .update_expression("REMOVE #pk_none")
            .condition_expression(exists)
            .expression_attribute_names("#pk", attribute::KEY)
            .expression_attribute_names("#pk_none", "none");
        let update = self.tried("UpdateItem", self.table.send("write", update.send()).await);
        // A key of the wrong type: it cannot be stored.
        let insert = Statement {
            text: format!("INSERT INTO \"{name}\" VALUE {{'{}': ?}}", attribute::KEY),
            parameters: vec![number(0)],
        };
        let insert = self.try_statement("PartiQLInsert", insert).await;
        let update_many = Statement {
            text: format!(
                "UPDATE \"{name}\" SET \"{}\"=? WHERE \"{}\"=? AND \"{}\"=?",
                attribute::CLAIM_ID,
                attribute::KEY,
                attribute::CLAIM_ID
            ),
            parameters: vec![text(CONSUMER), key, text(CONSUMER)],
        };
        let update_many = self.try_statement("PartiQLUpdate", update_many).await;
        Ok([
            ("dynamodb:DescribeTable", Verdict::Allowed),
            ("dynamodb:DescribeTimeToLive", Verdict::Allowed),
            ("dynamodb:GetItem", get),
            ("dynamodb:PutItem", put),
            ("dynamodb:UpdateItem", update),
            ("dynamodb:PartiQLInsert", insert),
            ("dynamodb:PartiQLUpdate", update_many),
        ]
        .into_iter()
        .map(|(action, verdict)| Permission::new(action, &arn, verdict))
        .collect())
    }

    fn tried<T, E>(&self, action: &'static str, answer: Result<T, FailedCall<E>>) -> Verdict
    where
        E: ProvideErrorMetadata,
    {
        let Err(failed) = answer else {
            return Verdict::Allowed;
        };
        self.verdict(action, failed.failure)
    }

    async fn try_statement(&self, action: &'static str, statement: Statement) -> Verdict {
        match self.table.run_batch("write", &[statement]).await {
            Ok(answers) => match answers.into_iter().next() {
                Some(StatementAnswer::Failed(failure, _)) if failure.code == StatementCode::AccessDenied => {
                    Verdict::Denied(failure.message)
                }
                Some(StatementAnswer::Failed(failure, _)) => statement_error(&self.table.name, action, &failure)
                    .map_or(Verdict::Allowed, |error| Verdict::Unknown(error.to_string())),
                Some(StatementAnswer::Done) => Verdict::Allowed,
                Some(StatementAnswer::Missing) | None => Verdict::Unknown("the answer says nothing of it".to_owned()),
            },
            Err(failure) => self.verdict(action, failure),
        }
    }

    /// What a failed call says of its permission: parameters and conditions are looked at after it.
    fn verdict(&self, action: &'static str, failure: CallFailure) -> Verdict {
        match (failure.kind, failure.short_code()) {
            (_, "ConditionalCheckFailedException" | "ValidationException") => Verdict::Allowed,
            (FailureKind::AccessDenied, _) => Verdict::Denied(failure.detail),
            _ => Verdict::Unknown(call_error(&self.table.name, action, failure).to_string()),
        }
    }
}
