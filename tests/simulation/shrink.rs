//! Making a broken plan smaller, as long as the same invariant breaks.
//!
//! Lists are cut by delta debugging (Zeller and Hildebrandt, 2002): first all of a list, then halves, quarters, and so on to
//! single entries; settings are put to what is plainest. Whatever is left out, the rest draws what it drew before, but calls
//! come at other times then, so a smaller plan is only taken if it was run and broke the same.

use std::time::Duration;

use crate::bugs::Bug;
use crate::checker::Violation;
use crate::plan::{BreakerPlan, Character, HandlerPlan, HostEvent, InboxMode, Plan, WorkerPlan};
use crate::scene::{Report, run};

/// The most plans that are tried.
const MOST_RERUNS: usize = 400;

/// The most events in all of these together, which bounds the time it takes.
const MOST_EVENTS: u64 = 500_000;

/// What shrinking came to.
pub(crate) struct Shrunk {
    pub(crate) report: Report,
    pub(crate) reruns: usize,
}

/// Shrinks a broken report's plan.
pub(crate) fn shrink(report: &Report, bug: Bug) -> Shrunk {
    let Some(violation) = &report.violation else {
        let report = run(report.plan.clone(), bug);
        return Shrunk { report, reruns: 1 };
    };
    let mut shrinker = Shrinker {
        sketch: sketch(violation),
        bug,
        best: run(report.plan.clone(), bug),
        reruns: 1,
        events: 0,
    };
    loop {
        let before = shrinker.best.plan.clone();
        PARTS.iter().for_each(|part| shrinker.cut(part));
        PLAINER.iter().for_each(|plainer| shrinker.plain(*plainer));
        for worker in 0..shrinker.best.plan.workers.len() {
            for plainer in PLAINER_WORKERS {
                shrinker.plain(|plan| plainer(&mut plan.workers[worker]));
            }
        }
        for message in 0..shrinker.best.plan.messages.len() {
            shrinker.plain(|plan| plan.messages[message].character = Character::Healthy);
        }
        if shrinker.best.plan == before || shrinker.is_spent() {
            let Shrinker { best, reruns, .. } = shrinker;
            return Shrunk { report: best, reruns };
        }
    }
}

/// What a violation says, whatever it says it of.
fn sketch(violation: &Violation) -> String {
    let words = violation
        .text
        .split(' ')
        .filter(|word| !word.contains(char::is_numeric));
    let words: Vec<&str> = words.collect();
    format!("{} {}", violation.invariant, words.join(" "))
}

struct Shrinker {
    sketch: String,
    bug: Bug,
    best: Report,
    reruns: usize,
    events: u64,
}

/// A list of a plan.
struct Part {
    len: fn(&Plan) -> usize,
    keep: fn(&mut Plan, &dyn Fn(usize) -> bool),
}

impl Shrinker {
    fn is_spent(&self) -> bool {
        self.reruns >= MOST_RERUNS || self.events >= MOST_EVENTS
    }

    /// Takes the plan if it breaks the same.
    fn takes(&mut self, plan: Plan) -> bool {
        if self.is_spent() || plan == self.best.plan {
            return false;
        }
        let report = run(plan, self.bug);
        self.reruns += 1;
        self.events += report.totals.events;
        let same = report.violation.as_ref();
        let same = same.is_some_and(|violation| sketch(violation) == self.sketch);
        if same {
            self.best = report;
        }
        same
    }

    fn plain(&mut self, change: impl Fn(&mut Plan)) {
        let mut plan = self.best.plan.clone();
        change(&mut plan);
        self.takes(plan);
    }

    fn cut(&mut self, part: &Part) {
        let mut chunks = 1;
        loop {
            let len = (part.len)(&self.best.plan);
            if len == 0 || chunks > len * 2 {
                return;
            }
            let size = len.div_ceil(chunks).max(1);
            let mut from = 0;
            while from < (part.len)(&self.best.plan) {
                let mut plan = self.best.plan.clone();
                (part.keep)(&mut plan, &|at| !(from..from + size).contains(&at));
                if !self.takes(plan) {
                    from += size;
                }
            }
            if size == 1 {
                return;
            }
            chunks *= 2;
        }
    }
}

fn retain<T>(list: &mut Vec<T>, keep: &dyn Fn(usize) -> bool) {
    let mut at = 0;
    list.retain(|_| {
        at += 1;
        keep(at - 1)
    });
}

