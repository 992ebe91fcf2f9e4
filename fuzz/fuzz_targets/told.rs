//! What `redrive forward` and `redrive exec` tell of a message.
#![no_main]

use libfuzzer_sys::fuzz_target;
use redrive_fuzz::{checks, made::Parts};

fuzz_target!(|input: (Parts<'_>, &str)| {
    let (message, key) = input;
    checks::told_of(message.message(), key);
});
