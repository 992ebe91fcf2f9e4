//! The input: what the shop sends, one message a line.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use redrive::MemoryQueue;
use redrive::producer::{NewMessage, Producer};
use serde::Deserialize;
use serde_json::Value;

use crate::Failed;
use crate::progress::Progress;

/// One line of `orders.jsonl`: a message as a producer sends it.
#[derive(Deserialize)]
pub(crate) struct Line {
    /// The idempotency key: the same for every message that asks for the same piece of work.
    pub(crate) key: String,
    /// The message type, by which the worker chooses the handler.
    pub(crate) r#type: String,
    /// The body: an object is sent as JSON, a string as the text it is.
    body: Value,
}

/// An order that is paid by card: the body of an `order.card`, as far as the worker needs it.
#[derive(Deserialize)]
pub(crate) struct CardOrder {
    pub(crate) id: String,
    pub(crate) amount_cents: u64,
    pub(crate) card: String,
}

/// An order that is paid by bank transfer: the body of an `order.transfer`.
#[derive(Deserialize)]
pub(crate) struct TransferOrder {
    pub(crate) id: String,
    pub(crate) amount_cents: u64,
}

impl Line {
    /// The text of the message's body.
    pub(crate) fn body(&self) -> String {
        match &self.body {
            Value::String(text) => text.clone(),
            json => json.to_string(),
        }
    }
}

/// Reads the messages from a file.
pub(crate) fn read(path: &Path) -> Result<Vec<Line>, Failed> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
    text.lines()
        .enumerate()
        .map(|(at, line)| {
            let line = serde_json::from_str(line);
            Ok(line.map_err(|error| format!("{}, line {}: {error}", path.display(), at + 1))?)
        })
        .collect()
}

/// How many messages the shop sends at a time, and how long it waits before the next: about 600 a second.
const BURST: usize = 40;
const PAUSE: Duration = Duration::from_millis(50);

/// Sends the messages as they come, and answers how many of them the queue handed out twice.
pub(crate) async fn produce(lines: &[Line], queue: &MemoryQueue, progress: &Progress) -> Result<usize, Failed> {
    let producer = Producer::new(Arc::new(queue.clone()));
    let mut twice = 0;
    for burst in lines.chunks(BURST) {
        let messages = burst
            .iter()
            .map(|line| NewMessage::text(line.body()).key(&line.key).message_type(&line.r#type));
        let mut ids = Vec::with_capacity(burst.len());
        for answer in producer.send_all(messages).await {
            ids.push(answer?);
        }
        progress.sent(burst.len());
        // Standard SQS queues deliver a message twice now and then. Here it is the first of each burst, both at once.
        if let Some(id) = ids.first() {
            twice += usize::from(queue.duplicate(id).is_ok());
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(twice)
}

/// What the old checkout meant by a body that the worker could not read. It had two bugs: it wrote Python's notation instead of
/// JSON, and amounts as text.
pub(crate) fn mended(body: &str) -> Result<String, Failed> {
    let mut order: Value = serde_json::from_str(&body.replace('\'', "\""))?;
    if let Some(amount) = order.get_mut("amount_cents")
        && let Some(text) = amount.as_str()
    {
        *amount = text.parse::<u64>()?.into();
    }
    Ok(order.to_string())
}
