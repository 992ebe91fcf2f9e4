//! Lines of `dlq import`, of `queue send` and of `--lines`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|line: &str| redrive_fuzz::checks::import(line));
