//! From a configuration to an open port, and back.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderValue, header};
use axum::response::{Html, IntoResponse};
use axum::routing::get;
use axum::{Json, Router, middleware};
use casemate_engine::Engine;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tower_http::catch_panic::CatchPanicLayer;

use crate::blobs::Blobs;
use crate::config::Config;
use crate::e2b::sandboxes::look_after;
use crate::e2b::snapshots::Snapshots;
use crate::e2b::{self, Template};
use crate::error::ApiError;
use crate::guard::guard;
use crate::mcp::Door;
use crate::sleep;
use crate::state::{Shared, State};
use crate::store::{Store, StoreError, now_ms};
use crate::tls::{self, TlsError};

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
    /// HTTPS.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Its database or its data folder.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Its data folder.
    #[error("the data folder: {0}")]
    Data(#[from] io::Error),
    /// Others than the user can look into it, or write.
    #[error("others can enter the data folder {0}, which has everybody's data: `chmod 700` it")]
    Open(String),
    /// A server works in it already.
    #[error("another server works in the data folder {0}")]
    InUse(String),
}

/// A server that is up.
pub struct Running {
    /// Where it listens.
    pub address: SocketAddr,
    /// Where it listens for HTTPS, if it does.
    pub tls: Option<SocketAddr>,
    inside: Inside,
    mcp: Arc<Door>,
    served: JoinSet<()>,
}

/// A server without a door: nobody reaches it but who holds it.
pub struct Inside {
    pub(crate) state: State,
    stop: watch::Sender<bool>,
    /// While it is held no other server works in the data folder.
    _lock: std::fs::File,
}

/// Opens the port.
///
/// # Errors
/// [`ServeError`]; nothing is left running.
pub async fn start(
    mut config: Config,
    engine: Arc<Engine>,
    templates: Vec<Template>,
) -> Result<Running, ServeError> {
    let lock = own_folder(&config.data)?;
    more_descriptors();
    let store = Store::open(&config.data, config.database.as_deref()).await?;
    if let Some(address) = config.exposed()
        && !store.has_keys().await?
    {
        return Err(ServeError::NoKey(address));
    }
    let (listener, address) = listen(config.listen).await?;
    let tls = match &config.tls {
        None => None,
        Some(tls) => {
            let name = config.domain_name().unwrap_or("localhost");
            let acceptor = tls::acceptor(tls, name, &config.data)?;
            Some((listen(tls.listen).await?, acceptor))
        }
    };
    // Clients put the scheme before what they are told, and its port is 443 unless they are told another.
    if let (Some(domain), Some(((_, address), _))) = (&mut config.domain, &tls)
        && !domain.contains(':')
        && address.port() != 443
    {
        *domain = format!("{domain}:{}", address.port());
    }
    let inside = Inside::of(config, engine, templates, store, lock).await?;
    let (state, stopped) = (&inside.state, inside.stop.subscribe());
    let mcp = Door::new(state);
    let idle = state.config.mcp_idle;
    tokio::spawn(Arc::clone(&mcp).look_after(idle, stopped.clone()));
    let app = router(Arc::clone(state), &mcp);
    let mut served = JoinSet::new();
    let https = tls.as_ref().map(|((_, address), _)| *address);
    if let Some(((listener, _), acceptor)) = tls {
        let (app, stopped) = (app.clone(), stopped.clone());
        served.spawn(crate::listen::serve(listener, Some(acceptor), app, stopped));
    }
    served.spawn(crate::listen::serve(listener, None, app, stopped));
    Ok(Running {
        address,
        tls: https,
        inside,
        mcp,
        served,
    })
}

async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), ServeError> {
    let listener = TcpListener::bind(address).await;
    let listener = listener.map_err(|source| ServeError::Listen { address, source })?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

/// Makes the data folder where it is missing, and takes it.
fn own_folder(data: &Path) -> Result<std::fs::File, ServeError> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(data)?;
    if std::fs::metadata(data)?.permissions().mode() & 0o077 != 0 {
        return Err(ServeError::Open(data.display().to_string()));
    }
    let lock = std::fs::File::create(data.join("lock"))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(std::fs::TryLockError::WouldBlock) => {
            Err(ServeError::InUse(data.display().to_string()))
        }
        Err(std::fs::TryLockError::Error(error)) => Err(error.into()),
    }
}

/// A connection is a descriptor, and the usual 1,024 are as many as there may be connections. Where there can
/// be no more, connections wait for one.
fn more_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let now = getrlimit(Resource::Nofile);
    let wanted = now.maximum.unwrap_or(u64::MAX).min(8192);
    if now.current.is_some_and(|current| current < wanted) {
        let raised = Rlimit {
            current: Some(wanted),
            maximum: now.maximum,
        };
        setrlimit(Resource::Nofile, raised).ok();
    }
}

