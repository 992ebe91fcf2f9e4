//! What the endpoint of `redrive forward` answers.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u16, u64, Vec<(bool, &[u8])>, &[u8])| {
    let (status, now_ms, headers, body) = input;
    let headers: Vec<(&str, &[u8])> = headers
        .into_iter()
        .map(|(location, value)| (if location { "location" } else { "retry-after" }, value))
        .collect();
    redrive_fuzz::checks::answer(status % 1_000, &headers, body, now_ms);
});
