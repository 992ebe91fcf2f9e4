//! The part of SQS.

pub(crate) mod answer;
pub(crate) mod fifo;
pub(crate) mod message;
pub(crate) mod protocol;
pub(crate) mod queue;
pub(crate) mod source;
