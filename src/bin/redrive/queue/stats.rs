//! `redrive queue stats`.

mod measured;

use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use console::Term;
use redrive::clock::{Clock, Instant};
use redrive::queue::{Queue, QueueAttributes, QueueError};
use serde::Serialize;

use crate::connection::Aws;
use crate::failure::{Code, Outcome};
use crate::ui::{self, Column, Table, Ui};
use crate::values;
use measured::{Measured, Meter};

pub(crate) const EXAMPLES: &str = "Examples:
  redrive queue stats orders
  redrive queue stats orders --watch
  redrive queue stats orders --watch 30s --no-cloudwatch
  redrive queue stats orders --json | jq .dead_letters.visible

Counts are SQS's own and approximate. The age of the oldest message and the rates are CloudWatch's, a minute or more old; they
need cloudwatch:GetMetricData, and each look costs a few metrics (with --watch, one look a minute). The age leaves out messages
received three times or more: a poison pill hides from it.";

/// How often CloudWatch is asked while watching: it measures once a minute.
const MEASURED_EVERY: Duration = Duration::from_secs(60);

/// What `redrive queue stats` is asked.
#[derive(Args, Debug)]
pub(crate) struct Stats {
    /// The queue. Its dead-letter queue stands beside it.
    queue: String,

    /// Go on until Ctrl-C, with a look every 5 s or as given; the change of the counts tells how it goes.
    #[arg(long, short, value_name = "INTERVAL", num_args = 0..=1, default_missing_value = "5s", value_parser = interval)]
    watch: Option<Duration>,

    /// Do not ask CloudWatch.
    #[arg(long)]
    no_cloudwatch: bool,
}

fn interval(text: &str) -> Result<Duration, String> {
    values::duration_within(Duration::from_secs(1), Duration::from_secs(86_400))(text)
        .map_err(|wrong| format!("{wrong}; the queue's name comes before --watch"))
}

/// The JSON result: one document, with `--watch` one a look.
#[derive(Debug, Serialize)]
struct Look<'a> {
    at_ms: u64,
    queue: Side<'a>,
    dead_letters: Option<Side<'a>>,
    /// Why what CloudWatch measures is not known.
    unknown: Option<&'a str>,
}

/// What is known of one queue.
#[derive(Debug, Serialize)]
struct Side<'a> {
    name: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
    visible: u64,
    in_flight: u64,
    delayed: u64,
    oldest_age_s: Option<f64>,
    sent_per_s: Option<f64>,
    received_per_s: Option<f64>,
    deleted_per_s: Option<f64>,
    /// When CloudWatch's last measure began.
    measured_at_ms: Option<u64>,
    /// By how many messages a second the queue grew since the look before.
    net_per_s: Option<f64>,
}

/// A queue while it is watched.
struct Watched {
    queue: Arc<dyn Queue>,
    now: QueueAttributes,
    measured: Measured,
    net_per_s: Option<f64>,
}

impl Stats {
    pub(crate) async fn run(&self, aws: &Aws, ui: &Ui) -> Outcome {
        let clock = Clock::system();
        let queue = aws.queue(&self.queue).await?;
        if let Some(problem) = queue.dead_letter_problem() {
            ui.warn(problem);
        }
        let dead = queue.dead_letter_queue();
        let mut sides: Vec<Watched> = [Some(Arc::new(queue) as Arc<dyn Queue>), dead]
            .into_iter()
            .flatten()
            .map(Watched::new)
            .collect();
        let meter = (!self.no_cloudwatch).then(|| Meter::new(aws.config()));
        let mut unknown = None;
        let (mut measured_at, mut counted_at): (Option<Instant>, Option<Instant>) = (None, None);
        let mut drawn = 0;
        loop {
            let now = clock.now();
            if let Some(meter) = &meter
                && measured_at.is_none_or(|at| now.saturating_duration_since(at) >= MEASURED_EVERY)
            {
                let names: Vec<&str> = sides.iter().map(|side| side.now.name.as_str()).collect();
                let answer = tokio::select! {
                    biased;
                    () = ui.interrupt().cancelled() => return Ok(Code::Interrupted),
                    answer = meter.measure(&names, clock.epoch_ms()) => answer,
                };
                let (measures, why) = match answer {
                    Ok(measures) => (measures, None),
                    Err(why) => (vec![Measured::default(); sides.len()], Some(why)),
                };
                for (side, measured) in sides.iter_mut().zip(measures) {
                    side.measured = measured;
                }
                let why = why.or_else(|| measured::nothing(sides.iter().map(|side| &side.measured)));
                if let Some(why) = why.as_ref().filter(|why| unknown.as_ref() != Some(*why)) {
                    ui.note(format_args!("age and rates are unknown: {why}"));
                }
                unknown = why;
                measured_at = Some(now);
            }
            let taken = counted_at.map(|at| clock.now().saturating_duration_since(at));
            if taken.is_some() {
                for side in &mut sides {
                    match side.count(taken).await {
                        // It is asked again soon.
                        Err(error) if error.is_transient() => ui.warn(&error),
                        counted => counted?,
                    }
                }
            }
            counted_at = Some(clock.now());
            self.show(&sides, unknown.as_deref(), clock.epoch_ms(), &mut drawn, ui);
            let Some(interval) = self.watch else {
                if sides.iter().any(|side| side.measured.oldest_age_s.is_some()) {
                    ui.note("the age of the oldest leaves out messages received three times or more");
                }
                return Ok(Code::Done);
            };
            tokio::select! {
                biased;
                () = ui.interrupt().cancelled() => return Ok(Code::Interrupted),
                () = tokio::time::sleep(interval) => {}
            }
        }
    }

