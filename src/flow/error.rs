use std::fmt::Display;

/// A flow-control setting that cannot be right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FlowError {
    /// A setting is outside the range in which it means anything.
    #[error("{setting} is {value}; set it to {allowed}")]
    OutOfRange {
        /// The setting, by the name of its setter: `backoff.cap`, say.
        setting: &'static str,
        /// The value that was given.
        value: String,
        /// What would be accepted.
        allowed: &'static str,
    },
}

/// `Ok` if `fits`, else the error that names setting, value and what would be accepted.
pub(crate) fn require(
    fits: bool,
    setting: &'static str,
    value: impl Display,
    allowed: &'static str,
) -> Result<(), FlowError> {
    if fits {
        Ok(())
    } else {
        Err(FlowError::OutOfRange {
            setting,
            value: value.to_string(),
            allowed,
        })
    }
}
