//! How much memory is live at once: an allocator that counts, so that a target can say what an input may cost.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

fn grown(by: usize) {
    let live = LIVE.fetch_add(by, Relaxed) + by;
    PEAK.fetch_max(live, Relaxed);
}

// Every call goes to the system's allocator as it came; beside it only sizes are counted.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let made = unsafe { System.alloc(layout) };
        if !made.is_null() {
            grown(layout.size());
        }
        made
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let made = unsafe { System.alloc_zeroed(layout) };
        if !made.is_null() {
            grown(layout.size());
        }
        made
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        unsafe { System.dealloc(at, layout) };
        LIVE.fetch_sub(layout.size(), Relaxed);
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let moved = unsafe { System.realloc(at, layout, size) };
        if !moved.is_null() {
            // While it is moved both may be there.
            grown(size);
            LIVE.fetch_sub(layout.size(), Relaxed);
        }
        moved
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Runs `work` on an input of `size` bytes: no more than `factor` bytes for each of it, and `fixed` besides, may be live at
/// once for it.
///
/// # Panics
/// When more were.
pub fn within<T>(size: usize, factor: usize, fixed: usize, work: impl FnOnce() -> T) -> T {
    let before = LIVE.load(Relaxed);
    PEAK.store(before, Relaxed);
    let done = work();
    let used = PEAK.load(Relaxed).saturating_sub(before);
    assert!(
        used <= factor * size + fixed,
        "{used} bytes were live at once for an input of {size}: more than {factor} for each and {fixed}"
    );
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_live_at_once_is_counted_and_what_is_freed_is_not() {
        within(0, 0, 5_000, || {
            for _ in 0..100 {
                std::hint::black_box(Vec::<u8>::with_capacity(1_000));
            }
        });
        let over = std::panic::catch_unwind(|| within(10, 10, 50, || std::hint::black_box(vec![0_u8; 1_000])));
        assert!(over.is_err());
    }
}
