//! Errors as every client sees them: `{code, message, cause, remediation, request_id}`.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

/// The body of every error.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct ErrorBody {
    /// The HTTP status.
    pub(crate) code: u16,
    /// What happened, in a sentence.
    pub(crate) message: String,
    /// A fixed word for programs, such as `unknown_run`.
    pub(crate) cause: &'static str,
    /// What to do about it.
    pub(crate) remediation: String,
    /// What to search the server's log for.
    pub(crate) request_id: String,
}

/// An error on its way to a client.
#[derive(Debug, Clone)]
pub(crate) struct ApiError {
    status: StatusCode,
    cause: &'static str,
    message: String,
    remediation: String,
    retry_after_s: Option<u64>,
}

impl ApiError {
    fn new(
        status: StatusCode,
        cause: &'static str,
        message: impl Into<String>,
        remediation: impl Into<String>,
    ) -> Self {
        Self {
            status,
            cause,
            message: message.into(),
            remediation: remediation.into(),
            retry_after_s: None,
        }
    }

    /// The request cannot be understood.
    pub(crate) fn bad(message: impl Into<String>, remediation: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", message, remediation)
    }

    /// No key, or not one of ours.
    pub(crate) fn unauthorized(message: impl Into<String>) -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "unauthorized",
            message,
            "send a key as `X-API-Key: KEY` or `Authorization: Bearer KEY`; `casemate key create` makes one",
        )
    }

    /// The key, or the place the request comes from, does not allow it.
    pub(crate) fn forbidden(message: impl Into<String>, remediation: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", message, remediation)
    }

    /// There is no such thing, or it is another tenant's: the two look the same.
    pub(crate) fn unknown(what: &'static str, id: &str) -> Self {
        let (cause, list) = match what {
            "run" => ("unknown_run", "GET /v1/runs lists yours"),
            "upload" => ("unknown_upload", "GET /v1/uploads lists yours"),
            "artifact" => ("unknown_artifact", "the run's outcome lists its artifacts"),
            "policy" => ("unknown_policy", "GET /v1/policies lists them"),
            "sandbox" => ("unknown_sandbox", "GET /v1/sandboxes lists yours"),
            "MCP session" => (
                "unknown_mcp_session",
                "send `initialize` without Mcp-Session-Id to begin a new one",
            ),
            _ => ("not_found", "GET /openapi.json lists what there is"),
        };
        let id: String = id.chars().take(120).collect();
        Self::new(
            StatusCode::NOT_FOUND,
            cause,
            format!("there is no {what} {id:?}"),
            list,
        )
    }

    /// There is no such thing, in words of its own.
    pub(crate) fn missing(
        cause: &'static str,
        message: impl Into<String>,
        remediation: impl Into<String>,
    ) -> Self {
        Self::new(StatusCode::NOT_FOUND, cause, message, remediation)
    }

    /// It contradicts what was said before.
    pub(crate) fn conflict(message: impl Into<String>, remediation: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "conflict", message, remediation)
    }

    /// A body is larger than is taken.
    pub(crate) fn too_large(most: usize) -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too_large",
            format!("the body is larger than the {most} bytes this server takes"),
            "send less, or upload the files one by one",
        )
    }

    /// The files of a run are more than may be handed to one.
    pub(crate) fn too_much(message: impl Into<String>) -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too_large",
            message,
            "hand fewer or smaller files to one run",
        )
    }

    /// A client took too long.
    pub(crate) fn slow() -> Self {
        Self::new(
            StatusCode::REQUEST_TIMEOUT,
            "too_slow",
            "the body did not arrive in time",
            "send it faster: 20 seconds, and a second more for each 64 KiB",
        )
    }

    /// The path is there, and takes other methods.
    pub(crate) fn method(allowed: &str) -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method_not_allowed",
            "this path does not take that method",
            format!("use one of: {allowed}"),
        )
    }

    /// A request of the Model Context Protocol that is none.
    pub(crate) fn protocol(status: StatusCode, message: impl Into<String>) -> Self {
        Self::new(
            status,
            "protocol",
            message,
            "speak the Model Context Protocol, as its clients do: streamable HTTP, from `initialize` on",
        )
    }

    /// Too much at once.
    pub(crate) fn busy(message: impl Into<String>, retry_after_s: u64) -> Self {
        let mut error = Self::new(
            StatusCode::TOO_MANY_REQUESTS,
            "too_many_requests",
            message,
            format!("send it again after {retry_after_s} s, or fewer at once"),
        );
        error.retry_after_s = Some(retry_after_s);
        error
    }

    /// The disk has no room.
    pub(crate) fn full(message: impl Into<String>) -> Self {
        Self::new(
            StatusCode::INSUFFICIENT_STORAGE,
            "no_space",
            message,
            "make room in the server's data folder, or delete uploads and runs",
        )
    }

    /// A sandbox that lives on cannot be had, or does not answer.
    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "sandbox_unavailable",
            message,
            "`casemate doctor` on the server says which walls can stand there; a sandbox that does not answer can be deleted",
        )
    }

    /// What is asked of a sandbox cannot be done there.
    pub(crate) fn inside(status: StatusCode, message: impl Into<String>) -> Self {
        Self::new(
            status,
            "sandbox_refused",
            message,
            "this is the sandbox's own word: look at what is in it, or ask for something else",
        )
    }

    /// We failed.
    pub(crate) fn fault(message: impl ToString) -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            message.to_string(),
            "this is not your program's fault; send it again, and look into the server's log for the request id",
        )
    }

    /// The database is somebody else's for too long.
    pub(crate) fn database_busy(message: impl Into<String>) -> Self {
        let mut error = Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "database_busy",
            message,
            "send it again in a moment; an operator should look for what holds the database",
        );
        error.retry_after_s = Some(2);
        error
    }

    /// The server is going down.
    pub(crate) fn stopping() -> Self {
        let mut error = Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "stopping",
            "the server is shutting down",
            "send it again in a moment",
        );
        error.retry_after_s = Some(2);
        error
    }

    /// The status.
    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    /// The body with a request's id.
    pub(crate) fn body(&self, request_id: &str) -> ErrorBody {
        ErrorBody {
            code: self.status.as_u16(),
            message: self.message.clone(),
            cause: self.cause,
            remediation: self.remediation.clone(),
            request_id: request_id.to_owned(),
        }
    }
}

/// The error travels in the response's extensions until `guard` knows the request's id.
impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body(""))).into_response();
        if let Some(seconds) = self.retry_after_s {
            let seconds = HeaderValue::from(seconds);
            response.headers_mut().insert(header::RETRY_AFTER, seconds);
        }
        response.extensions_mut().insert(self);
        response
    }
}

impl From<crate::store::StoreError> for ApiError {
    fn from(error: crate::store::StoreError) -> Self {
        use crate::store::StoreError;
        match error {
            StoreError::Full(_) => Self::full(error.to_string()),
            StoreError::Busy(_) => Self::database_busy(error.to_string()),
            other => Self::fault(other.to_string()),
        }
    }
}
