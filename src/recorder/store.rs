//! The series that are kept: bounded in number, in the order of their names.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use metrics::{CounterFn, GaugeFn, Key, Unit};

#[cfg(feature = "emf")]
use super::histogram::Distribution;
use super::histogram::{Buckets, Scale};
use crate::telemetry::{BATCH_FILL, METRICS};

/// How many series are kept, labels told apart. The crate's own are some hundred at most.
const MAX_SERIES: usize = 2_000;

/// How many names are described.
const MAX_DESCRIPTIONS: usize = 1_000;

#[derive(Debug)]
pub(super) struct Store {
    series: RwLock<BTreeMap<Key, Series>>,
    descriptions: RwLock<BTreeMap<String, Description>>,
    most: usize,
    full: AtomicBool,
}

impl Default for Store {
    fn default() -> Self {
        Self {
            series: RwLock::default(),
            descriptions: RwLock::default(),
            most: MAX_SERIES,
            full: AtomicBool::new(false),
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Description {
    pub(super) unit: Option<Unit>,
    #[cfg_attr(not(feature = "health"), allow(dead_code, reason = "only Prometheus shows it"))]
    pub(super) text: String,
}

#[derive(Clone, Debug)]
pub(super) enum Series {
    Counter(Arc<Count>),
    Gauge(Arc<Level>),
    Histogram(Arc<Buckets>),
}

/// One series since it was last taken.
#[cfg(feature = "emf")]
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub(crate) key: Key,
    pub(crate) unit: Option<Unit>,
    pub(crate) value: Value,
}

#[cfg(feature = "emf")]
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    /// A counter's increase.
    Increase(u64),
    /// A gauge's value.
    Level(f64),
    /// A histogram's values.
    Values(Distribution),
}

impl Store {
    pub(super) fn describe(&self, name: &metrics::KeyName, unit: Option<Unit>, text: &str) {
        let mut descriptions = self.descriptions.write().unwrap_or_else(PoisonError::into_inner);
        if descriptions.len() < MAX_DESCRIPTIONS || descriptions.contains_key(name.as_str()) {
            let text = text.to_owned();
            descriptions.insert(name.as_str().to_owned(), Description { unit, text });
        }
    }

    pub(super) fn description(&self, name: &str) -> Option<Description> {
        let descriptions = self.descriptions.read().unwrap_or_else(PoisonError::into_inner);
        descriptions.get(name).cloned()
    }

    pub(super) fn counter(&self, key: &Key) -> Option<Arc<Count>> {
        match self.get(key, || Series::Counter(Arc::default()))? {
            Series::Counter(counter) => Some(counter),
            _ => None,
        }
    }

    pub(super) fn gauge(&self, key: &Key) -> Option<Arc<Level>> {
        match self.get(key, || Series::Gauge(Arc::default()))? {
            Series::Gauge(gauge) => Some(gauge),
            _ => None,
        }
    }

    pub(super) fn histogram(&self, key: &Key) -> Option<Arc<Buckets>> {
        let made = || Series::Histogram(Arc::new(Buckets::new(self.scale(key.name()))));
        match self.get(key, made)? {
            Series::Histogram(histogram) => Some(histogram),
            _ => None,
        }
    }

    fn scale(&self, name: &str) -> &'static Scale {
        if name == BATCH_FILL.name {
            return Scale::batch();
        }
        let ours = METRICS.iter().any(|metric| metric.name == name && metric.unit == "s");
        let seconds = || {
            self.description(name)
                .is_some_and(|told| told.unit == Some(Unit::Seconds))
        };
        if ours || seconds() {
            Scale::seconds()
        } else {
            Scale::any()
        }
    }

    /// The series of this key, made anew unless there are too many; what it is for good is what it was first.
    fn get(&self, key: &Key, made: impl FnOnce() -> Series) -> Option<Series> {
        if let Some(known) = self.series.read().unwrap_or_else(PoisonError::into_inner).get(key) {
            return Some(known.clone());
        }
        let made = made();
        let mut series = self.series.write().unwrap_or_else(PoisonError::into_inner);
        if series.len() >= self.most && !series.contains_key(key) {
            drop(series);
            if !self.full.swap(true, Ordering::Relaxed) {
                tracing::warn!(
                    metric = %crate::telemetry::shown(key.name()),
                    "there are {} series of metrics already: this one and further new ones are left out; give labels fewer values",
                    self.most
                );
            }
            return None;
        }
        Some(series.entry(key.clone()).or_insert(made).clone())
    }

