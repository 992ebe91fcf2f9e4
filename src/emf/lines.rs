//! Lines of CloudWatch's [Embedded Metric Format], made of samples: pure.
//!
//! A distribution is written as `Values` and `Counts` with `Min`, `Max`, `Sum` and `Count`, as AWS's own exporter of
//! OpenTelemetry metrics does (`awsemfexporter`), so that percentiles of it can be asked for. The published text of the format
//! speaks of numbers and arrays of at most 100 numbers; the bound of 100 holds for `Values` too.
//!
//! [Embedded Metric Format]: https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html

use std::collections::{BTreeMap, BTreeSet};

use metrics::{Key, Unit};
use serde_json::{Map, Value as Json, json};

use crate::recorder::{Sample, Value, plain_name};
use crate::telemetry::{
    BREAKER_OPENED, BREAKER_STATE, CONSUMED, DEAD_LETTERS, DUPLICATES, IN_FLIGHT, KIND, LOST_LEASES, Metric, NAME,
    OUTCOME, RETRIES, SETTLED,
};

/// The most metrics of a line.
const MAX_METRICS: usize = 100;

/// The most bytes of a line. CloudWatch takes 1 MiB; log drivers cut at 16 KiB, and half a line is no metric.
const MAX_LINE: usize = 15 * 1024;

/// The most labels of a series that are told, and bytes of each.
const MAX_LABELS: usize = 20;
const MAX_VALUE: usize = 256;

/// Counters that are written when they did not grow too, so that an alarm on them always has a figure.
const ALWAYS: [&Metric; 7] = [
    &CONSUMED,
    &SETTLED,
    &DUPLICATES,
    &RETRIES,
    &DEAD_LETTERS,
    &LOST_LEASES,
    &BREAKER_OPENED,
];

/// The label that is a dimension of a metric, besides the service.
const fn dimensions() -> [(&'static Metric, &'static str); 3] {
    [(&SETTLED, OUTCOME), (&IN_FLIGHT, KIND), (&BREAKER_STATE, NAME)]
}

/// The dimension that every metric has.
const SERVICE: &str = "service";

/// Whose metrics these are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Whose {
    pub(super) namespace: String,
    pub(super) service: String,
}

/// One metric of a line.
struct Told<'a> {
    /// As the program calls it.
    of: &'a str,
    name: String,
    unit: &'static str,
    value: Json,
    dimension: Option<String>,
    bytes: usize,
}

/// The lines of these samples, without line ends. Samples with the same labels share a line.
pub(super) fn lines(whose: &Whose, samples: &[Sample], at_ms: u64) -> Vec<String> {
    let mut groups: BTreeMap<BTreeMap<String, String>, Vec<Told<'_>>> = BTreeMap::new();
    let mut written: BTreeSet<&str> = BTreeSet::new();
    for sample in samples {
        let dimension = dimension_of(sample.key.name());
        let Some(value) = value(&sample.value, is_always(sample.key.name()) && dimension.is_some()) else {
            continue;
        };
        written.insert(sample.key.name());
        let labels = properties(&sample.key, dimension);
        let dimension = dimension.map(plain_name).filter(|name| labels.contains_key(name));
        let told = groups.entry(labels).or_default();
        push(told, sample.key.name(), unit(sample.unit.as_ref()), value, dimension);
    }
    let silent = ALWAYS.into_iter().filter(|metric| !written.contains(metric.name));
    for metric in silent {
        push(
            groups.entry(BTreeMap::new()).or_default(),
            metric.name,
            "Count",
            json!(0),
            None,
        );
    }
    let mut lines = Vec::new();
    for (properties, mut told) in groups {
        while !told.is_empty() {
            let fits = fitting(&told, &properties);
            let rest = told.split_off(fits);
            lines.push(line(whose, &properties, std::mem::replace(&mut told, rest), at_ms));
        }
    }
    lines
}

fn push<'a>(to: &mut Vec<Told<'a>>, of: &'a str, unit: &'static str, value: Json, dimension: Option<String>) {
    let name = plain_name(of);
    let bytes = |value: &Json| value.to_string().len() + 2 * name.len() + 64;
    if let Some(told) = to.iter_mut().find(|told| told.name == name) {
        // Series whose labels are the same once they are cut count together, as far as they count. Names that differ by their
        // dots alone are one name here; the first has it.
        if told.of == of
            && let (Some(first), Some(second)) = (told.value.as_u64(), value.as_u64())
        {
            told.value = json!(first.saturating_add(second));
            told.bytes = bytes(&told.value);
        }
        return;
    }
    to.push(Told {
        of,
        bytes: bytes(&value),
        name,
        unit,
        value,
        dimension,
    });
}

