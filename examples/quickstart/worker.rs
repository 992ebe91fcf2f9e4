//! The worker: this file is what you would write for a service of your own.

use std::time::Duration;

use redrive::extract::{IdempotencyKey, Json, State};
use redrive::flow::{Backoff, DownstreamError};
use redrive::{Failure, MemoryInbox, MemoryQueue, Router, Worker};

use crate::Failed;
use crate::gateway::{Gateway, Receipt};
use crate::orders::{CardOrder, TransferOrder};

/// The queue's visibility timeout, and the lease on a key: how long a message stays with a worker that gives no sign of life. In
/// production 30 s or more; here it is short, so that there is something to see.
pub(crate) const VISIBILITY: Duration = Duration::from_secs(2);

/// Charges a card.
///
/// A body that is no `CardOrder` never gets here: the extractor rejects it, and it is dead-lettered as `malformed`.
async fn charge(
    State(gateway): State<Gateway>,
    key: IdempotencyKey,
    Json(order): Json<CardOrder>,
) -> Result<Receipt, Failure> {
    // The key goes on to the gateway. If this process dies between the charge and the record of it, the order is handled once
    // more, and only the gateway can then know that it was charged: by the key.
    match gateway.charge(&key, &order).await {
        Ok(receipt) => Ok(receipt),
        // It can never succeed, so it is dead-lettered at once, for a reason that operators can filter by.
        Err(DownstreamError::Rejected { error, .. }) => {
            let reason = error.reason();
            Err(Failure::reject(error).because(reason))
        }
        // Whatever else went wrong may pass: try again later. A call that was not made, since the breaker was open, is no attempt.
        Err(error) => Err(error.into_failure()),
    }
}

/// Collects a bank transfer, which takes longer than the visibility timeout. Nothing is to be done about it here: the worker
/// extends visibility and lease for as long as the handler runs.
async fn transfer(
    State(gateway): State<Gateway>,
    key: IdempotencyKey,
    Json(order): Json<TransferOrder>,
) -> Result<Receipt, Failure> {
    Ok(gateway.transfer(&key, &order).await?) // a bare `?` means: try again later
}

/// Sets the worker up. On AWS, `SqsQueue::connect(…)` and `DynamoInbox::connect(…)` take the places of queue and inbox; the rest
/// stays as it is.
pub(crate) fn worker(queue: MemoryQueue, inbox: MemoryInbox, gateway: Gateway) -> Result<Worker, Failed> {
    let handlers = Router::new()
        .route("order.card", charge)
        .route("order.transfer", transfer);
    let worker = Worker::builder(queue)
        .inbox(inbox)
        // While the gateway's circuit breaker is open, nothing is received and no failure counts as an attempt. So the worker
        // needs no breaker of its own.
        .watch(gateway.downstream())
        .without_breaker()
        .state(gateway)
        .concurrency(64)
        // From here on: what makes the quickstart quick. The defaults are right in production, they are given behind.
        .lease(VISIBILITY) // the queue's visibility timeout, and at least 10 s
        .in_flight_delay(Duration::from_secs(1)) // 30 s
        .backoff(Backoff::new(Duration::from_millis(200), Duration::from_secs(2))?) // 500 ms doubling to 30 s
        .long_poll(Duration::from_secs(1)) // 20 s
        .handler(handlers)
        .build()?;
    Ok(worker)
}
