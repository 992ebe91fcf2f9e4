//! One run: two workers, their services and what befalls them, in virtual time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redrive::clock::{Clock, Instant, Random};
use redrive::faults::{FaultPlan, Operation, Rates};
use redrive::flow::{Backoff, BreakerConfig, RateLimit};
use redrive::handler::batch;
use redrive::key::{Key, RecordKey};
use redrive::message::{Attribute, KEY_ATTRIBUTE, Message, Outgoing};
use redrive::queue::Queue;
use redrive::worker::WorkerHandle;
use redrive::{MemoryInbox, MemoryQueue, Worker};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::bugs::{Bug, BuggyInbox, BuggyQueue, with};
use crate::checker::{Checker, Sent, Violation, Who, label};
use crate::gate::{Gate, Gated};
use crate::handler::{Stage, several, single};
use crate::plan::{Accident, BreakerPlan, HostEvent, Plan, Service, WorkerPlan};
use crate::watch::{Line, WatchedInbox, WatchedQueue};

const EPOCH_MS: u64 = 1_750_000_000_000;

/// How often the producer sends something when the trouble is over, and from when on less often.
const PULSE: Duration = Duration::from_secs(30);
const PULSES_SLOW_DOWN: Duration = Duration::from_secs(600);
/// How many it sends then: enough that what is half open can close.
const PULSE_SIZE: usize = 16;

/// How a run went.
pub(crate) struct Report {
    pub(crate) plan: Plan,
    pub(crate) history: Vec<String>,
    pub(crate) violation: Option<Violation>,
}

/// Where a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Act {
    Trouble,
    Calm,
    Closing,
}

/// What everybody in a run shares.
pub(crate) struct Scene {
    pub(crate) plan: Plan,
    pub(crate) clock: Clock,
    pub(crate) judge: Mutex<Checker>,
    start: Instant,
    queue: MemoryQueue,
    dead: MemoryQueue,
    inbox: MemoryInbox,
    network: Random,
    sends: AtomicU64,
    bug: Bug,
    act: Mutex<Act>,
    /// Wakes hosts in the order they wait in; tokio's watch channel wakes in no certain order.
    next_act: Notify,
}

/// Runs `seed` to its end or to the first invariant that breaks.
pub(crate) fn run(seed: u64, bug: Bug) -> Report {
    let plan = Plan::of_seed(seed);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    let whole = async move {
        let scene = Arc::new(Scene::new(plan, bug));
        scene.play().await;
        let plan = scene.plan.clone();
        // Whatever is left of the workers' tasks is dropped by now, but may hold the scene.
        let mut judge = scene.judge();
        let services = (
            judge.clock.clone(),
            scene.queue.clone(),
            scene.dead.clone(),
            scene.inbox.clone(),
        );
        let (clock, queue, dead, inbox) = services;
        let over = Checker::new(clock, queue, dead, inbox, plan.visibility, plan.max_attempts);
        let (history, violation) = std::mem::replace(&mut *judge, over).into_report();
        Report {
            plan,
            history,
            violation,
        }
    };
    with(bug, || runtime.block_on(whole))
}

impl Scene {
    fn new(plan: Plan, bug: Bug) -> Self {
        let clock = Clock::starting_at(EPOCH_MS);
        let random = |salt: u64| Random::seeded(plan.seed.wrapping_mul(31).wrapping_add(salt));
        let suffix = if plan.fifo { ".fifo" } else { "" };
        let dead = MemoryQueue::builder(format!("orders-dlq{suffix}"))
            .clock(clock.clone())
            .random(random(1))
            .faults(FaultPlan::with_random(random(2)))
            .build()
            .expect("a dead-letter queue");
        let queue = MemoryQueue::builder(format!("orders{suffix}"))
            .visibility_timeout(plan.visibility)
            .dead_letter(&dead, 1_000)
            .reorder(plan.reorder)
            .short_receives(plan.short_receives)
            .clock(clock.clone())
            .random(random(3))
            .faults(FaultPlan::with_random(random(4)))
            .build()
            .expect("a queue");
        let inbox = MemoryInbox::builder()
            .clock(clock.clone())
            .faults(FaultPlan::with_random(random(5)))
            .build();
        let faults = plan.faults;
        let rates = Rates::new()
            .before(faults.before)
            .after(faults.after)
            .throttled(faults.throttled)
            .entries(faults.entries);
        queue.faults().set_all(rates);
        // The producer is not on trial.
        queue.faults().set(Operation::Send, Rates::new());
        dead.faults().set_all(rates);
        inbox.faults().set_all(rates);
        let judge = Checker::new(
            clock.clone(),
            queue.clone(),
            dead.clone(),
            inbox.clone(),
            plan.visibility,
            plan.max_attempts,
        );
        Self {
            start: clock.now(),
            network: random(6),
            sends: AtomicU64::new(0),
            judge: Mutex::new(judge),
            act: Mutex::new(Act::Trouble),
            next_act: Notify::new(),
            clock,
            queue,
            dead,
            inbox,
            bug,
            plan,
        }
    }

