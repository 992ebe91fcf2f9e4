//! What a command says, within bounds; the rest is read and thrown away, so that the command never waits for a reader.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use tokio::io::{AsyncRead, AsyncReadExt as _};

/// The beginning of an output.
#[derive(Debug)]
pub(super) struct Head {
    most: usize,
    kept: Mutex<(Vec<u8>, bool)>,
}

impl Head {
    /// Keeps the first `most` bytes.
    pub(super) fn new(most: usize) -> Self {
        Self {
            most,
            kept: Mutex::new((Vec::new(), false)),
        }
    }

    /// Reads to the end.
    pub(super) async fn read(&self, from: Option<impl AsyncRead + Unpin>) {
        each(from, |bytes| {
            let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            let room = (self.most - kept.0.len()).min(bytes.len());
            kept.0.extend_from_slice(&bytes[..room]);
            kept.1 |= room < bytes.len();
        })
        .await;
    }

    /// What was kept, and whether that is all there was.
    pub(super) fn into_parts(self) -> (Vec<u8>, bool) {
        let (bytes, more) = self.kept.into_inner().unwrap_or_else(PoisonError::into_inner);
        (bytes, !more)
    }
}

/// The end of an output.
#[derive(Debug)]
pub(super) struct Tail {
    most: usize,
    kept: Mutex<VecDeque<u8>>,
}

impl Tail {
    /// Keeps the last `most` bytes.
    pub(super) fn new(most: usize) -> Self {
        Self {
            most,
            kept: Mutex::new(VecDeque::new()),
        }
    }

    /// Reads to the end.
    pub(super) async fn read(&self, from: Option<impl AsyncRead + Unpin>) {
        each(from, |bytes| {
            let text = String::from_utf8_lossy(bytes);
            tracing::debug!(text = %crate::ui::safe(text.trim_end()), "the command says");
            let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            kept.extend(&bytes[bytes.len().saturating_sub(self.most)..]);
            let over = kept.len().saturating_sub(self.most);
            kept.drain(..over);
        })
        .await;
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.kept.into_inner().unwrap_or_else(PoisonError::into_inner).into()
    }
}

async fn each(from: Option<impl AsyncRead + Unpin>, mut take: impl FnMut(&[u8])) {
    let Some(mut from) = from else { return };
    let mut buffer = vec![0; 8 * 1024];
    // A pipe that breaks is one that ended.
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        take(&buffer[..read]);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_beginning_and_the_end_are_kept_within_bounds() {
        let output: Vec<u8> = (0..40_000_u32).map(|n| b'a' + (n % 26) as u8).collect();
        let (head, tail) = (Head::new(100), Tail::new(30));
        head.read(Some(&output[..])).await;
        tail.read(Some(&output[..])).await;
        assert_eq!(head.into_parts(), (output[..100].to_vec(), false));
        assert_eq!(tail.into_bytes(), output[39_970..]);
        let whole = Head::new(100);
        whole.read(Some(&output[..100])).await;
        assert_eq!(whole.into_parts(), (output[..100].to_vec(), true));
    }
}
