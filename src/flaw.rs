//! Bugs on purpose, for this project's own tests: what proves that a test of the guarantees can fail.
//!
//! Without the feature `flaws` no flaw can be active, asking for one is a constant, and the code behind it is not built
//! in. With it, a flaw is active only on the thread that runs inside [`with`].
#![cfg_attr(
    not(feature = "flaws"),
    allow(unreachable_pub, reason = "public only with the feature")
)]

/// A bug that the library could have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Flaw {
    /// A message is deleted before its completion is recorded.
    DeletesBeforeItCompletes,
    /// The inbox takes a completion under any claim.
    CompletesUnfenced,
    /// The inbox reads a record, and some time later writes a claim whatever stands there by then.
    ClaimsByCheckThenAct,
    /// A heartbeat is sent for what is being settled.
    BeatsAfterSettling,
    /// Receives go on while a breaker is open.
    ReceivesWhileOpen,
    /// A drain ends when handlers have ended, whatever is still to be settled.
    LosesSettlesAtDrain,
    /// The inbox renews a lease for whoever asks.
    RenewsForAnybody,
    /// What is given back unrun counts an attempt.
    CountsReleases,
    /// A dead letter is sent although its rejection was not recorded.
    SendsLettersUnfenced,
    /// A replay sends a message under the same deduplication id each time it died.
    ReplaysUnderOneDeduplicationId,
}

#[cfg(feature = "flaws")]
impl Flaw {
    /// Every flaw.
    pub const ALL: [Self; 10] = [
        Self::DeletesBeforeItCompletes,
        Self::CompletesUnfenced,
        Self::ClaimsByCheckThenAct,
        Self::BeatsAfterSettling,
        Self::ReceivesWhileOpen,
        Self::LosesSettlesAtDrain,
        Self::RenewsForAnybody,
        Self::CountsReleases,
        Self::SendsLettersUnfenced,
        Self::ReplaysUnderOneDeduplicationId,
    ];
}

#[cfg(feature = "flaws")]
mod switch {
    use std::cell::Cell;

    use super::Flaw;

    thread_local! {
        static ACTIVE: Cell<Option<Flaw>> = const { Cell::new(None) };
    }

    /// Puts back what was active before, also on a panic.
    struct Back(Option<Flaw>);

    impl Drop for Back {
        fn drop(&mut self) {
            ACTIVE.set(self.0);
        }
    }

    /// Runs `work` with this flaw, or with none, on this thread.
    pub fn with<T>(flaw: Option<Flaw>, work: impl FnOnce() -> T) -> T {
        let _back = Back(ACTIVE.replace(flaw));
        work()
    }

    pub(crate) fn is(flaw: Flaw) -> bool {
        ACTIVE.get() == Some(flaw)
    }
}

#[cfg(feature = "flaws")]
pub(crate) use switch::is;
#[cfg(feature = "flaws")]
pub use switch::with;

/// Whether the library has this flaw here and now.
#[cfg(not(feature = "flaws"))]
pub(crate) const fn is(_: Flaw) -> bool {
    false
}
