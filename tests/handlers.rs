//! Handlers from outside the crate: own extractors, routers, batches, and `tower` layers around them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use redrive::clock::{Clock, Instant};
use redrive::extract::{Attempt, Attrs, FromDelivery, FromRef, IdempotencyKey, Json, State, Text};
use redrive::handler::{Handler, HandlerService, IntoFailure, Router, batch, from_service, share};
use redrive::key::KeySource;
use redrive::message::{Attribute, Delivery, KEY_ATTRIBUTE, Message, Receipt};
use redrive::outcome::StoredResult;
use redrive::{Context, Failure, FailureExt, Outcome, Reason};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tower::limit::{ConcurrencyLimitLayer, GlobalConcurrencyLimitLayer, RateLimitLayer};
use tower::load_shed::LoadShedLayer;
use tower::timeout::TimeoutLayer;
use tower::util::{MapRequestLayer, MapResponseLayer};
use tower::{Service, ServiceBuilder, ServiceExt};

fn now() -> Instant {
    Clock::system().now()
}

fn context_of(message: Message) -> Context {
    let key = KeySource::Attribute.key_of(&message, None);
    let delivery = Delivery::new(message, Receipt::new("r"), 1, now());
    Context::new(Arc::new(delivery), key, 1, "orders".into())
}

fn context(body: &str) -> Context {
    context_of(Message::new("mid-1", body))
}

fn typed(kind: &str, body: &str) -> Context {
    let mut message = Message::new("mid-1", body);
    message.attributes.insert("type".to_owned(), Attribute::string(kind));
    context_of(message)
}

fn json(outcome: Outcome) -> String {
    match outcome {
        Outcome::Done(StoredResult::Json(json)) => String::from_utf8(json.to_vec()).unwrap(),
        other => panic!("{other:?}"),
    }
}

fn failure(outcome: Outcome) -> Failure {
    match outcome {
        Outcome::Failed(failure) => failure,
        other => panic!("{other:?}"),
    }
}

fn is_done(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Done(_))
}

#[derive(Clone)]
struct Gateway {
    calls: Arc<AtomicUsize>,
}

#[derive(Clone)]
struct App {
    gateway: Gateway,
}

impl FromRef<App> for Gateway {
    fn from_ref(app: &App) -> Self {
        app.gateway.clone()
    }
}

fn app() -> App {
    App {
        gateway: Gateway { calls: Arc::default() },
    }
}

#[derive(Deserialize)]
struct Order {
    amount: u64,
}

#[derive(Serialize)]
struct Receipted {
    key: String,
    amount: u64,
}

#[derive(Debug, thiserror::Error)]
#[error("the gateway is down")]
struct Down;

async fn charge(
    State(gateway): State<Gateway>,
    key: IdempotencyKey,
    Json(order): Json<Order>,
) -> Result<Receipted, Failure> {
    gateway.calls.fetch_add(1, Ordering::Relaxed);
    match order.amount {
        0 => Err(Down)?,
        1 => Err(Down).retry_after(Duration::from_secs(60))?,
        2 => Err(Down).reject()?,
        amount => Ok(Receipted {
            key: key.into(),
            amount,
        }),
    }
}

