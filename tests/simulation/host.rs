//! The hosts that workers run on: what dies or ends there is started anew.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use redrive::clock::{Clock, Instant};
use redrive::flow::RateLimit;
use redrive::worker::WorkerHandle;

use crate::build::build;
use crate::checker::{Turning, Who};
use crate::gate::{Fuse, Gate, Gated};
use crate::plan::{HostEvent, WorkerPlan};
use crate::scene::{Act, Scene};
use crate::watch::Line;

/// One place where a worker runs, to the end of the run.
pub(crate) async fn host(scene: Arc<Scene>, slot: usize) {
    let plan = scene.plan.workers[slot].clone();
    let mut events = plan.events.iter().copied().peekable();
    let mut act = scene.act();
    let mut host = Host::default();
    for life in 1.. {
        let who: Who = format!("{}{life}", plan.name).into();
        let mut process = Process::start(&scene, who, &plan, &host);
        let fuse = Arc::clone(&process.fuse);
        loop {
            let next = events.peek().copied().filter(|_| act == Act::Trouble);
            let (thaw, resume, stop) = (process.next_thaw(), process.resumes, process.stops);
            tokio::select! {
                biased;
                () = fuse.blown() => {
                    process.note("crashes between two steps");
                    scene.crashed();
                    break;
                }
                () = process.ended() => {
                    if scene.act() == Act::Closing { return }
                    break;
                }
                () = sleep_until(thaw) => process.thaw(),
                () = sleep_until(resume) => process.resume(),
                () = sleep_until(stop) => process.stop(),
                () = sleep_until(next.map(|(at, _)| scene.start + at)) => {
                    events.next();
                    if let Some((_, event)) = next && process.befalls(event, &mut host) {
                        break;
                    }
                }
                next = scene.act_after(act) => {
                    act = next;
                    process.thaw_now();
                    process.resume();
                    fuse.put_out();
                    if act == Act::Closing { process.drain(Duration::ZERO) }
                }
            }
        }
        let down = process.down;
        drop(process);
        tokio::select! {
            biased;
            () = scene.closing() => return,
            () = tokio::time::sleep(down) => {}
        }
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// What outlives a process.
#[derive(Default)]
pub(crate) struct Host {
    /// By how much its clock was set.
    pub(crate) stepped_ms: i64,
}

type Run = Pin<Box<dyn Future<Output = Result<(), redrive::Error>> + Send>>;

/// A worker's process, from its start to its death.
struct Process<'a> {
    scene: &'a Arc<Scene>,
    who: Who,
    run: Run,
    handle: WorkerHandle,
    clock: Clock,
    fuse: Arc<Fuse>,
    /// Shut while its loop stands still, and while all of it does.
    gates: [Arc<Gate>; 2],
    thaws: [Option<Instant>; 2],
    resumes: Option<Instant>,
    stops: Option<Instant>,
    draining: Option<Instant>,
    stopped: bool,
    stood_still: bool,
    deadline: Duration,
    down: Duration,
}

impl<'a> Process<'a> {
    fn start(scene: &'a Arc<Scene>, who: Who, plan: &WorkerPlan, host: &Host) -> Self {
        let fuse = Arc::new(Fuse::default());
        let gates = [Arc::new(Gate::with(&fuse)), Arc::new(Gate::with(&fuse))];
        let line = Line {
            scene: Arc::clone(scene),
            who: Arc::clone(&who),
            process: Arc::clone(&gates[1]),
        };
        let clock = scene.clock.skewed_by(plan.skew_ms + host.stepped_ms);
        let worker = build(&line, plan, &clock);
        {
            let mut judge = scene.judge();
            judge.begins(&who, plan);
            judge.note(&who, "starts");
        }
        let handle = worker.handle();
        let run = Gated::new(Arc::clone(&gates[0]), scene.clock.clone(), worker.run_until_drained());
        let (seen, seen_by, status) = (Arc::clone(&who), Arc::clone(scene), handle.clone());
        let run = Turning {
            inner: Box::pin(run),
            look: move || seen_by.judge().turned(&seen, &status.status()),
        };
        Self {
            scene,
            who,
            run: Box::pin(run),
            handle,
            clock,
            fuse,
            gates,
            thaws: [None, None],
            resumes: None,
            stops: None,
            draining: None,
            stopped: false,
            stood_still: false,
            deadline: plan.drain_deadline,
            down: Duration::from_millis(500),
        }
    }

    fn note(&self, text: &str) {
        self.scene.judge().note(&self.who, text);
    }

    /// What happens to it; whether it is dead then.
    fn befalls(&mut self, event: HostEvent, host: &mut Host) -> bool {
        match event {
            HostEvent::Crash { down } => {
                self.note("crashes");
                self.scene.crashed();
                self.down = down;
                return true;
            }
            HostEvent::CrashInSteps { steps, down } => {
                self.down = down;
                self.fuse.light(steps);
            }
            HostEvent::Drain { down } => self.drain(down),
            HostEvent::DrainTwice { between, down } => {
                self.drain(down);
                self.stops = Some(self.scene.clock.now() + between);
            }
            HostEvent::Pause { pause } => self.pause(pause),
            HostEvent::Freeze { pause, all, ahead } => self.freeze(pause, all, ahead),
            HostEvent::ClockStep { ms } => {
                self.note(&format!("has its clock set by {ms} ms"));
                host.stepped_ms += ms;
                self.clock.step_by(ms);
            }
            HostEvent::SetRate(rate) => {
                self.note(&format!("has its rate set to {rate:?}"));
                self.scene.judge().host(&self.who).rate.set(rate);
                self.handle.set_rate(rate.map(limit));
            }
            HostEvent::SetConcurrency(handlers) => {
                self.note(&format!("has its concurrency set to {handlers}"));
                self.handle.set_concurrency(handlers).expect("a concurrency");
            }
        }
        false
    }

    async fn ended(&mut self) {
        let ended = self.run.as_mut().await;
        if let Err(error) = ended {
            return self.note(&format!("does not start: {error}"));
        }
        let took = self.draining.filter(|_| !self.stood_still && !self.stopped);
        let took = took.map(|since| self.scene.clock.now().saturating_duration_since(since));
        self.scene.judge().drained(&self.who, took, self.deadline);
        if self.draining.is_none() {
            self.scene
                .judge()
                .broken("inv08", format!("{} ended by itself", self.who));
        }
    }

    fn drain(&mut self, down: Duration) {
        self.note("is asked to drain");
        self.handle.drain();
        self.down = down;
        // One that has not begun yet begins to drain when it does.
        self.draining.get_or_insert(self.scene.clock.now());
        self.stood_still |= !self.handle.status().started || self.next_thaw().is_some();
    }

    fn stop(&mut self) {
        self.stops = None;
        self.stopped = true;
        self.note("is told to stop at once");
        self.handle.stop();
    }

    fn pause(&mut self, pause: Duration) {
        self.note(&format!("is paused for {pause:?}"));
        self.handle.pause();
        self.resumes = Some(self.scene.clock.now() + pause);
    }

    fn resume(&mut self) {
        if self.resumes.take().is_some() {
            self.note("is resumed");
            self.handle.resume();
        }
    }

    fn freeze(&mut self, pause: Duration, all: bool, ahead: Duration) {
        let now = self.scene.clock.now();
        self.note(&format!(
            "stands still for {pause:?}, all {all}, its loop for {ahead:?} longer"
        ));
        self.scene.judge().host(&self.who).stalled = true;
        self.stood_still = true;
        self.gates[0].set_shut(true);
        self.thaws[0] = Some(now + pause + ahead);
        if all {
            self.gates[1].set_shut(true);
            self.thaws[1] = Some(now + pause);
        }
    }

    fn next_thaw(&self) -> Option<Instant> {
        self.thaws.iter().flatten().min().copied()
    }

    fn thaw(&mut self) {
        let now = self.scene.clock.now();
        // The process first: its handlers and calls go on before its loop learns of anything.
        for (gate, thaw) in self.gates.iter().zip(&mut self.thaws).rev() {
            if thaw.is_some_and(|at| at <= now) {
                *thaw = None;
                gate.set_shut(false);
            }
        }
        if self.next_thaw().is_none() {
            self.note("goes on");
            let mut judge = self.scene.judge();
            let host = judge.host(&self.who);
            host.stalled = false;
            host.went_on = Some(now);
        }
    }

    fn thaw_now(&mut self) {
        if self.next_thaw().is_some() {
            let now = self.scene.clock.now();
            self.thaws = self.thaws.map(|thaw| thaw.map(|_| now));
            self.thaw();
        }
    }
}

impl Drop for Process<'_> {
    fn drop(&mut self) {
        // A dead process is not judged, and what it leaves on the runtime must be able to end.
        self.scene.judge().host(&self.who).stalled = true;
        self.fuse.put_out();
        self.gates.iter().for_each(|gate| gate.set_shut(false));
    }
}

pub(crate) fn limit((rate, burst): (f64, u32)) -> RateLimit {
    let limit = RateLimit::per_second(rate).and_then(|rate| rate.burst(burst));
    limit.expect("a rate")
}
