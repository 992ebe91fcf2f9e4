//! What the micro benchmarks run: instruction counts of the hot paths (`check`, by valgrind's callgrind) and the rate of the
//! pipeline by the clock (`pipeline`).

pub mod parts;
pub mod pipeline;
