//! What the tests of handlers share.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use super::{Context, Handler, HandlerService, Kept};
use crate::clock::Clock;
use crate::inbox::{
    Answers, Change, Claim, ClaimAnswer, ClaimRequest, Inbox, InboxError, Record, ServiceTime, Write, Written,
};
use crate::key::{Key, RecordKey};
use crate::message::{Attribute, Delivery, Message, Receipt};
use crate::outcome::{Failure, Outcome, StoredResult};

pub(crate) fn message(body: &str) -> Message {
    Message::new("mid-1", body)
}

pub(crate) fn typed(kind: &str, body: &str) -> Message {
    let mut message = message(body);
    message.attributes.insert("type".to_owned(), Attribute::string(kind));
    message
}

pub(crate) fn context_of(message: Message) -> Context {
    let key = Key::new(message.id.as_str());
    Context::new(delivery(message), key, 1, "orders".into())
}

pub(crate) fn context(body: &str) -> Context {
    context_of(message(body))
}

/// A run under a claim of `inbox`, with this left by the run before.
pub(crate) fn claimed(inbox: &Arc<FakeInbox>, checkpoint: Option<&'static [u8]>) -> Context {
    let claim = Claim {
        key: RecordKey::new("orders", &Key::new("k")),
        claim_id: "epoch-1".to_owned(),
        fencing_token: 42,
        lease_until: 0,
        attempts: 0,
        last_error: None,
        suspect: false,
        deaths: 0,
        checkpoint: checkpoint.map(bytes::Bytes::from_static),
        first_seen: 0,
        retention: Duration::from_secs(60),
    };
    let inbox: Arc<dyn Inbox> = Arc::clone(inbox) as Arc<dyn Inbox>;
    let kept = Kept::of(&claim, None);
    Context::assembled(
        delivery(message("{}")),
        Key::new("k"),
        1,
        "orders".into(),
        None,
        Some((inbox, Arc::new(claim))),
        Some(kept),
        CancellationToken::new(),
    )
}

fn delivery(message: Message) -> Arc<Delivery> {
    Arc::new(Delivery::new(message, Receipt::new("r"), 1, Clock::system().now()))
}

pub(crate) async fn run<M>(handler: impl Handler<M, ()>, message: Message) -> Outcome {
    let service: HandlerService = handler.into_service(());
    service.run(context_of(message)).await
}

pub(crate) fn json(outcome: Outcome) -> String {
    match outcome {
        Outcome::Done(StoredResult::Json(json)) => String::from_utf8(json.to_vec()).unwrap(),
        other => panic!("{other:?}"),
    }
}

pub(crate) fn failure(outcome: Outcome) -> Failure {
    match outcome {
        Outcome::Failed(failure) => failure,
        Outcome::Done(done) => panic!("{done:?}"),
    }
}

/// An inbox that takes down what is written to it.
#[derive(Default)]
pub(crate) struct FakeInbox {
    pub(crate) changes: Mutex<Vec<Change>>,
    pub(crate) lease_lost: Mutex<bool>,
}

impl Inbox for FakeInbox {
    fn claim(&self, _: Vec<ClaimRequest>) -> BoxFuture<'_, Answers<ClaimAnswer>> {
        panic!("handlers claim nothing")
    }

    fn write(&self, writes: Vec<Write>) -> BoxFuture<'_, Answers<Written>> {
        let lost = *self.lease_lost.lock().unwrap();
        let answer = |write: Write| {
            if lost {
                return Err(InboxError::LeaseLost {
                    key: write.claim.key.clone(),
                });
            }
            self.changes.lock().unwrap().push(write.change);
            Ok(Written { lease_until: None })
        };
        let answers = writes.into_iter().map(answer).collect();
        Box::pin(async move { answers })
    }

    fn get<'a>(&'a self, _: &'a RecordKey) -> BoxFuture<'a, Result<Option<Record>, InboxError>> {
        Box::pin(async { Ok(None) })
    }

    fn time(&self) -> ServiceTime {
        ServiceTime { lo: 0, hi: 0 }
    }
}
