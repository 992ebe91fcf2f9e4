//! What happens to the workers and the services, and when.

use std::fmt;

use redrive::clock::Random;

/// The moment of a message's life at which its process is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Moment {
    BeforeClaim,
    AfterClaim,
    MidHandler,
    AfterEffect,
    AfterComplete,
    BeforeDelete,
    AfterDelete,
    BeforeDeadLetter,
    AfterDeadLetter,
    /// Whatever it is doing.
    Random,
}

impl Moment {
    pub(crate) const ALL: [Self; 10] = [
        Self::BeforeClaim,
        Self::AfterClaim,
        Self::MidHandler,
        Self::AfterEffect,
        Self::AfterComplete,
        Self::BeforeDelete,
        Self::AfterDelete,
        Self::BeforeDeadLetter,
        Self::AfterDeadLetter,
        Self::Random,
    ];
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::BeforeClaim => "before the claim",
            Self::AfterClaim => "after the claim",
            Self::MidHandler => "mid-handler",
            Self::AfterEffect => "after the effect",
            Self::AfterComplete => "after complete",
            Self::BeforeDelete => "before the delete",
            Self::AfterDelete => "after the delete",
            Self::BeforeDeadLetter => "before a dead letter",
            Self::AfterDeadLetter => "after a dead letter",
            Self::Random => "at random",
        })
    }
}

/// One thing that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Accident {
    /// SIGKILL of a worker.
    Kill(Moment),
    /// SIGSTOP of a worker for longer than its lease, then SIGCONT.
    Zombie,
    /// DynamoDB Local ends and starts again on its file.
    DynamoDbRestarts,
    /// A worker's proxies go away, with all connections, and come back.
    ProxyRestarts,
    /// SIGSTOP of LocalStack for some seconds.
    SqsStalls,
}

/// As many kills as asked for, at every moment in turn, one of the other accidents to every eight kills, and a zombie to every
/// twenty; in an order by chance.
pub(crate) fn plan(kills: usize, random: &Random) -> Vec<Accident> {
    let mut accidents: Vec<Accident> = (0..kills)
        .map(|n| {
            let at = n % (Moment::ALL.len() + 1);
            Accident::Kill(*Moment::ALL.get(at).unwrap_or(&Moment::Random))
        })
        .collect();
    // A small run leaves out the restart that opens the inbox's breaker, behind which everything waits for half a minute.
    let others = [Accident::ProxyRestarts, Accident::SqsStalls, Accident::DynamoDbRestarts];
    let others = if kills < 20 { &others[..2] } else { &others[..] };
    accidents.extend((0..(kills / 8).max(others.len())).map(|n| others[n % others.len()]));
    for at in (1..accidents.len()).rev() {
        let other = random.below(at as u64 + 1);
        accidents.swap(at, usize::try_from(other).unwrap());
    }
    // A zombie takes long: early enough that it wakes while there is work.
    for n in 0..(kills / 20).max(1) {
        accidents.insert((1 + 20 * n).min(accidents.len()), Accident::Zombie);
    }
    accidents
}
