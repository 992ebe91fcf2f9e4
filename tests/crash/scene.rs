//! One run of the harness: servers, queues, tables, worker processes, messages, accidents, and the account at the end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use redrive::DynamoInbox;
use redrive::clock::{Clock, Instant, Random};
use redrive::dlq::Replay;
use redrive::extract::Envelope;
use redrive::inbox::{Inbox as _, Status};
use redrive::key::{Key, RecordKey};
use redrive::queue::Queue as _;

use super::Options;
use super::accidents::{Accident, Moment, plan};
use super::fleet::{Announced, Post, Wire};
use super::journal::Journal;
use super::load::{Kind, Load, Work};
use super::program::{Ledger, Places};
use super::report::Report;
use super::traffic::{all_of, produce};
use crate::aws::config;
use crate::aws_lab::{Lab, Queues, Setup, is_empty};
use crate::child::Signal;
use crate::fault_proxy::{Effect, Fault, Request, Rule, RuleId};
use crate::localstack::Servers;
use crate::own_servers::OwnServers;

/// How long nothing may be done while there still is something in a queue: longer than anything is delayed for.
const PATIENCE: Duration = Duration::from_secs(15 * 60);

/// How long the queues must be empty until what has not been said to be done is looked for. Its worker may have been killed
/// between the delete and the word.
const EMPTY_FOR: Duration = Duration::from_secs(3);

/// How long a killer lies in wait for its moment.
const AMBUSH: Duration = Duration::from_secs(5);

/// From the answer that a proxy keeps back until the service has certainly done what it was asked.
const DONE_BY: Duration = Duration::from_millis(200);

pub(crate) struct Scene {
    options: Options,
    clock: Clock,
    random: Random,
    servers: OwnServers,
    standard: Queues,
    fifo: Queues,
    ledger: Ledger,
    inbox: DynamoInbox,
    journal: Journal,
    load: Arc<Load>,
    posts: Vec<Post>,
    /// Stopped, and until when.
    zombie: Option<(usize, Instant)>,
    /// What was announced as a suspect that runs when its process died, or was stopped for longer than its lease: how often.
    deaths: BTreeMap<String, usize>,
    wire: Wire,
    report: Report,
}

/// A trap that has been laid for a worker.
enum Trap {
    /// Sprung by a request; whether the service is let do what it asks before.
    Request { at_sqs: bool, rule: RuleId, done: bool },
    /// Sprung by a run that starts.
    Start(u64),
    /// Sprung by an effect that was made.
    Effect(u64),
}

impl Scene {
    /// `None` where tests on servers are left out.
    pub(crate) async fn set(options: Options) -> Option<Self> {
        let servers = OwnServers::start().await?;
        let (sqs, dynamodb) = (servers.sqs.url(), servers.dynamodb.url());
        let lab = Lab {
            sqs: config(&sqs),
            dynamodb: config(&dynamodb),
            servers: Servers {
                sqs_url: sqs.clone(),
                dynamodb_url: dynamodb.clone(),
            },
        };
        let setup = Setup {
            visibility_secs: options.visibility_secs,
            ..Setup::default()
        };
        let standard = lab.queues("crash", &setup).await;
        let fifo = lab.queues("crash.fifo", &setup).await;
        let (table, ledger) = (Lab::unique("inbox"), Lab::unique("ledger"));
        // The ledger has the same key, so that it is made by the same call.
        lab.inbox(&ledger).await;
        let inbox = lab.inbox(&table).await;
        let random = Random::seeded(options.seed);
        let load = Arc::new(Load::draw(options.messages, &random));
        let places = Places {
            ledger_url: dynamodb.clone(),
            standard: standard.source.attributes().name.clone(),
            fifo: fifo.source.attributes().name.clone(),
            ledger: ledger.clone(),
            sqs,
            dynamodb,
            table,
            in_flight_delay_ms: options.in_flight_delay_ms,
        };
        let journal = Journal::new();
        let wire = Wire::default();
        let mut posts = Vec::new();
        for number in 0..options.workers {
            posts.push(Post::new(number, &places, &journal, &wire, &random).await);
        }
        Some(Self {
            clock: Clock::system(),
            ledger: Ledger::new(&lab.dynamodb, &ledger),
            report: Report::new(&options, &load),
            options,
            random,
            servers,
            standard,
            fifo,
            inbox,
            journal,
            load,
            posts,
            zombie: None,
            deaths: BTreeMap::new(),
            wire,
        })
    }

