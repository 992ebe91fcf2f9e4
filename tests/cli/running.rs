//! A run of the tool that goes on while the test looks at it.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use redrive::clock::Clock;

use crate::tool::{Ran, Tool};

/// How long a condition is waited for.
const DEADLINE: Duration = Duration::from_secs(60);

/// The tool under way.
pub(crate) struct Running {
    child: Child,
    log: Arc<(Mutex<String>, Condvar)>,
    reader: JoinHandle<()>,
}

impl Running {
    pub(crate) fn start(tool: &Tool, arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut command = tool.command(arguments);
        command.envs(variables.iter().copied());
        Self::of(command)
    }

    /// Heeding hangups, even where the tests themselves were started by `nohup`.
    pub(crate) fn start_heeding_hangups(tool: &Tool, arguments: &[&str]) -> Self {
        let command = tool.command(arguments);
        if !hangups_are_ignored_here() {
            return Self::of(command);
        }
        let mut heeding = Command::new("env");
        heeding.arg("--default-signal=HUP");
        Self::of(as_child_of(heeding, &command))
    }

    /// As a shell's child to which hangups mean nothing, as `nohup` makes it.
    pub(crate) fn start_nohup(tool: &Tool, arguments: &[&str]) -> Self {
        let mut shell = Command::new("sh");
        shell.args(["-c", r#"trap '' HUP; exec "$0" "$@""#]);
        Self::of(as_child_of(shell, &tool.command(arguments)))
    }

    fn of(mut command: Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().expect("the tool starts");
        let log = Arc::new((Mutex::new(String::new()), Condvar::new()));
        let stderr = child.stderr.take().expect("it has a standard error");
        let theirs = Arc::clone(&log);
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let mut text = theirs.0.lock().unwrap();
                text.push_str(&line);
                text.push('\n');
                theirs.1.notify_all();
            }
        });
        Self { child, log, reader }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until its log holds this.
    pub(crate) fn wait_for(&self, text: &str) {
        let log = self.log.0.lock().unwrap();
        let waited = self
            .log
            .1
            .wait_timeout_while(log, DEADLINE, |log| !log.contains(text))
            .unwrap();
        assert!(!waited.1.timed_out(), "no `{text}` in\n{}", waited.0);
    }

    /// Sends it a signal, such as `TERM`.
    pub(crate) fn signal(&self, name: &str) {
        let id = self.id().to_string();
        let sent = Command::new("kill")
            .args(["-s", name, &id])
            .status()
            .expect("kill runs");
        assert!(sent.success());
    }

    /// Waits for its end.
    pub(crate) fn end(mut self) -> Ran {
        let mut stdout = String::new();
        let mut out = self.child.stdout.take().expect("it has a standard output");
        out.read_to_string(&mut stdout).expect("it prints text");
        let status = self.child.wait().expect("the tool ends");
        self.reader.join().expect("its log is read");
        let stderr = self.log.0.lock().unwrap().clone();
        Ran {
            code: status.code().unwrap_or(-1),
            stdout,
            stderr,
        }
    }
}

/// `command` started by `parent`, which takes it as its last arguments.
fn as_child_of(mut parent: Command, command: &Command) -> Command {
    parent
        .arg(command.get_program())
        .args(command.get_args())
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => parent.env(name, value),
            None => parent.env_remove(name),
        };
    }
    parent
}

/// Whether a child of the tests would inherit that hangups mean nothing. Only Linux tells.
fn hangups_are_ignored_here() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    ignored.is_some_and(|mask| u64::from_str_radix(mask.trim(), 16).is_ok_and(|mask| mask & 1 == 1))
}

/// Waits until `holds`.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let clock = Clock::system();
    let begun = clock.now();
    while !holds() {
        assert!(clock.now().duration_since(begun) < DEADLINE, "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
