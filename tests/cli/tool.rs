//! Running the tool, and making what it says the same in every run.

use std::io::Write as _;
use std::process::{Child, Command, Stdio};

use regex_lite::Regex;
use serde_json::Value;

use crate::localstack::Servers;

/// The tool on the local servers.
pub(crate) struct Tool {
    servers: Option<Servers>,
    account: String,
}

/// What a run of the tool said.
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Tool {
    /// In this account of the servers; see [`World`](crate::world::World).
    pub(crate) fn new(servers: &Servers, account: &str) -> Self {
        Self {
            servers: Some(servers.clone()),
            account: account.to_owned(),
        }
    }

    /// For what needs no server.
    pub(crate) fn alone() -> Self {
        Self {
            servers: None,
            account: "000000000000".to_owned(),
        }
    }

    /// The command, with nothing of this machine's AWS settings in it; for runs that need more than [`run`](Self::run).
    pub(crate) fn command<S: AsRef<std::ffi::OsStr>>(&self, arguments: &[S]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_redrive"));
        let ours = |name: &str| name.starts_with("AWS_") || name.starts_with("REDRIVE_") || name == "RUST_LOG";
        for (name, _) in std::env::vars().filter(|(name, _)| ours(name)) {
            command.env_remove(name);
        }
        command
            .args(arguments)
            .env("AWS_REGION", "us-east-1")
            .env("AWS_ACCESS_KEY_ID", &self.account)
            .env("AWS_SECRET_ACCESS_KEY", "test")
            .env("AWS_CONFIG_FILE", "/nonexistent")
            .env("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if let Some(servers) = &self.servers {
            command
                .env("AWS_ENDPOINT_URL_SQS", &servers.sqs_url)
                // It has none, and no test asks the real one.
                .env("AWS_ENDPOINT_URL_CLOUDWATCH", &servers.sqs_url)
                .env("AWS_ENDPOINT_URL_DYNAMODB", &servers.dynamodb_url);
        }
        command
    }

    pub(crate) fn run<S: AsRef<std::ffi::OsStr>>(&self, arguments: &[S]) -> Ran {
        let child = self.command(arguments).spawn().expect("the tool starts");
        Ran::of(child)
    }

    #[allow(dead_code, reason = "for commands that read")]
    pub(crate) fn run_with_input<S: AsRef<std::ffi::OsStr>>(&self, arguments: &[S], input: &[u8]) -> Ran {
        let mut child = self
            .command(arguments)
            .stdin(Stdio::piped())
            .spawn()
            .expect("the tool starts");
        let mut stdin = child.stdin.take().expect("it has an input");
        let input = input.to_vec();
        let writer = std::thread::spawn(move || {
            // A tool that refuses before it has read all closes its end.
            let _ = stdin.write_all(&input);
        });
        let ran = Ran::of(child);
        writer.join().expect("the input is written");
        ran
    }
}

impl Ran {
    pub(crate) fn of(child: Child) -> Self {
        let output = child.wait_with_output().expect("the tool ends");
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).expect("it prints text"),
            stderr: String::from_utf8(output.stderr).expect("it prints text"),
        }
    }

    /// Standard output, after asserting the exit code.
    #[track_caller]
    pub(crate) fn exits(&self, code: i32) -> &str {
        assert_eq!(
            self.code, code,
            "--- stdout\n{}--- stderr\n{}",
            self.stdout, self.stderr
        );
        &self.stdout
    }

    /// Standard output as one JSON document.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {}{}", self.stdout, self.stderr))
    }

    /// Standard output as one JSON document a line.
    #[track_caller]
    #[allow(dead_code, reason = "for commands that stream")]
    pub(crate) fn json_lines(&self) -> Vec<Value> {
        let parse = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        self.stdout.lines().map(parse).collect()
    }

    /// Exit code and both outputs, for a snapshot.
    pub(crate) fn shown(&self) -> String {
        let mut shown = format!("exit {}\n", self.code);
        for (name, text) in [("stdout", &self.stdout), ("stderr", &self.stderr)] {
            if !text.is_empty() {
                shown.push_str(&format!("--- {name}\n{text}"));
            }
        }
        tidy(&shown)
    }
}

/// `text` with what differs between runs replaced: UUIDs and their first eight
/// characters (numbered as they appear), times, ages, endpoints and accounts.
/// Columns lose their padding with it.
pub(crate) fn tidy(text: &str) -> String {
    let uuid = Regex::new(r"\b([0-9a-f]{8})(-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})?\b").unwrap();
    let mut known: Vec<String> = Vec::new();
    let numbered = |found: &regex_lite::Captures<'_>| {
        let number = known.iter().position(|id| *id == found[1]).unwrap_or_else(|| {
            known.push(found[1].to_owned());
            known.len() - 1
        });
        format!("<id {}>", number + 1)
    };
    let mut text = uuid.replace_all(text, numbered).into_owned();
    for (pattern, with) in [
        (r"redrive-inbox-\d{12}\b", "redrive-inbox"),
        (r"\b\d{12}\b", "<account>"),
        (r"\bjob [0-9a-f]{16}\b", "job <job>"),
        (
            r"http://(127\.0\.0\.1|localhost|[a-z0-9.-]*localstack\.cloud)(:\d+)?",
            "http://<endpoint>",
        ),
        (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "<time>"),
        (r"\b\d+[dhms]( \d+[hms])? (ago|left)\b", "<age> $2"),
        (r"\b(in|to) \d+[dhms]( \d+[hms])?\b", "$1 <age>"),
        (r"  +(\d+[dhms]( \d+[hms])?)(  |\n)", "  <age>  "),
        (r" {3,}", "  "),
    ] {
        text = Regex::new(pattern).unwrap().replace_all(&text, with).into_owned();
    }
    text
}
