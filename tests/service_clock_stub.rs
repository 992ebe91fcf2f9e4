//! The service's time as `DynamoInbox` learns it: from answers whose `Date` lies, jumps, is missing, or comes late.
#![cfg(feature = "aws")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "support/aws.rs"]
mod aws;
#[path = "support/stub.rs"]
mod stub;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::retry::RetryConfig;
use aws_sdk_dynamodb::config::timeout::TimeoutConfig;
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use redrive::DynamoInbox;
use redrive::clock::Clock;
use redrive::inbox::{ClaimAnswer, ClaimRequest, Inbox, InboxError, ServiceTime};
use redrive::key::{Key, RecordKey};
use serde_json::{Value, json};

use aws::config;
use stub::{Reply, Stub};

const NAME: &str = "orders-inbox";

/// 2026-08-01, 12:00:00 UTC, in s.
const NOON: u64 = 1_785_585_600;

fn http_date(seconds: u64) -> String {
    httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(seconds))
}

fn table() -> Value {
    json!({"Table": {
        "TableName": NAME,
        "TableStatus": "ACTIVE",
        "KeySchema": [{"AttributeName": "pk", "KeyType": "HASH"}],
        "AttributeDefinitions": [{"AttributeName": "pk", "AttributeType": "S"}],
    }})
}

fn ttl() -> Value {
    json!({"TimeToLiveDescription": {"TimeToLiveStatus": "ENABLED", "AttributeName": "expires_at"}})
}

fn key() -> RecordKey {
    RecordKey::new("orders", &Key::new("k"))
}

#[track_caller]
fn assert_within(time: ServiceTime, true_ms: u64) {
    assert!(
        time.lo <= true_ms && true_ms <= time.hi,
        "{true_ms} is not within {time:?}"
    );
}

// ---- over HTTP

#[tokio::test]
async fn the_time_is_that_of_the_dates_however_wrong_they_are() {
    // A service that lives in another year than this host.
    let date = http_date(NOON + 40_000_000);
    let stub = Stub::start([
        Reply::ok(table()).header("date", &date),
        Reply::ok(ttl()).header("date", &date),
    ])
    .await
    .unwrap();
    let clock = Clock::system();
    let before = clock.now();
    let inbox = DynamoInbox::connect(&config(&stub.url()), NAME).await.unwrap();
    let time = inbox.time();
    let passed = u64::try_from(clock.now().duration_since(before).as_millis()).unwrap();
    let date_ms = (NOON + 40_000_000) * 1000;
    assert!((date_ms - 1..=date_ms + passed).contains(&time.lo), "{time:?}");
    assert!(
        (date_ms + 1_000..=date_ms + 1_002 + passed).contains(&time.hi),
        "{time:?} after {passed} ms"
    );
}

#[tokio::test]
async fn an_answer_that_jumps_starts_the_time_over_once_another_agrees_forwards_and_backwards() {
    let dated = |body: Value, at: u64| Reply::ok(body).header("date", &http_date(at));
    let stub = Stub::start([dated(table(), NOON), dated(ttl(), NOON)]).await.unwrap();
    let inbox = DynamoInbox::connect(&config(&stub.url()), NAME).await.unwrap();
    assert_eq!(inbox.clock_restarts(), 0);
    for (restarts, at) in [(1, NOON + 3_600), (2, NOON - 3_600), (3, NOON)] {
        stub.then([dated(json!({}), at), dated(json!({}), at)]);
        assert_eq!(inbox.get(&key()).await.unwrap(), None);
        assert_eq!(inbox.clock_restarts(), restarts);
        assert!(inbox.time_is_in_doubt());
        assert_eq!(inbox.get(&key()).await.unwrap(), None);
        assert_eq!(inbox.clock_restarts(), restarts);
        assert!(!inbox.time_is_in_doubt());
        let time = inbox.time();
        assert!(time.lo.abs_diff(at * 1000) < 60_000, "{time:?}");
        assert!(time.hi.abs_diff(at * 1000) < 60_000, "{time:?}");
    }
}

/// Both wait for another answer: the lease held is not over, and no other's is.
#[tokio::test]
async fn inv02_one_wrong_date_neither_ends_a_lease_nor_opens_another() {
    let dated = |body: Value, at: u64| Reply::ok(body).header("date", &http_date(at));
    let stub = Stub::start([dated(table(), NOON), dated(ttl(), NOON)]).await.unwrap();
    let inbox = DynamoInbox::connect(&config(&stub.url()), NAME).await.unwrap();
    for wrong in [NOON + 600, NOON - 600] {
        stub.then([dated(json!({}), wrong)]);
        inbox.get(&key()).await.unwrap();
        let time = inbox.time();
        assert!(time.hi < (NOON + 60) * 1000, "a lease held would be over: {time:?}");
        assert!(time.lo < (NOON + 60) * 1000, "another's lease would be over: {time:?}");
        assert!(inbox.time_is_in_doubt());
        stub.then([dated(json!({}), NOON)]);
        inbox.get(&key()).await.unwrap();
        assert!(!inbox.time_is_in_doubt() && inbox.time().lo >= NOON * 1000);
    }
}

