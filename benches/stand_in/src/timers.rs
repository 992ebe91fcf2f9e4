//! Waiting to the moment: the runtime's own timers wake up to a millisecond late, which is much of a latency of five.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

/// What waits, in the order of its moments, and the one alarm that is set to the first of them.
#[derive(Clone)]
pub(crate) struct Timers {
    inner: Rc<Inner>,
}

struct Inner {
    alarm: alarm::Alarm,
    waiting: RefCell<Waiting>,
}

#[derive(Default)]
struct Waiting {
    number: u64,
    by_moment: BTreeMap<(Instant, u64), Waker>,
}

impl Timers {
    /// Must be made within a runtime.
    pub(crate) fn new() -> io::Result<Self> {
        let alarm = alarm::Alarm::new()?;
        Ok(Self {
            inner: Rc::new(Inner {
                alarm,
                waiting: RefCell::default(),
            }),
        })
    }

    /// Is ready from `moment` on.
    pub(crate) fn at(&self, moment: Instant) -> Sleep {
        Sleep {
            inner: Rc::clone(&self.inner),
            moment,
            number: None,
        }
    }

    /// Wakes who waits, as long as it is polled.
    ///
    /// # Errors
    /// When the alarm cannot be read.
    pub(crate) async fn run(&self) -> io::Result<()> {
        loop {
            self.inner.alarm.rung().await?;
            let now = Instant::now();
            let due = {
                let mut waiting = self.inner.waiting.borrow_mut();
                let later = waiting.by_moment.split_off(&(now, u64::MAX));
                std::mem::replace(&mut waiting.by_moment, later)
            };
            for waker in due.into_values() {
                waker.wake();
            }
            let next = self.inner.waiting.borrow().by_moment.keys().next().map(|(at, _)| *at);
            if let Some(next) = next {
                self.inner.alarm.set(next)?;
            }
        }
    }
}

/// See [`Timers::at`].
pub(crate) struct Sleep {
    inner: Rc<Inner>,
    moment: Instant,
    number: Option<u64>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if Instant::now() >= self.moment {
            return Poll::Ready(());
        }
        let first = {
            let mut waiting = self.inner.waiting.borrow_mut();
            let number = self.number.unwrap_or(waiting.number);
            if self.number.is_none() {
                waiting.number += 1;
            }
            waiting.by_moment.insert((self.moment, number), context.waker().clone());
            let first = waiting.by_moment.keys().next() == Some(&(self.moment, number));
            drop(waiting);
            self.number = Some(number);
            first
        };
        // An alarm that cannot be set is an alarm that never rings: better late than not at all.
        if first && self.inner.alarm.set(self.moment).is_err() {
            context.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            let key = (self.moment, number);
            self.inner.waiting.borrow_mut().by_moment.remove(&key);
        }
    }
}

#[cfg(target_os = "linux")]
mod alarm {
    use std::io;
    use std::os::fd::OwnedFd;
    use std::time::Instant;

    use rustix::time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
    };
    use tokio::io::unix::AsyncFd;

    /// A timer of the kernel, as fine as its clock.
    pub(super) struct Alarm(AsyncFd<OwnedFd>);

    impl Alarm {
        #[allow(
            deprecated,
            reason = "its successor is unsafe, for files that change hands; this one is owned and never replaced"
        )]
        pub(super) fn new() -> io::Result<Self> {
            let timer = timerfd_create(
                TimerfdClockId::Monotonic,
                TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC,
            )?;
            Ok(Self(AsyncFd::new(timer)?))
        }

        pub(super) fn set(&self, moment: Instant) -> io::Result<()> {
            let left = moment.saturating_duration_since(Instant::now());
            let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
            let setting = Itimerspec {
                it_interval: zero,
                it_value: Timespec {
                    tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                    // Zero would disarm it.
                    tv_nsec: i64::from(left.subsec_nanos().max(1)),
                },
            };
            timerfd_settime(self.0.get_ref(), TimerfdTimerFlags::empty(), &setting)?;
            Ok(())
        }

        pub(super) async fn rung(&self) -> io::Result<()> {
            let mut ready = self.0.readable().await?;
            let mut count = [0_u8; 8];
            // One that was set anew meanwhile has nothing to read, and rings later.
            let _ = ready.try_io(|timer| rustix::io::read(timer.get_ref(), &mut count).map_err(io::Error::from));
            Ok(())
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod alarm {
    use std::cell::Cell;
    use std::io;
    use std::time::Instant;

    use tokio::sync::Notify;

    /// The runtime's timer, a millisecond coarse.
    pub(super) struct Alarm {
        moment: Cell<Option<Instant>>,
        changed: Notify,
    }

    impl Alarm {
        pub(super) fn new() -> io::Result<Self> {
            Ok(Self {
                moment: Cell::new(None),
                changed: Notify::new(),
            })
        }

        pub(super) fn set(&self, moment: Instant) -> io::Result<()> {
            self.moment.set(Some(moment));
            self.changed.notify_one();
            Ok(())
        }

        pub(super) async fn rung(&self) -> io::Result<()> {
            loop {
                match self.moment.get() {
                    None => self.changed.notified().await,
                    Some(moment) => tokio::select! {
                        biased;
                        () = self.changed.notified() => {}
                        () = tokio::time::sleep_until(moment.into()) => {
                            self.moment.set(None);
                            return Ok(());
                        }
                    },
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn within<T>(test: impl AsyncFn(&Timers) -> T) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let timers = Timers::new().unwrap();
            tokio::select! {
                biased;
                done = test(&timers) => done,
                failed = timers.run() => panic!("{failed:?}"),
            }
        })
    }

    #[test]
    fn sleepers_wake_in_the_order_of_their_moments_and_not_before_them() {
        let order = within(async |timers| {
            let start = Instant::now();
            let order = RefCell::new(Vec::new());
            let sleep = async |ms: u64| {
                timers.at(start + Duration::from_millis(ms)).await;
                assert!(start.elapsed() >= Duration::from_millis(ms));
                order.borrow_mut().push(ms);
            };
            tokio::join!(sleep(30), sleep(5), sleep(17), sleep(0));
            order.into_inner()
        });
        assert_eq!(order, [0, 5, 17, 30]);
    }

    #[test]
    fn one_whose_moment_is_earlier_than_those_that_wait_already_is_woken_first() {
        within(async |timers| {
            let start = Instant::now();
            tokio::select! {
                biased;
                () = timers.at(start + Duration::from_secs(3_600)) => panic!("an hour passed"),
                () = timers.at(start + Duration::from_millis(5)) => {}
            }
        });
    }

    #[test]
    fn one_that_is_given_up_takes_no_other_with_it() {
        within(async |timers| {
            let start = Instant::now();
            let late = timers.at(start + Duration::from_secs(3_600));
            let given_up = tokio::time::timeout(Duration::ZERO, late).await;
            assert!(given_up.is_err());
            assert!(timers.inner.waiting.borrow().by_moment.is_empty());
            timers.at(start + Duration::from_millis(6)).await;
            assert!(start.elapsed() >= Duration::from_millis(6));
        });
    }
}
