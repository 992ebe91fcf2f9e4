//! Stopping a part of a worker without ending it: its futures are not polled until the gate is open again. A gate with a
//! fuse stops for ever after so many steps of whatever passes it: a process that dies at any of its await points.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use redrive::clock::{Clock, Instant};
use tokio::sync::Notify;

/// How often a future may be polled within one instant of virtual time before it counts as spinning.
const SPINS: u32 = 50_000;

/// How many more steps a process makes.
#[derive(Debug, Default)]
pub(crate) struct Fuse {
    left: Mutex<Option<u32>>,
    blown: Notify,
}

impl Fuse {
    pub(crate) fn light(&self, steps: u32) {
        *self.lock() = Some(steps);
    }

    pub(crate) fn put_out(&self) {
        *self.lock() = None;
    }

    /// Counts a step; whether it may be made.
    fn step(&self) -> bool {
        let mut left = self.lock();
        match &mut *left {
            None => true,
            Some(0) => false,
            Some(left) => {
                *left -= 1;
                if *left == 0 {
                    self.blown.notify_one();
                }
                true
            }
        }
    }

    pub(crate) async fn blown(&self) {
        self.blown.notified().await;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<u32>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Default)]
pub(crate) struct Gate {
    state: Mutex<State>,
    fuse: Arc<Fuse>,
}

#[derive(Debug, Default)]
struct State {
    shut: bool,
    wakers: Vec<Waker>,
}

impl Gate {
    pub(crate) fn with(fuse: &Arc<Fuse>) -> Self {
        Self {
            state: Mutex::default(),
            fuse: Arc::clone(fuse),
        }
    }

    pub(crate) fn set_shut(&self, shut: bool) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.shut = shut;
        if !shut {
            let wakers = std::mem::take(&mut state.wakers);
            drop(state);
            wakers.into_iter().for_each(Waker::wake);
        }
    }

    fn poll_open(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if !state.shut {
            drop(state);
            // Nobody wakes what a dead process leaves behind; it is dropped.
            return if self.fuse.step() {
                Poll::Ready(())
            } else {
                Poll::Pending
            };
        }
        if !state.wakers.iter().any(|waker| waker.will_wake(cx.waker())) {
            state.wakers.push(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Waits until it is open.
    pub(crate) async fn pass(&self) {
        std::future::poll_fn(|cx| self.poll_open(cx)).await;
    }
}

/// A future that is polled only while its gate is open, and that is watched for spinning: a future that is polled for ever
/// at one instant keeps virtual time from going on.
pub(crate) struct Gated<F> {
    inner: Pin<Box<F>>,
    gate: Arc<Gate>,
    clock: Clock,
    polled: (Option<Instant>, u32),
}

impl<F: Future> Gated<F> {
    pub(crate) fn new(gate: Arc<Gate>, clock: Clock, inner: F) -> Self {
        Self {
            inner: Box::pin(inner),
            gate,
            clock,
            polled: (None, 0),
        }
    }
}

impl<F: Future> Future for Gated<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        ready!(self.gate.poll_open(cx));
        let now = Some(self.clock.now());
        let (last, polls) = self.polled;
        self.polled = (now, if last == now { polls + 1 } else { 1 });
        assert!(self.polled.1 < SPINS, "polled {SPINS} times without time going on");
        self.inner.as_mut().poll(cx)
    }
}
