//! What the worker processes said, put together: every run of every key, and how it ended or was cut off.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redrive::clock::{Clock, Instant};

use super::program::THREADS;

/// What cut a run off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// Its process was killed, or killed itself.
    Killed,
    /// Its process was stopped for longer than its lease.
    Stopped,
}

/// How far a run's effect came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    None,
    /// It was found to be there already.
    Known,
    /// It was asked for; whether it was made was not heard.
    Tried,
    Made,
    /// The ledger refused it, because a later claim had shown its token.
    Refused,
}

/// One run of a handler.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(crate) worker: usize,
    /// Which of that worker's processes it was.
    life: usize,
    /// The MessageId of its delivery.
    message: String,
    pub(crate) token: u64,
    /// The deaths its record tells of and one more, if it ran as a suspect.
    pub(crate) suspect: u32,
    pub(crate) effect: Effect,
    began_ms: u64,
    pub(crate) end: Option<String>,
    ended_ms: Option<u64>,
    /// What the delivery came to.
    pub(crate) fate: Option<String>,
    pub(crate) cut: Option<Cut>,
    /// Whether another run of the key, not known to have been cut off, had not said that it had ended when this began.
    beside: Option<usize>,
}

impl Run {
    fn is_open(&self) -> bool {
        self.fate.is_none() && self.cut != Some(Cut::Killed)
    }

    fn is_of_the_process_of(&self, other: &Self) -> bool {
        (self.worker, self.life) == (other.worker, other.life)
    }

    /// Whether it has, or found, the effect.
    fn is_done(&self) -> bool {
        matches!(self.effect, Effect::Made | Effect::Known)
    }
}

/// What is wrong in what was said.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    /// Runs of a key while another run of it went on, whose process was neither killed nor stopped.
    pub(crate) overlaps: Vec<String>,
    /// Runs whose token was not larger than that of every run of the key before.
    pub(crate) tokens: Vec<String>,
    /// Runs after the effect was made by one whose process went on, and could record it or had to remember it.
    pub(crate) repeats: Vec<String>,
    /// Runs of a stopped process that began when it woke, without effect and ended at once: a process can be stopped after
    /// the last look at the lease, in each of its threads once.
    pub(crate) late: usize,
    /// Runs after one whose effect could not be recorded for as long as it was let.
    pub(crate) unrecorded: usize,
}

#[derive(Default)]
struct Book {
    runs: BTreeMap<String, Vec<Run>>,
    done: BTreeSet<String>,
    /// Keys in the order in which their effects were first made.
    order: Vec<String>,
    /// Keys that a worker was cut off from, and when.
    orphans: BTreeMap<String, Instant>,
    recoveries: Vec<Duration>,
    fates: BTreeMap<String, usize>,
    attempts: usize,
    refused: usize,
    known: usize,
    started: BTreeMap<usize, u64>,
    made: BTreeMap<usize, u64>,
    /// How many lines of each worker were taken.
    heard: BTreeMap<usize, u64>,
    /// How many of a worker's processes have ended.
    lives: BTreeMap<usize, usize>,
    /// How often each process was stopped.
    stops: BTreeMap<(usize, usize), usize>,
}

#[derive(Clone)]
pub(crate) struct Journal {
    clock: Clock,
    book: Arc<Mutex<Book>>,
}

