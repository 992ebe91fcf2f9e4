//! The language of `--where`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use redrive_fuzz::{checks, made::Parts};

fuzz_target!(|input: (Parts<'_>, &str)| {
    let (letter, text) = input;
    checks::filter(text, letter.message());
});
