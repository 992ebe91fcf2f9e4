//! The message as it came.

use std::convert::Infallible;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use bytes::Bytes;

use super::{Attributes, Delivery, FromDelivery, Message};
use crate::handler::Context;

/// The body as text. It is shared with the delivery, not copied.
///
/// ```
/// use redrive::{Failure, extract::Text};
///
/// async fn count(body: Text) -> Result<usize, Failure> {
///     Ok(body.lines().count())
/// }
/// # let _ = redrive::handler::Handler::into_service(count, ());
/// ```
#[derive(Clone)]
pub struct Text(Arc<Delivery>);

impl Text {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0.message.body
    }
}

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl AsRef<str> for Text {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl AsRef<[u8]> for Text {
    fn as_ref(&self) -> &[u8] {
        self.as_str().as_bytes()
    }
}

impl From<Text> for String {
    fn from(text: Text) -> Self {
        text.as_str().to_owned()
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self)
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Text").field(&self.as_str()).finish()
    }
}

impl<S: Sync> FromDelivery<S> for Text {
    type Rejection = Infallible;

    async fn from_delivery(context: &Context, _: &S) -> Result<Self, Infallible> {
        Ok(Self(Arc::clone(context.delivery())))
    }
}

impl<S: Sync> FromDelivery<S> for Bytes {
    type Rejection = Infallible;

    async fn from_delivery(context: &Context, _: &S) -> Result<Self, Infallible> {
        Ok(Self::from_owner(Text(Arc::clone(context.delivery()))))
    }
}

impl<S: Sync> FromDelivery<S> for Message {
    type Rejection = Infallible;

    async fn from_delivery(context: &Context, _: &S) -> Result<Self, Infallible> {
        Ok(context.message().clone())
    }
}

impl<S: Sync> FromDelivery<S> for Arc<Delivery> {
    type Rejection = Infallible;

    async fn from_delivery(context: &Context, _: &S) -> Result<Self, Infallible> {
        Ok(Self::clone(context.delivery()))
    }
}

impl<S: Sync> FromDelivery<S> for Attributes {
    type Rejection = Infallible;

    async fn from_delivery(context: &Context, _: &S) -> Result<Self, Infallible> {
        Ok(context.message().attributes.clone())
    }
}
