use std::time::Duration;

use crate::clock::Instant;

const SLOTS: u64 = 10;

/// Sums over a sliding window of time in bounded memory: ten slots, each a tenth of the window. What is older than the
/// window is gone, what is younger than nine tenths of it is there.
#[derive(Clone, Debug)]
pub(super) struct Window<T> {
    slot_nanos: u128,
    origin: Option<Instant>,
    latest: u64,
    slots: Vec<(u64, T)>,
}

impl<T: Default> Window<T> {
    pub(super) fn new(length: Duration) -> Self {
        Self {
            slot_nanos: (length.as_nanos() / u128::from(SLOTS)).max(1),
            origin: None,
            latest: 0,
            slots: (0..SLOTS).map(|index| (index, T::default())).collect(),
        }
    }

    /// The slot that `now` falls in.
    pub(super) fn at(&mut self, now: Instant) -> &mut T {
        self.latest = self.latest.max(self.index(now));
        let place = usize::try_from(self.latest % SLOTS).unwrap_or(0);
        let (index, slot) = &mut self.slots[place];
        if *index != self.latest {
            *index = self.latest;
            *slot = T::default();
        }
        slot
    }

    /// The slots still in the window at `now`.
    pub(super) fn live(&mut self, now: Instant) -> impl Iterator<Item = &T> {
        self.latest = self.latest.max(self.index(now));
        let latest = self.latest;
        self.slots
            .iter()
            .filter(move |(index, _)| index + SLOTS > latest)
            .map(|(_, slot)| slot)
    }

    fn index(&mut self, now: Instant) -> u64 {
        let passed = now.saturating_duration_since(*self.origin.get_or_insert(now));
        u64::try_from(passed.as_nanos() / self.slot_nanos).unwrap_or(u64::MAX - SLOTS)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::clock::Clock;

    proptest! {
        #[test]
        fn it_sums_what_is_younger_than_nine_tenths_and_nothing_older_than_the_window(
            gaps_ms in proptest::collection::vec(0u64..4_000, 1..200),
        ) {
            let mut window: Window<u64> = Window::new(Duration::from_secs(10));
            let (mut now, mut all) = (Clock::system().now(), Vec::new());
            for gap in gaps_ms {
                now += Duration::from_millis(gap);
                *window.at(now) += 1;
                all.push(now);
                let sum: u64 = window.live(now).sum();
                let younger_than = |age| all.iter().filter(|at| now - **at < Duration::from_secs(age)).count() as u64;
                prop_assert!(sum >= younger_than(9) && sum <= younger_than(10));
            }
        }
    }

    #[test]
    fn a_now_that_goes_back_brings_nothing_back() {
        let (mut window, start) = (Window::<u64>::new(Duration::from_secs(10)), Clock::system().now());
        *window.at(start) += 1;
        *window.at(start + Duration::from_secs(60)) += 1;
        *window.at(start) += 1;
        assert_eq!(window.live(start).sum::<u64>(), 2);
    }
}