    pub(crate) async fn run(mut self) -> Report {
        let began = self.clock.now();
        let sent = Arc::new(AtomicUsize::new(0));
        let produce = produce(
            self.load.clone(),
            [self.standard.source.clone(), self.fifo.source.clone()],
            self.journal.clone(),
            sent.clone(),
            self.options
                .time
                .map(|time| (self.clock.clone(), began + time.mul_f64(0.8))),
        );
        let mut producing = tokio::task::JoinSet::new();
        let producer = producing.spawn(produce);
        self.man();
        let accidents = plan(self.options.kills, &self.random);
        let (total, mut last) = (accidents.len(), self.clock.now());
        for (n, accident) in accidents.into_iter().enumerate() {
            // Spread over the run by what is done, so that there is something to lose on a slow machine too.
            let due = self.load.works.len() * n / (total + 1);
            let at = self
                .options
                .time
                .map(|time| began + time.mul_f64(0.8) / u32::try_from(total + 1).unwrap() * u32::try_from(n).unwrap());
            self.look_after(async |scene| {
                let now = scene.clock.now();
                let since = now.saturating_duration_since(last);
                let is_due = scene.journal.done() >= due || at.is_some_and(|at| now >= at);
                since > Duration::from_secs(15) || (since > Duration::from_millis(200) && is_due)
            })
            .await;
            self.report.accident(accident);
            self.befall(accident).await;
            last = self.clock.now();
            if total < 40 || n % 10 == 9 {
                eprintln!(
                    "{:>6.0} s  {} of {total} accidents ({accident:?}), {} sent, {} of {} keys done",
                    last.saturating_duration_since(began).as_secs_f64(),
                    n + 1,
                    sent.load(Ordering::Relaxed),
                    self.journal.done(),
                    self.load.works.len(),
                );
            }
        }
        self.look_after(async |_| producer.is_finished()).await;
        let keys = producing.join_next().await.expect("a producer").expect("all was sent");
        self.load = Arc::new(self.load.first(keys));
        self.report.sent(&self.load);
        self.let_all_be_done().await;
        if self.replay_the_innocent().await {
            self.let_all_be_done().await;
        }
        self.report.took = self.clock.now().saturating_duration_since(began);
        for post in &mut self.posts {
            post.terminate().await;
        }
        self.account().await
    }

    fn man(&mut self) {
        for post in &mut self.posts {
            post.man();
        }
    }

