//! Which requests are for a sandbox, and taking them there.

use axum::Json;
use axum::body::Body;
use axum::extract::{Request, State as Extract};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt, future};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use serde_json::json;

use super::agent::{To, is_upgrade, send};
use super::sandboxes::{InUse, Sandbox};
use crate::listen::Break;
use crate::sleep::waken;
use crate::state::State;

const ENVD: u16 = 49983;
const INTERPRETER: u16 = 49999;
/// Headers of one connection, which are no business of the next.
const HOPS: [header::HeaderName; 5] = [
    header::CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];
/// What only we may say to an agent.
const OURS: [&str; 7] = [
    "/init",
    "/freeze",
    "/unfreeze",
    "/collapse",
    "/fsfreeze",
    "/fsthaw",
    "/upgrade",
];

/// Where a request is to go.
#[derive(Debug, PartialEq, Eq)]
struct Target {
    id: String,
    port: u16,
}

/// Takes a request to its sandbox, or on to the server's own paths.
pub(crate) async fn route(
    Extract(state): Extract<State>,
    request: Request,
    next: Next,
) -> Response {
    match target(request.headers()) {
        Some(Ok(target)) => to_sandbox(&state, target, request).await,
        Some(Err(())) => (StatusCode::BAD_REQUEST, "malformed sandbox id or port").into_response(),
        None if request.uri().path() == "/files" => signed(&state, request, next).await,
        None => next.run(request).await,
    }
}

/// The sandbox a request names, by its headers or by its host.
fn target(headers: &HeaderMap) -> Option<Result<Target, ()>> {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or(""));
    if let Some(id) = text("e2b-sandbox-id") {
        return Some(parsed(id, text("e2b-sandbox-port").unwrap_or("")));
    }
    let host = headers.get(header::HOST)?.to_str().ok()?;
    let host = host.parse::<Authority>().ok()?;
    let (label, _) = host.host().split_once('.')?;
    let (port, id) = label.split_once('-')?;
    let is_port = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    is_port.then(|| parsed(id.split('-').next().unwrap_or(id), port))
}

fn parsed(id: &str, port: &str) -> Result<Target, ()> {
    let good = (1..=64).contains(&id.len())
        && id
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    match port.parse() {
        Ok(port) if good && port != 0 => Ok(Target {
            id: id.to_owned(),
            port,
        }),
        _ => Err(()),
    }
}

/// A signed URL names no sandbox: it is the one whose token signed it.
async fn signed(state: &State, request: Request, next: Next) -> Response {
    let query = request.uri().query().unwrap_or_default();
    let signing = Signing::of(query);
    let Some(signing) = signing else {
        return next.run(request).await;
    };
    let operation = if request.method() == axum::http::Method::GET {
        casemate_envd::signature::Operation::Read
    } else {
        casemate_envd::signature::Operation::Write
    };
    let all = state.sandboxes.list();
    let signer = all
        .iter()
        .find(|sandbox| signing.is_by(&sandbox.token, operation));
    match signer {
        // Its agent checks the signature again, and the time.
        Some(sandbox) => {
            let target = Target {
                id: sandbox.id.clone(),
                port: ENVD,
            };
            to_sandbox(state, target, request).await
        }
        None => {
            let body = json!({"code": 401, "message": "invalid signature"});
            (StatusCode::UNAUTHORIZED, Json(body)).into_response()
        }
    }
}

/// What a signed URL says.
#[derive(Default)]
struct Signing {
    path: String,
    username: String,
    signature: String,
    expiration: Option<String>,
}

impl Signing {
    fn of(query: &str) -> Option<Self> {
        let mut signing = Self::default();
        let mut is_signed = false;
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            match key.as_ref() {
                "path" => signing.path = value.into_owned(),
                "username" => signing.username = value.into_owned(),
                "signature" => {
                    is_signed = true;
                    signing.signature = value.into_owned();
                }
                "signature_expiration" => signing.expiration = Some(value.into_owned()),
                _ => {}
            }
        }
        is_signed.then_some(signing)
    }

    fn is_by(&self, token: &str, operation: casemate_envd::signature::Operation) -> bool {
        let signed = casemate_envd::signature::Signed {
            path: &self.path,
            operation,
            username: &self.username,
            expiration: self.expiration.as_deref(),
        };
        signed.matches(token, &self.signature)
    }
}

