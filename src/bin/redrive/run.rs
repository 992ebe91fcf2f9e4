//! Running a worker whose handler is not written in Rust: settings, logs, the status line, and an end in order.

mod empty;
mod live;
mod logs;
mod made;
mod refusal;
mod settings;
mod table;
mod text;
mod work;

pub(crate) use settings::WorkerFlags;
pub(crate) use text::{KeyFrom, Place, stored};
pub(crate) use work::Job;

/// The variables that a command is told of its message by; those of a worker's settings are not its business.
pub(crate) const OURS: &str = "REDRIVE_";
