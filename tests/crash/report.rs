//! What a run found, in figures.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

use super::Options;
use super::accidents::{Accident, Moment};
use super::journal::{Faults, Journal};
use super::load::Load;

#[derive(Debug)]
pub(crate) struct Report {
    seed: u64,
    visibility_secs: u32,
    workers: usize,
    asked: usize,
    messages: usize,
    keys: usize,
    kills: BTreeMap<Moment, usize>,
    zombies: usize,
    dynamodb_restarts: usize,
    proxy_restarts: usize,
    sqs_stalls: usize,
    pub(crate) took: Duration,
    /// Processes that killed themselves, by a message that does so, or could not start while a service was away.
    pub(crate) ended_by_themselves: usize,
    /// Messages that kill no process and were dead-lettered, as those may be whose run was announced at two deaths.
    pub(crate) twice_dead: usize,
    /// Those of them of which one run lost its lease though its process lived: it starved, or the inbox was away for so long.
    pub(crate) outlived: usize,
    /// Their letters that a replay has sent.
    pub(crate) replayed: u64,
    pub(crate) lost: Vec<String>,
    /// What was in the queues long after anything was last done.
    pub(crate) left: Vec<String>,
    pub(crate) doubled: Vec<String>,
    pub(crate) dead_letters: BTreeMap<String, usize>,
    pub(crate) wrong_letters: Vec<String>,
    /// Dead letters sent once more, as their process was killed before it could record the first.
    pub(crate) letters_again: usize,
    /// Effects out of order in a group. That is LocalStack's: it opens a group whose head was released while others of it are
    /// in flight.
    pub(crate) disorder: usize,
    faults: Faults,
    recoveries: Vec<Duration>,
    fates: BTreeMap<String, usize>,
    runs: (usize, usize),
    effects_tried: usize,
    effects_refused: usize,
    effects_known: usize,
}

impl Report {
    pub(crate) fn new(options: &Options, load: &Load) -> Self {
        Self {
            seed: options.seed,
            visibility_secs: options.visibility_secs,
            workers: options.workers,
            asked: options.messages,
            messages: load.messages,
            keys: load.works.len(),
            kills: BTreeMap::new(),
            zombies: 0,
            dynamodb_restarts: 0,
            proxy_restarts: 0,
            sqs_stalls: 0,
            took: Duration::ZERO,
            ended_by_themselves: 0,
            twice_dead: 0,
            outlived: 0,
            replayed: 0,
            lost: Vec::new(),
            left: Vec::new(),
            doubled: Vec::new(),
            dead_letters: BTreeMap::new(),
            wrong_letters: Vec::new(),
            letters_again: 0,
            disorder: 0,
            faults: Faults::default(),
            recoveries: Vec::new(),
            fates: BTreeMap::new(),
            runs: (0, 0),
            effects_tried: 0,
            effects_refused: 0,
            effects_known: 0,
        }
    }

    /// What was really sent.
    pub(crate) fn sent(&mut self, load: &Load) {
        (self.messages, self.keys) = (load.messages, load.works.len());
    }

    /// Kills are counted when they have happened.
    pub(crate) fn accident(&mut self, accident: Accident) {
        match accident {
            Accident::Kill(_) => {}
            Accident::Zombie => self.zombies += 1,
            Accident::DynamoDbRestarts => self.dynamodb_restarts += 1,
            Accident::ProxyRestarts => self.proxy_restarts += 1,
            Accident::SqsStalls => self.sqs_stalls += 1,
        }
    }

    pub(crate) fn kill(&mut self, moment: Moment) {
        *self.kills.entry(moment).or_default() += 1;
    }

    pub(crate) fn hear(&mut self, journal: &Journal) {
        self.faults = journal.faults();
        self.recoveries = journal.recoveries();
        self.fates = journal.fates();
        self.runs = journal.runs();
        (self.effects_tried, self.effects_refused, self.effects_known) = journal.effects();
    }

    fn kills(&self) -> usize {
        self.kills.values().sum()
    }

    /// What must be nothing, and what it was.
    fn zeros(&self) -> [(&'static str, &[String]); 7] {
        [
            ("lost", &self.lost),
            ("still in a queue", &self.left),
            ("effects doubled", &self.doubled),
            ("wrongly dead-lettered", &self.wrong_letters),
            ("runs of a key at once", &self.faults.overlaps),
            ("fencing tokens that did not grow", &self.faults.tokens),
            ("run again though recorded", &self.faults.repeats),
        ]
    }

    /// An error that tells of all that must not be.
    pub(crate) fn verdict(&self, kills: usize) -> Result<(), String> {
        let mut wrong = String::new();
        for (what, found) in self.zeros() {
            if !found.is_empty() {
                let shown: Vec<&str> = found.iter().take(5).map(String::as_str).collect();
                let _ = writeln!(wrong, "{what}: {}\n  {}", found.len(), shown.join("\n  "));
            }
        }
        if self.kills() < kills {
            let _ = writeln!(wrong, "only {} kills", self.kills());
        }
        if self.letters_again > self.kills() {
            let _ = writeln!(
                wrong,
                "{} dead letters were sent again, more than one a kill",
                self.letters_again
            );
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong) }
    }

