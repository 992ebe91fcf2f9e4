//! Credentials that expire while a worker runs, and are renewed by their provider.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use aws_config::SdkConfig;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, future};
use aws_sdk_sqs::config::{Credentials, SharedCredentialsProvider};
use redrive::clock::Clock;

use crate::aws::config;
use crate::aws_lab::{Lab, until};
use crate::fault_proxy::{Fault, Request, Rule};
use crate::scene::{DRAIN_DEADLINE, Job, Scene, TABLE};

/// What the provider has to give.
const OLD: u8 = 0;
const NONE: u8 = 1;
const NEW: u8 = 2;

/// Where credentials come from, as a role's do: each has an end, and is asked for anew before it.
#[derive(Clone, Debug, Default)]
struct Provider {
    state: Arc<AtomicU8>,
    refused: Arc<AtomicU64>,
}

impl Provider {
    fn config(&self, endpoint: &str) -> SdkConfig {
        let provider = SharedCredentialsProvider::new(self.clone());
        config(endpoint).into_builder().credentials_provider(provider).build()
    }
}

impl ProvideCredentials for Provider {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        // The SDK asks again when less than 10 s are left, of which a part by chance.
        let end = UNIX_EPOCH + Duration::from_millis(Clock::system().epoch_ms()) + Duration::from_secs(12);
        let given = |key: &str| Ok(Credentials::new(key, "secret", Some("token".into()), Some(end), "test"));
        future::ProvideCredentials::ready(match self.state.load(Ordering::SeqCst) {
            OLD => given("OLDKEY"),
            NEW => given("NEWKEY"),
            _ => {
                self.refused.fetch_add(1, Ordering::SeqCst);
                Err(CredentialsError::provider_error("the role's service is away"))
            }
        })
    }
}

fn signed_with(key: &'static str) -> impl Fn(&Request) -> bool {
    move |request| request.header("authorization").is_some_and(|how| how.contains(key))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_that_expire_and_are_renewed_need_no_restart() {
    let Some(lab) = Lab::open() else { return };
    let inbox = lab.inbox(TABLE).await;
    let scene = Scene::open(&lab, &inbox, "credentials", 1).await;
    let provider = Provider::default();
    let worker = scene
        .worker_with(
            &provider.config(&scene.sqs.url()),
            &provider.config(&scene.dynamodb.url()),
        )
        .await;
    let jobs = [Job::Plain, Job::Slow, Job::Flaky, Job::Reject];
    scene.send("before", &jobs, 1).await;
    until("it works", async || worker.handle.status().totals.completed > 0).await;
    // Both services take the old ones no longer, and nobody has new ones yet.
    provider.state.store(NONE, Ordering::SeqCst);
    let old = [
        scene
            .sqs
            .add(Rule::on_all(Fault::error(403, "ExpiredToken")).when(signed_with("OLDKEY"))),
        scene
            .dynamodb
            .add(Rule::on_all(Fault::error(400, "ExpiredTokenException")).when(signed_with("OLDKEY"))),
    ];
    scene.send("during", &jobs, 2).await;
    until("expired ones were refused", async || {
        scene.sqs.hits(old[0]) > 0 && scene.dynamodb.hits(old[1]) > 0
    })
    .await;
    until("new ones were asked for in vain", async || {
        provider.refused.load(Ordering::SeqCst) > 0
    })
    .await;
    provider.state.store(NEW, Ordering::SeqCst);
    let new = scene
        .sqs
        .add(Rule::on("DeleteMessageBatch", Fault::Late(Duration::ZERO)).when(signed_with("NEWKEY")));
    scene.send("after", &jobs, 1).await;
    scene.settled(std::slice::from_ref(&worker)).await.unwrap();
    scene.verdict(1).await.unwrap();
    assert!(scene.sqs.hits(new) > 0, "the new ones were used");
    worker.drain(DRAIN_DEADLINE).await.unwrap();
}
