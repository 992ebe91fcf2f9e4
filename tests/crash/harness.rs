//! The harness: as a worker process, as a test, or at the size that is asked for.

#[path = "accidents.rs"]
mod accidents;
#[path = "bites.rs"]
mod bites;
#[path = "fleet.rs"]
mod fleet;
#[path = "journal.rs"]
mod journal;
#[path = "load.rs"]
mod load;
#[path = "program.rs"]
mod program;
#[path = "report.rs"]
mod report;
#[path = "scene.rs"]
mod scene;
#[path = "traffic.rs"]
mod traffic;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use libtest_mimic::{Arguments, Trial};
use redrive::clock::Clock;

use scene::Scene;

/// What is run.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) messages: usize,
    pub(crate) kills: usize,
    pub(crate) workers: usize,
    pub(crate) visibility_secs: u32,
    pub(crate) in_flight_delay_ms: u64,
    pub(crate) seed: u64,
    /// How long it may take, as nearly as can be: accidents are spread over it, and less is sent if it does not suffice.
    pub(crate) time: Option<Duration>,
    json: Option<PathBuf>,
}

pub(crate) fn main() -> ExitCode {
    if std::env::var_os(program::WORKER).is_some() {
        return program::main();
    }
    let (options, rest) = options();
    let name = "inv01_inv03_workers_killed_at_every_moment_lose_nothing_and_double_nothing";
    let trial = Trial::test(name, move || Ok(run(&options)?));
    let mut arguments = Arguments::from_iter(rest);
    // It has the machine's attention by itself.
    arguments.test_threads = Some(1);
    let mut trials = bites::trials();
    trials.push(trial);
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// Takes our own flags out of the arguments; the others are those of every test.
fn options() -> (Options, Vec<String>) {
    let mut options = Options {
        messages: 400,
        kills: 11,
        workers: 4,
        visibility_secs: 10,
        // Far shorter than the default, so that copies of a message do not make the end of a run long.
        in_flight_delay_ms: 100,
        seed: Clock::system().epoch_ms(),
        time: Some(Duration::from_secs(35)),
        json: None,
    };
    let mut rest = Vec::new();
    let mut arguments = std::env::args();
    while let Some(argument) = arguments.next() {
        let mut number = |least: u64| {
            let value = arguments.next().unwrap_or_default();
            let number = value.parse().ok().filter(|number| *number >= least);
            number.unwrap_or_else(|| panic!("{argument} takes a number from {least}, not `{value}`"))
        };
        let size = |number: u64| usize::try_from(number).expect("it fits");
        match &*argument {
            "--messages" => {
                options.messages = size(number(100));
                options.time = None;
            }
            "--minutes" => options.time = Some(Duration::from_secs(60 * number(1))),
            "--kills" => options.kills = size(number(0)),
            "--workers" => options.workers = size(number(2)),
            "--visibility" => options.visibility_secs = u32::try_from(number(2)).expect("it fits"),
            "--in-flight-delay-ms" => options.in_flight_delay_ms = number(1),
            "--seed" => options.seed = number(0),
            "--json" => options.json = Some(arguments.next().expect("--json takes a file").into()),
            _ => rest.push(argument),
        }
    }
    (options, rest)
}

fn run(options: &Options) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        println!("seed {}", options.seed);
        let Some(scene) = Scene::set(options.clone()).await else {
            return Ok(());
        };
        let report = scene.run().await;
        report.print();
        if let Some(file) = &options.json {
            std::fs::write(file, format!("{:#}\n", report.json())).map_err(|error| error.to_string())?;
        }
        report.verdict(options.kills)
    })
}
