//! Instruction counts, by valgrind's callgrind. `check` runs them and compares.

use std::hint::black_box;

use gungraun::prelude::*;
use redrive_micro::pipeline::{Case, Pipeline};

const MESSAGES: usize = 2_000;

fn pipeline(inbox: bool, json: bool) -> Pipeline {
    let case = Case {
        inbox,
        json,
        messages: MESSAGES,
        concurrency: 64,
    };
    Pipeline::new(case).expect("a pipeline")
}

#[library_benchmark]
#[bench::plain(pipeline(false, false))]
#[bench::json(pipeline(false, true))]
#[bench::inbox(pipeline(true, false))]
fn worker(pipeline: Pipeline) -> Pipeline {
    black_box(pipeline.run()).expect("a run");
    pipeline
}

library_benchmark_group!(name = pipelines, benchmarks = worker);

main!(library_benchmark_groups = pipelines);
