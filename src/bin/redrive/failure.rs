//! Why a command could not be done, and the exit code that says so.

use std::fmt;
use std::process::ExitCode;

/// Done.
pub(crate) const DONE: u8 = 0;

/// It could not be done.
pub(crate) const FAILED: u8 = 1;

/// The command line cannot be right.
pub(crate) const USAGE: u8 = 2;

/// It was done, and there is something to look at.
pub(crate) const FOUND: u8 = 3;

/// It was ended by Ctrl-C or another signal before it was done; nothing is lost.
pub(crate) const INTERRUPTED: u8 = 130;

/// What a command ends in.
pub(crate) type Outcome = Result<Code, Failure>;

/// How a command that ran to its end did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    Done,
    Found,
    Failed,
    Interrupted,
}

impl From<Code> for ExitCode {
    fn from(code: Code) -> Self {
        Self::from(match code {
            Code::Done => DONE,
            Code::Found => FOUND,
            Code::Failed => FAILED,
            Code::Interrupted => INTERRUPTED,
        })
    }
}

/// Why a command could not be done: what failed, on what, and what to do.
#[derive(Debug)]
pub(crate) struct Failure {
    said: String,
    remedy: Option<String>,
    code: u8,
}

impl Failure {
    /// It could not be done; `said` names what failed and on what.
    pub(crate) fn new(said: impl fmt::Display) -> Self {
        Self {
            said: said.to_string(),
            remedy: None,
            code: FAILED,
        }
    }

    /// What was asked cannot be right.
    pub(crate) fn usage(said: impl fmt::Display) -> Self {
        Self {
            code: USAGE,
            ..Self::new(said)
        }
    }

    /// It was called off before anything was done.
    pub(crate) fn interrupted() -> Self {
        Self {
            code: INTERRUPTED,
            ..Self::new("interrupted; nothing was done")
        }
    }

    /// Adds what to do about it.
    pub(crate) fn remedy(self, remedy: impl fmt::Display) -> Self {
        Self {
            remedy: Some(remedy.to_string()),
            ..self
        }
    }

    pub(crate) fn remedy_text(&self) -> Option<&str> {
        self.remedy.as_deref()
    }

    /// Whether it was called off.
    pub(crate) fn is_interruption(&self) -> bool {
        self.code == INTERRUPTED
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.code)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.said)
    }
}

/// The library's errors say what to do themselves.
macro_rules! from_library {
    ($($error:ty),+ $(,)?) => {
        $(impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                Self::new(error)
            }
        })+
    };
}

from_library!(
    redrive::Error,
    redrive::queue::QueueError,
    redrive::inbox::InboxError,
    redrive::dlq::ReplayError,
    redrive::ProducerError,
    redrive::flow::FlowError,
    redrive::worker::BuildError,
);
