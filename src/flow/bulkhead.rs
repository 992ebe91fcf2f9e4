use std::fmt;
use std::sync::{Arc, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::{FlowError, require};
use crate::sync::{Mutex, MutexGuard};

const LARGEST: usize = 1_000_000;

/// A named limit on how many things run at once, so that what is slow fills its own compartment and no other.
///
/// Clones share the limit. A synchronous caller asks with [`try_enter`](Self::try_enter), an asynchronous one waits its
/// turn with [`enter`](Self::enter); both get a permit that gives the slot back when it is dropped.
///
/// ```
/// use redrive::flow::Bulkhead;
///
/// let gateway = Bulkhead::new("gateway", 1)?;
/// let permit = gateway.try_enter();
/// assert!(permit.is_some());
/// assert!(gateway.try_enter().is_none());
/// drop(permit);
/// assert!(gateway.try_enter().is_some());
/// # Ok::<(), redrive::flow::FlowError>(())
/// ```
#[derive(Clone)]
pub struct Bulkhead {
    inner: Arc<Inner>,
}

struct Inner {
    name: Box<str>,
    semaphore: Arc<Semaphore>,
    sizes: Mutex<Sizes>,
}

struct Sizes {
    limit: usize,
    in_use: usize,
    /// Slots that a smaller limit has taken away while they were in use: they are not given back when their permits end.
    owed: usize,
}

impl Bulkhead {
    /// At most `limit` at once, from 1 to 1,000,000.
    ///
    /// # Errors
    ///
    /// [`FlowError::OutOfRange`] if `limit` is outside that range.
    pub fn new(name: impl Into<String>, limit: usize) -> Result<Self, FlowError> {
        require_size(limit)?;
        Ok(Self {
            inner: Arc::new(Inner {
                name: name.into().into_boxed_str(),
                semaphore: Arc::new(Semaphore::new(limit)),
                sizes: Mutex::new(Sizes {
                    limit,
                    in_use: 0,
                    owed: 0,
                }),
            }),
        })
    }

    /// A slot, if one is free and nobody has been waiting for it.
    #[must_use]
    pub fn try_enter(&self) -> Option<BulkheadPermit> {
        let mut sizes = self.inner.lock();
        self.inner.pay(&mut sizes);
        let permit = self.inner.semaphore.clone().try_acquire_owned().ok()?;
        sizes.in_use += 1;
        Some(self.permit(permit))
    }

    /// Waits for a slot; first come, first served. Dropping the future gives up the place in the queue.
    pub async fn enter(&self) -> BulkheadPermit {
        loop {
            // The semaphore is never closed.
            let Ok(permit) = self.inner.semaphore.clone().acquire_owned().await else {
                std::future::pending::<()>().await;
                continue;
            };
            let mut sizes = self.inner.lock();
            if sizes.owed > 0 {
                sizes.owed -= 1;
                permit.forget();
                continue;
            }
            sizes.in_use += 1;
            return self.permit(permit);
        }
    }

    /// Waits until a slot is free, without taking it: for who asks with [`try_enter`](Self::try_enter).
    pub async fn ready(&self) {
        drop(self.enter().await);
    }

    /// What the limit is for.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// How many permits are out. More than [`limit`](Self::limit) only after the limit was lowered under them.
    #[must_use]
    pub fn in_use(&self) -> usize {
        self.inner.lock().in_use
    }

    /// How many may be in at once.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.inner.lock().limit
    }

    /// Changes the limit, from 1 to 1,000,000. Nobody inside is thrown out: under a smaller limit nobody enters until
    /// enough have left.
    ///
    /// # Errors
    ///
    /// [`FlowError::OutOfRange`] if `limit` is outside that range; the old limit stays.
    pub fn resize(&self, limit: usize) -> Result<(), FlowError> {
        require_size(limit)?;
        let mut sizes = self.inner.lock();
        if limit < sizes.limit {
            sizes.owed += sizes.limit - limit;
            self.inner.pay(&mut sizes);
        } else {
            let more = limit - sizes.limit;
            let forgiven = more.min(sizes.owed);
            sizes.owed -= forgiven;
            self.inner.semaphore.add_permits(more - forgiven);
        }
        sizes.limit = limit;
        Ok(())
    }

    fn permit(&self, permit: OwnedSemaphorePermit) -> BulkheadPermit {
        BulkheadPermit {
            inner: self.inner.clone(),
            permit: Some(permit),
        }
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, Sizes> {
        self.sizes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes away free slots that are owed: those of waiters who gave up come back to the semaphore by themselves.
    fn pay(&self, sizes: &mut Sizes) {
        if sizes.owed > 0 {
            sizes.owed -= self.semaphore.forget_permits(sizes.owed);
        }
    }
}

impl fmt::Debug for Bulkhead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sizes = self.inner.lock();
        f.debug_struct("Bulkhead")
            .field("name", &self.inner.name)
            .field("limit", &sizes.limit)
            .field("in_use", &sizes.in_use)
            .finish()
    }
}