#[tokio::test]
async fn a_handler_chooses_what_its_errors_mean() {
    let service = charge.into_service(app());
    assert_eq!(
        json(service.run(context(r#"{"amount":12}"#)).await),
        r#"{"key":"mid-1","amount":12}"#
    );
    let again = failure(service.run(context(r#"{"amount":0}"#)).await);
    assert_eq!((again.is_reject(), again.error()), (false, "the gateway is down"));
    let later = failure(service.run(context(r#"{"amount":1}"#)).await);
    assert_eq!(later.delay(), Some(Duration::from_secs(60)));
    let never = failure(service.run(context(r#"{"amount":2}"#)).await);
    assert_eq!(never.reason(), Some(&Reason::Rejected));
}

#[tokio::test]
async fn a_missing_or_empty_key_falls_back_to_the_message_id() {
    async fn key(key: IdempotencyKey) -> Result<String, Failure> {
        Ok(key.to_string())
    }
    let with = |attribute: Attribute| {
        let mut message = Message::new("mid-1", "{}");
        message.attributes.insert(KEY_ATTRIBUTE.to_owned(), attribute);
        context_of(message)
    };
    let service = key.into_service(());
    assert_eq!(
        json(service.run(with(Attribute::string("order-7"))).await),
        r#""order-7""#
    );
    assert_eq!(json(service.run(with(Attribute::string(""))).await), r#""mid-1""#);
    assert_eq!(
        json(service.run(with(Attribute::binary(vec![0xff]))).await),
        r#""mid-1""#
    );
    assert_eq!(json(service.run(context("{}")).await), r#""mid-1""#);
}

#[tokio::test]
async fn users_write_extractors_and_errors_of_their_own() {
    struct Tenant(String);
    #[derive(Debug)]
    struct NoTenant;
    impl IntoFailure for NoTenant {
        fn into_failure(self) -> Failure {
            Failure::reject("no tenant").because("no_tenant")
        }
    }
    impl<S: Sync> FromDelivery<S> for Tenant {
        type Rejection = NoTenant;

        async fn from_delivery(context: &Context, state: &S) -> Result<Self, NoTenant> {
            #[derive(Deserialize)]
            struct Meta {
                tenant: String,
            }
            let Attrs(meta) = Attrs::<Meta>::from_delivery(context, state)
                .await
                .map_err(|_| NoTenant)?;
            Ok(Self(meta.tenant))
        }
    }
    enum Mine {
        Unknown(String),
    }
    impl IntoFailure for Mine {
        fn into_failure(self) -> Failure {
            let Self::Unknown(tenant) = self;
            Failure::reject(format!("tenant {tenant} is unknown")).because("unknown_tenant")
        }
    }
    async fn handle(Tenant(tenant): Tenant) -> Result<(), Mine> {
        Err(Mine::Unknown(tenant))
    }
    let service = handle.into_service(());
    let none = failure(service.run(context("{}")).await);
    assert_eq!(none.reason().map(Reason::as_str), Some("no_tenant"));
    let mut message = Message::new("mid-1", "{}");
    message.attributes.insert("tenant".into(), Attribute::string("acme"));
    let unknown = failure(service.run(context_of(message)).await);
    assert_eq!(unknown.error(), "tenant acme is unknown");
}

#[tokio::test]
async fn closures_are_handlers_and_need_not_be_clone() {
    struct NotClone(AtomicUsize);
    let seen = NotClone(AtomicUsize::new(0));
    let service = (move |Attempt(attempt): Attempt| {
        let runs = seen.0.fetch_add(1, Ordering::Relaxed) + 1;
        async move { Ok::<_, Failure>((runs, attempt)) }
    })
    .into_service(());
    assert_eq!(json(service.run(context("")).await), "[1,1]");
    assert_eq!(json(service.clone().run(context("")).await), "[2,1]");
}

#[tokio::test]
async fn a_router_with_state_runs_the_route_of_the_type() {
    async fn refund(State(app): State<App>) -> Result<usize, Failure> {
        Ok(app.gateway.calls.load(Ordering::Relaxed))
    }
    let service = Router::new()
        .route("order.created", charge)
        .route("order.refunded", refund)
        .into_service(app());
    assert!(is_done(&service.run(typed("order.created", r#"{"amount":12}"#)).await));
    assert_eq!(json(service.run(typed("order.refunded", "")).await), "1");
    assert_eq!(
        failure(service.run(typed("order.deleted", "")).await).reason(),
        Some(&Reason::Unroutable)
    );
}

#[tokio::test]
async fn a_handler_is_a_tower_service() {
    let mut service: HandlerService = charge.into_service(app());
    let outcome: Result<Outcome, Infallible> = service.ready().await.unwrap().call(context(r#"{"amount":5}"#)).await;
    assert!(is_done(&outcome.unwrap()));
}

#[tokio::test]
async fn a_tower_service_is_a_handler() {
    let service = tower::service_fn(|context: Context| async move {
        match context.message().body.as_str() {
            "" => Err(Down),
            _ => Ok(Outcome::Done(StoredResult::Nothing)),
        }
    });
    let router = Router::new().fallback(from_service(service)).into_service(());
    assert!(is_done(&router.run(context("x")).await));
    let failed = failure(router.run(context("")).await);
    assert_eq!((failed.is_reject(), failed.error()), (false, "the gateway is down"));
}

/// Counts how many of it run at once, and runs as long as the test wants.
#[derive(Clone)]
struct Gate {
    open: Arc<Semaphore>,
    running: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

impl Gate {
    fn new() -> Self {
        Self {
            open: Arc::new(Semaphore::new(0)),
            running: Arc::default(),
            most: Arc::default(),
        }
    }
}

async fn through(State(gate): State<Gate>) -> Result<(), Failure> {
    let running = gate.running.fetch_add(1, Ordering::SeqCst) + 1;
    gate.most.fetch_max(running, Ordering::SeqCst);
    gate.open.acquire().await.unwrap().forget();
    gate.running.fetch_sub(1, Ordering::SeqCst);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn readiness_is_back_pressure_and_an_abandoned_wait_takes_nothing_along() {
    let gate = Gate::new();
    let service = through.layer(ConcurrencyLimitLayer::new(2)).into_service(gate.clone());
    let running = [(); 5].map(|()| service.run(context("")));
    let all = futures::future::join_all(running);
    let abandoned = async {
        // In line behind the five, and given up.
        let waits = tokio::time::timeout(Duration::from_secs(1), service.run(context(""))).await;
        assert!(waits.is_err());
        assert_eq!(gate.running.load(Ordering::SeqCst), 2);
        gate.open.add_permits(5);
    };
    let (outcomes, ()) = tokio::join!(all, abandoned);
    assert!(outcomes.iter().all(is_done));
    assert_eq!(gate.most.load(Ordering::SeqCst), 2);
    gate.open.add_permits(2);
    let (one, two) = tokio::join!(service.run(context("")), service.run(context("")));
    assert!(is_done(&one) && is_done(&two));
}

#[tokio::test(start_paused = true)]
async fn a_limit_around_a_router_is_one_for_all_its_routes_and_can_be_shared_by_handlers() {
    let gate = Gate::new();
    let layer = GlobalConcurrencyLimitLayer::new(1);
    let router = || {
        Router::new()
            .route("a", through)
            .route("b", through)
            .layer(layer.clone())
    };
    let first = router().into_service(gate.clone());
    let second = router().into_service(gate.clone());
    gate.open.add_permits(4);
    let outcomes = tokio::join!(
        first.run(typed("a", "")),
        first.run(typed("b", "")),
        second.run(typed("a", "")),
        second.run(typed("b", "")),
    );
    assert!([outcomes.0, outcomes.1, outcomes.2, outcomes.3].iter().all(is_done));
    assert_eq!(gate.most.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn the_errors_of_layers_are_tried_again() {
    let gate = Gate::new();
    let stack = ServiceBuilder::new()
        .layer(LoadShedLayer::new())
        .layer(ConcurrencyLimitLayer::new(1))
        .layer(TimeoutLayer::new(Duration::from_secs(3)));
    let service = through.layer(stack).into_service(gate);
    let start = now();
    let (slow, shed) = tokio::join!(service.run(context("")), service.run(context("")));
    let (slow, shed) = (failure(slow), failure(shed));
    assert_eq!(now() - start, Duration::from_secs(3));
    assert!(!slow.is_reject() && slow.error().contains("timed out"), "{slow}");
    assert!(!shed.is_reject() && shed.error().contains("overloaded"), "{shed}");
}

#[tokio::test]
async fn layers_see_the_delivery_and_may_change_the_outcome() {
    async fn fails(_: Text) -> Result<(), Failure> {
        Err(Failure::retry("not today"))
    }
    let seen = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&seen);
    let service = fails
        .layer(MapRequestLayer::new(move |context: Context| {
            count.fetch_add(context.message().body.len(), Ordering::Relaxed);
            context
        }))
        .layer(MapResponseLayer::new(|outcome| match outcome {
            Outcome::Failed(failure) => Outcome::Failed(failure.because("mapped")),
            done => done,
        }))
        .into_service(());
    let failed = failure(service.run(context("four")).await);
    assert_eq!(failed.reason().map(Reason::as_str), Some("mapped"));
    assert_eq!(seen.load(Ordering::Relaxed), 4);
}

#[tokio::test(start_paused = true)]
async fn a_layer_whose_service_cannot_be_cloned_is_shared() {
    async fn mail() -> Result<(), Failure> {
        Ok(())
    }
    let two_a_second = RateLimitLayer::new(2, Duration::from_secs(1));
    let service = mail.layer(share(two_a_second)).into_service(());
    let start = now();
    let outcomes = futures::future::join_all([(); 6].map(|()| service.run(context("")))).await;
    assert!(outcomes.iter().all(is_done));
    let took = now() - start;
    assert!(
        (Duration::from_secs(2)..Duration::from_secs(3)).contains(&took),
        "{took:?}"
    );
}

#[tokio::test]
async fn a_batch_is_one_call_and_single_handlers_run_one_by_one() {
    async fn store(State(gateway): State<Gateway>, orders: Vec<Json<Order>>) -> Vec<Result<u64, Failure>> {
        gateway.calls.fetch_add(1, Ordering::Relaxed);
        orders.into_iter().map(|Json(order)| Ok(order.amount)).collect()
    }
    let bodies = [r#"{"amount":3}"#, "nonsense", r#"{"amount":4}"#];
    for (handler, calls) in [
        (batch(10, Duration::ZERO, store), 1),
        (charge.boxed(), 2),
        (Router::new().fallback(charge).boxed(), 2),
        (charge.layer(ConcurrencyLimitLayer::new(1)), 2),
    ] {
        let app = app();
        let service = handler.into_service(app.clone());
        let outcomes = service
            .run_batch(bodies.iter().map(|body| context(body)).collect())
            .await;
        let done: Vec<_> = outcomes.iter().map(is_done).collect();
        assert_eq!(done, [true, false, true]);
        assert_eq!(app.gateway.calls.load(Ordering::Relaxed), calls);
    }
}

#[test]
fn a_layer_around_a_batch_handler_is_refused() {
    async fn store(orders: Vec<Text>) -> Vec<Result<(), Failure>> {
        orders.iter().map(|_| Ok(())).collect()
    }
    let handler = batch(10, Duration::ZERO, store).layer(ConcurrencyLimitLayer::new(1));
    let problems = handler.into_service(()).problems();
    assert!(problems[0].contains("layers see single deliveries"), "{problems:?}");
}
