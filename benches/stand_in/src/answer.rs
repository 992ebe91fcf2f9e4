//! Answers: a status and the bytes of a body, whose large parts are shared and not copied.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

/// What a call is answered with.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Parts,
}

impl Answer {
    /// JSON that went well.
    pub(crate) fn ok(json: impl Into<Bytes>) -> Self {
        Self {
            status: 200,
            body: Parts::one(json.into()),
        }
    }

    /// An error of the caller's, as the JSON protocols say it.
    pub(crate) fn error(code: &str, message: &str) -> Self {
        let json = serde_json::json!({ "__type": code, "message": message, "Message": message });
        Self {
            status: 400,
            body: Parts::one(json.to_string().into()),
        }
    }
}

/// A body in parts.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    parts: VecDeque<Bytes>,
    left: usize,
}

impl Parts {
    pub(crate) fn one(part: Bytes) -> Self {
        let mut parts = Self::default();
        parts.push(part);
        parts
    }

    pub(crate) fn push(&mut self, part: Bytes) {
        if !part.is_empty() {
            self.left += part.len();
            self.parts.push_back(part);
        }
    }
}

impl Body for Parts {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let part = self.parts.pop_front();
        self.left -= part.as_ref().map_or(0, Bytes::len);
        Poll::Ready(part.map(|part| Ok(Frame::data(part))))
    }

    fn is_end_stream(&self) -> bool {
        self.parts.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left as u64)
    }
}
