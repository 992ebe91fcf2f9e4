//! CloudWatch metrics without an agent (feature `emf`): once a minute, lines of the Embedded Metric Format on standard output,
//! which CloudWatch Logs makes metrics of.
//!
//! Names are those of Prometheus: those of [`telemetry`](crate::telemetry) with `_` for each dot. Counters are what they grew by
//! since the line before, distributions keep their percentiles. Every metric has the dimension `service`, and three have one
//! more, as each value of a dimension is billed as a metric of its own:
//!
//! | metric | dimensions |
//! |---|---|
//! | `redrive_settled_messages` | `service`; `service` and `outcome` |
//! | `redrive_in_flight_messages` | `service`; `service` and `kind` |
//! | `redrive_breaker_state` | `service`; `service` and `name` |
//!
//! All other labels are properties of the line, which Logs Insights finds.

mod lines;
mod output;

use std::io::Write;
use std::time::Duration;

use crate::recorder::Recorder;
use crate::worker::{Beside, BuildError, Companion};
use lines::Whose;
use output::Output;

const NAMESPACE: &str = "REDRIVE_EMF";
const SERVICE: &str = "REDRIVE_SERVICE";

/// How often lines are written unless set: CloudWatch keeps a figure a minute.
const EVERY: Duration = Duration::from_secs(60);

/// How long the last lines may take, within what is left to companions at the end.
const LAST_WITHIN: Duration = Duration::from_millis(400);

/// A recorder of metrics that writes lines for CloudWatch, beside workers; see the [module](self).
///
/// ```
/// use redrive::emf::Emf;
/// # use redrive::{Failure, MemoryQueue, Worker, worker::WithoutDeadLetters};
/// # async fn handle() -> Result<(), Failure> { Ok(()) }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), redrive::Error> {
/// let emf = Emf::new("shop", "orders")?;
/// let worker = Worker::builder(MemoryQueue::new("orders")?)
///     .beside(emf)
/// #   .without_dead_letters(WithoutDeadLetters::Keep)
///     .handler(handle)
///     .build()?;
/// # drop(worker);
/// # Ok(())
/// # }
/// ```
#[must_use = "it writes once it is attached by `.beside(…)`"]
pub struct Emf {
    namespace: String,
    /// The first worker's name unless set.
    service: Option<String>,
    every: Duration,
    to: Box<dyn Write + Send>,
}

impl Emf {
    /// Metrics in this namespace of CloudWatch, with this value of the dimension `service`. Installs
    /// [the crate's recorder](crate::recorder) for the whole process, at once, unless there is one: call it before queues and
    /// downstreams are made, and after a recorder of your own was installed, if you have one.
    ///
    /// # Errors
    /// When CloudWatch would not take one of them.
    pub fn new(namespace: impl Into<String>, service: impl Into<String>) -> Result<Self, BuildError> {
        let service = service.into();
        check_service("the service of `Emf::new`", &service)?;
        Self::checked("the namespace of `Emf::new`", namespace.into(), Some(service))
    }

    /// As the variables say: `REDRIVE_EMF` the namespace, without which there are none, and `REDRIVE_SERVICE` the service, which
    /// is the first worker's name unless set.
    ///
    /// # Errors
    /// When CloudWatch would not take one of them.
    pub fn from_env() -> Result<Option<Self>, BuildError> {
        Self::from_variables(|name| std::env::var(name).ok())
    }

    /// As [`from_env`](Self::from_env), with variables from elsewhere.
    ///
    /// # Errors
    /// As [`from_env`](Self::from_env).
    pub fn from_variables(get: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, BuildError> {
        let get = |name: &str| {
            let value = get(name)?.trim().to_owned();
            (!value.is_empty()).then_some(value)
        };
        let service = get(SERVICE);
        if let Some(service) = &service {
            check_service(SERVICE, service)?;
        }
        match get(NAMESPACE) {
            Some(namespace) => Self::checked(NAMESPACE, namespace, service).map(Some),
            None => Ok(None),
        }
    }

    fn checked(name: &str, namespace: String, service: Option<String>) -> Result<Self, BuildError> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "._-/#: ".contains(c);
        let why = if namespace.is_empty() || namespace.len() > 255 || !namespace.chars().all(allowed) {
            "give 1 to 255 letters, digits and any of . _ - / # :"
        } else if namespace.starts_with(':') || namespace.trim() != namespace {
            "it must not begin with `:`, nor begin or end with a space"
        } else if namespace.starts_with("AWS/") {
            "namespaces that begin with AWS/ are for AWS; give one of your own, such as redrive"
        } else {
            Recorder::install();
            return Ok(Self {
                namespace,
                service,
                every: EVERY,
                to: Box::new(std::io::stdout()),
            });
        };
        Err(wrong(name, namespace, why))
    }

