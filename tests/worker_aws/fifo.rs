//! FIFO groups: in order, whatever fails.

use redrive::Failure;
use redrive::extract::{Attempt, State, Text};
use redrive::flow::{Backoff, Jitter};

use super::*;

#[tokio::test]
async fn inv07_groups_run_in_order_though_one_message_fails_and_another_is_given_up() {
    #[derive(Clone, Default)]
    struct Runs(Log<String>);

    async fn step(State(runs): State<Runs>, Attempt(attempt): Attempt, body: Text) -> Result<(), Failure> {
        runs.0.push(format!("{}#{attempt}", body.as_str()));
        match body.as_str() {
            "a2" if attempt == 1 => Err(Failure::retry("not yet")),
            "b2" => Err(Failure::reject("never")),
            _ => Ok(()),
        }
    }

    let Some(lab) = Lab::open() else { return };
    let Queues { source, dead } = lab.queues("ordered.fifo", &Setup::default()).await;
    let inbox = lab.inbox(TABLE).await;
    let message = |body: &str| keyed(body, body).group(&body[..1]).deduplication_id(body);
    send(&source, ["a1", "a2", "b1", "b2", "b3", "b4"].map(message).to_vec()).await;
    let runs = Runs::default();
    let base = Duration::from_secs(2);
    let worker = quick(&source, &inbox)
        .backoff(Backoff::new(base, base).unwrap().jitter(Jitter::None))
        .state(runs.clone())
        .handler(step);
    let running = Running::start(worker.build().unwrap());
    until("a2 fails", async || runs.0.all().contains(&"a2#1".to_owned())).await;
    // Sent only now: what was received along with a2 and is given back opens the group on LocalStack, whatever else of the
    // group is in flight. On the embedded queue the worker's own tests have that case.
    send(&source, ["a3", "a4"].map(message).to_vec()).await;
    until("the queue is empty", async || is_empty(&source).await).await;
    let totals = running.drained().await.totals;
    let of = |group: char| {
        let runs = runs.0.all().into_iter();
        runs.filter(|run| run.starts_with(group)).collect::<Vec<_>>()
    };
    assert_eq!(of('a'), ["a1#1", "a2#1", "a2#2", "a3#1", "a4#1"]);
    assert_eq!(of('b'), ["b1#1", "b2#1", "b3#1", "b4#1"]);
    assert_eq!((totals.completed, totals.retried, totals.dead_letters()), (7, 1, 1));
    let letters = take_all(&dead, 1).await;
    assert_eq!(letters.len(), 1);
    assert_eq!(
        (letters[0].message.body.as_str(), letters[0].message.group_id.as_deref()),
        ("b2", Some("b"))
    );
}
