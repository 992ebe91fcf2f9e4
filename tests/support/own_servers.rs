//! Servers of a test's own, which it may stop and restart without harm to others: LocalStack for SQS, which keeps nothing
//! over a restart, and DynamoDB Local on a file, which does.

// Each test binary uses its own part of it.
#![allow(dead_code, reason = "test binaries share this module")]

use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_sdk_dynamodb::error::DisplayErrorContext;
use redrive::clock::Clock;

use crate::aws::config;
use crate::child::{Process, Signal};
use crate::localstack;

/// How long a server may take to start on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// Both servers. Dropped, they are killed and what they wrote is removed.
pub(crate) struct OwnServers {
    pub(crate) sqs: Server,
    pub(crate) dynamodb: Server,
    _folder: tempfile::TempDir,
}

/// One of them.
pub(crate) struct Server {
    name: &'static str,
    port: u16,
    command: Box<dyn Fn() -> Command + Send + Sync>,
    process: Process,
    said: Arc<Mutex<String>>,
}

/// Runs a program, and kills it when standard input ends: when whoever started it is gone, however that went.
const KEPT: &str = r#"exec 3<&0
"$@" </dev/null 3<&- &
program=$!
trap : TERM
{ cat <&3; kill -9 $program; } >/dev/null 2>&1 &
keeper=$!
exec 3<&-
wait $program
wait $program
kill $keeper"#;

impl OwnServers {
    /// Starts both, installed by `localstack/up` if need be. `None` where tests on servers are left out.
    pub(crate) async fn start() -> Option<Self> {
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("localstack");
        let python = scripts.join(".run/venv/bin/python");
        let jars = scripts.join(".run/dynamodb");
        if localstack::are_left_out() || !python.exists() || !jars.join("DynamoDBLocal.jar").exists() {
            localstack::servers()?;
        }
        assert!(
            python.exists() && jars.join("DynamoDBLocal.jar").exists(),
            "this test starts servers of its own and needs them installed without Docker: \
             localstack/down && REDRIVE_LOCALSTACK=native localstack/up"
        );
        // In memory where the machine has such a folder: the file outlives the server, and a disk would only slow it down.
        let base = Path::new("/dev/shm");
        let base = if base.is_dir() {
            base.to_owned()
        } else {
            std::env::temp_dir()
        };
        let folder = tempfile::Builder::new()
            .prefix("redrive-servers-")
            .tempdir_in(base)
            .unwrap();
        let (sqs_port, dynamodb_port) = (free_port(), free_port());
        let sqs = Server::start(
            "SQS",
            sqs_port,
            localstack_command(&scripts, python, folder.path(), sqs_port),
        );
        let dynamodb = Server::start(
            "DynamoDB",
            dynamodb_port,
            dynamodb_command(jars, folder.path(), dynamodb_port),
        );
        let servers = Self {
            sqs,
            dynamodb,
            _folder: folder,
        };
        servers.sqs_answers().await;
        servers.dynamodb_answers().await;
        Some(servers)
    }

    async fn sqs_answers(&self) {
        let client = aws_sdk_sqs::Client::new(&config(&self.sqs.url()));
        self.sqs
            .answers(async || {
                client
                    .list_queues()
                    .send()
                    .await
                    .map(drop)
                    .map_err(|error| DisplayErrorContext(error).to_string())
            })
            .await;
    }

    pub(crate) async fn dynamodb_answers(&self) {
        let client = aws_sdk_dynamodb::Client::new(&config(&self.dynamodb.url()));
        self.dynamodb
            .answers(async || {
                client
                    .list_tables()
                    .send()
                    .await
                    .map(drop)
                    .map_err(|error| DisplayErrorContext(error).to_string())
            })
            .await;
    }

    /// Ends DynamoDB Local and starts it again on the same file and port; returns once it answers.
    pub(crate) async fn restart_dynamodb(&mut self) {
        self.dynamodb.end();
        self.dynamodb.start_again();
        self.dynamodb_answers().await;
    }
}