    /// How often lines are written: a minute unless set; from a second to an hour, to which others are brought.
    pub fn every(mut self, interval: Duration) -> Self {
        self.every = interval.clamp(Duration::from_secs(1), Duration::from_secs(60 * 60));
        self
    }

    /// Where lines are written instead of standard output. It is written to from a thread of its own, and may block.
    pub fn to(mut self, output: impl Write + Send + 'static) -> Self {
        self.to = Box::new(output);
        self
    }
}

impl std::fmt::Debug for Emf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Emf")
            .field("namespace", &self.namespace)
            .field("service", &self.service)
            .field("every", &self.every)
            .finish_non_exhaustive()
    }
}

fn wrong(name: &str, value: String, why: &str) -> BuildError {
    BuildError::Variable {
        variable: name.to_owned(),
        value,
        why: why.to_owned(),
    }
}

fn check_service(name: &str, service: &str) -> Result<(), BuildError> {
    if lines::dimension_value(service) == service {
        return Ok(());
    }
    Err(wrong(
        name,
        service.to_owned(),
        "give 1 to 256 printable ASCII characters, not all of them spaces",
    ))
}

impl Companion for Emf {
    async fn run(self, beside: Beside) {
        let Some(recorder) = Recorder::installed() else {
            tracing::warn!(
                "no metrics are written for CloudWatch: the program has a recorder of its own; let that feed \
                 `redrive::recorder::Recorder::process()` too"
            );
            return;
        };
        let Some(taker) = recorder.taker() else {
            tracing::warn!(
                "metrics for CloudWatch are written already in this process: attach `Emf` once, to `Workers` where there are several"
            );
            return;
        };
        let name = || beside.workers().status().into_iter().next().map(|worker| worker.name);
        let whose = Whose {
            namespace: self.namespace,
            service: lines::dimension_value(&self.service.or_else(name).unwrap_or_default()),
        };
        let Some(mut output) = Output::start(self.to) else {
            return;
        };
        let every = u64::try_from(self.every.as_millis()).unwrap_or(u64::MAX).max(1);
        loop {
            let now = beside.clock().epoch_ms();
            tokio::select! {
                biased;
                () = beside.ended() => break,
                // At whole minutes of the wall clock, so that each of CloudWatch's has one line.
                () = tokio::time::sleep(Duration::from_millis(every - now % every)) => {}
            }
            if output.is_free() {
                let now = beside.clock().epoch_ms();
                output.write(&lines::lines(&whose, &taker.take(), end_of_interval(now, every)));
            }
        }
        // What is under way first: nothing may overtake it.
        output.finish(LAST_WITHIN).await;
        if output.is_free() {
            output.write(&lines::lines(&whose, &taker.take(), beside.clock().epoch_ms()));
            output.finish(LAST_WITHIN).await;
        }
    }
}

/// The last millisecond of the interval that ended about now: what was counted in it belongs there.
fn end_of_interval(now_ms: u64, every_ms: u64) -> u64 {
    let ends = now_ms.saturating_add(every_ms / 2) / every_ms;
    (ends * every_ms).saturating_sub(1)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
mod tests {
    use super::*;

    fn read(namespace: &str, service: &str) -> Result<Option<Emf>, BuildError> {
        Emf::from_variables(|name| match name {
            NAMESPACE => Some(namespace.to_owned()),
            SERVICE => Some(service.to_owned()),
            _ => None,
        })
    }

    #[test]
    fn the_variables_say_whose_metrics_these_are_and_a_wrong_one_is_named() {
        assert!(read("", "").unwrap().is_none());
        assert!(read(" ", "orders").unwrap().is_none());
        let emf = read("shop/workers", "").unwrap().unwrap();
        assert_eq!((emf.namespace.as_str(), emf.service), ("shop/workers", None));
        for wrong in ["AWS/SQS", ":shop", "läden", "a*b", &"x".repeat(256)] {
            let error = read(wrong, "orders").unwrap_err().to_string();
            assert!(error.starts_with(&format!("REDRIVE_EMF=`{wrong}`: ")), "{error}");
        }
        let error = read("shop", "bücher").unwrap_err().to_string();
        assert!(error.starts_with("REDRIVE_SERVICE=`bücher`: give 1 to 256"), "{error}");
        assert!(Emf::new("shop", "").is_err());
    }

    #[test]
    fn a_line_is_dated_within_the_interval_that_it_is_of() {
        assert_eq!(end_of_interval(120_000, 60_000), 119_999);
        assert_eq!(end_of_interval(120_004, 60_000), 119_999);
        // Woken a little early.
        assert_eq!(end_of_interval(119_998, 60_000), 119_999);
    }
}