    pub(crate) fn judge(&self) -> MutexGuard<'_, Checker> {
        self.judge.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn since_start(&self) -> Duration {
        self.clock.now().saturating_duration_since(self.start)
    }

    pub(crate) fn is_calm(&self) -> bool {
        self.act() != Act::Trouble
    }

    fn act(&self) -> Act {
        *self.act.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, act: Act) {
        *self.act.lock().unwrap_or_else(PoisonError::into_inner) = act;
        self.next_act.notify_waiters();
    }

    /// Waits for an act that comes after `act`.
    async fn act_after(&self, act: Act) -> Act {
        loop {
            let mut begun = std::pin::pin!(self.next_act.notified());
            begun.as_mut().enable();
            let now = self.act();
            if now > act {
                return now;
            }
            begun.await;
        }
    }

    async fn closing(&self) {
        while self.act_after(Act::Calm).await != Act::Closing {}
    }

    /// How long a call takes there and back.
    pub(crate) fn trip(&self) -> (Duration, Duration) {
        let faults = self.plan.faults;
        let slow = !self.is_calm() && self.network.chance(faults.slow);
        let most = if slow {
            faults.slowest
        } else {
            Duration::from_millis(20)
        };
        let leg = || Duration::from_millis(1) + self.network.up_to(most / 2);
        (leg(), leg())
    }

    async fn play(self: &Arc<Self>) {
        let mut tasks = JoinSet::new();
        tasks.spawn(Arc::clone(self).produce());
        tasks.spawn(Arc::clone(self).befall());
        for slot in 0..2 {
            tasks.spawn(Arc::clone(self).host(slot));
        }
        tasks.spawn(Arc::clone(self).direct());
        while let Some(ended) = tasks.join_next().await {
            if let Err(error) = ended {
                self.judge().broken("panic", error.to_string());
            }
            if self.judge().is_broken() {
                break;
            }
        }
        tasks.shutdown().await;
        if !self.judge().is_broken() {
            self.judge().at_the_end();
        }
    }

    /// Ends the trouble, waits until all is settled, and closes.
    async fn direct(self: Arc<Self>) {
        while self.since_start() < self.plan.trouble {
            tokio::time::sleep(Duration::from_millis(500)).await;
            if self.look() {
                return;
            }
        }
        self.judge().note("world", "the trouble is over");
        for faults in [self.queue.faults(), self.dead.faults(), self.inbox.faults()] {
            faults.heal();
        }
        self.begin(Act::Calm);
        let since = self.since_start();
        let mut pulse = since;
        while !(self.all_sent() && self.judge().is_quiet()) {
            let now = self.since_start();
            if now > since + self.plan.patience {
                // What always fails is never counted while a breaker is not closed, and too little may succeed to close it:
                // it waits in the queue, and its group with it.
                let waits = self
                    .judge()
                    .wait_for_what_fails(|message| self.plan.can_be_done(message));
                self.judge().note("world", format!("still waiting: {waits}"));
                break;
            }
            // Life goes on: breakers close by what succeeds, and a queue that holds nothing but poison has nothing that does.
            let pulses_end = since + self.plan.patience * 2 / 3;
            let open = self.judge().unsettled_of(self.plan.messages.len()) > 0;
            if now >= pulse && now < pulses_end && self.all_sent() && open {
                pulse = now
                    + if now < since + PULSES_SLOW_DOWN {
                        PULSE
                    } else {
                        PULSE * 20
                    };
                for _ in 0..PULSE_SIZE {
                    let number = self.judge().messages.len();
                    self.send(None, number, 100 + u64::try_from(number % 8).unwrap_or(0))
                        .await;
                }
            }
            let soon = now < since + PULSES_SLOW_DOWN;
            tokio::time::sleep(Duration::from_secs(if soon { 1 } else { 15 })).await;
            if self.look() {
                return;
            }
        }
        self.judge().note("world", "all is settled");
        self.begin(Act::Closing);
    }

