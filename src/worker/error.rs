//! What can be wrong with a worker before it runs.

use crate::flow::FlowError;

/// Settings that cannot be right, alone or together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// There is nothing to run.
    #[error("worker `{worker}` has no handler; give it one with `.handler(…)`")]
    NoHandler {
        /// The worker.
        worker: String,
    },
    /// Nothing says where messages go that are given up.
    #[error(
        "worker `{worker}`: queue `{queue}` has no redrive policy whose dead-letter queue can be opened{detail}; set one on the \
         queue, or choose `.dead_letter(queue)`, `.dead_letter_by_redrive_policy()` or `.without_dead_letters(…)`"
    )]
    NoDeadLetterQueue {
        /// The worker.
        worker: String,
        /// The queue.
        queue: String,
        /// What is known of why.
        detail: String,
    },
    /// A setting that cannot be right.
    #[error("worker `{worker}`: {setting}: {why}")]
    Setting {
        /// The worker.
        worker: String,
        /// The setting.
        setting: &'static str,
        /// What is wrong and what to do.
        why: String,
    },
    /// An environment variable that cannot be right.
    #[error("{variable}=`{value}`: {why}")]
    Variable {
        /// The variable.
        variable: String,
        /// Its value.
        value: String,
        /// What is wrong and what to do.
        why: String,
    },
    /// A setting of something that runs beside workers, that cannot be right.
    #[error("{setting}: {why}")]
    Companion {
        /// The setting.
        setting: &'static str,
        /// What is wrong and what to do.
        why: String,
    },
    /// A flow-control setting that cannot be right.
    #[error("worker `{worker}`: {source}")]
    Flow {
        /// The worker.
        worker: String,
        /// What is wrong.
        source: FlowError,
    },
}

/// The preflight found what would lose or repeat work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("worker `{worker}` does not start: {}", problems.join("; "))]
pub struct PreflightError {
    /// The worker.
    pub worker: String,
    /// Each problem, with what to do.
    pub problems: Vec<String>,
}
