//! The worker processes, each behind proxies of its own, so that what one asks can be told from what others ask.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use redrive::clock::{Clock, Random};
use serde_json::Value;

use super::journal::Journal;
use super::program::Places;
use crate::child::{Process, Signal};
use crate::fault_proxy::{Fault, FaultProxy, Request, Rule};

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
    announced: Arc<Mutex<Vec<Announced>>>,
    wire: Wire,
}

/// A suspect's run that a worker asked the inbox to write down.
#[derive(Clone, Debug)]
pub(crate) struct Announced {
    pub(crate) key: String,
    /// All texts in what was asked, its claim's id among them.
    texts: Vec<String>,
}

impl Announced {
    pub(crate) fn is_of(&self, claim_id: &str) -> bool {
        self.texts.iter().any(|text| text == claim_id)
    }

    /// What a call announces: its updates that set a flag of a record.
    fn all_in(request: &Request) -> Vec<Self> {
        let text = request.text();
        let updates = matches!(&*request.operation, "UpdateItem" | "BatchExecuteStatement");
        if !updates || !text.contains("started") || !text.contains("true") {
            return Vec::new();
        }
        let body = request.json();
        let updates = match body["Statements"].as_array() {
            Some(statements) => statements.clone(),
            None => vec![body],
        };
        let read = |update: &Value| {
            let (mut texts, mut sets_a_flag) = (Vec::new(), false);
            read_values(update, &mut texts, &mut sets_a_flag);
            let key = texts.iter().find_map(|text| text.split_once('#'))?.1.to_owned();
            sets_a_flag.then_some(Self { key, texts })
        };
        updates.iter().filter_map(read).collect()
    }
}

/// What all workers told the inbox of suspects, by key.
#[derive(Clone, Default)]
pub(crate) struct Wire(Arc<Mutex<BTreeMap<String, Suspect>>>);

/// What was told of one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Suspect {
    /// Claims whose lease had run out and under which the record still said that it runs: others took the key over on the
    /// condition that it says so.
    pub(crate) deaths: BTreeSet<String>,
    /// All of it, in words.
    pub(crate) told: Vec<String>,
}

impl Wire {
    pub(crate) fn of(&self, key: &str) -> Suspect {
        self.0.lock().unwrap().get(key).cloned().unwrap_or_default()
    }

    pub(crate) fn keys(&self) -> Vec<String> {
        self.0.lock().unwrap().keys().cloned().collect()
    }

    pub(crate) fn tell(&self, key: &str, what: String) {
        let at = Clock::system().epoch_ms();
        let mut suspects = self.0.lock().unwrap();
        suspects
            .entry(key.to_owned())
            .or_default()
            .told
            .push(format!("{at} {what}"));
    }

    /// Takes note of a claim that finds another's run announced.
    fn claimed(&self, worker: usize, request: &Request) {
        if request.operation != "PutItem" || !request.text().contains(":started") {
            return;
        }
        let body = request.json();
        let (item, found) = (&body["Item"], &body["ExpressionAttributeValues"]);
        let key = item["pk"]["S"].as_str().and_then(|pk| pk.split_once('#'));
        let dead = found[":claim_id"]["S"].as_str();
        if let (Some((_, key)), Some(dead), Some(true)) = (key, dead, found[":started"]["BOOL"].as_bool()) {
            self.tell(
                key,
                format!("worker {worker} claims it and finds the run announced under {dead}"),
            );
            let mut suspects = self.0.lock().unwrap();
            suspects
                .entry(key.to_owned())
                .or_default()
                .deaths
                .insert(dead.to_owned());
        }
    }
}

/// Takes the texts out of attribute values, and notes whether there is a flag that is set among them.
fn read_values(value: &Value, texts: &mut Vec<String>, sets_a_flag: &mut bool) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match (&**name, value) {
                    ("S", Value::String(text)) => texts.push(text.clone()),
                    ("BOOL", Value::Bool(true)) => *sets_a_flag = true,
                    _ => read_values(value, texts, sets_a_flag),
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| read_values(value, texts, sets_a_flag)),
        _ => {}
    }
}

impl Post {
    pub(crate) async fn new(number: usize, places: &Places, journal: &Journal, wire: &Wire, random: &Random) -> Self {
        let sqs = FaultProxy::start(&places.sqs, Random::seeded(random.next_u64())).await;
        let dynamodb = FaultProxy::start(&places.dynamodb, Random::seeded(random.next_u64())).await;
        let places = Places {
            sqs: sqs.url(),
            dynamodb: dynamodb.url(),
            ..places.clone()
        };
        let post = Self {
            number,
            sqs,
            dynamodb,
            places,
            process: None,
            journal: journal.clone(),
            said: Arc::default(),
            lives: 0,
            announced: Arc::default(),
            wire: wire.clone(),
        };
        post.heal();
        post
    }

    /// Ends all that was arranged to go wrong at its proxies. Its announcements are listened to all the time.
    pub(crate) fn heal(&self) {
        self.sqs.heal();
        self.dynamodb.heal();
        let announced = Arc::clone(&self.announced);
        let (wire, number) = (self.wire.clone(), self.number);
        let listen = move |request: &Request| {
            for one in Announced::all_in(request) {
                wire.tell(&one.key, format!("worker {number} announces a run"));
                announced.lock().unwrap().push(one);
            }
            wire.claimed(number, request);
            false
        };
        self.dynamodb.add(Rule::on_all(Fault::reset()).when(listen));
    }

    /// What its present or last process announced.
    pub(crate) fn announced(&self) -> Vec<Announced> {
        self.announced.lock().unwrap().clone()
    }

    /// Starts a process, if none runs.
    pub(crate) fn man(&mut self) {
        if self.process.is_some() {
            return;
        }
        self.lives += 1;
        self.announced.lock().unwrap().clear();
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
        self.heal();
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
