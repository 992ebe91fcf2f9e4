#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use metrics::Recorder as _;

use super::*;
use crate::recorder::Recorder;
use crate::telemetry;

fn whose() -> Whose {
    Whose {
        namespace: "redrive".to_owned(),
        service: "orders".to_owned(),
    }
}

/// The lines of what `work` counts.
fn told(recorder: &Recorder, work: impl FnOnce()) -> Vec<Json> {
    metrics::with_local_recorder(recorder, || {
        telemetry::describe();
        work();
    });
    let lines = lines(&whose(), &recorder.take(), 1_700_000_000_000);
    lines
        .iter()
        .map(|line| {
            assert!(!line.contains('\n') && line.len() <= MAX_LINE, "{} bytes", line.len());
            let parsed: Json = serde_json::from_str(line).unwrap();
            check(&parsed);
            parsed
        })
        .collect()
}

/// What the published schema of the format asks for: the metadata, 1 to 100 metrics of a directive, sets of at most 30
/// dimensions whose members are texts of the root node, target members that are there, units that there are.
fn check(line: &Json) {
    let root = line.as_object().unwrap();
    let meta = root["_aws"].as_object().unwrap();
    assert!(meta["Timestamp"].is_u64());
    let directives = meta["CloudWatchMetrics"].as_array().unwrap();
    assert!(!directives.is_empty());
    let mut metrics_of_line = 0;
    for directive in directives {
        let members: Vec<&str> = directive.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(members, ["Dimensions", "Metrics", "Namespace"]);
        let namespace = directive["Namespace"].as_str().unwrap();
        assert!((1..=255).contains(&namespace.len()));
        let sets = directive["Dimensions"].as_array().unwrap();
        assert!(!sets.is_empty());
        for set in sets {
            let set = set.as_array().unwrap();
            assert!((1..=30).contains(&set.len()));
            for name in set {
                let value = root[name.as_str().unwrap()].as_str().unwrap();
                assert!((1..=1024).contains(&value.len()) && value.is_ascii() && !value.trim().is_empty());
            }
        }
        let metrics = directive["Metrics"].as_array().unwrap();
        assert!((1..=100).contains(&metrics.len()));
        metrics_of_line += metrics.len();
        for metric in metrics {
            let name = metric["Name"].as_str().unwrap();
            assert!((1..=255).contains(&name.len()) && !name.starts_with(':'));
            assert!(
                ["Seconds", "Count", "Bytes", "None"].contains(&metric["Unit"].as_str().unwrap()),
                "{metric}"
            );
            match &root[name] {
                Json::Number(_) => {}
                Json::Object(values) => {
                    let list = |name: &str| values[name].as_array().unwrap().len();
                    assert!((1..=100).contains(&list("Values")));
                    assert_eq!(list("Values"), list("Counts"));
                    let number = |name: &str| values[name].as_f64().unwrap();
                    assert!(number("Min") <= number("Max"));
                }
                other => panic!("{name} is {other}"),
            }
        }
    }
    assert!(metrics_of_line <= 100);
}

/// The line that has this metric, and its dimension sets there.
fn having<'a>(lines: &'a [Json], name: &str) -> Vec<(&'a Json, Json)> {
    let mut found = Vec::new();
    for line in lines {
        for directive in line["_aws"]["CloudWatchMetrics"].as_array().unwrap() {
            let metrics = directive["Metrics"].as_array().unwrap();
            if metrics.iter().any(|metric| metric["Name"] == name) {
                found.push((line, directive["Dimensions"].clone()));
            }
        }
    }
    found
}

