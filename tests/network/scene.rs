//! A worker of a test's own behind two proxies, its messages, and what its handlers did.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_config::SdkConfig;
use redrive::clock::{Clock, Random};
use redrive::dlq::{ENVELOPE_ATTRIBUTE, Envelope};
use redrive::extract::{Checkpoint, FencingToken, IdempotencyKey, Json, State};
use redrive::flow::{Backoff, BreakerConfig};
use redrive::inbox::Inbox as _;
use redrive::key::{Key, RecordKey};
use redrive::message::{Attribute, KEY_ATTRIBUTE, Outgoing};
use redrive::queue::{Queue as _, QueueError, Receive};
use redrive::worker::{Builder, Status, WorkerHandle};
use redrive::{DynamoInbox, Error, Failure, SqsQueue, Worker};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use crate::aws::config;
use crate::aws_lab::{Lab, Queues, Setup};
use crate::fault_proxy::FaultProxy;

/// The table of these tests; each has a consumer of its own, by its queue's name.
pub(crate) const TABLE: &str = "redrive-network-tests";

/// How long a case may take to come to its end once the network is well.
pub(crate) const PATIENCE: Duration = Duration::from_secs(150);

/// Within this a draining worker is to be gone, whatever the network does.
pub(crate) const DRAIN_DEADLINE: Duration = Duration::from_secs(4);

/// How long a worker's own breaker stays open: handlers fail here without anything being down.
const BREAKER_OPEN: Duration = Duration::from_millis(500);

/// How long a call of the queue may take; an attempt of it gets half of that.
const CALL_TIMEOUT: Duration = Duration::from_secs(4);

/// What a busy machine may add to a deadline.
const SLACK: Duration = Duration::from_secs(15);

/// What a message asks of its handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Job {
    Plain,
    /// Keeps a checkpoint, and takes longer than a lease lasts without a heartbeat.
    Slow,
    /// Fails twice.
    Flaky,
    Reject,
}

/// What handlers did, and to whom: an effect counts once it was made, at the end of a run.
#[derive(Clone, Default)]
pub(crate) struct Ledger(Arc<Mutex<BTreeMap<String, Page>>>);

#[derive(Clone, Debug, Default)]
struct Page {
    runs: u32,
    running: bool,
    last_fence: u64,
    effects: u32,
    /// What must not be.
    complaints: Vec<String>,
}

/// Ends a run, however it ends.
struct Run {
    ledger: Ledger,
    key: String,
}

impl Drop for Run {
    fn drop(&mut self) {
        self.ledger.page(&self.key, |page| page.running = false);
    }
}

impl Ledger {
    fn page<R>(&self, key: &str, f: impl FnOnce(&mut Page) -> R) -> R {
        f(self.0.lock().unwrap().entry(key.to_owned()).or_default())
    }

    fn begin(&self, key: &str, fence: u64) -> (Run, u32) {
        let number = self.page(key, |page| {
            page.runs += 1;
            if page.running {
                page.complaints.push(format!("{key} ran twice at once"));
            }
            // A run that an open breaker did not count is repeated under its claim.
            if fence < page.last_fence {
                page.complaints
                    .push(format!("{key} ran under fence {fence} after {}", page.last_fence));
            }
            page.running = true;
            page.last_fence = fence;
            page.runs
        });
        let run = Run {
            ledger: self.clone(),
            key: key.to_owned(),
        };
        (run, number)
    }

    /// Whether it ever ran.
    pub(crate) fn has_begun(&self, key: &str) -> bool {
        self.page(key, |page| page.runs > 0)
    }

    fn effects(&self, key: &str) -> u32 {
        self.page(key, |page| page.effects)
    }

    fn complaints(&self) -> Vec<String> {
        self.0
            .lock()
            .unwrap()
            .values()
            .flat_map(|page| page.complaints.clone())
            .collect()
    }
}

