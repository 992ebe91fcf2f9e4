#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::sync::Arc;

use super::*;
use crate::dlq::envelope::ENVELOPE_ATTRIBUTE;
use crate::handler::Handler;
use crate::handler::testing::{FakeInbox, claimed, context, context_of, failure, json, message, run};
use crate::inbox::Change;
use crate::key::Key;
use crate::message::Attribute;
use crate::outcome::{Outcome, Reason, StoredResult};

#[tokio::test]
async fn a_handler_takes_up_to_twelve_extractors() {
    #[allow(clippy::too_many_arguments, reason = "that is the point")]
    async fn all(
        Json(n): Json<u64>,
        text: Text,
        bytes: Bytes,
        State(()): State<()>,
        key: IdempotencyKey,
        Attempt(attempt): Attempt,
        message: Message,
        delivery: Arc<Delivery>,
        attributes: Attributes,
        token: CancellationToken,
        envelope: Option<Envelope>,
        context: Context,
    ) -> Result<(), Failure> {
        assert_eq!((n, &*text, &*bytes), (12, "12", &b"12"[..]));
        assert_eq!((key.as_str(), attempt), ("mid-1", 1));
        assert_eq!(message, delivery.message);
        assert!(attributes.is_empty() && !token.is_cancelled() && envelope.is_none());
        assert_eq!(context.queue(), "orders");
        Ok(())
    }
    assert!(matches!(
        run(all, message("12")).await,
        Outcome::Done(StoredResult::Nothing)
    ));
}

#[tokio::test]
async fn bad_bodies_are_rejected_as_malformed_and_the_handler_does_not_run() {
    async fn never(Json(_): Json<u64>) -> Result<(), Failure> {
        panic!("it ran")
    }
    for body in ["", "  ", "{", "nonsense", "\"12\"", "{}", "12 13", "-1", "\u{0}"] {
        let failed = failure(run(never, message(body)).await);
        assert_eq!(failed.reason(), Some(&Reason::Malformed), "{body:?}");
        assert!(failed.error().starts_with("the body "), "{failed}");
    }
}

#[tokio::test]
async fn an_optional_extractor_is_none_only_where_there_is_nothing() {
    async fn optional(body: Option<Json<u64>>) -> Result<Option<u64>, Failure> {
        Ok(body.map(|Json(n)| n))
    }
    assert_eq!(json(run(optional, message("7")).await), "7");
    assert!(matches!(
        run(optional, message("")).await,
        Outcome::Done(StoredResult::Nothing)
    ));
    assert_eq!(
        failure(run(optional, message("{")).await).reason(),
        Some(&Reason::Malformed)
    );
}

#[tokio::test]
async fn a_result_extractor_leaves_the_rejection_to_the_handler() {
    async fn lenient(body: Result<Json<u64>, JsonRejection>) -> Result<String, Failure> {
        Ok(match body {
            Ok(Json(n)) => n.to_string(),
            Err(rejection) => rejection.to_string(),
        })
    }
    assert!(json(run(lenient, message("7 7")).await).contains("not JSON"));
}

#[tokio::test]
async fn tuples_of_extractors_nest() {
    async fn nested(
        (Json(n), (key, Attempt(attempt))): (Json<u64>, (IdempotencyKey, Attempt)),
    ) -> Result<String, Failure> {
        Ok(format!("{n} {key} {attempt}"))
    }
    assert_eq!(json(run(nested, message("7")).await), "\"7 mid-1 1\"");
}

