//! Limits as the judge counts them itself: slots, rates, tenants' rates.

use redrive::clock::Instant;

use crate::plan::InboxMode;

use super::{Checker, Who, label};

/// How many handlers may run; where that was changed this instant, the more generous of both.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Slots {
    now: usize,
    before: usize,
    changed: Option<Instant>,
    /// Deliveries to a slot.
    pub(crate) batch: usize,
}

impl Slots {
    pub(crate) fn new(slots: usize, batch: usize) -> Self {
        Self {
            now: slots,
            before: slots,
            changed: None,
            batch,
        }
    }

    pub(crate) fn set(&mut self, now: Instant, slots: usize) {
        if self.now != slots {
            self.before = self.now;
            self.now = slots;
            self.changed = Some(now);
        }
    }

    fn most(&self, now: Instant) -> usize {
        let slots = if self.changed == Some(now) {
            self.now.max(self.before)
        } else {
            self.now
        };
        slots * self.batch.max(1)
    }
}

/// Starts as a rate allows them: a bucket of its own, kept by the judge.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rate {
    limit: Option<(f64, u32)>,
    tokens: f64,
    at: Option<Instant>,
}

impl Rate {
    pub(crate) fn new(limit: Option<(f64, u32)>) -> Self {
        Self {
            limit,
            tokens: limit.map_or(0.0, |(_, burst)| f64::from(burst)),
            at: None,
        }
    }

    /// Sets another limit; what was left stays.
    pub(crate) fn set(&mut self, limit: Option<(f64, u32)>) {
        let left = if self.limit.is_some() {
            self.tokens
        } else {
            f64::INFINITY
        };
        self.limit = limit;
        self.tokens = limit.map_or(0.0, |(_, burst)| f64::from(burst).min(left));
    }

    /// One starts; whether that is one too many. `slack`: how many tokens may be taken some time before their start.
    fn take(&mut self, now: Instant, slack: f64) -> bool {
        let Some((rate, burst)) = self.limit else { return false };
        let passed = self
            .at
            .replace(now)
            .map_or(0.0, |at| now.saturating_duration_since(at).as_secs_f64());
        self.tokens = (self.tokens + passed * rate).min(f64::from(burst)) - 1.0;
        // Clocks of whole milliseconds are not more exact than that.
        let inexact = 0.01 + rate * 0.001;
        self.tokens < -slack - inexact
    }
}

/// Starts of a tenant, the last ones, each with the time from which on its token may have been taken: a token is taken first,
/// and what then waits for a bulkhead, a breaker or its announcement has it in hand.
#[derive(Clone, Debug, Default)]
pub(crate) struct Starts(Vec<(Instant, Instant)>);

/// How many starts of a tenant are looked at together.
const STARTS: usize = 64;

impl Starts {
    /// One starts; whether there are more than a bucket of this rate and burst has tokens for. One more may be in hand.
    fn take(&mut self, (rate, burst): (f64, u32), ready: Instant, now: Instant) -> bool {
        if self.0.len() == STARTS {
            self.0.remove(0);
        }
        self.0.push((ready.min(now), now));
        self.0.iter().any(|&(since, _)| {
            let within = self.0.iter().filter(|(ready, _)| *ready >= since).count();
            let passed = now.saturating_duration_since(since).as_secs_f64();
            // Clocks of whole milliseconds are not more exact than that.
            let inexact = 0.01 + rate * 0.001;
            within as f64 > 1.0 + f64::from(burst) + rate * passed + inexact
        })
    }
}

impl Checker {
    /// Since when a message that is about to run may have had its token.
    fn ready_since(&self, who: &Who, message: usize) -> Instant {
        let of = (std::sync::Arc::clone(who), message);
        let told = self.told.get(&of).map(|told| told.at);
        let received = self.held_of(message).filter(|(holder, ..)| *holder == who);
        let received = received.filter_map(|(_, _, held)| held.told).max();
        let ran = self.ran.get(&of).map(|(at, _)| *at);
        let last = if self.modes.inbox == InboxMode::Used {
            told
        } else {
            received
        };
        [last, ran].into_iter().flatten().max().unwrap_or_else(|| self.now())
    }

    /// A handler is about to start on a message of this tenant.
    pub(crate) fn check_limits(&mut self, who: &Who, message: usize) {
        let now = self.now();
        let running = self.runs.values().filter(|run| run.who == *who).count();
        let tenant = self.tenant_of(message);
        let ready = self.ready_since(who, message);
        let Some(host) = self.hosts.get_mut(who) else { return };
        let most = host.slots.most(now);
        // One token may be in hand since before, for a handler that did not start then.
        let too_fast = host.rate.take(now, 1.0);
        let tenant_too_fast = match (host.tenants, &tenant) {
            (Some(limit), Some(tenant)) => host
                .by_tenant
                .entry(tenant.clone())
                .or_default()
                .take(limit, ready, now),
            _ => false,
        };
        if running >= most {
            self.broken("inv05", format!("{who} runs more than {most} handlers"));
        }
        if too_fast {
            self.broken("inv05", format!("{who} starts {} over its rate", label(message)));
        }
        if tenant_too_fast {
            self.broken(
                "inv05",
                format!("{who} starts {} over the rate of tenant {tenant:?}", label(message)),
            );
        }
    }
}
