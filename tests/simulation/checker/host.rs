//! What the judge knows of a worker's process, and what that may do: receive, drain, start.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use redrive::clock::Instant;
use redrive::flow::BreakerState;
use redrive::message::Receipt;
use redrive::queue::MAX_BATCH;
use redrive::worker::Status;

use crate::plan::{HandlerPlan, InboxMode, WorkerPlan};

use super::limits::{Rate, Slots, Starts};
use super::{Checker, GRACE, Held, Who, label};

/// How many deliveries wait aside at most, unless set or where there are as many slots.
const HELD_BACK: usize = 100;

/// What a worker's process goes through, and what it says of itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct Host {
    pub(crate) stalled: bool,
    /// When it last stood still.
    pub(crate) went_on: Option<Instant>,
    /// Its handler takes several deliveries at once, and stops only when none of them is wanted.
    pub(crate) batches: bool,
    /// It watches a breaker of somebody else's.
    pub(crate) watches: bool,
    pub(crate) handler_timeout: Option<Duration>,
    pub(crate) slots: Slots,
    pub(crate) rate: Rate,
    /// Each tenant's rate and burst, and what its tenants have used.
    pub(crate) tenants: Option<(f64, u32)>,
    pub(crate) by_tenant: BTreeMap<String, Starts>,
    /// How many deliveries may wait aside.
    held_back: usize,
    /// The most slots it ever had: what was fetched for them stays held.
    most_slots: usize,
    pub(super) breaker: Seen,
    pub(super) inbox_breaker: Seen,
    /// Since when something holds its receives up.
    held_up: Option<Instant>,
    /// Since when it drains, by its own word.
    draining: Option<Instant>,
    /// Runs that ended since its loop last turned.
    pub(super) ended: Vec<u64>,
    /// How often it has turned.
    turns: u64,
}

/// A breaker as its worker shows it after each turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(super) state: Option<BreakerState>,
    since: Option<Instant>,
}

impl Seen {
    fn see(&mut self, now: Instant, state: Option<BreakerState>) {
        if self.state != state {
            *self = Self {
                state,
                since: Some(now),
            };
        }
    }

    /// Whether it was open already before now, and still is.
    fn is_open(&self, now: Instant) -> bool {
        matches!(self.state, Some(BreakerState::Open { until }) if now < until) && self.is_older(now)
    }

    fn is_half_open(&self, now: Instant) -> bool {
        self.state == Some(BreakerState::HalfOpen) && self.is_older(now)
    }

    fn is_older(&self, now: Instant) -> bool {
        self.since.is_some_and(|since| since < now)
    }

    pub(crate) fn is_shut(&self) -> bool {
        self.state.is_some_and(|state| !state.is_closed())
    }
}

impl Host {
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.is_some()
    }
}

/// A worker's loop, whose state the judge sees whenever it was polled.
pub(crate) struct Turning<F, L> {
    pub(crate) inner: Pin<Box<F>>,
    pub(crate) look: L,
}

impl<F: Future, L: FnMut() + Unpin> Future for Turning<F, L> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let polled = self.inner.as_mut().poll(cx);
        (self.look)();
        polled
    }
}

impl Checker {
    /// A worker's process starts.
    pub(crate) fn begins(&mut self, who: &Who, plan: &WorkerPlan) {
        let batch = match plan.handler {
            HandlerPlan::Batch(size, _) => size,
            _ => 1,
        };
        let host = Host {
            batches: batch > 1,
            watches: plan.downstream.is_some(),
            handler_timeout: plan.handler_timeout,
            slots: Slots::new(plan.concurrency, batch),
            rate: Rate::new(plan.rate),
            tenants: plan.tenants,
            held_back: plan.held_back.unwrap_or_else(|| plan.concurrency.max(HELD_BACK)),
            ..Host::default()
        };
        self.hosts.insert(Arc::clone(who), host);
    }

