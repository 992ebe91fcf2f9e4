//! A replay's job file.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| redrive_fuzz::checks::journal(bytes));