impl Inside {
    /// What a server is without a door.
    ///
    /// # Errors
    /// [`ServeError`]; nothing is left running.
    pub async fn open(
        config: Config,
        engine: Arc<Engine>,
        templates: Vec<Template>,
    ) -> Result<Self, ServeError> {
        let lock = own_folder(&config.data)?;
        let store = Store::open(&config.data, config.database.as_deref()).await?;
        Self::of(config, engine, templates, store, lock).await
    }

    async fn of(
        config: Config,
        engine: Arc<Engine>,
        templates: Vec<Template>,
        store: Store,
        lock: std::fs::File,
    ) -> Result<Self, ServeError> {
        let blobs = Blobs::open(&config.data)?;
        let snapshots = Snapshots::open(&config.data)?;
        sleep::clear(&config.data)?;
        // Whatever an earlier server had begun and not ended, nobody will end now.
        store.mark_all_lost().await?;
        let state = Arc::new(Shared::new(
            config, engine, templates, store, blobs, snapshots,
        ));
        let (stop, stopped) = watch::channel(false);
        tokio::spawn(tidy(Arc::clone(&state), stopped.clone()));
        tokio::spawn(look_after(Arc::clone(&state), stopped));
        Ok(Self {
            state,
            stop,
            _lock: lock,
        })
    }

    /// Takes nothing new, lets what runs end for the grace that was configured, then cancels it.
    ///
    /// # Errors
    /// When serving had failed before.
    pub async fn shut_down(self) -> io::Result<()> {
        self.quiet().await?;
        self.stop.send_replace(true);
        Ok(())
    }

    async fn quiet(&self) -> io::Result<()> {
        self.state.stop();
        let ended = self.wait_for_runs();
        let in_time = tokio::time::timeout(self.state.config.grace, ended).await;
        if in_time.is_err() {
            self.state.cancel_all();
            // A cancelled run ends within tens of milliseconds, and stores its outcome.
            let end = self.wait_for_runs();
            tokio::time::timeout(Duration::from_secs(5), end).await.ok();
        }
        let spares = Arc::clone(&self.state.spares);
        let closed = tokio::task::spawn_blocking(move || spares.close()).await;
        closed.map_err(io::Error::other)?;
        self.state
            .sandboxes
            .remove_all(Duration::from_secs(10))
            .await;
        Ok(())
    }

    async fn wait_for_runs(&self) {
        while self.state.live_count() > 0 {
            let ended = self.state.ended.notified();
            tokio::time::timeout(Duration::from_millis(100), ended)
                .await
                .ok();
        }
    }
}

impl Running {
    /// Takes nothing new, lets what runs end for the grace that was configured, then cancels it.
    ///
    /// # Errors
    /// When serving had failed before.
    pub async fn shut_down(self) -> io::Result<()> {
        self.inside.quiet().await?;
        self.mcp.shut().await;
        self.inside.stop.send_replace(true);
        let mut served = self.served;
        let all = async {
            while let Some(ended) = served.join_next().await {
                ended.map_err(io::Error::other)?;
            }
            Ok(())
        };
        // A client that keeps its connection open does not keep the server up.
        let in_time = tokio::time::timeout(Duration::from_secs(5), all).await;
        in_time.unwrap_or(Ok(()))
    }
}

fn router(state: State, mcp: &Arc<Door>) -> Router {
    let document = crate::openapi::document();
    let (routes, _) = crate::routes::router().split_for_parts();
    routes
        .merge(e2b::router())
        .merge(mcp.router())
        .route("/openapi.json", get(|| async move { Json(document) }))
        .route("/docs", get(docs))
        .merge(crate::console::router())
        .fallback(|request: axum::extract::Request| async move {
            ApiError::unknown("path", request.uri().path())
        })
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
    let before = |keep: Duration| {
        let keep = i64::try_from(keep.as_millis()).unwrap_or(i64::MAX);
        now_ms().saturating_sub(keep)
    };
    state.store.expire(before(state.config.keep)).await?;
    state
        .store
        .expire_audit(before(state.config.keep_audit))
        .await?;
    if let Some(keep) = state.config.keep_uploads {
        state.store.expire_uploads(before(keep)).await?;
    }
    let blobs = state.blobs.clone();
    let old = tokio::task::spawn_blocking(move || blobs.older_than(ORPHANED)).await;
    for old in old.map_err(io::Error::other)?? {
        let _alone = state.contents.write().await;
        let owners = state.store.owners(&old.name).await?;
        if !old.is_of(&owners) {
            let blobs = state.blobs.clone();
            tokio::task::spawn_blocking(move || blobs.remove(&old))
                .await
                .map_err(io::Error::other)??;
        }
    }
    Ok(())
}
