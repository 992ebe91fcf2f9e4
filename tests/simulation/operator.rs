//! Operators: they replay dead letters while workers work, die in the middle of it and go on by their journal, and meddle with
//! records and queues by hand.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use redrive::MemoryQueue;
use redrive::clock::Random;
use redrive::dlq::{DeadLetter, Intent, Journal, Replay};
use redrive::inbox::{Inbox, Status};
use redrive::message::{Delivery, Outgoing, Receipt};
use redrive::queue::{EntryResults, Queue, QueueAttributes, QueueError, Receive};

use crate::checker::Who;
use crate::gate::Gate;
use crate::plan::{OperatorPlan, ReplayFilter};
use crate::scene::{NUMBER, Scene};
use crate::watch::Line;

/// How long what a killed replay held stays invisible.
const HOLD: Duration = Duration::from_secs(20);

/// Jobs of one operator at most, and what is between them.
const JOBS: u64 = 4;
const BETWEEN_JOBS: Duration = Duration::from_secs(25);

/// How often SQS tries to move a letter back: for ten minutes, which is longer than any trouble.
const MOST_MOVES: u32 = 6_000;

/// What a replay keeps outside its process, as the tool keeps it in a file.
#[derive(Default)]
struct Notebook(Mutex<Notes>);

#[derive(Default)]
struct Notes {
    sent: BTreeSet<String>,
    intents: BTreeMap<String, Intent>,
    works: BTreeSet<String>,
    resumed: bool,
}

impl Notebook {
    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Journal for Notebook {
    fn was_sent(&self, message_id: &str) -> bool {
        self.notes().sent.contains(message_id)
    }

    fn record(&self, message_ids: &[String]) -> std::io::Result<()> {
        let mut notes = self.notes();
        for id in message_ids {
            if let Some(intent) = notes.intents.get(id).cloned() {
                notes.works.insert(intent.work);
            }
            notes.sent.insert(id.clone());
        }
        Ok(())
    }

    fn intend(&self, about_to_send: &[Intent]) -> std::io::Result<()> {
        let mut notes = self.notes();
        for intent in about_to_send {
            notes.intents.insert(intent.message_id.clone(), intent.clone());
        }
        Ok(())
    }

    fn intended(&self, message_id: &str) -> Option<Intent> {
        let notes = self.notes();
        let known = notes.sent.contains(message_id);
        notes.intents.get(message_id).filter(|_| !known).cloned()
    }

    fn is_resumed(&self) -> bool {
        self.notes().resumed
    }

    fn knows_work(&self, work: &str) -> bool {
        self.notes().works.contains(work)
    }
}

/// A queue as an operator's tool sees it: what it takes from, or what it sends to.
struct Desk {
    line: Line,
    queue: MemoryQueue,
}

impl Queue for Desk {
    fn attributes(&self) -> &QueueAttributes {
        self.queue.attributes()
    }

    fn dead_letter_queue(&self) -> Option<Arc<dyn Queue>> {
        None
    }

    fn describe(&self) -> BoxFuture<'_, Result<QueueAttributes, QueueError>> {
        let queue = self.queue.clone();
        Box::pin(self.line.carry(async move { queue.describe().await }))
    }

    fn receive(&self, request: Receive) -> BoxFuture<'_, Result<Vec<Delivery>, QueueError>> {
        let queue = self.queue.clone();
        Box::pin(self.line.carry(async move { queue.receive(request).await }))
    }

    fn delete(&self, receipts: Vec<Receipt>) -> BoxFuture<'_, Result<EntryResults<()>, QueueError>> {
        let (queue, line) = (self.queue.clone(), self.line.clone());
        Box::pin(self.line.carry(async move {
            let answer = queue.delete(receipts).await;
            line.scene.judge().look_for_dead_letters(&line.who);
            answer
        }))
    }

    fn change_visibility(
        &self,
        changes: Vec<(Receipt, Duration)>,
    ) -> BoxFuture<'_, Result<EntryResults<()>, QueueError>> {
        let queue = self.queue.clone();
        Box::pin(self.line.carry(async move { queue.change_visibility(changes).await }))
    }

    fn send(&self, messages: Vec<Outgoing>) -> BoxFuture<'_, Result<EntryResults<String>, QueueError>> {
        let (queue, line) = (self.queue.clone(), self.line.clone());
        Box::pin(self.line.carry(async move {
            let answer = queue.send(messages).await;
            line.scene.take_stock();
            answer
        }))
    }
}