#[test]
fn a_line_is_what_the_format_says_and_this_is_all_of_it() {
    let recorder = Recorder::default();
    let lines = told(&recorder, || {
        telemetry::counter(
            &telemetry::HEARTBEATS,
            &[(telemetry::QUEUE, "orders"), (OUTCOME, "sent")],
        )
        .increment(4);
    });
    assert_eq!(lines.len(), 2);
    assert_eq!(
        lines[1],
        json!({
            "_aws": {
                "Timestamp": 1_700_000_000_000_u64,
                "CloudWatchMetrics": [{
                    "Namespace": "redrive",
                    "Dimensions": [["service"]],
                    "Metrics": [{ "Name": "redrive_heartbeats", "Unit": "Count" }],
                }],
            },
            "service": "orders",
            "messaging_destination_name": "orders",
            "outcome": "sent",
            "redrive_heartbeats": 4,
        })
    );
}

#[test]
fn counters_are_increases_gauges_their_last_value_and_what_did_not_change_costs_nothing() {
    let recorder = Recorder::default();
    let labels = [(telemetry::QUEUE, "orders")];
    let lines = told(&recorder, || {
        telemetry::counter(&telemetry::DEATHS, &labels).increment(2);
        telemetry::gauge(&telemetry::CONCURRENCY, &labels).set(16.0);
        telemetry::histogram(&telemetry::START_DELAY, &labels).record(0.25);
    });
    let line = having(&lines, "redrive_deaths")[0].0;
    assert_eq!(line["redrive_deaths"], 2);
    assert_eq!(line["redrive_concurrency"], 16.0);
    assert_eq!(
        line["redrive_start_delay"],
        json!({ "Values": [0.25], "Counts": [1], "Min": 0.25, "Max": 0.25, "Sum": 0.25, "Count": 1 })
    );
    let lines = told(&recorder, || {});
    assert!(having(&lines, "redrive_deaths").is_empty());
    assert!(having(&lines, "redrive_start_delay").is_empty());
    assert_eq!(having(&lines, "redrive_concurrency").len(), 1);
}

#[test]
fn what_alarms_look_at_has_a_figure_every_time_even_before_it_was_ever_counted() {
    let recorder = Recorder::default();
    let counted = || telemetry::counter(&SETTLED, &[(telemetry::QUEUE, "orders"), (OUTCOME, "completed")]).increment(7);
    let first = told(&recorder, || {});
    let second = told(&recorder, counted);
    let third = told(&recorder, || {});
    for lines in [&first, &second, &third] {
        for metric in ALWAYS {
            let name = plain_name(metric.name);
            assert_eq!(having(lines, &name).len(), 1, "{name}");
        }
    }
    assert_eq!(first[0]["redrive_lost_leases"], 0);
    let settled = having(&second, "redrive_settled_messages");
    assert_eq!(settled[0].0["redrive_settled_messages"], 7);
    // Once counted, an outcome has its own figure every time.
    let settled = having(&third, "redrive_settled_messages");
    assert_eq!(settled[0].0["redrive_settled_messages"], 0);
    assert_eq!(settled[0].1, json!([["service"], ["service", "outcome"]]));
}

#[test]
fn counters_whose_labels_are_the_same_once_they_are_cut_are_added() {
    let recorder = Recorder::default();
    let lines = told(&recorder, || {
        for (end, by) in [("a", 2), ("b", 5)] {
            let label = format!("{}{end}", "x".repeat(MAX_VALUE));
            telemetry::counter(&DEAD_LETTERS, &[(telemetry::REASON, label.as_str())]).increment(by);
            metrics::gauge!("shop.level", "tenant" => label.clone()).set(by as f64);
        }
        // Names of their own are not added, whatever becomes of their dots.
        metrics::counter!("shop.sold").increment(1);
        metrics::counter!("shop_sold").increment(1);
    });
    let dead = having(&lines, "redrive_dead_letters");
    assert_eq!(dead.len(), 1);
    assert_eq!(dead[0].0["redrive_dead_letters"], 7);
    assert_ne!(having(&lines, "shop_level")[0].0["shop_level"], 7);
    assert_eq!(having(&lines, "shop_sold")[0].0["shop_sold"], 1);
}

