//! A distribution in buckets: at most 92 of them, so that one interval's is at most 92 values of CloudWatch's 100.

use std::sync::{LazyLock, Mutex, PoisonError};

use metrics::HistogramFn;

/// The upper ends of buckets, themselves included, and those that Prometheus is shown.
#[derive(Debug)]
pub(super) struct Scale {
    ends: Vec<f64>,
    shown: Vec<usize>,
}

impl Scale {
    /// `steps` in each power of ten from `10^first` to `10^last`; those in `shown` are for Prometheus.
    fn decades(first: i32, last: i32, steps: &[&str], shown: &[&str]) -> Self {
        let mut scale = Self {
            ends: Vec::new(),
            shown: Vec::new(),
        };
        for power in first..=last {
            let steps = if power == last { &steps[..1] } else { steps };
            for step in steps {
                if shown.contains(step) {
                    scale.shown.push(scale.ends.len());
                }
                // Read as it is written in decimals: 2.5e-3 is the very number 0.0025.
                scale.ends.push(format!("{step}e{power}").parse().unwrap_or(f64::MAX));
            }
        }
        scale
    }

    /// For seconds: 100 µs to 28 h, each end a quarter above the one before (Renard's R10).
    pub(super) fn seconds() -> &'static Self {
        static SCALE: LazyLock<Scale> = LazyLock::new(|| {
            let steps = ["1", "1.25", "1.6", "2", "2.5", "3.15", "4", "5", "6.3", "8"];
            let mut scale = Scale::decades(-4, 5, &steps, &["1", "2.5", "5"]);
            // Handlers take milliseconds to hours.
            let ends = &scale.ends;
            scale.shown.retain(|&at| (0.001..=10_000.0).contains(&ends[at]));
            scale
        });
        &SCALE
    }

    /// For entries of a batch: each number from 1 to SQS's 10.
    pub(super) fn batch() -> &'static Self {
        static SCALE: LazyLock<Scale> = LazyLock::new(|| Scale {
            ends: (1..=10).map(f64::from).collect(),
            shown: (0..10).collect(),
        });
        &SCALE
    }

    /// For what is not known: a millionth to a trillion, each end 1.6 times the one before (R5).
    pub(super) fn any() -> &'static Self {
        static SCALE: LazyLock<Scale> =
            LazyLock::new(|| Scale::decades(-6, 12, &["1", "1.6", "2.5", "4", "6.3"], &["1", "2.5"]));
        &SCALE
    }

    fn bucket(&self, value: f64) -> usize {
        self.ends.partition_point(|&end| end < value)
    }
}

/// What was recorded.
#[derive(Debug)]
pub(super) struct Buckets {
    scale: &'static Scale,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    /// All values, and how many in each bucket; one more than ends, for what is above them all.
    sum: f64,
    counts: Vec<u64>,
    /// Since it was last taken.
    recent: Vec<Recent>,
    least: f64,
    most: f64,
}

/// A bucket since it was last taken.
#[derive(Clone, Copy, Debug, Default)]
struct Recent {
    count: u64,
    sum: f64,
}

/// The values of an interval, as one value for each bucket that has any: its mean, so that their sum is the true one.
#[cfg(feature = "emf")]
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Distribution {
    /// In ascending order.
    pub(crate) values: Vec<f64>,
    /// How often each of them.
    pub(crate) counts: Vec<u64>,
    pub(crate) least: f64,
    pub(crate) most: f64,
    pub(crate) sum: f64,
}

/// All values, as Prometheus counts them.
#[cfg(feature = "health")]
#[derive(Debug, PartialEq)]
pub(super) struct Cumulative {
    /// Upper ends, and how many values are not above them.
    pub(super) buckets: Vec<(f64, u64)>,
    pub(super) count: u64,
    pub(super) sum: f64,
}

impl Buckets {
    pub(super) fn new(scale: &'static Scale) -> Self {
        let buckets = scale.ends.len() + 1;
        Self {
            scale,
            kept: Mutex::new(Kept {
                counts: vec![0; buckets],
                recent: vec![Recent::default(); buckets],
                least: f64::INFINITY,
                most: f64::NEG_INFINITY,
                sum: 0.0,
            }),
        }
    }

