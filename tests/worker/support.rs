//! A queue with its dead-letter queue, an inbox, and workers of them that can be steered, watched and killed.

use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use redrive::clock::{Clock, Instant, Random};
use redrive::dlq::envelope::Envelope;
use redrive::faults::{FaultPlan, Operation, Rates};
use redrive::inbox::Record;
use redrive::key::{Key, RecordKey};
use redrive::message::{Attribute, Delivery, KEY_ATTRIBUTE, Outgoing, Receipt};
use redrive::queue::memory::MemoryQueueBuilder;
use redrive::queue::{EntryResults, Queue, QueueAttributes, QueueError, Receive};
use redrive::worker::{Builder, Fate, Status, WorkerHandle};
use redrive::{Context, Error, Failure, MemoryInbox, MemoryQueue, Worker};
use tokio::task::JoinSet;

/// How often a condition that is awaited is looked at.
const LOOK: Duration = Duration::from_millis(10);

/// How long a condition is awaited, in virtual time.
const PATIENCE: Duration = Duration::from_secs(2 * 60 * 60);

pub(crate) const DAY: Duration = Duration::from_secs(24 * 60 * 60);

pub(crate) fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

pub(crate) fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

pub(crate) async fn sleep(time: Duration) {
    tokio::time::sleep(time).await;
}

/// Visibility and lease are 30 s, the redrive policy moves after 15 receives.
pub(crate) struct Rig {
    pub(crate) clock: Clock,
    pub(crate) queue: MemoryQueue,
    pub(crate) dead: MemoryQueue,
    pub(crate) inbox: MemoryInbox,
    pub(crate) log: Log,
    pub(crate) fates: Fates,
    name: String,
}

impl Rig {
    pub(crate) fn new() -> Self {
        Self::named("orders", |queue| queue)
    }

    pub(crate) fn fifo() -> Self {
        Self::named("orders.fifo", |queue| queue)
    }

    pub(crate) fn with(set: impl FnOnce(MemoryQueueBuilder) -> MemoryQueueBuilder) -> Self {
        Self::named("orders", set)
    }

    pub(crate) fn named(name: &str, set: impl FnOnce(MemoryQueueBuilder) -> MemoryQueueBuilder) -> Self {
        let clock = Clock::starting_at(1_750_000_000_000);
        let dead_name = name
            .strip_suffix(".fifo")
            .map_or_else(|| format!("{name}-dlq"), |stem| format!("{stem}-dlq.fifo"));
        let dead = MemoryQueue::builder(dead_name)
            .retention(14 * DAY)
            .clock(clock.clone())
            .random(Random::seeded(11))
            .faults(FaultPlan::seeded(12))
            .build()
            .unwrap();
        let queue = MemoryQueue::builder(name)
            .dead_letter(&dead, 50)
            .clock(clock.clone())
            .random(Random::seeded(13))
            .faults(FaultPlan::seeded(14));
        let queue = set(queue).build().unwrap();
        let inbox = MemoryInbox::builder()
            .clock(clock.clone())
            .faults(FaultPlan::seeded(15))
            .build();
        Self {
            clock,
            queue,
            dead,
            inbox,
            log: Log::default(),
            fates: Fates::default(),
            name: name.to_owned(),
        }
    }

    /// A worker with the inbox; at most one long poll of a second, so that drains are quick.
    pub(crate) fn worker(&self) -> Builder {
        self.bare().inbox(self.inbox.clone())
    }

    /// A worker without an inbox.
    pub(crate) fn bare(&self) -> Builder {
        self.on(self.queue.clone())
    }

    /// A worker without an inbox, on the rig's queue behind something.
    pub(crate) fn on(&self, queue: impl Queue) -> Builder {
        let fates = self.fates.clone();
        Worker::builder(queue)
            .clock(self.clock.clone())
            .random(Random::seeded(16))
            .long_poll(secs(1))
            .observe(move |seen| fates.add(seen.message.body.clone(), seen.fate.clone(), seen.attempts))
    }

    /// Sends a message with this key and body; on a FIFO queue in the group `g`.
    pub(crate) async fn send(&self, key: &str, body: &str) -> String {
        self.put(keyed(key, body)).await
    }

    pub(crate) async fn send_in(&self, group: &str, key: &str, body: &str) -> String {
        self.put(keyed(key, body).group(group)).await
    }

