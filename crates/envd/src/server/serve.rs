//! One connection.

use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::UnixStream;

/// How long a caller may take over the head of a request, and may keep a connection for the next.
const HEAD_WITHIN: Duration = Duration::from_secs(640);
/// Bytes of a request's head.
const HEAD_MAX: usize = 64 << 10;
/// Headers of a request.
const HEADERS_MAX: usize = 128;

/// Answers what comes over a connection until it ends.
pub async fn serve(stream: UnixStream, router: Router) {
    let service = TowerToHyperService::new(router);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .max_buf_size(HEAD_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(stream), service);
    // A caller that breaks its connection off is told nothing.
    drop(connection.await);
}
