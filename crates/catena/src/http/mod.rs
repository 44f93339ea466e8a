//! The HTTP endpoint of a process that serves: `/metrics` for Prometheus, `/healthz` for supervisors, `/status` for tools.
//!
//! It runs on a thread of its own and only asks, so that whoever scrapes too often, or reads too slowly, delays neither
//! heartbeats nor requests. What must hold: connections and their time are bounded; nothing of a key or a chunk is shown;
//! it changes nothing.

mod exposition;
mod manager;
mod node;
mod process;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

pub(crate) use manager::ManagerPages;
pub(crate) use node::NodePages;

use crate::fault::{Doing, Result};

/// Connections at the same time; further ones wait.
const CONNECTIONS: usize = 64;
/// Longest time between two requests of a connection, and for the head of one.
const IDLE: Duration = Duration::from_secs(30);
/// Longest life of a connection.
const LIFE: Duration = Duration::from_secs(3600);
/// Pause after the system refused to accept (no file descriptors, say).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What a process shows of itself at one moment.
pub(crate) struct View {
    /// In the text format of Prometheus.
    pub(crate) metrics: String,
    /// Why it is not healthy; `None` if it is.
    pub(crate) fault: Option<String>,
    /// For tools.
    pub(crate) status: Value,
}

/// What can be looked at.
pub(crate) trait Pages: Send + Sync + 'static {
    /// Looks once.
    fn look(&self) -> impl Future<Output = View> + Send;
}

/// Listens at `addr` and serves `pages` on a thread of its own, until the process ends. Returns where it listens.
pub(crate) fn start(addr: SocketAddr, pages: impl Pages) -> Result<SocketAddr> {
    let doing = format!("serve HTTP at {addr}");
    let listener = std::net::TcpListener::bind(addr).doing(&doing)?;
    listener.set_nonblocking(true).doing(&doing)?;
    let bound = listener.local_addr().doing(&doing)?;
    let runtime = crate::cmd::runtime()?;
    let serve = move || {
        runtime.block_on(async {
            match TcpListener::from_std(listener) {
                Ok(listener) => accept_all(listener, Arc::new(pages)).await,
                Err(e) => tracing::error!("no HTTP at {bound}: {e}"),
            }
        });
    };
    std::thread::Builder::new().name("http".to_owned()).spawn(serve).doing(&doing)?;
    Ok(bound)
}

async fn accept_all(listener: TcpListener, pages: Arc<impl Pages>) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, peer)) => {
                let pages = pages.clone();
                tokio::spawn(async move {
                    let _slot = slot;
                    if let Ok(Err(e)) = tokio::time::timeout(LIFE, serve(stream, pages)).await {
                        tracing::debug!(%peer, "HTTP connection ended: {e}");
                    }
                });
            }
            Err(e) => {
                tracing::warn!("cannot accept an HTTP connection: {e}; trying again");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve(stream: TcpStream, pages: Arc<impl Pages>) -> std::result::Result<(), hyper::Error> {
    let answer = service_fn(move |request: Request<Incoming>| {
        let pages = pages.clone();
        async move { Ok::<_, Infallible>(answer(request.method(), request.uri().path(), &*pages).await) }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(IDLE).serve_connection(TokioIo::new(stream), answer).await
}

async fn answer(method: &Method, path: &str, pages: &impl Pages) -> Response<Full<Bytes>> {
    const TEXT: &str = "text/plain; charset=utf-8";
    if !matches!(*method, Method::GET | Method::HEAD) {
        let mut refused = page(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET is answered here\n".to_owned());
        refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refused;
    }
    match path {
        "/metrics" => page(StatusCode::OK, exposition::CONTENT_TYPE, pages.look().await.metrics),
        "/healthz" => match pages.look().await.fault {
            None => page(StatusCode::OK, TEXT, "ok\n".to_owned()),
            Some(why) => page(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{why}\n")),
        },
        "/status" => page(StatusCode::OK, "application/json", format!("{}\n", pages.look().await.status)),
        _ => page(StatusCode::NOT_FOUND, TEXT, "there are /metrics, /healthz and /status\n".to_owned()),
    }
}

fn page(status: StatusCode, content_type: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
