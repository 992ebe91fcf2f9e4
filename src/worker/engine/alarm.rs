//! What the loop waits with.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::time::Sleep;

use crate::clock::Instant;

/// One timer for the loop's next deadline, kept from turn to turn: most turns neither bring a new deadline nor take the next one
/// away, and a timer set anew costs more than such a turn.
#[derive(Default)]
pub(super) struct Alarm {
    sleep: Option<Pin<Box<Sleep>>>,
    armed: bool,
}

impl Alarm {
    /// It rings at `at`, or before: a deadline that was put off is not set anew, the loop finds nothing to do and sets it then.
    pub(super) fn set(mut self: Pin<&mut Self>, at: Option<Instant>) {
        let Some(at) = at else {
            self.armed = false;
            return;
        };
        let armed = std::mem::replace(&mut self.armed, true);
        match &mut self.sleep {
            None => self.sleep = Some(Box::pin(tokio::time::sleep_until(at))),
            Some(sleep) if armed && sleep.deadline() <= at && !sleep.is_elapsed() => {}
            Some(sleep) => sleep.as_mut().reset(at),
        }
    }
}

impl Future for Alarm {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let armed = self.armed;
        match &mut self.sleep {
            Some(sleep) if armed => sleep.as_mut().poll(context),
            _ => Poll::Pending,
        }
    }
}

/// Lets the tasks run that are ready to. A task that wakes itself comes after those, and no look at timers and sockets comes
/// between, as it would with tokio's `yield_now`.
pub(super) async fn after_what_is_ready() {
    let mut yielded = false;
    poll_fn(|context| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
