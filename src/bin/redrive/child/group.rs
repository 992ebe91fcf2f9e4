//! A command with all its children: a process group of its own, which does not outlive what it was started for.

use std::collections::BTreeSet;
use std::process::ExitStatus;
use std::sync::{Mutex, PoisonError};

/// The groups that run, by their leaders' process ids.
static RUNNING: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

/// Groups that were killed, whose members may still have to be reaped.
static KILLED: Mutex<Vec<u32>> = Mutex::new(Vec::new());

/// A running process group. Dropped, it is killed at once.
#[derive(Debug)]
pub(super) struct Group {
    leader: u32,
}

impl Group {
    /// The group that this process leads.
    pub(super) fn of(leader: u32) -> Self {
        lock().insert(leader);
        Self { leader }
    }

    /// Tells all of it to end.
    pub(super) fn tell_to_end(&self) {
        signal(self.leader, Sign::Terminate);
    }

    /// Kills all of it.
    pub(super) fn kill(&self) {
        signal(self.leader, Sign::Kill);
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
        lock().remove(&self.leader);
        KILLED.lock().unwrap_or_else(PoisonError::into_inner).push(self.leader);
    }
}

/// Reaps what is left of the groups that were killed. Their orphans are ours where nothing else takes them: in a container,
/// where this is process 1. Called before a process is started, so that no group has taken over an id of the list: a group
/// stays in it for as long as it has members that are ours.
pub(super) fn reap() {
    let mut killed = KILLED.lock().unwrap_or_else(PoisonError::into_inner);
    killed.retain(|&leader| has_members_of_ours(leader));
}

/// Kills whatever still runs: for an end without order.
pub(crate) fn kill_all() {
    for &leader in lock().iter() {
        signal(leader, Sign::Kill);
    }
}

fn lock() -> std::sync::MutexGuard<'static, BTreeSet<u32>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Clone, Copy)]
enum Sign {
    Terminate,
    Kill,
}

#[cfg(unix)]
fn signal(leader: u32, sign: Sign) {
    use rustix::process::{Pid, Signal, kill_process_group};
    let Some(group) = i32::try_from(leader).ok().and_then(Pid::from_raw) else {
        return;
    };
    let signal = match sign {
        Sign::Terminate => Signal::TERM,
        Sign::Kill => Signal::KILL,
    };
    // A group that is gone needs no signal.
    let _ = kill_process_group(group, signal);
}

#[cfg(not(unix))]
fn signal(_: u32, _: Sign) {}

/// Takes those that ended; answers whether some have not.
#[cfg(unix)]
fn has_members_of_ours(leader: u32) -> bool {
    use rustix::process::{Pid, WaitOptions, waitpgid};
    let Some(group) = i32::try_from(leader).ok().and_then(Pid::from_raw) else {
        return false;
    };
    loop {
        match waitpgid(group, WaitOptions::NOHANG) {
            Ok(Some(_)) => {}
            Ok(None) => return true,
            Err(_) => return false,
        }
    }
}

#[cfg(not(unix))]
fn has_members_of_ours(_: u32) -> bool {
    false
}

/// The signal that ended it.
#[cfg(unix)]
pub(crate) fn signal_of(status: ExitStatus) -> Option<i32> {
    std::os::unix::process::ExitStatusExt::signal(&status)
}

#[cfg(not(unix))]
pub(crate) fn signal_of(_: ExitStatus) -> Option<i32> {
    None
}
