use proptest::prelude::*;

use super::*;
use crate::clock::Clock;
use crate::prop::cases;

const MOST: Duration = Duration::from_secs(2 * 60 * 60);
const LONG: Mode = Mode::LongJobs(Duration::from_secs(60));

const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn runs(longest: Duration) -> Seen {
    Seen {
        running: 1,
        longest,
        draining: false,
    }
}

const IDLES: Seen = Seen {
    running: 0,
    longest: Duration::ZERO,
    draining: false,
};

const DRAINS: Seen = Seen {
    running: 1,
    longest: Duration::ZERO,
    draining: true,
};

/// What ECS does, and what it was asked.
struct World {
    machine: Machine,
    start: Instant,
    now: Instant,
    /// Until when ECS protects the task.
    until: Option<Instant>,
    asked: Vec<(Duration, Ask)>,
    /// How the next calls are answered; done once this is empty.
    answers: Vec<Answered>,
}

impl World {
    fn new(mode: Mode, most: Duration) -> Self {
        let start = Clock::system().now();
        Self {
            machine: Machine::new(mode, most),
            start,
            now: start,
            until: None,
            asked: Vec::new(),
            answers: Vec::new(),
        }
    }

    fn at(&self) -> Duration {
        self.now - self.start
    }

    fn is_protected(&self) -> bool {
        self.until.is_some_and(|until| until > self.now)
    }

    /// Looks, and calls if it is to; `took` is how long a call takes, and `lost` whether what is unknown was not done.
    fn look(&mut self, seen: Seen, took: Duration, lost: bool) {
        let Some(ask) = self.machine.look(self.now, seen) else {
            return;
        };
        self.asked.push((self.at(), ask));
        let answered = if self.answers.is_empty() {
            Answered::Done
        } else {
            self.answers.remove(0)
        };
        let asked = self.now;
        self.now += took;
        if answered == Answered::Done || (answered == Answered::Unknown && !lost) {
            self.until = match ask {
                Ask::Protect { minutes } => Some(asked + secs(60 * minutes)),
                Ask::Release => None,
            };
        }
        self.machine.answered(asked, self.now, ask, answered);
    }

    /// Lets so much time pass with the workers as `seen` says at each moment since then.
    fn pass(&mut self, time: Duration, seen: impl Fn(Duration) -> Seen) {
        let (from, end) = (self.now, self.now + time);
        while self.now < end {
            let now = seen(self.now - from);
            self.look(now, Duration::ZERO, false);
            self.now = self.machine.look_at(self.now, now);
        }
    }

    fn asks(&self) -> Vec<(u64, Ask)> {
        self.asked.iter().map(|&(at, ask)| (at.as_secs(), ask)).collect()
    }
}

fn protect(minutes: u64) -> Ask {
    Ask::Protect { minutes }
}

#[test]
fn a_busy_worker_is_protected_after_a_moment_renewed_at_half_and_released_when_it_was_idle_for_a_while() {
    let mut world = World::new(Mode::Auto, MOST);
    world.pass(secs(5), |_| IDLES);
    assert_eq!(world.asks(), []);
    world.pass(secs(11 * 60), runs);
    world.pass(secs(60), |_| IDLES);
    let wanted = [
        (6, protect(10)),
        (5 * 60 + 6, protect(10)),
        (10 * 60 + 6, protect(10)),
        (5 + 11 * 60 + 15, Ask::Release),
    ];
    assert_eq!(world.asks(), wanted);
    assert!(!world.is_protected());
}

#[test]
fn what_is_over_within_a_moment_is_not_protected_and_a_short_rest_releases_nothing() {
    let mut world = World::new(Mode::Auto, MOST);
    let now_and_then = |at: Duration| {
        if at.as_millis() % 1_000 < 500 { runs(at) } else { IDLES }
    };
    world.pass(secs(600), now_and_then);
    assert_eq!(world.asks(), []);
    let mostly = |at: Duration| if at.as_secs() % 20 < 14 { IDLES } else { runs(at) };
    world.pass(secs(120), mostly);
    assert_eq!(world.asks(), [(615, protect(10))]);
}

#[test]
fn quick_messages_make_no_call_where_only_long_jobs_are_protected() {
    let mut world = World::new(LONG, MOST);
    world.pass(secs(3_600), |at| {
        runs(Duration::from_millis(at.as_millis() as u64 % 59_000))
    });
    assert_eq!(world.asks(), []);
    world.pass(secs(70), runs);
    assert_eq!(world.asks(), [(3_660, protect(10))]);
    world.pass(secs(30), |_| runs(secs(1)));
    assert_eq!(world.asks()[1..], [(3_670 + 15, Ask::Release)]);
}

#[test]
fn nothing_is_asked_where_it_is_off() {
    let mut world = World::new(Mode::Off, MOST);
    world.pass(secs(600), runs);
    world.look(DRAINS, Duration::ZERO, false);
    assert_eq!(world.asks(), []);
}

