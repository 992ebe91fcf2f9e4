//! `redrive exec`: a command for each message, with a worker around it.

mod environment;
mod program;

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use redrive::{Context, Failure as HandlerFailure, Outcome as HandlerOutcome};

use crate::child::{self, Ended, Limits, Stop, group};
use crate::connection::Aws;
use crate::failure::{Failure, Outcome};
use crate::run::{Job, WorkerFlags, stored};
use crate::ui::Ui;
use crate::values::duration_within;

pub(crate) const EXAMPLES: &str = "\
The body is the command's standard input; what the message is and where it comes from is in REDRIVE_ variables of its \
environment. The exit code decides: 0 is done (standard output is the result); 65 is a dead letter; 75 and anything else \
is tried again. The end of standard error is kept as the error. At the timeout (15m unless set) the command and its \
children are ended: SIGTERM, and SIGKILL after the grace.

Every setting of the worker is a flag or a variable (in brackets); a flag wins. Logs go to standard error, what was done to \
standard output. Ctrl-C or SIGTERM ends in order, with exit code 0.

Examples:
  redrive exec orders --table redrive-inbox -- ./charge.sh
  redrive exec thumbnails --table inbox --concurrency 4 --timeout 5m -- python3 render.py --size 200
  redrive exec orders --no-inbox --until-empty -- sh -c 'cat >> orders.jsonl'";

/// How long a command may run, unless set.
const TIMEOUT: Duration = Duration::from_secs(15 * 60);

const MOST_GRACE: Duration = Duration::from_secs(60 * 60);

/// What the worker's own timeout is beyond ours and the grace.
const BACKSTOP: Duration = Duration::from_secs(5);

/// What `redrive exec` is asked.
#[derive(Args, Debug)]
pub(crate) struct Exec {
    /// The queue to work on: its name, URL or ARN.
    queue: String,

    /// The command, and its arguments; after `--`.
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,

    /// How long a command that was told to end (SIGTERM) has for it before it is killed.
    #[arg(long, value_name = "DURATION", value_parser = duration_within(Duration::ZERO, MOST_GRACE), default_value = "5s")]
    grace: Duration,

    #[command(flatten)]
    worker: WorkerFlags,
}

/// What runs commands.
struct Runner {
    program: PathBuf,
    arguments: Vec<OsString>,
    limits: Limits,
}

impl Exec {
    pub(crate) async fn run(&self, aws: &Aws, ui: &Ui) -> Outcome {
        let job = Job {
            flags: &self.worker,
            queue: &self.queue,
            aws,
            ui,
        };
        let timeout = job.timeout(TIMEOUT)?;
        let (program, arguments) = self
            .command
            .split_first()
            .ok_or_else(|| Failure::usage("no command is given after `--`"))?;
        let runner = Arc::new(Runner {
            program: program::find(program, std::env::var_os("PATH").as_deref())?,
            arguments: arguments.to_vec(),
            limits: Limits {
                timeout,
                grace: self.grace,
                output: job.max_result()?,
            },
        });
        let handler = move |context: Context| {
            let runner = Arc::clone(&runner);
            async move { runner.message(&context).await }
        };
        job.work(handler, timeout + self.grace + BACKSTOP).await
    }
}

impl Runner {
    async fn message(&self, context: &Context) -> HandlerOutcome {
        let mut command = tokio::process::Command::new(&self.program);
        command.args(&self.arguments);
        environment::set(&mut command, context);
        let body = context.message().body.as_bytes();
        match child::run(command, body, self.limits, context.cancellation()).await {
            Ok(ended) => self.outcome(&ended),
            Err(error) => HandlerOutcome::Failed(HandlerFailure::retry(format_args!(
                "`{}` cannot be started: {error}",
                self.program.display()
            ))),
        }
    }

    fn outcome(&self, ended: &Ended) -> HandlerOutcome {
        match ended.stopped {
            // Whatever it said on its way out, it was not let finish.
            Some(Stop::Timeout) => return HandlerOutcome::Failed(HandlerFailure::timed_out(self.limits.timeout)),
            Some(Stop::Unwanted) => {
                let stopped = HandlerFailure::retry("stopped, as the worker ends");
                return HandlerOutcome::Failed(stopped.uncounted());
            }
            None => {}
        }
        match ended.status.code() {
            Some(0) => {
                if !ended.whole {
                    tracing::warn!(
                        max_result = self.limits.output,
                        "the command's output is too large and is not kept; the message is done all the same"
                    );
                }
                HandlerOutcome::Done(stored(&ended.output, ended.whole))
            }
            Some(65) => HandlerOutcome::Failed(HandlerFailure::reject(said(ended))),
            _ => HandlerOutcome::Failed(HandlerFailure::retry(said(ended))),
        }
    }
}

/// How it ended, and the last it said on standard error.
fn said(ended: &Ended) -> String {
    let how = match ended.status.code() {
        Some(code) => format!("exit code {code}"),
        None => match group::signal_of(ended.status) {
            Some(signal) => format!("killed by signal {signal}"),
            None => "ended without an exit code".to_owned(),
        },
    };
    let text = String::from_utf8_lossy(&ended.error);
    let text = text.trim();
    if text.is_empty() { how } else { format!("{how}: {text}") }
}
