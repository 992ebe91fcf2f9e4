//! A fault at the start: an error that names the service, what was called on what, and what to do; and nothing hangs.

use std::time::Duration;

use futures::stream::{self, StreamExt as _};
use redrive::clock::Random;
use redrive::queue::Queue as _;
use redrive::{DynamoInbox, SqsQueue};

use crate::aws::config;
use crate::aws_lab::{Lab, Queues, Setup};
use crate::fault_proxy::{Fault, FaultProxy, Rule};
use crate::faults::Call;
use crate::scene::{TABLE, opened};

/// Longer than any call may take by default, with its retries, and what a start makes of them.
const BOUND: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    Queue,
    Inbox,
    /// Through a client that the caller made, with no settings of its own.
    InboxFromClient,
}

async fn open(start: Start, url: &str, queue: &str) -> Result<(), String> {
    match start {
        Start::Queue => SqsQueue::connect(&config(url), queue)
            .await
            .map(|_| ())
            .map_err(|error| error.to_string()),
        Start::Inbox => DynamoInbox::connect(&config(url), TABLE)
            .await
            .map(|_| ())
            .map_err(|error| error.to_string()),
        Start::InboxFromClient => {
            let client = aws_sdk_dynamodb::Client::new(&config(url));
            let opened = DynamoInbox::from_client(client, TABLE).await;
            opened.map(|_| ()).map_err(|error| error.to_string())
        }
    }
}

/// What the error is to say beside the call and what it was made on.
fn remedy(fault: &Fault) -> &'static [&'static str] {
    let Fault::Answered(_, crate::fault_proxy::Reply::Error(_, code)) = fault else {
        return &[];
    };
    match *code {
        "ExpiredToken" | "ExpiredTokenException" => &["credentials", "renew"],
        "InvalidClientTokenId" | "UnrecognizedClientException" => &["credentials", "check which account"],
        "AccessDeniedException" => &["allow"],
        _ => &[],
    }
}

async fn run(start: Start, operation: &str, fault: &Fault, lab: &Lab, queue: &str) -> Result<(), String> {
    let upstream = match start {
        Start::Queue => &lab.servers.sqs_url,
        Start::Inbox | Start::InboxFromClient => &lab.servers.dynamodb_url,
    };
    let proxy = FaultProxy::start(upstream, Random::seeded(1)).await;
    let rule = proxy.add(Rule::on(operation, fault.clone()));
    // On a busy machine an earlier call may be what fails.
    let told = opened(async || {
        let told = tokio::time::timeout(BOUND, open(start, &proxy.url(), queue)).await;
        if proxy.hits(rule) == 0 {
            Err("it never struck")
        } else {
            Ok(told)
        }
    });
    let told = told.await.map_err(|_| format!("it hangs: nothing came in {BOUND:?}"))?;
    let whole = matches!(fault, Fault::Trickle(_) | Fault::Late(_) | Fault::DateMoved(_));
    let dated = matches!(fault, Fault::NoDate | Fault::BadDate);
    match told {
        Ok(()) if whole || (dated && start == Start::Queue) => {}
        // The other calls' answers have a date.
        Ok(()) if dated => {}
        Ok(()) => return Err("it opened all the same".to_owned()),
        Err(said) => {
            let on = if start == Start::Queue { queue } else { TABLE };
            let mut wanted = vec![on];
            wanted.push(if dated { "Date" } else { operation });
            wanted.extend(remedy(fault));
            let missing: Vec<_> = wanted.into_iter().filter(|word| !said.contains(word)).collect();
            if !missing.is_empty() {
                return Err(format!("the error does not say {missing:?}: {said}"));
            }
        }
    }
    proxy.heal();
    opened(async || open(start, &proxy.url(), queue).await).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn inv12_a_fault_at_the_start_is_told_with_what_to_do() {
    let Some(lab) = Lab::open() else { return };
    let Queues { source, .. } = lab.queues("start", &Setup::default()).await;
    lab.inbox(TABLE).await;
    let queue = source.attributes().name.clone();
    let calls = [
        (Start::Queue, "GetQueueUrl", Call::Receive),
        (Start::Queue, "GetQueueAttributes", Call::Receive),
        (Start::Inbox, "DescribeTable", Call::WriteSingly),
        (Start::Inbox, "DescribeTimeToLive", Call::WriteSingly),
        (Start::InboxFromClient, "DescribeTable", Call::WriteSingly),
    ];
    let cases = calls
        .into_iter()
        .flat_map(|(start, operation, like)| like.faults().into_iter().map(move |fault| (start, operation, fault)));
    let (lab, queue) = (&lab, &queue);
    let ended: Vec<Option<String>> = stream::iter(cases)
        .map(async |(start, operation, fault)| {
            let ended = run(start, operation, &fault, lab, queue).await;
            ended
                .err()
                .map(|why| format!("{fault:?} on {operation} ({start:?}): {why}"))
        })
        .buffer_unordered(24)
        .collect()
        .await;
    let failed: Vec<String> = ended.into_iter().flatten().collect();
    assert!(
        failed.is_empty(),
        "{} cases failed:\n{}",
        failed.len(),
        failed.join("\n")
    );
}

#[tokio::test]
async fn inv12_a_host_that_does_not_resolve_or_answer_is_named_with_what_to_look_at() {
    // Names under `.invalid` never resolve (RFC 2606); nothing listens on a port that was bound and let go.
    let refusing = FaultProxy::start("http://127.0.0.1:1", Random::seeded(1)).await;
    refusing.stop().await;
    let deaf = FaultProxy::start("http://127.0.0.1:1", Random::seeded(1)).await;
    deaf.cut_off().await;
    for url in [
        "https://service.redrive.invalid:4566".to_owned(),
        refusing.url(),
        deaf.url(),
    ] {
        for start in [Start::Queue, Start::Inbox] {
            let opened = tokio::time::timeout(BOUND, open(start, &url, "orders")).await;
            let said = opened.expect("it does not hang").unwrap_err();
            let on = if start == Start::Queue { "orders" } else { TABLE };
            for word in [on, url.as_str()] {
                assert!(said.contains(word), "{said} does not say {word}");
            }
        }
    }
}
