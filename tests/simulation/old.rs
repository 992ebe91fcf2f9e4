//! The inbox as a worker of an earlier version uses it: without the attributes that came later.
//!
//! A claim puts a whole item, so what that version does not know of is gone with it; its other writes leave alone what they do
//! not name.

use futures::future::BoxFuture;
use redrive::MemoryInbox;
use redrive::inbox::{
    Answers, Change, Claim, ClaimAnswer, ClaimRequest, Inbox, InboxError, Record, ServiceTime, Status, Write, Written,
};
use redrive::key::RecordKey;
use std::sync::Arc;

/// An inbox without fingerprints, first-seen times, checkpoints, and announced runs of suspects.
pub(crate) struct OldInbox(pub(crate) MemoryInbox);

impl OldInbox {
    fn strip(&self, request: &ClaimRequest) {
        let Some(mut record) = self.0.record(&request.key) else {
            return;
        };
        if record.claim_id == request.claim_id && record.status == Status::Processing {
            record.fingerprint = None;
            record.first_seen = 0;
            record.checkpoint = None;
            record.checkpoint_serial = 0;
            record.started = false;
            record.deaths = 0;
            self.0.insert(record);
        }
    }
}

fn known(claim: &Claim) -> Arc<Claim> {
    let mut claim = claim.clone();
    claim.suspect = false;
    claim.deaths = 0;
    claim.checkpoint = None;
    Arc::new(claim)
}

impl Inbox for OldInbox {
    fn claim(&self, mut requests: Vec<ClaimRequest>) -> BoxFuture<'_, Answers<ClaimAnswer>> {
        Box::pin(async move {
            for request in &mut requests {
                request.fingerprint = None;
            }
            let mut answers = self.0.claim(requests.clone()).await;
            for (request, answer) in requests.iter().zip(&mut answers) {
                self.strip(request);
                if let Ok(ClaimAnswer::Claimed(claim)) = answer {
                    *answer = Ok(ClaimAnswer::Claimed(known(claim)));
                }
            }
            answers
        })
    }

    fn write(&self, writes: Vec<Write>) -> BoxFuture<'_, Answers<Written>> {
        Box::pin(async move {
            let unknown = |write: &Write| matches!(write.change, Change::Start | Change::Checkpoint { .. });
            let kept: Vec<Write> = writes.iter().filter(|write| !unknown(write)).cloned().collect();
            let mut kept = self.0.write(kept).await.into_iter();
            let answer = |write: &Write| {
                if unknown(write) {
                    return Ok(Written { lease_until: None });
                }
                kept.next().unwrap_or(Err(InboxError::NoAnswer))
            };
            writes.iter().map(answer).collect()
        })
    }

    fn get<'a>(&'a self, key: &'a RecordKey) -> BoxFuture<'a, Result<Option<Record>, InboxError>> {
        self.0.get(key)
    }

    fn time(&self) -> ServiceTime {
        self.0.time()
    }

    fn max_result(&self) -> usize {
        self.0.max_result()
    }

    fn check(&self) -> BoxFuture<'_, Result<Vec<String>, InboxError>> {
        self.0.check()
    }
}