impl Journal {
    pub(crate) fn new() -> Self {
        Self {
            clock: Clock::system(),
            book: Arc::default(),
        }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a line that a worker said.
    pub(crate) fn line(&self, worker: usize, line: &str) {
        let now = self.clock.now();
        let words: Vec<&str> = line.split(' ').collect();
        let mut book = self.book();
        *book.heard.entry(worker).or_default() += 1;
        match words[..] {
            ["start", key, token, suspect, message, at] => {
                let suspect = u32::try_from(number(suspect)).unwrap_or(u32::MAX);
                book.start(worker, key, message, (number(token), suspect, number(at)));
                book.recovered(key, now);
            }
            ["effect", key, token, word] => book.effect(worker, key, number(token), word),
            ["end", key, token, end, at] => {
                let token = number(token);
                if let Some(run) = book.run(worker, key, |run| run.token == token && run.end.is_none()) {
                    (run.end, run.ended_ms) = (Some(end.to_owned()), Some(number(at)));
                }
            }
            ["fate", key, fate, message] => {
                *book.fates.entry(fate.to_owned()).or_default() += 1;
                let is_done = matches!(fate, "completed" | "dead_lettered" | "duplicate");
                if is_done {
                    book.done.insert(key.to_owned());
                }
                // Of a delivery that was not run it says nothing of a run.
                let ran = matches!(fate, "completed" | "retried" | "dead_lettered" | "released" | "lost");
                if let Some(run) = book.run(worker, key, |run| ran && run.fate.is_none() && run.message == message) {
                    run.fate = Some(fate.to_owned());
                }
                if is_done {
                    book.recovered(key, now);
                }
            }
            _ => {}
        }
    }

    /// The worker's process was killed, or ended by itself.
    pub(crate) fn killed(&self, worker: usize) {
        self.cut(worker, Cut::Killed);
        *self.book().lives.entry(worker).or_default() += 1;
    }

    /// The worker's process was stopped for longer than its lease.
    pub(crate) fn stopped(&self, worker: usize) {
        self.cut(worker, Cut::Stopped);
        let mut book = self.book();
        let life = book.life(worker);
        *book.stops.entry((worker, life)).or_default() += 1;
    }

    fn cut(&self, worker: usize, cut: Cut) {
        let now = self.clock.now();
        let mut book = self.book();
        let Book { runs, orphans, .. } = &mut *book;
        for (key, runs) in runs {
            for run in runs {
                if run.worker == worker && run.is_open() {
                    run.cut = Some(cut);
                    orphans.entry(key.clone()).or_insert(now);
                }
            }
        }
    }

    pub(crate) fn is_done(&self, key: &str) -> bool {
        self.book().done.contains(key)
    }

    pub(crate) fn done(&self) -> usize {
        self.book().done.len()
    }

    /// How many runs the worker has started, and how many effects it has made.
    pub(crate) fn seen(&self, worker: usize) -> (u64, u64) {
        let book = self.book();
        let of = |map: &BTreeMap<usize, u64>| map.get(&worker).copied().unwrap_or(0);
        (of(&book.started), of(&book.made))
    }

    pub(crate) fn heard(&self, worker: usize) -> u64 {
        self.book().heard.get(&worker).copied().unwrap_or(0)
    }

    pub(crate) fn runs_of(&self, key: &str) -> Vec<Run> {
        self.book().runs.get(key).cloned().unwrap_or_default()
    }

    /// How long the keys of killed and stopped workers waited until they were worked on, or found done, by others; sorted.
    pub(crate) fn recoveries(&self) -> Vec<Duration> {
        let mut recoveries = self.book().recoveries.clone();
        recoveries.sort_unstable();
        recoveries
    }

    pub(crate) fn fates(&self) -> BTreeMap<String, usize> {
        self.book().fates.clone()
    }

    /// How many runs there were, and how many of them of suspects.
    pub(crate) fn runs(&self) -> (usize, usize) {
        let book = self.book();
        let runs = || book.runs.values().flatten();
        (runs().count(), runs().filter(|run| run.suspect > 0).count())
    }

    /// Effects that were asked for, those refused by the fence, and runs that found theirs made already.
    pub(crate) fn effects(&self) -> (usize, usize, usize) {
        let book = self.book();
        (book.attempts, book.refused, book.known)
    }

    /// Keys in the order in which their effects were first made.
    pub(crate) fn order(&self) -> Vec<String> {
        self.book().order.clone()
    }

    pub(crate) fn faults(&self) -> Faults {
        let book = self.book();
        let mut faults = Faults::default();
        let mut late: BTreeMap<(usize, usize), usize> = BTreeMap::new();
        for (key, runs) in &book.runs {
            for (n, run) in runs.iter().enumerate() {
                let is_before = |earlier: &&Run| earlier.began_ms <= run.began_ms;
                let before = || runs[..n].iter().filter(is_before);
                let told = || format!("{key}: {run:?} after {:?}", before().collect::<Vec<_>>());
                if before().any(|earlier| earlier.token > run.token) {
                    let process = (run.worker, run.life);
                    let woke = late.entry(process).or_default();
                    let most = THREADS * book.stops.get(&process).copied().unwrap_or(0);
                    let came_to_nothing = run.effect == Effect::None && run.end.as_deref() == Some("dropped");
                    if came_to_nothing && *woke < most {
                        *woke += 1;
                        faults.late += 1;
                        continue;
                    }
                    faults.tokens.push(told());
                }
                // Under one claim it runs again if a failure was the fault of an outage.
                let again_in_an_outage =
                    |earlier: &Run| earlier.is_of_the_process_of(run) && earlier.end.as_deref() == Some("failed");
                if before().any(|earlier| earlier.token == run.token && !again_in_an_outage(earlier)) {
                    faults.tokens.push(told());
                }
                if let Some(other) = run.beside.map(|other| &runs[other])
                    && other.ended_ms.is_none_or(|ended| ended > run.began_ms)
                {
                    faults.overlaps.push(format!("{key}: {run:?} beside {other:?}"));
                }
                let could_not_record = |earlier: &Run| {
                    !earlier.is_of_the_process_of(run)
                        && (earlier.cut.is_some() || earlier.fate.as_deref() == Some("lost"))
                };
                if before().any(|earlier| earlier.is_done() && !could_not_record(earlier)) {
                    faults.repeats.push(told());
                } else if before().any(|earlier| earlier.is_done() && earlier.cut.is_none()) {
                    faults.unrecorded += 1;
                }
            }
        }
        faults
    }
}

impl Book {
    /// The number of the worker's present process.
    fn life(&self, worker: usize) -> usize {
        self.lives.get(&worker).copied().unwrap_or(0)
    }