/// Replays as planned, and again after a while for as long as there is trouble: what died again is another job's.
pub(crate) async fn operate(scene: Arc<Scene>, number: usize) {
    let plan = scene.plan.operators[number].clone();
    for job in 0..JOBS {
        let wait = if job == 0 {
            scene.start + plan.at
        } else {
            scene.clock.now() + BETWEEN_JOBS
        };
        tokio::select! {
            biased;
            () = tokio::time::sleep_until(wait) => {}
            () = scene.closing() => return,
        }
        if job > 0 && scene.is_calm() {
            return;
        }
        let _at_work = AtWork::begin(&scene);
        run_job(&scene, &plan, number, job).await;
    }
}

/// A job, by two processes where the first dies.
async fn run_job(scene: &Arc<Scene>, plan: &OperatorPlan, number: usize, job: u64) {
    let notebook = Arc::new(Notebook::default());
    let mut crash = plan.crash;
    for life in 0..2u64 {
        let who: Who = format!("op{number}.{job}.{life}").into();
        let line = Line {
            scene: Arc::clone(scene),
            who: Arc::clone(&who),
            process: Arc::new(Gate::default()),
        };
        scene
            .judge()
            .note(&who, format!("replays {:?} at {:?}", plan.filter, plan.rate));
        let random = Random::seeded(scene.plan.seed ^ ((number as u64) << 40) ^ (job << 48) ^ (life << 56));
        let mut replay = replay(&line, plan, format!("job {number}.{job}"), Arc::clone(&notebook)).random(random);
        if life > 0 {
            replay = replay.wait_for_hidden(HOLD * 2);
        }
        let ended = tokio::select! {
            biased;
            ended = replay.run() => Some(ended),
            () = tokio::time::sleep(crash.unwrap_or_default()), if crash.is_some() => None,
        };
        match ended {
            Some(Ok(report)) => {
                let text = format!(
                    "replayed {}, resumed {}, completed {}, came back {}, failed {}",
                    report.replayed, report.resumed, report.completed, report.came_back, report.failed
                );
                scene.judge().note(&who, text);
                return;
            }
            Some(Err(error)) => scene.judge().note(&who, format!("stops: {error}")),
            None => {
                scene.judge().note(&who, "crashes");
                scene.crashed();
            }
        }
        notebook.notes().resumed = true;
        tokio::time::sleep(crash.take().unwrap_or(Duration::from_secs(5))).await;
    }
}

fn replay(line: &Line, plan: &OperatorPlan, job: String, notebook: Arc<Notebook>) -> Replay {
    let scene = &line.scene;
    let desk = |queue: &MemoryQueue| Desk {
        line: line.clone(),
        queue: queue.clone(),
    };
    let filter = plan.filter;
    let mut replay = Replay::new(desk(&scene.dead), desk(&scene.queue), job)
        .filter(move |letter: &DeadLetter| match filter {
            ReplayFilter::All => true,
            ReplayFilter::Exhausted => letter.reason() == "attempts_exhausted",
            ReplayFilter::Rejected => letter.reason() == "rejected",
            ReplayFilter::Half => letter
                .message()
                .attribute(NUMBER)
                .and_then(|number| number.parse::<u64>().ok())
                .is_some_and(|number| number % 2 == 0),
        })
        .hold(HOLD)
        .journal(notebook)
        .clock(scene.clock.clone());
    if let Some(rate) = plan.rate {
        replay = replay.rate(rate).expect("a rate");
    }
    if let Some(limit) = plan.limit {
        replay = replay.limit(limit);
    }
    if plan.asks_inbox {
        let inbox: Arc<dyn Inbox> = Arc::new(scene.inbox.clone());
        replay = replay.inbox(inbox, scene.queue.attributes().name.clone());
    }
    replay
}

