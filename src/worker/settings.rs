//! A worker's settings as they were made, and whether they can be right, alone and together.

use std::collections::BTreeMap;
use std::time::Duration;

use super::config::{
    AfterReject, Config, CountsAsFailure, DeadLetters, FingerprintSource, MAX_CONCURRENCY, Observer, OnDuplicate,
    TenantLimit, WithoutDeadLetters, check_concurrency,
};
use super::environment::{BreakerTuning, DeadLetterMode, Environment};
use super::error::BuildError;
use crate::clock::{Clock, Random};
use crate::flow::{AdaptiveConcurrency, Backoff, BreakerConfig, BreakerWatch, FlowError, RateLimit};
use crate::inbox::{MAX_LEASE, MIN_LEASE};
use crate::key::KeySource;
use crate::queue::{MAX_VISIBILITY, MAX_WAIT, Queue};

/// How many handlers run at once unless set.
const CONCURRENCY: usize = 16;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// What was set, before it is checked.
#[derive(Clone)]
pub(super) struct Settings {
    pub(super) name: Option<String>,
    pub(super) consumer: Option<String>,
    pub(super) concurrency: Option<usize>,
    pub(super) adaptive: Option<AdaptiveConcurrency>,
    pub(super) rate: Option<RateLimit>,
    pub(super) tenants: Option<TenantLimit>,
    pub(super) bulkheads: BTreeMap<String, usize>,
    pub(super) held_back: Option<usize>,
    pub(super) handler_timeout: Option<Duration>,
    pub(super) backoff: Backoff,
    pub(super) max_attempts: u32,
    pub(super) breaker: Option<BreakerConfig>,
    pub(super) counts_as_failure: Option<CountsAsFailure>,
    pub(super) watched: Vec<BreakerWatch>,
    pub(super) keep_while_open: Duration,
    pub(super) dead_letters: Option<DeadLetters>,
    pub(super) after_reject: AfterReject,
    pub(super) key_source: KeySource,
    pub(super) key_by_deduplication_id: bool,
    pub(super) fingerprint: FingerprintSource,
    pub(super) shadow: bool,
    pub(super) retention: Duration,
    pub(super) lease: Option<Duration>,
    pub(super) heartbeat: bool,
    pub(super) in_flight_delay: Duration,
    pub(super) drain_deadline: Duration,
    pub(super) long_poll: Duration,
    pub(super) max_receives: Option<usize>,
    pub(super) linger: Duration,
    pub(super) stall_after: Option<Duration>,
    pub(super) on_duplicate: Option<OnDuplicate>,
    pub(super) observer: Option<Observer>,
    pub(super) clock: Clock,
    pub(super) random: Random,
    pub(super) problem: Option<BuildError>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            name: None,
            consumer: None,
            concurrency: None,
            adaptive: None,
            rate: None,
            tenants: None,
            bulkheads: BTreeMap::new(),
            held_back: None,
            handler_timeout: None,
            backoff: Backoff::default(),
            max_attempts: 5,
            breaker: Some(BreakerConfig::default()),
            counts_as_failure: None,
            watched: Vec::new(),
            keep_while_open: Duration::from_secs(15 * 60),
            dead_letters: None,
            after_reject: AfterReject::default(),
            key_source: KeySource::default(),
            key_by_deduplication_id: false,
            fingerprint: FingerprintSource::default(),
            shadow: false,
            retention: 35 * DAY,
            lease: None,
            heartbeat: true,
            in_flight_delay: Duration::from_secs(30),
            drain_deadline: Duration::from_secs(110),
            long_poll: MAX_WAIT,
            max_receives: None,
            linger: Duration::from_millis(5),
            stall_after: None,
            on_duplicate: None,
            observer: None,
            clock: Clock::system(),
            random: Random::from_system(),
            problem: None,
        }
    }
}

/// Makes errors that name the worker.
pub(super) struct Check<'a> {
    pub(super) worker: &'a str,
}