    #[cfg(feature = "health")]
    pub(super) fn cumulative(&self) -> Cumulative {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let mut count = 0;
        let counts = kept.counts.iter().map(|&bucket| {
            count += bucket;
            count
        });
        let counts: Vec<u64> = counts.collect();
        let buckets = self.scale.shown.iter().map(|&at| (self.scale.ends[at], counts[at]));
        Cumulative {
            buckets: buckets.collect(),
            count,
            sum: kept.sum,
        }
    }

    /// What was recorded since it was last taken; none if nothing was.
    #[cfg(feature = "emf")]
    pub(super) fn take(&self) -> Option<Distribution> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let mut taken = Distribution {
            least: std::mem::replace(&mut kept.least, f64::INFINITY),
            most: std::mem::replace(&mut kept.most, f64::NEG_INFINITY),
            ..Distribution::default()
        };
        for bucket in &mut kept.recent {
            let Recent { count, sum } = std::mem::take(bucket);
            if count > 0 {
                // The mean is never outside of what it is of, whatever rounding says.
                #[allow(clippy::cast_precision_loss, reason = "counts of a minute are far below 2^52")]
                let mean = (sum / count as f64).clamp(taken.least, taken.most);
                taken.values.push(mean);
                taken.counts.push(count);
                taken.sum += sum;
            }
        }
        (!taken.values.is_empty()).then_some(taken)
    }
}

impl HistogramFn for Buckets {
    fn record(&self, value: f64) {
        self.record_many(value, 1);
    }

    fn record_many(&self, value: f64, count: usize) {
        // There is no place for what is no number, and CloudWatch would refuse the whole line.
        if !value.is_finite() || count == 0 {
            return;
        }
        let at = self.scale.bucket(value);
        let count = count as u64;
        #[allow(clippy::cast_precision_loss, reason = "nobody records 2^52 values at once")]
        let sum = value * count as f64;
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.sum += sum;
        kept.counts[at] += count;
        kept.recent[at].count += count;
        kept.recent[at].sum += sum;
        kept.least = kept.least.min(value);
        kept.most = kept.most.max(value);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn every_scale_ascends_and_fits_into_the_hundred_values_of_cloudwatch() {
        for scale in [Scale::seconds(), Scale::batch(), Scale::any()] {
            assert!(scale.ends.is_sorted_by(|a, b| a < b), "{:?}", scale.ends);
            assert!(scale.ends.len() < 100, "{}", scale.ends.len());
            assert!(scale.shown.iter().all(|&at| at < scale.ends.len()));
        }
        let shown: Vec<f64> = Scale::seconds()
            .shown
            .iter()
            .map(|&at| Scale::seconds().ends[at])
            .collect();
        assert_eq!(shown[..4], [0.001, 0.0025, 0.005, 0.01]);
        assert_eq!(shown.last(), Some(&10_000.0));
    }

    #[cfg(feature = "health")]
    #[test]
    fn a_value_is_counted_in_every_bucket_that_does_not_end_below_it() {
        let buckets = Buckets::new(Scale::batch());
        for value in [1.0, 10.0, 10.0, 11.0, f64::NAN, f64::INFINITY] {
            buckets.record(value);
        }
        let told = buckets.cumulative();
        assert_eq!((told.count, told.sum), (4, 32.0));
        assert_eq!(told.buckets[0], (1.0, 1));
        assert_eq!(told.buckets[8], (9.0, 1));
        assert_eq!(told.buckets[9], (10.0, 3));
    }

    #[cfg(feature = "emf")]
    #[test]
    fn an_interval_keeps_count_sum_extremes_and_percentiles_and_the_next_begins_at_nothing() {
        let buckets = Buckets::new(Scale::seconds());
        for n in 1..=10_000_u32 {
            buckets.record(f64::from(n) / 1_000.0);
        }
        let taken = buckets.take().unwrap();
        assert!(taken.values.len() <= 100);
        assert_eq!(taken.counts.iter().sum::<u64>(), 10_000);
        assert!((taken.sum - 50_005.0).abs() < 0.01, "{}", taken.sum);
        assert_eq!((taken.least, taken.most), (0.001, 10.0));
        let mut below = 0;
        let at = taken.counts.iter().position(|count| {
            below += count;
            below >= 9_900
        });
        let p99 = taken.values[at.unwrap()];
        assert!((p99 / 9.9 - 1.0).abs() < 0.13, "{p99}");
        assert_eq!(buckets.take(), None);
        buckets.record_many(0.25, 3);
        let next = buckets.take().unwrap();
        assert_eq!((next.values, next.counts), (vec![0.25], vec![3]));
    }
}
