//! What up- and download share: who may, whose, and what is said when it fails.

use std::io;
use std::path::{Path, PathBuf};

use axum::body::Body;
use axum::extract::Query;
use axum::http::{HeaderMap, Response, StatusCode, Uri};
use casemate_envd::signature::{Operation, Signed};
use casemate_envd::{RpcError, TOKEN_HEADER};
use serde::Deserialize;

use crate::agent::{Agent, shown};
use crate::routes::{has_token, refuse};
use crate::users::User;

/// The query of `/files`.
#[derive(Debug, Default, Deserialize)]
pub(super) struct FileQuery {
    pub(super) path: Option<String>,
    username: Option<String>,
    signature: Option<String>,
    signature_expiration: Option<String>,
}

/// What a request is answered with when it is not done.
#[derive(Debug)]
pub(super) struct Refusal(StatusCode, String);

impl Refusal {
    pub(super) fn bad(what: impl Into<String>) -> Self {
        Self(StatusCode::BAD_REQUEST, what.into())
    }

    pub(super) fn not_acceptable() -> Self {
        let what = "identity and gzip can be had";
        Self(StatusCode::NOT_ACCEPTABLE, what.to_owned())
    }

    fn unauthorized(what: &str) -> Self {
        Self(StatusCode::UNAUTHORIZED, what.to_owned())
    }

    /// What the file system says.
    pub(super) fn io(error: &io::Error, path: &Path) -> Self {
        use io::ErrorKind;
        let path = shown(path);
        match error.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory => Self(
                StatusCode::NOT_FOUND,
                format!("path '{path}' does not exist"),
            ),
            ErrorKind::IsADirectory => Self::bad(format!("path '{path}' is a directory")),
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Self(
                StatusCode::INSUFFICIENT_STORAGE,
                format!("not enough disk space for '{path}'"),
            ),
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
                Self(StatusCode::FORBIDDEN, format!("'{path}': {error}"))
            }
            ErrorKind::InvalidFilename | ErrorKind::InvalidInput => {
                Self::bad(format!("'{path}': {error}"))
            }
            _ => Self(
                StatusCode::INTERNAL_SERVER_ERROR,
                format!("'{path}': {error}"),
            ),
        }
    }

    pub(super) fn response(&self) -> Response<Body> {
        refuse(self.0, &self.1)
    }
}

impl From<RpcError> for Refusal {
    fn from(error: RpcError) -> Self {
        let status = StatusCode::from_u16(error.code.status());
        Self(
            status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            error.message,
        )
    }
}

impl FileQuery {
    pub(super) fn of(uri: &Uri) -> Result<Self, Refusal> {
        Query::try_from_uri(uri)
            .map(|Query(query)| query)
            .map_err(|error| Refusal::bad(error.to_string()))
    }

    /// Whether the caller has the token, or a signature for exactly this.
    pub(super) fn admit(
        &self,
        agent: &Agent,
        headers: &HeaderMap,
        operation: Operation,
    ) -> Result<(), Refusal> {
        let Some(token) = agent.token() else {
            return Ok(());
        };
        if has_token(agent, headers) {
            return Ok(());
        }
        let Some(signature) = &self.signature else {
            let what = if headers.contains_key(TOKEN_HEADER) {
                "access token is not the sandbox's"
            } else {
                "missing signature query parameter"
            };
            return Err(Refusal::unauthorized(what));
        };
        let signed = Signed {
            path: self.path.as_deref().unwrap_or_default(),
            operation,
            username: self.username.as_deref().unwrap_or_default(),
            expiration: self.signature_expiration.as_deref(),
        };
        if !signed.matches(&token, signature) {
            return Err(Refusal::unauthorized("invalid signature"));
        }
        if signed.is_expired(jiff::Timestamp::now().as_second()) {
            return Err(Refusal::unauthorized("signature is already expired"));
        }
        Ok(())
    }

    pub(super) fn user(&self, agent: &Agent) -> Result<User, Refusal> {
        let name = self.username.as_deref().filter(|name| !name.is_empty());
        Ok(agent.user(name)?)
    }

    pub(super) fn target(&self, agent: &Agent, user: &User) -> PathBuf {
        agent.resolve(user, self.path.as_deref().unwrap_or_default())
    }
}
