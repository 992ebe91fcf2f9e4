//! Traces of `redrive exec` and `redrive forward`.

use redrive::message::{Attribute, Outgoing, TRACEPARENT_ATTRIBUTE};
use redrive::telemetry::TraceContext;

use crate::collector::{collector, times};
use crate::tool::{Ran, Tool};
use crate::world::World;

const SENDER: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// Runs a command for each message, that notes the context it is told.
fn exec(tool: &Tool, note: &std::path::Path, endpoint: &str) -> Ran {
    let script = "printenv REDRIVE_TRACEPARENT > \"$0\"";
    let mut command = tool.command(&[
        "exec",
        "orders",
        "--until-empty",
        "--no-inbox",
        "--long-poll",
        "1s",
        "--",
        "sh",
        "-c",
        script,
    ]);
    command.arg(note).env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint);
    Ran::of(command.spawn().unwrap())
}

#[tokio::test]
async fn a_command_is_told_the_context_of_its_run_whose_spans_a_collector_gets_by_the_end() {
    let Some(world) = World::open() else { return };
    let orders = world.queue("orders").await;
    let message = Outgoing::new("{}").attribute(TRACEPARENT_ATTRIBUTE, Attribute::string(SENDER));
    world.send(&orders, [message]).await;
    let (url, requests) = collector();
    let folder = tempfile::tempdir().unwrap();
    let note = folder.path().join("note");
    exec(&world.tool(), &note, &url).exits(0);

    let told: TraceContext = std::fs::read_to_string(&note).unwrap().trim().parse().unwrap();
    let sender: TraceContext = SENDER.parse().unwrap();
    assert_ne!(told.trace_id(), sender.trace_id(), "a trace of its own");
    let all: Vec<u8> = requests
        .lock()
        .unwrap()
        .iter()
        .flat_map(|(_, body)| body.clone())
        .collect();
    let bytes = |hex: &str| -> Vec<u8> {
        let pair = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
        (0..hex.len()).step_by(2).map(pair).collect()
    };
    for name in ["process orders", "handle orders", "settle orders"] {
        assert_eq!(times(&all, name), 1, "{name}");
    }
    assert!(times(&all, bytes(&told.trace_id())) >= 3);
    assert_eq!(
        times(&all, bytes(&told.parent_id())),
        1,
        "the run's own, which has no children"
    );
    assert_eq!(times(&all, bytes(&sender.trace_id())), 1, "the link");
    assert_eq!(times(&all, bytes(&sender.parent_id())), 1);
}

#[tokio::test]
async fn an_endpoint_that_is_none_is_refused_before_anything_is_received() {
    let Some(world) = World::open() else { return };
    world.queue("orders").await;
    let ran = exec(&world.tool(), std::path::Path::new("/dev/null"), "collector:4318");
    ran.exits(2);
    assert!(
        ran.stderr
            .contains("OTEL_EXPORTER_OTLP_ENDPOINT=`collector:4318`: give the URL"),
        "{}",
        ran.stderr
    );
}