    pub(crate) async fn put(&self, mut message: Outgoing) -> String {
        if self.queue.attributes().fifo {
            message = match message.group_id {
                Some(_) => message,
                None => message.group("g"),
            };
            if message.deduplication_id.is_none() {
                let id = format!("{}-{}", message.body, self.clock.epoch_ms());
                message = message.deduplication_id(id);
            }
        }
        self.queue.send(vec![message]).await.unwrap().pop().unwrap().unwrap()
    }

    /// Sends `n` messages `0`, `1`, … with as many keys.
    pub(crate) async fn send_many(&self, n: usize) {
        for at in 0..n {
            self.send(&format!("k{at}"), &at.to_string()).await;
        }
    }

    pub(crate) fn record(&self, key: &str) -> Option<Record> {
        self.inbox.record(&RecordKey::new(&self.name, &Key::new(key)))
    }

    /// The envelopes of the dead letters, in the order they came.
    pub(crate) fn letters(&self) -> Vec<Envelope> {
        let letters = self.dead.messages();
        letters.iter().map(|letter| Envelope::of(letter).unwrap()).collect()
    }

    pub(crate) fn reasons(&self) -> Vec<String> {
        self.letters().into_iter().map(|letter| letter.reason).collect()
    }

    /// A handler that notes its runs in the log and goes on with `then`.
    pub(crate) fn runs<F, R, T>(
        &self,
        then: F,
    ) -> impl Fn(Context) -> BoxFuture<'static, Result<T, Failure>> + Send + Sync + 'static + use<F, R, T>
    where
        F: Fn(Context) -> R + Send + Sync + 'static,
        R: Future<Output = Result<T, Failure>> + Send + 'static,
        T: 'static,
    {
        let log = self.log.clone();
        move |context| {
            let place = log.enter(&context);
            let run = then(context);
            Box::pin(async move {
                let result = run.await;
                place.end(if result.is_ok() { RunEnd::Ok } else { RunEnd::Failed });
                result
            })
        }
    }

    /// A handler that notes its runs, takes `time` and succeeds.
    pub(crate) fn takes(
        &self,
        time: Duration,
    ) -> impl Fn(Context) -> BoxFuture<'static, Result<(), Failure>> + Send + Sync + 'static + use<> {
        self.runs(move |_| async move {
            sleep(time).await;
            Ok(())
        })
    }

    /// A handler that notes its runs and succeeds at once.
    pub(crate) fn succeeds(
        &self,
    ) -> impl Fn(Context) -> BoxFuture<'static, Result<(), Failure>> + Send + Sync + 'static + use<> {
        self.runs(|_| async { Ok(()) })
    }

    /// A handler that notes its runs and fails at once.
    pub(crate) fn fails(
        &self,
    ) -> impl Fn(Context) -> BoxFuture<'static, Result<(), Failure>> + Send + Sync + 'static + use<> {
        self.runs(|_| async { Err(Failure::retry("no luck")) })
    }

    /// A worker that has done the message `1` of the key `k`, could not record it, and lost its lease. The inbox takes no writes.
    pub(crate) async fn loses_what_is_done_and_unrecorded(&self) -> Running {
        self.send("k", "1").await;
        let faults = self.inbox.faults().clone();
        let handler = self.runs(move |_| {
            faults.set(Operation::Write, Rates::new().before(1.0));
            async { Ok("a receipt") }
        });
        let running = start(self.worker().handler(handler).build().unwrap());
        running
            .until("the lease is lost", |status| status.totals.lost == 1)
            .await;
        running
    }

    /// Waits until the queue holds nothing.
    pub(crate) async fn emptied(&self, running: &Running) {
        running
            .until("the queue is empty", |status| {
                self.queue.is_empty() && status.running + status.waiting + status.ending == 0
            })
            .await;
    }
}

pub(crate) fn keyed(key: &str, body: &str) -> Outgoing {
    Outgoing::new(body).attribute(KEY_ATTRIBUTE, Attribute::string(key))
}

/// A worker that runs.
pub(crate) struct Running {
    tasks: JoinSet<Result<(), Error>>,
    pub(crate) handle: WorkerHandle,
}

pub(crate) fn start(worker: Worker) -> Running {
    let handle = worker.handle();
    let mut tasks = JoinSet::new();
    tasks.spawn(worker.run_until_drained());
    Running { tasks, handle }
}

