//! A downstream with a knee, and slots that are always wanted: what the limit is judged by.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use super::{AdaptiveConcurrency, AdaptiveLimit};
use crate::clock::{Instant, Random};

/// How long the work of one call is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Noise {
    /// Always the same.
    None,
    /// Within a third of the mean.
    Even,
    Exponential,
    /// Nine of ten in half the mean, one in eleven times as much as those.
    Bimodal,
}

/// What the downstream does with what is over its knee.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    /// First come, first served by as many servers.
    Queue,
    /// All are served, each the slower; beyond the knee some work is lost by this share per knee's worth.
    Share { lost: f64 },
    /// Refused after 10 ms.
    Throttle,
    /// There is no knee: each more makes all slower.
    Soft,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Downstream {
    pub(super) kind: Kind,
    pub(super) knee: f64,
    /// Seconds.
    pub(super) time: f64,
    pub(super) noise: Noise,
}

pub(super) enum Limit {
    Fixed(usize),
    Adaptive(Box<AdaptiveLimit>),
}

impl Limit {
    fn get(&self) -> usize {
        match self {
            Self::Fixed(limit) => *limit,
            Self::Adaptive(limit) => limit.limit(),
        }
    }
}

/// One run that ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ended {
    pub(super) at: f64,
    pub(super) took: f64,
    pub(super) done: bool,
    pub(super) limit: usize,
}

pub(super) struct Sim {
    pub(super) downstream: Downstream,
    pub(super) limit: Limit,
    /// The most that there is work for at once.
    pub(super) wanted: usize,
    pub(super) ended: Vec<Ended>,
    random: Random,
    origin: Instant,
    now: f64,
    running: usize,
    served: usize,
    /// Runs that end at a known time: that, when they began, and whether they are done.
    timed: BinaryHeap<Reverse<(u64, u64, bool)>>,
    /// When each server is free.
    servers: BinaryHeap<Reverse<u64>>,
    /// Work done for each that shares, and what each waits for.
    work: f64,
    shared: BinaryHeap<Reverse<(u64, u64)>>,
}

fn nanos(seconds: f64) -> u64 {
    (seconds * 1e9).round() as u64
}

fn seconds(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}

impl Sim {
    pub(super) fn new(downstream: Downstream, limit: Limit, origin: Instant, seed: u64) -> Self {
        Self {
            downstream,
            limit,
            wanted: usize::MAX,
            ended: Vec::new(),
            random: Random::seeded(seed),
            origin,
            now: 0.0,
            running: 0,
            served: 0,
            timed: BinaryHeap::new(),
            servers: BinaryHeap::new(),
            work: 0.0,
            shared: BinaryHeap::new(),
        }
    }

    pub(super) fn adaptive(downstream: Downstream, setting: AdaptiveConcurrency, origin: Instant, seed: u64) -> Self {
        let limit = Limit::Adaptive(Box::new(AdaptiveLimit::new(setting, origin)));
        Self::new(downstream, limit, origin, seed)
    }

    fn noise(&self) -> f64 {
        let unit = self.random.unit();
        match self.downstream.noise {
            Noise::None => 1.0,
            Noise::Even => 2.0 / 3.0 + unit * 2.0 / 3.0,
            Noise::Exponential => -(1.0 - unit).ln(),
            Noise::Bimodal if unit < 0.9 => 0.5,
            Noise::Bimodal => 5.5,
        }
    }

    fn pace(&self) -> f64 {
        let (n, knee) = (self.shared.len() as f64, self.downstream.knee);
        let lost = match self.downstream.kind {
            Kind::Share { lost } => lost,
            _ => 0.0,
        };
        (knee / n).min(1.0) / (1.0 + lost * (n / knee - 1.0).max(0.0))
    }

    fn start(&mut self) {
        self.running += 1;
        let Downstream { kind, knee, time, .. } = self.downstream;
        let work = self.noise() * time;
        let now = nanos(self.now);
        match kind {
            Kind::Queue => {
                while self.servers.len() > knee as usize {
                    self.servers.pop();
                }
                let free = if self.servers.len() < knee as usize {
                    now
                } else {
                    self.servers.pop().map_or(now, |Reverse(at)| at.max(now))
                };
                let end = free + nanos(work);
                self.servers.push(Reverse(end));
                self.timed.push(Reverse((end, now, true)));
            }
            Kind::Share { .. } => self.shared.push(Reverse((nanos(self.work + work), now))),
            Kind::Throttle if self.served as f64 >= knee => {
                self.timed.push(Reverse((now + 10_000_000, now, false)));
            }
            Kind::Throttle => {
                self.served += 1;
                self.timed.push(Reverse((now + nanos(work), now, true)));
            }
            Kind::Soft => {
                let work = work * (1.0 + self.running as f64 / knee);
                self.timed.push(Reverse((now + nanos(work), now, true)));
            }
        }
    }

    /// Goes on until this many seconds after the start.
    pub(super) fn until(&mut self, end: f64) {
        loop {
            while self.running < self.limit.get().min(self.wanted) {
                self.start();
            }
            if let Limit::Adaptive(limit) = &mut self.limit {
                limit.running(self.origin + Duration::from_nanos(nanos(self.now)), self.running);
            }
            let timed = self.timed.peek().map(|Reverse((at, ..))| seconds(*at));
            let pace = self.pace();
            let shared = self.shared.peek();
            let shared = shared.map(|Reverse((at, _))| self.now + (seconds(*at) - self.work).max(0.0) / pace);
            let next = timed.unwrap_or(f64::INFINITY).min(shared.unwrap_or(f64::INFINITY));
            if next > end {
                self.work += (end - self.now) * pace;
                self.now = end;
                return;
            }
            self.work += (next - self.now) * pace;
            self.now = next;
            let (began, done) = if shared == Some(next) {
                let Some(Reverse((_, began))) = self.shared.pop() else {
                    return;
                };
                (began, true)
            } else {
                let Some(Reverse((_, began, done))) = self.timed.pop() else {
                    return;
                };
                (began, done)
            };
            self.running -= 1;
            if done && matches!(self.downstream.kind, Kind::Throttle) {
                self.served -= 1;
            }
            let took = next - seconds(began);
            let limit = self.limit.get();
            self.ended.push(Ended {
                at: next,
                took,
                done,
                limit,
            });
            if let Limit::Adaptive(limit) = &mut self.limit {
                let now = self.origin + Duration::from_nanos(nanos(next));
                limit.ended(
                    now,
                    Duration::from_nanos(nanos(took)),
                    usize::from(done),
                    usize::from(!done),
                );
            }
        }
    }

    pub(super) fn limit_now(&self) -> usize {
        self.limit.get()
    }

    /// What was done per second from `from` to `to`.
    pub(super) fn rate(&self, from: f64, to: f64) -> f64 {
        self.between(from, to).filter(|ended| ended.done).count() as f64 / (to - from)
    }

    /// What 99 of 100 runs took at most, in seconds.
    pub(super) fn p99(&self, from: f64, to: f64) -> f64 {
        let mut took: Vec<f64> = self.between(from, to).map(|ended| ended.took).collect();
        took.sort_by(f64::total_cmp);
        took.get(took.len() * 99 / 100).copied().unwrap_or(0.0)
    }

    pub(super) fn failed(&self, from: f64, to: f64) -> usize {
        self.between(from, to).filter(|ended| !ended.done).count()
    }

    pub(super) fn between(&self, from: f64, to: f64) -> impl Iterator<Item = &Ended> {
        self.ended.iter().filter(move |ended| ended.at > from && ended.at <= to)
    }
}