/// A slot of a [`Bulkhead`]; dropping it gives the slot back.
#[must_use = "the slot is given back as soon as the permit is dropped"]
pub struct BulkheadPermit {
    inner: Arc<Inner>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Drop for BulkheadPermit {
    fn drop(&mut self) {
        let mut sizes = self.inner.lock();
        sizes.in_use -= 1;
        if let Some(permit) = self.permit.take()
            && sizes.owed > 0
        {
            sizes.owed -= 1;
            permit.forget();
        }
    }
}

impl fmt::Debug for BulkheadPermit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("BulkheadPermit").field(&self.inner.name).finish()
    }
}

fn require_size(limit: usize) -> Result<(), FlowError> {
    require(
        (1..=LARGEST).contains(&limit),
        "bulkhead.limit",
        limit,
        "a number from 1 to 1000000",
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn inv05_no_more_enter_than_the_limit_and_a_dropped_permit_gives_its_slot_back() {
        let bulkhead = Bulkhead::new("b", 2).unwrap();
        let (first, second) = (bulkhead.try_enter(), bulkhead.clone().try_enter());
        assert!(first.is_some() && second.is_some());
        assert!(bulkhead.try_enter().is_none());
        assert_eq!(bulkhead.in_use(), 2);
        drop(first);
        assert!(bulkhead.try_enter().is_some());
        assert_eq!(bulkhead.in_use(), 1);
    }

    #[test]
    fn a_lowered_limit_holds_once_enough_have_left() {
        let bulkhead = Bulkhead::new("b", 4).unwrap();
        let mut inside: Vec<_> = (0..4).map(|_| bulkhead.try_enter().unwrap()).collect();
        bulkhead.resize(2).unwrap();
        assert_eq!((bulkhead.limit(), bulkhead.in_use()), (2, 4));
        inside.truncate(2);
        assert!(bulkhead.try_enter().is_none());
        inside.truncate(1);
        assert!(bulkhead.try_enter().is_some());
        bulkhead.resize(5).unwrap();
        inside.extend(std::iter::from_fn(|| bulkhead.try_enter()));
        assert_eq!(inside.len(), 5);
    }

    #[test]
    fn absurd_limits_are_refused_and_change_nothing() {
        assert!(Bulkhead::new("b", 0).is_err());
        let bulkhead = Bulkhead::new("b", 3).unwrap();
        for limit in [0, LARGEST + 1] {
            let error = bulkhead.resize(limit).unwrap_err().to_string();
            assert!(error.starts_with("bulkhead.limit is "), "{error}");
        }
        assert_eq!(bulkhead.limit(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn waiters_enter_in_turn_and_one_who_gives_up_loses_nothing_for_the_others() {
        let bulkhead = Bulkhead::new("b", 1).unwrap();
        let held = bulkhead.enter().await;
        let gave_up = tokio::time::timeout(Duration::from_secs(1), bulkhead.enter()).await;
        assert!(gave_up.is_err());
        let (bulkhead, mut order) = (&bulkhead, Vec::new());
        let mut waiting: futures::stream::FuturesOrdered<_> = (0..3)
            .map(|n| async move {
                let _permit = bulkhead.enter().await;
                n
            })
            .collect();
        assert!(futures::poll!(futures::StreamExt::next(&mut waiting)).is_pending());
        drop(held);
        while let Some(n) = futures::StreamExt::next(&mut waiting).await {
            order.push(n);
        }
        assert_eq!(order, [0, 1, 2]);
        assert_eq!(bulkhead.in_use(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_waiter_who_gives_up_after_the_limit_was_lowered_frees_no_slot() {
        let bulkhead = Bulkhead::new("b", 2).unwrap();
        let (first, second) = (bulkhead.enter().await, bulkhead.enter().await);
        let mut waiter = Box::pin(bulkhead.enter());
        assert!(futures::poll!(&mut waiter).is_pending());
        drop(first);
        bulkhead.resize(1).unwrap();
        drop(waiter);
        assert!(bulkhead.try_enter().is_none());
        drop(second);
        bulkhead.ready().await;
        let alone = bulkhead.try_enter();
        assert!(alone.is_some() && bulkhead.try_enter().is_none());
    }

    #[derive(Clone, Debug)]
    enum Step {
        Enter,
        Leave(usize),
        Resize(usize),
        Queue,
        GiveUp(usize),
        Poll,
    }

    fn any_step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => Just(Step::Enter),
            3 => any::<usize>().prop_map(Step::Leave),
            1 => (1usize..6).prop_map(Step::Resize),
            1 => Just(Step::Queue),
            1 => any::<usize>().prop_map(Step::GiveUp),
            2 => Just(Step::Poll),
        ]
    }

    proptest! {
        #[test]
        fn inv05_nobody_enters_a_full_bulkhead_whatever_happens(steps in proptest::collection::vec(any_step(), 1..80)) {
            let bulkhead = Bulkhead::new("b", 3).unwrap();
            let (mut inside, mut queue) = (Vec::new(), Vec::new());
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            for step in steps {
                let full = inside.len() >= bulkhead.limit();
                match step {
                    Step::Enter => {
                        let permit = bulkhead.try_enter();
                        prop_assert!(!(full && permit.is_some()), "entered a full bulkhead");
                        prop_assert!(full || permit.is_some() || !queue.is_empty(), "refused with room and nobody waiting");
                        inside.extend(permit);
                    }
                    Step::Leave(n) if !inside.is_empty() => drop(inside.swap_remove(n % inside.len())),
                    Step::Resize(n) => bulkhead.resize(n).unwrap(),
                    Step::Queue => {
                        let bulkhead = bulkhead.clone();
                        queue.push(Box::pin(async move { bulkhead.enter().await }));
                    }
                    Step::GiveUp(n) if !queue.is_empty() => drop(queue.swap_remove(n % queue.len())),
                    Step::Poll => {
                        let mut still = Vec::new();
                        for mut waiter in queue.drain(..) {
                            let full = inside.len() >= bulkhead.limit();
                            match Future::poll(waiter.as_mut(), &mut context) {
                                std::task::Poll::Ready(permit) => {
                                    prop_assert!(!full, "a waiter entered a full bulkhead");
                                    inside.push(permit);
                                }
                                std::task::Poll::Pending => still.push(waiter),
                            }
                        }
                        queue = still;
                    }
                    _ => {}
                }
                prop_assert_eq!(bulkhead.in_use(), inside.len());
            }
            queue.clear();
            inside.clear();
            let limit = bulkhead.limit();
            inside.extend(std::iter::from_fn(|| bulkhead.try_enter()));
            prop_assert_eq!(inside.len(), limit);
        }
    }
}
