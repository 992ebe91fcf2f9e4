//! Whether the credentials in use may do what is needed, found out without doing it.
//!
//! Each action is tried in a way that cannot have an effect: with a receipt handle that is none, a message that no queue
//! takes, a condition that cannot hold. A refusal for that reason means that the service did not deny the action. Policies
//! with conditions may still decide otherwise for other calls.

use std::fmt;

/// One action on one resource.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Permission {
    /// The action as IAM policies name it, such as `sqs:DeleteMessage`.
    pub action: &'static str,
    /// The ARN of what it is done to.
    pub resource: String,
    /// What came of trying it.
    pub verdict: Verdict,
}

/// What came of trying an action.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// It was not denied.
    Allowed,
    /// It was denied, in these words.
    Denied(String),
    /// It cannot be tried without an effect: this one.
    Untested(&'static str),
    /// It was tried, and whether it is allowed is not known: this happened.
    Unknown(String),
}

impl Permission {
    pub(crate) fn new(action: &'static str, resource: &str, verdict: Verdict) -> Self {
        Self {
            action,
            resource: resource.to_owned(),
            verdict,
        }
    }
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            action,
            resource,
            verdict,
        } = self;
        match verdict {
            Verdict::Allowed => write!(f, "{action} on {resource} is allowed"),
            Verdict::Denied(said) => write!(f, "{action} on {resource} is denied: {said}"),
            Verdict::Untested(effect) => write!(f, "{action} on {resource} was not tried: {effect}"),
            Verdict::Unknown(said) => write!(f, "whether {action} on {resource} is allowed is not known: {said}"),
        }
    }
}