impl Server {
    fn start(name: &'static str, port: u16, command: impl Fn() -> Command + Send + Sync + 'static) -> Self {
        let said = Arc::default();
        Self {
            name,
            port,
            process: run(&command(), &said),
            command: Box::new(command),
            said,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        self.process.signal_group(signal);
    }

    /// SIGTERM, and SIGKILL where that does not end it.
    fn end(&mut self) {
        for (signal, patience) in [(Signal::Terminate, 500), (Signal::Kill, 500)] {
            self.process.signal_group(signal);
            for _ in 0..patience {
                if self.process.ended().is_some() {
                    return;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        panic!("{} does not end", self.name);
    }

    fn start_again(&mut self) {
        self.process = run(&(self.command)(), &self.said);
    }

    async fn answers(&self, mut ask: impl AsyncFnMut() -> Result<(), String>) {
        let clock = Clock::system();
        let deadline = clock.now() + PATIENCE;
        loop {
            let Err(error) = ask().await else { return };
            assert!(
                clock.now() < deadline,
                "{} was not ready in {PATIENCE:?}: {error}\n{}",
                self.name,
                self.said.lock().unwrap()
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

fn run(command: &Command, said: &Arc<Mutex<String>>) -> Process {
    let keep = |said: &Arc<Mutex<String>>| {
        let said = Arc::clone(said);
        move |line: &str| {
            let mut said = said.lock().unwrap();
            // For the case that it does not start: what it says later is of no use.
            if said.len() < 20_000 {
                said.push_str(line);
                said.push('\n');
            }
        }
    };
    let mut kept = Command::new("bash");
    kept.args(["-c", KEPT, "bash"])
        .arg(command.get_program())
        .args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => kept.env(name, value),
            None => kept.env_remove(name),
        };
    }
    if let Some(folder) = command.get_current_dir() {
        kept.current_dir(folder);
    }
    kept.process_group(0);
    Process::start(kept, keep(said), keep(said))
}

/// As `localstack/up` starts it.
fn localstack_command(scripts: &Path, python: PathBuf, folder: &Path, port: u16) -> impl Fn() -> Command + use<> {
    let root = folder.join("sqs");
    std::fs::create_dir_all(&root).unwrap();
    let program = scripts.join("loopback_sqs.py");
    move || {
        let address = format!("127.0.0.1:{port}");
        let mut command = Command::new(&python);
        command.arg(&program).current_dir(&root);
        for (name, value) in [
            ("SERVICES", "sqs"),
            ("EAGER_SERVICE_LOADING", "1"),
            ("SKIP_SSL_CERT_DOWNLOAD", "1"),
            ("DISABLE_EVENTS", "1"),
            ("DNS_ADDRESS", "0"),
            ("SQS_ENDPOINT_STRATEGY", "off"),
            ("GATEWAY_LISTEN", &address),
            ("LOCALSTACK_HOST", &address),
            ("OVERRIDE_IN_DOCKER", "0"),
            ("LS_LOG", "warn"),
            ("AWS_REGION", "us-east-1"),
            ("AWS_ACCESS_KEY_ID", "test"),
            ("AWS_SECRET_ACCESS_KEY", "test"),
        ] {
            command.env(name, value);
        }
        command
            .env("FILESYSTEM_ROOT", &root)
            .env("XDG_CACHE_HOME", root.join("cache"));
        for name in [
            "AWS_PROFILE",
            "AWS_ENDPOINT_URL",
            "AWS_ENDPOINT_URL_SQS",
            "AWS_ENDPOINT_URL_DYNAMODB",
            "DEBUG",
        ] {
            command.env_remove(name);
        }
        command
    }
}

/// As `localstack/up` starts it, but on a file.
fn dynamodb_command(jars: PathBuf, folder: &Path, port: u16) -> impl Fn() -> Command + use<> {
    let data = folder.join("dynamodb");
    std::fs::create_dir_all(&data).unwrap();
    let home = std::env::var_os("JAVA_HOME").map(|home| Path::new(&home).join("bin/java"));
    let java = home.filter(|java| java.exists()).unwrap_or_else(|| "java".into());
    move || {
        let mut command = Command::new(&java);
        command.current_dir(&data).args(["-Xmx512m", "-XX:+UseSerialGC"]);
        command.arg(format!(
            "-Djava.library.path={}",
            jars.join("DynamoDBLocal_lib").display()
        ));
        let jar = jars.join("DynamoDBLocal.jar");
        if jars.join("LoopbackDynamoDb.class").exists() {
            command.arg("-cp").arg(format!("{}:{}", jars.display(), jar.display()));
            command.arg("LoopbackDynamoDb");
        } else {
            command.arg("-jar").arg(jar);
        }
        command.args(["-sharedDb", "-disableTelemetry", "-port", &port.to_string(), "-dbPath"]);
        command.arg(&data);
        command
    }
}

/// A port that nothing listens on.
fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    listener.local_addr().unwrap().port()
}
