//! What a worker shares with its handles, under many orders of their threads.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::time::Duration;

use shuttle::thread;

use super::handle::WorkerHandle;
use super::status::Shared;
use crate::clock::Clock;
use crate::sync::explore;

#[test]
fn shuttle_a_handle_reads_counts_that_only_grow_and_miss_none() {
    explore(2_000, || {
        let (commands, mut asked) = tokio::sync::mpsc::unbounded_channel();
        let handle = WorkerHandle {
            commands,
            shared: Shared::new("orders", 4, Duration::from_secs(60)),
            clock: Clock::system(),
        };
        let counting: Vec<_> = (0..2)
            .map(|_| {
                let shared = handle.shared.clone();
                thread::spawn(move || {
                    for _ in 0..3 {
                        shared.count(|totals| totals.received += 1);
                        shared.update(|status| status.running += 1);
                        shared.update(|status| status.running -= 1);
                    }
                })
            })
            .collect();
        let steering = {
            let handle = handle.clone();
            thread::spawn(move || {
                handle.pause();
                handle.set_concurrency(2).unwrap();
                handle.resume();
            })
        };
        let mut last = 0;
        for _ in 0..3 {
            let status = handle.status();
            assert!(status.totals.received >= last && status.running <= 2);
            last = status.totals.received;
        }
        for counting in counting {
            counting.join().unwrap();
        }
        steering.join().unwrap();
        let status = handle.status();
        assert_eq!((status.totals.received, status.running), (6, 0));
        let commands: Vec<String> = std::iter::from_fn(|| asked.try_recv().ok())
            .map(|command| format!("{command:?}"))
            .collect();
        assert_eq!(commands, ["Pause", "SetConcurrency(2)", "Resume"]);
    });
}
