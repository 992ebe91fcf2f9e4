//! Functions of the user's that run in the loop: a panic of theirs must not take the worker down.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// What `function` answers; `None` if it panicked.
pub(super) fn guard<T>(what: &'static str, function: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(function))
        .inspect_err(|_| tracing::error!(function = what, "a function that was given to the worker panicked"))
        .ok()
}
