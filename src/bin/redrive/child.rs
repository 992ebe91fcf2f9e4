//! One run of a command: fed, listened to, and ended with its children when its time is over.

mod capture;
pub(crate) mod group;

use std::io;
use std::pin::pin;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use redrive::outcome::MAX_ERROR_BYTES;
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, ChildStdin, Command};
use tokio_util::sync::CancellationToken;

use capture::{Head, Tail};
use group::Group;

/// How long outputs are read on after the command ended: a process that left the group may hold them open.
const LINGER: Duration = Duration::from_secs(1);

/// The most bytes of standard error that are kept; the rest of an error says how it ended.
const ERROR_TAIL: usize = MAX_ERROR_BYTES - 64;

/// What a run is held to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) timeout: Duration,
    /// Between SIGTERM and SIGKILL.
    pub(crate) grace: Duration,
    /// Of standard output, in bytes.
    pub(crate) output: usize,
}

/// Why a run was ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    Timeout,
    /// Its result is wanted no more.
    Unwanted,
}

/// A run that ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) stopped: Option<Stop>,
    pub(crate) output: Vec<u8>,
    /// Whether `output` is all that it wrote.
    pub(crate) whole: bool,
    pub(crate) error: Vec<u8>,
}

/// Runs the command with `input`. Dropped before its end, it kills the command and its children at once: whoever drops it wants
/// no more of it, and a message that was lost may be run by another by now.
pub(crate) async fn run(
    mut command: Command,
    input: &[u8],
    limits: Limits,
    unwanted: &CancellationToken,
) -> io::Result<Ended> {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    #[cfg(unix)]
    command.process_group(0);
    group::reap();
    let mut child = command.spawn()?;
    // Declared after the child, so dropped before it: while the child is not reaped, its id names no other group.
    let group = child.id().map(Group::of);
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (output, error) = (Head::new(limits.output), Tail::new(ERROR_TAIL));
    let talk = async {
        tokio::join!(feed(stdin, input), output.read(stdout), error.read(stderr));
    };
    let (status, stopped) = {
        let mut talk = pin!(talk);
        let mut talking = true;
        let ended = {
            let mut ending = pin!(end(&mut child, group.as_ref(), limits, unwanted));
            loop {
                tokio::select! {
                    biased;
                    ended = &mut ending => break ended,
                    () = &mut talk, if talking => talking = false,
                }
            }
        };
        // Its run ends with the command: children that it left behind are killed, which closes the pipes. At once, as the id
        // of the group can be another's once its leader is reaped and its last member is gone.
        drop(group);
        if talking {
            let _ = tokio::time::timeout(LINGER, talk).await;
        }
        ended
    };
    let (output, whole) = output.into_parts();
    Ok(Ended {
        status: status?,
        stopped,
        output,
        whole,
        error: error.into_bytes(),
    })
}

/// Waits for its end, or brings it about.
async fn end(
    child: &mut Child,
    group: Option<&Group>,
    limits: Limits,
    unwanted: &CancellationToken,
) -> (io::Result<ExitStatus>, Option<Stop>) {
    let stop = tokio::select! {
        biased;
        status = child.wait() => return (status, None),
        () = unwanted.cancelled() => Stop::Unwanted,
        () = tokio::time::sleep(limits.timeout) => Stop::Timeout,
    };
    tracing::debug!(?stop, "the command is told to end");
    if let Some(group) = group {
        group.tell_to_end();
    }
    if let Ok(status) = tokio::time::timeout(limits.grace, child.wait()).await {
        return (status, Some(stop));
    }
    tracing::warn!("the command did not end when told to, and is killed");
    if let Some(group) = group {
        group.kill();
    }
    (child.kill().await.and(child.wait().await), Some(stop))
}

/// Writes the body. A command that reads no more of it knows what it does.
async fn feed(stdin: Option<ChildStdin>, input: &[u8]) {
    if let Some(mut stdin) = stdin {
        let _ = stdin.write_all(input).await;
        let _ = stdin.shutdown().await;
    }
}
