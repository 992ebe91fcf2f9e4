//! Dead letters: what travels with them, how they are looked at, and how they are replayed.

pub mod envelope;

pub use envelope::{ENVELOPE_ATTRIBUTE, Envelope};