    fn all_sent(&self) -> bool {
        self.judge().messages.len() >= self.plan.messages.len()
    }

    /// Looks at what only time breaks; answers whether the run is over.
    fn look(&self) -> bool {
        let mut judge = self.judge();
        judge.look_at_leases();
        judge.look_for_lost_messages();
        judge.is_broken()
    }

    async fn produce(self: Arc<Self>) {
        for message in &self.plan.messages {
            tokio::time::sleep_until(self.start + message.at).await;
            self.send(message.key, message.payload, message.group).await;
        }
    }

    async fn send(&self, key: Option<usize>, payload: usize, group: u64) {
        // The producer is slow where the queue is down, so pulses may overtake it.
        let number = self.sends.fetch_add(1, Ordering::Relaxed);
        let mut outgoing = Outgoing::new(format!("payload {payload}"));
        if let Some(key) = key {
            outgoing = outgoing.attribute(KEY_ATTRIBUTE, Attribute::string(format!("k{key}")));
        }
        if self.plan.fifo {
            let group = format!("g{group}");
            outgoing = outgoing.group(group).deduplication_id(format!("d{number}"));
        }
        let id = loop {
            match self.queue.send(vec![outgoing.clone()]).await {
                Ok(mut answers) => break answers.pop().expect("an answer").expect("a message"),
                Err(_) => tokio::time::sleep(Duration::from_millis(500)).await,
            }
        };
        let key = key.map_or_else(|| id.clone(), |key| format!("k{key}"));
        self.judge().sent(Sent {
            key: RecordKey::new(&self.queue.attributes().name, &Key::new(key)),
            id,
            payload,
            group: self.plan.fifo.then_some(group),
            held: true,
        });
    }

    /// What befalls the services.
    async fn befall(self: Arc<Self>) {
        for &(at, accident) in &self.plan.accidents {
            tokio::time::sleep_until(self.start + at.min(self.plan.trouble)).await;
            if self.is_calm() {
                return;
            }
            match accident {
                Accident::Unreachable(service, cut) => {
                    let faults = match service {
                        Service::Queue => self.queue.faults(),
                        Service::DeadLetters => self.dead.faults(),
                        Service::Inbox => self.inbox.faults(),
                    };
                    faults.set_unreachable(cut);
                    self.judge().note("world", format!("{service:?} unreachable: {cut}"));
                }
                Accident::Copy(drawn) => self.to_one_of(drawn, "copy", |queue, id| queue.duplicate(id).is_ok()),
                Accident::Ghost(drawn) => self.to_one_of(drawn, "ghost", |queue, id| queue.ghost(id).is_ok()),
                Accident::LostReceives(drawn, by) => self.to_one_of(drawn, "lost receives", |queue, id| {
                    queue.raise_receive_count(id, by).is_ok()
                }),
            }
        }
    }

    /// Does it to the first message, from a drawn one on, that it can be done to.
    fn to_one_of(&self, drawn: u64, what: &str, act: impl Fn(&MemoryQueue, &str) -> bool) {
        let mut judge = self.judge();
        let count = judge.messages.len();
        for step in 0..count {
            let message = (usize::try_from(drawn % 1_000).unwrap_or(0) + step) % count;
            if act(&self.queue, &judge.messages[message].id) {
                judge.came_back(message);
                judge.note("world", format!("{what} of {}", label(message)));
                return;
            }
        }
    }