    fn show(&self, sides: &[Watched], unknown: Option<&str>, at_ms: u64, drawn: &mut usize, ui: &Ui) {
        if ui.is_json() {
            let mut shown = sides.iter().map(Watched::side);
            if let Some(queue) = shown.next() {
                ui.json(&Look {
                    at_ms,
                    queue,
                    dead_letters: shown.next(),
                    unknown,
                });
            }
        } else if self.watch.is_none() {
            ui.table(table(sides, false));
        } else if Term::stdout().is_term() {
            // Over what the look before drew.
            if *drawn > 0 {
                ui.raw(format!("\u{1b}[{drawn}A\u{1b}[J").as_bytes());
            }
            let table = table(sides, true);
            *drawn = table.height();
            ui.table(table);
        } else {
            let sides: Vec<String> = sides.iter().map(Watched::in_a_line).collect();
            ui.line(format_args!("{}  {}", ui::timestamp(at_ms), sides.join("; ")));
        }
    }
}

impl Watched {
    fn new(queue: Arc<dyn Queue>) -> Self {
        Self {
            now: queue.attributes().clone(),
            queue,
            measured: Measured::default(),
            net_per_s: None,
        }
    }

    /// Reads the counts again, `passed` after the last time.
    async fn count(&mut self, passed: Option<Duration>) -> Result<(), QueueError> {
        let now = self.queue.describe().await?;
        self.net_per_s = passed
            .filter(|passed| !passed.is_zero())
            .map(|passed| (held(&now) as f64 - held(&self.now) as f64) / passed.as_secs_f64());
        self.now = now;
        Ok(())
    }

    fn side(&self) -> Side<'_> {
        Side {
            name: &self.now.name,
            kind: super::ls::kind(&self.now),
            visible: self.now.visible,
            in_flight: self.now.in_flight,
            delayed: self.now.delayed,
            oldest_age_s: self.measured.oldest_age_s,
            sent_per_s: self.measured.sent_per_s,
            received_per_s: self.measured.received_per_s,
            deleted_per_s: self.measured.deleted_per_s,
            measured_at_ms: self.measured.at_ms,
            net_per_s: self.net_per_s,
        }
    }

    fn in_a_line(&self) -> String {
        let now = &self.now;
        let net = self
            .net_per_s
            .map_or_else(String::new, |net| format!(", {}", change(net)));
        format!(
            "{} {} visible, {} in flight, {} delayed{net}",
            ui::safe(&now.name),
            now.visible,
            now.in_flight,
            now.delayed
        )
    }
}

fn held(queue: &QueueAttributes) -> u64 {
    queue.visible + queue.in_flight + queue.delayed
}

fn table(sides: &[Watched], watching: bool) -> Table {
    let titles = [Column::new(""), Column::number("QUEUE"), Column::number("DEAD LETTERS")];
    let mut table = Table::new(titles.into_iter().take(1 + sides.len()));
    let mut row = |title: &str, cell: &dyn Fn(&Watched) -> String| {
        table.row(std::iter::once(title.to_owned()).chain(sides.iter().map(cell)));
    };
    row("name", &|side| ui::safe(&side.now.name).into_owned());
    row("type", &|side| super::ls::kind(&side.now).to_owned());
    row("visible", &|side| side.now.visible.to_string());
    row("in flight", &|side| side.now.in_flight.to_string());
    row("delayed", &|side| side.now.delayed.to_string());
    row("oldest message", &|side| {
        side.measured.oldest_age_s.map_or_else(unknown, |age| {
            ui::short_age(Duration::try_from_secs_f64(age).unwrap_or_default())
        })
    });
    row("sent", &|side| rate(side.measured.sent_per_s));
    row("received", &|side| rate(side.measured.received_per_s));
    row("deleted", &|side| rate(side.measured.deleted_per_s));
    if watching {
        row("net change", &|side| side.net_per_s.map_or_else(unknown, change));
    }
    table
}

fn unknown() -> String {
    "unknown".to_owned()
}

fn rate(per_s: Option<f64>) -> String {
    per_s.map_or_else(unknown, |per_s| format!("{}/s", round(per_s)))
}

fn change(per_s: f64) -> String {
    format!("{}{}/s", if per_s > 0.0 { "+" } else { "" }, round(per_s))
}

/// Two digits after the point where that says something.
fn round(number: f64) -> String {
    let text = if number.abs() < 10.0 {
        format!("{number:.2}")
    } else {
        format!("{number:.0}")
    };
    if text.trim_start_matches('-') == "0.00" {
        "0".to_owned()
    } else {
        text
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn rates_read_well() {
        for (number, shown) in [
            (0.0, "0"),
            (0.004, "0"),
            (-0.001, "0"),
            (0.25, "0.25"),
            (12.4, "12"),
            (-3.0, "-3.00"),
        ] {
            assert_eq!(round(number), shown);
        }
        assert_eq!(
            (change(4.0).as_str(), change(-4.0).as_str(), change(0.0).as_str()),
            ("+4.00/s", "-4.00/s", "0/s")
        );
    }

    #[test]
    fn a_watch_looks_no_more_than_once_a_second() {
        assert_eq!(interval("30s").unwrap(), Duration::from_secs(30));
        for wrong in ["10ms", "orders", ""] {
            assert!(interval(wrong).unwrap_err().contains("before --watch"));
        }
    }
}