    fn start(&mut self, worker: usize, key: &str, message: &str, (token, suspect, began_ms): (u64, u32, u64)) {
        let life = self.life(worker);
        let runs = self.runs.entry(key.to_owned()).or_default();
        let beside = runs.iter().rposition(|run| run.end.is_none() && run.cut.is_none());
        runs.push(Run {
            worker,
            life,
            message: message.to_owned(),
            token,
            suspect,
            effect: Effect::None,
            began_ms,
            end: None,
            ended_ms: None,
            fate: None,
            cut: None,
            beside,
        });
        *self.started.entry(worker).or_default() += 1;
    }

    /// The last run by the worker's present process that this holds of.
    fn run(&mut self, worker: usize, key: &str, mut holds: impl FnMut(&Run) -> bool) -> Option<&mut Run> {
        let life = self.life(worker);
        let runs = self.runs.get_mut(key)?;
        runs.iter_mut()
            .rev()
            .find(|run| run.worker == worker && run.life == life && holds(run))
    }

    fn effect(&mut self, worker: usize, key: &str, token: u64, word: &str) {
        let effect = match word {
            "known" => {
                self.known += 1;
                Effect::Known
            }
            "tried" => {
                self.attempts += 1;
                Effect::Tried
            }
            "made" => {
                *self.made.entry(worker).or_default() += 1;
                if !self.order.iter().rev().take(2_000).any(|made| made == key) {
                    self.order.push(key.to_owned());
                }
                Effect::Made
            }
            "refused" => {
                self.refused += 1;
                Effect::Refused
            }
            _ => return,
        };
        if let Some(run) = self.run(worker, key, |run| run.token == token) {
            run.effect = effect;
        }
    }

    fn recovered(&mut self, key: &str, now: Instant) {
        if let Some(since) = self.orphans.remove(key) {
            self.recoveries.push(now.saturating_duration_since(since));
        }
    }
}

fn number(word: &str) -> u64 {
    word.parse().unwrap_or_else(|_| panic!("{word} is no number"))
}
