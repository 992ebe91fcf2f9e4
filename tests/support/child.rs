//! Processes that a test starts, listens to, and stops in every way a process can be stopped.

// Each test binary uses its own part of it.
#![allow(dead_code, reason = "test binaries share this module")]

use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;

/// A signal to a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    Terminate,
    Stop,
    Continue,
    Kill,
}

/// A running process. Dropped, it is killed.
pub(crate) struct Process {
    child: Child,
    readers: Vec<JoinHandle<()>>,
    /// Kept open: its end tells a program that whoever started it is gone.
    _stdin: Option<ChildStdin>,
}

impl Process {
    /// Starts `command`; each line that it prints, on either output, is handed to `line`, those of its errors last.
    pub(crate) fn start(
        mut command: Command,
        line: impl Fn(&str) + Send + 'static,
        error: impl Fn(&str) + Send + 'static,
    ) -> Self {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        let stderr = BufReader::new(child.stderr.take().expect("it is piped"));
        let readers = vec![
            std::thread::spawn(move || stdout.lines().map_while(Result::ok).for_each(|text| line(&text))),
            std::thread::spawn(move || stderr.lines().map_while(Result::ok).for_each(|text| error(&text))),
        ];
        Self {
            readers,
            _stdin: child.stdin.take(),
            child,
        }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its status, once it has ended.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("it can be waited for")
    }

    /// SIGKILL, and waits until it is gone and all that it said was heard.
    pub(crate) fn kill(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        self.child.wait().expect("it can be waited for");
        self.hear_out();
    }

    /// Waits until all was heard that it said; it must have ended.
    pub(crate) fn hear_out(&mut self) {
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
    }

    /// Sends a signal; one to a process that has ended does nothing.
    pub(crate) fn signal(&self, signal: Signal) {
        send(signal, &self.id().to_string());
    }

    /// Sends a signal to the whole process group that it leads.
    pub(crate) fn signal_group(&self, signal: Signal) {
        send(signal, &format!("-{}", self.id()));
    }
}

fn send(signal: Signal, to: &str) {
    let name = match signal {
        Signal::Terminate => "-TERM",
        Signal::Stop => "-STOP",
        Signal::Continue => "-CONT",
        Signal::Kill => "-KILL",
    };
    let mut kill = Command::new("kill");
    kill.args([name, "--", to]).stderr(Stdio::null());
    kill.status().expect("kill runs");
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
