//! One run: workers, producers, operators, their services and what befalls them, in virtual time.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redrive::clock::{Clock, Instant, Random};
use redrive::dlq::Envelope;
use redrive::faults::{FaultPlan, Operation, Rates};
use redrive::key::{Key, RecordKey};
use redrive::message::{KEY_ATTRIBUTE, Message};
use redrive::queue::Queue as _;
use redrive::{MemoryInbox, MemoryQueue};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::bugs::{Bug, with};
use crate::checker::{Checker, Sent, Violation, label};
use crate::host::host;
use crate::operator::{self, operate};
use crate::plan::{Accident, Letters, Plan, Service, UNPLANNED};
use crate::{planted, producers};

const EPOCH_MS: u64 = 1_750_000_000_000;

/// How often the producer sends something when the trouble is over, and from when on less often.
const PULSE: Duration = Duration::from_secs(30);
const PULSES_SLOW_DOWN: Duration = Duration::from_secs(600);
/// When it sends no more of them: what waits until then waits for something else.
const PULSES_END: Duration = Duration::from_secs(2 * 3600);
/// How many it sends then: enough that what is half open can close.
const PULSE_SIZE: usize = 16;

/// The longest that everybody may take to end once they are told to.
const LONGEST_CLOSING: Duration = Duration::from_secs(3600);

/// How a run went.
pub(crate) struct Report {
    pub(crate) plan: Plan,
    pub(crate) history: Vec<String>,
    pub(crate) violation: Option<Violation>,
    pub(crate) totals: Totals,
}

/// What happened in a run, or in many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) messages: u64,
    pub(crate) faults: u64,
    pub(crate) crashes: u64,
    pub(crate) events: u64,
}

impl std::ops::AddAssign for Totals {
    fn add_assign(&mut self, other: Self) {
        self.messages += other.messages;
        self.faults += other.faults;
        self.crashes += other.crashes;
        self.events += other.events;
    }
}

/// The attribute that says which planned message this is a copy of.
pub(crate) const NUMBER: &str = "number";

/// Where a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Act {
    Trouble,
    Calm,
    Closing,
}

/// What everybody in a run shares.
pub(crate) struct Scene {
    pub(crate) plan: Plan,
    pub(crate) clock: Clock,
    pub(crate) judge: Mutex<Checker>,
    pub(crate) start: Instant,
    pub(crate) queue: MemoryQueue,
    pub(crate) dead: MemoryQueue,
    pub(crate) inbox: MemoryInbox,
    pub(crate) bug: Bug,
    /// How many producers have nothing left to send.
    pub(crate) producers_done: AtomicUsize,
    network: Random,
    crashes: AtomicU64,
    act: Mutex<Act>,
    /// Wakes hosts in the order they wait in; tokio's watch channel wakes in no certain order.
    next_act: Notify,
}

/// Runs a plan to its end or to the first invariant that breaks.
pub(crate) fn run(plan: Plan, bug: Bug) -> Report {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    let whole = async move {
        let scene = Arc::new(Scene::new(plan, bug));
        scene.play().await;
        let plan = scene.plan.clone();
        let services = [scene.queue.faults(), scene.dead.faults(), scene.inbox.faults()];
        let faults = services.iter().map(|faults| faults.injected()).sum();
        // Whatever is left of the workers' tasks is dropped by now, but may hold the scene.
        let mut judge = scene.judge();
        let messages = judge.messages.len() as u64;
        let over = scene.checker();
        let (history, violation) = std::mem::replace(&mut *judge, over).into_report();
        let totals = Totals {
            messages,
            faults,
            crashes: scene.crashes.load(Ordering::Relaxed),
            events: history.len() as u64,
        };
        Report {
            plan,
            history,
            violation,
            totals,
        }
    };
    with(bug, || runtime.block_on(whole))
}

