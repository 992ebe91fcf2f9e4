//! ECS task scale-in protection: a task is protected from scale-in and deployments while its handlers run.

mod agent;
mod decide;
#[cfg(test)]
mod tests;

use std::pin::pin;
use std::time::Duration;

use futures::future::{Either, join_all, select};

use crate::clock::Instant;
use crate::telemetry::{self, OUTCOME, PROTECTED, PROTECTION_CALLS};
use crate::worker::environment::{duration, parse};
use crate::worker::{Beside, BuildError, Companion};

use agent::{Agent, CALL_LIMIT, Trouble};
use decide::{Answered, Ask, LONGEST, Machine, Mode, SHORTEST, Seen};

/// How long protection lasts at most, unless set.
const MOST: Duration = Duration::from_secs(2 * 60 * 60);

/// From when on a handler is a long job, unless set.
const LONG: Duration = Duration::from_secs(60);

/// How long a worker's loop may take to say what it runs.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);

/// How often a drain is looked for while something is waited for.
const GLANCE: Duration = Duration::from_millis(100);

/// How long releases may take in all, once the workers have ended: a companion has a second.
const LAST_LIMIT: Duration = Duration::from_millis(800);

/// Protects the ECS task that it runs in from being ended by scale-in or a deployment while handlers run: attach it with
/// [`Builder::beside`](crate::worker::Builder::beside) or [`Workers::beside`](crate::Workers::beside).
///
/// It asks the agent's endpoint, at `ECS_AGENT_URI`, which the agent sets in every container; the task role needs
/// `ecs:UpdateTaskProtection`. Protection is asked for 10 minutes at a time, renewed while it is needed,
/// ended when nothing has needed it for 15 s, and ended at once by a drain. That takes at most ten calls a minute, however
/// often the worker is busy and idle.
///
/// Work never waits for it: without the endpoint, or when that refuses, it says so once and the worker goes on unprotected.
///
/// ```
/// use redrive::ecs::ScaleInProtection;
/// # use redrive::worker::{BuildError, Builder};
///
/// # fn example(worker: Builder) -> Result<Builder, BuildError> {
/// let worker = worker.beside(ScaleInProtection::from_env()?);
/// # Ok(worker)
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScaleInProtection {
    mode: Mode,
    most: Duration,
    uri: Option<String>,
}

impl ScaleInProtection {
    fn new(mode: Mode) -> Self {
        Self {
            mode,
            most: MOST,
            uri: None,
        }
    }

    /// No protection.
    #[must_use]
    pub fn off() -> Self {
        Self::new(Mode::Off)
    }

    /// Protected while any handler runs, once one has for a second.
    #[must_use]
    pub fn auto() -> Self {
        Self::new(Mode::Auto)
    }

    /// Protected only while a handler runs that has run for a minute or longer: workers of quick messages make no call at all.
    #[must_use]
    pub fn long_jobs() -> Self {
        Self::long_jobs_after(LONG)
    }

    /// As [`long_jobs`](Self::long_jobs), where a job is long from `threshold` on.
    #[must_use]
    pub fn long_jobs_after(threshold: Duration) -> Self {
        Self::new(Mode::LongJobs(threshold))
    }

    /// How long the task may stay protected at a stretch, as a protected task holds deployments up too; 2 hours unless set. Jobs
    /// that follow each other within 15 s are one stretch. After it the task stays without for three minutes, whatever runs, and
    /// may then be protected again.
    ///
    /// # Errors
    /// When it is not from a minute to 48 hours, which are ECS's bounds.
    pub fn protection_max(mut self, most: Duration) -> Result<Self, BuildError> {
        if !(SHORTEST..=LONGEST).contains(&most) {
            return Err(BuildError::Companion {
                setting: "protection_max",
                why: format!("{most:?} is not {BOUNDS}"),
            });
        }
        self.most = most;
        Ok(self)
    }

    /// Where the agent is, instead of at `ECS_AGENT_URI`.
    #[must_use]
    pub fn agent_uri(mut self, uri: impl Into<String>) -> Self {
        self.uri = Some(uri.into());
        self
    }

    /// As the environment says: `REDRIVE_SCALE_IN_PROTECTION` is `off`, which it is unless set, `auto` or `long-jobs`, and
    /// `REDRIVE_PROTECTION_MAX` a duration such as `2h`.
    ///
    /// # Errors
    /// When one of them has another value.
    pub fn from_env() -> Result<Self, BuildError> {
        Self::from_variables(|name| std::env::var(name).ok())
    }