    fn recovery(&self, share: f64) -> Option<f64> {
        let last = self.recoveries.len().checked_sub(1)?;
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a position in a list"
        )]
        let at = (last as f64 * share).round() as usize;
        Some(self.recoveries[at].as_secs_f64())
    }

    pub(crate) fn json(&self) -> Value {
        let kills: BTreeMap<String, usize> = self
            .kills
            .iter()
            .map(|(moment, count)| (moment.to_string(), *count))
            .collect();
        let zeros: BTreeMap<&str, usize> = self.zeros().iter().map(|(what, found)| (*what, found.len())).collect();
        json!({
            "seed": self.seed,
            "seconds": self.took.as_secs_f64(),
            "messages": self.messages,
            "keys": self.keys,
            "workers": self.workers,
            "visibility_and_lease_s": self.visibility_secs,
            "kills": self.kills(),
            "kills_by_moment": kills,
            "zombies": self.zombies,
            "dynamodb_restarts": self.dynamodb_restarts,
            "proxy_restarts": self.proxy_restarts,
            "sqs_stalls": self.sqs_stalls,
            "ended_by_themselves": self.ended_by_themselves,
            "dead_lettered_after_two_deaths": self.twice_dead,
            "of_those_with_a_process_that_lived": self.outlived,
            "letters_replayed": self.replayed,
            "begun_by_a_stopped_process_on_waking": self.faults.late,
            "run_again_as_their_record_could_not_be_written": self.faults.unrecorded,
            "zeros": zeros,
            "dead_letters": self.dead_letters,
            "dead_letters_sent_again": self.letters_again,
            "deliveries_by_fate": self.fates,
            "out_of_order_by_localstack": self.disorder,
            "runs": self.runs.0,
            "runs_of_suspects": self.runs.1,
            "effects_tried": self.effects_tried,
            "effects_refused_by_the_fence": self.effects_refused,
            "effects_found_made": self.effects_known,
            "recoveries": self.recoveries.len(),
            "recovery_s": {"median": self.recovery(0.5), "p95": self.recovery(0.95), "max": self.recovery(1.0)},
        })
    }

    pub(crate) fn print(&self) {
        println!(
            "seed {}: {} messages of {} keys, {} workers, {:.0} s; visibility and lease {} s",
            self.seed,
            self.messages,
            self.keys,
            self.workers,
            self.took.as_secs_f64(),
            self.visibility_secs
        );
        println!("kills                 {:>6}", self.kills());
        for (moment, count) in &self.kills {
            println!("  {moment:<20}{count:>6}");
        }
        println!("zombies               {:>6}", self.zombies);
        println!("DynamoDB restarts     {:>6}", self.dynamodb_restarts);
        println!("proxy restarts        {:>6}", self.proxy_restarts);
        println!("SQS stalls            {:>6}", self.sqs_stalls);
        println!("ended by themselves   {:>6}", self.ended_by_themselves);
        for (what, found) in self.zeros() {
            println!("{what:<33}{:>6}", found.len());
        }
        println!(
            "runs: {}, {} of suspects; effects: {} tried, {} refused by the fence, {} found made already",
            self.runs.0, self.runs.1, self.effects_tried, self.effects_refused, self.effects_known
        );
        println!(
            "healthy messages dead-lettered after two deaths: {} ({} of them with a process that lived and only lost its lease); letters of theirs replayed: {}",
            self.twice_dead, self.outlived, self.replayed
        );
        println!(
            "run again as a record could not be written: {}; begun by a stopped process when it woke, and dropped: {}",
            self.faults.unrecorded, self.faults.late
        );
        println!("out of order in a group, by LocalStack: {}", self.disorder);
        println!("deliveries: {:?}", self.fates);
        println!(
            "dead letters: {:?}, {} of them sent again after a kill",
            self.dead_letters, self.letters_again
        );
        if let (Some(median), Some(p95), Some(max)) = (self.recovery(0.5), self.recovery(0.95), self.recovery(1.0)) {
            println!(
                "recovery of {} runs cut off: median {median:.1} s, p95 {p95:.1} s, max {max:.1} s",
                self.recoveries.len()
            );
        }
        println!(
            "again: cargo test --all-features --test crash -- --messages {} --kills {} --workers {} --visibility {} --seed {}",
            self.asked,
            self.kills(),
            self.workers,
            self.visibility_secs,
            self.seed
        );
    }
}
