//! One handler for each type of message.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use futures::future::{BoxFuture, ready};

use super::pointer::{Found, Pointer};
use super::{BatchPolicy, BoxedHandler, Context, ErasedHandler, Handler, SharedHandler};
use crate::message::{Message, TYPE_ATTRIBUTE};
use crate::outcome::{Failure, Outcome, Reason, bounded};

/// The most bytes of a message's type that are told in an error.
const MAX_TYPE: usize = 100;

/// A handler that picks another by the message's type: the message attribute `type`, another attribute, or a string in a
/// JSON body.
///
/// What no route is for goes to the [`fallback`](Self::fallback); without one it is dead-lettered for the reason
/// `unroutable`. A router is a handler like any other: it can be a route of another one, be put in a
/// [bulkhead](Handler::bulkhead), and have [layers](Handler::layer).
///
/// ```
/// use redrive::{Failure, extract::Json, handler::{Handler, Router}};
/// # #[derive(serde::Deserialize)] struct Order;
///
/// async fn charge(Json(order): Json<Order>) -> Result<(), Failure> {
///     Ok(())
/// }
///
/// async fn ship(Json(order): Json<Order>) -> Result<(), Failure> {
///     Ok(())
/// }
///
/// let router: Router = Router::new()
///     .route("order.created", charge.bulkhead("gateway"))
///     .route("order.paid", ship);
/// ```
pub struct Router<S = ()> {
    by: By,
    routes: Vec<(String, BoxedHandler<S>)>,
    fallback: Option<BoxedHandler<S>>,
    problems: Vec<String>,
}

/// Where a message's type is.
#[derive(Clone, Debug)]
enum By {
    Attribute(String),
    Pointer { text: String, pointer: Option<Pointer> },
}

impl<S: Send + Sync + 'static> Router<S> {
    /// A router by the message attribute `type`.
    #[must_use]
    pub fn new() -> Self {
        Self::by_attribute(TYPE_ATTRIBUTE)
    }

    /// A router by another message attribute, of data type `String` or `Number`.
    pub fn by_attribute(name: impl Into<String>) -> Self {
        Self::by(By::Attribute(name.into()))
    }

    /// A router by the string that this JSON pointer (RFC 6901) finds in the body, such as `/type` or `/detail/kind`. The
    /// body is read no further than to there: let the type come first.
    ///
    /// ```
    /// # use redrive::{Failure, handler::Router};
    /// # async fn charge() -> Result<(), Failure> { Ok(()) }
    /// let router: Router = Router::by_pointer("/detail-type").route("Order Created", charge);
    /// ```
    pub fn by_pointer(pointer: impl Into<String>) -> Self {
        let text = pointer.into();
        let pointer = Pointer::parse(&text);
        Self::by(By::Pointer { text, pointer })
    }

    fn by(by: By) -> Self {
        Self {
            by,
            routes: Vec::new(),
            fallback: None,
            problems: Vec::new(),
        }
    }

    /// Messages of this type go to this handler. One type has one route: a worker with a second one is not built.
    #[must_use]
    pub fn route<M>(mut self, kind: impl Into<String>, handler: impl Handler<M, S>) -> Self {
        self.add(kind.into(), handler.boxed());
        self
    }

    /// Messages that no route is for go to this handler: of a type without a route, without a type, and, by a pointer, with a
    /// body that is no JSON.
    #[must_use]
    pub fn fallback<M>(mut self, handler: impl Handler<M, S>) -> Self {
        if self.fallback.is_some() {
            self.problems.push("a router has two fallbacks; remove one".to_owned());
        }
        self.fallback = Some(handler.boxed());
        self
    }

    /// Adds the routes of another router, and its fallback. Both must look for the type in the same place.
    #[must_use]
    pub fn merge(mut self, other: Self) -> Self {
        if self.by.to_string() != other.by.to_string() {
            self.problems.push(format!(
                "a router by {} cannot be merged with one by {}; make one a route or the fallback of the other",
                self.by, other.by
            ));
        }
        self.problems.extend(other.problems);
        for (kind, handler) in other.routes {
            self.add(kind, handler);
        }
        match other.fallback {
            Some(fallback) => self.fallback(fallback),
            None => self,
        }
    }

    fn add(&mut self, kind: String, handler: BoxedHandler<S>) {
        if self.routes.iter().any(|(known, _)| *known == kind) {
            self.problems.push(format!(
                "a router has two routes for type `{kind}`; remove one, or do both in one handler"
            ));
        }
        self.routes.push((kind, handler));
    }
}

impl<S: Send + Sync + 'static> Default for Router<S> {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Clone for Router<S> {
    fn clone(&self) -> Self {
        Self {
            by: self.by.clone(),
            routes: self.routes.clone(),
            fallback: self.fallback.clone(),
            problems: self.problems.clone(),
        }
    }
}

