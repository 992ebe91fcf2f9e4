//! Dead letters: what travels with them, how they are looked at, and how they are replayed.

pub mod browse;
pub mod envelope;
mod hold;
mod letter;
pub mod replay;

pub use browse::{Browser, ScanEnd, ScanReport, Visit};
pub use envelope::{Displaced, ENVELOPE_ATTRIBUTE, Envelope};
pub use letter::{DeadLetter, EarlierDeath, ErrorGroup, ErrorGroups, MOVED_BY_SQS, error_shape};
pub use replay::{CompletedKeys, Intent, Journal, Replay, ReplayEnd, ReplayError, ReplayFailure, ReplayReport};