fn not_found(id: &str) -> Response {
    let body = json!({"sandboxId": id, "message": "The sandbox was not found", "code": 502});
    (StatusCode::BAD_GATEWAY, Json(body)).into_response()
}

fn not_open(id: &str, port: u16) -> Response {
    let message = "The sandbox is running but port is not open";
    let body = json!({"sandboxId": id, "message": message, "port": port, "code": 502});
    (StatusCode::BAD_GATEWAY, Json(body)).into_response()
}

async fn to_sandbox(state: &State, target: Target, request: Request) -> Response {
    let Some(sandbox) = state.sandboxes.any(&target.id) else {
        return not_found(&target.id);
    };
    let mut sandbox = InUse::of(sandbox);
    let paused = sandbox.life().paused;
    if paused {
        // One that sleeps is not there until its user asks for it.
        if !sandbox.lifecycle.auto_resume || sandbox.saved.is_some() {
            return not_found(&target.id);
        }
        // As long as a new sandbox would live: whoever sent this said nothing of time.
        match waken(state, &sandbox, 300_000).await {
            Ok((woken, _)) => sandbox = InUse::of(woken),
            Err(_) => return not_found(&target.id),
        }
    }
    if target.port != ENVD && !may_pass(&sandbox, request.headers()) {
        let body = json!({"code": 403, "message": "the traffic access token is missing or wrong", "sandboxId": target.id});
        return (StatusCode::FORBIDDEN, Json(body)).into_response();
    }
    match target.port {
        ENVD | INTERPRETER if OURS.contains(&request.uri().path()) => {
            (StatusCode::NOT_FOUND, "404 page not found").into_response()
        }
        ENVD | INTERPRETER => forward(&sandbox, target, To::Agent, request).await,
        port => forward(&sandbox, target, To::Port(port), request).await,
    }
}

/// Where traffic is not public, everything but the agent's own port needs the token.
fn may_pass(sandbox: &Sandbox, headers: &HeaderMap) -> bool {
    let Some(token) = &sandbox.traffic_token else {
        return true;
    };
    let shown = headers.get("e2b-traffic-access-token");
    shown.is_some_and(|shown| {
        shown
            .to_str()
            .is_ok_and(|shown| casemate_envd::signature::same(shown, token))
    })
}

async fn forward(sandbox: &InUse, target: Target, to: To, mut request: Request) -> Response {
    let broken = request.extensions().get::<Break>();
    let broken = broken.cloned().unwrap_or_default();
    let path = request
        .uri()
        .path_and_query()
        .map_or("/", |path| path.as_str());
    let Ok(uri) = path.parse() else {
        return (StatusCode::BAD_REQUEST, "malformed path").into_response();
    };
    *request.uri_mut() = uri;
    let upgraded = (to != To::Agent && is_upgrade(request.headers()))
        .then(|| hyper::upgrade::on(&mut request));
    let headers = request.headers_mut();
    for hop in HOPS {
        // What asks for another protocol goes on to the server in the sandbox with what belongs to it.
        if upgraded.is_none() || (hop != header::CONNECTION && hop != header::UPGRADE) {
            headers.remove(hop);
        }
    }
    match (to, &sandbox.masked_host) {
        (To::Agent, _) => {
            headers.insert("e2b-sandbox-port", target.port.into());
        }
        (To::Port(port), Some(mask)) => {
            let host = mask.replace("${PORT}", &port.to_string());
            let Ok(host) = HeaderValue::from_str(&host) else {
                return (StatusCode::BAD_REQUEST, "malformed masked host").into_response();
            };
            headers.insert(header::HOST, host);
        }
        (To::Port(_), None) => {}
    }
    let cut = sandbox.cut.notified();
    if sandbox.is_gone() {
        return not_found(&target.id);
    }
    let answered = tokio::select! {
        answer = send(sandbox, to, request) => answer,
        () = cut => return not_found(&target.id),
    };
    match answered {
        Ok(answer) if answer.status() == StatusCode::SWITCHING_PROTOCOLS => {
            switched(sandbox, upgraded, answer)
        }
        Ok(answer) => streamed(sandbox, broken, answer),
        Err(_) if sandbox.is_gone() || sandbox.session.ended().is_some() => not_found(&target.id),
        Err(error) => {
            // Nobody at a port is the user's affair; an agent that does not answer is ours.
            if to == To::Agent {
                eprintln!(
                    "casemate: sandbox {}: its agent does not answer: {error}",
                    target.id
                );
            }
            not_open(&target.id, target.port)
        }
    }
}