/// An operator at work: until it is done, not all is quiet.
struct AtWork(Arc<Scene>);

impl AtWork {
    fn begin(scene: &Arc<Scene>) -> Self {
        scene.judge().operators += 1;
        Self(Arc::clone(scene))
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        self.0.judge().operators -= 1;
    }
}

/// Somebody releases a claim by hand: one whose lease has run out, or with `live` any. As [`DynamoInbox::free`] writes it.
///
/// [`DynamoInbox::free`]: redrive::inbox::DynamoInbox::free
pub(crate) fn free(scene: &Scene, drawn: u64, live: bool) {
    let now = scene.clock.epoch_ms();
    let mut claimed = scene.inbox.records();
    claimed.retain(|record| record.status == Status::Processing && (live || record.lease_until <= now));
    let Some(mut record) = one_of(&claimed, drawn) else {
        return;
    };
    let taken = now < record.lease_until;
    let mut judge = scene.judge();
    judge.taken_away(&record);
    record.status = Status::Released;
    record.claim_id = format!("operator-{drawn}");
    record.fencing_token = (record.fencing_token + 1).max(now);
    record.lease_until = record.lease_until.min(now);
    record.started &= !taken;
    judge.note("op", format!("releases {}, live {taken}", record.key.as_str()));
    let key = record.key.clone();
    scene.inbox.insert(record);
    judge.look_at(&key);
}

/// Somebody deletes a record by hand that nobody holds: its key may run again.
pub(crate) fn forget(scene: &Scene, drawn: u64) {
    let now = scene.clock.epoch_ms();
    let mut free = scene.inbox.records();
    free.retain(|record| match record.status {
        Status::Completed | Status::Released => true,
        Status::Rejected => record.dead_letter_sent || record.lease_until <= now,
        _ => record.lease_until <= now,
    });
    let Some(record) = one_of(&free, drawn) else { return };
    let mut judge = scene.judge();
    judge.note("op", format!("forgets {}", record.key.as_str()));
    judge.forgotten(&record);
    scene.inbox.remove(&record.key);
    judge.look_at(&record.key);
}

fn one_of<T: Clone>(all: &[T], drawn: u64) -> Option<T> {
    let number = usize::try_from(drawn).ok()?.checked_rem(all.len())?;
    all.get(number).cloned()
}

/// SQS moves what it has in the dead-letter queue back by itself, as an operator may tell it to: as it is, our envelope too.
pub(crate) async fn move_back(scene: Arc<Scene>, drawn: u64) {
    let _at_work = AtWork::begin(&scene);
    let Ok(deliveries) = scene.dead.receive(Receive::new(10, Duration::ZERO)).await else {
        return;
    };
    for delivery in deliveries {
        let message = delivery.message;
        let mut outgoing = Outgoing::new(message.body.clone());
        outgoing.attributes = message.attributes.clone();
        outgoing.group_id = message.group_id.clone();
        if scene.plan.fifo {
            outgoing.deduplication_id = Some(format!("moved-{}-{drawn}", message.id));
        }
        for tries in 1.. {
            scene.judge().moves_back(Some(&message));
            let sent = scene.queue.send(vec![outgoing.clone()]).await;
            scene.take_stock();
            scene.judge().moves_back(None);
            if matches!(&sent, Ok(answers) if answers.iter().all(Result::is_ok)) {
                break;
            }
            if tries > MOST_MOVES {
                return scene
                    .judge()
                    .broken("end", format!("a letter never moves back: {sent:?}"));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        scene.judge().note("sqs", format!("moves {} back", message.id));
        loop {
            let gone = scene.dead.delete(vec![delivery.receipt.clone()]).await;
            scene.judge().look_for_dead_letters("sqs");
            if gone.is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}