impl Check<'_> {
    pub(super) fn wrong(&self, setting: &'static str, why: impl std::fmt::Display) -> BuildError {
        BuildError::Setting {
            worker: self.worker.to_owned(),
            setting,
            why: why.to_string(),
        }
    }

    fn flow(&self, source: FlowError) -> BuildError {
        BuildError::Flow {
            worker: self.worker.to_owned(),
            source,
        }
    }

    fn span(&self, setting: &'static str, value: Duration, least: Duration, most: Duration) -> Result<(), BuildError> {
        if (least..=most).contains(&value) {
            return Ok(());
        }
        let [value, least, most] = [value, least, most].map(shown);
        Err(self.wrong(setting, format_args!("{value} is outside {least} to {most}")))
    }
}

fn shown(span: Duration) -> String {
    if span.is_zero() {
        "0s".to_owned()
    } else {
        format!("{span:?}")
    }
}

impl Settings {
    pub(super) fn apply(&mut self, env: &Environment) -> Result<(), BuildError> {
        fn set<T: Clone>(to: &mut T, from: Option<&T>) {
            if let Some(value) = from {
                *to = value.clone();
            }
        }
        let refuse = |variable: &str, value: &dyn std::fmt::Display, error: FlowError| BuildError::Variable {
            variable: variable.to_owned(),
            value: value.to_string(),
            why: error.to_string(),
        };
        set(&mut self.max_attempts, env.max_attempts.as_ref());
        set(&mut self.drain_deadline, env.drain_deadline.as_ref());
        set(&mut self.long_poll, env.long_poll.as_ref());
        set(&mut self.retention, env.inbox_retention.as_ref());
        set(&mut self.shadow, env.shadow.as_ref());
        set(&mut self.keep_while_open, env.keep_while_open.as_ref());
        set(&mut self.after_reject, env.after_reject.as_ref());
        set(
            &mut self.key_by_deduplication_id,
            env.key_from_deduplication_id.as_ref(),
        );
        set(&mut self.heartbeat, env.heartbeat.as_ref());
        set(&mut self.in_flight_delay, env.in_flight_delay.as_ref());
        set(&mut self.linger, env.linger.as_ref());
        self.name = env.name.clone().or_else(|| self.name.take());
        self.consumer = env.consumer.clone().or_else(|| self.consumer.take());
        self.held_back = env.held_back.or(self.held_back);
        self.lease = env.lease.or(self.lease);
        self.stall_after = env.stall_after.or(self.stall_after);
        match (env.fingerprint, &self.fingerprint) {
            (Some(false), _) => self.fingerprint = FingerprintSource::Off,
            (Some(true), FingerprintSource::Off) => self.fingerprint = FingerprintSource::Body,
            _ => {}
        }
        match (env.dead_letters, &self.dead_letters) {
            // A queue that the code chose is one to send to.
            (None, _) | (Some(DeadLetterMode::Send), Some(DeadLetters::Queue(_))) => {}
            (Some(DeadLetterMode::Send), _) => self.dead_letters = None,
            (Some(DeadLetterMode::Policy), _) => self.dead_letters = Some(DeadLetters::RedrivePolicy),
            (Some(DeadLetterMode::Keep), _) => self.dead_letters = Some(DeadLetters::Without(WithoutDeadLetters::Keep)),
            (Some(DeadLetterMode::Discard), _) => {
                self.dead_letters = Some(DeadLetters::Without(WithoutDeadLetters::Discard));
            }
        }
        self.apply_concurrency(env)?;
        self.handler_timeout = env.handler_timeout.or(self.handler_timeout);
        self.max_receives = env.max_receives.or(self.max_receives);
        if let Some(rate) = env.rate {
            self.rate = Some(RateLimit::per_second(rate).map_err(|error| refuse("REDRIVE_RATE", &rate, error))?);
        }
        if let Some(burst) = env.burst {
            let rate = self.rate.ok_or_else(|| BuildError::Variable {
                variable: "REDRIVE_BURST".to_owned(),
                value: burst.to_string(),
                why: "there is no rate limit that it could belong to; set REDRIVE_RATE too".to_owned(),
            })?;
            self.rate = Some(
                rate.burst(burst)
                    .map_err(|error| refuse("REDRIVE_BURST", &burst, error))?,
            );
        }
        if env.backoff.is_some() || env.backoff_cap.is_some() || env.backoff_jitter.is_some() {
            let base = env.backoff.unwrap_or_else(|| self.backoff.base());
            let cap = env.backoff_cap.unwrap_or_else(|| self.backoff.cap());
            let jitter = env.backoff_jitter.unwrap_or_else(|| self.backoff.jitter_kind());
            self.backoff = Backoff::new(base, cap)
                .map_err(|error| {
                    refuse(
                        "REDRIVE_BACKOFF, REDRIVE_BACKOFF_CAP",
                        &format!("{base:?}, {cap:?}"),
                        error,
                    )
                })?
                .jitter(jitter);
        }
        match env.breaker {
            Some(false) => self.breaker = None,
            Some(true) if self.breaker.is_none() => self.breaker = Some(BreakerConfig::default()),
            _ => {}
        }
        self.tune_breaker(&env.tuning)
    }