impl Scene {
    fn new(plan: Plan, bug: Bug) -> Self {
        let clock = Clock::starting_at(EPOCH_MS);
        let random = |salt: u64| Random::seeded(plan.seed.wrapping_mul(31).wrapping_add(salt));
        let suffix = if plan.fifo { ".fifo" } else { "" };
        let receives = match plan.letters {
            Letters::ByPolicy(receives) => receives,
            _ => 1_000,
        };
        let dead = MemoryQueue::builder(format!("orders-dlq{suffix}"))
            .clock(clock.clone())
            .random(random(1))
            .faults(FaultPlan::with_random(random(2)))
            .build()
            .expect("a dead-letter queue");
        let queue = MemoryQueue::builder(format!("orders{suffix}"))
            .visibility_timeout(plan.visibility)
            .dead_letter(&dead, receives)
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
        let services = [
            (faults.queue, queue.faults()),
            (faults.dead_letters, dead.faults()),
            (faults.inbox, inbox.faults()),
        ];
        for (_, service) in services.iter().filter(|(faulty, _)| *faulty) {
            service.set_all(rates);
        }
        if !faults.sends {
            queue.faults().set(Operation::Send, Rates::new());
        }
        let judge = checker(&clock, &queue, &dead, &inbox, &plan);
        Self {
            start: clock.now(),
            network: random(6),
            crashes: AtomicU64::new(0),
            producers_done: AtomicUsize::new(0),
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

    fn checker(&self) -> Checker {
        checker(&self.clock, &self.queue, &self.dead, &self.inbox, &self.plan)
    }

    pub(crate) fn crashed(&self) {
        self.crashes.fetch_add(1, Ordering::Relaxed);
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

    pub(crate) fn act(&self) -> Act {
        *self.act.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, act: Act) {
        *self.act.lock().unwrap_or_else(PoisonError::into_inner) = act;
        self.next_act.notify_waiters();
    }

    /// Waits for an act that comes after `act`.
    pub(crate) async fn act_after(&self, act: Act) -> Act {
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

    pub(crate) async fn closing(&self) {
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
        planted::plant(self);
        for slot in 0..self.plan.producers.len() {
            tasks.spawn(producers::produce(Arc::clone(self), slot));
        }
        tasks.spawn(Arc::clone(self).befall());
        for slot in 0..self.plan.workers.len() {
            tasks.spawn(host(Arc::clone(self), slot));
        }
        for number in 0..self.plan.operators.len() {
            tasks.spawn(operate(Arc::clone(self), number));
        }
        tasks.spawn(Arc::clone(self).direct());
        let mut watchdog = std::pin::pin!(self.watchdog());
        loop {
            let ended = tokio::select! {
                biased;
                ended = tasks.join_next() => ended,
                () = &mut watchdog => {
                    self.judge().broken("end", "it does not come to rest after all was settled");
                    break;
                }
            };
            let Some(ended) = ended else { break };
            if let Err(error) = ended {
                self.judge().broken("inv12", error.to_string());
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

    /// Ends some time after everybody was told to close.
    async fn watchdog(&self) {
        self.closing().await;
        tokio::time::sleep(LONGEST_CLOSING).await;
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
                let waits = self.judge().wait_for_what_fails(|number| self.plan.can_be_done(number));
                self.judge().note("world", format!("still waiting: {waits}"));
                break;
            }
            // Life goes on: breakers close by what succeeds, and a queue that holds nothing but poison has nothing that does.
            let pulses_end = since + PULSES_END.min(self.plan.patience * 2 / 3);
            let open = self.judge().waits_for_planned();
            if now >= pulse && now < pulses_end && self.all_sent() && open {
                pulse = now
                    + if now < since + PULSES_SLOW_DOWN {
                        PULSE
                    } else {
                        PULSE * 20
                    };
                producers::pulse(&self, PULSE_SIZE).await;
            }
            let pause = match now - since {
                calm if calm < PULSES_SLOW_DOWN => 1,
                calm if calm < PULSES_END => 15,
                _ => 120,
            };
            tokio::time::sleep(Duration::from_secs(pause)).await;
            if self.look() {
                return;
            }
        }
        self.judge().note("world", "all is settled");
        self.begin(Act::Closing);
    }

    fn all_sent(&self) -> bool {
        self.producers_done.load(Ordering::Relaxed) == self.plan.producers.len()
    }

    /// Tells the judge of what has come into the queue since, in its order. To be called in the instant it came in.
    pub(crate) fn take_stock(&self) {
        let mut judge = self.judge();
        judge.look_for_moved();
        for message in self.queue.messages() {
            if !judge.by_id.contains_key(&message.id) {
                judge.sent(self.sent(&message));
            }
        }
    }

    fn sent(&self, message: &Message) -> Sent {
        let number = |text: Option<&str>| text.and_then(|text| text.parse().ok());
        let key = Envelope::of(message).map(|envelope| envelope.key);
        let key = key.or_else(|| message.attribute(KEY_ATTRIBUTE).map(str::to_owned));
        let key = Key::new(key.unwrap_or_else(|| message.id.clone()));
        Sent {
            key: RecordKey::new(&self.queue.attributes().name, &key),
            id: message.id.clone(),
            planned: number(message.attribute(NUMBER)).unwrap_or(UNPLANNED),
            payload: number(message.body.strip_prefix("payload ")).unwrap_or(UNPLANNED),
            group: number(message.group_id.as_deref().and_then(|group| group.strip_prefix('g')))
                .map(|group| group as u64),
            held: true,
        }
    }

    /// Looks at what only time breaks; answers whether the run is over.
    fn look(&self) -> bool {
        let mut judge = self.judge();
        judge.look_at_leases();
        judge.look_for_lost_messages();
        judge.is_broken()
    }

    /// What befalls the services.
    async fn befall(self: Arc<Self>) {
        let mut cuts = JoinSet::new();
        for &(at, accident) in &self.plan.accidents {
            tokio::time::sleep_until(self.start + at.min(self.plan.trouble)).await;
            if self.is_calm() {
                break;
            }
            match accident {
                Accident::Unreachable(service, lasts) => {
                    self.faults_of(service).set_unreachable(true);
                    self.judge().note("world", format!("{service:?} is unreachable"));
                    let scene = Arc::clone(&self);
                    cuts.spawn(async move {
                        tokio::time::sleep(lasts).await;
                        scene.faults_of(service).set_unreachable(false);
                        scene.judge().note("world", format!("{service:?} is reachable again"));
                    });
                }
                Accident::Copy(drawn) => self.to_one_of(drawn, "copy", |queue, id| queue.duplicate(id).is_ok()),
                Accident::Ghost(drawn) => self.to_one_of(drawn, "ghost", |queue, id| queue.ghost(id).is_ok()),
                Accident::LostReceives(drawn, by) => self.to_one_of(drawn, "lost receives", |queue, id| {
                    queue.raise_receive_count(id, by).is_ok()
                }),
                Accident::Released(drawn, live) => operator::free(&self, drawn, live),
                Accident::Forgotten(drawn) => operator::forget(&self, drawn),
                Accident::MovedBack(drawn) => {
                    cuts.spawn(operator::move_back(Arc::clone(&self), drawn));
                }
            }
        }
        while cuts.join_next().await.is_some() {}
    }

    fn faults_of(&self, service: Service) -> &FaultPlan {
        match service {
            Service::Queue => self.queue.faults(),
            Service::DeadLetters => self.dead.faults(),
            Service::Inbox => self.inbox.faults(),
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
}

fn checker(clock: &Clock, queue: &MemoryQueue, dead: &MemoryQueue, inbox: &MemoryInbox, plan: &Plan) -> Checker {
    let (queue, dead, inbox) = (queue.clone(), dead.clone(), inbox.clone());
    Checker::new(clock.clone(), queue, dead, inbox, plan)
}
