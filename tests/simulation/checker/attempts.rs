//! Attempts as the judge counts them itself, from how handlers' runs ended and what their worker's breaker showed.

use redrive::clock::Instant;
use redrive::inbox::{Change, Record, Status, Write};

use crate::plan::InboxMode;

use super::host::Seen;
use super::{Checker, Who, label};

/// How a run of a handler ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    Done,
    Failed,
    /// It failed for want of its checkpoint: no attempt where the inbox was away, one where it refused.
    Unsaved,
    Rejected,
    Panicked,
    /// It was dropped: stopped by its worker, or by its time limit.
    Stopped,
}

/// Whether a run is to be counted as an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Counts {
    Yes,
    /// It ended in no failure.
    No,
    /// It failed in an outage.
    NoOutage,
    /// Which of several that ended together opened or closed the breaker is not to be seen.
    Either,
}

/// The last run under a claim.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LastRun {
    pub(super) ended: Ended,
    pub(super) counts: Counts,
}

/// A run that is over and whose worker has not turned since.
#[derive(Clone, Debug)]
pub(crate) struct Over {
    pub(super) claim: String,
    pub(super) ended: Ended,
    pub(super) timed_out: bool,
    /// It began as the probe of a half-open breaker.
    pub(super) was_probe: bool,
}

impl Checker {
    /// A run has ended: it is judged when its worker's loop has turned.
    pub(crate) fn is_over(&mut self, number: u64, run: &super::Run, ended: Ended) {
        let limit = self.hosts.get(&run.who).and_then(|host| host.handler_timeout);
        let took = self.now().saturating_duration_since(run.began);
        let over = Over {
            claim: run.claim.clone(),
            ended,
            timed_out: ended == Ended::Stopped && limit.is_some_and(|limit| took >= limit),
            was_probe: run.was_probe,
        };
        self.over.insert(number, over);
        self.host(&run.who).ended.push(number);
    }

    /// Its loop has turned, and its breaker went from `was` to `is` meanwhile.
    pub(crate) fn judge_ends(&mut self, who: &Who, ended: &[u64], was: Seen, is: Seen) {
        let Some(host) = self.hosts.get(who) else { return };
        let (batches, watches) = (host.batches, host.watches);
        let single = ended.len() == 1;
        for number in ended {
            let Some(over) = self.over.remove(number) else { continue };
            let failed = matches!(over.ended, Ended::Failed | Ended::Panicked) || over.timed_out;
            let counts = match (was.is_shut(), is.is_shut()) {
                // A batch that fails as a whole fails what was done in it, too.
                _ if batches => Counts::Either,
                _ if over.ended == Ended::Unsaved => Counts::Either,
                _ if over.ended == Ended::Rejected => Counts::Yes,
                _ if !failed => Counts::No,
                _ if watches || over.was_probe => Counts::Either,
                (false, false) => Counts::Yes,
                (true, true) | (false, true) if single => Counts::NoOutage,
                _ => Counts::Either,
            };
            if let Some(claim) = self.claims.get_mut(&over.claim) {
                claim.last_run = Some(LastRun {
                    ended: over.ended,
                    counts,
                });
            }
        }
    }

    /// A write under a claim has changed its record.
    pub(crate) fn check_attempts(&mut self, before: &Record, after: &Record, writes: &[Write]) {
        let Some(claim) = self.claims.get(&after.claim_id).cloned() else {
            return;
        };
        let name = label(claim.message);
        let counted = after.attempts.checked_sub(before.attempts);
        let last = claim.last_run;
        if self.modes.attempts_jump {
            return;
        }
        // A shadow runs what has spent its attempts.
        let too_many = after.attempts > self.max_attempts && self.modes.inbox == InboxMode::Used;
        if too_many || counted.is_none_or(|counted| counted > 1) {
            let (was, is) = (before.attempts, after.attempts);
            return self.broken("inv09", format!("attempts of {name} go from {was} to {is}"));
        }
        let is_counted = counted == Some(1);
        // Of a batch that panicked, some may not have begun.
        let unclear = self.hosts.get(&claim.who).is_some_and(|host| host.batches);
        match last.map(|last| last.counts) {
            _ if unclear => {}
            Some(Counts::NoOutage) if is_counted => {
                self.broken("inv04", format!("a failure of {name} in an outage counts an attempt"));
            }
            None | Some(Counts::No) if is_counted => {
                let ended = last.map(|last| last.ended);
                self.broken(
                    "inv09",
                    format!("{name} counts an attempt for a run that ended as {ended:?}"),
                );
            }
            // A lost lease counts nothing, whatever came of the run.
            Some(Counts::Yes) if !is_counted && before.status == Status::Processing && !claim.given_up => {
                let gives_back = writes.iter().any(|write| {
                    write.claim.claim_id == after.claim_id
                        && matches!(write.change, Change::Release { .. } | Change::Reject(_))
                });
                if gives_back && after.status != Status::Processing {
                    self.broken("inv09", format!("{name} counts no attempt for a run that failed"));
                }
            }
            _ => {}
        }
    }

    /// When a run began, and whether as a probe.
    pub(crate) fn beginning(&self, who: &Who) -> (Instant, bool) {
        let host = self.hosts.get(who);
        (self.now(), host.is_some_and(|host| host.breaker.is_shut()))
    }
}
