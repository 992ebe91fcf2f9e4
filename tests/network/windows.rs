//! A service that cannot be reached at all for a while: refused, reset, silent, gone from the name service.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use aws_config::SdkConfig;
use aws_smithy_http_client::tls::{self, rustls_provider::CryptoMode};
use aws_smithy_runtime_api::client::dns::{DnsFuture, ResolveDns, ResolveDnsError};
use futures::future::join_all;
use redrive::DynamoInbox;

use crate::aws::config;
use crate::aws_lab::Lab;
use crate::fault_proxy::FaultProxy;
use crate::scene::{DRAIN_DEADLINE, Job, Scene, TABLE};

/// How long a service is away: longer than a lease.
const AWAY: Duration = Duration::from_secs(6);

/// How a service is away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Window {
    /// Connections are refused.
    Refused,
    /// Connections are made and reset, again and again.
    Reset,
    /// The connections that exist are never answered again; new ones work.
    Frozen,
    /// Attempts to connect are not answered.
    CutOff,
    /// Its name does not resolve.
    Unresolved,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Sqs,
    DynamoDb,
    Both,
}

/// A name service for all names, which can be made to know none.
#[derive(Clone, Debug, Default)]
struct Names {
    gone: Arc<AtomicBool>,
    refused: Arc<AtomicU64>,
}

impl ResolveDns for Names {
    fn resolve_dns<'a>(&'a self, name: &'a str) -> DnsFuture<'a> {
        if self.gone.load(Ordering::SeqCst) {
            self.refused.fetch_add(1, Ordering::SeqCst);
            let words = format!("failed to lookup address information: {name}: Name or service not known");
            return DnsFuture::ready(Err(ResolveDnsError::new(words)));
        }
        DnsFuture::ready(Ok(vec![IpAddr::V4(Ipv4Addr::LOCALHOST)]))
    }
}

impl Names {
    /// The configuration for the proxy under a name, for which this name service is asked. Plain HTTP is for this host alone.
    fn config(&self, proxy: &FaultProxy) -> SdkConfig {
        let client = aws_smithy_http_client::Builder::new()
            .tls_provider(tls::Provider::Rustls(CryptoMode::AwsLc))
            .build_with_resolver(self.clone());
        let config = config(&format!("http://localhost:{}", proxy.port()));
        config.into_builder().http_client(client).build()
    }
}

/// The way to a service.
struct Road<'a> {
    proxy: &'a FaultProxy,
    names: Names,
}

impl Road<'_> {
    async fn close(&self, window: Window) {
        match window {
            Window::Refused => self.proxy.stop().await,
            Window::Reset => self.proxy.reset_connections().await,
            Window::Frozen => self.proxy.freeze_connections(),
            Window::CutOff => self.proxy.cut_off().await,
            Window::Unresolved => {
                self.names.gone.store(true, Ordering::SeqCst);
                // A connection that is there needs no name.
                self.proxy.reset_connections().await;
            }
        }
    }

    /// Goes on closing it for a while, where one stroke is not enough.
    async fn keep_closed(&self, window: Window) {
        let mut left = AWAY;
        let step = Duration::from_millis(150);
        while !left.is_zero() {
            tokio::time::sleep(step).await;
            if window == Window::Reset {
                self.proxy.reset_connections().await;
            }
            left = left.saturating_sub(step);
        }
    }

    async fn open(&self) {
        self.names.gone.store(false, Ordering::SeqCst);
        self.proxy.restart().await;
    }
}

async fn run(window: Window, side: Side, lab: &Lab, inbox: &DynamoInbox) -> Result<(), String> {
    let scene = Scene::open(lab, inbox, "window", 1).await;
    let [sqs, dynamodb] = [&scene.sqs, &scene.dynamodb].map(|proxy| Road {
        proxy,
        names: Names::default(),
    });
    let worker = scene
        .worker_with(&sqs.names.config(sqs.proxy), &dynamodb.names.config(dynamodb.proxy))
        .await;
    let roads: Vec<&Road<'_>> = match side {
        Side::Sqs => vec![&sqs],
        Side::DynamoDb => vec![&dynamodb],
        Side::Both => vec![&sqs, &dynamodb],
    };
    let all = [Job::Plain, Job::Slow, Job::Flaky, Job::Reject];
    scene.send("before", &all, 1).await;
    scene
        .until(&worker, "it works", |status| status.totals.completed > 0)
        .await?;
    join_all(roads.iter().map(|road| road.close(window))).await;
    scene.send("during", &all, 2).await;
    join_all(roads.iter().map(|road| road.keep_closed(window))).await;
    join_all(roads.iter().map(|road| road.open())).await;
    scene.send("after", &all, 1).await;
    scene.settled(std::slice::from_ref(&worker)).await?;
    scene.verdict(1).await?;
    if window == Window::Unresolved && roads.iter().any(|road| road.names.refused.load(Ordering::SeqCst) == 0) {
        return Err("no name was asked for while there was none".to_owned());
    }
    // Again, and it drains.
    scene.send("last", &all, 1).await;
    // As soon as one of the last has run: a run may be over before it is looked at.
    let began = ["last0-Plain", "last1-Slow", "last2-Flaky", "last3-Reject"];
    scene
        .until(&worker, "it works again", |_| {
            began.iter().any(|key| scene.ledger.has_begun(key))
        })
        .await?;
    join_all(roads.iter().map(|road| road.close(window))).await;
    worker.drain(DRAIN_DEADLINE).await?;
    let second = scene.direct_worker();
    scene.settled(std::slice::from_ref(&second)).await?;
    scene.verdict(2).await?;
    second.drain(DRAIN_DEADLINE).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_is_away_costs_time_and_nothing_else() {
    let Some(lab) = Lab::open() else { return };
    let inbox = lab.inbox(TABLE).await;
    let (lab, inbox) = (&lab, &inbox);
    let windows = [
        Window::Refused,
        Window::Reset,
        Window::Frozen,
        Window::CutOff,
        Window::Unresolved,
    ];
    let cases = windows
        .iter()
        .flat_map(|window| [Side::Sqs, Side::DynamoDb, Side::Both].map(|side| (*window, side)));
    let failed: Vec<String> = join_all(cases.map(async |(window, side)| {
        let ended = run(window, side, lab, inbox).await;
        ended.err().map(|why| format!("{window:?} of {side:?}: {why}"))
    }))
    .await
    .into_iter()
    .flatten()
    .collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}