#[test]
fn protection_ends_at_its_longest_and_comes_back_after_a_rest_though_the_worker_is_never_idle() {
    let mut world = World::new(Mode::Auto, secs(25 * 60));
    world.pass(secs(30 * 60), runs);
    // The last expiry runs out after 25 minutes.
    let back = 1 + 25 * 60 + REST.as_secs();
    let wanted = [
        (1, protect(10)),
        (301, protect(10)),
        (601, protect(10)),
        (901, protect(10)),
        (back, protect(10)),
    ];
    assert_eq!(world.asks(), wanted);

    // Jobs that overlap are one stretch, and the next one comes too.
    let mut world = World::new(LONG, secs(10 * 60));
    world.pass(secs(3_600), |at| runs(secs(60 + at.as_secs() % 600)));
    let every = 10 * 60 + REST.as_secs();
    let wanted: Vec<_> = (0..5).map(|n| (n * every, protect(10))).collect();
    assert_eq!(world.asks(), wanted);
}

#[test]
fn no_idle_moment_shortens_the_rest() {
    let mut world = World::new(Mode::Auto, secs(60));
    world.pass(secs(62), runs);
    assert_eq!(world.asks(), [(1, protect(1))]);
    assert!(world.machine.is_spent());
    world.pass(secs(30), |_| IDLES);
    world.pass(secs(200), runs);
    assert_eq!(world.asks()[1], (61 + REST.as_secs(), protect(1)));
}

#[test]
fn a_release_that_what_was_given_up_may_overtake_is_asked_for_once_more() {
    let mut world = World::new(Mode::Auto, MOST);
    let protects = |world: &mut World| {
        world.pass(secs(1), runs);
        assert_eq!(world.machine.look(world.now, runs(secs(1))), Some(protect(10)));
        let asked = world.now;
        world.now += secs(2);
        world.machine.gave_up(asked, world.now, protect(10), asked + secs(5));
    };
    protects(&mut world);
    world.pass(secs(100), |_| DRAINS);
    assert_eq!(world.asks(), [(3, Ask::Release), (6, Ask::Release)]);
    assert_eq!(world.machine.farewell(world.now), None);

    // The workers' end does not wait until then.
    let mut world = World::new(Mode::Auto, MOST);
    protects(&mut world);
    world.look(DRAINS, Duration::ZERO, false);
    assert!(!world.machine.is_protected(world.now));
    assert_eq!(world.machine.farewell(world.now), Some(Ask::Release));
}

#[test]
fn a_drain_releases_at_once_whatever_failed_before_and_protects_no_more() {
    let mut world = World::new(Mode::Auto, MOST);
    world.answers = vec![Answered::Unknown];
    world.pass(secs(4), runs);
    assert_eq!(world.asks(), [(1, protect(10))]);
    world.pass(secs(60), |_| DRAINS);
    assert_eq!(world.asks()[1..], [(4, Ask::Release)]);
    assert_eq!(world.machine.farewell(world.now), None);
}

#[test]
fn what_fails_is_tried_again_with_pauses_that_grow() {
    let mut world = World::new(Mode::Auto, MOST);
    world.answers = vec![Answered::Refused; 6];
    world.pass(secs(300), runs);
    let at: Vec<u64> = world.asks().into_iter().map(|(at, _)| at).collect();
    assert_eq!(at, [1, 11, 31, 71, 131, 191, 251]);
    assert!(world.machine.is_protected(world.now));
}

#[test]
fn a_renewal_that_fails_leaves_the_rest_of_the_expiry_and_is_tried_until_then() {
    let mut world = World::new(Mode::Auto, MOST);
    world.pass(secs(200), runs);
    world.answers = vec![Answered::Refused; 4];
    world.pass(secs(400), runs);
    let at: Vec<u64> = world.asks().into_iter().map(|(at, _)| at).collect();
    assert_eq!(at, [1, 301, 311, 331, 371, 431]);
    assert!(world.is_protected());
}

#[test]
fn an_expiry_that_could_not_be_renewed_in_time_begins_no_new_stretch() {
    let mut world = World::new(Mode::Auto, secs(12 * 60));
    world.pass(secs(2), runs);
    world.answers = vec![Answered::Refused; 7];
    world.pass(secs(13 * 60), runs);
    let asks = world.asks();
    assert_eq!(asks[0], (1, protect(10)));
    // Nothing was renewed until ten minutes were over: there is a minute left of twelve.
    assert_eq!(asks.last(), Some(&(611, protect(1))), "{asks:?}");
    assert!(world.machine.is_spent());
}

#[test]
fn what_was_answered_late_is_released_when_its_time_is_over() {
    let mut world = World::new(Mode::Auto, secs(60));
    world.pass(secs(1), runs);
    world.look(runs(secs(1)), secs(4), false);
    assert_eq!(world.asks(), [(1, protect(1))]);
    // By the answer it may last until 65 s.
    world.pass(secs(60), runs);
    assert_eq!(world.asks()[1..], [(61, Ask::Release)]);
    assert!(world.machine.is_spent());
}

#[test]
fn a_job_is_protected_when_it_has_become_long_and_not_at_some_later_look() {
    let mut world = World::new(Mode::LongJobs(secs(7)), MOST);
    world.pass(secs(20), runs);
    assert_eq!(world.asks(), [(7, protect(10))]);
}

