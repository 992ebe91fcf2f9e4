//! How many messages a second the pipeline takes on one core, by the clock and by the CPU time it used.
//!
//! ```sh
//! cargo run --release --bin pipeline -- --messages 300000 --rounds 5
//! ```

use std::process::ExitCode;
use std::time::Instant;

use redrive_micro::pipeline::{Case, Pipeline};

const USAGE: &str = "pipeline [--messages N] [--concurrency N] [--rounds N] [--only NAME]
  messages a second through a worker on the embedded queue, on one thread; the median of the rounds";

struct Options {
    messages: usize,
    concurrency: usize,
    rounds: usize,
    only: Option<String>,
}

fn options() -> Result<Options, String> {
    let mut options = Options {
        messages: 200_000,
        concurrency: 64,
        rounds: 3,
        only: None,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments.next().ok_or(USAGE)?;
        let number = || {
            value
                .parse::<usize>()
                .ok()
                .filter(|&n| n > 0)
                .ok_or(format!("{name} {value}: no number\n{USAGE}"))
        };
        match name.as_str() {
            "--messages" => options.messages = number()?,
            "--concurrency" => options.concurrency = number()?,
            "--rounds" => options.rounds = number()?,
            "--only" => options.only = Some(value),
            _ => return Err(USAGE.to_owned()),
        }
    }
    Ok(options)
}

/// The CPU time of this thread, which is all that works, in seconds.
fn cpu_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split(' ')
        .next()
        .and_then(|ns| ns.parse::<f64>().ok())
        .map_or(f64::NAN, |ns| ns / 1e9)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

#[allow(clippy::disallowed_methods, reason = "it measures the machine's own time")]
fn run() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let options = options()?;
    println!(
        "{:<16} {:>12} {:>16} {:>12} {:>12} {:>10}",
        "", "messages/s", "per CPU second", "ns CPU each", "receives", "deletes"
    );
    for (name, inbox, json) in [
        ("plain", false, false),
        ("json", false, true),
        ("inbox", true, false),
        ("inbox-json", true, true),
    ] {
        if options.only.as_deref().is_some_and(|only| only != name) {
            continue;
        }
        let (mut rates, mut by_cpu, mut calls) = (Vec::new(), Vec::new(), None);
        for _ in 0..options.rounds {
            let pipeline = Pipeline::new(Case {
                inbox,
                json,
                messages: options.messages,
                concurrency: options.concurrency,
            })?;
            let (began, cpu) = (Instant::now(), cpu_seconds());
            pipeline.run()?;
            let (took, cpu) = (began.elapsed().as_secs_f64(), cpu_seconds() - cpu);
            if pipeline.left() > 0 {
                return Err(format!("{name}: {} messages are left", pipeline.left()).into());
            }
            rates.push(options.messages as f64 / took);
            by_cpu.push(options.messages as f64 / cpu);
            calls = Some(pipeline.calls());
        }
        let (rate, by_cpu) = (median(rates), median(by_cpu));
        let calls = calls.unwrap_or_default();
        println!(
            "{name:<16} {rate:>12.0} {by_cpu:>16.0} {:>12.0} {:>12} {:>10}",
            1e9 / by_cpu,
            calls.receive,
            calls.delete
        );
    }
    Ok(())
}
