//! Those who send: through the library's own producer, over a network that takes its time and loses replies.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::{BoxFuture, join_all};
use redrive::clock::Random;
use redrive::message::{Attribute, Delivery, Outgoing, Receipt};
use redrive::producer::{NewMessage, Producer};
use redrive::queue::{EntryResults, Queue, QueueAttributes, QueueError, Receive};

use crate::build::TYPE;
use crate::plan::{MessagePlan, ProducerPlan, UNPLANNED};
use crate::scene::{NUMBER, Scene};

/// The queue as a producer sees it.
struct Outbox {
    scene: Arc<Scene>,
}

impl Queue for Outbox {
    fn attributes(&self) -> &QueueAttributes {
        self.scene.queue.attributes()
    }

    fn dead_letter_queue(&self) -> Option<Arc<dyn Queue>> {
        None
    }

    fn describe(&self) -> BoxFuture<'_, Result<QueueAttributes, QueueError>> {
        self.scene.queue.describe()
    }

    fn receive(&self, request: Receive) -> BoxFuture<'_, Result<Vec<Delivery>, QueueError>> {
        self.scene.queue.receive(request)
    }

    fn delete(&self, receipts: Vec<Receipt>) -> BoxFuture<'_, Result<EntryResults<()>, QueueError>> {
        self.scene.queue.delete(receipts)
    }

    fn change_visibility(
        &self,
        changes: Vec<(Receipt, Duration)>,
    ) -> BoxFuture<'_, Result<EntryResults<()>, QueueError>> {
        self.scene.queue.change_visibility(changes)
    }

    fn send(&self, messages: Vec<Outgoing>) -> BoxFuture<'_, Result<EntryResults<String>, QueueError>> {
        Box::pin(async move {
            let (there, back) = self.scene.trip();
            tokio::time::sleep(there).await;
            let answer = self.scene.queue.send(messages).await;
            self.scene.take_stock();
            tokio::time::sleep(back).await;
            answer
        })
    }
}

/// Sends what is planned for this producer, until all was taken or given up.
pub(crate) async fn produce(scene: Arc<Scene>, slot: usize) {
    let plan = scene.plan.producers[slot].clone();
    let answered = Mutex::new(BTreeSet::new());
    let mut crashes = plan.crashes.clone();
    crashes.sort_unstable();
    let mut crashes = crashes.into_iter();
    for life in 0.. {
        let producer = Producer::builder(Outbox {
            scene: Arc::clone(&scene),
        })
        .linger(plan.linger)
        .attempts(plan.attempts)
        .give_up_after(plan.give_up_after)
        .own_keys(plan.own_keys)
        .clock(scene.clock.clone())
        .random(Random::seeded(
            scene.plan.seed ^ (u64::from(plan.name) << 32) ^ (life << 48),
        ))
        .build()
        .expect("a producer");
        let left: Vec<&MessagePlan> = {
            let answered = answered.lock().unwrap_or_else(PoisonError::into_inner);
            let mine = |message: &&MessagePlan| message.producer == plan.name && !answered.contains(&message.number);
            scene.plan.messages.iter().filter(mine).collect()
        };
        let all = join_all(left.into_iter().map(|message| async {
            send(&scene, &plan, &producer, message).await;
            let mut answered = answered.lock().unwrap_or_else(PoisonError::into_inner);
            answered.insert(message.number);
        }));
        let crash = crashes.next().map(|at| scene.start + at);
        tokio::select! {
            biased;
            _ = all => break,
            () = tokio::time::sleep_until(crash.unwrap_or(scene.start)), if crash.is_some() => {
                scene.judge().note(&plan.name.to_string(), "crashes and starts again");
                scene.crashed();
            }
        }
    }
    scene.producers_done.fetch_add(1, Ordering::Relaxed);
}

async fn send(scene: &Scene, plan: &ProducerPlan, producer: &Producer, message: &MessagePlan) {
    tokio::time::sleep_until(scene.start + message.at).await;
    let who = plan.name.to_string();
    loop {
        match producer.send(new_message(scene, message)).await {
            Ok(id) => return taken(scene, &who, message.number, &id),
            Err(error) => scene
                .judge()
                .note(&who, format!("planned {} is not sent: {error}", message.number)),
        }
        // In the end everybody would try again.
        if !plan.persists && !scene.is_calm() {
            return;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// The producer says that a message was taken, and under which id.
fn taken(scene: &Scene, who: &str, number: usize, id: &str) {
    let mut judge = scene.judge();
    match judge.by_id.get(id).map(|&known| judge.messages[known].planned) {
        Some(planned) if planned == number => judge.note(who, format!("planned {number} is sent")),
        Some(planned) => judge.broken(
            "inv01",
            format!("the producer names the id of planned {planned} for {number}"),
        ),
        None => judge.broken(
            "inv01",
            format!("the producer says that planned {number} was sent, and the queue never held it"),
        ),
    }
}

fn new_message(scene: &Scene, message: &MessagePlan) -> NewMessage {
    let mut new = NewMessage::text(format!("payload {}", message.payload))
        .attribute(NUMBER, Attribute::string(message.number.to_string()))
        .attribute(TYPE, Attribute::string((message.number % 3).to_string()));
    if let Some(key) = message.key {
        new = new.key(format!("k{key}"));
    }
    if scene.plan.fifo {
        let id = format!("d{}", message.number);
        new = new.group(format!("g{}", message.group)).deduplication_id(id);
    }
    match message.delay {
        Some(delay) => new.delay(delay),
        None => new,
    }
}

/// Sends some messages that anybody can do.
pub(crate) async fn pulse(scene: &Scene, size: usize) {
    for _ in 0..size {
        let number = scene.judge().messages.len();
        let mut outgoing = Outgoing::new(format!("payload {}", UNPLANNED + number))
            .attribute(NUMBER, Attribute::string((UNPLANNED + number).to_string()));
        if scene.plan.fifo {
            let group = 100 + number % 8;
            outgoing = outgoing
                .group(format!("g{group}"))
                .deduplication_id(format!("p{number}"));
        }
        while scene.queue.send(vec![outgoing.clone()]).await.is_err() {
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        scene.take_stock();
    }
}
