//! The span of a delivery and its children.

use redrive::dlq::envelope::{ENVELOPE_ATTRIBUTE, Envelope};
use redrive::faults::Operation;
use redrive::message::{Attribute, Outgoing, TRACEPARENT_ATTRIBUTE};
use redrive::{Context, Failure};

use opentelemetry::trace::{SpanId, SpanKind};

use crate::collected::{Layer, error, events, install, lasts, links, text};
use crate::support::{Rig, keyed, ms, secs, sleep, start};

const SENDER: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

#[tokio::test(start_paused = true)]
async fn a_delivery_is_a_span_from_its_receive_until_it_is_settled_with_claim_handler_and_settle_below_it() {
    // Nothing but redrive's own spans, so that all times are the worker's.
    let (all, _guard) = install(Layer::Disabled);
    let rig = Rig::named("tree", |queue| queue);
    let message_id = rig.send("order-7\nforged", "the payload").await;
    rig.inbox.faults().slow_next(Operation::Claim, 1, ms(300));
    rig.inbox.faults().slow_next(Operation::Write, 1, ms(200));
    rig.queue.faults().slow_next(Operation::Delete, 1, ms(100));
    let running = start(rig.worker().handler(rig.takes(secs(5))).build().unwrap());
    rig.emptied(&running).await;
    running.drain().await;

    let tree = all.delivery("tree");
    assert_eq!(tree.root.name, "process tree");
    assert_eq!(tree.root.parent_span_id, SpanId::INVALID);
    assert!(tree.root.links.links.is_empty());
    for (name, value) in [
        ("messaging.system", "aws_sqs"),
        ("messaging.operation.name", "process"),
        ("messaging.operation.type", "process"),
        ("messaging.message.id", message_id.as_str()),
        ("redrive.key", "order-7\\nforged"),
        ("redrive.receive_count", "1"),
        ("redrive.attempt", "1"),
        ("redrive.outcome", "completed"),
    ] {
        assert_eq!(tree.is(name).as_deref(), Some(value), "{name}");
    }
    assert!(tree.is("redrive.fencing_token").unwrap().parse::<u64>().unwrap() > 0);
    assert_eq!(tree.names(), ["claim tree", "handle tree", "settle tree"]);
    for span in tree.rest.iter().chain([&tree.root]) {
        assert_eq!(error(span), None, "{}", span.name);
        assert!(!format!("{span:?}").contains("payload"), "{span:?}");
    }
    let (claim, handle, settle) = (tree.child("claim"), tree.child("handle"), tree.child("settle"));
    assert_eq!(text(claim, "redrive.claim").as_deref(), Some("claimed"));
    assert_eq!(text(handle, "redrive.attempt").as_deref(), Some("1"));
    assert_eq!(text(settle, "messaging.operation.type").as_deref(), Some("settle"));
    assert_eq!(settle.span_kind, SpanKind::Client);
    assert_eq!(events(settle), ["recorded", "deleted"]);

    assert_eq!(lasts(claim), ms(300));
    assert_eq!(lasts(handle), secs(5));
    assert!(lasts(settle) >= ms(300), "a write and a delete: {:?}", lasts(settle));
    assert!(lasts(settle) < ms(400), "{:?}", lasts(settle));
    let root = &tree.root;
    assert_eq!(root.start_time, claim.start_time, "from the receive");
    assert!(claim.end_time <= handle.start_time);
    assert_eq!(handle.end_time, settle.start_time);
    assert_eq!(settle.end_time, root.end_time, "until it is settled");
}

#[tokio::test(start_paused = true)]
async fn what_is_claimed_and_settled_in_one_batch_has_children_of_its_own() {
    let (all, _guard) = install(Layer::Disabled);
    let rig = Rig::named("batched", |queue| queue);
    rig.send_many(5).await;
    let handler = rig.runs(|context: Context| async move {
        sleep(secs(context.message().body.parse().unwrap())).await;
        Ok(())
    });
    let running = start(rig.worker().handler(handler).build().unwrap());
    rig.emptied(&running).await;
    running.drain().await;
    let mut trees = all.deliveries("batched");
    trees.sort_by_key(|tree| tree.is("redrive.key"));
    assert_eq!(trees.len(), 5);
    for (n, tree) in (0..).zip(&trees) {
        assert_eq!(tree.is("redrive.key"), Some(format!("k{n}")));
        assert_eq!(lasts(tree.child("handle")), secs(n));
        assert_eq!(
            tree.child("claim").start_time,
            trees[0].child("claim").start_time,
            "one claim for all"
        );
        assert_eq!(
            tree.child("settle").start_time,
            tree.child("handle").end_time,
            "each is settled when it is done"
        );
        assert_eq!(text(tree.child("settle"), "messaging.batch.message_count"), None);
    }
}

