//! `Retry-After`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use redrive::flow::{Advice, LONGEST_DELAY, parse_retry_after};
use redrive_fuzz::memory::within;

fuzz_target!(|input: (u64, u16, &str)| {
    let (now_ms, status, value) = input;
    let wait = within(value.len(), 2, 1 << 10, || parse_retry_after(value, now_ms));
    assert!(wait.is_none_or(|wait| wait <= LONGEST_DELAY));
    let digits = value.trim();
    if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
        let seconds: Option<u64> = digits.parse().ok();
        let expected = seconds.map_or(LONGEST_DELAY, std::time::Duration::from_secs).min(LONGEST_DELAY);
        assert_eq!(wait, Some(expected));
    }
    match Advice::of_http(status, Some(value), now_ms) {
        None => assert!((200..300).contains(&status)),
        Some(Advice::RetryAfter(told)) => assert_eq!(Some(told), wait),
        Some(_) => {}
    }
});
