//! A message as handlers read it: JSON, attributes, and the type that it is routed by.
#![no_main]

use futures::executor::block_on;
use libfuzzer_sys::fuzz_target;
use redrive::extract::{Attrs, AttrsRejection, Json, JsonRejection};
use redrive::handler::{Handler as _, HandlerService};
use redrive::outcome::{Cause, MAX_ERROR_BYTES};
use redrive::{Failure, Outcome, Router};
use redrive_fuzz::made::{Parts, context, size};
use redrive_fuzz::memory::within;
use serde::Deserialize;
use std::collections::BTreeMap;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "they are read into")]
struct Order {
    amount: u64,
    price: Option<f64>,
    items: Option<Vec<Item>>,
    note: Option<String>,
    by_name: Option<BTreeMap<String, i32>>,
}

#[derive(Debug, Deserialize)]
#[allow(dead_code, reason = "they are read into")]
enum Item {
    Book { pages: u16 },
    Card(char, bool),
    Nothing,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(dead_code, reason = "they are read into")]
struct Meta {
    tenant: String,
    priority: Option<u8>,
    blob: Option<Vec<u8>>,
}

async fn json(body: Result<Json<Order>, JsonRejection>) -> Result<(), Failure> {
    body.map(|_| ()).map_err(Failure::reject)
}

async fn value(body: Result<Json<serde_json::Value>, JsonRejection>) -> Result<(), Failure> {
    body.map(|_| ()).map_err(Failure::reject)
}

async fn attributes(attributes: Result<Attrs<Meta>, AttrsRejection>) -> Result<(), Failure> {
    attributes.map(|_| ()).map_err(Failure::reject)
}

async fn plain(_: Json<Order>) -> Result<(), Failure> {
    Ok(())
}

fuzz_target!(|parts: Parts<'_>| {
    let message = parts.message();
    let bytes = size(&message);
    let context = context(message.clone(), "k");
    let run = |service: HandlerService, factor| {
        let outcome = within(bytes, factor, 32 << 10, || block_on(service.run(context.clone())));
        match outcome {
            Outcome::Done(_) => None,
            Outcome::Failed(failure) => {
                assert_eq!(failure.cause(), Cause::Error, "{}", failure.error());
                assert!(failure.is_reject(), "{}", failure.error());
                assert!(!failure.error().is_empty() && failure.error().len() <= MAX_ERROR_BYTES);
                Some(failure)
            }
            _ => panic!("no other outcome is known"),
        }
    };
    let body = &message.body;
    let failed = run(json.into_service(()), 40);
    let read = serde_json::from_str::<Order>(body);
    assert_eq!(failed.is_none(), read.is_ok(), "{body}");
    if let Some(failure) = failed {
        assert!(failure.error().contains("the body"), "{}", failure.error());
    }
    // A byte such as `[` may become a value of 32, in lists that grow by doubling.
    let failed = run(value.into_service(()), 120);
    assert_eq!(failed.is_none(), serde_json::from_str::<serde_json::Value>(body).is_ok(), "{body}");
    if let Some(failure) = run(attributes.into_service(()), 20) {
        assert!(failure.error().contains("attribute"), "{}", failure.error());
    }
    let by_attribute: Router = Router::new().route("order", value).route("x", plain);
    let routed = run(by_attribute.into_service(()), 120);
    let kind = message.attribute("type");
    if !matches!(kind, Some("order" | "x")) {
        let failure = routed.expect("there is no route");
        assert_eq!(failure.reason().map(redrive::Reason::as_str), Some("unroutable"), "{}", failure.error());
    }
    for pointer in ["/type", "/a/0/b~1c", "/"] {
        let by_pointer: Router = Router::by_pointer(pointer).route("order", plain);
        let routed = run(by_pointer.into_service(()), 40);
        let json: Option<serde_json::Value> = serde_json::from_str(body).ok();
        let kind = json.as_ref().and_then(|json| json.pointer(pointer)).and_then(serde_json::Value::as_str);
        // Of two keys of one name the first counts here, and the last there.
        if json.is_some() && kind != Some("order") && !body.contains("order") {
            assert!(routed.is_some(), "{body}");
        }
    }
});
