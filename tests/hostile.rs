//! Messages that somebody made to do harm: what they cost, what they can reach, and what is seen of them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "hostile/bombs.rs"]
mod bombs;
#[path = "hostile/edited.rs"]
mod edited;
#[path = "hostile/forged.rs"]
mod forged;
#[path = "support/log.rs"]
mod log;
#[path = "hostile/logs.rs"]
mod logs;

use peak_alloc::PeakAlloc;
use tokio::sync::{Mutex, MutexGuard};

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// One test at a time: what is live is counted for the whole process.
async fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::const_new(());
    ONE.lock().await
}

/// Whether it could drive a terminal, or deceive who reads it.
fn deceives(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}