#[test]
fn only_three_labels_are_dimensions_as_each_value_of_one_is_billed() {
    let recorder = Recorder::default();
    let lines = told(&recorder, || {
        telemetry::counter(&SETTLED, &[(telemetry::QUEUE, "orders"), (OUTCOME, "completed")]).increment(1);
        telemetry::gauge(&IN_FLIGHT, &[(telemetry::QUEUE, "orders"), (KIND, "running")]).set(3.0);
        telemetry::gauge(&BREAKER_STATE, &[(NAME, "bücher\n")]).set(2.0);
        telemetry::counter(
            &DEAD_LETTERS,
            &[(telemetry::QUEUE, "orders"), (telemetry::REASON, "timeout")],
        )
        .increment(1);
        telemetry::counter(&RETRIES, &[(telemetry::QUEUE, "orders"), (KIND, "error")]).increment(1);
        telemetry::counter(
            &telemetry::HEARTBEATS,
            &[(telemetry::QUEUE, "orders"), (OUTCOME, "sent")],
        )
        .increment(1);
    });
    for (name, sets) in [
        ("redrive_settled_messages", json!([["service"], ["service", "outcome"]])),
        ("redrive_in_flight_messages", json!([["service"], ["service", "kind"]])),
        ("redrive_breaker_state", json!([["service"], ["service", "name"]])),
        ("redrive_dead_letters", json!([["service"]])),
        ("redrive_retries", json!([["service"]])),
        ("redrive_heartbeats", json!([["service"]])),
    ] {
        assert_eq!(having(&lines, name)[0].1, sets, "{name}");
    }
    assert_eq!(having(&lines, "redrive_breaker_state")[0].0["name"], "b?cher?");
    assert_eq!(having(&lines, "redrive_dead_letters")[0].0["reason"], "timeout");
}

#[test]
fn hundreds_of_metrics_and_full_distributions_are_split_into_lines_that_log_drivers_leave_whole() {
    let recorder = Recorder::default();
    let lines = told(&recorder, || {
        for n in 0..450 {
            metrics::counter!(format!("shop.counted.{n}")).increment(1);
        }
        for n in 0..20 {
            let histogram = metrics::histogram!(format!("shop.measured.{n}"));
            (0..10_000).for_each(|value| histogram.record(f64::from(value).powi(3) / 1e5));
        }
    });
    let names: BTreeSet<&str> = lines
        .iter()
        .flat_map(|line| line.as_object().unwrap().keys())
        .filter(|name| name.starts_with("shop_"))
        .map(String::as_str)
        .collect();
    assert_eq!(names.len(), 470);
    assert!(lines.len() > 5, "{}", lines.len());
}

#[test]
fn names_and_labels_of_the_programs_own_metrics_cannot_break_a_line() {
    let recorder = Recorder::default();
    let lines = told(&recorder, || {
        metrics::counter!("service", "_aws" => "x", "service" => "forged", "" => "y").increment(1);
        metrics::counter!("of", "of" => "z").increment(1);
        metrics::gauge!("not.a.number").set(f64::NAN);
        metrics::counter!("x".repeat(400), "l" => "v".repeat(100_000)).increment(1);
        let many: Vec<metrics::Label> = (0..60).map(|n| metrics::Label::new(format!("l{n}"), "v")).collect();
        recorder
            .register_counter(
                &Key::from_parts("many", many),
                &metrics::Metadata::new("", metrics::Level::INFO, None),
            )
            .increment(1);
    });
    assert!(lines.iter().all(|line| line["service"] == "orders"));
    let (forged, _) = having(&lines, "service__")[0];
    assert_eq!(
        (&forged["service_"], &forged["service__"]),
        (&json!("forged"), &json!(1))
    );
    let (own, _) = having(&lines, "of_")[0];
    assert_eq!((&own["of"], &own["of_"]), (&json!("z"), &json!(1)));
    assert!(having(&lines, "not_a_number").is_empty());
}