    /// A worker's loop was polled and says this of itself.
    pub(crate) fn turned(&mut self, who: &Who, status: &Status) {
        let now = self.now();
        let fifo = self.modes.fifo;
        let host = self.host(who);
        // It may only have let others go first.
        if std::mem::replace(&mut host.turns, status.turns) == status.turns {
            return;
        }
        let was = host.breaker;
        host.breaker.see(now, status.breaker);
        host.inbox_breaker.see(now, status.inbox_breaker);
        let is = host.breaker;
        host.held_up = status.held_up.then(|| host.held_up.unwrap_or(now));
        host.draining = status.draining.then(|| host.draining.unwrap_or(now));
        host.slots.set(now, status.concurrency);
        host.most_slots = host.most_slots.max(status.concurrency * host.slots.batch);
        let held = status.running + status.waiting;
        // A receive of a FIFO queue brings up to ten of one group, of which one can run.
        let behind = if fifo { MAX_BATCH * (host.most_slots + 1) } else { 0 };
        let most = host.most_slots + (2 * host.most_slots).max(2 * MAX_BATCH) + host.held_back + behind;
        // While its loop stands still, nothing that ended has reached its breaker.
        let ended = if host.stalled {
            Vec::new()
        } else {
            std::mem::take(&mut host.ended)
        };
        if was.state != is.state && was.state.is_some() {
            self.note(who, format!("  breaker {}", shown(is.state)));
        }
        if held > most && held > most + self.suspects_of(who) {
            self.broken("inv05", format!("{who} holds {held} deliveries, and may hold {most}"));
        }
        self.judge_ends(who, &ended, was, is);
    }

    /// How many deliveries it holds that wait apart as suspects.
    fn suspects_of(&self, who: &Who) -> usize {
        self.claims
            .values()
            .filter(|claim| claim.who == *who && claim.suspect)
            .count()
    }

    /// A receive begins.
    pub(crate) fn receive_sent(&mut self, who: &Who, most: usize) {
        let now = self.now();
        let Some(host) = self.hosts.get(who) else { return };
        if host.stalled {
            return;
        }
        let older = |since: Option<Instant>| since.is_some_and(|since| since < now);
        let open = host.breaker.is_open(now) || host.inbox_breaker.is_open(now);
        let held_up = older(host.held_up) && !host.breaker.is_shut() && !host.inbox_breaker.is_shut();
        let half_open = host.breaker.is_half_open(now) || host.inbox_breaker.is_half_open(now);
        let draining = older(host.draining);
        if open || held_up {
            self.broken("inv04", format!("{who} starts a receive while a breaker is open"));
        }
        if half_open && most > 1 {
            self.broken(
                "inv04",
                format!("{who} asks for {most} messages while a breaker is half open"),
            );
        }
        if draining {
            self.broken("inv08", format!("{who} starts a receive although it drains"));
        }
        if most > MAX_BATCH {
            self.broken("inv05", format!("{who} asks for {most} messages at once"));
        }
    }

    /// The worker ended by itself after a drain. `took`: how long that took, where it can be held against it.
    pub(crate) fn drained(&mut self, who: &Who, took: Option<Duration>, deadline: Duration) {
        self.note(who, format!("drained in {took:?}"));
        if self.is_excused(who) {
            return;
        }
        if took.is_some_and(|took| took > deadline + GRACE) {
            self.broken("inv08", format!("{who} took {took:?} of {deadline:?} to drain"));
        }
        if took.is_none_or(|took| took >= deadline) {
            return;
        }
        // A shadow's record is given back if that can be done, and holds nothing up if not.
        let binds = self.modes.inbox == InboxMode::Used;
        let left = self.claims.iter().filter(|_| binds).find(|(id, claim)| {
            let held = claim.who == *who && claim.told && !claim.given_up && self.is_held_under(id, claim);
            // A suspect that found no room went back, and its claim is left to run out.
            let settled = |(holder, _, held): (&Who, &Receipt, &Held)| holder == who && held.settled.is_some();
            let aside = claim.took_over && claim.last_run.is_none() && self.held_of(claim.message).any(settled);
            held && !aside
        });
        if let Some((_, claim)) = left {
            let text = format!(
                "{who} ended before its time and left {} on {}",
                claim.label,
                label(claim.message)
            );
            return self.broken("inv08", text);
        }
        // What it gave up for lost, and what it had for too long, comes back by itself.
        let left = self.receipts.iter().find(|((holder, _), held)| {
            let given_up = self
                .claim_for(who, held)
                .is_some_and(|(_, claim)| claim.given_up || claim.ended.is_some());
            holder == who
                && held.told.is_some()
                && held.settled.is_none()
                && !held.lost
                && !given_up
                && self.messages[held.message].held
                && self.is_current(held)
        });
        if let Some((_, held)) = left {
            let text = format!(
                "{who} ended before its time and did not give {} back",
                label(held.message)
            );
            self.broken("inv08", text);
        }
    }
}

fn shown(state: Option<BreakerState>) -> &'static str {
    match state {
        None => "is none",
        Some(BreakerState::Closed) => "closes",
        Some(BreakerState::Open { .. }) => "opens",
        Some(BreakerState::HalfOpen) => "is half open",
    }
}
