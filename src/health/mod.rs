//! An HTTP endpoint that says how workers are (feature `health`).
//!
//! | path | what it answers |
//! |---|---|
//! | `/livez` | 200 while no worker is stuck or ended unasked, else 503 with the reasons: for what restarts a process |
//! | `/readyz` | 200 when every worker has started and passed its preflight, and none is stuck, stalled, drains or has ended; else 503 with the reasons |
//! | `/metrics` | Prometheus's text format, after [`Health::with_metrics`] |
//! | `/status` | JSON: what each worker holds and has done, its breakers and its settings, without secrets |
//!
//! It answers from a thread of its own, so that it does even while handlers block every thread of the runtime: a blocked
//! worker shows as stuck rather than as no answer. What it costs is bounded: 64 connections, the oldest of which makes room for
//! the 65th, one request each, of at most 16 KiB, and ten seconds for all of it. It speaks plain HTTP and asks nobody who they
//! are, so bind it where only those can reach it who may know.

mod answer;
mod serve;
mod status;

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::recorder::Recorder;
use crate::telemetry::said;
use crate::worker::{Beside, BuildError, Companion};

/// The variable that says where.
const VARIABLE: &str = "REDRIVE_HEALTH";

/// An HTTP endpoint beside workers; see the [module](self).
///
/// ```
/// use redrive::health::Health;
/// # use redrive::{Failure, MemoryQueue, Worker, worker::WithoutDeadLetters};
/// # async fn handle() -> Result<(), Failure> { Ok(()) }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let health = Health::at("127.0.0.1:0".parse()?).with_metrics();
/// let worker = Worker::builder(MemoryQueue::new("orders")?)
///     .beside(health)
/// #   .without_dead_letters(WithoutDeadLetters::Keep)
///     .handler(handle)
///     .build()?;
/// # drop(worker);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "it answers once it is attached by `.beside(…)`"]
pub struct Health {
    address: SocketAddr,
    bound: watch::Sender<State>,
}

/// Whether the endpoint listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    NotYet,
    At(SocketAddr),
    /// It could not be bound, or has ended.
    Never,
}

impl Health {
    /// Listens at this address and port; a port of 0 takes any that is free, which [`bound`](Self::bound) tells.
    ///
    /// An address that is taken is no reason not to work: a warning says so, and the workers run.
    pub fn at(address: SocketAddr) -> Self {
        Self {
            address,
            bound: watch::Sender::new(State::NotYet),
        }
    }

    /// Answers `/metrics`: installs [the crate's recorder](crate::recorder) for the whole process, at once, unless there is one.
    /// Call it before queues and downstreams are made, and after a recorder of your own was installed, if you have one.
    pub fn with_metrics(self) -> Self {
        Recorder::install();
        self
    }

    /// As the variable `REDRIVE_HEALTH` says, such as `0.0.0.0:8080`, [with metrics](Self::with_metrics); none if it is not set.
    ///
    /// # Errors
    /// When it is no address with a port.
    pub fn from_env() -> Result<Option<Self>, BuildError> {
        Self::from_variables(|name| std::env::var(name).ok())
    }

    /// As [`from_env`](Self::from_env), with variables from elsewhere.
    ///
    /// # Errors
    /// As [`from_env`](Self::from_env).
    pub fn from_variables(get: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, BuildError> {
        let Some(value) = get(VARIABLE).filter(|value| !value.trim().is_empty()) else {
            return Ok(None);
        };
        match value.trim().parse() {
            Ok(address) => Ok(Some(Self::at(address).with_metrics())),
            Err(_) => Err(BuildError::Variable {
                variable: VARIABLE.to_owned(),
                value,
                why: "give an IP address and a port, such as 0.0.0.0:8080, or 127.0.0.1:8080 for this host alone"
                    .to_owned(),
            }),
        }
    }

    /// Tells where it listens, once it does.
    #[must_use]
    pub fn bound(&self) -> Bound {
        Bound {
            state: self.bound.subscribe(),
        }
    }
}

/// Where an endpoint listens.
#[derive(Clone, Debug)]
pub struct Bound {
    state: watch::Receiver<State>,
}

impl Bound {
    /// Waits until it listens; none if it cannot, or has ended.
    pub async fn address(&mut self) -> Option<SocketAddr> {
        match self.state.wait_for(|state| *state != State::NotYet).await {
            Ok(state) => match *state {
                State::At(address) => Some(address),
                State::NotYet | State::Never => None,
            },
            Err(_) => None,
        }
    }
}

impl Companion for Health {
    async fn run(self, beside: Beside) {
        let Self { address, bound } = self;
        let listener = match bind(address) {
            Ok(listener) => listener,
            Err(error) => {
                bound.send_replace(State::Never);
                tracing::warn!(
                    %address, error = %said(&error),
                    "the health endpoint cannot listen, and the work goes on without it; free the address, or give another one \
                     (REDRIVE_HEALTH)"
                );
                return;
            }
        };
        let at = listener.local_addr().unwrap_or(address);
        let stop = CancellationToken::new();
        // Whatever ends this future ends the thread.
        let stopped = stop.clone().drop_guard();
        let view = answer::View::of(beside.workers().clone());
        let (ended, mut end) = watch::channel(());
        let thread = std::thread::Builder::new()
            .name("redrive-health".to_owned())
            .spawn(move || {
                serve::until(listener, Arc::new(view), stop);
                drop(ended);
            });
        if let Err(error) = thread {
            bound.send_replace(State::Never);
            tracing::warn!(error = %said(&error), "the health endpoint's thread cannot start, and the work goes on without it");
            return;
        }
        bound.send_replace(State::At(at));
        tracing::info!(address = %at, "health endpoint: /livez /readyz /metrics /status");
        beside.ended().await;
        drop(stopped);
        // Until its address is free again.
        let _ = end.changed().await;
        bound.send_replace(State::Never);
    }
}

fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn the_variable_says_where_and_a_wrong_one_is_named() {
        let read = |value: &str| Health::from_variables(|name| (name == VARIABLE).then(|| value.to_owned()));
        assert!(read("").unwrap().is_none());
        assert!(read(" ").unwrap().is_none());
        assert_eq!(read(" 127.0.0.1:0 ").unwrap().unwrap().address.port(), 0);
        for wrong in ["8080", ":8080", "localhost:8080", "0.0.0.0:99999", "http://0.0.0.0:80"] {
            let error = read(wrong).unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("REDRIVE_HEALTH=`{wrong}`: give an IP address")),
                "{error}"
            );
        }
    }
}
