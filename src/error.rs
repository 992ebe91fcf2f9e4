//! The error of a program that runs workers.

use crate::dlq::ReplayError;
use crate::flow::FlowError;
use crate::inbox::InboxError;
use crate::producer::ProducerError;
use crate::queue::QueueError;
use crate::worker::{BuildError, PreflightError};

/// Whatever can end a program that sets up and runs workers; what `main` returns.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A worker's settings cannot be right together.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// A worker's queue, dead-letter queue or inbox is not set up as it must be.
    #[error(transparent)]
    Preflight(#[from] PreflightError),
    /// A queue could not be used.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// An inbox could not be used.
    #[error(transparent)]
    Inbox(#[from] InboxError),
    /// A flow-control setting cannot be right.
    #[error(transparent)]
    Flow(#[from] FlowError),
    /// A message could not be sent.
    #[error(transparent)]
    Producer(#[from] ProducerError),
    /// Dead letters could not be replayed.
    #[error(transparent)]
    Replay(#[from] ReplayError),
    /// Traces cannot be exported as the environment says.
    #[cfg(feature = "otel")]
    #[error(transparent)]
    Otel(#[from] crate::otel::OtelError),
    /// The process cannot be told of signals.
    #[error("signals cannot be listened for: {0}")]
    Signals(#[source] std::io::Error),
}
