//! The command line: libtest's flags, and those of a run by hand.

use libtest_mimic::{Arguments, Trial};

/// How many of a history's last events are shown unless told otherwise.
const EVENTS: usize = 120;

/// A run by hand: `--seeds N`, `--from N`, `--seed N`, `--events N`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ByHand {
    pub(crate) seeds: std::ops::Range<u64>,
    pub(crate) events: usize,
    pub(crate) threads: Option<usize>,
}

/// What the command line asks for.
pub(crate) struct Asked {
    pub(crate) by_hand: Option<ByHand>,
    arguments: Vec<String>,
    filters: Vec<String>,
}

impl Asked {
    /// Reads the command line, without the program's name.
    ///
    /// # Errors
    /// A sentence about a flag whose value is missing or no number.
    pub(crate) fn read(line: impl IntoIterator<Item = String>) -> Result<Self, String> {
        let mut line = line.into_iter();
        let mut asked = Self {
            by_hand: None,
            arguments: vec!["simulation".to_owned()],
            filters: Vec::new(),
        };
        let (mut seed, mut seeds, mut from, mut events, mut threads) = (None, None, None, None, None);
        while let Some(word) = line.next() {
            let (flag, value) = match word.split_once('=') {
                Some((flag, value)) if flag.starts_with("--") => (flag.to_owned(), Some(value.to_owned())),
                _ => (word.clone(), None),
            };
            let mut value = || value.clone().or_else(|| line.next());
            let mut number = |to: &mut Option<u64>| {
                let text = value().ok_or_else(|| format!("{flag} needs a number after it"))?;
                let number = text
                    .parse()
                    .map_err(|_| format!("{flag} {text}: give a whole number"))?;
                *to = Some(number);
                Ok::<(), String>(())
            };
            match flag.as_str() {
                "--seed" => number(&mut seed)?,
                "--seeds" => number(&mut seeds)?,
                "--from" => number(&mut from)?,
                "--events" => number(&mut events)?,
                "--test-threads" => {
                    number(&mut threads)?;
                    let threads = threads.unwrap_or(1).to_string();
                    asked.arguments.extend(["--test-threads".to_owned(), threads]);
                }
                // These change nothing here, where libtest-mimic has no such flag.
                "--report-time" | "--ensure-time" | "--shuffle" | "--exclude-should-panic" | "--no-capture" => {}
                "--shuffle-seed" => drop(value()),
                "--skip" | "--format" | "--color" | "--logfile" | "-Z" => {
                    let value = value().ok_or_else(|| format!("{flag} needs a value after it"))?;
                    asked.arguments.extend([flag.clone(), value]);
                }
                _ if word.starts_with('-') => asked.arguments.push(word),
                _ => asked.filters.push(word),
            }
        }
        let events = events.map_or(EVENTS, |events| usize::try_from(events).unwrap_or(usize::MAX));
        let threads = threads.and_then(|threads| usize::try_from(threads).ok());
        let seeds = match (seed, seeds, from) {
            (Some(seed), None, None) => Some(seed..seed + 1),
            (Some(_), _, _) => return Err("--seed is one seed: leave --seeds and --from away".to_owned()),
            (None, None, None) => None,
            (None, seeds, from) => {
                let from = from.unwrap_or(0);
                Some(from..from + seeds.unwrap_or(crate::SEEDS))
            }
        };
        asked.by_hand = seeds.map(|seeds| ByHand { seeds, events, threads });
        Ok(asked)
    }

    /// The trials that are meant, and what libtest-mimic needs to know. As of libtest any of several filters will do.
    pub(crate) fn select(self, trials: Vec<Trial>) -> (Arguments, Vec<Trial>) {
        let arguments = Arguments::from_iter(self.arguments);
        let meant = |trial: &Trial| {
            let fits = |filter: &String| {
                if arguments.exact {
                    trial.name() == filter
                } else {
                    trial.name().contains(filter.as_str())
                }
            };
            self.filters.is_empty() || self.filters.iter().any(fits)
        };
        let trials = trials.into_iter().filter(meant).collect();
        (arguments, trials)
    }
}
