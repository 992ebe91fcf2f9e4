//! The worker's state.

use std::convert::Infallible;

use super::FromDelivery;
use crate::handler::Context;

/// The worker's state, or a part of it: what handlers share, such as clients and pools.
///
/// The state is cloned for each delivery: make it cheap to clone. A part is anything that is [`FromRef`] of the state.
///
/// ```
/// use redrive::{Failure, extract::{FromRef, State}, handler::Handler};
///
/// #[derive(Clone)]
/// struct Gateway;
///
/// #[derive(Clone)]
/// struct App {
///     gateway: Gateway,
/// }
///
/// impl FromRef<App> for Gateway {
///     fn from_ref(app: &App) -> Self {
///         app.gateway.clone()
///     }
/// }
///
/// async fn charge(State(gateway): State<Gateway>, State(app): State<App>) -> Result<(), Failure> {
///     Ok(())
/// }
///
/// let service = charge.into_service(App { gateway: Gateway });
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct State<T>(pub T);

/// What can be taken from a worker's state `S`: the state itself, and parts of it.
#[diagnostic::on_unimplemented(
    message = "the worker's state `{S}` has no part `{Self}`",
    label = "no part of the worker's state",
    note = "give the worker this state by `.state(..)`, or implement `FromRef<{S}>` for `{Self}` if it is a part of it",
    note = "the state, and each part of it, must be `Clone`"
)]
pub trait FromRef<S> {
    /// The part, cloned.
    fn from_ref(state: &S) -> Self;
}

#[diagnostic::do_not_recommend]
impl<T: Clone> FromRef<T> for T {
    fn from_ref(state: &T) -> Self {
        state.clone()
    }
}

impl<S: Sync, T: FromRef<S> + Send + 'static> FromDelivery<S> for State<T> {
    type Rejection = Infallible;

    async fn from_delivery(_: &Context, state: &S) -> Result<Self, Infallible> {
        Ok(Self(T::from_ref(state)))
    }
}