async fn work(
    State(ledger): State<Ledger>,
    key: IdempotencyKey,
    FencingToken(fence): FencingToken,
    checkpoint: Checkpoint,
    Json(job): Json<Job>,
) -> Result<String, Failure> {
    let (_run, number) = ledger.begin(key.as_str(), fence);
    match job {
        Job::Plain => tokio::time::sleep(Duration::from_millis(20)).await,
        Job::Slow => {
            if checkpoint.load::<String>().await?.is_none() {
                checkpoint.save("begun").await?;
            }
            tokio::time::sleep(Duration::from_millis(3_500)).await;
        }
        Job::Flaky if number <= 2 => return Err(Failure::retry("not yet")),
        Job::Flaky => {}
        Job::Reject => return Err(Failure::reject("never")),
    }
    ledger.page(key.as_str(), |page| page.effects += 1);
    Ok(format!("done {key:?}", key = key.as_str()))
}

/// A worker that runs beside the test; dropped, it ends at once.
pub(crate) struct Running {
    pub(crate) handle: WorkerHandle,
    tasks: JoinSet<Result<(), Error>>,
}

impl Running {
    pub(crate) fn start(worker: Worker) -> Self {
        let handle = worker.handle();
        let mut tasks = JoinSet::new();
        tasks.spawn(worker.run_until_drained());
        Self { handle, tasks }
    }

    /// What is wrong with how it drains.
    pub(crate) async fn drain(mut self, deadline: Duration) -> Result<(), String> {
        let clock = Clock::system();
        let began = clock.now();
        self.handle.drain();
        let ended = tokio::time::timeout(PATIENCE, self.tasks.join_next()).await;
        let took = clock.now().saturating_duration_since(began);
        match ended {
            Err(_) => return Err(format!("the drain has not ended after {took:?}")),
            Ok(None) => return Err("the worker was not there".to_owned()),
            Ok(Some(Err(panicked))) => return Err(format!("the worker panicked: {panicked}")),
            Ok(Some(Ok(Err(error)))) => return Err(format!("the worker ended with an error: {error}")),
            Ok(Some(Ok(Ok(())))) => {}
        }
        match took <= deadline + SLACK {
            true => Ok(()),
            false => Err(format!("the drain took {took:?}, and had {deadline:?}")),
        }
    }
}

