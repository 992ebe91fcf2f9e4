//! What cannot work, and what is said of it.

use aws_sdk_dynamodb::types::{AttributeDefinition, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType};
use redrive::Failure;
use redrive::inbox::InboxError;
use redrive::queue::QueueError;
use redrive::worker::{BuildError, Finding, Severity};

use super::*;

fn says(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "`{word}` is not in: {text}");
    }
}

async fn nothing() -> Result<(), Failure> {
    Ok(())
}

fn found(findings: &[Finding], severity: Severity, words: &[&str]) {
    let found = findings
        .iter()
        .any(|finding| finding.severity == severity && words.iter().all(|word| finding.text.contains(word)));
    assert!(found, "no {severity:?} with {words:?} in {findings:#?}");
}

#[tokio::test]
async fn inv12_a_queue_or_table_that_is_not_there_is_named_with_what_to_do() {
    let Some(lab) = Lab::open() else { return };
    let error = SqsQueue::connect(&lab.sqs, "no-such-queue").await.unwrap_err();
    assert!(matches!(error, QueueError::NotFound { .. }), "{error:?}");
    says(&error.to_string(), &["no-such-queue", "region", "endpoint"]);
    let error = DynamoInbox::connect(&lab.dynamodb, "no-such-table").await.unwrap_err();
    assert!(matches!(error, InboxError::NotFound { .. }), "{error:?}");
    says(&error.to_string(), &["no-such-table", "create it", "region"]);
}

#[tokio::test]
async fn inv12_a_table_with_another_key_or_without_ttl_is_no_inbox() {
    let Some(lab) = Lab::open() else { return };
    let client = aws_sdk_dynamodb::Client::new(&lab.dynamodb);
    for (key, words) in [
        ("id", ["`id` (HASH, S)", "`pk` (HASH, S)", "DynamoInbox::create_table"]),
        ("pk", ["time to live is off", "expires_at", "allow_missing_ttl"]),
    ] {
        let table = Lab::unique("wrong-table");
        let definition = AttributeDefinition::builder()
            .attribute_name(key)
            .attribute_type(ScalarAttributeType::S);
        let schema = KeySchemaElement::builder().attribute_name(key).key_type(KeyType::Hash);
        let call = client
            .create_table()
            .table_name(&table)
            .billing_mode(BillingMode::PayPerRequest);
        let call = call
            .attribute_definitions(definition.build().unwrap())
            .key_schema(schema.build().unwrap());
        call.send().await.unwrap();
        let error = DynamoInbox::connect(&lab.dynamodb, &table).await.unwrap_err();
        assert!(matches!(error, InboxError::Schema { .. }), "{error:?}");
        says(&error.to_string(), &words);
        says(&error.to_string(), &[&table]);
    }
}

#[tokio::test]
async fn inv12_a_queue_without_dead_letters_is_refused_until_it_is_said_what_to_do() {
    let Some(lab) = Lab::open() else { return };
    let inbox = lab.inbox(TABLE).await;
    let name = Lab::unique("no-dlq");
    lab.create_queue(&name, &[]).await;
    let queue = lab.connect(&name).await;
    let error = quick(&queue, &inbox).handler(nothing).build().unwrap_err();
    assert!(matches!(error, BuildError::NoDeadLetterQueue { .. }), "{error:?}");
    says(&error.to_string(), &[&name, "dead_letter", "without_dead_letters"]);
    let error = quick(&queue, &inbox)
        .dead_letter(queue.clone())
        .handler(nothing)
        .build()
        .unwrap_err();
    says(&error.to_string(), &[&name, "source itself"]);
    let fifo = Lab::unique("no-dlq.fifo");
    lab.create_queue(&fifo, &[]).await;
    let error = quick(&queue, &inbox)
        .dead_letter(lab.connect(&fifo).await)
        .handler(nothing)
        .build();
    says(&error.unwrap_err().to_string(), &[&name, &fifo, "both"]);
}

#[tokio::test]
async fn inv12_the_preflight_reads_the_queues_own_attributes() {
    let Some(lab) = Lab::open() else { return };
    let inbox = lab.inbox(TABLE).await;
    let setup = Setup {
        max_receive_count: 3,
        source_retention_secs: 4 * 24 * 3600,
        dead_retention_secs: 24 * 3600,
        ..Setup::default()
    };
    let Queues { source, dead } = lab.queues("preflight", &setup).await;
    let worker = quick(&source, &inbox)
        .inbox_retention(Duration::from_secs(24 * 3600))
        .handler(nothing)
        .build()
        .unwrap();
    let findings = worker.preflight().await;
    let (name, dead_name) = (source.attributes().name.as_str(), dead.attributes().name.as_str());
    found(
        &findings,
        Severity::Problem,
        &[dead_name, name, "1 day,", "4 days", "14 days"],
    );
    found(&findings, Severity::Warning, &["maxReceiveCount", name, "is 3", "15"]);
    found(
        &findings,
        Severity::Warning,
        &["inbox keeps keys for 1 day,", "5 days", "inbox_retention"],
    );
    found(&findings, Severity::Warning, &["lease of 2s", "10 s"]);
    let error = worker.run_until_drained().await.unwrap_err();
    assert!(matches!(error, Error::Preflight(_)), "{error:?}");
    says(&error.to_string(), &[name, dead_name, "does not start"]);

    let Queues { source, .. } = lab.queues("preflight-good", &Setup::default()).await;
    let worker = quick(&source, &inbox).lease(Duration::from_secs(10));
    let worker = worker.handler(nothing).build().unwrap();
    assert_eq!(worker.preflight().await, [], "as it should be");
}

#[tokio::test]
async fn inv12_a_queue_or_table_that_went_away_is_found_before_the_start() {
    let Some(lab) = Lab::open() else { return };
    let table = Lab::unique("gone-table");
    let inbox = lab.inbox(&table).await;
    let Queues { source, .. } = lab.queues("gone", &Setup::default()).await;
    let worker = quick(&source, &inbox).handler(nothing).build().unwrap();
    let client = aws_sdk_dynamodb::Client::new(&lab.dynamodb);
    client.delete_table().table_name(&table).send().await.unwrap();
    let client = aws_sdk_sqs::Client::new(&lab.sqs);
    client
        .delete_queue()
        .queue_url(&source.attributes().url)
        .send()
        .await
        .unwrap();
    let findings = worker.preflight().await;
    found(
        &findings,
        Severity::Problem,
        &[&source.attributes().name, "does not exist"],
    );
    found(&findings, Severity::Problem, &[&table, "does not exist"]);
    assert!(matches!(worker.run_until_drained().await, Err(Error::Preflight(_))));
}