    /// As [`from_env`](Self::from_env), with the variables that `get` knows.
    ///
    /// # Errors
    /// When one of them has a value that cannot be right.
    pub fn from_variables(get: impl Fn(&str) -> Option<String>) -> Result<Self, BuildError> {
        let made = parse(
            &get,
            "REDRIVE_SCALE_IN_PROTECTION",
            "give off, auto or long-jobs",
            |text| match text {
                "off" => Some(Self::off()),
                "auto" => Some(Self::auto()),
                "long-jobs" => Some(Self::long_jobs()),
                _ => None,
            },
        )?;
        let why = format!("give a duration {BOUNDS}, as 2h");
        let most = parse(&get, "REDRIVE_PROTECTION_MAX", &why, |text| {
            duration(text).filter(|most| (SHORTEST..=LONGEST).contains(most))
        })?;
        let mut made = made.unwrap_or_else(Self::off);
        made.most = most.unwrap_or(made.most);
        Ok(made)
    }

    /// The agent, if there is one and it is wanted; says once why not.
    fn agent(&self) -> Option<Agent> {
        if self.mode == Mode::Off {
            return None;
        }
        let uri = self.uri.clone().or_else(|| std::env::var("ECS_AGENT_URI").ok());
        let Some(uri) = uri.filter(|uri| !uri.trim().is_empty()) else {
            tracing::warn!(
                "the task is not protected from scale-in: ECS_AGENT_URI is not set, so this is no ECS task, or its agent is older than 1.65"
            );
            return None;
        };
        match Agent::at(&uri) {
            Ok(agent) => Some(agent),
            Err(why) => {
                let uri = telemetry::shown(&uri);
                tracing::warn!(%uri, why, "the task is not protected from scale-in: the agent's address cannot be right");
                None
            }
        }
    }
}

/// What a longest protection can be.
const BOUNDS: &str = "from 1m to 48h, which are ECS's bounds";

impl Companion for ScaleInProtection {
    async fn run(self, beside: Beside) {
        if let Some(agent) = self.agent() {
            let machine = Machine::new(self.mode, self.most);
            Protecting::new(agent, self.mode, machine, beside).run().await;
        }
    }
}

/// What can be asked for protection.
trait Endpoint: Send + Sync {
    fn put(&self, ask: Ask) -> impl Future<Output = Result<(), Trouble>> + Send;
}

impl Endpoint for Agent {
    fn put(&self, ask: Ask) -> impl Future<Output = Result<(), Trouble>> + Send {
        Self::put(self, ask)
    }
}

/// A companion at work.
struct Protecting<E> {
    endpoint: E,
    mode: Mode,
    machine: Machine,
    beside: Beside,
    seen: Seen,
    /// What was wrong last.
    trouble: Option<String>,
    spent: bool,
}

impl<E: Endpoint> Protecting<E> {
    fn new(endpoint: E, mode: Mode, machine: Machine, beside: Beside) -> Self {
        Self {
            endpoint,
            mode,
            machine,
            beside,
            seen: Seen::default(),
            trouble: None,
            spent: false,
        }
    }

    async fn run(mut self) {
        tracing::info!(mode = ?self.mode, "protection of the task from scale-in is asked for while it is needed");
        let beside = self.beside.clone();
        let clock = beside.clock().clone();
        let mut ended = pin!(beside.ended());
        let last = loop {
            self.seen = self.see().await;
            let ask = self.machine.look(clock.now(), self.seen);
            self.show();
            if let Some(ask) = ask {
                let asked = clock.now();
                let (result, last) = self.call(ask, ended.as_mut()).await;
                let given_up = result.is_none();
                self.answered(asked, ask, result);
                if let Some(last) = last {
                    break last;
                }
                if given_up {
                    // It drains.
                    continue;
                }
            }
            let at = self.machine.look_at(clock.now(), self.seen);
            let sleep = pin!(tokio::time::sleep_until(at));
            if let Either::Left(_) = select(ended.as_mut(), sleep).await {
                break clock.now() + LAST_LIMIT;
            }
        };
        let asked = clock.now();
        let ask = self.machine.farewell(asked).filter(|_| asked < last);
        if let Some(ask) = ask {
            let result = tokio::time::timeout_at(last, self.endpoint.put(ask)).await;
            self.answered(asked, ask, Some(result.unwrap_or(Err(Trouble::TimedOut))));
        }
        self.show();
    }

