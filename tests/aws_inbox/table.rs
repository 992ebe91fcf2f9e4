//! Tables that are missing, wrong, or made.

use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType, TimeToLiveSpecification,
};
use redrive::inbox::{Inbox, InboxError};

use super::*;

/// A table with this key, for one test.
struct Odd {
    client: Client,
    name: String,
}

impl Odd {
    async fn create(config: &SdkConfig, key: &[(&str, KeyType, ScalarAttributeType)]) -> Self {
        let client = Client::new(config);
        let name = unique("odd");
        let mut call = client
            .create_table()
            .table_name(&name)
            .billing_mode(BillingMode::PayPerRequest);
        for (attribute, role, kind) in key {
            call = call
                .attribute_definitions(
                    AttributeDefinition::builder()
                        .attribute_name(*attribute)
                        .attribute_type(kind.clone())
                        .build()
                        .unwrap(),
                )
                .key_schema(
                    KeySchemaElement::builder()
                        .attribute_name(*attribute)
                        .key_type(role.clone())
                        .build()
                        .unwrap(),
                );
        }
        call.send().await.unwrap();
        Self { client, name }
    }

    async fn expire_by(&self, attribute: &str) {
        let ttl = TimeToLiveSpecification::builder()
            .enabled(true)
            .attribute_name(attribute)
            .build()
            .unwrap();
        let call = self.client.update_time_to_live().table_name(&self.name);
        call.time_to_live_specification(ttl).send().await.unwrap();
    }

    async fn drop(self) {
        self.client.delete_table().table_name(&self.name).send().await.unwrap();
    }
}

#[tokio::test]
async fn inv12_a_table_with_another_key_is_refused_and_told_what_it_has() {
    use KeyType::{Hash, Range};
    use ScalarAttributeType::{N, S};
    let Some(config) = server() else { return };
    let cases: [(&[_], &str); 3] = [
        (&[("id", Hash, S)], "`id` (HASH, S)"),
        (&[("pk", Hash, N)], "`pk` (HASH, N)"),
        (
            &[("pk", Hash, S), ("sk", Range, S)],
            "`pk` (HASH, S) and `sk` (RANGE, S)",
        ),
    ];
    for (key, said) in cases {
        let odd = Odd::create(&config, key).await;
        let connected = DynamoInbox::connect(&config, &odd.name).await;
        let created = DynamoInbox::create_table(&config, &odd.name).await;
        for error in [connected.unwrap_err(), created.unwrap_err()] {
            assert!(matches!(error, InboxError::Schema { .. }), "{error}");
            let error = error.to_string();
            for part in [odd.name.as_str(), said, "must be `pk` (HASH, S) alone", "create_table"] {
                assert!(error.contains(part), "{error} does not say {part}");
            }
        }
        odd.drop().await;
    }
}

#[tokio::test]
async fn inv12_time_to_live_that_is_off_or_elsewhere_is_refused_unless_accepted() {
    let Some(config) = server() else { return };
    let key = [("pk", KeyType::Hash, ScalarAttributeType::S)];
    let odd = Odd::create(&config, &key).await;
    let error = DynamoInbox::connect(&config, &odd.name).await.unwrap_err().to_string();
    assert!(
        error.contains("time to live is off") && error.contains("expires_at"),
        "{error}"
    );
    let accepted = DynamoInbox::builder(&odd.name)
        .allow_missing_ttl()
        .connect(&config)
        .await
        .unwrap();
    assert_eq!(accepted.check().await.unwrap(), Vec::<String>::new());

    odd.expire_by("ttl").await;
    for error in [
        DynamoInbox::connect(&config, &odd.name).await.unwrap_err(),
        DynamoInbox::create_table(&config, &odd.name).await.unwrap_err(),
    ] {
        let error = error.to_string();
        assert!(error.contains("time to live is on `ttl`"), "{error}");
    }
    odd.drop().await;
}

#[tokio::test]
async fn what_happens_to_the_table_later_is_found_by_the_check() {
    let Some(config) = server() else { return };
    let name = unique("checked");
    DynamoInbox::create_table(&config, &name).await.unwrap();
    let inbox = DynamoInbox::connect(&config, &name).await.unwrap();
    assert_eq!(inbox.check().await.unwrap(), Vec::<String>::new());

    let client = Client::new(&config);
    let off = TimeToLiveSpecification::builder()
        .enabled(false)
        .attribute_name("expires_at")
        .build()
        .unwrap();
    let call = client
        .update_time_to_live()
        .table_name(&name)
        .time_to_live_specification(off);
    call.send().await.unwrap();
    let findings = inbox.check().await.unwrap();
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert!(
        findings[0].contains(&name) && findings[0].contains("time to live is off"),
        "{findings:?}"
    );

    client.delete_table().table_name(&name).send().await.unwrap();
    assert!(matches!(inbox.check().await, Err(InboxError::NotFound { .. })));
    let keys = keys(3);
    let lone = inbox.claim(vec![request(&keys[0], "c")]).await;
    let many = inbox.claim(keys.iter().map(|key| request(key, "c")).collect()).await;
    let read = inbox.get(&keys[0]).await;
    assert!(matches!(read, Err(InboxError::NotFound { .. })), "{read:?}");
    for answer in lone.iter().chain(&many) {
        assert!(matches!(answer, Err(InboxError::NotFound { .. })), "{answer:?}");
    }
}

#[tokio::test]
async fn inv12_a_table_that_does_not_exist_is_named() {
    let Some(config) = server() else { return };
    let error = DynamoInbox::connect(&config, "no-such-inbox").await.unwrap_err();
    assert!(matches!(error, InboxError::NotFound { .. }), "{error}");
    let error = error.to_string();
    assert!(
        error.contains("`no-such-inbox` does not exist") && error.contains("region"),
        "{error}"
    );
}

#[tokio::test]
async fn creating_a_table_is_idempotent_and_safe_to_race() {
    let Some(config) = server() else { return };
    let name = unique("made");
    let all = (0..4).map(|_| DynamoInbox::create_table(&config, &name));
    for created in futures::future::join_all(all).await {
        created.unwrap();
    }
    DynamoInbox::create_table(&config, &name).await.unwrap();
    let inbox = DynamoInbox::connect(&config, &name).await.unwrap();
    assert_eq!(inbox.table_name(), name);
    Client::new(&config)
        .delete_table()
        .table_name(&name)
        .send()
        .await
        .unwrap();
}