/// Both sides have changed to another protocol: what each sends goes to the other until one ends, or the sandbox does.
fn switched(
    sandbox: &InUse,
    client: Option<hyper::upgrade::OnUpgrade>,
    mut answer: Response<hyper::body::Incoming>,
) -> Response {
    let Some(client) = client else {
        return not_found(&sandbox.id);
    };
    let server = hyper::upgrade::on(&mut answer);
    let held = sandbox.clone();
    tokio::spawn(async move {
        let cut = held.cut.notified();
        let carried = async {
            let (Ok(client), Ok(server)) = (client.await, server.await) else {
                return;
            };
            let (mut client, mut server) = (TokioIo::new(client), TokioIo::new(server));
            // What breaks off on one side breaks off on the other.
            tokio::io::copy_bidirectional(&mut client, &mut server)
                .await
                .ok();
        };
        tokio::select! {
            () = carried => {}
            () = cut => {}
        }
    });
    let (parts, _) = answer.into_parts();
    Response::from_parts(parts, Body::empty())
}

/// The agent's answer as it comes; cut off, not ended, when the sandbox goes.
fn streamed(sandbox: &InUse, broken: Break, answer: Response<hyper::body::Incoming>) -> Response {
    let (mut parts, body) = answer.into_parts();
    for hop in HOPS {
        parts.headers.remove(hop);
    }
    let held = sandbox.clone();
    let gone = Box::pin(async move { held.gone().await });
    let cut = futures_util::stream::once(gone).map(move |()| {
        broken.off();
        Err::<_, axum::Error>(axum::Error::new("the sandbox has ended"))
    });
    let frames = body
        .into_data_stream()
        .map(|frame| frame.map_err(axum::Error::new));
    // Ends with the answer, or with an error as soon as the sandbox goes.
    let ended = frames
        .map(Some)
        .chain(futures_util::stream::once(future::ready(None)));
    let either = futures_util::stream::select(ended, cut.map(Some));
    let until = either.scan(false, |over, item| {
        let stop = *over || item.is_none();
        *over |= matches!(item, Some(Err(_)));
        future::ready(if stop { None } else { item })
    });
    Response::from_parts(parts, Body::from_stream(until))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| {
                (
                    header::HeaderName::from_static(name),
                    value.parse().unwrap(),
                )
            })
            .collect()
    }

    #[test]
    fn a_sandbox_is_named_by_headers_or_by_host() {
        let named = Some(Ok(Target {
            id: "iabc".to_owned(),
            port: 49983,
        }));
        let by = |pairs: &[(&'static str, &str)]| target(&headers(pairs));
        assert_eq!(
            by(&[("e2b-sandbox-id", "iabc"), ("e2b-sandbox-port", "49983")]),
            named
        );
        assert_eq!(by(&[("host", "49983-iabc.example.test:8443")]), named);
        assert_eq!(by(&[("host", "49983-iabc-client.example.test")]), named);
        assert_eq!(by(&[("host", "127.0.0.1:3000")]), None);
        assert_eq!(by(&[("host", "localhost")]), None);
        for (id, port) in [
            ("../x", "1"),
            ("iabc", "0"),
            ("iabc", "x"),
            ("", "1"),
            ("iABC", "1"),
        ] {
            assert_eq!(
                by(&[("e2b-sandbox-id", id), ("e2b-sandbox-port", port)]),
                Some(Err(())),
                "{id} {port}"
            );
        }
    }
}
