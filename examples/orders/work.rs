//! The worker: the same code whatever it runs on.

use std::time::Duration;

use redrive::extract::{FencingToken, IdempotencyKey, Json, State};
use redrive::inbox::Inbox;
use redrive::queue::{Queue, QueueAttributes};
use redrive::worker::{BuildError, Status, Totals, WorkerHandle};
use redrive::{Router, Worker};
use serde::Deserialize;

use crate::gateway::{Gateway, GatewayError, Receipt};

/// How often it is told how things stand.
const PROGRESS: Duration = Duration::from_secs(2);

/// How often a queue is looked at that may be empty, and for how long it must have been so where others work on it too.
const LOOK: Duration = Duration::from_millis(250);
const LOOKS_AT_AN_EMPTY_QUEUE: u32 = 120;

#[derive(Deserialize)]
struct CardOrder {
    id: String,
    amount_cents: u64,
    card: String,
}

#[derive(Deserialize)]
struct TransferOrder {
    id: String,
    amount_cents: u64,
    iban: String,
}

/// The key goes on to the gateway: only so is an order charged once, even if this process dies between the charge and the
/// record of it.
async fn charge_card(
    State(gateway): State<Gateway>,
    key: IdempotencyKey,
    FencingToken(fence): FencingToken,
    Json(order): Json<CardOrder>,
) -> Result<Receipt, GatewayError> {
    gateway
        .charge(&key, fence, &order.id, &order.card, order.amount_cents)
        .await
}

async fn transfer(
    State(gateway): State<Gateway>,
    key: IdempotencyKey,
    FencingToken(fence): FencingToken,
    Json(order): Json<TransferOrder>,
) -> Result<Receipt, GatewayError> {
    gateway
        .charge(&key, fence, &order.id, &order.iban, order.amount_cents)
        .await
}

/// A worker of these orders, with the settings of `REDRIVE_*` variables.
///
/// An idle worker's drain waits for its receive: one that ends with the queue polls for less long than one that stays.
pub(crate) fn worker(
    queue: impl Queue,
    inbox: impl Inbox,
    gateway: Gateway,
    stays: bool,
) -> Result<Worker, BuildError> {
    let builder = Worker::builder(queue)
        .inbox(inbox)
        .state(gateway)
        .concurrency(32)
        // An order takes milliseconds: what a dead worker held is asked for again soon.
        .in_flight_delay(Duration::from_secs(2))
        .long_poll(Duration::from_secs(if stays { 20 } else { 2 }))
        .from_env()
        .handler(
            Router::new()
                .route("order.card", charge_card)
                .route("order.transfer", transfer),
        );
    // On by REDRIVE_HEALTH, such as 0.0.0.0:8080, and by REDRIVE_EMF, the namespace in CloudWatch.
    #[cfg(feature = "health")]
    let builder = builder.beside(redrive::health::Health::from_env()?);
    #[cfg(feature = "emf")]
    let builder = builder.beside(redrive::emf::Emf::from_env()?);
    #[cfg(feature = "ecs")]
    let builder = builder.beside(redrive::ecs::ScaleInProtection::from_env()?);
    builder.build()
}

/// Works until a signal comes, then drains.
pub(crate) async fn until_told(worker: Worker) -> Result<(), redrive::Error> {
    let handle = worker.handle();
    let telling = async {
        loop {
            tokio::time::sleep(PROGRESS).await;
            tell(&handle.status());
        }
    };
    tokio::select! {
        biased;
        ended = worker.run() => ended,
        () = telling => Ok(()),
    }
}

/// Works until the queue is empty, or a signal comes, then drains.
pub(crate) async fn until_empty(worker: Worker, queue: &impl Queue, sent: u64) -> Result<(), redrive::Error> {
    let handle = worker.handle();
    let watching = async {
        emptied(&handle, queue, sent).await;
        handle.drain();
        std::future::pending().await
    };
    tokio::select! {
        biased;
        ended = until_told(worker) => ended,
        () = watching => Ok(()),
    }
}

/// Waits until nothing is in the queue or in the worker's hands. SQS counts what it holds only about right: the queue is
/// believed to be empty once as many messages as were sent have come to their end here, or when it has said so for long.
async fn emptied(handle: &WorkerHandle, queue: &impl Queue, sent: u64) {
    let mut empty_looks = 0;
    while empty_looks < LOOKS_AT_AN_EMPTY_QUEUE {
        tokio::time::sleep(LOOK).await;
        let status = handle.status();
        let held = status.running + status.waiting + status.ending;
        let empty = held == 0
            && match queue.describe().await {
                Ok(QueueAttributes {
                    visible,
                    in_flight,
                    delayed,
                    ..
                }) => visible + in_flight + delayed == 0,
                Err(error) => {
                    tracing::warn!(%error, "the queue could not be looked at");
                    false
                }
            };
        if empty && come_to_their_end(&status.totals) >= sent {
            return;
        }
        empty_looks = if empty { empty_looks + 1 } else { 0 };
    }
}

/// Deliveries after which the message was deleted.
pub(crate) fn come_to_their_end(totals: &Totals) -> u64 {
    totals.completed + totals.duplicates + totals.dead_letters()
}

fn tell(status: &Status) {
    let totals = &status.totals;
    tracing::info!(
        completed = totals.completed,
        duplicates = totals.duplicates,
        dead_lettered = totals.dead_letters(),
        retried = totals.retried,
        running = status.running,
        waiting = status.waiting,
        "so far"
    );
}