    /// All series, by name and labels.
    pub(super) fn all(&self) -> Vec<(Key, Series)> {
        let series = self.series.read().unwrap_or_else(PoisonError::into_inner);
        series
            .iter()
            .map(|(key, series)| (key.clone(), series.clone()))
            .collect()
    }

    #[cfg(feature = "emf")]
    pub(super) fn take(&self) -> Vec<Sample> {
        let samples = self.all().into_iter().filter_map(|(key, series)| {
            let value = match series {
                Series::Counter(counter) => Value::Increase(counter.take()),
                Series::Gauge(gauge) => Value::Level(gauge.get()),
                Series::Histogram(buckets) => Value::Values(buckets.take()?),
            };
            let unit = self.description(key.name()).and_then(|told| told.unit);
            Some(Sample { key, unit, value })
        });
        samples.collect()
    }
}

/// A counter.
#[derive(Debug, Default)]
pub(super) struct Count {
    total: AtomicU64,
    /// What of it was taken.
    #[cfg(feature = "emf")]
    taken: AtomicU64,
}

impl Count {
    #[cfg(feature = "health")]
    pub(super) fn get(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }

    #[cfg(feature = "emf")]
    fn take(&self) -> u64 {
        let total = self.total.load(Ordering::Relaxed);
        total.wrapping_sub(self.taken.swap(total, Ordering::Relaxed))
    }
}

impl CounterFn for Count {
    fn increment(&self, value: u64) {
        self.total.fetch_add(value, Ordering::Relaxed);
    }

    fn absolute(&self, value: u64) {
        self.total.fetch_max(value, Ordering::Relaxed);
    }
}

/// A gauge: the bits of its value.
#[derive(Debug, Default)]
pub(super) struct Level(AtomicU64);

impl Level {
    pub(super) fn get(&self) -> f64 {
        f64::from_bits(self.0.load(Ordering::Relaxed))
    }

    fn change(&self, by: f64) {
        let changed = |bits| Some((f64::from_bits(bits) + by).to_bits());
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, changed);
    }
}

impl GaugeFn for Level {
    fn increment(&self, value: f64) {
        self.change(value);
    }

    fn decrement(&self, value: f64) {
        self.change(-value);
    }

    fn set(&self, value: f64) {
        self.0.store(value.to_bits(), Ordering::Relaxed);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
mod tests {
    use super::*;

    fn key(name: &'static str, of: usize) -> Key {
        Key::from_parts(name, vec![metrics::Label::new("of", of.to_string())])
    }

    #[test]
    fn inv05_series_made_up_without_end_are_kept_in_bounded_memory_and_the_known_go_on() {
        let store = Store {
            most: 100,
            ..Store::default()
        };
        for n in 0..100_000 {
            let kept = store.counter(&key("jobs", n));
            assert_eq!(kept.is_some(), n < 100, "{n}");
            if let Some(counter) = kept {
                counter.increment(1);
            }
        }
        assert_eq!(store.all().len(), 100);
        store.counter(&key("jobs", 7)).unwrap().increment(2);
        assert_eq!(store.counter(&key("jobs", 7)).unwrap().total.load(Ordering::Relaxed), 3);
        assert!(store.histogram(&key("sizes", 0)).is_none());
    }

    #[cfg(feature = "emf")]
    #[test]
    fn what_is_taken_is_what_came_since_it_was_last_taken() {
        let store = Store::default();
        let (counter, gauge) = (
            store.counter(&key("jobs", 1)).unwrap(),
            store.gauge(&key("held", 1)).unwrap(),
        );
        counter.increment(3);
        gauge.increment(5.0);
        gauge.decrement(1.0);
        let values = |taken: Vec<Sample>| taken.into_iter().map(|sample| sample.value).collect::<Vec<_>>();
        assert_eq!(values(store.take()), [Value::Level(4.0), Value::Increase(3)]);
        counter.increment(2);
        gauge.set(9.0);
        assert_eq!(values(store.take()), [Value::Level(9.0), Value::Increase(2)]);
        assert_eq!(values(store.take()), [Value::Level(9.0), Value::Increase(0)]);
    }

    #[test]
    fn seconds_are_measured_as_such_whoever_names_them() {
        let store = Store::default();
        store.describe(&"shop.delay".into(), Some(Unit::Seconds), "How late.");
        for (name, scale) in [
            ("shop.delay", Scale::seconds()),
            ("messaging.process.duration", Scale::seconds()),
            ("redrive.batch.fill", Scale::batch()),
            ("shop.bytes", Scale::any()),
        ] {
            assert!(std::ptr::eq(store.scale(name), scale), "{name}");
        }
    }
}
