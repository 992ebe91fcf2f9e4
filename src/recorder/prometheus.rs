//! What is kept, in Prometheus's text format, version 0.0.4.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use metrics::Key;

use super::store::{Series, Store};

/// The most bytes of a label's value.
const MAX_VALUE: usize = 256;

/// A metric and its series.
struct Family {
    kind: &'static str,
    /// What it is described by, by its own name.
    help: Option<String>,
    lines: String,
    /// Labels of the series that are told, as they are written: no two may be alike.
    told: BTreeSet<String>,
}

pub(super) fn text(store: &Store) -> String {
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    for (key, series) in store.all() {
        let name = name_of(key.name());
        let kind = match &series {
            Series::Counter(_) => "counter",
            Series::Gauge(_) => "gauge",
            Series::Histogram(_) => "histogram",
        };
        let family = families.entry(name.clone()).or_insert_with(|| Family {
            kind,
            help: store.description(key.name()).map(|told| told.text),
            lines: String::new(),
            told: BTreeSet::new(),
        });
        let labels = labels_of(&key);
        // Two names that differ by their dots alone, of two kinds: a page cannot have both.
        if family.kind == kind && family.told.insert(labels.clone()) {
            write_series(&mut family.lines, &name, &labels, &series);
        }
    }
    let mut page = String::new();
    for (name, family) in families {
        if let Some(help) = family.help.filter(|help| !help.is_empty()) {
            let help = help.replace('\\', "\\\\").replace('\n', "\\n");
            let _ = writeln!(page, "# HELP {name} {help}");
        }
        let _ = writeln!(page, "# TYPE {name} {}", family.kind);
        page.push_str(&family.lines);
    }
    page
}

fn write_series(to: &mut String, name: &str, labels: &str, series: &Series) {
    let braced = |labels: &str| match labels {
        "" => String::new(),
        labels => format!("{{{labels}}}"),
    };
    let all = braced(labels);
    let _ = match series {
        Series::Counter(counter) => writeln!(to, "{name}{all} {}", counter.get()),
        Series::Gauge(gauge) => writeln!(to, "{name}{all} {}", number(gauge.get())),
        Series::Histogram(buckets) => {
            let told = buckets.cumulative();
            let comma = if labels.is_empty() { "" } else { "," };
            for (end, count) in &told.buckets {
                let _ = writeln!(to, "{name}_bucket{{{labels}{comma}le=\"{end}\"}} {count}");
            }
            let _ = writeln!(to, "{name}_bucket{{{labels}{comma}le=\"+Inf\"}} {}", told.count);
            let _ = writeln!(to, "{name}_sum{all} {}", number(told.sum));
            writeln!(to, "{name}_count{all} {}", told.count)
        }
    };
}

fn number(value: f64) -> String {
    if value.is_nan() {
        "NaN".to_owned()
    } else if value.is_infinite() {
        if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned()
    } else {
        value.to_string()
    }
}

/// A name with nothing in it but letters, digits and `_`, and no digit first.
fn name_of(name: &str) -> String {
    let mut plain = super::plain_name(name);
    if plain.starts_with(|first: char| first.is_ascii_digit()) || plain.is_empty() {
        plain.insert(0, '_');
    }
    plain
}

fn labels_of(key: &Key) -> String {
    let mut labels = BTreeMap::new();
    for label in key.labels() {
        let value = label.value();
        let value = &value[..value.floor_char_boundary(MAX_VALUE)];
        let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        labels.entry(name_of(label.key())).or_insert(value);
    }
    let mut text = String::new();
    for (name, value) in labels {
        let comma = if text.is_empty() { "" } else { "," };
        let _ = write!(text, "{comma}{name}=\"{value}\"");
    }
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
mod tests {
    use metrics::Unit;

    use crate::recorder::Recorder;

    #[test]
    fn a_page_tells_each_metric_with_its_type_and_labels_and_escapes_what_labels_hold() {
        let recorder = Recorder::default();
        metrics::with_local_recorder(&recorder, || {
            metrics::describe_counter!("redrive.lost.leases", Unit::Count, "Two\nlines.");
            metrics::counter!("redrive.lost.leases", "messaging.destination.name" => "a\"b\\c\nd").increment(3);
            metrics::gauge!("depth").set(-2.5);
            metrics::histogram!("redrive.batch.fill", "of" => "x").record(2.0);
            metrics::histogram!("redrive.batch.fill", "of" => "x").record(12.0);
            // Alike but for their dots, and of another kind.
            metrics::gauge!("redrive_lost_leases").set(1.0);
        });
        let page = recorder.prometheus();
        for line in [
            "# HELP redrive_lost_leases Two\\nlines.",
            "# TYPE redrive_lost_leases counter",
            "redrive_lost_leases{messaging_destination_name=\"a\\\"b\\\\c\\nd\"} 3",
            "# TYPE depth gauge",
            "depth -2.5",
            "# TYPE redrive_batch_fill histogram",
            "redrive_batch_fill_bucket{of=\"x\",le=\"1\"} 0",
            "redrive_batch_fill_bucket{of=\"x\",le=\"2\"} 1",
            "redrive_batch_fill_bucket{of=\"x\",le=\"10\"} 1",
            "redrive_batch_fill_bucket{of=\"x\",le=\"+Inf\"} 2",
            "redrive_batch_fill_sum{of=\"x\"} 14",
            "redrive_batch_fill_count{of=\"x\"} 2",
        ] {
            assert!(page.lines().any(|told| told == line), "no `{line}` in\n{page}");
        }
        assert!(!page.contains("redrive_lost_leases 1"), "{page}");
        assert!(page.ends_with('\n'));
    }

    #[test]
    fn the_page_does_not_grow_by_what_is_measured_while_nobody_asks_for_it() {
        let recorder = Recorder::default();
        let measure = |times: u32| {
            metrics::with_local_recorder(&recorder, || {
                let histogram = metrics::histogram!("messaging.process.duration");
                (0..times).for_each(|n| histogram.record(f64::from(n % 500) / 100.0));
            });
            recorder.prometheus().lines().count()
        };
        assert_eq!(measure(1_000), measure(100_000));
    }
}