    /// One way of saying how many run at once takes the place of the other.
    fn apply_concurrency(&mut self, env: &Environment) -> Result<(), BuildError> {
        let (min, max, start) = (env.concurrency_min, env.concurrency_max, env.concurrency_start);
        let bounds = [
            ("REDRIVE_CONCURRENCY_MIN", min),
            ("REDRIVE_CONCURRENCY_MAX", max),
            ("REDRIVE_CONCURRENCY_START", start),
        ];
        let given = bounds
            .into_iter()
            .find_map(|(variable, value)| Some((variable, value?)));
        let refuse = |(variable, value): (&str, usize), why: &str| BuildError::Variable {
            variable: variable.to_owned(),
            value: value.to_string(),
            why: why.to_owned(),
        };
        match (env.concurrency, given) {
            (None, None) => {}
            (Some(concurrency), None) => {
                self.concurrency = Some(concurrency);
                self.adaptive = None;
            }
            (Some(_), Some(given)) => {
                return Err(refuse(given, "REDRIVE_CONCURRENCY says the number; set either of them"));
            }
            (None, Some(given)) => {
                let known = self.adaptive;
                let (Some(min), Some(max)) = (
                    min.or_else(|| known.map(|known| known.min())),
                    max.or_else(|| known.map(|known| known.max())),
                ) else {
                    return Err(refuse(
                        given,
                        "both bounds are needed; set REDRIVE_CONCURRENCY_MIN and REDRIVE_CONCURRENCY_MAX",
                    ));
                };
                let bounds = AdaptiveConcurrency::between(min, max);
                self.adaptive = Some(match start.or_else(|| known.and_then(|known| known.start_setting())) {
                    Some(start) => bounds.start_at(start),
                    None => bounds,
                });
                self.concurrency = None;
            }
        }
        Ok(())
    }

    /// How many handlers run at once at first, and at most.
    fn slots(&self, check: &Check<'_>) -> Result<(usize, usize), BuildError> {
        match (self.concurrency, self.adaptive) {
            (Some(_), Some(_)) => Err(check.wrong(
                "adaptive_concurrency",
                "`.concurrency(…)` says the number; set either of them",
            )),
            (None, Some(adaptive)) => match adaptive.problem(MAX_CONCURRENCY) {
                Some(problem) => Err(check.wrong("adaptive_concurrency", problem)),
                None => Ok((adaptive.start(), adaptive.max())),
            },
            (concurrency, None) => {
                let concurrency = concurrency.unwrap_or(CONCURRENCY);
                check_concurrency(concurrency).map_err(|error| check.flow(error))?;
                Ok((concurrency, concurrency))
            }
        }
    }

