//! What a handler's own spans, logs and calls see of its delivery's.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use opentelemetry::trace::{Span as _, Tracer as _};
use redrive::extract::IdempotencyKey;
use redrive::handler::batch;
use redrive::telemetry::TraceContext;
use redrive::{Context, Failure};
use tracing::Instrument as _;

use crate::collected::{Layer, error, events, install, links, text};
use crate::support::{Rig, start};

#[tokio::test(start_paused = true)]
async fn spans_in_a_handler_are_below_its_run_with_and_without_a_layer_that_sees_deliveries() {
    for (layer, queue) in [(Layer::Seen, "nested"), (Layer::Disabled, "nested-disabled")] {
        let (all, _guard) = install(layer);
        let rig = Rig::named(queue, |queue| queue);
        rig.send("k", "1").await;
        let seen: Arc<Mutex<Option<TraceContext>>> = Arc::default();
        let told = Arc::clone(&seen);
        let handler = rig.runs(move |_| {
            let told = Arc::clone(&told);
            async move {
                *told.lock().unwrap() = TraceContext::current();
                tracing::info!("in the handler");
                let calls = async {
                    tokio::task::yield_now().await;
                    opentelemetry::global::tracer("api").start("inner").end();
                };
                calls.instrument(tracing::info_span!("outer")).await;
                Ok(())
            }
        });
        let running = start(rig.worker().handler(handler).build().unwrap());
        rig.emptied(&running).await;
        running.drain().await;
        let tree = all.delivery(queue);
        let handle = tree.child("handle");
        assert_eq!(handle.name, format!("handle {queue}"));
        let named = |name: &str| tree.rest.iter().find(|span| span.name == name).unwrap();
        assert_eq!(
            named("outer").parent_span_id,
            handle.span_context.span_id(),
            "{layer:?}"
        );
        assert_eq!(named("inner").parent_span_id, named("outer").span_context.span_id());
        assert_eq!(tree.rest.len(), 5, "no span but these: {:?}", tree.names());
        let seen = seen.lock().unwrap().unwrap();
        assert_eq!(seen.parent_id(), handle.span_context.span_id().to_string());
        assert_eq!(seen.trace_id(), handle.span_context.trace_id().to_string());
        if layer == Layer::Seen {
            // What tracing itself knows of the run: the fields that logs have.
            assert_eq!(text(handle, "key").as_deref(), Some("k"));
            assert_eq!(text(handle, "fencing_token"), tree.is("redrive.fencing_token"));
            assert_eq!(events(handle), ["in the handler"]);
        }
    }
    assert_eq!(TraceContext::current(), None, "outside of every span");
}

#[tokio::test(start_paused = true)]
async fn a_run_ends_when_it_ends_whatever_still_holds_a_span_within_it() {
    for (layer, queue) in [(Layer::Seen, "detached"), (Layer::Disabled, "detached-disabled")] {
        let (all, _guard) = install(layer);
        let rig = Rig::named(queue, |queue| queue);
        rig.send("k", "1").await;
        let detached = Arc::new(Mutex::new(tokio::task::JoinSet::new()));
        let tasks = Arc::clone(&detached);
        let handler = rig.runs(move |_| {
            let later = tokio::time::sleep(Duration::from_secs(600));
            let held = tracing::info_span!("goes on");
            tasks.lock().unwrap().spawn(later.instrument(held));
            async {
                tokio::time::sleep(Duration::from_secs(5)).await;
                Err::<(), _>(Failure::reject("no"))
            }
        });
        let running = start(rig.worker().handler(handler).build().unwrap());
        rig.emptied(&running).await;
        running.drain().await;
        let tree = all.delivery(queue);
        let handle = tree.child("handle");
        let ran = handle.end_time.duration_since(tree.root.start_time).unwrap();
        assert!(ran >= Duration::from_secs(5) && ran < Duration::from_secs(6), "{ran:?}");
        assert!(error(handle).is_some());
        assert!(all.delivery(queue).rest.iter().all(|span| span.name != "goes on"));
        let mut detached = std::mem::take(&mut *detached.lock().unwrap());
        while detached.join_next().await.is_some() {}
        let tree = all.delivery(queue);
        let later = tree.rest.iter().find(|span| span.name == "goes on").unwrap();
        assert_eq!(later.parent_span_id, tree.child("handle").span_context.span_id());
    }
}

#[tokio::test(start_paused = true)]
async fn a_batch_runs_within_a_span_of_its_own_that_is_linked_to_each_delivery() {
    let (all, _guard) = install(Layer::Seen);
    let rig = Rig::named("bulk", |queue| queue);
    rig.send_many(3).await;
    async fn store(keys: Vec<IdempotencyKey>) -> Result<Vec<Result<(), Failure>>, Failure> {
        tracing::info_span!("insert").in_scope(|| ());
        let each = |key: IdempotencyKey| match &*key {
            "k1" => Err(Failure::retry("a conflict")),
            _ => Ok(()),
        };
        Ok(keys.into_iter().map(each).collect())
    }
    let handler = batch(3, Duration::from_millis(20), store);
    let running = start(rig.worker().handler(handler).build().unwrap());
    running
        .until("the batch is done", |status| {
            status.totals.completed == 2 && status.totals.retried == 1
        })
        .await;
    running.crash().await;
    let trees = all.deliveries("bulk");
    assert_eq!(trees.len(), 3);
    let of_batch = all.named("handle bulk");
    let of_batch = of_batch.iter().find(|span| span.links.links.len() == 3).unwrap();
    assert_eq!(text(of_batch, "messaging.batch.message_count").as_deref(), Some("3"));
    let own = |span: &opentelemetry_sdk::trace::SpanData| {
        format!("00-{}-{}-01", span.span_context.trace_id(), span.span_context.span_id())
    };
    for tree in &trees {
        let handle = tree.child("handle");
        assert!(links(of_batch).contains(&own(handle)));
        assert_eq!(links(handle), [own(of_batch)]);
        let failed = tree.is("redrive.key").unwrap() == "k1";
        assert_eq!(error(handle).is_some(), failed, "each has an outcome of its own");
    }
    let insert = all.named("insert").remove(0);
    assert_eq!(insert.parent_span_id, of_batch.span_context.span_id());
}

#[tokio::test(start_paused = true)]
async fn what_a_handler_sends_is_below_its_run_and_its_delivery_elsewhere_linked_to_that() {
    let (all, _guard) = install(Layer::Disabled);
    let first = Rig::named("first", |queue| queue);
    let second = Rig::named("second", |queue| queue);
    first.send("k", "1").await;
    let producer = redrive::Producer::new(second.queue.clone());
    let handler = first.runs(move |context: Context| {
        let producer = producer.clone();
        async move {
            let message = redrive::NewMessage::text("2").key(context.key().as_str());
            producer.send(message).await.map(|_| ()).map_err(Failure::retry)
        }
    });
    let running = start(first.worker().handler(handler).build().unwrap());
    first.emptied(&running).await;
    running.drain().await;
    let running = start(second.worker().handler(second.succeeds()).build().unwrap());
    second.emptied(&running).await;
    running.drain().await;
    let (from, to) = (all.delivery("first"), all.delivery("second"));
    let send = from.rest.iter().find(|span| span.name == "send second").unwrap();
    assert_eq!(send.parent_span_id, from.child("handle").span_context.span_id());
    assert_eq!(
        links(&to.root),
        [format!(
            "00-{}-{}-01",
            send.span_context.trace_id(),
            send.span_context.span_id()
        )]
    );
}