#[tokio::test]
async fn the_date_of_an_answer_that_is_not_the_services_own_says_nothing() {
    let own = |body: Value| {
        let dated = Reply::ok(body).header("date", &http_date(NOON));
        dated.header("x-amzn-requestid", "7a62c49f")
    };
    let stub = Stub::start([own(table()), own(ttl())]).await.unwrap();
    let inbox = DynamoInbox::connect(&config(&stub.url()), NAME).await.unwrap();
    // A proxy's, whose clock is an hour ahead.
    let refusal = Reply::error(400, "com.amazon.coral.validate#ValidationException", "no");
    stub.then([refusal.header("date", &http_date(NOON + 3_600))]);
    assert!(inbox.get(&key()).await.is_err());
    assert_eq!(inbox.clock_restarts(), 0);
    assert!(inbox.time().hi < (NOON + 60) * 1000, "{:?}", inbox.time());
}

#[tokio::test]
async fn errors_tell_the_time_too_and_a_lone_answer_without_a_date_changes_nothing() {
    let stub = Stub::start([
        Reply::ok(table()).header("date", &http_date(NOON)),
        Reply::ok(ttl()).header("date", "yesterday, or so"),
    ])
    .await
    .unwrap();
    let inbox = DynamoInbox::connect(&config(&stub.url()), NAME).await.unwrap();
    let refusal = Reply::error(400, "com.amazon.coral.validate#ValidationException", "no");
    stub.then([refusal.header("date", &http_date(NOON + 3_600)), Reply::ok(json!({}))]);
    assert!(inbox.get(&key()).await.is_err());
    assert_eq!(inbox.clock_restarts(), 1);
    assert_eq!(inbox.get(&key()).await.unwrap(), None);
    assert_eq!(inbox.clock_restarts(), 1);
}

#[tokio::test]
async fn calls_that_get_no_answer_change_nothing() {
    let dated = |body| Reply::ok(body).header("date", &http_date(NOON));
    let stub = Stub::start([dated(table()), dated(ttl()), Reply::HangUp, Reply::Silence])
        .await
        .unwrap();
    let settings = aws_sdk_dynamodb::config::Builder::from(&config(&stub.url()))
        .timeout_config(
            TimeoutConfig::builder()
                .operation_timeout(Duration::from_millis(300))
                .build(),
        )
        .retry_config(RetryConfig::disabled())
        .build();
    let inbox = DynamoInbox::from_client(Client::from_conf(settings), NAME)
        .await
        .unwrap();
    let before = inbox.time();
    for _ in 0..2 {
        let error = inbox.get(&key()).await.unwrap_err();
        assert!(error.is_transient(), "{error}");
    }
    let after = inbox.time();
    assert_eq!(inbox.clock_restarts(), 0);
    assert!(
        after.lo >= before.lo + 300 - 1,
        "it moves on by itself: {before:?}, then {after:?}"
    );
    let asked: Vec<_> = stub
        .take_requests()
        .into_iter()
        .map(|request| request.operation)
        .collect();
    assert_eq!(asked, ["DescribeTable", "DescribeTimeToLive", "GetItem", "GetItem"]);
}

#[tokio::test]
async fn inv12_a_service_that_never_says_the_time_cannot_be_an_inbox() {
    let stub = Stub::start([
        Reply::ok(table()),
        Reply::ok(ttl()),
        Reply::ok(table()),
        Reply::ok(table()),
        Reply::ok(table()),
    ])
    .await
    .unwrap();
    let error = DynamoInbox::connect(&config(&stub.url()), NAME).await.unwrap_err();
    assert!(matches!(error, InboxError::Schema { .. }), "{error}");
    let error = error.to_string();
    assert!(error.contains("`Date`") && error.contains(&stub.url()), "{error}");
}

// ---- without sockets, in virtual time

/// An answer that takes its time: sent back `after`, with the time the service's clock shows `read_after` the request.
#[derive(Clone, Debug)]
struct Slow {
    body: Value,
    read_after: Duration,
    after: Duration,
}

/// A service in this process whose clock follows the virtual one.
#[derive(Clone, Debug)]
struct Service {
    clock: Clock,
    answers: Arc<Mutex<VecDeque<Slow>>>,
}

