//! What is measured of a worker process, and what may become of it.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

/// One look at the process.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    at: Duration,
    /// By [`NAMES`].
    values: [f64; NAMES.len()],
    /// Messages received by then.
    received: f64,
}

/// What is looked at: resident memory in KiB, threads, open files, sockets of them; and what the process says: tokio tasks,
/// messages held, handlers running, metric series.
const NAMES: [&str; 8] = [
    "memory, KiB",
    "threads",
    "open files",
    "sockets",
    "tasks",
    "held",
    "running",
    "metric series",
];

/// What the last third may be: over the first by a share of it and so much more, and in any case up to what the settings
/// bound it by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bound {
    share: f64,
    more: f64,
    settled: f64,
}

pub(crate) type Bounds = [Bound; NAMES.len()];

const fn grows(share: f64, more: f64) -> Bound {
    Bound {
        share,
        more,
        settled: 0.0,
    }
}

const fn up_to(settled: f64) -> Bound {
    Bound {
        share: 0.0,
        more: 0.0,
        settled,
    }
}

/// Tens of thousands of messages pass in seconds: what may be added is some dozens of bytes for each. Two workers with 32
/// slots each hold twice as many more to start soon, 200 aside, and what is being settled; the one on the FIFO queue also ten
/// for each slot behind others of their groups. Each has series for 101 reasons, which fill up as it meets them.
pub(crate) const ENGINE: Bounds = [
    grows(0.01, 1_024.0),
    grows(0.0, 0.0),
    grows(0.0, 2.0),
    grows(0.0, 2.0),
    up_to(200.0),
    up_to(1_050.0),
    up_to(64.0),
    up_to(350.0),
];

/// Outages and slow answers make for more calls under way at times, each with a connection of its own.
pub(crate) const SERVICES: Bounds = [
    grows(0.05, 4_096.0),
    grows(0.0, 2.0),
    up_to(160.0),
    up_to(150.0),
    up_to(250.0),
    up_to(300.0),
    up_to(64.0),
    up_to(350.0),
];

impl Sample {
    /// None before the worker says anything of itself, and when it is just gone.
    pub(crate) fn take(at: Duration, id: u32, said: &str) -> Option<Self> {
        let folder = Path::new("/proc").join(id.to_string());
        let status = std::fs::read_to_string(folder.join("status")).ok()?;
        let of = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse::<f64>().ok()
        };
        let (mut files, mut sockets) = (0.0, 0.0);
        for file in std::fs::read_dir(folder.join("fd")).ok()?.flatten() {
            files += 1.0;
            let is_socket = std::fs::read_link(file.path()).is_ok_and(|to| to.to_string_lossy().starts_with("socket:"));
            sockets += f64::from(u8::from(is_socket));
        }
        let mut told = said
            .strip_prefix("status ")?
            .split(' ')
            .map_while(|word| word.parse::<f64>().ok());
        let mut next = || told.next();
        let [tasks, held, running, series, received] = [next()?, next()?, next()?, next()?, next()?];
        Some(Self {
            at,
            values: [
                of("VmRSS:")?,
                of("Threads:")?,
                files,
                sockets,
                tasks,
                held,
                running,
                series,
            ],
            received,
        })
    }
}

/// All samples of a run, in order.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    samples: Vec<Sample>,
}

impl Extend<Sample> for Figures {
    fn extend<I: IntoIterator<Item = Sample>>(&mut self, samples: I) {
        self.samples.extend(samples);
    }
}

impl Figures {
    /// The samples after the first quarter of the messages, in which pools and buffers grow to what they need.
    fn warm(&self) -> &[Sample] {
        let cold = self.received() / 4.0;
        let from = self.samples.partition_point(|sample| sample.received < cold);
        &self.samples[from..]
    }

    fn third(&self, last: bool) -> &[Sample] {
        let warm = self.warm();
        let third = warm.len() / 3;
        if last {
            &warm[warm.len() - third..]
        } else {
            &warm[..third]
        }
    }

    /// Medians of the first and the last third, and the most of all.
    fn row(&self, name: usize) -> (f64, f64, f64) {
        let most = self.warm().iter().map(|sample| sample.values[name]).fold(0.0, f64::max);
        (median(self.third(false), name), median(self.third(true), name), most)
    }

    /// Messages received so far.
    pub(crate) fn received(&self) -> f64 {
        self.samples.last().map_or(0.0, |sample| sample.received)
    }

    pub(crate) fn print(&self, bounds: &Bounds) {
        let seconds = self.samples.last().map_or(0.0, |sample| sample.at.as_secs_f64());
        println!(
            "{} messages in {seconds:.0} s, {} samples",
            self.received(),
            self.samples.len()
        );
        println!(
            "{:<16}{:>12}{:>12}{:>12}{:>12}",
            "", "first third", "last third", "most", "allowed"
        );
        for (name, bound) in NAMES
            .iter()
            .zip(bounds)
            .enumerate()
            .map(|(n, (name, bound))| ((n, name), bound))
        {
            let (first, last, most) = self.row(name.0);
            println!(
                "{:<16}{first:>12.0}{last:>12.0}{most:>12.0}{:>12.0}",
                name.1,
                allowed(first, *bound)
            );
        }
    }

    pub(crate) fn json(&self) -> Value {
        let rows: serde_json::Map<String, Value> = NAMES
            .iter()
            .enumerate()
            .map(|(n, name)| {
                let (first, last, most) = self.row(n);
                ((*name).to_owned(), json!({"first": first, "last": last, "most": most}))
            })
            .collect();
        let seconds = self.samples.last().map_or(0.0, |sample| sample.at.as_secs_f64());
        json!({"messages": self.received(), "seconds": seconds, "figures": rows})
    }

    /// An error that names what has grown.
    pub(crate) fn verdict(&self, bounds: &Bounds) -> Result<(), String> {
        let mut grown = String::new();
        if self.third(false).len() < 8 {
            let _ = writeln!(grown, "only {} samples", self.samples.len());
        }
        let (first, last) = (self.third(false).first(), self.third(true).last());
        if !matches!((first, last), (Some(first), Some(last)) if last.received > first.received) {
            let _ = writeln!(grown, "no messages came through");
        }
        for (n, (name, bound)) in NAMES.iter().zip(bounds).enumerate() {
            let (first, last, _) = self.row(n);
            if last > allowed(first, *bound) {
                let _ = writeln!(grown, "{name} grew from {first} to {last}");
            }
        }
        if grown.is_empty() { Ok(()) } else { Err(grown) }
    }
}

fn allowed(first: f64, bound: Bound) -> f64 {
    (first * (1.0 + bound.share) + bound.more).max(bound.settled)
}

fn median(samples: &[Sample], name: usize) -> f64 {
    let mut values: Vec<f64> = samples.iter().map(|sample| sample.values[name]).collect();
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}
