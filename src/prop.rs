//! How many cases the property tests run.

use proptest::test_runner::Config;

/// `cases` cases, or as many as `PROPTEST_CASES` says, to run more of them by hand. Failures are not kept in files: one that
/// was found becomes a test of its own.
pub(crate) fn cases(cases: u32) -> Config {
    let asked = std::env::var("PROPTEST_CASES").ok().and_then(|text| text.parse().ok());
    Config {
        cases: asked.unwrap_or(cases),
        failure_persistence: None,
        ..Config::default()
    }
}