    fn tune_breaker(&mut self, tuning: &BreakerTuning) -> Result<(), BuildError> {
        let Some((variable, value)) = tuning.first() else {
            return Ok(());
        };
        let Some(config) = self.breaker.take() else {
            return Err(BuildError::Variable {
                variable: variable.to_owned(),
                value,
                why: "there is no breaker that it could belong to; set REDRIVE_BREAKER to true, or leave it out"
                    .to_owned(),
            });
        };
        let tuned = tuning
            .applied_to(config)
            .map_err(|(variable, value, error)| BuildError::Variable {
                variable: variable.to_owned(),
                value,
                why: error.to_string(),
            })?;
        self.breaker = Some(tuned);
        Ok(())
    }

    pub(super) fn check(
        self,
        check: &Check<'_>,
        queue: &dyn Queue,
        name: &str,
        handler: &dyn crate::handler::ErasedHandler,
        has_inbox: bool,
    ) -> Result<Config, BuildError> {
        let attributes = queue.attributes();
        let (concurrency, most) = self.slots(check)?;
        if self.max_attempts == 0 {
            return Err(check.wrong(
                "max_attempts",
                "0 would dead-letter every message unseen; give at least 1",
            ));
        }
        if self.max_receives == Some(0) {
            return Err(check.wrong("max_receives", "0 would never receive; give at least 1"));
        }
        let second = Duration::from_secs(1);
        check.span("long_poll", self.long_poll, Duration::ZERO, MAX_WAIT)?;
        check.span("drain_deadline", self.drain_deadline, Duration::ZERO, 2 * DAY)?;
        check.span("keep_while_open", self.keep_while_open, Duration::ZERO, MAX_VISIBILITY)?;
        if let Some(limit) = self.stall_after {
            check.span("stall_after", limit, second, 7 * DAY)?;
            if limit < self.long_poll + second {
                return Err(check.wrong(
                    "stall_after",
                    format_args!(
                        "{limit:?} is not a second above `long_poll`, {:?}: every receive that waits for a message would count as \
                         a stall; give {:?} or more, or poll for less long",
                        self.long_poll,
                        self.long_poll + second
                    ),
                ));
            }
        }
        check.span("linger", self.linger, Duration::ZERO, second)?;
        check.span(
            "in_flight_delay",
            self.in_flight_delay,
            Duration::ZERO,
            Duration::from_secs(15 * 60),
        )?;
        check.span("inbox_retention", self.retention, Duration::from_secs(60), 3650 * DAY)?;
        if let Some(limit) = self.handler_timeout {
            check.span("handler_timeout", limit, Duration::from_millis(1), 7 * DAY)?;
        }
        if let Some(lease) = self.lease {
            check.span("lease", lease, second, MAX_LEASE)?;
        }
        let consumer = self.consumer.clone().unwrap_or_else(|| attributes.name.clone());
        if consumer.is_empty() || consumer.contains('#') || consumer.len() > 512 {
            return Err(check.wrong(
                "consumer",
                format_args!("`{consumer}` cannot name a consumer; give 1 to 512 bytes without `#`"),
            ));
        }
        if self.shadow && !has_inbox {
            return Err(check.wrong("shadow", "there is no inbox that could record; set `.inbox(…)`"));
        }
        for (bulkhead, &limit) in &self.bulkheads {
            if limit == 0 {
                return Err(check.wrong(
                    "bulkhead",
                    format_args!("`{bulkhead}` of 0 would never run a handler; give at least 1"),
                ));
            }
        }
        for wanted in handler.bulkheads() {
            if !self.bulkheads.contains_key(&wanted) {
                return Err(check.wrong(
                    "bulkhead",
                    format_args!(
                        "a route runs in `{wanted}`, which is not set; add `.bulkhead(\"{wanted}\", handlers)`"
                    ),
                ));
            }
        }
        if let Some(problem) = handler.problems().into_iter().next() {
            return Err(check.wrong("handler", problem));
        }
        let key_source = if self.key_by_deduplication_id {
            if !attributes.fifo {
                return Err(check.wrong(
                    "key_from_deduplication_id",
                    format_args!(
                        "queue `{}` is not a FIFO queue, so its messages have no deduplication id",
                        attributes.name
                    ),
                ));
            }
            if attributes.content_based_deduplication {
                return Err(check.wrong(
                    "key_from_deduplication_id",
                    format_args!(
                        "queue `{}` makes deduplication ids of bodies: two orders alike would be one; send an `Idempotency-Key` \
                         attribute, or turn content-based deduplication off",
                        attributes.name
                    ),
                ));
            }
            KeySource::DeduplicationId {
                by_group: attributes.deduplication_by_group,
            }
        } else {
            self.key_source.clone()
        };
        let dead_letters = dead_letters(check, queue, self.dead_letters.clone())?;
        let visibility = attributes.visibility_timeout;
        if visibility.is_zero() {
            return Err(check.wrong(
                "queue",
                format_args!(
                    "the visibility timeout of `{}` is 0: every message would be received again at once; raise it",
                    attributes.name
                ),
            ));
        }
        let lease = self.lease.unwrap_or_else(|| visibility.clamp(MIN_LEASE, MAX_LEASE));
        if !self.heartbeat && self.handler_timeout.is_some_and(|limit| limit > lease.min(visibility)) {
            return Err(check.wrong(
                "handler_timeout",
                format_args!("it is over the visibility timeout or lease and the heartbeat is off: every long run would be lost and run again"),
            ));
        }
        Ok(Config {
            name: name.to_owned(),
            consumer,
            concurrency,
            held_back: self.held_back.unwrap_or_else(|| most.max(100)),
            dead_letters,
            key_source,
            lease,
            visibility: visibility.min(MAX_VISIBILITY),
            max_receives: self.max_receives.unwrap_or_else(|| (1 + most / 4).min(16)),
            stall_after: self.stall_after.unwrap_or(3 * self.long_poll + Duration::from_secs(60)),
            settings: self,
        })
    }
}

