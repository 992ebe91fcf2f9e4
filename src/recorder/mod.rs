//! The crate's own recorder of the [`metrics`] facade: what `/metrics` of a health endpoint (feature `health`) and CloudWatch's
//! Embedded Metric Format (feature `emf`) both read.
//!
//! There is one for the process, and either of the two installs it, unless the program has a recorder of its own: that one is
//! left alone. To have both, hand the values on to [`Recorder::process`] too, with a fan-out such as that of `metrics-util`.
//!
//! Its memory is bounded: a distribution is kept in buckets from the first value on, so nothing piles up while nobody asks for
//! it, and beyond 2,000 series further ones are left out, with a warning.

mod histogram;
#[cfg(feature = "health")]
mod prometheus;
mod store;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, SharedString, Unit};

use store::Store;
#[cfg(feature = "emf")]
pub(crate) use store::{Sample, Value};

/// Keeps what is counted and measured, for whoever asks.
#[derive(Debug, Default)]
pub struct Recorder {
    store: Store,
    /// Somebody hands values to it.
    fed: AtomicBool,
    /// Somebody takes the increases.
    #[cfg(feature = "emf")]
    taken: AtomicBool,
}

/// A name with nothing in it but letters, digits and `_`.
pub(crate) fn plain_name(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    name.chars().take(MAX_NAME).map(plain).collect()
}

/// The longest name of a metric that CloudWatch takes.
const MAX_NAME: usize = 255;

static PROCESS: OnceLock<Recorder> = OnceLock::new();

impl Recorder {
    /// The one of this process, to be fed beside a recorder of the program's own.
    ///
    /// ```
    /// use redrive::recorder::Recorder;
    ///
    /// let ours: &'static dyn metrics::Recorder = Recorder::process();
    /// // FanoutBuilder::default().add_recorder(theirs).add_recorder(ours).build()
    /// ```
    #[must_use]
    pub fn process() -> &'static Self {
        let recorder = PROCESS.get_or_init(Self::default);
        recorder.fed.store(true, Ordering::Relaxed);
        recorder
    }

    /// Installs that of the process where the program has none; answers whether values come to it.
    pub(crate) fn install() -> bool {
        let recorder = PROCESS.get_or_init(Self::default);
        if metrics::set_global_recorder(recorder).is_ok() {
            recorder.fed.store(true, Ordering::Relaxed);
            crate::telemetry::describe();
        }
        recorder.fed.load(Ordering::Relaxed)
    }

    /// That of the process, if values come to it.
    pub(crate) fn installed() -> Option<&'static Self> {
        PROCESS.get().filter(|recorder| recorder.fed.load(Ordering::Relaxed))
    }

    /// All there is, as Prometheus reads it.
    #[cfg(feature = "health")]
    pub(crate) fn prometheus(&self) -> String {
        prometheus::text(&self.store)
    }

    /// What there is to tell since it was last taken: increases of counters and distributions, values of gauges.
    #[cfg(feature = "emf")]
    pub(crate) fn take(&self) -> Vec<Sample> {
        self.store.take()
    }

    /// The right to take increases, for one at a time: of two, each would see a part.
    #[cfg(feature = "emf")]
    pub(crate) fn taker(&'static self) -> Option<Taker> {
        let free = !self.taken.swap(true, Ordering::AcqRel);
        free.then_some(Taker { recorder: self })
    }
}

/// The right to take increases, until it is dropped.
#[cfg(feature = "emf")]
#[derive(Debug)]
pub(crate) struct Taker {
    recorder: &'static Recorder,
}

#[cfg(feature = "emf")]
impl Taker {
    pub(crate) fn take(&self) -> Vec<Sample> {
        self.recorder.take()
    }
}

#[cfg(feature = "emf")]
impl Drop for Taker {
    fn drop(&mut self) {
        self.recorder.taken.store(false, Ordering::Release);
    }
}

impl metrics::Recorder for Recorder {
    fn describe_counter(&self, key: KeyName, unit: Option<Unit>, description: SharedString) {
        self.store.describe(&key, unit, &description);
    }

    fn describe_gauge(&self, key: KeyName, unit: Option<Unit>, description: SharedString) {
        self.store.describe(&key, unit, &description);
    }

    fn describe_histogram(&self, key: KeyName, unit: Option<Unit>, description: SharedString) {
        self.store.describe(&key, unit, &description);
    }

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        self.store.counter(key).map_or_else(Counter::noop, Counter::from_arc)
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        self.store.gauge(key).map_or_else(Gauge::noop, Gauge::from_arc)
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        self.store
            .histogram(key)
            .map_or_else(Histogram::noop, Histogram::from_arc)
    }
}
