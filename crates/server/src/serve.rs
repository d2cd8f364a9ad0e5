//! From a configuration to an open port, and back.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::extract::DefaultBodyLimit;
use axum::http::{HeaderValue, header};
use axum::response::{Html, IntoResponse};
use axum::routing::get;
use axum::{Json, Router, middleware};
use casemate_engine::Engine;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tower_http::catch_panic::CatchPanicLayer;

use crate::blobs::Blobs;
use crate::config::Config;
use crate::e2b::sandboxes::look_after;
use crate::e2b::{self, Template};
use crate::error::ApiError;
use crate::guard::guard;
use crate::listen::{Break, Resettable};
use crate::state::{Shared, State};
use crate::store::{Store, StoreError, now_ms};

/// Contents that nothing refers to are removed when they are this old.
const ORPHANED: Duration = Duration::from_secs(3600);

/// Why a server could not be started.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The address is taken, or not one of this machine.
    #[error("listening on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// An address that others can reach, and no key.
    #[error(
        "{0} can be reached from other machines, and there is no key: make one with `casemate key create`"
    )]
    NoKey(SocketAddr),
    /// Its database or its data folder.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Its data folder.
    #[error("the data folder: {0}")]
    Data(#[from] io::Error),
}

/// A server that is up.
pub struct Running {
    /// Where it listens.
    pub address: SocketAddr,
    state: State,
    stop: watch::Sender<bool>,
    served: JoinHandle<io::Result<()>>,
}

/// Opens the port.
///
/// # Errors
/// [`ServeError`]; nothing is left running.
pub async fn start(
    config: Config,
    engine: Arc<Engine>,
    templates: Vec<Template>,
) -> Result<Running, ServeError> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&config.data)?;
    let store = Store::open(&config.data, config.database.as_deref()).await?;
    let asked = config.listen;
    if !asked.ip().is_loopback() && !store.has_keys().await? {
        return Err(ServeError::NoKey(asked));
    }
    let listener = TcpListener::bind(asked).await;
    let listener = listener.map_err(|source| ServeError::Listen {
        address: asked,
        source,
    })?;
    let address = listener.local_addr()?;
    let blobs = Blobs::open(&config.data)?;
    // Whatever an earlier server had begun and not ended, nobody will end now.
    store.mark_lost().await?;
    let state = Arc::new(Shared::new(config, engine, templates, store, blobs));
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(tidy(Arc::clone(&state), stopped.clone()));
    let sandboxes = Arc::clone(&state.sandboxes);
    tokio::spawn(look_after(sandboxes, stopped.clone()));
    let app = router(Arc::clone(&state));
    let served = tokio::spawn(async move {
        let mut stopped = stopped;
        let app = app.into_make_service_with_connect_info::<Break>();
        axum::serve(Resettable(listener), app)
            .with_graceful_shutdown(async move {
                stopped.wait_for(|stop| *stop).await.ok();
            })
            .await
    });
    Ok(Running {
        address,
        state,
        stop,
        served,
    })
}

impl Running {
    /// Takes nothing new, lets what runs end for the grace that was configured, then cancels it.
    ///
    /// # Errors
    /// When serving had failed before.
    pub async fn shut_down(self) -> io::Result<()> {
        self.state.stopping.store(true, Ordering::SeqCst);
        let ended = self.wait_for_runs();
        let in_time = tokio::time::timeout(self.state.config.grace, ended).await;
        if in_time.is_err() {
            self.cancel_all();
            // A cancelled run ends within tens of milliseconds, and stores its outcome.
            let end = self.wait_for_runs();
            tokio::time::timeout(Duration::from_secs(5), end).await.ok();
        }
        for sandbox in self.state.sandboxes.list() {
            self.state.sandboxes.remove(&sandbox.id);
        }
        self.stop.send_replace(true);
        let served = tokio::time::timeout(Duration::from_secs(5), self.served).await;
        match served {
            Ok(Ok(result)) => result,
            Ok(Err(error)) => Err(io::Error::other(error)),
            // A client that keeps its connection open does not keep the server up.
            Err(_) => Ok(()),
        }
    }

    fn live(
        &self,
    ) -> std::sync::MutexGuard<'_, std::collections::HashMap<String, crate::state::Live>> {
        let live = self.state.live.lock();
        live.unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn cancel_all(&self) {
        for live in self.live().values() {
            live.cancel.cancel();
        }
    }

    async fn wait_for_runs(&self) {
        while !self.live().is_empty() {
            let ended = self.state.ended.notified();
            tokio::time::timeout(Duration::from_millis(100), ended)
                .await
                .ok();
        }
    }
}

fn router(state: State) -> Router {
    let document = crate::openapi::document();
    let body = state.config.body_bytes;
    let (routes, _) = crate::routes::router().split_for_parts();
    routes
        .merge(e2b::router())
        .route("/openapi.json", get(|| async move { Json(document) }))
        .route("/docs", get(docs))
        .fallback(|request: axum::extract::Request| async move {
            ApiError::unknown("path", request.uri().path())
        })
        .layer(DefaultBodyLimit::max(body))
        .layer(CatchPanicLayer::custom(
            |_: Box<dyn std::any::Any + Send>| {
                ApiError::fault("a handler failed where it cannot").into_response()
            },
        ))
        .layer(middleware::from_fn_with_state(Arc::clone(&state), guard))
        // Outside the guard: a request that names a sandbox shows that sandbox's token, not a key.
        .layer(middleware::from_fn_with_state(
            Arc::clone(&state),
            e2b::proxy::route,
        ))
        .with_state(state)
}

/// The description for people, without a script.
async fn docs() -> impl IntoResponse {
    let policy = HeaderValue::from_static("default-src 'none'; style-src 'unsafe-inline'");
    let page = crate::docs::page(&crate::openapi::document());
    ([(header::CONTENT_SECURITY_POLICY, policy)], Html(page))
}

/// Every few minutes: forgets runs past their time, and contents that nothing refers to.
async fn tidy(state: State, mut stopped: watch::Receiver<bool>) {
    loop {
        let pause = tokio::time::sleep(Duration::from_secs(300));
        tokio::select! {
            () = pause => {}
            _ = stopped.wait_for(|stop| *stop) => return,
        }
        if let Err(error) = tidy_once(&state).await {
            eprintln!("casemate: tidying up: {error}");
        }
    }
}

async fn tidy_once(state: &State) -> Result<(), StoreError> {
    let keep = i64::try_from(state.config.keep.as_millis()).unwrap_or(i64::MAX);
    state.store.expire(now_ms().saturating_sub(keep)).await?;
    let blobs = state.blobs.clone();
    let old = tokio::task::spawn_blocking(move || blobs.older_than(ORPHANED)).await;
    for name in old.map_err(io::Error::other)?? {
        if !state.store.refers_to(&name).await? {
            let (blobs, name) = (state.blobs.clone(), name.clone());
            tokio::task::spawn_blocking(move || blobs.remove(&name))
                .await
                .map_err(io::Error::other)?;
        }
    }
    Ok(())
}