/// Where dead letters go, or why that cannot be said.
fn dead_letters(check: &Check<'_>, queue: &dyn Queue, set: Option<DeadLetters>) -> Result<DeadLetters, BuildError> {
    let attributes = queue.attributes();
    let chosen = match set {
        Some(chosen) => chosen,
        None => match queue.dead_letter_queue() {
            Some(dead) => DeadLetters::Queue(dead),
            None => {
                return Err(BuildError::NoDeadLetterQueue {
                    worker: check.worker.to_owned(),
                    queue: attributes.name.clone(),
                    detail: queue
                        .dead_letter_problem()
                        .map_or_else(String::new, |why| format!(" ({why})")),
                });
            }
        },
    };
    match &chosen {
        DeadLetters::Queue(dead) => {
            let dead = dead.attributes();
            if dead.arn == attributes.arn {
                return Err(check.wrong(
                    "dead_letter",
                    format_args!(
                        "`{}` is the source itself: its dead letters would be received again for ever",
                        dead.name
                    ),
                ));
            }
            if dead.fifo != attributes.fifo {
                return Err(check.wrong(
                    "dead_letter",
                    format_args!(
                        "`{}` and `{}` must both be FIFO queues or both be standard queues",
                        attributes.name, dead.name
                    ),
                ));
            }
        }
        DeadLetters::RedrivePolicy if attributes.redrive.is_none() => {
            return Err(check.wrong(
                "dead_letter_by_redrive_policy",
                format_args!(
                    "queue `{}` has no redrive policy: what is given up would come back for ever",
                    attributes.name
                ),
            ));
        }
        DeadLetters::RedrivePolicy | DeadLetters::Without(_) => {}
    }
    Ok(chosen)
}
