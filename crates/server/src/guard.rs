//! Who asks, and from where: what every request passes before a handler sees it.
//!
//! On a loopback address, while no key was ever made, any key and none is taken, so that a first
//! program works at once. A page in the user's browser reaches loopback too, by a rebound name or a
//! cross-site request; both give themselves away by `Host` and `Origin`, which a page cannot choose.

use std::net::IpAddr;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{FromRequestParts, Request, State as Extract};
use axum::http::request::Parts;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use casemate_model::job::TenantId;

use crate::error::ApiError;
use crate::keys::{KeyInfo, random_word};
use crate::state::State;

/// Who a request is from.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    /// Whom its runs belong to.
    pub(crate) tenant: TenantId,
    /// Its key; none where loopback needs none.
    pub(crate) key: Option<Arc<KeyInfo>>,
}

impl Caller {
    /// The tenant's name.
    pub(crate) fn name(&self) -> &str {
        self.tenant.as_str()
    }

    /// Who it is, for the audit: the key's id.
    pub(crate) fn who(&self) -> &str {
        self.key.as_deref().map_or("", |key| &key.id)
    }

    /// Whether the key may do this.
    ///
    /// # Errors
    /// 403 names the scope.
    pub(crate) fn may(&self, scope: &str) -> Result<(), ApiError> {
        let may =
            |key: &KeyInfo| key.scopes.is_empty() || key.scopes.iter().any(|own| own == scope);
        if self.key.as_deref().is_none_or(may) {
            return Ok(());
        }
        Err(ApiError::forbidden(
            format!("this key has not the scope {scope}"),
            "use a key that has it",
        ))
    }
}

/// Names a request, refuses what may not pass, and gives errors the request's name.
pub(crate) async fn guard(
    Extract(state): Extract<State>,
    request: Request,
    next: Next,
) -> Response {
    let id = random_word("req-", 9).unwrap_or_else(|_| "req-".to_owned());
    let method = request.method().to_string();
    let response = match checked_origin(&state, request.headers()) {
        Err(error) => error.into_response(),
        Ok(()) if state.is_stopping() => ApiError::stopping().into_response(),
        Ok(()) => next.run(request).await,
    };
    let mut response = named(response, &id);
    state.metrics.answered(&method, response.status().as_u16());
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(&id) {
        headers.insert("x-request-id", value);
    }
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    response
}

/// An error's body is written again with the request's id in it. Errors of the framework itself, which
/// know neither cause nor way out, get the form of ours.
fn named(mut response: Response, id: &str) -> Response {
    let status = response.status();
    if let Some(error) = response.extensions_mut().remove::<ApiError>() {
        if error.status().is_server_error() {
            tracing_line(id, &error);
        }
        let body = serde_json::to_vec(&error.body(id)).unwrap_or_default();
        response.headers_mut().remove(header::CONTENT_LENGTH);
        *response.body_mut() = Body::from(body);
        return response;
    }
    let is_json = response
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
    if !status.is_client_error() || is_json {
        return response;
    }
    let allowed = response.headers().get(header::ALLOW);
    let allowed = allowed.and_then(|allowed| allowed.to_str().ok());
    let error = match status.as_u16() {
        404 => ApiError::unknown("path", ""),
        405 => ApiError::method(allowed.unwrap_or("GET")),
        _ => ApiError::bad(
            status.canonical_reason().unwrap_or("bad request"),
            "GET /openapi.json says what each path takes",
        ),
    };
    let body = serde_json::to_vec(&crate::error::ErrorBody {
        code: status.as_u16(),
        ..error.body(id)
    });
    let headers = response.headers_mut();
    headers.remove(header::CONTENT_LENGTH);
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    *response.body_mut() = Body::from(body.unwrap_or_default());
    response
}

/// What an operator needs to find a fault again. No code and no key is ever in it.
fn tracing_line(id: &str, error: &ApiError) {
    let line = serde_json::json!({
        "at": jiff::Timestamp::now().to_string(),
        "level": "error",
        "request_id": id,
        "status": error.status().as_u16(),
        "message": error.body(id).message,
    });
    eprintln!("{line}");
}

/// A name of this machine alone.
fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare.eq_ignore_ascii_case("localhost")
        || bare.to_ascii_lowercase().ends_with(".localhost")
        || bare
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

/// On loopback `Host` must be a name of loopback or of the server's own domain, and an `Origin`, where there is one, the same.
fn checked_origin(state: &State, headers: &HeaderMap) -> Result<(), ApiError> {
    if !state.config.is_local() {
        return Ok(());
    }
    let host = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok());
    let host = host.and_then(|host| host.parse::<Authority>().ok());
    let is_ours = |host: &str| is_loopback(host) || state.config.is_of_domain(host);
    if !host.as_ref().is_some_and(|host| is_ours(host.host())) {
        return Err(ApiError::forbidden(
            "this server listens on loopback, and the request's Host is none of its names",
            "ask for it as http://127.0.0.1 or http://localhost, or name its own domain with --domain",
        ));
    }
    // A page's plain reading of another site's address names no Origin; browsers say so here.
    let site = headers.get("sec-fetch-site");
    let own_site = site.is_none_or(|site| site == "same-origin" || site == "none");
    let Some(origin) = headers.get(header::ORIGIN) else {
        return if own_site {
            Ok(())
        } else {
            Err(another_site())
        };
    };
    let same = origin
        .to_str()
        .ok()
        .and_then(|origin| {
            let plain = || origin.strip_prefix("http://");
            origin.strip_prefix("https://").or_else(plain)
        })
        .and_then(|origin| origin.parse::<Authority>().ok())
        .is_some_and(|origin| Some(&origin) == host.as_ref());
    if same && own_site {
        return Ok(());
    }
    Err(another_site())
}

fn another_site() -> ApiError {
    ApiError::forbidden(
        "a page of another site may not use this server",
        "send the request from a program, or from the server's own page",
    )
}

/// The key in `X-API-Key` or `Authorization: Bearer`.
fn sent_key(headers: &HeaderMap) -> Option<&str> {
    let own = headers.get("x-api-key").and_then(|key| key.to_str().ok());
    let bearer = || {
        let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
        value.strip_prefix("Bearer ")
    };
    own.or_else(bearer).filter(|key| !key.is_empty())
}

impl FromRequestParts<State> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &State) -> Result<Self, ApiError> {
        let sent = sent_key(&parts.headers);
        if state.config.is_local() && !state.store.has_keys().await? {
            return Ok(Self {
                tenant: TenantId::local(),
                key: None,
            });
        }
        let sent = sent.ok_or_else(|| ApiError::unauthorized("there is no key in the request"))?;
        let key = state.store.key(sent).await?;
        let key = key.ok_or_else(|| ApiError::unauthorized("the key is not one, or no longer"))?;
        Ok(Self {
            tenant: TenantId::new(key.tenant.clone()),
            key: Some(Arc::new(key)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_are_loopback() {
        for name in [
            "localhost",
            "LOCALHOST",
            "127.0.0.1",
            "127.9.9.9",
            "[::1]",
            "a.localhost",
        ] {
            assert!(is_loopback(name), "{name}");
        }
        for name in [
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "10.0.0.1",
            "",
            "0.0.0.0",
        ] {
            assert!(!is_loopback(name), "{name}");
        }
    }
}
