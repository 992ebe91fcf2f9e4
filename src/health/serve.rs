//! Connections, on a thread and a runtime of their own.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::TcpListener as StdListener;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::answer::View;
use crate::telemetry::said;

/// How many connections there may be at once.
const MAX_CONNECTIONS: usize = 64;

/// How long the head of a request may take to come.
const HEAD_WITHIN: Duration = Duration::from_secs(5);

/// How long a connection may live.
const DONE_WITHIN: Duration = Duration::from_secs(10);

/// The most bytes of a request that are held.
const MAX_REQUEST: usize = 16 * 1024;

/// How long to wait after a connection could not be taken, when the process has no file descriptor left, say.
const AFTER_A_FAILURE: Duration = Duration::from_millis(200);

/// Serves until it is to stop.
pub(super) fn until(listener: StdListener, view: Arc<View>, stop: CancellationToken) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build();
    match runtime {
        Ok(runtime) => runtime.block_on(async {
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = serve(listener, view) => {}
            }
        }),
        Err(error) => {
            tracing::warn!(error = %said(&error), "the health endpoint cannot start, and the work goes on without it")
        }
    }
}

async fn serve(listener: StdListener, view: Arc<View>) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::warn!(error = %said(&error), "the health endpoint cannot listen, and the work goes on without it");
            return;
        }
    };
    let mut connections = JoinSet::new();
    let mut oldest_first: VecDeque<AbortHandle> = VecDeque::new();
    let mut complained = false;
    loop {
        tokio::select! {
            biased;
            Some(_) = connections.join_next(), if !connections.is_empty() => {
                oldest_first.retain(|connection| !connection.is_finished());
            }
            taken = listener.accept() => match taken {
                Ok((stream, _)) => {
                    // Whoever asks is done at once; who stays for long only holds a place.
                    if oldest_first.len() >= MAX_CONNECTIONS
                        && let Some(oldest) = oldest_first.pop_front()
                    {
                        oldest.abort();
                    }
                    oldest_first.push_back(connections.spawn(connection(stream, Arc::clone(&view))));
                }
                Err(error) => {
                    if !std::mem::replace(&mut complained, true) {
                        tracing::warn!(error = %said(&error), "the health endpoint could not take a connection");
                    }
                    tokio::time::sleep(AFTER_A_FAILURE).await;
                }
            },
        }
    }
}

async fn connection(stream: TcpStream, view: Arc<View>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let view = Arc::clone(&view);
        async move { Ok::<_, Infallible>(respond(&view, &request)) }
    });
    let mut http = http1::Builder::new();
    http.keep_alive(false)
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .max_buf_size(MAX_REQUEST)
        .max_headers(64);
    // What goes wrong with one connection is its client's to see.
    let _ = tokio::time::timeout(DONE_WITHIN, http.serve_connection(TokioIo::new(stream), service)).await;
}

fn respond(view: &View, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let answer = view.answer(request.method().as_str(), request.uri().path());
    let mut response = Response::new(Full::new(Bytes::from(answer.body)));
    *response.status_mut() = StatusCode::from_u16(answer.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(answer.kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if answer.allow {
        headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    response
}
