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

use std::time::Duration;

pub(crate) use settings::WorkerFlags;
pub(crate) use text::{KeyFrom, stored};
pub(crate) use work::Job;

/// The variables that a command is told of its message by; those of a worker's settings are not its business.
pub(crate) const OURS: &str = "REDRIVE_";

/// A duration as the settings have it: `250ms`, `30s`, `15m`.
pub(crate) fn shown(span: Duration) -> String {
    let ms = span.as_millis();
    for (unit, size) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)] {
        if ms >= size && ms.is_multiple_of(size) {
            return format!("{}{unit}", ms / size);
        }
    }
    format!("{ms}ms")
}
