//! The example as a process, and the gateway's books that it keeps.

// Each test binary uses its own part of it.
#![allow(dead_code, reason = "test binaries share this module")]

use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::JoinHandle;

use serde::Deserialize;

use crate::until;

/// A signal to a process.
#[derive(Clone, Copy)]
pub(crate) enum Signal {
    Kill,
    Terminate,
}

impl Signal {
    pub(crate) fn number(self) -> i32 {
        match self {
            Self::Kill => 9,
            Self::Terminate => 15,
        }
    }
}

/// The example with arguments and variables: to be started, then running. What still runs when it is dropped is killed.
pub(crate) struct Program {
    command: Command,
    child: Option<Child>,
    stderr: Arc<Mutex<String>>,
    readers: Vec<JoinHandle<String>>,
}

/// A process that has ended, with what it said.
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ended {
    pub(crate) fn signal(&self) -> Option<i32> {
        self.status.signal()
    }

    pub(crate) fn shown(&self) -> String {
        let Self { status, stdout, stderr } = self;
        format!("{status}\n-- stdout\n{stdout}\n-- stderr\n{stderr}")
    }
}

impl Program {
    /// Without any variable of the caller's that would set it up.
    pub(crate) fn new(arguments: &[&str]) -> Self {
        let mut command = Command::new(binary());
        for (name, _) in std::env::vars_os() {
            let shown = name.to_string_lossy();
            if ["AWS_", "ORDERS_", "OTEL_", "REDRIVE_", "RUST_LOG"]
                .iter()
                .any(|prefix| shown.starts_with(prefix))
            {
                command.env_remove(&name);
            }
        }
        command.args(arguments).env("NO_COLOR", "1");
        // No profile of whoever runs the tests.
        command
            .env("AWS_CONFIG_FILE", "/dev/null")
            .env("AWS_SHARED_CREDENTIALS_FILE", "/dev/null");
        Self {
            command,
            child: None,
            stderr: Arc::default(),
            readers: Vec::new(),
        }
    }

    pub(crate) fn set(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    pub(crate) fn start(mut self) -> Self {
        self.spawn(Stdio::null());
        self
    }

    /// Runs it to its end with `input` on its standard input.
    pub(crate) async fn run(mut self, input: &str) -> Ended {
        self.spawn(Stdio::piped());
        if let Some(mut stdin) = self.child.as_mut().and_then(|child| child.stdin.take()) {
            let input = input.to_owned();
            // One that ends early reads no further.
            self.readers.push(std::thread::spawn(move || {
                let _ = std::io::Write::write_all(&mut stdin, input.as_bytes());
                String::new()
            }));
        }
        self.ended().await
    }

    fn spawn(&mut self, stdin: Stdio) {
        let command = self.command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the example starts");
        let stderr = BufReader::new(child.stderr.take().expect("it is piped"));
        let mut stdout = child.stdout.take().expect("it is piped");
        let said = Arc::clone(&self.stderr);
        self.readers.push(std::thread::spawn(move || {
            let mut text = String::new();
            stdout.read_to_string(&mut text).expect("it prints text");
            text
        }));
        self.readers.push(std::thread::spawn(move || {
            for line in stderr.lines() {
                let line = line.expect("it logs text");
                let mut said = said.lock().unwrap();
                said.push_str(&line);
                said.push('\n');
            }
            String::new()
        }));
        self.child = Some(child);
    }

    fn running(&mut self) -> &mut Child {
        self.child.as_mut().expect("it was started")
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.as_ref().expect("it was started").id()
    }

    /// Waits until it logs `text`.
    pub(crate) async fn said(&self, text: &str) {
        until(&format!("it says `{text}`"), async || {
            self.stderr.lock().unwrap().contains(text)
        })
        .await;
    }

    pub(crate) fn signal(&mut self, signal: Signal) {
        let sent = Command::new("kill")
            .arg(format!("-{}", signal.number()))
            .arg(self.id().to_string())
            .status()
            .expect("kill runs");
        assert!(sent.success(), "the process is not there any more");
    }

    /// Waits for its end.
    pub(crate) async fn ended(&mut self) -> Ended {
        let mut status = None;
        until("the process ends", async || {
            status = self.running().try_wait().expect("it can be waited for");
            status.is_some()
        })
        .await;
        let texts: Vec<String> = self.readers.drain(..).map(|reader| reader.join().unwrap()).collect();
        Ended {
            status: status.expect("it ended"),
            stdout: texts.concat(),
            stderr: self.stderr.lock().unwrap().clone(),
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // It may have ended.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The example's binary. `cargo test` builds it with the tests; a run of this test alone does not, so that it may be missing
/// or old, and is built then.
fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let test = std::env::current_exe().expect("this test has a path");
        let profile = test.parent().and_then(Path::parent).expect("…/PROFILE/deps/TEST");
        let binary = profile.join("examples").join("orders");
        if !is_fresh(&binary) {
            build(profile);
        }
        assert!(
            binary.is_file(),
            "{} is not there: cargo build --example orders",
            binary.display()
        );
        binary
    })
}

/// Whether it is younger than all it was made of, by the list that cargo writes beside it.
fn is_fresh(binary: &Path) -> bool {
    let modified = |path: &Path| path.metadata().and_then(|data| data.modified()).ok();
    let (Some(made), Ok(list)) = (modified(binary), std::fs::read_to_string(binary.with_extension("d"))) else {
        return false;
    };
    let Some((_, sources)) = list.split_once(':') else {
        return false;
    };
    // Built without what these tests are built with.
    if cfg!(feature = "otel") && !sources.contains("src/otel/mod.rs") {
        return false;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    // A path with a blank in it is not found, and the binary built, which does no harm.
    sources
        .split_whitespace()
        .all(|source| modified(&root.join(source)).is_some_and(|changed| changed <= made))
}

fn build(profile: &Path) {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["build", "--quiet", "--example", "orders"]);
    if cfg!(feature = "otel") {
        cargo.args(["--features", "otel"]);
    }
    cargo
        .arg("--target-dir")
        .arg(profile.parent().expect("a target folder"));
    if profile.ends_with("release") {
        cargo.arg("--release");
    }
    let built = cargo.status().expect("cargo runs");
    assert!(built.success(), "the example does not build");
}

/// The gateway's books, in a file that goes with the test.
pub(crate) struct Ledger {
    path: PathBuf,
}

/// A line of the books.
#[derive(Debug, Deserialize)]
pub(crate) struct Line {
    entry: String,
    pub(crate) key: String,
    pub(crate) amount_cents: u64,
    pub(crate) pid: u32,
}

impl Line {
    pub(crate) fn is_charge(&self) -> bool {
        self.entry == "charge"
    }
}

impl Ledger {
    pub(crate) fn new(name: &str) -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.jsonl"));
        Self { path }
    }

    pub(crate) fn path(&self) -> &str {
        self.path.to_str().expect("the target folder's path is text")
    }

    /// What is in them; a last line that is just being written is left out.
    pub(crate) fn read(&self) -> Vec<Line> {
        let text = std::fs::read_to_string(&self.path).unwrap_or_default();
        let complete = text.rfind('\n').map_or("", |end| &text[..end]);
        complete
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}")))
            .collect()
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}