    /// Keeps the posts manned and wakes who sleeps, until `enough`.
    async fn look_after(&mut self, mut enough: impl AsyncFnMut(&mut Self) -> bool) {
        while !enough(self).await {
            self.notice_ends().await;
            self.man();
            if let Some((post, _)) = self.zombie.filter(|(_, until)| self.clock.now() >= *until) {
                self.posts[post].signal(Signal::Continue);
                self.zombie = None;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Takes note of the processes that ended by themselves.
    async fn notice_ends(&mut self) {
        for number in 0..self.posts.len() {
            if self.posts[number].ended_by_itself() {
                self.report.ended_by_themselves += 1;
                self.count_deaths(self.posts[number].announced()).await;
            }
        }
    }

    /// Of what a process announced that has just died or been stopped, counts a death of what its inbox record still says to
    /// run under that process's claim: nobody else can have taken it over, as leases are longer than this takes.
    async fn count_deaths(&mut self, announced: Vec<Announced>) {
        if announced.is_empty() {
            return;
        }
        // What the process asked last may still be on its way.
        tokio::time::sleep(DONE_BY).await;
        let keys: BTreeSet<&str> = announced.iter().map(|announced| &*announced.key).collect();
        for key in keys {
            let is_fifo = self
                .load
                .works
                .iter()
                .any(|work| work.key == key && work.group.is_some());
            let queue = if is_fifo {
                &self.fifo.source
            } else {
                &self.standard.source
            };
            let record_key = RecordKey::new(&queue.attributes().name, &Key::new(key));
            let record = loop {
                match self.inbox.get(&record_key).await {
                    Ok(record) => break record,
                    Err(error) => eprintln!("the record of {key} cannot be read yet: {error}"),
                }
            };
            let is_this_claim = |claim: &str| announced.iter().any(|asked| asked.key == key && asked.is_of(claim));
            if record.is_some_and(|record| {
                record.started && record.status == Status::Processing && is_this_claim(&record.claim_id)
            }) {
                *self.deaths.entry(key.to_owned()).or_default() += 1;
                self.wire.tell(
                    key,
                    "its process is dead or stopped, and its record says that it runs".to_owned(),
                );
            }
        }
    }

    /// Whether the design lets this be dead-lettered as one that kills its process, although it does not: two runs of it were
    /// announced when their process died, or when their lease ran out, as it does in a process that starves.
    fn is_innocent_and_twice_dead(&self, key: &str) -> bool {
        let is_killer = |work: &Work| work.key == key && work.job.kind == Kind::Killer;
        self.wire.of(key).deaths.len() >= 2 && !self.load.works.iter().any(is_killer)
    }

    /// Replays what was dead-lettered after two deaths of its process and kills nothing, as an operator would; answers whether
    /// there was any.
    async fn replay_the_innocent(&mut self) -> bool {
        let mut innocent: BTreeSet<String> = self.wire.keys().into_iter().collect();
        innocent.retain(|key| self.is_innocent_and_twice_dead(key));
        let replayed: Arc<Mutex<BTreeSet<String>>> = Arc::default();
        for queues in [&self.standard, &self.fifo] {
            let (innocent, replayed) = (innocent.clone(), Arc::clone(&replayed));
            let replay = Replay::new(
                queues.dead.clone(),
                queues.source.clone(),
                "what died though it kills nothing",
            )
            .skip_order(true)
            .filter(move |letter| {
                let key = letter.key().as_str();
                let goes = letter.reason() == "worker_died" && innocent.contains(key);
                if goes {
                    replayed.lock().unwrap().insert(key.to_owned());
                }
                goes
            });
            let report = replay.run().await.expect("it is replayed");
            assert_eq!(report.failed, 0, "{report:?}");
            self.report.replayed += report.replayed;
        }
        let replayed = replayed.lock().unwrap();
        self.report.twice_dead = replayed.len();
        for key in &*replayed {
            let seen = self.deaths.get(key).copied().unwrap_or(0);
            self.report.outlived += usize::from(seen < 2);
            eprintln!(
                "{key} was dead-lettered after two deaths: {:#?}",
                self.wire.of(key).told
            );
        }
        self.report.replayed > 0
    }

    /// Until both queues are empty.
    async fn let_all_be_done(&mut self) {
        let mut progress = (0, 0);
        let mut since = self.clock.now();
        let (mut looked, mut shown, mut empty_since) = (since, since, None);
        let total = self.load.works.len();
        self.look_after(async |scene| {
            let now = scene.clock.now();
            let passed = |since| now.saturating_duration_since(since);
            if passed(looked) < Duration::from_millis(300) {
                return false;
            }
            looked = now;
            let at = (scene.journal.done(), scene.journal.fates().values().sum::<usize>());
            if at != progress {
                (progress, since) = (at, now);
            }
            if scene.zombie.is_some() || !is_empty(&scene.standard.source).await || !is_empty(&scene.fifo.source).await
            {
                empty_since = None;
            } else if at.0 == total || passed(*empty_since.get_or_insert(now)) > EMPTY_FOR {
                return true;
            }
            if passed(shown) > Duration::from_secs(5) {
                shown = now;
                let rest = scene.load.works.iter().filter(|work| !scene.journal.is_done(&work.key));
                let rest: Vec<&str> = rest.take(5).map(|work| &*work.key).collect();
                eprintln!(
                    "{} of {total} done, not yet {rest:?}, …; {}",
                    at.0,
                    scene.queued().await
                );
            }
            // What is in the queues still is told of in the account.
            passed(since) > PATIENCE
        })
        .await;
    }

    /// What is in the queues, in words.
    async fn queued(&self) -> String {
        let mut words = Vec::new();
        for (name, queues) in [("standard", &self.standard), ("FIFO", &self.fifo)] {
            words.push(match queues.source.describe().await {
                Ok(now) => format!(
                    "{name}: {} visible, {} in flight, {} delayed",
                    now.visible, now.in_flight, now.delayed
                ),
                Err(error) => format!("{name}: {error}"),
            });
        }
        words.join("; ")
    }

    async fn befall(&mut self, accident: Accident) {
        match accident {
            Accident::Kill(moment) => self.kill(moment).await,
            Accident::Zombie => self.make_a_zombie().await,
            Accident::DynamoDbRestarts => self.servers.restart_dynamodb().await,
            Accident::ProxyRestarts => {
                let post = &self.posts[self.anyone()];
                let proxies = [&post.sqs, &post.dynamodb];
                for proxy in proxies {
                    proxy.stop().await;
                }
                tokio::time::sleep(Duration::from_millis(500) + self.random.up_to(Duration::from_secs(2))).await;
                for proxy in proxies {
                    proxy.restart().await;
                }
            }
            Accident::SqsStalls => {
                self.servers.sqs.signal(Signal::Stop);
                tokio::time::sleep(Duration::from_secs(1) + self.random.up_to(Duration::from_secs(4))).await;
                self.servers.sqs.signal(Signal::Continue);
            }
        }
    }

    /// A worker that runs, and is no zombie.
    fn anyone(&self) -> usize {
        let zombie = self.zombie.map(|(post, _)| post);
        loop {
            let post = usize::try_from(self.random.below(self.posts.len() as u64)).unwrap();
            if Some(post) != zombie {
                return post;
            }
        }
    }

    async fn kill(&mut self, moment: Moment) {
        let (victim, sprung) = self.lie_in_wait(moment).await;
        self.posts[victim].kill();
        self.report.kill(if sprung { moment } else { Moment::Random });
        let announced = self.posts[victim].announced();
        self.posts[victim].man();
        self.count_deaths(announced).await;
    }

    /// Lets the worker's calls go on that a trap has stalled.
    async fn release(&self, post: usize) {
        let post = &self.posts[post];
        post.heal();
        for proxy in [&post.sqs, &post.dynamodb] {
            proxy.reset_connections().await;
        }
    }

    /// Lays a trap for every worker, and answers whose was the first to be sprung. Where none was before the patience for it
    /// was over, it is whoever.
    async fn lie_in_wait(&mut self, moment: Moment) -> (usize, bool) {
        let first = self.anyone();
        if moment == Moment::Random {
            tokio::time::sleep(self.random.up_to(Duration::from_millis(300))).await;
            return (first, true);
        }
        let zombie = self.zombie.map(|(post, _)| post);
        let count = self.posts.len();
        let traps: Vec<(usize, Trap)> = (first..first + count)
            .map(|n| n % count)
            .filter(|post| Some(*post) != zombie)
            .map(|post| (post, self.lay(post, moment)))
            .collect();
        let deadline = self.clock.now() + AMBUSH;
        let found = loop {
            if let Some((post, _)) = traps.iter().find(|(post, trap)| self.is_sprung(*post, trap)) {
                break Some(*post);
            }
            if self.clock.now() >= deadline {
                break None;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
            self.notice_ends().await;
            self.man();
        };
        let victim = found.unwrap_or(first);
        for (post, trap) in &traps {
            if *post == victim {
                continue;
            }
            self.posts[*post].heal();
            // An effect is stalled by what follows it.
            let stalls = matches!(trap, Trap::Request { .. }) && self.is_sprung(*post, trap);
            if stalls || moment == Moment::AfterEffect {
                self.release(*post).await;
            }
        }
        if traps
            .iter()
            .any(|(_, trap)| matches!(trap, Trap::Request { done: true, .. }))
        {
            tokio::time::sleep(DONE_BY).await;
        }
        (victim, found.is_some())
    }

    /// Stops a worker in the middle of a run until long after its leases are over.
    async fn make_a_zombie(&mut self) {
        self.look_after(async |scene| scene.zombie.is_none()).await;
        let (victim, _) = self.lie_in_wait(Moment::MidHandler).await;
        self.posts[victim].signal(Signal::Stop);
        let lease = Duration::from_secs(u64::from(self.options.visibility_secs.max(10)));
        self.zombie = Some((victim, self.clock.now() + lease + Duration::from_secs(7)));
        // Until all was heard that it said.
        let mut heard = self.journal.heard(victim);
        loop {
            tokio::time::sleep(Duration::from_millis(5)).await;
            let now = self.journal.heard(victim);
            if now == heard {
                break;
            }
            heard = now;
        }
        self.journal.stopped(victim);
        self.count_deaths(self.posts[victim].announced()).await;
    }

    /// Arranges that the worker halts at that moment.
    fn lay(&self, victim: usize, moment: Moment) -> Trap {
        let post = &self.posts[victim];
        let (started, made) = self.journal.seen(victim);
        let trap = |at_sqs: bool, effect: Effect, when: fn(&Request) -> bool| {
            let proxy = if at_sqs { &post.sqs } else { &post.dynamodb };
            let rule = proxy.add(Rule::on_all(Fault::Stall(effect)).when(when));
            let done = effect == Effect::Done;
            Trap::Request { at_sqs, rule, done }
        };
        match moment {
            Moment::BeforeClaim => trap(false, Effect::None, is_claim),
            Moment::AfterClaim => trap(false, Effect::Done, is_claim),
            Moment::MidHandler => Trap::Start(started),
            Moment::AfterEffect => {
                // What follows the effect must not get through before the kill.
                trap(false, Effect::None, is_complete);
                Trap::Effect(made)
            }
            Moment::AfterComplete => trap(false, Effect::Done, is_complete),
            Moment::BeforeDelete => trap(true, Effect::None, is_delete),
            Moment::AfterDelete => trap(true, Effect::Done, is_delete),
            Moment::BeforeDeadLetter => trap(true, Effect::None, is_send),
            Moment::AfterDeadLetter => trap(true, Effect::Done, is_send),
            Moment::Random => unreachable!("no trap is laid for it"),
        }
    }

    fn is_sprung(&self, post: usize, trap: &Trap) -> bool {
        let (started, made) = self.journal.seen(post);
        let post = &self.posts[post];
        match *trap {
            Trap::Request { at_sqs, rule, .. } => {
                let proxy = if at_sqs { &post.sqs } else { &post.dynamodb };
                proxy.hits(rule) > 0
            }
            Trap::Start(before) => started > before,
            Trap::Effect(before) => made > before,
        }
    }

    /// What became of everything.
    async fn account(mut self) -> Report {
        let effects = self.ledger.effects().await;
        let mut doomed = self.load.doomed();
        // What is there still is not lost.
        if !is_empty(&self.standard.source).await || !is_empty(&self.fifo.source).await {
            self.report.left.push(self.queued().await);
        }
        let made = |work: &Work| effects.get(&work.key).copied().unwrap_or(0);
        let mut letters: BTreeMap<String, usize> = BTreeMap::new();
        for dead in [&self.standard.dead, &self.fifo.dead] {
            for letter in all_of(dead).await {
                let Some(envelope) = Envelope::of(&letter.message) else {
                    self.report
                        .wrong_letters
                        .push(format!("moved by SQS: {}", letter.message.body));
                    continue;
                };
                *self.report.dead_letters.entry(envelope.reason.clone()).or_default() += 1;
                *letters.entry(envelope.key.clone()).or_default() += 1;
                if doomed
                    .get(&envelope.key)
                    .is_none_or(|reason| *reason != envelope.reason)
                {
                    self.report.wrong_letters.push(format!(
                        "{} for {}: {}; {:?}; {:?}",
                        envelope.key,
                        envelope.reason,
                        envelope.error,
                        self.wire.of(&envelope.key),
                        self.journal.runs_of(&envelope.key)
                    ));
                }
            }
        }
        for work in self.load.healthy() {
            match made(work) {
                // What is wrong with a letter that should not be was told above.
                0 if letters.contains_key(&work.key) => {}
                0 => self
                    .report
                    .lost
                    .push(format!("{}: {:?}", work.key, self.journal.runs_of(&work.key))),
                1 => {}
                n => self.report.doubled.push(format!(
                    "{}: {n} effects: {:?}",
                    work.key,
                    self.journal.runs_of(&work.key)
                )),
            }
        }
        for key in doomed.keys() {
            if effects.get(key).is_some_and(|&made| made > 0) {
                self.report.doubled.push(format!("{key} is poison and has an effect"));
            }
        }
        for (key, count) in &letters {
            doomed.remove(key);
            self.report.letters_again += count - 1;
        }
        self.report
            .lost
            .extend(doomed.keys().map(|key| format!("{key}: no dead letter")));
        self.report.disorder = self.disorder();
        self.report.hear(&self.journal);
        self.report
    }

    /// How many keys' effects were made before that of one before it in its group.
    fn disorder(&self) -> usize {
        let places: BTreeMap<&str, (&str, usize)> = self
            .load
            .works
            .iter()
            .filter_map(|work| Some((&*work.key, work.group.as_ref().map(|(group, at)| (&**group, *at))?)))
            .collect();
        let mut last: BTreeMap<&str, usize> = BTreeMap::new();
        let mut wrong = 0;
        for key in self.journal.order() {
            let Some(&(group, at)) = places.get(&*key) else {
                continue;
            };
            let before = last.entry(group).or_default();
            if at < *before {
                wrong += 1;
            }
            *before = at.max(*before);
        }
        wrong
    }
}

fn is_claim(request: &Request) -> bool {
    request.operation == "PutItem"
        || (request.operation == "BatchExecuteStatement" && request.text().contains("INSERT INTO"))
}

fn is_complete(request: &Request) -> bool {
    matches!(&*request.operation, "BatchExecuteStatement" | "UpdateItem") && request.text().contains("\"completed\"")
}

fn is_delete(request: &Request) -> bool {
    request.operation.starts_with("DeleteMessage")
}

fn is_send(request: &Request) -> bool {
    request.operation.starts_with("SendMessage")
}