const PARTS: &[Part] = &[
    Part {
        // The first stays: without a worker nothing is done, whatever else is wrong.
        len: |plan| plan.workers.len().saturating_sub(1),
        keep: |plan, keep| retain(&mut plan.workers, &|at| at == 0 || keep(at - 1)),
    },
    Part {
        len: |plan| plan.workers.len().saturating_sub(1),
        keep: |plan, keep| {
            let last = plan.workers.len() - 1;
            retain(&mut plan.workers, &|at| at == last || keep(at));
        },
    },
    Part {
        len: |plan| plan.messages.len(),
        keep: |plan, keep| retain(&mut plan.messages, keep),
    },
    Part {
        len: |plan| plan.workers.iter().map(|worker| worker.events.len()).sum(),
        keep: |plan, keep| {
            let mut first = 0;
            for worker in &mut plan.workers {
                let count = worker.events.len();
                retain(&mut worker.events, &|at| keep(first + at));
                first += count;
            }
        },
    },
    Part {
        len: |plan| plan.accidents.len(),
        keep: |plan, keep| retain(&mut plan.accidents, keep),
    },
    Part {
        len: |plan| plan.operators.len(),
        keep: |plan, keep| retain(&mut plan.operators, keep),
    },
    Part {
        len: |plan| plan.downstream_outages.len(),
        keep: |plan, keep| retain(&mut plan.downstream_outages, keep),
    },
    Part {
        len: |plan| plan.planted.len(),
        keep: |plan, keep| retain(&mut plan.planted, keep),
    },
    Part {
        // What a producer had to send, the first sends.
        len: |plan| plan.producers.len().saturating_sub(1),
        keep: |plan, keep| {
            retain(&mut plan.producers, &|at| at == 0 || keep(at - 1));
            let first = plan.producers[0].name;
            for message in &mut plan.messages {
                if !plan.producers.iter().any(|producer| producer.name == message.producer) {
                    message.producer = first;
                }
            }
        },
    },
];

const PLAINER: &[fn(&mut Plan)] = &[
    |plan| (plan.faults.queue, plan.faults.dead_letters, plan.faults.inbox) = (false, false, false),
    |plan| plan.faults.queue = false,
    |plan| plan.faults.dead_letters = false,
    |plan| plan.faults.inbox = false,
    |plan| plan.faults.sends = false,
    |plan| plan.faults.before = 0.0,
    |plan| plan.faults.after = 0.0,
    |plan| plan.faults.throttled = 0.0,
    |plan| plan.faults.entries = 0.0,
    |plan| plan.faults.slow = 0.0,
    |plan| plan.reorder = 0.0,
    |plan| plan.short_receives = 0.0,
    |plan| plan.fifo = false,
    |plan| plan.rejects_block = false,
    |plan| plan.inbox = InboxMode::Used,
    |plan| plan.max_attempts = 5,
    |plan| plan.visibility = Duration::from_secs(30),
    |plan| plan.trouble /= 2,
    |plan| plan.messages.iter_mut().for_each(|message| message.delay = None),
    |plan| {
        plan.messages
            .iter_mut()
            .for_each(|message| (message.key, message.payload) = (Some(message.number), message.number));
    },
    |plan| {
        plan.producers.iter_mut().for_each(|producer| {
            producer.crashes.clear();
            producer.linger = Duration::ZERO;
        });
    },
];

const PLAINER_WORKERS: &[fn(&mut WorkerPlan)] = &[
    |worker| worker.old = false,
    |worker| (worker.skew_ms, worker.doubt_ms) = (0, 0),
    |worker| (worker.rate, worker.tenants, worker.held_back) = (None, None, None),
    |worker| worker.rate = None,
    |worker| worker.tenants = None,
    |worker| worker.held_back = None,
    |worker| worker.heartbeat = true,
    |worker| worker.handler_timeout = None,
    |worker| worker.max_receives = None,
    |worker| worker.concurrency = 16,
    |worker| worker.concurrency = 1,
    |worker| worker.breaker = BreakerPlan::None,
    |worker| worker.breaker = BreakerPlan::Default,
    |worker| worker.counts_outages_only = false,
    |worker| worker.downstream = None,
    |worker| worker.handler = HandlerPlan::Single,
    |worker| worker.stall_after = None,
    |worker| worker.keep_while_open = Duration::from_secs(900),
    |worker| worker.lease = Duration::from_secs(30),
    |worker| worker.in_flight_delay = Duration::from_secs(30),
    |worker| worker.drain_deadline = Duration::from_secs(110),
    |worker| worker.linger = Duration::from_millis(5),
    |worker| worker.long_poll = Duration::from_secs(20),
    |worker| worker.backoff = (Duration::from_millis(500), Duration::from_secs(30)),
    |worker| {
        for (_, event) in &mut worker.events {
            if let HostEvent::DrainTwice { down, .. } = *event {
                *event = HostEvent::Drain { down };
            }
        }
    },
];
