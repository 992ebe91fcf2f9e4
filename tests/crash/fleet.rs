//! The worker processes, each behind proxies of its own, so that what one asks can be told from what others ask.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use redrive::clock::{Clock, Random};

use super::journal::Journal;
use super::program::Places;
use crate::child::{Process, Signal};
use crate::fault_proxy::FaultProxy;

/// How long a process may take to start or to end on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);

/// One place for a worker: its proxies stay, its processes come and go.
pub(crate) struct Post {
    pub(crate) number: usize,
    pub(crate) sqs: FaultProxy,
    pub(crate) dynamodb: FaultProxy,
    places: Places,
    process: Option<Process>,
    journal: Journal,
    /// The last that its processes said on standard error.
    said: Arc<Mutex<String>>,
    lives: usize,
}

impl Post {
    pub(crate) async fn new(number: usize, places: &Places, journal: &Journal, random: &Random) -> Self {
        let sqs = FaultProxy::start(&places.sqs, Random::seeded(random.next_u64())).await;
        let dynamodb = FaultProxy::start(&places.dynamodb, Random::seeded(random.next_u64())).await;
        let places = Places {
            sqs: sqs.url(),
            dynamodb: dynamodb.url(),
            ..places.clone()
        };
        Self {
            number,
            sqs,
            dynamodb,
            places,
            process: None,
            journal: journal.clone(),
            said: Arc::default(),
            lives: 0,
        }
    }

    /// Starts a process, if none runs.
    pub(crate) fn man(&mut self) {
        if self.process.is_some() {
            return;
        }
        self.lives += 1;
        let (journal, number, said) = (self.journal.clone(), self.number, Arc::clone(&self.said));
        let mut command = self.places.command(&format!("worker-{number}-{}", self.lives));
        if std::env::var_os("RUST_LOG").is_none() {
            command.env("RUST_LOG", "error");
        }
        self.process = Some(Process::start(
            command,
            move |line| journal.line(number, line),
            move |line| {
                let mut said = said.lock().unwrap();
                if said.len() > 100_000 {
                    said.clear();
                }
                said.push_str(line);
                said.push('\n');
            },
        ));
    }

    /// Takes note of a process that ended by itself; answers whether it did.
    pub(crate) fn ended_by_itself(&mut self) -> bool {
        if self.process.as_mut().and_then(Process::ended).is_none() {
            return false;
        }
        if let Some(mut process) = self.process.take() {
            process.hear_out();
        }
        self.journal.killed(self.number);
        true
    }

    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
        self.journal.killed(self.number);
        self.sqs.heal();
        self.dynamodb.heal();
    }

    pub(crate) fn signal(&self, signal: Signal) {
        if let Some(process) = &self.process {
            process.signal(signal);
        }
    }

    /// Ends it as a deployment does.
    pub(crate) async fn terminate(&mut self) {
        let Some(mut process) = self.process.take() else { return };
        process.signal(Signal::Terminate);
        let clock = Clock::system();
        let deadline = clock.now() + PATIENCE;
        let status = loop {
            if let Some(status) = process.ended() {
                break status;
            }
            assert!(clock.now() < deadline, "worker {} does not drain", self.number);
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        process.hear_out();
        assert!(status.success(), "worker {}: {status}\n{}", self.number, self.said());
    }

    pub(crate) fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }
}