    /// Asks the agent. A drain gives protection up that is being asked for, and the workers' end everything but a release, which
    /// may then take a little longer. Answers what came of it, and, if they have ended, by when all must be over.
    async fn call(
        &self,
        ask: Ask,
        ended: impl Future<Output = ()> + Unpin,
    ) -> (Option<Result<(), Trouble>>, Option<Instant>) {
        let call = pin!(self.endpoint.put(ask));
        let drained = pin!(async {
            match ask {
                Ask::Protect { .. } => self.drained().await,
                Ask::Release => std::future::pending().await,
            }
        });
        match select(ended, select(call, drained)).await {
            Either::Right((Either::Left((result, _)), _)) => (Some(result), None),
            Either::Right((Either::Right(_), _)) => (None, None),
            Either::Left(((), waiting)) => {
                let last = self.beside.clock().now() + LAST_LIMIT;
                if ask != Ask::Release {
                    return (None, Some(last));
                }
                let result = match tokio::time::timeout_at(last, waiting).await {
                    Ok(Either::Left((result, _))) => result,
                    Ok(Either::Right(_)) | Err(_) => Err(Trouble::TimedOut),
                };
                (Some(result), Some(last))
            }
        }
    }

    /// How the workers are. One that does not say for how long it runs what it runs goes by what it said before.
    async fn see(&self) -> Seen {
        let mut seen = Seen {
            running: 0,
            longest: self.seen.longest,
            draining: self.is_draining(),
        };
        let mut asked = Vec::new();
        for worker in self.beside.workers().workers() {
            let running = worker.status().running;
            seen.running += running;
            if running > 0 && matches!(self.mode, Mode::LongJobs(_)) {
                asked.push(async {
                    let longest = tokio::time::timeout(ANSWER_LIMIT, worker.longest_run()).await;
                    longest.unwrap_or(self.seen.longest)
                });
            }
        }
        // A drain waits for none of them.
        let (all, drained) = (pin!(join_all(asked)), pin!(self.drained()));
        match select(drained, all).await {
            Either::Left(_) => seen.draining = true,
            Either::Right((longest, _)) => seen.longest = longest.into_iter().max().unwrap_or_default(),
        }
        seen
    }

    /// Whether all of them drain, or have ended.
    fn is_draining(&self) -> bool {
        let workers = self.beside.workers().status();
        workers.iter().all(|status| status.draining || status.ended)
    }

    /// Waits until they do.
    async fn drained(&self) {
        while !self.is_draining() {
            tokio::time::sleep(GLANCE).await;
        }
    }

    /// Takes the answer to a call, or that it was given up.
    fn answered(&mut self, asked: Instant, ask: Ask, result: Option<Result<(), Trouble>>) {
        let now = self.beside.clock().now();
        match &result {
            Some(Ok(())) => self.machine.answered(asked, now, ask, Answered::Done),
            Some(Err(trouble)) => self.machine.answered(asked, now, ask, trouble.answered()),
            // The agent does it all the same, if it does, while its own call to ECS may take.
            None => self.machine.gave_up(asked, now, ask, asked + CALL_LIMIT),
        }
        if let Some(result) = result {
            let outcome = result.as_ref().err().map_or("ok", Trouble::outcome);
            telemetry::counter(&PROTECTION_CALLS, &[(OUTCOME, outcome)]).increment(1);
            self.say(ask, result);
        }
        self.show();
    }

    /// Shows how it stands, which changes without a call too: an expiry lapses.
    fn show(&mut self) {
        let protected = u8::from(self.machine.is_protected(self.beside.clock().now()));
        telemetry::gauge(&PROTECTED, &[]).set(protected);
        let spent = self.machine.is_spent();
        if spent && !self.spent {
            tracing::info!(
                "the task was protected for as long as it may be: it stays without for a while, for deployments and scale-in"
            );
        }
        self.spent = spent;
    }

    /// Logs what changed, not what is as it was.
    fn say(&mut self, ask: Ask, result: Result<(), Trouble>) {
        match result {
            Ok(()) => {
                if self.trouble.take().is_some() {
                    tracing::info!("the ECS agent does as it is asked again");
                }
                match ask {
                    Ask::Protect { minutes } => tracing::debug!(minutes, "the task is protected from scale-in"),
                    Ask::Release => tracing::debug!("the task is not protected from scale-in any more"),
                }
            }
            Err(trouble) => {
                let kind = trouble.kind();
                if self.trouble.as_ref() != Some(&kind) {
                    let asked = match ask {
                        Ask::Protect { .. } => "protected from scale-in",
                        Ask::Release => "released from its protection",
                    };
                    tracing::warn!(%trouble, "the task could not be {asked}; the work goes on, and it is tried again");
                    self.trouble = Some(kind);
                }
            }
        }
    }
}