/// How many of them fit into one line; at least one.
fn fitting(told: &[Told<'_>], properties: &BTreeMap<String, String>) -> usize {
    let around: usize = properties
        .iter()
        .map(|(name, value)| name.len() + 2 * value.len() + 8)
        .sum();
    let mut bytes = around + 1024;
    let fits = told.iter().take(MAX_METRICS).take_while(|metric| {
        bytes += metric.bytes;
        bytes <= MAX_LINE
    });
    fits.count().max(1)
}

fn line(whose: &Whose, properties: &BTreeMap<String, String>, told: Vec<Told<'_>>, at_ms: u64) -> String {
    let mut root = Map::new();
    root.insert(SERVICE.to_owned(), json!(whose.service));
    for (name, value) in properties {
        root.insert(name.clone(), json!(value));
    }
    // By their dimension besides the service.
    let mut directives: BTreeMap<Option<String>, Vec<Json>> = BTreeMap::new();
    for Told {
        mut name,
        unit,
        value,
        dimension,
        ..
    } in told
    {
        while root.contains_key(&name) || name == "_aws" {
            name.push('_');
        }
        let metrics = directives.entry(dimension).or_default();
        metrics.push(json!({ "Name": name, "Unit": unit }));
        root.insert(name, value);
    }
    let directives: Vec<Json> = directives
        .into_iter()
        .map(|(dimension, metrics)| {
            let dimensions = match dimension {
                None => json!([[SERVICE]]),
                Some(label) => json!([[SERVICE], [SERVICE, label]]),
            };
            json!({ "Namespace": whose.namespace, "Dimensions": dimensions, "Metrics": metrics })
        })
        .collect();
    root.insert(
        "_aws".to_owned(),
        json!({ "Timestamp": at_ms, "CloudWatchMetrics": directives }),
    );
    Json::Object(root).to_string()
}

fn is_always(name: &str) -> bool {
    ALWAYS.iter().any(|metric| metric.name == name)
}

fn dimension_of(name: &str) -> Option<&'static str> {
    let mut all = dimensions().into_iter();
    all.find(|(metric, _)| metric.name == name).map(|(_, label)| label)
}

/// As it is written; none for what there is nothing to say of. A counter that stood still is said to if `always`.
fn value(value: &Value, always: bool) -> Option<Json> {
    match value {
        Value::Increase(0) => always.then(|| json!(0)),
        Value::Increase(by) => Some(json!(by)),
        Value::Level(level) => level.is_finite().then(|| json!(rounded(*level))),
        Value::Values(values) => Some(json!({
            "Values": values.values.iter().copied().map(rounded).collect::<Vec<f64>>(),
            "Counts": values.counts,
            "Min": rounded(values.least),
            "Max": rounded(values.most),
            "Sum": rounded(values.sum),
            "Count": values.counts.iter().sum::<u64>(),
        })),
    }
}

/// To six digits: what more there is says nothing, and costs bytes.
fn rounded(value: f64) -> f64 {
    format!("{value:.5e}").parse().unwrap_or(value)
}

/// Labels as properties of the line. What is a dimension must be printable ASCII, and not blank.
fn properties(key: &Key, dimension: Option<&str>) -> BTreeMap<String, String> {
    let mut properties = BTreeMap::new();
    for label in key.labels().take(MAX_LABELS) {
        let value = label.value();
        let value = &value[..value.floor_char_boundary(MAX_VALUE)];
        let value = if dimension == Some(label.key()) {
            dimension_value(value)
        } else {
            value.to_owned()
        };
        let mut name = plain_name(label.key());
        while name.is_empty() || name == SERVICE || name == "_aws" {
            name.push('_');
        }
        properties.entry(name).or_insert(value);
    }
    properties
}

/// A text that CloudWatch takes as a dimension's value: printable ASCII, not blank.
pub(super) fn dimension_value(text: &str) -> String {
    let printable = |c: char| if matches!(c, ' '..='~') { c } else { '?' };
    let value: String = text.chars().take(MAX_VALUE).map(printable).collect();
    if value.trim().is_empty() {
        "none".to_owned()
    } else {
        value
    }
}

/// CloudWatch's word for it.
fn unit(unit: Option<&Unit>) -> &'static str {
    match unit {
        Some(Unit::Count) => "Count",
        Some(Unit::Percent) => "Percent",
        Some(Unit::Seconds) => "Seconds",
        Some(Unit::Milliseconds) => "Milliseconds",
        Some(Unit::Microseconds) => "Microseconds",
        Some(Unit::Bytes) => "Bytes",
        Some(Unit::TerabitsPerSecond) => "Terabits/Second",
        Some(Unit::GigabitsPerSecond) => "Gigabits/Second",
        Some(Unit::MegabitsPerSecond) => "Megabits/Second",
        Some(Unit::KilobitsPerSecond) => "Kilobits/Second",
        Some(Unit::BitsPerSecond) => "Bits/Second",
        Some(Unit::CountPerSecond) => "Count/Second",
        // Its kilobytes are of 1,000 bytes or 1,024, and it has no nanoseconds.
        _ => "None",
    }
}

#[cfg(test)]
mod tests;