#[tokio::test]
async fn parts_of_the_state_are_extractors_too() {
    #[derive(Clone)]
    struct App {
        name: Name,
    }
    #[derive(Clone)]
    struct Name(&'static str);
    impl FromRef<App> for Name {
        fn from_ref(app: &App) -> Self {
            app.name.clone()
        }
    }
    async fn named(State(name): State<Name>, State(app): State<App>) -> Result<(), Failure> {
        assert_eq!(name.0, app.name.0);
        Err(Failure::retry(name.0))
    }
    let service = named.into_service(App { name: Name("gateway") });
    assert_eq!(failure(service.run(context("")).await).error(), "gateway");
}

#[tokio::test]
async fn steps_have_stable_keys_of_their_own() {
    let of = |text: &str| {
        let context = Context::new(Arc::clone(context("").delivery()), Key::new(text), 1, "orders".into());
        async move { IdempotencyKey::from_delivery(&context, &()).await.unwrap() }
    };
    let key = of("order-7").await;
    assert_eq!(key.step("charge"), of("order-7").await.step("charge"));
    assert_ne!(key.step("charge"), key.step("ship"));
    assert_ne!(key.step("charge"), of("order-8").await.step("charge"));
    assert_ne!(of("ab").await.step("c"), of("a").await.step("bc"));
    assert_eq!(of(&"k".repeat(5_000)).await.step("charge").len(), 64);
    assert_eq!(format!("{key}"), "order-7");
}

#[tokio::test]
async fn a_replayed_message_shows_its_envelope() {
    let mut replayed = message("{}");
    let text = r#"{"key":"k","reason":"timeout","attempts":3}"#;
    replayed
        .attributes
        .insert(ENVELOPE_ATTRIBUTE.to_owned(), Attribute::string(text));
    let envelope = Envelope::from_delivery(&context_of(replayed), &()).await.unwrap();
    assert_eq!((envelope.reason.as_str(), envelope.attempts), ("timeout", 3));
    let none = Envelope::from_delivery(&context("{}"), &()).await.unwrap_err();
    assert_eq!(none.into_failure().reason(), Some(&Reason::Malformed));
}

#[tokio::test]
async fn what_needs_an_inbox_says_so_before_it_runs() {
    async fn fenced(_: Attempt, _: FencingToken) -> Result<(), Failure> {
        Ok(())
    }
    async fn nested((_, _): (Text, Checkpoint)) -> Result<(), Failure> {
        Ok(())
    }
    async fn optional(_: Option<FencingToken>) -> Result<(), Failure> {
        Ok(())
    }
    assert_eq!(fenced.boxed().with_state(()).needs_inbox(), Some("FencingToken"));
    assert_eq!(nested.boxed().with_state(()).needs_inbox(), Some("Checkpoint"));
    assert_eq!(optional.boxed().with_state(()).needs_inbox(), None);
    let failed = failure(run(fenced, message("{}")).await);
    assert!(!failed.is_reject() && failed.error().contains(".inbox(..)"), "{failed}");
    assert!(matches!(run(optional, message("{}")).await, Outcome::Done(_)));
}

#[tokio::test]
async fn the_fencing_token_is_the_claims() {
    let inbox = Arc::new(FakeInbox::default());
    let token = FencingToken::from_delivery(&claimed(&inbox, None), &()).await.unwrap();
    assert_eq!(token, FencingToken(42));
}

#[tokio::test]
async fn a_checkpoint_goes_on_from_the_last_run_and_load_follows_save() {
    let inbox = Arc::new(FakeInbox::default());
    let context = claimed(&inbox, Some(b"1"));
    let checkpoint = Checkpoint::from_delivery(&context, &()).await.unwrap();
    assert_eq!(checkpoint.load::<u8>().await.unwrap(), Some(1));
    checkpoint.save("charged").await.unwrap();
    assert_eq!(checkpoint.load::<String>().await.unwrap().as_deref(), Some("charged"));
    // A layer that runs the handler again in the same run sees it too.
    let again = Checkpoint::from_delivery(&context, &()).await.unwrap();
    assert_eq!(again.load::<String>().await.unwrap().as_deref(), Some("charged"));
    assert_eq!(
        *inbox.changes.lock().unwrap(),
        vec![Change::Checkpoint {
            serial: 1,
            data: Bytes::from_static(b"\"charged\"")
        }]
    );
    let first = Checkpoint::from_delivery(&claimed(&inbox, None), &()).await.unwrap();
    assert_eq!(first.load::<u8>().await.unwrap(), None);
}

#[tokio::test]
async fn inv03_fenced_checkpoint_of_a_lost_lease_is_not_kept() {
    let inbox = Arc::new(FakeInbox::default());
    let checkpoint = Checkpoint::from_delivery(&claimed(&inbox, Some(b"1")), &())
        .await
        .unwrap();
    *inbox.lease_lost.lock().unwrap() = true;
    assert!(checkpoint.save(&2).await.unwrap_err().is_lease_lost());
    assert_eq!(checkpoint.load::<u8>().await.unwrap(), Some(1));
}

#[tokio::test]
async fn a_checkpoint_that_cannot_be_kept_or_read_says_why() {
    let inbox = Arc::new(FakeInbox::default());
    let checkpoint = Checkpoint::from_delivery(&claimed(&inbox, Some(b"{}")), &())
        .await
        .unwrap();
    let large = checkpoint.save(&"x".repeat(4 * 1024)).await.unwrap_err();
    assert!(large.to_string().contains("4098 bytes is over the 4096"), "{large}");
    assert!(inbox.changes.lock().unwrap().is_empty());
    let unreadable = checkpoint.load::<u8>().await.unwrap_err();
    assert!(unreadable.to_string().contains("`u8`"), "{unreadable}");
}
