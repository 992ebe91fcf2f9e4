//! Drains the queue with a loop over the bare SDK, tuned by hand: what a framework is measured against.
//!
//! Several receivers ask for ten each; every message is a task that waits for a slot; deletes go out in tens, several at once,
//! after 5 ms at the latest. A message whose handler failed would simply come back: there is no retry, no heartbeat, no inbox.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::{DeleteMessageBatchRequestEntry, Message, MessageSystemAttributeName};
use redrive_bench_drivers::{Body, Task, Work, log_warnings};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

const LINGER: Duration = Duration::from_millis(5);
const DELETES_IN_FLIGHT: usize = 16;

struct Shared {
    client: Client,
    queue_url: String,
    fifo: bool,
    work: Work,
    /// Handlers at once.
    slots: Semaphore,
    /// Messages received and not yet handled.
    room: Arc<Semaphore>,
    /// What waits for a slot is not begun any more.
    stopping: AtomicBool,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    log_warnings();
    let task = Task::from_env();
    let aws = aws_config::load_from_env().await;
    // Of what a receive brings of a FIFO queue, one message can be handled.
    let ahead = if task.fifo { 10 } else { 2 };
    let shared = Arc::new(Shared {
        client: Client::new(&aws),
        queue_url: task.queue_url.clone(),
        fifo: task.fifo,
        work: Work::of(&task),
        slots: Semaphore::new(task.concurrency),
        room: Arc::new(Semaphore::new(ahead * task.concurrency.max(20))),
        stopping: AtomicBool::new(false),
    });
    let (stop, stopped) = watch::channel(false);
    let (done, to_delete) = mpsc::unbounded_channel();
    let receivers = (1 + task.concurrency / 4).clamp(4, 16);
    let mut tasks = JoinSet::new();
    for _ in 0..receivers {
        tasks.spawn(receive(Arc::clone(&shared), done.clone(), stopped.clone()));
    }
    drop(done);
    tasks.spawn(delete(Arc::clone(&shared), to_delete));
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    terminate.recv().await;
    shared.stopping.store(true, Ordering::Relaxed);
    stop.send(true)?;
    while tasks.join_next().await.is_some() {}
    shared.work.answer("raw SDK loop", aws_sdk_sqs::meta::PKG_VERSION);
    Ok(())
}

async fn receive(shared: Arc<Shared>, done: mpsc::UnboundedSender<String>, mut stopped: watch::Receiver<bool>) {
    let mut handlers = JoinSet::new();
    while !*stopped.borrow() {
        let Ok(mut room) = Arc::clone(&shared.room).acquire_many_owned(10).await else {
            break;
        };
        let call = shared
            .client
            .receive_message()
            .queue_url(&shared.queue_url)
            .max_number_of_messages(10)
            .wait_time_seconds(20)
            .set_message_system_attribute_names(shared.fifo.then(|| vec![MessageSystemAttributeName::MessageGroupId]))
            .send();
        let answer = tokio::select! {
            answer = call => answer,
            _ = stopped.changed() => break,
        };
        let messages = match answer {
            Ok(answer) => answer.messages.unwrap_or_default(),
            Err(error) => {
                eprintln!("a receive failed: {error:?}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        while handlers.try_join_next().is_some() {}
        for messages in in_order(&shared, messages) {
            let Some(room) = room.split(messages.len()) else {
                continue;
            };
            handlers.spawn(handle(Arc::clone(&shared), messages, room, done.clone()));
        }
    }
    while handlers.join_next().await.is_some() {}
}

/// What runs one after the other: each by itself, or the messages of a group.
fn in_order(shared: &Shared, messages: Vec<Message>) -> Vec<Vec<Message>> {
    if !shared.fifo {
        return messages.into_iter().map(|message| vec![message]).collect();
    }
    let mut groups: BTreeMap<String, Vec<Message>> = BTreeMap::new();
    for message in messages {
        let group = message
            .attributes()
            .and_then(|attributes| attributes.get(&MessageSystemAttributeName::MessageGroupId))
            .cloned()
            .unwrap_or_default();
        groups.entry(group).or_default().push(message);
    }
    groups.into_values().collect()
}

async fn handle(
    shared: Arc<Shared>,
    messages: Vec<Message>,
    mut room: OwnedSemaphorePermit,
    done: mpsc::UnboundedSender<String>,
) {
    for message in messages {
        let Ok(slot) = shared.slots.acquire().await else { return };
        if shared.stopping.load(Ordering::Relaxed) {
            return;
        }
        let body: Body = match serde_json::from_str(message.body().unwrap_or_default()) {
            Ok(body) => body,
            Err(error) => {
                eprintln!("a body cannot be read: {error}");
                continue;
            }
        };
        shared
            .work
            .handle(message.message_id().unwrap_or_default(), &body)
            .await;
        drop(slot);
        drop(room.split(1));
        if let Some(handle) = message.receipt_handle {
            let _ = done.send(handle);
        }
    }
}

/// Gathers deletes; ends when nothing can come any more and all are answered.
async fn delete(shared: Arc<Shared>, mut receipts: mpsc::UnboundedReceiver<String>) {
    let mut calls = JoinSet::new();
    let mut batch = Vec::with_capacity(10);
    while let Some(first) = receipts.recv().await {
        batch.push(first);
        let until = Instant::now() + LINGER;
        while batch.len() < 10 {
            match timeout_at(until, receipts.recv()).await {
                Ok(Some(receipt)) => batch.push(receipt),
                _ => break,
            }
        }
        while calls.len() >= DELETES_IN_FLIGHT {
            calls.join_next().await;
        }
        while calls.try_join_next().is_some() {}
        calls.spawn(delete_batch(Arc::clone(&shared), std::mem::take(&mut batch)));
    }
    while calls.join_next().await.is_some() {}
}

async fn delete_batch(shared: Arc<Shared>, receipts: Vec<String>) {
    let entries = receipts
        .into_iter()
        .enumerate()
        .filter_map(|(id, receipt)| {
            DeleteMessageBatchRequestEntry::builder()
                .id(id.to_string())
                .receipt_handle(receipt)
                .build()
                .ok()
        })
        .collect();
    let call = shared
        .client
        .delete_message_batch()
        .queue_url(&shared.queue_url)
        .set_entries(Some(entries));
    match call.send().await {
        Ok(answer) if !answer.failed().is_empty() => eprintln!("deletes failed: {:?}", answer.failed()),
        Ok(_) => {}
        Err(error) => eprintln!("a batch of deletes failed: {error:?}"),
    }
}
