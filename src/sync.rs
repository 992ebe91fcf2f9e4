//! The locks and counters that threads share: the standard library's.
//!
//! Built for its tests with `--cfg redrive_shuttle`, the crate takes [shuttle]'s instead, which tries many of the orders in
//! which threads may meet. Tests whose names begin with `shuttle_` are for that build, and only those run in it:
//!
//! ```text
//! RUSTC_WORKSPACE_WRAPPER="$PWD/.ci/rustc_shuttle" cargo test --no-default-features --lib shuttle_
//! ```
//!
//! [shuttle]: https://docs.rs/shuttle

#[cfg(all(test, redrive_shuttle))]
pub(crate) use shuttle::sync::{Mutex, MutexGuard};
#[cfg(not(all(test, redrive_shuttle)))]
pub(crate) use std::sync::{Mutex, MutexGuard};

#[cfg(all(test, redrive_shuttle))]
mod shuttle_tests;

pub(crate) mod atomic {
    #[cfg(all(test, redrive_shuttle))]
    pub(crate) use shuttle::sync::atomic::{AtomicI64, AtomicU64};
    pub(crate) use std::sync::atomic::Ordering;
    #[cfg(not(all(test, redrive_shuttle)))]
    pub(crate) use std::sync::atomic::{AtomicI64, AtomicU64};
}

/// Runs `test` under many orders of its threads: half of them drawn step by step, half with few changes of thread, which
/// finds what needs one long delay (Burckhardt et al., "A Randomized Scheduler with Probabilistic Guarantees of Finding
/// Bugs"). Time stands still but for what the test moves it; tokio's own locks are not tried.
#[cfg(all(test, redrive_shuttle))]
#[allow(clippy::unwrap_used, reason = "tests")]
pub(crate) fn explore(runs: usize, test: fn()) {
    let asked = std::env::var("SHUTTLE_RUNS").ok().and_then(|text| text.parse().ok());
    let runs: usize = asked.unwrap_or(runs);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    // Its end would wake what a failed run left behind, which shuttle takes for another failure.
    let runtime = std::mem::ManuallyDrop::new(runtime);
    let _inside = runtime.enter();
    shuttle::check_random(test, runs.div_ceil(2));
    shuttle::check_pct(test, runs / 2, 3);
}

/// Polls `future` up to so many times, and drops it if it is not done by then.
#[cfg(all(test, redrive_shuttle))]
pub(crate) fn poll_at_most<T>(times: u32, future: impl Future<Output = T>) -> Option<T> {
    let mut left = times;
    let mut future = std::pin::pin!(future);
    shuttle::future::block_on(futures::future::poll_fn(|cx| {
        if left == 0 {
            return std::task::Poll::Ready(None);
        }
        left -= 1;
        cx.waker().wake_by_ref();
        future.as_mut().poll(cx).map(Some)
    }))
}