/// Opens what is there, as often as it takes on a busy machine.
pub(crate) async fn opened<T, E: std::fmt::Display>(mut open: impl AsyncFnMut() -> Result<T, E>) -> T {
    let clock = Clock::system();
    let began = clock.now();
    loop {
        match open().await {
            Ok(opened) => return opened,
            Err(error) => {
                let waited = clock.now().saturating_duration_since(began);
                assert!(waited < PATIENCE, "after {waited:?}: {error}");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

async fn is_empty(queue: &SqsQueue) -> Result<bool, QueueError> {
    let now = queue.describe().await?;
    Ok(now.visible + now.in_flight + now.delayed == 0)
}

/// Queues, an inbox, and proxies before both services.
pub(crate) struct Scene {
    pub(crate) sqs: FaultProxy,
    pub(crate) dynamodb: FaultProxy,
    pub(crate) queues: Queues,
    inbox: DynamoInbox,
    lease: Duration,
    pub(crate) ledger: Ledger,
    /// What was sent, by key.
    sent: Mutex<BTreeMap<String, Job>>,
    /// Of dead letters that were taken out of their queue: whose they are, and why.
    dead: Mutex<Vec<(String, String)>>,
}

impl Scene {
    /// `direct` is the inbox without a proxy.
    pub(crate) async fn open(lab: &Lab, direct: &DynamoInbox, what: &str, seed: u64) -> Self {
        Self::with_lease(lab, direct, what, seed, 4).await
    }

    /// As [`open`](Self::open), with leases and a visibility timeout of so many seconds.
    pub(crate) async fn with_lease(lab: &Lab, direct: &DynamoInbox, what: &str, seed: u64, lease_s: u32) -> Self {
        let setup = Setup {
            visibility_secs: lease_s,
            ..Setup::default()
        };
        let random = Random::seeded(seed);
        Self {
            sqs: FaultProxy::start(&lab.servers.sqs_url, Random::seeded(random.next_u64())).await,
            dynamodb: FaultProxy::start(&lab.servers.dynamodb_url, Random::seeded(random.next_u64())).await,
            queues: lab.queues(what, &setup).await,
            inbox: direct.clone(),
            lease: Duration::from_secs(lease_s.into()),
            ledger: Ledger::default(),
            sent: Mutex::default(),
            dead: Mutex::default(),
        }
    }

    /// Sends these jobs under keys with this prefix, each message `copies` times.
    pub(crate) async fn send(&self, prefix: &str, jobs: &[Job], copies: usize) {
        let mut messages = Vec::new();
        for (number, job) in jobs.iter().enumerate() {
            let key = format!("{prefix}{number}-{job:?}");
            for _ in 0..copies {
                let body = serde_json::to_string(job).unwrap();
                messages.push(Outgoing::new(body).attribute(KEY_ATTRIBUTE, Attribute::string(key.as_str())));
            }
            self.sent.lock().unwrap().insert(key, *job);
        }
        for batch in messages.chunks(10) {
            // Sent twice for want of an answer, a message is its own twin.
            for sent in opened(async || self.queues.source.send(batch.to_vec()).await).await {
                sent.unwrap();
            }
        }
    }

    /// The queue as a client with this configuration has it.
    pub(crate) async fn queue(&self, config: &SdkConfig) -> Result<SqsQueue, QueueError> {
        let client = aws_sdk_sqs::Client::new(config);
        let queue = SqsQueue::builder(client, &self.queues.source.attributes().name);
        queue.call_timeout(CALL_TIMEOUT).connect().await
    }

    /// A worker behind the proxies.
    pub(crate) async fn worker(&self) -> Running {
        self.worker_with(&config(&self.sqs.url()), &config(&self.dynamodb.url()))
            .await
    }

    /// A worker with these configurations.
    pub(crate) async fn worker_with(&self, sqs: &SdkConfig, dynamodb: &SdkConfig) -> Running {
        let queue = opened(async || self.queue(sqs).await).await;
        let inbox = opened(async || DynamoInbox::connect(dynamodb, TABLE).await).await;
        Running::start(self.built(queue, inbox))
    }

    /// A worker without proxies.
    pub(crate) fn direct_worker(&self) -> Running {
        Running::start(self.built(self.queues.source.clone(), self.inbox.clone()))
    }

    pub(crate) fn built(&self, queue: SqsQueue, inbox: DynamoInbox) -> Worker {
        self.builder(queue, inbox).build().unwrap()
    }

    fn builder(&self, queue: SqsQueue, inbox: DynamoInbox) -> Builder<Ledger> {
        Worker::builder(queue)
            .inbox(inbox)
            .long_poll(Duration::from_secs(1))
            .lease(self.lease)
            .in_flight_delay(Duration::from_secs(1))
            .backoff(Backoff::new(Duration::from_millis(100), Duration::from_secs(1)).unwrap())
            .max_attempts(6)
            .drain_deadline(DRAIN_DEADLINE)
            .breaker(BreakerConfig::default().open_for(BREAKER_OPEN, BREAKER_OPEN).unwrap())
            .state(self.ledger.clone())
            .handler(work)
    }

    /// What was sent and has not come to its end, as far as that is known.
    fn open_keys(&self) -> Vec<String> {
        let (sent, dead) = (self.sent.lock().unwrap(), self.dead.lock().unwrap());
        let is_over = |key: &String, job: Job| match job {
            Job::Reject => dead.iter().any(|(dead, _)| dead == key),
            _ => self.ledger.effects(key) > 0,
        };
        let open = sent.iter().filter(|(key, job)| !is_over(key, **job));
        open.map(|(key, _)| key.clone()).collect()
    }

    /// Whether everything that was sent has come to its end, and the queue is empty. The servers are asked as late and as
    /// seldom as may be: many cases share them.
    async fn is_over(&self) -> Result<bool, QueueError> {
        let is_rejected = |key: &String| self.sent.lock().unwrap().get(key) == Some(&Job::Reject);
        if !self.open_keys().iter().all(is_rejected) {
            return Ok(false);
        }
        self.take_dead().await?;
        Ok(self.open_keys().is_empty() && is_empty(&self.queues.source).await?)
    }

    async fn take_dead(&self) -> Result<(), QueueError> {
        while !is_empty(&self.queues.dead).await? {
            let letters = self.queues.dead.receive(Receive::new(10, Duration::ZERO)).await?;
            let receipts = letters.iter().map(|letter| letter.receipt.clone()).collect();
            for letter in &letters {
                let attribute = letter.message.attributes.get(ENVELOPE_ATTRIBUTE);
                let envelope = attribute.and_then(|text| serde_json::from_str::<Envelope>(text.as_str()?).ok());
                let envelope = envelope.unwrap_or_default();
                self.dead.lock().unwrap().push((envelope.key, envelope.reason));
            }
            self.queues.dead.delete(receipts).await?;
        }
        Ok(())
    }

    /// Waits until `holds`; says how the worker is where it does not come to that.
    pub(crate) async fn until(
        &self,
        worker: &Running,
        what: &str,
        mut holds: impl FnMut(&Status) -> bool,
    ) -> Result<(), String> {
        let waiting = async {
            while !holds(&worker.handle.status()) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, waiting).await;
        waited.map_err(|_| format!("waited {PATIENCE:?} in vain: {what}; {:?}", worker.handle.status()))
    }

    /// Waits for the end of everything; says what is missing where it does not come.
    pub(crate) async fn settled(&self, workers: &[Running]) -> Result<(), String> {
        let waiting = async {
            loop {
                if workers.iter().any(|worker| worker.handle.status().ended) {
                    return Err("a worker ended by itself".to_owned());
                }
                // A busy server may be too late with an answer; it is asked again.
                if self.is_over().await.unwrap_or(false) {
                    return Ok(());
                }
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
        };
        match tokio::time::timeout(PATIENCE, waiting).await {
            Ok(ended) => ended,
            Err(_) => {
                let open = self.open_keys();
                let mut stories = Vec::new();
                for key in open.iter().take(5) {
                    let record = RecordKey::new(&self.queues.source.attributes().name, &Key::new(key.as_str()));
                    let record = self.inbox.get(&record).await;
                    stories.push(format!(
                        "{key}: {:?}, {record:?}",
                        self.ledger.page(key, |page| page.clone())
                    ));
                }
                let now = opened(async || self.queues.source.describe().await).await;
                let workers: Vec<_> = workers.iter().map(|worker| worker.handle.status()).collect();
                Err(format!(
                    "not over after {PATIENCE:?}: {} open, such as {stories:?}, the time is {:?}; in the queue {} visible, {} \
                     in flight, {} delayed; {workers:?}",
                    open.len(),
                    self.inbox.time(),
                    now.visible,
                    now.in_flight,
                    now.delayed,
                ))
            }
        }
    }

    /// What is wrong with how everything ended: `most_effects` of a key is how often its effect may have been made.
    pub(crate) async fn verdict(&self, most_effects: u32) -> Result<(), String> {
        self.take_dead().await.map_err(|error| error.to_string())?;
        let mut complaints = self.ledger.complaints();
        let sent = self.sent.lock().unwrap();
        for (key, job) in sent.iter() {
            let effects = self.ledger.effects(key);
            let least = u32::from(*job != Job::Reject);
            if effects < least || effects > most_effects {
                complaints.push(format!("the effect of {key} was made {effects} times"));
            }
        }
        for (key, reason) in self.dead.lock().unwrap().iter() {
            match sent.get(key) {
                Some(Job::Reject) if reason == "rejected" => {}
                _ => complaints.push(format!("{key:?} was dead-lettered: {reason:?}")),
            }
        }
        match complaints.is_empty() {
            true => Ok(()),
            false => Err(complaints.join("; ")),
        }
    }
}