#[test]
fn what_may_have_been_done_is_released_like_what_was() {
    let mut world = World::new(Mode::Auto, MOST);
    world.answers = vec![Answered::Unknown];
    world.pass(secs(2), runs);
    assert!(!world.machine.is_protected(world.now));
    world.pass(secs(60), |_| IDLES);
    assert_eq!(world.asks(), [(1, protect(10)), (17, Ask::Release)]);
}

/// A stretch of time in which the workers do the same.
#[derive(Clone, Debug)]
struct Stretch {
    time: Duration,
    busy: bool,
}

fn stretches() -> impl Strategy<Value = Vec<Stretch>> {
    let time = prop_oneof![4 => 0_u64..3_000, 3 => 3_000_u64..30_000, 2 => 30_000_u64..1_200_000];
    let stretch = (time, any::<bool>()).prop_map(|(ms, busy)| Stretch {
        time: Duration::from_millis(ms),
        busy,
    });
    prop::collection::vec(stretch, 1..40)
}

fn modes() -> impl Strategy<Value = Mode> {
    prop_oneof![
        Just(Mode::Auto),
        (0_u64..120).prop_map(|after| Mode::LongJobs(secs(after)))
    ]
}

fn answers() -> impl Strategy<Value = Vec<Answered>> {
    let answer = prop_oneof![
        3 => Just(Answered::Done),
        2 => Just(Answered::Refused),
        2 => Just(Answered::Unknown)
    ];
    prop::collection::vec(answer, 0..60)
}

/// The history of a worker that does these in turn; `each` is shown every look, with how long protection was needed by then.
fn history(
    world: &mut World,
    stretches: &[Stretch],
    took: Duration,
    lost: bool,
    each: impl Fn(&World, Option<Duration>),
) {
    let mode = world.machine.mode;
    let mut needed: Option<Instant> = None;
    for stretch in stretches {
        let (from, end) = (world.now, world.now + stretch.time);
        while world.now < end {
            let seen = if stretch.busy { runs(world.now - from) } else { IDLES };
            let is_needed = match mode {
                Mode::Off => false,
                Mode::Auto => stretch.busy,
                Mode::LongJobs(after) => stretch.busy && seen.longest >= after,
            };
            needed = is_needed.then(|| needed.unwrap_or(world.now));
            world.look(seen, took, lost);
            each(world, needed.map(|since| world.now - since));
            world.now = world.machine.look_at(world.now, seen);
        }
    }
}

proptest! {
    #![proptest_config(cases(256))]

    #[test]
    fn whatever_runs_is_protected_but_for_a_moment_until_it_was_for_as_long_as_it_may(
        mode in modes(), stretches in stretches(), most in 20_u64..200,
    ) {
        let mut world = World::new(mode, secs(60 * most));
        let spent = std::cell::Cell::new(None::<Instant>);
        history(&mut world, &stretches, Duration::ZERO, false, |world, needed| {
            let since = world.machine.is_spent().then(|| spent.get().unwrap_or(world.now));
            spent.set(since);
            assert!(since.is_none_or(|since| world.now < since + REST), "{:?} at {:?}", world.asked, world.at());
            let due = needed.is_some_and(|needed| needed > MOMENT);
            assert!(
                world.is_protected() || !due || world.machine.is_spent(),
                "unprotected at {:?}: {:?}", world.at(), world.asked
            );
        });
    }

    #[test]
    fn a_task_is_never_protected_for_longer_than_it_may_nor_long_when_nothing_runs(
        mode in modes(), stretches in stretches(), answers in answers(), most in 1_u64..60, lost in any::<bool>(),
    ) {
        let mut world = World::new(mode, secs(60 * most));
        world.answers = answers;
        let since = std::cell::Cell::new(None::<Instant>);
        history(&mut world, &stretches, Duration::ZERO, lost, |world, _| {
            if !world.is_protected() {
                since.set(None);
                return;
            }
            let began = since.get().unwrap_or(world.now);
            since.set(Some(began));
            // ECS ends it by itself then; no renewal reaches further.
            let until = world.until.expect("it is protected");
            assert!(until - began <= secs(60 * most), "{:?} of {most} min: {:?}", until - began, world.asked);
        });
        // The last expiry is all that can be left.
        world.answers.clear();
        world.pass(secs(16) + PAUSE_MOST, |_| IDLES);
        prop_assert!(!world.is_protected());
    }

    #[test]
    fn no_minute_has_more_than_ten_calls(
        mode in modes(), stretches in stretches(), answers in answers(), most in 1_u64..60, took in 0_u64..5_000, lost in any::<bool>(),
    ) {
        let mut world = World::new(mode, secs(60 * most));
        world.answers = answers;
        history(&mut world, &stretches, Duration::from_millis(took), lost, |_, _| {});
        world.pass(secs(30), |_| DRAINS);
        for (n, &(at, _)) in world.asked.iter().enumerate() {
            let within = world.asked[n..].iter().take_while(|(later, _)| *later - at < secs(60)).count();
            prop_assert!(within <= 10, "{within} calls in the minute from {at:?}: {:?}", world.asked);
        }
    }
}