impl<S> fmt::Debug for Router<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Router")
            .field("by", &self.by)
            .field("routes", &self.routes.iter().map(|(kind, _)| kind).collect::<Vec<_>>())
            .field("fallback", &self.fallback.is_some())
            .finish_non_exhaustive()
    }
}

/// Marks [`Router`] among the kinds of handlers.
#[derive(Debug)]
pub enum IsRouter {}

#[diagnostic::do_not_recommend]
impl<S: Send + Sync + 'static> Handler<IsRouter, S> for Router<S> {
    fn boxed(self) -> BoxedHandler<S> {
        BoxedHandler::binding(move |state| {
            let routes = self.routes.iter();
            Arc::new(Bound::new(
                self.by.clone(),
                routes
                    .map(|(kind, handler)| (kind.clone(), handler.bind(state)))
                    .collect(),
                self.fallback.as_ref().map(|fallback| fallback.bind(state)),
                self.problems.clone(),
            ))
        })
    }
}

/// Why a message has no type.
enum Untyped {
    Missing,
    NotText(&'static str),
    NotJson(String),
}

impl By {
    fn kind_of<'m>(&self, message: &'m Message) -> Result<Cow<'m, str>, Untyped> {
        match self {
            Self::Attribute(name) => {
                let attribute = message.attributes.get(name).ok_or(Untyped::Missing)?;
                attribute.as_str().map(Cow::Borrowed).ok_or(Untyped::NotText("binary"))
            }
            Self::Pointer { pointer, .. } => {
                match pointer
                    .as_ref()
                    .map_or(Found::Nothing, |pointer| pointer.find(&message.body))
                {
                    Found::Text(text) => Ok(text),
                    Found::Other(kind) => Err(Untyped::NotText(kind)),
                    Found::Nothing => Err(Untyped::Missing),
                    Found::NotJson { detail } => Err(Untyped::NotJson(detail)),
                }
            }
        }
    }

    fn problem(&self) -> Option<String> {
        match self {
            Self::Attribute(name) if name.is_empty() => {
                Some("a router is by an attribute without a name; name it, or use `Router::new()`".to_owned())
            }
            Self::Pointer { text, pointer: None } => Some(format!(
                "a router is by `{text}`, which is no JSON pointer into a body; write it with slashes, as `/type` or `/detail/kind`"
            )),
            Self::Attribute(_) | Self::Pointer { .. } => None,
        }
    }
}

impl fmt::Display for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Attribute(name) => write!(f, "the message attribute `{name}`"),
            Self::Pointer { text, .. } => write!(f, "`{text}` of the body"),
        }
    }
}

/// A router with its state.
struct Bound {
    by: By,
    routes: BTreeMap<String, SharedHandler>,
    fallback: Option<SharedHandler>,
    problems: Vec<String>,
    bulkheads: Vec<String>,
}

impl Bound {
    fn new(
        by: By,
        routes: BTreeMap<String, SharedHandler>,
        fallback: Option<SharedHandler>,
        mut problems: Vec<String>,
    ) -> Self {
        problems.extend(by.problem());
        if routes.is_empty() && fallback.is_none() {
            problems.push("a router has no routes and no fallback; add one by `.route(..)`".to_owned());
        }
        if routes.contains_key("") {
            problems.push("a router has a route for the empty type; name the type".to_owned());
        }
        let named = routes
            .iter()
            .map(|(kind, route)| (format!("the route for type `{kind}`"), route));
        for (name, handler) in named.chain(fallback.iter().map(|route| ("the fallback".to_owned(), route))) {
            problems.extend(
                handler
                    .problems()
                    .into_iter()
                    .map(|problem| format!("{name}: {problem}")),
            );
            if handler.batch().is_some() {
                problems.push(format!(
                    "{name} is a batch handler, but routes take one message at a time; give the batch handler a worker and a queue of its own"
                ));
            }
        }
        let mut bulkheads: Vec<_> = routes
            .values()
            .chain(&fallback)
            .flat_map(|route| route.bulkheads())
            .collect();
        bulkheads.sort_unstable();
        bulkheads.dedup();
        Self {
            by,
            routes,
            fallback,
            problems,
            bulkheads,
        }
    }

    fn pick(&self, message: &Message) -> Result<&SharedHandler, Failure> {
        let kind = self.by.kind_of(message);
        let route = kind.as_ref().ok().and_then(|kind| self.routes.get(kind.as_ref()));
        route.or(self.fallback.as_ref()).ok_or_else(|| self.unroutable(kind))
    }

