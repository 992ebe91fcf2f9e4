//! Chance, faults and the embedded queue under many orders of the threads that share them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::collections::BTreeSet;
use std::time::Duration;

use shuttle::future::block_on;
use shuttle::thread;

use super::explore;
use crate::clock::Random;
use crate::faults::{Fault, FaultPlan, Operation};
use crate::message::Outgoing;
use crate::queue::{MemoryQueue, Queue, Receive};

#[test]
fn shuttle_threads_that_draw_from_one_source_share_its_sequence() {
    explore(1_000, || {
        let expected: BTreeSet<u64> = {
            let alone = Random::seeded(9);
            (0..6).map(|_| alone.next_u64()).collect()
        };
        let random = Random::seeded(9);
        let drawing: Vec<_> = (0..3)
            .map(|_| {
                let random = random.clone();
                thread::spawn(move || [random.next_u64(), random.next_u64()])
            })
            .collect();
        let drawn: BTreeSet<u64> = drawing
            .into_iter()
            .flat_map(|drawing| drawing.join().unwrap())
            .collect();
        assert_eq!(drawn, expected);
    });
}

#[test]
fn shuttle_as_many_calls_fail_as_were_to_whoever_makes_them() {
    explore(2_000, || {
        let plan = FaultPlan::none();
        plan.fail_next(Operation::Send, 3, Fault::After);
        let calling: Vec<_> = (0..3)
            .map(|_| {
                let plan = plan.clone();
                thread::spawn(move || (0..2).filter(|_| plan.next(Operation::Send, 1).fault.is_some()).count())
            })
            .collect();
        let failed: usize = calling.into_iter().map(|calling| calling.join().unwrap()).sum();
        assert_eq!((failed, plan.injected()), (3, 3));
    });
}

#[test]
fn inv01_shuttle_each_message_goes_to_one_receiver_and_a_receiver_that_waits_is_woken() {
    explore(2_000, || {
        let queue = MemoryQueue::builder("orders").build().unwrap();
        let receivers: Vec<_> = (0..2)
            .map(|_| {
                let queue = queue.clone();
                thread::spawn(move || {
                    let request = Receive::new(1, Duration::from_secs(20));
                    // Time stands still, so only a message ends the wait.
                    let deliveries = block_on(queue.receive(request)).unwrap();
                    assert_eq!(deliveries.len(), 1);
                    let deleted = block_on(queue.delete(vec![deliveries[0].receipt.clone()])).unwrap();
                    assert!(deleted[0].is_ok());
                    deliveries[0].message.body.clone()
                })
            })
            .collect();
        let sender = {
            let queue = queue.clone();
            thread::spawn(move || {
                for body in ["a", "b"] {
                    assert!(block_on(queue.send(vec![Outgoing::new(body)])).unwrap()[0].is_ok());
                }
            })
        };
        sender.join().unwrap();
        let bodies: BTreeSet<String> = receivers.into_iter().map(|receiver| receiver.join().unwrap()).collect();
        assert_eq!(bodies.len(), 2, "{bodies:?}");
    });
}
