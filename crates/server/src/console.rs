//! The console: one page and its parts, which were put into this program when it was built.
//!
//! The page is static and needs no key; what it asks of the API needs one as any client's request does.

use axum::Router;
use axum::extract::Path;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use base64::Engine as _;

use crate::error::ApiError;
use crate::state::State;

include!(concat!(env!("OUT_DIR"), "/console.rs"));

/// What stands in the page where each answer has a word of its own.
const NONCE: &str = "__NONCE__";

const NOT_BUILT: &str = "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
<title>Casemate</title><h1>Casemate</h1><p>This server was built without the console. <code>./dev serve</code> builds both and starts the server; \
by hand it is <code>npm ci &amp;&amp; npm run build</code> in <code>console/</code>, and then <code>cargo build</code> again.</p>\
<p>The API is there: <a href=\"/docs\">its description</a>, <a href=\"/openapi.json\">the same for programs</a>.</p></html>";

/// The page at `/` and what it loads.
pub(crate) fn router() -> Router<State> {
    Router::new()
        .route("/", get(|| async { page(FILES) }))
        .route(
            "/assets/{name}",
            get(|Path(name): Path<String>| async move { asset(FILES, &name) }),
        )
}

fn file(files: &[(&str, &'static [u8])], name: &str) -> Option<&'static [u8]> {
    let found = files.iter().find(|(known, _)| *known == name);
    found.map(|(_, bytes)| *bytes)
}

fn page(files: &[(&str, &'static [u8])]) -> Result<Response, ApiError> {
    let built = file(files, "index.html").and_then(|bytes| std::str::from_utf8(bytes).ok());
    let nonce = nonce()?;
    let body = built.unwrap_or(NOT_BUILT).replace(NONCE, &nonce);
    let mut headers = same_origin();
    // The editor and the frames of what programs display make their style sheets as they go: those that carry this
    // answer's word are taken. No script is taken but the page's own file.
    let policy = format!(
        "default-src 'none'; script-src 'self'; style-src 'self' 'nonce-{nonce}'; img-src 'self' data: blob:; \
         connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    if let Ok(policy) = HeaderValue::from_str(&policy) {
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/html; charset=utf-8"),
    );
    Ok((headers, body).into_response())
}

/// A part of the page. Its name has a hash of its content, so that it never changes.
fn asset(files: &[(&str, &'static [u8])], name: &str) -> Result<Response, ApiError> {
    let path = format!("assets/{name}");
    let bytes = file(files, &path).ok_or_else(|| ApiError::unknown("path", &format!("/{path}")))?;
    let mut headers = same_origin();
    headers.insert(
        header::CACHE_CONTROL,
        HeaderValue::from_static("public, max-age=31536000, immutable"),
    );
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static(media_type(name)),
    );
    Ok((headers, bytes).into_response())
}

/// Nothing of another site may hold, frame or read the page.
fn same_origin() -> HeaderMap {
    let fixed = [
        (header::REFERRER_POLICY, "no-referrer"),
        (
            HeaderName::from_static("cross-origin-opener-policy"),
            "same-origin",
        ),
        (
            HeaderName::from_static("cross-origin-resource-policy"),
            "same-origin",
        ),
    ];
    let fixed = fixed.map(|(name, value)| (name, HeaderValue::from_static(value)));
    HeaderMap::from_iter(fixed)
}

fn media_type(name: &str) -> &'static str {
    match name.rsplit_once('.').map(|(_, end)| end) {
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some("woff2") => "font/woff2",
        _ => "application/octet-stream",
    }
}

fn nonce() -> Result<String, ApiError> {
    let mut bytes = [0_u8; 18];
    getrandom::fill(&mut bytes).map_err(|error| ApiError::fault(error.to_string()))?;
    Ok(base64::engine::general_purpose::STANDARD.encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUILT: &[(&str, &[u8])] = &[
        (
            "index.html",
            b"<link nonce=\"__NONCE__\" href=\"/assets/a-1.css\">",
        ),
        ("assets/a-1.css", b"a{}"),
        ("secret", b"no part of the page"),
    ];

    async fn text(response: Response) -> String {
        let bytes = axum::body::to_bytes(response.into_body(), 1 << 20).await;
        String::from_utf8(bytes.unwrap().to_vec()).unwrap()
    }

    #[tokio::test]
    async fn without_the_console_the_page_says_how_to_build_it() {
        let answer = page(&[]).unwrap();
        assert_eq!(answer.status(), 200);
        let said = text(answer).await;
        assert!(said.contains("built without the console"), "{said}");
        assert!(said.contains("./dev serve"), "{said}");
    }

    #[tokio::test]
    async fn each_answer_has_a_word_of_its_own_and_no_script_but_the_servers() {
        let mut words = Vec::new();
        for _ in 0..2 {
            let answer = page(BUILT).unwrap();
            let policy = answer.headers()[header::CONTENT_SECURITY_POLICY]
                .to_str()
                .unwrap()
                .to_owned();
            assert!(policy.starts_with("default-src 'none'; script-src 'self';"));
            assert!(!policy.contains("unsafe"), "{policy}");
            let (_, rest) = policy.split_once("'nonce-").unwrap();
            let word = rest.split('\'').next().unwrap().to_owned();
            let said = text(answer).await;
            assert!(said.contains(&format!("nonce=\"{word}\"")), "{said}");
            words.push(word);
        }
        assert_ne!(words[0], words[1]);
    }

    #[test]
    fn parts_are_kept_for_ever_and_nothing_else_is_served() {
        let answer = asset(BUILT, "a-1.css").unwrap();
        assert_eq!(
            answer.headers()[header::CONTENT_TYPE],
            "text/css; charset=utf-8"
        );
        let keeps = answer.headers()[header::CACHE_CONTROL].to_str().unwrap();
        assert!(keeps.contains("immutable"));
        for name in ["../secret", "secret", "a-2.css", ""] {
            assert!(asset(BUILT, name).is_err(), "{name}");
        }
    }
}
