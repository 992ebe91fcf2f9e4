//! What the worker processes said, put together: every run of every key, and how it ended or was cut off.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redrive::clock::{Clock, Instant};

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
    pub(crate) token: u64,
    /// The deaths its record tells of and one more, if it ran as a suspect.
    pub(crate) suspect: u32,
    pub(crate) effect: Effect,
    pub(crate) end: Option<String>,
    /// What the delivery came to.
    pub(crate) fate: Option<String>,
    pub(crate) cut: Option<Cut>,
}

impl Run {
    fn is_open(&self) -> bool {
        self.fate.is_none() && self.cut != Some(Cut::Killed)
    }
}

/// What is wrong in what was said.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    /// Runs of a key while another run of it went on, whose process was neither killed nor stopped.
    pub(crate) overlaps: Vec<String>,
    /// Runs whose token was not larger than that of every run of the key before.
    pub(crate) tokens: Vec<String>,
    /// Runs after the effect was made by one whose process went on and did not lose its lease.
    pub(crate) repeats: Vec<String>,
}

#[derive(Default)]
struct Book {
    runs: BTreeMap<String, Vec<Run>>,
    overlaps: Vec<String>,
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
    /// How many lines of each worker were taken.
    heard: BTreeMap<usize, u64>,
    started: BTreeMap<usize, u64>,
    made: BTreeMap<usize, u64>,
    dying: BTreeSet<usize>,
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
            ["start", key, token, _attempt, suspect] => {
                let (token, suspect) = (number(token), number(suspect));
                book.start(worker, key, token, u32::try_from(suspect).unwrap_or(u32::MAX));
                book.recovered(key, now);
            }
            ["effect", key, token, word] => book.effect(worker, key, number(token), word),
            ["end", key, token, end] => {
                if let Some(run) = book.run(worker, key, Some(number(token))) {
                    run.end = Some(end.to_owned());
                }
            }
            ["dying", ..] => {
                book.dying.insert(worker);
            }
            ["fate", key, fate] => {
                *book.fates.entry(fate.to_owned()).or_default() += 1;
                if matches!(fate, "completed" | "dead_lettered" | "duplicate") {
                    book.done.insert(key.to_owned());
                }
                // Of a delivery that was not run it says nothing of a run.
                let ran = matches!(fate, "completed" | "retried" | "dead_lettered" | "released" | "lost");
                if let Some(run) = book.run(worker, key, None).filter(|_| ran) {
                    run.fate = Some(fate.to_owned());
                }
                if matches!(fate, "duplicate" | "completed" | "dead_lettered") {
                    book.recovered(key, now);
                }
            }
            _ => {}
        }
    }

    /// The worker's process was killed, or ended by itself.
    pub(crate) fn killed(&self, worker: usize) {
        self.cut(worker, Cut::Killed);
    }

    /// The worker's process was stopped for longer than its lease.
    pub(crate) fn stopped(&self, worker: usize) {
        self.cut(worker, Cut::Stopped);
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

    /// Whether the worker holds a message whose process died before while it ran as a suspect: killed once more, it would
    /// rightly be taken for one that kills.
    pub(crate) fn must_be_spared(&self, worker: usize) -> bool {
        let book = self.book();
        book.runs
            .values()
            .flatten()
            .any(|run| run.worker == worker && run.is_open() && run.suspect > 1)
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
        let mut faults = Faults {
            overlaps: book.overlaps.clone(),
            ..Faults::default()
        };
        for (key, runs) in &book.runs {
            for (n, run) in runs.iter().enumerate() {
                let before = &runs[..n];
                // A stopped process may wake between the look at its lease and the start, and loses its run at once.
                if run.fate.as_deref() == Some("lost")
                    && run.effect == Effect::None
                    && run.end.as_deref() == Some("dropped")
                {
                    continue;
                }
                if before.iter().any(|earlier| earlier.token >= run.token) {
                    faults.tokens.push(format!("{key}: {run:?} after {before:?}"));
                }
                // Released or lost, it could not be recorded while the inbox was away.
                let went_on = |earlier: &&Run| {
                    earlier.effect == Effect::Made
                        && earlier.cut.is_none()
                        && !matches!(earlier.fate.as_deref(), Some("lost" | "released"))
                };
                if let Some(earlier) = before.iter().find(went_on) {
                    faults.repeats.push(format!("{key}: {run:?} after {earlier:?}"));
                }
            }
        }
        faults
    }
}

impl Book {
    fn start(&mut self, worker: usize, key: &str, token: u64, suspect: u32) {
        let runs = self.runs.entry(key.to_owned()).or_default();
        if let Some(other) = runs.iter().find(|run| run.end.is_none() && run.cut.is_none()) {
            self.overlaps
                .push(format!("{key}: worker {worker}, token {token}, beside {other:?}"));
        }
        runs.push(Run {
            worker,
            token,
            suspect,
            effect: Effect::None,
            end: None,
            fate: None,
            cut: None,
        });
        *self.started.entry(worker).or_default() += 1;
    }

    /// The run of this token, or the worker's last of this key.
    fn run(&mut self, worker: usize, key: &str, token: Option<u64>) -> Option<&mut Run> {
        let runs = self.runs.get_mut(key)?;
        runs.iter_mut()
            .rev()
            .find(|run| run.worker == worker && token.is_none_or(|token| run.token == token))
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
        if let Some(run) = self.run(worker, key, Some(token)) {
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