    fn unroutable(&self, kind: Result<Cow<'_, str>, Untyped>) -> Failure {
        let by = &self.by;
        let known: Vec<_> = self.routes.keys().map(|kind| format!("`{kind}`")).collect();
        let known = known.join(", ");
        let why = match kind {
            Ok(kind) => format!(
                "no route is for type `{}`, found in {by}",
                bounded(kind.into_owned(), MAX_TYPE)
            ),
            Err(Untyped::Missing) => format!("the message has no type: {by} is not there"),
            Err(Untyped::NotText(kind)) => format!("the message has no type: {by} is {kind}, but a text is expected"),
            Err(Untyped::NotJson(detail)) => {
                return Failure::reject(format_args!("the body is not JSON, so that {by} has no type: {detail}"))
                    .for_reason(Reason::Malformed);
            }
        };
        Failure::reject(format_args!("{why}; routes are for {known}; add one, or a fallback"))
            .for_reason(Reason::Unroutable)
    }
}

impl ErasedHandler for Bound {
    fn needs_inbox(&self) -> Option<&'static str> {
        self.routes
            .values()
            .chain(&self.fallback)
            .find_map(|route| route.needs_inbox())
    }

    fn batch(&self) -> Option<BatchPolicy> {
        None
    }

    fn bulkhead(&self, message: &Message) -> Option<&str> {
        if self.bulkheads.is_empty() {
            return None;
        }
        self.pick(message).ok()?.bulkhead(message)
    }

    fn bulkheads(&self) -> Vec<String> {
        self.bulkheads.clone()
    }

    fn problems(&self) -> Vec<String> {
        self.problems.clone()
    }

    fn call(&self, context: Context) -> BoxFuture<'static, Outcome> {
        match self.pick(context.message()) {
            Ok(route) => route.call(context),
            Err(failure) => Box::pin(ready(Outcome::Failed(failure))),
        }
    }

    fn call_batch(&self, contexts: Vec<Context>) -> BoxFuture<'static, Vec<Outcome>> {
        let runs: Vec<_> = contexts.into_iter().map(|context| self.call(context)).collect();
        Box::pin(async move {
            let mut outcomes = Vec::with_capacity(runs.len());
            for run in runs {
                outcomes.push(run.await);
            }
            outcomes
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::extract::{Checkpoint, Json, Text};
    use crate::handler::batch;
    use crate::handler::testing::{failure, json, message, run, typed};
    use crate::message::Attribute;

    async fn charge() -> Result<&'static str, Failure> {
        Ok("charged")
    }

    async fn ship() -> Result<&'static str, Failure> {
        Ok("shipped")
    }

    async fn other(body: Text) -> Result<String, Failure> {
        Ok(format!("other {body}"))
    }

    fn router() -> Router {
        Router::new().route("order.created", charge).route("order.paid", ship)
    }

    fn problems(router: Router) -> String {
        router.boxed().with_state(()).problems().join("\n")
    }

    #[tokio::test]
    async fn the_type_picks_the_handler() {
        assert_eq!(json(run(router(), typed("order.created", "{}")).await), "\"charged\"");
        assert_eq!(json(run(router(), typed("order.paid", "{}")).await), "\"shipped\"");
        let by_kind = Router::by_attribute("kind").route("7", charge);
        let mut numbered = message("{}");
        numbered.attributes.insert("kind".into(), Attribute::number(7));
        assert_eq!(json(run(by_kind, numbered).await), "\"charged\"");
    }

    #[tokio::test]
    async fn an_unroutable_message_is_rejected_for_that_reason_and_names_what_there_is() {
        let failed = failure(run(router(), typed("order.deleted", "{}")).await);
        assert_eq!(failed.reason(), Some(&Reason::Unroutable));
        assert_eq!(
            failed.error(),
            "no route is for type `order.deleted`, found in the message attribute `type`; \
             routes are for `order.created`, `order.paid`; add one, or a fallback"
        );
        let untyped = failure(run(router(), message("{}")).await);
        assert_eq!(untyped.reason(), Some(&Reason::Unroutable));
        assert!(untyped.error().contains("`type` is not there"), "{untyped}");
        let mut binary = message("{}");
        binary
            .attributes
            .insert("type".into(), Attribute::binary(b"\xff".as_slice()));
        assert!(failure(run(router(), binary).await).error().contains("is binary"));
        let long = failure(run(router(), typed(&"x".repeat(5_000), "{}")).await);
        assert!(long.error().contains("order.paid"), "{long}");
    }

    #[tokio::test]
    async fn the_fallback_takes_the_rest() {
        let router = || router().fallback(other);
        assert_eq!(json(run(router(), typed("order.deleted", "1")).await), "\"other 1\"");
        assert_eq!(json(run(router(), message("2")).await), "\"other 2\"");
        assert_eq!(json(run(router(), typed("order.paid", "3")).await), "\"shipped\"");
    }

    #[tokio::test]
    async fn a_pointer_finds_the_type_in_the_body() {
        let router = || Router::by_pointer("/meta/type").route("order", charge);
        assert_eq!(
            json(run(router(), message(r#"{"meta":{"type":"order"}}"#)).await),
            "\"charged\""
        );
        for (body, reason, said) in [
            ("{}", Reason::Unroutable, "`/meta/type` of the body is not there"),
            (r#"{"meta":{"type":5}}"#, Reason::Unroutable, "is a number"),
            (r#"{"meta":{"type":"x"}}"#, Reason::Unroutable, "type `x`"),
            ("", Reason::Malformed, "not JSON"),
            ("{,", Reason::Malformed, "not JSON"),
        ] {
            let failed = failure(run(router(), message(body)).await);
            assert_eq!(failed.reason(), Some(&reason), "{body}");
            assert!(failed.error().contains(said), "{failed}");
        }
        assert_eq!(json(run(router().fallback(other), message("{")).await), "\"other {\"");
    }

    #[tokio::test]
    async fn a_malformed_message_of_a_known_type_is_its_handlers_to_reject() {
        async fn strict(Json(_): Json<u64>) -> Result<(), Failure> {
            Ok(())
        }
        let failed = failure(run(Router::new().route("n", strict), typed("n", "x")).await);
        assert_eq!(failed.reason(), Some(&Reason::Malformed));
    }

    #[tokio::test]
    async fn routers_nest_and_merge() {
        let inner = Router::by_pointer("/action").route("ship", ship);
        let outer = Router::new().route("order", inner).merge(router()).fallback(other);
        assert_eq!(
            json(run(outer.clone(), typed("order", r#"{"action":"ship"}"#)).await),
            "\"shipped\""
        );
        assert_eq!(
            json(run(outer.clone(), typed("order.created", "")).await),
            "\"charged\""
        );
        assert_eq!(problems(outer), "");
    }

    #[test]
    fn contradictory_routers_are_refused() {
        let twice = problems(router().route("order.paid", charge));
        assert!(twice.contains("two routes for type `order.paid`"), "{twice}");
        assert!(problems(router().merge(router())).contains("two routes"));
        assert!(problems(router().fallback(other).fallback(other)).contains("two fallbacks"));
        assert!(problems(Router::new()).contains("no routes"));
        assert!(problems(Router::new().route("", charge)).contains("empty type"));
        assert!(problems(Router::by_pointer("type").route("x", charge)).contains("`type`, which is no JSON pointer"));
        assert!(problems(Router::by_attribute("").route("x", charge)).contains("without a name"));
        assert!(problems(router().merge(Router::by_pointer("/t").route("x", charge))).contains("cannot be merged"));
        let nested = problems(Router::new().route("outer", router().route("order.paid", charge)));
        assert!(
            nested.starts_with("the route for type `outer`: a router has two"),
            "{nested}"
        );
        let many = batch(10, Duration::ZERO, async |_: Vec<Text>| {
            Vec::<Result<(), Failure>>::new()
        });
        assert!(problems(Router::new().route("many", many)).contains("`many` is a batch handler"));
        assert!(problems(Router::new().route("x", charge.bulkhead(" "))).contains("empty name"));
        assert_eq!(problems(router()), "");
    }

    #[test]
    fn routes_run_in_their_bulkheads_and_others_in_none() {
        let router = Router::new()
            .route("a", charge.bulkhead("gateway"))
            .route("b", ship)
            .route("c", Router::by_pointer("/t").route("d", ship.bulkhead("carrier")))
            .fallback(other.bulkhead("gateway"));
        let handler = router.clone().boxed().with_state(());
        assert_eq!(handler.bulkheads(), ["carrier", "gateway"]);
        assert_eq!(handler.bulkhead(&typed("a", "")), Some("gateway"));
        assert_eq!(handler.bulkhead(&typed("b", "")), None);
        assert_eq!(handler.bulkhead(&typed("c", r#"{"t":"d"}"#)), Some("carrier"));
        assert_eq!(handler.bulkhead(&typed("unknown", "")), Some("gateway"));
        let whole = router.bulkhead("rest").boxed().with_state(());
        assert_eq!(whole.bulkhead(&typed("a", "")), Some("gateway"));
        assert_eq!(whole.bulkhead(&typed("b", "")), Some("rest"));
        assert_eq!(whole.bulkheads(), ["carrier", "gateway", "rest"]);
    }

    #[test]
    fn a_route_that_needs_an_inbox_makes_the_router_need_one() {
        async fn steps(_: Checkpoint) -> Result<(), Failure> {
            Ok(())
        }
        assert_eq!(router().boxed().with_state(()).needs_inbox(), None);
        assert_eq!(
            router().fallback(steps).boxed().with_state(()).needs_inbox(),
            Some("Checkpoint")
        );
    }
}
