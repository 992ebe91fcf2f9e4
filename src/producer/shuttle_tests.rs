//! A producer under many orders of the threads that send by it. Whoever waits drives the sending of all, and may go away.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::task::Poll;
use std::time::Duration;

use futures::future::poll_fn;
use shuttle::future::block_on;
use shuttle::rand::Rng;
use shuttle::thread;

use super::*;
use crate::queue::MemoryQueue;
use crate::sync::{explore, poll_at_most};

fn producer(linger: Duration, buffer: usize) -> (Producer, MemoryQueue) {
    let queue = MemoryQueue::builder("orders").build().unwrap();
    let producer = Producer::builder(queue.clone())
        .linger(linger)
        .buffer(buffer)
        .random(Random::seeded(1));
    (producer.build().unwrap(), queue)
}

#[test]
fn inv01_shuttle_every_sender_that_waits_is_answered_though_the_one_that_drives_goes_away() {
    explore(3_000, || {
        let (producer, queue) = producer(Duration::ZERO, 2);
        let sending: Vec<_> = (0..3)
            .map(|n| {
                let producer = producer.clone();
                thread::spawn(move || {
                    let send = producer.send(NewMessage::text(n.to_string()));
                    if n == 0 {
                        let polls = shuttle::rand::thread_rng().gen_range(0..4);
                        poll_at_most(polls, send).is_some_and(|answer| answer.is_ok())
                    } else {
                        block_on(send).is_ok()
                    }
                })
            })
            .collect();
        let sent: Vec<bool> = sending.into_iter().map(|send| send.join().unwrap()).collect();
        assert!(sent[1] && sent[2], "{sent:?}");
        let held = queue.messages().len();
        assert!(held == 3 || (held == 2 && !sent[0]), "{held} {sent:?}");
        let inner = &producer.inner;
        let state = inner.lock();
        assert_eq!(
            (
                inner.space.available_permits(),
                state.buffer.len(),
                state.unanswered.len()
            ),
            (2, 0, 0)
        );
    });
}

#[test]
fn shuttle_a_flush_ends_when_what_was_before_it_is_answered_whoever_drives() {
    explore(3_000, || {
        // Nothing lingers to its end while time stands still: only the flush sends.
        let (producer, _queue) = producer(Duration::from_secs(1), 10);
        let early = {
            let producer = producer.clone();
            thread::spawn(move || block_on(producer.send(NewMessage::text("early"))).is_ok())
        };
        while producer.inner.lock().unanswered.is_empty() {
            thread::yield_now();
        }
        let flush = {
            let producer = producer.clone();
            thread::spawn(move || block_on(producer.flush()))
        };
        let late = {
            let producer = producer.clone();
            thread::spawn(move || {
                let mut send = Box::pin(async move { producer.send(NewMessage::text("late")).await });
                let _ = block_on(poll_fn(|cx| Poll::Ready(send.as_mut().poll(cx).is_ready())));
                send
            })
        };
        assert!(early.join().unwrap());
        flush.join().unwrap();
        drop(late.join().unwrap());
        assert_eq!(producer.inner.space.available_permits(), 10);
    });
}
