//! What the journal must find, and must not: its judgement on histories that are made up.

use libtest_mimic::Trial;

use super::journal::{Faults, Journal};
use super::program::THREADS;

/// A line that a worker says, or what happens to it.
#[derive(Clone, Copy)]
enum Seen {
    Says(usize, &'static str),
    Killed(usize),
    Stopped(usize),
}

use Seen::{Killed, Says, Stopped};

fn faults(seen: &[Seen]) -> Faults {
    let journal = Journal::new();
    for seen in seen {
        match *seen {
            Says(worker, line) => journal.line(worker, line),
            Killed(worker) => journal.killed(worker),
            Stopped(worker) => journal.stopped(worker),
        }
    }
    journal.faults()
}

/// Overlaps, tokens, repeats, late starts, and reruns for want of a record.
fn counts(seen: &[Seen]) -> [usize; 5] {
    let found = faults(seen);
    let lists = [&found.overlaps, &found.tokens, &found.repeats].map(Vec::len);
    [lists[0], lists[1], lists[2], found.late, found.unrecorded]
}

/// A run of the key `k` by worker 0 that made the effect and came to this, from 10 ms to 20 ms, under the token 5.
fn made(fate: &'static str) -> Vec<Seen> {
    vec![
        Says(0, "start k 5 0 m 10"),
        Says(0, "effect k 5 made"),
        Says(0, "end k 5 done 20"),
        Says(0, fate),
    ]
}

const AGAIN: Seen = Says(1, "start k 6 0 m 30");

fn check(name: &str, test: impl Fn() + Send + 'static) -> Trial {
    Trial::test(name, move || {
        test();
        Ok(())
    })
}

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        check("the_journal_finds_two_runs_of_a_key_at_once", || {
            assert_eq!(counts(&[Says(0, "start k 5 0 m 10"), AGAIN]), [1, 0, 0, 0, 0]);
            assert_eq!(counts(&[Says(0, "start k 5 0 m 10"), Killed(0), AGAIN]), [0; 5]);
            // Heard later, said earlier.
            let late = [Says(0, "start k 5 0 m 10"), AGAIN, Says(0, "end k 5 failed 29")];
            assert_eq!(counts(&late), [0; 5]);
            let at_once = [Says(0, "start k 5 0 m 10"), AGAIN, Says(0, "end k 5 failed 31")];
            assert_eq!(counts(&at_once), [1, 0, 0, 0, 0]);
        }),
        check("the_journal_finds_what_is_run_again_though_it_was_recorded", || {
            let after = |fate, then: &[Seen]| counts(&[&made(fate)[..], then].concat());
            assert_eq!(after("fate k completed m", &[AGAIN]), [0, 0, 1, 0, 0]);
            assert_eq!(after("fate k released m", &[AGAIN]), [0, 0, 1, 0, 0]);
            assert_eq!(after("fate k lost m", &[AGAIN]), [0, 0, 0, 0, 1]);
            // What is said of another delivery of the key says nothing of the run.
            assert_eq!(after("fate k lost another", &[AGAIN]), [0, 0, 1, 0, 0]);
            assert_eq!(after("fate k2 lost m", &[Killed(0), AGAIN]), [0; 5]);
            // The process that did it must remember that, another one of the same worker cannot.
            let same = Says(0, "start k 6 0 m 30");
            assert_eq!(after("fate k lost m", &[same]), [0, 0, 1, 0, 0]);
            assert_eq!(after("fate k lost m", &[Killed(0), same]), [0, 0, 0, 0, 1]);
        }),
        check("the_journal_finds_tokens_that_do_not_grow", || {
            let first = [Says(0, "start k 5 0 m 10"), Says(0, "end k 5 failed 20")];
            let then = |line| counts(&[first[0], first[1], line]);
            assert_eq!(then(Says(1, "start k 6 0 m 30")), [0; 5]);
            assert_eq!(then(Says(1, "start k 5 0 m 30")), [0, 1, 0, 0, 0]);
            assert_eq!(then(Says(1, "start k 4 0 m 30")), [0, 1, 0, 0, 0]);
            // Under one claim, after a failure that was an outage's.
            assert_eq!(then(Says(0, "start k 5 0 m 30")), [0; 5]);
        }),
        check(
            "the_journal_lets_a_stopped_process_begin_one_run_for_each_of_its_threads",
            || {
                let late = |n: usize, stopped: bool, effect: &'static [Seen]| {
                    let mut seen = Vec::new();
                    if stopped {
                        seen.push(Stopped(1));
                    }
                    for at in 0..n {
                        let line = |text: String| -> &'static str { Box::leak(text.into_boxed_str()) };
                        seen.push(Says(0, line(format!("start k{at} 5 0 m 10"))));
                        seen.push(Says(1, line(format!("start k{at} 4 0 m 20"))));
                        seen.extend(effect);
                        seen.push(Says(1, line(format!("end k{at} 4 dropped 21"))));
                    }
                    counts(&seen)
                };
                assert_eq!(late(THREADS, true, &[]), [0, 0, 0, THREADS, 0]);
                assert_eq!(late(THREADS + 1, true, &[])[1..4], [1, 0, THREADS]);
                assert_eq!(late(1, false, &[])[1..4], [1, 0, 0]);
                assert_eq!(late(1, true, &[Says(1, "effect k0 4 made")])[1..4], [1, 0, 0]);
            },
        ),
    ]
}
