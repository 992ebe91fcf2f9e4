//! How one run of a handler goes.

use std::time::Duration;

use redrive::clock::Random;

use super::draw::Draw;
use super::{Character, Plan};

#[derive(Clone, Copy, Debug)]
pub(crate) struct Behaviour {
    pub(crate) before: Duration,
    pub(crate) keeps_checkpoint: bool,
    pub(crate) after: Duration,
    pub(crate) heeds_cancellation: bool,
    pub(crate) ending: Ending,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Ending {
    Done,
    Fails,
    FailsFor(Duration),
    Rejects,
    Panics,
}

impl Behaviour {
    /// The behaviour of the `run`-th run on the message with this number, whoever runs it and whenever. `calm`: the trouble is
    /// over, so nothing takes long but what must.
    pub(crate) fn of(plan: &Plan, number: usize, run: u64, lease: Duration, calm: bool) -> Self {
        let seed = plan.seed ^ (number as u64 + 1).wrapping_mul(0xd134_2543_de82_ef95) ^ run.wrapping_mul(0x2545_f491);
        let draw = Draw(Random::seeded(seed));
        let character = plan
            .message(number)
            .map_or(Character::Healthy, |message| message.character);
        let quick = draw.one_of(&[0, 0, 20, 200, 2_000]);
        let mut before = draw.millis(0..=quick);
        let mut after = draw.millis(0..=quick);
        let fails = || match draw.of(0..=2) {
            // Never whole seconds, so that no delay looks like a heartbeat's.
            0 => Ending::FailsFor(draw.millis(1..=9) + draw.secs(0..=8)),
            _ => Ending::Fails,
        };
        let long = lease.mul_f64(0.5 + draw.0.unit() * 3.0);
        let ending = match character {
            Character::Healthy => Ending::Done,
            Character::Flaky if draw.chance(0.5) => fails(),
            Character::Flaky => Ending::Done,
            Character::Poison => fails(),
            Character::Rejected => Ending::Rejects,
            Character::Panics if draw.chance(0.7) => Ending::Panics,
            Character::Panics => Ending::Done,
            Character::Slow => {
                after += long;
                Ending::Done
            }
            Character::Hangs => {
                after += if draw.chance(0.5) {
                    Duration::from_secs(300)
                } else {
                    long
                };
                Ending::Done
            }
            Character::VeryLong => {
                after = Duration::from_secs(12 * 3600 + 1800);
                Ending::Done
            }
        };
        if calm && character != Character::VeryLong {
            before = before.min(lease / 10);
            after = after.min(lease / 5);
        }
        Self {
            before,
            keeps_checkpoint: draw.chance(0.2),
            after,
            heeds_cancellation: draw.chance(0.5),
            ending,
        }
    }
}
