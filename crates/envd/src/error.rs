//! Errors of the RPC services: a code, a message, and how both are written.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The Connect protocol's codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// The caller went away.
    Canceled,
    /// Nobody knows.
    Unknown,
    /// The request makes no sense, whatever the state.
    InvalidArgument,
    /// Time ran out.
    DeadlineExceeded,
    /// It is not there.
    NotFound,
    /// It is there already.
    AlreadyExists,
    /// Not allowed.
    PermissionDenied,
    /// A limit was reached.
    ResourceExhausted,
    /// The state does not allow it.
    FailedPrecondition,
    /// It was interrupted by another.
    Aborted,
    /// Beyond the end.
    OutOfRange,
    /// There is no such method.
    Unimplemented,
    /// A fault of the server.
    Internal,
    /// Not now.
    Unavailable,
    /// Something is lost for good.
    DataLoss,
    /// Who is calling is not known.
    Unauthenticated,
}

impl Code {
    /// The status of a unary response that carries this code.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::Canceled => 499,
            Self::InvalidArgument | Self::FailedPrecondition | Self::OutOfRange => 400,
            Self::Unauthenticated => 401,
            Self::PermissionDenied => 403,
            Self::NotFound => 404,
            Self::AlreadyExists | Self::Aborted => 409,
            Self::ResourceExhausted => 429,
            Self::Unknown | Self::Internal | Self::DataLoss => 500,
            Self::Unimplemented => 501,
            Self::Unavailable => 503,
            Self::DeadlineExceeded => 504,
        }
    }

    /// The code of a response that says nothing but its status.
    #[must_use]
    pub const fn of_status(status: u16) -> Self {
        match status {
            400 => Self::InvalidArgument,
            401 => Self::Unauthenticated,
            403 => Self::PermissionDenied,
            404 => Self::NotFound,
            409 => Self::AlreadyExists,
            413 | 429 => Self::ResourceExhausted,
            499 => Self::Canceled,
            500 => Self::Internal,
            501 | 505 => Self::Unimplemented,
            502 | 503 => Self::Unavailable,
            504 => Self::DeadlineExceeded,
            _ => Self::Unknown,
        }
    }
}

/// An error of a method, as it crosses the wire.
#[derive(Debug, Clone, PartialEq, Eq, Error, Serialize, Deserialize)]
#[error("{message}")]
pub struct RpcError {
    /// What kind.
    pub code: Code,
    /// In words.
    #[serde(default)]
    pub message: String,
}

impl RpcError {
    /// An error with a message.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }

    /// The error of a response with this status and body: what the body says if it is a Connect error,
    /// else what the status says. Never more than a bounded text.
    #[must_use]
    pub fn of_response(status: u16, body: &[u8]) -> Self {
        #[derive(Deserialize)]
        struct Loose {
            code: Option<serde_json::Value>,
            message: Option<String>,
        }
        let said = serde_json::from_slice::<Loose>(body).ok();
        let code = said
            .as_ref()
            .and_then(|said| said.code.clone())
            .and_then(|code| serde_json::from_value(code).ok());
        let message = said.and_then(|said| said.message);
        Self {
            code: code.unwrap_or_else(|| Code::of_status(status)),
            message: crate::limits::plain(message.as_deref().map_or(body, str::as_bytes)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_read_from_whatever_came() {
        let error = RpcError::of_response(404, br#"{"code":"not_found","message":"no"}"#);
        assert_eq!(error, RpcError::new(Code::NotFound, "no"));
        let error = RpcError::of_response(401, br#"{"code":401,"message":"who"}"#);
        assert_eq!(error, RpcError::new(Code::Unauthenticated, "who"));
        let error = RpcError::of_response(502, b"<html>\x1b[31m");
        assert_eq!(error, RpcError::new(Code::Unavailable, "<html> [31m"));
        let error = RpcError::of_response(500, &vec![b'x'; 1 << 20]);
        assert_eq!(error.message.len(), crate::limits::TEXT_MAX);
    }

    #[test]
    fn codes_are_written_as_the_protocol_says() {
        let text = serde_json::to_string(&RpcError::new(Code::DeadlineExceeded, "late")).unwrap();
        assert_eq!(text, r#"{"code":"deadline_exceeded","message":"late"}"#);
    }
}