impl Running {
    pub(crate) fn status(&self) -> Status {
        self.handle.status()
    }

    /// Waits until this holds, and fails the test if it does not within two hours of virtual time.
    pub(crate) async fn until(&self, what: &str, holds: impl Fn(&Status) -> bool) {
        let mut waited = Duration::ZERO;
        while !holds(&self.handle.status()) {
            assert!(waited < PATIENCE, "never came: {what}; {:#?}", self.handle.status());
            sleep(LOOK).await;
            waited += LOOK;
        }
    }

    /// Waits until it ends by itself.
    pub(crate) async fn ended(mut self) -> Result<Status, Error> {
        self.tasks.join_next().await.unwrap().unwrap()?;
        Ok(self.handle.status())
    }

    pub(crate) async fn drain(self) -> Status {
        self.handle.drain();
        self.ended().await.unwrap()
    }

    /// Ends it as a crash of its process would: nothing more is done, by nobody.
    pub(crate) async fn crash(mut self) {
        self.tasks.shutdown().await;
    }
}

/// How a run in the [`Log`] ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RunEnd {
    Open,
    Ok,
    Failed,
    /// Dropped before it was done: cancelled, timed out, panicked or killed.
    Dropped,
}

#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(crate) key: String,
    pub(crate) body: String,
    pub(crate) group: Option<String>,
    pub(crate) attempt: u32,
    pub(crate) token: Option<u64>,
    pub(crate) began: Instant,
    pub(crate) end: RunEnd,
    pub(crate) ended: Option<Instant>,
}

/// All runs of a handler, in the order they began.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Runs>>);

#[derive(Default)]
struct Runs {
    runs: Vec<Run>,
    running: usize,
    peak: usize,
}

pub(crate) struct Place {
    log: Log,
    at: usize,
    end: RunEnd,
}

impl Log {
    pub(crate) fn enter(&self, context: &Context) -> Place {
        let mut inner = self.0.lock().unwrap();
        inner.running += 1;
        inner.peak = inner.peak.max(inner.running);
        inner.runs.push(Run {
            key: context.key().as_str().to_owned(),
            body: context.message().body.clone(),
            group: context.message().group_id.clone(),
            attempt: context.attempt(),
            token: context.claim().map(|claim| claim.fencing_token),
            began: now(),
            end: RunEnd::Open,
            ended: None,
        });
        Place {
            log: self.clone(),
            at: inner.runs.len() - 1,
            end: RunEnd::Dropped,
        }
    }

    pub(crate) fn runs(&self) -> Vec<Run> {
        self.0.lock().unwrap().runs.clone()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.lock().unwrap().runs.len()
    }

    pub(crate) fn running(&self) -> usize {
        self.0.lock().unwrap().running
    }

    /// The most runs at once.
    pub(crate) fn peak(&self) -> usize {
        self.0.lock().unwrap().peak
    }

    pub(crate) fn bodies(&self) -> Vec<String> {
        self.runs().into_iter().map(|run| run.body).collect()
    }

    pub(crate) fn of(&self, key: &str) -> Vec<Run> {
        self.runs().into_iter().filter(|run| run.key == key).collect()
    }

    pub(crate) fn count(&self, key: &str) -> usize {
        self.of(key).len()
    }

    pub(crate) fn done(&self) -> usize {
        self.runs().iter().filter(|run| run.end == RunEnd::Ok).count()
    }
}

impl Place {
    pub(crate) fn end(mut self, end: RunEnd) {
        self.end = end;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut inner = self.log.0.lock().unwrap();
        inner.running -= 1;
        let run = &mut inner.runs[self.at];
        run.end = self.end;
        run.ended = Some(now());
    }
}

/// What the observer was told: body, fate and attempts before.
#[derive(Clone, Default)]
pub(crate) struct Fates(Arc<Mutex<Vec<(String, Fate, u32)>>>);

impl Fates {
    fn add(&self, body: String, fate: Fate, attempts: u32) {
        self.0.lock().unwrap().push((body, fate, attempts));
    }

    pub(crate) fn all(&self) -> Vec<(String, Fate, u32)> {
        self.0.lock().unwrap().clone()
    }

    pub(crate) fn of(&self, body: &str) -> Vec<Fate> {
        let all = self.all().into_iter();
        all.filter(|(of, _, _)| of == body).map(|(_, fate, _)| fate).collect()
    }
}

