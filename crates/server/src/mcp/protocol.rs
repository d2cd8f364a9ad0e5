//! The protocol's sessions at `/mcp`: whose each is, how many a tenant has, and when an idle one ends.
//!
//! They hold no state of ours but the tools; a client that has one is not yet anybody. Who calls is told by the key
//! of each request, and a session answers to the key alone that opened it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::Stream;
use rmcp::model::{ClientJsonRpcMessage, ServerJsonRpcMessage};
use rmcp::transport::streamable_http_server::session::local::{
    LocalSessionManager, LocalSessionManagerError, SessionTransport,
};
use rmcp::transport::streamable_http_server::session::{
    ServerSseMessage, SessionId, SessionManager,
};
use thiserror::Error;

use crate::guard::Caller;

/// Sessions of one tenant. Beyond them the one that was idle the longest makes room.
pub(super) const MOST: usize = 64;

/// Who opened a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Owner {
    tenant: String,
    key: String,
}

impl Owner {
    pub(super) fn of(caller: &Caller) -> Self {
        Self {
            tenant: caller.name().to_owned(),
            key: caller.who().to_owned(),
        }
    }
}

/// A request on its way, which may open a session.
#[derive(Debug, Clone)]
pub(super) struct Opening {
    owner: Owner,
    refused: Arc<AtomicBool>,
}

impl Opening {
    pub(super) fn by(caller: &Caller) -> Self {
        Self {
            owner: Owner::of(caller),
            refused: Arc::default(),
        }
    }

    /// Whether there was no room for one more.
    pub(super) fn was_refused(&self) -> bool {
        self.refused.load(Ordering::SeqCst)
    }
}

tokio::task_local! {
    /// What is opened is the request's own: the library that opens it does not know whose that is.
    pub(super) static OPENING: Opening;
}

/// One session.
struct Held {
    owner: Owner,
    used: Instant,
    /// Held besides by each answer of it that is on its way.
    in_hand: Arc<()>,
}

impl Held {
    fn is_busy(&self) -> bool {
        Arc::strong_count(&self.in_hand) > 1
    }
}

/// All of them.
#[derive(Default)]
pub(super) struct Protocol {
    local: LocalSessionManager,
    held: Mutex<HashMap<SessionId, Held>>,
}

/// Why a session cannot be opened or used.
#[derive(Debug, Error)]
pub(super) enum ProtocolError {
    /// All that a tenant may have are at work.
    #[error("this tenant has {MOST} sessions of the protocol at work")]
    Full,
    /// It was not opened by a request.
    #[error("nobody opens it")]
    Nobody,
    /// The library's own.
    #[error(transparent)]
    Local(#[from] LocalSessionManagerError),
}

impl Protocol {
    pub(super) fn new() -> Self {
        let mut protocol = Self::default();
        // `end_idle` does it, which knows of calls that take long.
        protocol.local.session_config.keep_alive = None;
        protocol
    }

    fn held(&self) -> MutexGuard<'_, HashMap<SessionId, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request of a session: none where it is not the caller's, or there is no such session. What comes back is
    /// held until the request is answered.
    pub(super) fn enter(&self, id: &str, caller: &Caller) -> Option<Arc<()>> {
        let mut all = self.held();
        let session = all.get_mut(id)?;
        if session.owner != Owner::of(caller) {
            return None;
        }
        session.used = Instant::now();
        Some(Arc::clone(&session.in_hand))
    }

    /// Remembers whose a new session is, and gives the one that makes room for it where there must be one.
    fn admit(&self, id: &SessionId, owner: &Owner) -> Result<Option<SessionId>, ProtocolError> {
        let mut all = self.held();
        let own = || {
            all.iter()
                .filter(|(_, session)| session.owner.tenant == owner.tenant)
        };
        let mut oldest = None;
        if own().count() >= MOST {
            let idle = own().filter(|(_, session)| !session.is_busy());
            let first = idle.min_by_key(|(_, session)| session.used);
            oldest = Some(first.ok_or(ProtocolError::Full)?.0.clone());
        }
        if let Some(oldest) = &oldest {
            all.remove(oldest);
        }
        let session = Held {
            owner: owner.clone(),
            used: Instant::now(),
            in_hand: Arc::default(),
        };
        all.insert(Arc::clone(id), session);
        Ok(oldest)
    }

    /// Ends those that nobody has used for so long.
    pub(super) async fn end_idle(&self, idle: Duration) {
        let mut over = Vec::new();
        for (id, session) in self.held().iter_mut() {
            if session.is_busy() {
                session.used = Instant::now();
            } else if session.used.elapsed() >= idle {
                over.push(Arc::clone(id));
            }
        }
        for id in over {
            if let Err(error) = self.close_session(&id).await {
                eprintln!("casemate: ending an idle session of /mcp: {error}");
            }
        }
    }
}

impl SessionManager for Protocol {
    type Error = ProtocolError;
    type Transport = SessionTransport;

    async fn create_session(&self) -> Result<(SessionId, Self::Transport), ProtocolError> {
        let opening = OPENING.try_with(Opening::clone);
        let opening = opening.map_err(|_| ProtocolError::Nobody)?;
        let (id, transport) = self.local.create_session().await?;
        match self.admit(&id, &opening.owner) {
            Ok(None) => {}
            Ok(Some(oldest)) => self.local.close_session(&oldest).await?,
            Err(full) => {
                opening.refused.store(true, Ordering::SeqCst);
                self.local.close_session(&id).await?;
                return Err(full);
            }
        }
        Ok((id, transport))
    }

    async fn initialize_session(
        &self,
        id: &SessionId,
        message: ClientJsonRpcMessage,
    ) -> Result<ServerJsonRpcMessage, ProtocolError> {
        Ok(self.local.initialize_session(id, message).await?)
    }

    async fn has_session(&self, id: &SessionId) -> Result<bool, ProtocolError> {
        Ok(self.local.has_session(id).await?)
    }

    async fn close_session(&self, id: &SessionId) -> Result<(), ProtocolError> {
        self.held().remove(id);
        Ok(self.local.close_session(id).await?)
    }

    async fn create_stream(
        &self,
        id: &SessionId,
        message: ClientJsonRpcMessage,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, ProtocolError> {
        Ok(self.local.create_stream(id, message).await?)
    }

    async fn accept_message(
        &self,
        id: &SessionId,
        message: ClientJsonRpcMessage,
    ) -> Result<(), ProtocolError> {
        Ok(self.local.accept_message(id, message).await?)
    }

    async fn create_standalone_stream(
        &self,
        id: &SessionId,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, ProtocolError> {
        Ok(self.local.create_standalone_stream(id).await?)
    }

    async fn resume(
        &self,
        id: &SessionId,
        last_event_id: String,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, ProtocolError> {
        Ok(self.local.resume(id, last_event_id).await?)
    }
}