    /// One place where a worker runs: what dies or ends there is started anew.
    async fn host(self: Arc<Self>, slot: usize) {
        let plan = self.plan.workers[slot].clone();
        let mut events = plan.events.iter().copied().peekable();
        let mut act = self.act();
        for life in 1.. {
            let who: Who = format!("{}{life}", ["a", "b"][slot]).into();
            let mut process = Process::start(&self, who, &plan, slot);
            loop {
                let trouble = act == Act::Trouble;
                let next = events.peek().copied().filter(|_| trouble);
                let (thaw, resume) = (process.next_thaw(), process.resumes);
                tokio::select! {
                    biased;
                    () = process.ended() => {
                        if self.act() == Act::Closing { return }
                        break;
                    }
                    () = sleep_until(thaw) => process.thaw(),
                    () = sleep_until(resume) => process.resume(),
                    () = sleep_until(next.map(|(at, _)| self.start + at)) => {
                        events.next();
                        match next.map(|(_, event)| event) {
                            Some(HostEvent::Crash { down }) => {
                                process.note("crashes");
                                process.down = down;
                                break;
                            }
                            Some(HostEvent::Drain { down }) => process.drain(down),
                            Some(HostEvent::Pause { pause }) => process.pause(pause),
                            Some(HostEvent::Freeze { pause, all, ahead }) => process.freeze(pause, all, ahead),
                            None => {}
                        }
                    }
                    next = self.act_after(act) => {
                        act = next;
                        process.thaw_now();
                        process.resume();
                        if act == Act::Closing { process.drain(Duration::ZERO) }
                    }
                }
            }
            let down = process.down;
            drop(process);
            tokio::select! {
                biased;
                () = self.closing() => return,
                () = tokio::time::sleep(down) => {}
            }
        }
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// A worker's process, from its start to its death.
struct Process<'a> {
    scene: &'a Arc<Scene>,
    who: Who,
    run: std::pin::Pin<Box<dyn Future<Output = Result<(), redrive::Error>> + Send>>,
    handle: WorkerHandle,
    /// Shut while its loop stands still, and while all of it does.
    gates: [Arc<Gate>; 2],
    thaws: [Option<Instant>; 2],
    resumes: Option<Instant>,
    draining: Option<Instant>,
    stood_still: bool,
    deadline: Duration,
    down: Duration,
}

impl<'a> Process<'a> {
    fn start(scene: &'a Arc<Scene>, who: Who, plan: &WorkerPlan, slot: usize) -> Self {
        let gates = [Arc::new(Gate::default()), Arc::new(Gate::default())];
        let line = Line {
            scene: Arc::clone(scene),
            who: Arc::clone(&who),
            process: Arc::clone(&gates[1]),
        };
        let worker = build(&line, plan, slot);
        let most_runs = plan.concurrency * plan.batch.map_or(1, |(size, _)| size);
        {
            let mut judge = scene.judge();
            let host = judge.host(&who);
            host.most_runs = most_runs;
            host.batches = plan.batch.is_some();
            judge.note(&who, "starts");
        }
        let handle = worker.handle();
        let run = Gated::new(Arc::clone(&gates[0]), scene.clock.clone(), worker.run_until_drained());
        Self {
            scene,
            who,
            run: Box::pin(run),
            handle,
            gates,
            thaws: [None, None],
            resumes: None,
            draining: None,
            stood_still: false,
            deadline: plan.drain_deadline,
            down: Duration::from_millis(500),
        }
    }

    fn note(&self, text: &str) {
        self.scene.judge().note(&self.who, text);
    }

    async fn ended(&mut self) {
        let ended = self.run.as_mut().await;
        if let Err(error) = ended {
            return self.note(&format!("does not start: {error}"));
        }
        let status = self.handle.status();
        let clean = status.running + status.waiting + status.ending == 0;
        let took = self.draining.filter(|_| !self.stood_still);
        let took = took.map(|since| self.scene.clock.now().saturating_duration_since(since));
        self.scene.judge().drained(&self.who, clean, took, self.deadline);
        if self.draining.is_none() {
            self.scene
                .judge()
                .broken("inv08", format!("{} ended by itself", self.who));
        }
    }

    fn drain(&mut self, down: Duration) {
        self.note("is asked to drain");
        self.handle.drain();
        self.down = down;
        // One that has not begun yet begins to drain when it does.
        self.draining.get_or_insert(self.scene.clock.now());
        self.stood_still |= !self.handle.status().started || self.next_thaw().is_some();
    }

    fn pause(&mut self, pause: Duration) {
        self.note(&format!("is paused for {pause:?}"));
        self.handle.pause();
        self.resumes = Some(self.scene.clock.now() + pause);
    }

    fn resume(&mut self) {
        if self.resumes.take().is_some() {
            self.note("is resumed");
            self.handle.resume();
        }
    }

    fn freeze(&mut self, pause: Duration, all: bool, ahead: Duration) {
        let now = self.scene.clock.now();
        self.note(&format!(
            "stands still for {pause:?}, all {all}, its loop for {ahead:?} longer"
        ));
        self.scene.judge().host(&self.who).stalled = true;
        self.stood_still = true;
        self.gates[0].set_shut(true);
        self.thaws[0] = Some(now + pause + ahead);
        if all {
            self.gates[1].set_shut(true);
            self.thaws[1] = Some(now + pause);
        }
    }

