//! Instruction counts, by valgrind's callgrind. `check` runs them and compares.
//!
//! What is counted is the function; what makes its argument is not. A name ends in how often it does its work (`x2000`), by
//! which `check` divides.

use std::hint::black_box;

use gungraun::Callgrind;
use gungraun::prelude::*;
use redrive::clock::{Clock, Instant};
use redrive_micro::parts::{self, Breaker, Claims, Envelopes, Heartbeats, Keys, Renewals, Routes};
use redrive_micro::pipeline::{Case, Pipeline};

fn pipeline(messages: usize, inbox: bool, json: bool) -> Pipeline {
    let case = Case {
        inbox,
        json,
        messages,
        concurrency: 64,
    };
    Pipeline::new(case).expect("a pipeline")
}

fn now() -> Instant {
    Clock::system().now()
}

#[library_benchmark]
#[bench::plain_x2000(pipeline(2_000, false, false))]
#[bench::json_x2000(pipeline(2_000, false, true))]
#[bench::inbox_x2000(pipeline(2_000, true, false))]
fn worker(pipeline: Pipeline) -> Pipeline {
    black_box(pipeline.run()).expect("a run");
    assert_eq!(pipeline.left(), 0);
    pipeline
}

#[library_benchmark]
#[bench::x1000(Claims::new(1_000))]
fn claim_complete_duplicate(claims: Claims) -> Claims {
    assert_eq!(claims.run(), 1_000);
    claims
}

#[library_benchmark]
#[bench::x1000(Renewals::new(1_000))]
fn renew(renewals: Renewals) -> Renewals {
    assert_eq!(renewals.run(), 1_000);
    renewals
}

#[library_benchmark]
#[bench::x10000(now(), 10_000)]
fn batcher(now: Instant, entries: usize) {
    assert_eq!(parts::batches(now, entries), entries);
}

#[library_benchmark]
#[bench::at_10000_x10000(Heartbeats::new(10_000), 10_000)]
fn heartbeats(mut heartbeats: Heartbeats, beats: usize) -> Heartbeats {
    assert!(black_box(heartbeats.run(beats)) >= beats);
    heartbeats
}

#[library_benchmark]
#[bench::of_20_types_x1000(Routes::new(1_000))]
fn router(mut routes: Routes) -> Routes {
    assert_eq!(routes.run(), 1_000);
    routes
}

#[library_benchmark]
#[bench::x1000(Breaker::new(1_000), now())]
fn breaker(mut breaker: Breaker, now: Instant) -> Breaker {
    assert_eq!(breaker.run(now), 1_000);
    breaker
}

#[library_benchmark]
#[bench::x1000(1_000)]
fn backoff(delays: usize) {
    black_box(parts::backoffs(delays));
}

#[library_benchmark]
#[bench::x1000(Keys::new(1_000))]
fn keys(keys: Keys) -> Keys {
    black_box(keys.run());
    keys
}

#[library_benchmark]
#[bench::x200(Envelopes::new(200))]
fn envelope(mut envelopes: Envelopes) -> Envelopes {
    assert_eq!(envelopes.run(), 200);
    envelopes
}

library_benchmark_group!(name = pipelines, benchmarks = worker);
library_benchmark_group!(
    name = parts_of_it,
    benchmarks = [
        claim_complete_duplicate,
        renew,
        batcher,
        heartbeats,
        router,
        breaker,
        backoff,
        keys,
        envelope
    ]
);

main!(
    // Instructions alone: without the model of the caches it takes half the time.
    config = LibraryBenchmarkConfig::default().tool(Callgrind::with_args(["--cache-sim=no"])),
    library_benchmark_groups = [pipelines, parts_of_it]
);