impl Service {
    fn starting_at(epoch_ms: u64) -> Self {
        Self {
            clock: Clock::starting_at(epoch_ms),
            answers: Arc::default(),
        }
    }

    fn will(&self, body: Value, read_after_ms: u64, after_ms: u64) {
        self.answers.lock().unwrap().push_back(Slow {
            body,
            read_after: Duration::from_millis(read_after_ms),
            after: Duration::from_millis(after_ms),
        });
    }

    /// An inbox that waits as long as it takes.
    async fn inbox(&self) -> Result<DynamoInbox, InboxError> {
        let settings = aws_sdk_dynamodb::config::Builder::from(&config("https://service.invalid"))
            .http_client(self.clone())
            .timeout_config(TimeoutConfig::disabled())
            .retry_config(RetryConfig::disabled())
            .build();
        DynamoInbox::from_client(Client::from_conf(settings), NAME).await
    }

    async fn answer(self) -> HttpResponse {
        let slow = self.answers.lock().unwrap().pop_front().expect("an answer is left");
        tokio::time::sleep(slow.read_after).await;
        let date = SystemTime::UNIX_EPOCH + Duration::from_secs(self.clock.epoch_ms() / 1000);
        tokio::time::sleep(slow.after - slow.read_after).await;
        let mut response = HttpResponse::new(200_u16.try_into().unwrap(), SdkBody::from(slow.body.to_string()));
        response.headers_mut().insert("date", httpdate::fmt_http_date(date));
        response
    }
}

impl HttpConnector for Service {
    fn call(&self, _request: HttpRequest) -> HttpConnectorFuture {
        let service = self.clone();
        HttpConnectorFuture::new(async move { Ok(service.answer().await) })
    }
}

impl HttpClient for Service {
    fn http_connector(&self, _: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

#[tokio::test(start_paused = true)]
async fn answers_slower_than_two_seconds_say_nothing() {
    let service = Service::starting_at(NOON * 1000 + 700);
    for body in [table(), ttl(), table(), table()] {
        service.will(body, 1_000, 2_001);
    }
    service.will(table(), 500, 1_999);
    let inbox = service.inbox().await.unwrap();
    let time = inbox.time();
    assert_within(time, service.clock.epoch_ms());
    // Only the last one counted: a second, and what it took.
    assert!((2_999..=3_003).contains(&(time.hi - time.lo)), "{time:?}");

    service.will(json!({}), 0, 3_000);
    inbox.get(&key()).await.unwrap();
    assert_within(inbox.time(), service.clock.epoch_ms());
    assert_eq!(inbox.clock_restarts(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_bounds_narrow_as_answers_come_and_hold_the_services_time() {
    let service = Service::starting_at(NOON * 1000 + 123);
    service.will(table(), 3, 10);
    service.will(ttl(), 3, 10);
    let inbox = service.inbox().await.unwrap();
    let wide = inbox.time();
    for n in 0..60 {
        service.will(json!({}), n % 7, 8);
        inbox.get(&key()).await.unwrap();
        assert_within(inbox.time(), service.clock.epoch_ms());
        tokio::time::advance(Duration::from_millis(41)).await;
    }
    let narrow = inbox.time();
    assert!(narrow.hi - narrow.lo < 60, "{narrow:?}, at first {wide:?}");
}

#[tokio::test(start_paused = true)]
async fn inv02_a_lease_is_timed_by_the_service_whatever_this_host_believes() {
    // The host's own clocks say another year; the lease must be the service's time and the lease, and no more.
    let service = Service::starting_at(NOON * 1000 + 999);
    service.will(table(), 20, 40);
    service.will(ttl(), 20, 40);
    let inbox = service.inbox().await.unwrap();
    service.will(json!({}), 5, 10);
    let lease = Duration::from_secs(30);
    let before = service.clock.epoch_ms();
    let request = ClaimRequest {
        key: key(),
        claim_id: "c".into(),
        message_id: "m".into(),
        fingerprint: None,
        lease,
        retention: Duration::from_secs(3_600),
        receive_count: 1,
        replayed: false,
    };
    match inbox.claim(vec![request]).await.remove(0) {
        Ok(ClaimAnswer::Claimed(claim)) => {
            assert!(
                claim.lease_until >= before + 30_000,
                "the lease is held for all of its time"
            );
            assert!(
                claim.lease_until <= before + 30_000 + 1_050,
                "and for no more than the bounds leave open"
            );
            assert!(claim.fencing_token >= before, "tokens pass the service's time");
        }
        other => panic!("{other:?}"),
    }
}