    fn next_thaw(&self) -> Option<Instant> {
        self.thaws.iter().flatten().min().copied()
    }

    fn thaw(&mut self) {
        let now = self.scene.clock.now();
        // The process first: its handlers and calls go on before its loop learns of anything.
        for (gate, thaw) in self.gates.iter().zip(&mut self.thaws).rev() {
            if thaw.is_some_and(|at| at <= now) {
                *thaw = None;
                gate.set_shut(false);
            }
        }
        if self.next_thaw().is_none() {
            self.note("goes on");
            let mut judge = self.scene.judge();
            let host = judge.host(&self.who);
            host.stalled = false;
            host.went_on = Some(now);
        }
    }

    fn thaw_now(&mut self) {
        if self.next_thaw().is_some() {
            let now = self.scene.clock.now();
            self.thaws = self.thaws.map(|thaw| thaw.map(|_| now));
            self.thaw();
        }
    }
}

impl Drop for Process<'_> {
    fn drop(&mut self) {
        // A dead process is not judged, and what it leaves on the runtime must be able to end.
        self.scene.judge().host(&self.who).stalled = true;
        self.gates.iter().for_each(|gate| gate.set_shut(false));
    }
}

fn build(line: &Line, plan: &WorkerPlan, slot: usize) -> Worker {
    let scene = &line.scene;
    let seed = scene.plan.seed.wrapping_mul(0x1000_0000_01b3) ^ line.who.bytes().map(u64::from).sum::<u64>();
    let queue = WatchedQueue {
        line: line.clone(),
        queue: scene.queue.clone(),
        dead: Some(scene.dead.clone()),
    };
    let inbox = WatchedInbox {
        line: line.clone(),
        inbox: scene.inbox.clone(),
        doubt_ms: plan.doubt_ms,
    };
    let observed = line.clone();
    let mut builder = Worker::builder(BuggyQueue::new(scene.bug, queue))
        .inbox(BuggyInbox::new(scene.bug, inbox))
        .name(["a", "b"][slot])
        .clock(scene.clock.skewed_by(plan.skew_ms))
        .random(Random::seeded(seed))
        .concurrency(plan.concurrency)
        .lease(plan.lease)
        .max_attempts(scene.plan.max_attempts)
        .in_flight_delay(plan.in_flight_delay)
        .long_poll(plan.long_poll)
        .drain_deadline(plan.drain_deadline)
        .linger(plan.linger)
        .max_receives(plan.max_receives)
        .keep_while_open(plan.keep_while_open)
        .backoff(Backoff::new(plan.backoff.0, plan.backoff.1).expect("a backoff"))
        .observe(move |observation| {
            let mut judge = observed.scene.judge();
            judge.observed(&observed.who, &observation.message.id, observation.fate.as_str());
        });
    if !plan.heartbeat {
        builder = builder.without_heartbeat();
    }
    if let Some((rate, burst)) = plan.rate {
        let rate = RateLimit::per_second(rate).and_then(|rate| rate.burst(burst));
        builder = builder.rate(rate.expect("a rate"));
    }
    if let Some((rate, burst, aside)) = plan.tenants {
        let rate = RateLimit::per_second(rate).and_then(|rate| rate.burst(burst));
        let tenant = |message: &Message| message.body.bytes().last().map(|byte| (byte % 3).to_string());
        builder = builder.rate_by(tenant, rate.expect("a rate")).held_back(aside);
    }
    if let Some(limit) = plan.handler_timeout {
        builder = builder.handler_timeout(limit);
    }
    builder = match plan.breaker {
        BreakerPlan::Default => builder,
        BreakerPlan::None => builder.without_breaker(),
        BreakerPlan::Quick { in_a_row, open } => {
            let config = BreakerConfig::default()
                .failures_in_a_row(in_a_row)
                .and_then(|config| config.distinct_keys(2))
                .and_then(|config| config.open_for(open, open * 2));
            builder.breaker(config.expect("a breaker"))
        }
    };
    let builder = builder.state(Stage {
        line: line.clone(),
        lease: plan.lease,
    });
    let built = match plan.batch {
        Some((size, linger)) => builder.handler(batch(size, linger, several)).build(),
        None => builder.handler(single).build(),
    };
    built.expect("a worker")
}