#[tokio::test(start_paused = true)]
async fn a_delivery_is_linked_to_the_span_of_its_sender() {
    let (all, _guard) = install(Layer::Seen);
    let rig = Rig::named("linked", |queue| queue);
    let sent = keyed("w3c", "1").attribute(TRACEPARENT_ATTRIBUTE, Attribute::string(SENDER));
    rig.put(sent).await;
    let mut sent = keyed("x-ray", "2");
    sent.trace_header = Some("Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=0".into());
    rig.put(sent).await;
    rig.put(keyed("unreadable", "3").attribute(TRACEPARENT_ATTRIBUTE, Attribute::string("00-x")))
        .await;
    let running = start(rig.worker().handler(rig.succeeds()).build().unwrap());
    rig.emptied(&running).await;
    running.drain().await;
    for tree in all.deliveries("linked") {
        let expected: &[&str] = match tree.is("redrive.key").unwrap().as_str() {
            "w3c" => &[SENDER],
            "x-ray" => &["00-5759e988bd862e3fe1be46a994272793-53995c3f42cd8ad8-00"],
            _ => &[],
        };
        assert_eq!(links(&tree.root), expected);
        assert!(tree.root.links.links.iter().all(|link| link.span_context.is_remote()));
        assert_eq!(tree.root.parent_span_id, SpanId::INVALID, "a trace of its own");
    }
    assert_eq!(all.deliveries("linked").len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_retried_message_is_a_delivery_each_time_and_the_failed_one_says_what_kind_of_failure_it_was() {
    let (all, _guard) = install(Layer::Disabled);
    let rig = Rig::named("retried", |queue| queue);
    for body in ["error", "panic", "timeout"] {
        rig.put(keyed(body, body).attribute(TRACEPARENT_ATTRIBUTE, Attribute::string(SENDER)))
            .await;
    }
    let handler = rig.runs(|context: Context| async move {
        match context.message().body.as_str() {
            _ if context.attempt() > 1 => Ok(()),
            "error" => Err(Failure::retry(format!("no\nluck {}", "x".repeat(10_000)))),
            "panic" => panic!("a bug"),
            _ => {
                sleep(secs(100)).await;
                Ok(())
            }
        }
    });
    let worker = rig
        .worker()
        .without_breaker()
        .handler_timeout(secs(10))
        .handler(handler);
    let running = start(worker.build().unwrap());
    rig.emptied(&running).await;
    running.drain().await;
    let trees = all.deliveries("retried");
    assert_eq!(trees.len(), 6);
    for tree in &trees {
        let kind = tree.is("redrive.key").unwrap();
        assert_eq!(links(&tree.root), [SENDER], "both");
        let handle = tree.child("handle");
        if tree.is("redrive.attempt").unwrap() == "1" {
            assert_eq!(error(&tree.root), Some(kind.clone()));
            assert_eq!(tree.is("redrive.outcome").as_deref(), Some("retried"));
            assert_eq!(error(handle), Some(kind.clone()));
            assert_eq!(events(tree.child("settle")), ["recorded", "made_visible"]);
            let exception = &handle.events[0];
            assert_eq!(exception.name, "exception");
            let said = exception.attributes.iter().map(|attribute| attribute.value.to_string());
            let said: Vec<String> = said.collect();
            assert!(
                said.iter().all(|said| said.len() <= 256 && !said.contains('\n')),
                "{said:?}"
            );
            assert!(kind != "error" || said[1].starts_with("no\\nluck xxx"), "{said:?}");
        } else {
            assert_eq!(tree.is("redrive.attempt").as_deref(), Some("2"));
            assert_eq!(tree.is("redrive.receive_count").as_deref(), Some("2"));
            assert_eq!((error(&tree.root), error(handle)), (None, None));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_duplicate_is_a_delivery_without_a_run_and_no_error() {
    let (all, _guard) = install(Layer::Seen);
    let rig = Rig::named("twice", |queue| queue);
    rig.send("k", "1").await;
    let running = start(rig.worker().handler(rig.succeeds()).build().unwrap());
    rig.emptied(&running).await;
    rig.send("k", "1").await;
    rig.emptied(&running).await;
    running.drain().await;
    let trees = all.deliveries("twice");
    assert_eq!(trees.len(), 2);
    let tree = trees
        .iter()
        .find(|tree| tree.is("redrive.outcome").unwrap() == "duplicate")
        .unwrap();
    assert_eq!(tree.names(), ["claim twice", "settle twice"]);
    assert_eq!(text(tree.child("claim"), "redrive.claim").as_deref(), Some("completed"));
    assert_eq!(events(tree.child("settle")), ["deleted"]);
    assert_eq!((error(&tree.root), tree.is("redrive.attempt")), (None, None));
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_keeps_its_trace_and_says_its_reason_and_so_does_its_next_delivery() {
    let (all, _guard) = install(Layer::Disabled);
    let rig = Rig::named("dead", |queue| queue);
    rig.put(keyed("k", "1").attribute(TRACEPARENT_ATTRIBUTE, Attribute::string(SENDER)))
        .await;
    let handler = rig.runs(|_| async { Err::<(), _>(Failure::reject("declined").because("card_declined")) });
    let running = start(rig.worker().handler(handler).build().unwrap());
    rig.emptied(&running).await;
    let tree = all.delivery("dead");
    assert_eq!(tree.is("redrive.outcome").as_deref(), Some("dead_lettered"));
    assert_eq!(tree.is("redrive.reason").as_deref(), Some("card_declined"));
    assert_eq!(error(&tree.root).as_deref(), Some("card_declined"));
    assert_eq!(error(tree.child("handle")).as_deref(), Some("card_declined"));
    assert_eq!(
        events(tree.child("settle")),
        ["recorded", "dead_letter_sent", "recorded", "deleted"]
    );

    let letter = rig.dead.messages().remove(0);
    assert_eq!(letter.attribute(TRACEPARENT_ATTRIBUTE), Some(SENDER));
    assert_eq!(Envelope::of(&letter).unwrap().trace.as_deref(), Some(SENDER));
    // As a tool would send it back that knows no `traceparent`.
    let mut replayed = Outgoing::new(letter.body.clone());
    let envelope = letter.attributes[ENVELOPE_ATTRIBUTE].clone();
    replayed.attributes.insert(ENVELOPE_ATTRIBUTE.to_owned(), envelope);
    rig.put(replayed).await;
    rig.emptied(&running).await;
    running.drain().await;
    let again = all.deliveries("dead").remove(1);
    assert_eq!(links(&again.root), [SENDER]);
    assert_eq!(again.is("redrive.key").as_deref(), Some("k"));
}

#[tokio::test(start_paused = true)]
async fn deliveries_of_a_fifo_group_are_traces_of_their_own_that_show_what_they_waited_for() {
    let (all, _guard) = install(Layer::Disabled);
    let rig = Rig::named("orders.fifo", |queue| queue);
    rig.send_in("customer-7", "a", "1").await;
    rig.send_in("customer-7", "b", "2").await;
    let running = start(rig.worker().handler(rig.takes(secs(3))).build().unwrap());
    rig.emptied(&running).await;
    running.drain().await;
    let trees = all.deliveries("orders.fifo");
    assert_eq!(trees.len(), 2);
    let [first, second] = ["a", "b"].map(|key| {
        trees
            .iter()
            .find(|tree| tree.is("redrive.key").unwrap() == key)
            .unwrap()
    });
    for tree in [first, second] {
        assert_eq!(tree.root.name, "process orders.fifo");
        assert_eq!(tree.is("redrive.group").as_deref(), Some("customer-7"));
    }
    assert!(
        second.root.start_time <= first.child("handle").start_time,
        "both were received before"
    );
    assert!(
        second.child("handle").start_time >= first.child("handle").end_time,
        "one runs at a time"
    );
}
