//! How a run is set up, opened, closed and counted.

use std::time::Instant;

use bytes::Bytes;
use hyper::Method;

use crate::answer::{Answer, Parts};
use crate::setup::Setup;
use crate::world::World;

/// Answers a request of the control interface.
pub(crate) fn answer(world: &mut World, method: &Method, path: &str, body: &[u8]) -> Answer {
    match (method.as_str(), path) {
        ("PUT", "/control/setup") => match set_up(world, body) {
            Ok(()) => Answer::ok("{}"),
            Err(why) => refused(400, &why),
        },
        ("POST", "/control/open") => {
            world.open(Instant::now());
            Answer::ok("{}")
        }
        ("POST", "/control/close") => {
            world.close(Instant::now());
            Answer::ok("{}")
        }
        ("GET", "/control/counts") => match serde_json::to_vec(&world.counts(Instant::now())) {
            Ok(json) => Answer::ok(json),
            Err(error) => refused(500, &error.to_string()),
        },
        _ => refused(404, &format!("there is no {method} {path}")),
    }
}

fn set_up(world: &mut World, body: &[u8]) -> Result<(), String> {
    let setup: Setup = match body.trim_ascii() {
        b"" => Setup::default(),
        json => serde_json::from_slice(json).map_err(|error| error.to_string())?,
    };
    match setup.problem() {
        Some(problem) => Err(problem.to_owned()),
        None => {
            world.set_up(setup);
            Ok(())
        }
    }
}

fn refused(status: u16, why: &str) -> Answer {
    let json = serde_json::json!({ "error": why }).to_string();
    Answer {
        status,
        body: Parts::one(Bytes::from(json)),
    }
}
