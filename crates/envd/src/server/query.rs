//! What up- and download share: who may, whose, and what is said when it fails.

use std::io;
use std::path::Path;

use axum::body::Body;
use axum::extract::Query;
use axum::http::{HeaderMap, Response, StatusCode, Uri, header};
use serde::Deserialize;

use super::http::{has_token, refuse};
use super::paths::text;
use crate::signature::{Operation, Signed};
use crate::{Code, RpcError, TOKEN_HEADER};

/// The query of `/files`.
#[derive(Debug, Default, Deserialize)]
pub struct FileQuery {
    /// The path, as the caller wrote it.
    pub path: Option<String>,
    username: Option<String>,
    signature: Option<String>,
    signature_expiration: Option<String>,
}

/// What a request is answered with when it is not done.
#[derive(Debug)]
pub struct Refusal(pub StatusCode, pub String);

impl Refusal {
    /// The request makes no sense.
    pub fn bad(what: impl Into<String>) -> Self {
        Self(StatusCode::BAD_REQUEST, what.into())
    }

    /// The caller takes no form of it that there is.
    #[must_use]
    pub fn not_acceptable() -> Self {
        let what = "identity and gzip can be had";
        Self(StatusCode::NOT_ACCEPTABLE, what.to_owned())
    }

    fn unauthorized(what: &str) -> Self {
        Self(StatusCode::UNAUTHORIZED, what.to_owned())
    }

    /// What the file system says.
    #[must_use]
    pub fn io(error: &io::Error, path: &Path) -> Self {
        use io::ErrorKind;
        let path = text(path);
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

    /// As a response.
    #[must_use]
    pub fn response(&self) -> Response<Body> {
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
    /// Of a request's address.
    ///
    /// # Errors
    /// When it is no such query.
    pub fn of(uri: &Uri) -> Result<Self, Refusal> {
        Query::try_from_uri(uri)
            .map(|Query(query)| query)
            .map_err(|error| Refusal::bad(error.to_string()))
    }

    /// Whether the caller has the token, or a signature for exactly this. Where there is no token everybody has it.
    ///
    /// # Errors
    /// Why not.
    pub fn admit(
        &self,
        token: Option<&str>,
        headers: &HeaderMap,
        operation: Operation,
    ) -> Result<(), Refusal> {
        let Some(known) = token else {
            return Ok(());
        };
        if has_token(token, headers) {
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
        if !signed.matches(known, signature) {
            return Err(Refusal::unauthorized("invalid signature"));
        }
        if signed.is_expired(jiff::Timestamp::now().as_second()) {
            return Err(Refusal::unauthorized("signature is already expired"));
        }
        Ok(())
    }

    /// The user that is named, if one is.
    #[must_use]
    pub fn user(&self) -> Option<&str> {
        self.username.as_deref().filter(|name| !name.is_empty())
    }
}

/// What the file system says, in the protocol's words.
#[must_use]
pub fn failed(error: &io::Error, path: &Path) -> RpcError {
    use io::ErrorKind;
    let path = text(path);
    let (code, what) = match error.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => {
            (Code::NotFound, format!("path '{path}' does not exist"))
        }
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
            (Code::PermissionDenied, format!("'{path}': {error}"))
        }
        ErrorKind::AlreadyExists | ErrorKind::DirectoryNotEmpty => {
            (Code::AlreadyExists, format!("'{path}': {error}"))
        }
        ErrorKind::InvalidInput | ErrorKind::InvalidFilename | ErrorKind::IsADirectory => {
            (Code::InvalidArgument, format!("'{path}': {error}"))
        }
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            (Code::ResourceExhausted, format!("'{path}': {error}"))
        }
        _ => (Code::Internal, format!("'{path}': {error}")),
    };
    RpcError::new(code, what)
}

/// How a file is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    /// As it is.
    Identity,
    /// Compressed.
    Gzip,
}

/// How a caller wants it: compressed when nothing else is asked for.
#[must_use]
pub fn coding(headers: &HeaderMap) -> Option<Coding> {
    let Some(accepted) = headers.get(header::ACCEPT_ENCODING) else {
        return Some(Coding::Identity);
    };
    let accepted = accepted.to_str().unwrap_or_default().to_ascii_lowercase();
    let mut only_gzip = !accepted.trim().is_empty();
    let (mut gzip, mut identity) = (false, true);
    for part in accepted.split(',') {
        let (name, parameters) = part.split_once(';').unwrap_or((part, ""));
        let quality = parameters.trim().strip_prefix("q=").map(str::trim);
        let wanted = quality.is_none_or(|q| q.parse::<f32>().is_ok_and(|q| q > 0.0));
        match (name.trim(), wanted) {
            ("gzip", wanted) => gzip = wanted,
            ("identity" | "*", false) => identity = false,
            (_, true) => only_gzip = false,
            _ => {}
        }
    }
    match (gzip, identity) {
        (true, _) if only_gzip => Some(Coding::Gzip),
        (_, true) => Some(Coding::Identity),
        (true, false) => Some(Coding::Gzip),
        (false, false) => None,
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn a_file_is_compressed_for_who_asks_for_nothing_else() {
        let of = |text: &str| {
            let value = HeaderValue::from_str(text).unwrap();
            coding(&[(header::ACCEPT_ENCODING, value)].into_iter().collect())
        };
        assert_eq!(coding(&HeaderMap::new()), Some(Coding::Identity));
        assert_eq!(of("gzip"), Some(Coding::Gzip));
        assert_eq!(of("gzip;q=1.0, identity;q=0"), Some(Coding::Gzip));
        assert_eq!(of("gzip, deflate, br"), Some(Coding::Identity));
        assert_eq!(of("identity"), Some(Coding::Identity));
        assert_eq!(of(""), Some(Coding::Identity));
        assert_eq!(of("br, *;q=0, gzip"), Some(Coding::Gzip));
        assert_eq!(of("br, identity;q=0"), None);
        assert_eq!(of("gzip;q=0, *;q=0"), None);
    }
}
