//! HTTP/1.1: which call a request is, and when it is answered.

use std::cell::RefCell;
use std::convert::Infallible;
use std::io;
use std::rc::Rc;
use std::time::Instant;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::Notify;

use crate::answer::{Answer, Parts};
use crate::sqs::protocol::{Called, Receive};
use crate::timers::Timers;
use crate::world::World;
use crate::{control, dynamodb, sqs};

/// What every connection shares.
pub(crate) struct Shared {
    pub(crate) world: RefCell<World>,
    timers: Timers,
    changes: Rc<Notify>,
    answered: std::cell::Cell<u64>,
}

impl Shared {
    /// Must be made within a runtime.
    pub(crate) fn new(endpoint: String) -> io::Result<Rc<Self>> {
        let changes = Rc::new(Notify::new());
        Ok(Rc::new(Self {
            world: RefCell::new(World::new(endpoint, Rc::clone(&changes))),
            timers: Timers::new()?,
            changes,
            answered: std::cell::Cell::new(0),
        }))
    }
}

/// Serves until it is dropped, within a `LocalSet`.
///
/// # Errors
/// When connections cannot be taken any more.
pub(crate) async fn serve(shared: Rc<Shared>, listener: TcpListener) -> io::Result<()> {
    let timers = shared.timers.clone();
    let accept = async {
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                // A client that was gone before it was met.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
                Err(error) => return Err(error),
            };
            // It fails on a connection that is closed already, which serving finds out.
            let _ = stream.set_nodelay(true);
            let shared = Rc::clone(&shared);
            tokio::task::spawn_local(async move {
                let service = service_fn(move |request| answer(Rc::clone(&shared), request));
                let connection =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                // A client that goes away is none of ours to report.
                let _ = connection.await;
            });
        }
    };
    tokio::select! {
        failed = accept => failed,
        failed = timers.run() => failed,
    }
}

async fn answer(shared: Rc<Shared>, request: Request<Incoming>) -> Result<Response<Parts>, Infallible> {
    let (head, body) = request.into_parts();
    let body = match body.collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => return Ok(shared.response(Answer::error("SerializationException", &error.to_string()), "1.0")),
    };
    let arrived = Instant::now();
    let target = head.headers.get("x-amz-target").and_then(|target| target.to_str().ok());
    let (answer, json) = match target.filter(|_| head.method == Method::POST) {
        Some(target) => {
            let latency = shared.world.borrow().latency();
            let (answer, decided) = shared.call(target, &body, arrived).await;
            if !latency.is_zero() {
                shared.timers.at(decided + latency).await;
            }
            (answer, "1.0")
        }
        None => (
            control::answer(&mut shared.world.borrow_mut(), &head.method, head.uri.path(), &body),
            "",
        ),
    };
    Ok(shared.response(answer, json))
}

impl Shared {
    /// Makes a call; answers when it was decided too.
    async fn call(&self, target: &str, body: &Bytes, arrived: Instant) -> (Answer, Instant) {
        let known = |names: &[&'static str], name: &str| names.iter().copied().find(|known| *known == name);
        let answer = match target.split_once('.') {
            Some(("AmazonSQS", name)) => known(&sqs::protocol::OPERATIONS, name).map(|operation| {
                let mut world = self.world.borrow_mut();
                sqs::protocol::call(&mut world, operation, body, arrived)
            }),
            Some(("DynamoDB_20120810", name)) => known(&dynamodb::protocol::OPERATIONS, name).map(|operation| {
                let mut world = self.world.borrow_mut();
                Called::Done(dynamodb::protocol::call(&mut world, operation, body))
            }),
            _ => None,
        };
        match answer {
            Some(Called::Done(answer)) => (answer, arrived),
            Some(Called::Receive(receive)) => self.receive(&receive, arrived).await,
            None => {
                let message = format!("the stand-in has no operation {target}");
                (Answer::error("UnknownOperationException", &message), arrived)
            }
        }
    }

    /// Receives, and waits for something to receive.
    async fn receive(&self, receive: &Receive, arrived: Instant) -> (Answer, Instant) {
        let mut now = arrived;
        loop {
            let changed = self.changes.notified();
            let received = sqs::protocol::receive(&mut self.world.borrow_mut(), receive, now);
            match received {
                Ok(answer) => return (answer, now),
                Err(next) => {
                    tokio::select! {
                        biased;
                        () = changed => {}
                        () = self.timers.at(next) => {}
                    }
                    now = Instant::now();
                }
            }
        }
    }

    fn response(&self, answer: Answer, json: &'static str) -> Response<Parts> {
        let number = self.answered.get() + 1;
        self.answered.set(number);
        let mut response = Response::new(answer.body);
        *response.status_mut() = hyper::StatusCode::from_u16(answer.status).unwrap_or_default();
        let kind = match json {
            "1.0" => "application/x-amz-json-1.0",
            _ => "application/json",
        };
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        if let Ok(id) = HeaderValue::from_str(&format!("57a4d190-0000-4000-8000-{number:012x}")) {
            headers.insert("x-amzn-requestid", id);
        }
        response
    }
}
