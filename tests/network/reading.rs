//! Reading a record through a network that misbehaves: the right answer or an error, and never a wrong answer.

use std::time::Duration;

use futures::future::join_all;
use redrive::DynamoInbox;
use redrive::clock::{Clock, Random};
use redrive::inbox::{ClaimRequest, Inbox as _};
use redrive::key::{Key, RecordKey};

use crate::aws::config;
use crate::aws_lab::Lab;
use crate::fault_proxy::{FaultProxy, Rule};
use crate::faults::Call;
use crate::scene::{TABLE, opened};

#[tokio::test]
async fn a_record_is_read_right_or_not_at_all() {
    let Some(lab) = Lab::open() else { return };
    let direct = lab.inbox(TABLE).await;
    let key = RecordKey::new(&Lab::unique("reading"), &Key::new("k"));
    let claim = ClaimRequest {
        key: key.clone(),
        claim_id: "the reader's".to_owned(),
        message_id: "m-1".to_owned(),
        fingerprint: None,
        lease: Duration::from_secs(60),
        retention: Duration::from_secs(3_600),
        receive_count: 1,
        replayed: false,
    };
    for answer in direct.claim(vec![claim]).await {
        answer.unwrap();
    }
    let (lab, key) = (&lab, &key);
    // Reading is not among a worker's calls; what can happen to a single write can happen to it.
    let cases = Call::WriteSingly.faults().into_iter().map(async |fault| {
        let proxy = FaultProxy::start(&lab.servers.dynamodb_url, Random::seeded(1)).await;
        let inbox = opened(async || DynamoInbox::connect(&config(&proxy.url()), TABLE).await).await;
        let rule = proxy.add(Rule::on("GetItem", fault.clone()));
        let clock = Clock::system();
        let began = clock.now();
        let read = inbox.get(key).await;
        let took = clock.now().saturating_duration_since(began);
        let wrong = match &read {
            Ok(Some(record)) => record.claim_id != "the reader's",
            Ok(None) => true,
            Err(error) => !error.to_string().contains("GetItem") || !error.to_string().contains(TABLE),
        };
        let bounded = took < Duration::from_secs(8);
        (wrong || !bounded || proxy.hits(rule) == 0).then(|| format!("{fault:?}: {read:?} after {took:?}"))
    });
    let failed: Vec<String> = join_all(cases).await.into_iter().flatten().collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}
