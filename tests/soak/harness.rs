//! The soak: as a worker process, or as the test that measures one.

#[path = "endless.rs"]
mod endless;
#[path = "figures.rs"]
mod figures;
#[path = "load.rs"]
mod load;
#[path = "program.rs"]
mod program;
#[path = "series.rs"]
mod series;

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use libtest_mimic::{Arguments, Trial};
use redrive::clock::{Clock, Random};

use crate::child::{Process, Signal};
use figures::{Figures, Sample};
use load::Services;

/// What is run.
#[derive(Clone, Debug)]
struct Options {
    /// How long the worker on servers is measured; the engine alone for a quarter of that, at most 5 min.
    time: Duration,
    seed: u64,
    leak: u64,
    json: Option<PathBuf>,
}

pub(crate) fn main() -> ExitCode {
    match std::env::var(program::WORKER).as_deref() {
        Ok("engine") => return program::main(program::engine()),
        Ok("services") => return program::main(program::services()),
        _ => {}
    }
    let (options, rest) = options();
    let also = options.clone();
    let trials = vec![
        Trial::test(
            "inv05_the_engine_keeps_nothing_of_what_has_passed_through_it",
            move || Ok(measured(engine(&options))?),
        ),
        Trial::test(
            "inv05_a_worker_on_servers_that_fail_stays_as_large_as_it_is",
            move || Ok(measured(services(&also))?),
        ),
    ];
    let mut arguments = Arguments::from_iter(rest);
    // One after the other, so that neither slows the other down.
    arguments.test_threads = Some(1);
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// Takes our own flags out of the arguments; the others are those of every test.
fn options() -> (Options, Vec<String>) {
    // With the engine's quarter, 80 s in CI and less than a minute by hand.
    let in_ci = std::env::var_os("CI").is_some();
    let mut options = Options {
        time: Duration::from_secs(if in_ci { 64 } else { 36 }),
        seed: Clock::system().epoch_ms(),
        leak: 0,
        json: None,
    };
    let mut rest = Vec::new();
    let mut arguments = std::env::args();
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().unwrap_or_else(|| panic!("{argument} takes a value"));
        match &*argument {
            "--minutes" => {
                let minutes: f64 = value().parse().expect("--minutes takes a number");
                options.time = Duration::from_secs_f64(minutes * 60.0).max(Duration::from_secs(20));
            }
            "--seed" => options.seed = value().parse().expect("--seed takes a whole number"),
            "--leak" => options.leak = value().parse().expect("--leak takes a number of bytes"),
            "--json" => options.json = Some(value().into()),
            _ => rest.push(argument),
        }
    }
    (options, rest)
}

fn measured(run: impl Future<Output = Result<(), String>>) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(run)
}

/// A worker process, and what it last said of itself.
struct Worker {
    process: Process,
    said: Arc<Mutex<String>>,
    errors: Arc<Mutex<String>>,
}

impl Worker {
    fn start(what: &str, variables: &[(&str, String)]) -> Self {
        let mut command = Command::new(std::env::current_exe().expect("this test has a path"));
        for (variable, _) in std::env::vars_os() {
            let shown = variable.to_string_lossy();
            if ["AWS_", "REDRIVE_"].iter().any(|prefix| shown.starts_with(prefix)) {
                command.env_remove(&variable);
            }
        }
        command.env(program::WORKER, what);
        command.envs(variables.iter().map(|(name, value)| (*name, value)));
        let (said, errors): (Arc<Mutex<String>>, Arc<Mutex<String>>) = Default::default();
        let (last, all) = (Arc::clone(&said), Arc::clone(&errors));
        let process = Process::start(
            command,
            move |line| line.clone_into(&mut last.lock().unwrap()),
            move |line| {
                let mut all = all.lock().unwrap();
                if all.len() < 20_000 {
                    all.push_str(line);
                    all.push('\n');
                }
            },
        );
        Self { process, said, errors }
    }

    /// Takes samples for this long, several a second, or until so many messages have passed, for three times as long at most;
    /// then ends it as a deployment does.
    async fn watch(mut self, time: Duration, messages: f64) -> Result<Figures, String> {
        let clock = Clock::system();
        let began = clock.now();
        let every = (time / 300).clamp(Duration::from_millis(200), Duration::from_secs(5));
        let mut figures = Figures::default();
        let passed = || clock.now().saturating_duration_since(began);
        while passed() < time || (figures.received() < messages && passed() < 3 * time) {
            tokio::time::sleep(every).await;
            if let Some(status) = self.process.ended() {
                return Err(format!("the worker ended: {status}\n{}", self.errors.lock().unwrap()));
            }
            let said = self.said.lock().unwrap().clone();
            figures.extend(Sample::take(passed(), self.process.id(), &said));
        }
        self.process.signal(Signal::Terminate);
        let deadline = clock.now() + Duration::from_secs(90);
        loop {
            match self.process.ended() {
                Some(status) if status.success() => return Ok(figures),
                Some(status) => return Err(format!("{status}\n{}", self.errors.lock().unwrap())),
                None if clock.now() > deadline => return Err("it does not drain".to_owned()),
                None => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }
}

async fn engine(options: &Options) -> Result<(), String> {
    let time = (options.time / 4).clamp(Duration::from_secs(10), Duration::from_secs(300));
    let variables = [
        ("SOAK_SEED", options.seed.to_string()),
        ("SOAK_LEAK", options.leak.to_string()),
    ];
    let worker = Worker::start("engine", &variables);
    let figures = worker.watch(time, 40_000.0).await?;
    finish(options, "engine", &figures, &figures::ENGINE)
}

async fn services(options: &Options) -> Result<(), String> {
    let random = Random::seeded(options.seed);
    let Some(services) = Services::open(&random).await else {
        return Ok(());
    };
    let mut variables = services.variables(options.seed);
    variables.push(("SOAK_LEAK", options.leak.to_string()));
    let worker = Worker::start("services", &variables);
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(services.clone().produce());
    tasks.spawn(services.clone().go_wrong(options.time));
    let figures = worker.watch(options.time, 500.0).await?;
    finish(options, "services", &figures, &figures::SERVICES)
}

fn finish(options: &Options, what: &str, figures: &Figures, bounds: &figures::Bounds) -> Result<(), String> {
    println!("\n{what}, seed {}", options.seed);
    figures.print(bounds);
    if let Some(file) = &options.json {
        let file = file.with_extension(format!("{what}.json"));
        std::fs::write(file, format!("{:#}\n", figures.json())).map_err(|error| error.to_string())?;
    }
    figures.verdict(bounds)
}
