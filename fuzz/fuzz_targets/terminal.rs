//! Foreign text on its way to a terminal.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, &str)| redrive_fuzz::checks::terminal(input.1, usize::from(input.0)));
