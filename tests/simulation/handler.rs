//! The handler of the simulation: it does what the plan says of its message.

use std::io;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use redrive::extract::{Checkpoint, State};
use redrive::flow::{Advice, Downstream};
use redrive::{Context, Failure};

use crate::checker::Ended;
use crate::gate::Gated;
use crate::plan::{Behaviour, Ending};
use crate::scene::Scene;
use crate::watch::Line;

/// What a worker's handlers share.
#[derive(Clone)]
pub(crate) struct Stage {
    pub(crate) line: Line,
    pub(crate) lease: Duration,
    pub(crate) downstream: Option<Downstream>,
}

/// What a failure says while what all handlers call is down.
pub(crate) const DOWN: &str = "downstream is down";

pub(crate) async fn single(
    State(stage): State<Stage>,
    context: Context,
    checkpoint: Checkpoint,
) -> Result<u64, Failure> {
    run(stage, context, Some(checkpoint)).await
}

/// Without an inbox, or with one that suppresses nothing, there are no checkpoints.
pub(crate) async fn bare(State(stage): State<Stage>, context: Context) -> Result<u64, Failure> {
    run(stage, context, None).await
}

pub(crate) async fn several(
    State(stage): State<Stage>,
    deliveries: Vec<(Context, Checkpoint)>,
) -> Vec<Result<u64, Failure>> {
    let each = |(context, checkpoint)| run(stage.clone(), context, Some(checkpoint));
    join_all(deliveries.into_iter().map(each)).await
}

pub(crate) async fn several_bare(State(stage): State<Stage>, deliveries: Vec<Context>) -> Vec<Result<u64, Failure>> {
    let each = |context| run(stage.clone(), context, None);
    join_all(deliveries.into_iter().map(each)).await
}

async fn run(stage: Stage, context: Context, checkpoint: Option<Checkpoint>) -> Result<u64, Failure> {
    let gate = Arc::clone(&stage.line.process);
    let clock = stage.line.scene.clock.clone();
    Gated::new(gate, clock, act(stage, context, checkpoint)).await
}

/// Tells the judge when a run ends, also when it is dropped.
struct Running {
    scene: Arc<Scene>,
    number: u64,
    how: Ended,
}

impl Drop for Running {
    fn drop(&mut self) {
        // The judge may have been poisoned by a panic of its own; that is reported elsewhere.
        let mut judge = self.scene.judge.lock().unwrap_or_else(PoisonError::into_inner);
        let how = match self.how {
            Ended::Stopped if std::thread::panicking() => Ended::Panicked,
            how => how,
        };
        judge.run_ended(self.number, how);
    }
}

async fn act(stage: Stage, context: Context, checkpoint: Option<Checkpoint>) -> Result<u64, Failure> {
    let Stage {
        line,
        lease,
        downstream,
    } = stage;
    let scene = Arc::clone(&line.scene);
    let claim = context.claim().map_or("", |claim| &claim.claim_id);
    let (number, planned, of_message) = scene.judge().run_started(&line.who, &context.message().id, claim);
    let mut running = Running {
        scene: Arc::clone(&scene),
        number,
        how: Ended::Stopped,
    };
    let behaviour = Behaviour::of(&scene.plan, planned, of_message, lease, scene.is_calm());
    let unsaved = std::sync::atomic::AtomicBool::new(false);
    let work = async {
        tokio::time::sleep(behaviour.before).await;
        if behaviour.keeps_checkpoint
            && let Some(checkpoint) = checkpoint
        {
            let saved = checkpoint.save(&of_message).await;
            unsaved.store(saved.is_err(), std::sync::atomic::Ordering::Relaxed);
            saved?;
        }
        tokio::time::sleep(behaviour.after).await;
        call(&scene, downstream.as_ref()).await?;
        match behaviour.ending {
            Ending::Done => match context.claim().map(|claim| claim.fencing_token) {
                Some(token) if !scene.judge().effect(number, token) => Err(Failure::retry("its effect was refused")),
                _ => Ok(of_message),
            },
            Ending::Fails => Err(Failure::retry("it failed")),
            Ending::FailsFor(delay) => Err(Failure::retry_after("it failed for a while", delay)),
            Ending::Rejects => Err(Failure::reject("it can never succeed")),
            Ending::Panics => std::panic::resume_unwind(Box::new("a panic as planned")),
        }
    };
    let cancellation = context.cancellation().clone();
    let ended = tokio::select! {
        biased;
        () = cancellation.cancelled(), if behaviour.heeds_cancellation => Err(Failure::retry("it was asked to stop")),
        ended = work => ended,
    };
    running.how = match &ended {
        Ok(_) => Ended::Done,
        Err(failure) if failure.is_reject() => Ended::Rejected,
        Err(_) if unsaved.load(std::sync::atomic::Ordering::Relaxed) => Ended::Unsaved,
        Err(_) => Ended::Failed,
    };
    ended
}

/// Calls what all handlers call.
async fn call(scene: &Scene, downstream: Option<&Downstream>) -> Result<(), Failure> {
    let call = || async {
        if scene.plan.downstream_is_down(scene.since_start()) {
            Err(io::Error::other(DOWN))
        } else {
            Ok(())
        }
    };
    match downstream {
        Some(downstream) => Ok(downstream.call_with(|_: &io::Error| Advice::Retry, call).await?),
        None => call().await.map_err(Failure::retry),
    }
}