pub(crate) fn now() -> Instant {
    Clock::system().now()
}

/// Runs a test under virtual time and fails it after 20 s of real time: a worker that spins lets no virtual time pass, so
/// that no virtual limit would ever end it.
pub(crate) fn never_spins<F, R>(test: F)
where
    F: FnOnce() -> R + Send + 'static,
    R: Future<Output = ()>,
{
    let (done, ended) = std::sync::mpsc::channel();
    let body = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(test());
        done.send(()).unwrap();
    });
    match ended.recv_timeout(secs(20)) {
        Err(std::sync::mpsc::RecvTimeoutError::Timeout) => panic!("the worker spins: no virtual time passes"),
        _ => body.join().unwrap(),
    }
}

/// A call to a [`Spy`], from its beginning to its end.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) operation: Operation,
    pub(crate) receipts: Vec<Receipt>,
    pub(crate) began: Instant,
    pub(crate) ended: Option<Instant>,
    pub(crate) order: usize,
    /// How many calls had begun when it ended.
    pub(crate) ended_order: usize,
}

/// A queue that notes what is asked of it.
#[derive(Clone)]
pub(crate) struct Spy {
    inner: MemoryQueue,
    calls: Arc<Mutex<Vec<Call>>>,
}

impl Spy {
    pub(crate) fn on(queue: &MemoryQueue) -> Self {
        Self {
            inner: queue.clone(),
            calls: Arc::default(),
        }
    }

    pub(crate) fn calls(&self, operation: Operation) -> Vec<Call> {
        let calls = self.calls.lock().unwrap();
        calls
            .iter()
            .filter(|call| call.operation == operation)
            .cloned()
            .collect()
    }

    /// The most calls of this operation under way at once.
    pub(crate) fn at_once(&self, operation: Operation) -> usize {
        let calls = self.calls(operation);
        let under_way = |at: Instant| {
            let live = |call: &&Call| call.began <= at && call.ended.is_none_or(|ended| ended > at);
            calls.iter().filter(live).count()
        };
        calls.iter().map(|call| under_way(call.began)).max().unwrap_or(0)
    }

    fn begin(&self, operation: Operation, receipts: Vec<Receipt>) -> usize {
        let mut calls = self.calls.lock().unwrap();
        let order = calls.len();
        calls.push(Call {
            operation,
            receipts,
            began: now(),
            ended: None,
            order,
            ended_order: usize::MAX,
        });
        order
    }

    fn end(&self, order: usize) {
        let mut calls = self.calls.lock().unwrap();
        calls[order].ended = Some(now());
        calls[order].ended_order = calls.len();
    }
}

impl Queue for Spy {
    fn attributes(&self) -> &QueueAttributes {
        self.inner.attributes()
    }

    fn dead_letter_queue(&self) -> Option<Arc<dyn Queue>> {
        self.inner.dead_letter_queue()
    }

    fn describe(&self) -> BoxFuture<'_, Result<QueueAttributes, QueueError>> {
        self.inner.describe()
    }

    fn receive(&self, request: Receive) -> BoxFuture<'_, Result<Vec<Delivery>, QueueError>> {
        Box::pin(async move {
            let own = self.inner.attributes().visibility_timeout;
            assert_eq!(request.visibility, Some(own), "what heartbeats go by is asked for");
            let call = self.begin(Operation::Receive, Vec::new());
            let result = self.inner.receive(request).await;
            self.end(call);
            result
        })
    }

    fn delete(&self, receipts: Vec<Receipt>) -> BoxFuture<'_, Result<EntryResults<()>, QueueError>> {
        Box::pin(async move {
            let call = self.begin(Operation::Delete, receipts.clone());
            let result = self.inner.delete(receipts).await;
            self.end(call);
            result
        })
    }

    fn change_visibility(
        &self,
        changes: Vec<(Receipt, Duration)>,
    ) -> BoxFuture<'_, Result<EntryResults<()>, QueueError>> {
        Box::pin(async move {
            let receipts = changes.iter().map(|(receipt, _)| receipt.clone()).collect();
            let call = self.begin(Operation::ChangeVisibility, receipts);
            let result = self.inner.change_visibility(changes).await;
            self.end(call);
            result
        })
    }

    fn send(&self, messages: Vec<Outgoing>) -> BoxFuture<'_, Result<EntryResults<String>, QueueError>> {
        self.inner.send(messages)
    }
}
