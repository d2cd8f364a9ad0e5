//! Which sandboxes a list shows, in which order, and where its next page begins.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::http::StatusCode;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

use super::control::{E2bError, shown};
use super::model::Shown;
use super::sandboxes::Sandbox;

/// What a list is asked for.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Listing {
    pub(crate) metadata: Option<String>,
    pub(crate) state: Option<String>,
    pub(crate) order: Option<String>,
    #[serde(rename = "startedAfter")]
    pub(crate) started_after: Option<String>,
    pub(crate) template: Option<String>,
    pub(crate) limit: Option<usize>,
    #[serde(rename = "nextToken")]
    pub(crate) next: Option<String>,
}

/// One page of a list.
pub(crate) struct Page {
    pub(crate) shown: Vec<Shown>,
    pub(crate) next: Option<String>,
    pub(crate) running: usize,
}

fn bad(message: impl Into<String>) -> E2bError {
    E2bError::new(StatusCode::BAD_REQUEST, message)
}

/// The page that was asked for.
pub(crate) fn page(
    all: &[Arc<Sandbox>],
    tenant: &str,
    listing: &Listing,
    most: usize,
) -> Result<Page, E2bError> {
    let limit = listing.limit.unwrap_or(most);
    if limit == 0 || limit > most {
        return Err(bad(format!("limit is {limit}; it is 1 to {most}")));
    }
    let ascending = match listing.order.as_deref() {
        None | Some("desc") => false,
        Some("asc") => true,
        Some(_) => return Err(bad("order is asc or desc")),
    };
    let after = listing
        .started_after
        .as_deref()
        .map(|text| {
            text.parse::<jiff::Timestamp>()
                .map_err(|_| bad("startedAfter is no RFC 3339 time"))
        })
        .transpose()?
        .map(jiff::Timestamp::as_millisecond);
    let wanted = listing
        .metadata
        .as_deref()
        .map(metadata)
        .unwrap_or_default();
    let states: Vec<&str> = listing
        .state
        .as_deref()
        .map_or(vec!["running", "paused"], |text| text.split(',').collect());
    let fits = |sandbox: &&Arc<Sandbox>| {
        let state = if sandbox.life().paused {
            "paused"
        } else {
            "running"
        };
        sandbox.tenant == tenant
            && states.contains(&state)
            && after.is_none_or(|after| sandbox.started_ms >= after)
            && listing
                .template
                .as_ref()
                .is_none_or(|name| *name == sandbox.template)
            && wanted
                .iter()
                .all(|(key, value)| sandbox.metadata.get(key) == Some(value))
    };
    let mut found: Vec<&Arc<Sandbox>> = all.iter().filter(fits).collect();
    found.sort_by(|a, b| {
        let order = a.started_ms.cmp(&b.started_ms);
        let order = if ascending { order } else { order.reverse() };
        order.then_with(|| a.id.cmp(&b.id))
    });
    let running = found
        .iter()
        .filter(|sandbox| !sandbox.life().paused)
        .count();
    let begin = match listing.next.as_deref() {
        None => 0,
        Some(token) => after_token(&found, token, ascending)?,
    };
    let rest = found.get(begin..).unwrap_or_default();
    let next = rest
        .get(limit)
        .and_then(|_| rest.get(limit - 1))
        .map(|last| URL_SAFE_NO_PAD.encode(format!("{}__{}", last.started_ms, last.id)));
    let shown = rest
        .iter()
        .take(limit)
        .map(|sandbox| shown(sandbox, None))
        .collect();
    Ok(Page {
        shown,
        next,
        running,
    })
}

/// Where the list goes on behind the one that a token names, whether that one still lives or not.
fn after_token(found: &[&Arc<Sandbox>], token: &str, ascending: bool) -> Result<usize, E2bError> {
    let decoded = URL_SAFE_NO_PAD
        .decode(token)
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok());
    let (ms, id) = decoded
        .as_deref()
        .and_then(|text| text.split_once("__"))
        .and_then(|(ms, id)| Some((ms.parse::<i64>().ok()?, id.to_owned())))
        .ok_or_else(|| bad("nextToken is none of ours"))?;
    Ok(found.partition_point(|sandbox| {
        let order = sandbox.started_ms.cmp(&ms);
        let order = if ascending { order } else { order.reverse() };
        order.then_with(|| sandbox.id.cmp(&id)).is_le()
    }))
}

/// The filter as SDKs encode it: a query in a query, its keys and values encoded once more.
fn metadata(text: &str) -> BTreeMap<String, String> {
    let whole = decoded(text);
    let pairs = whole.split('&').filter_map(|pair| pair.split_once('='));
    pairs
        .map(|(key, value)| (decoded(key), decoded(value)))
        .collect()
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let digits = tail.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        let value = digits.and_then(|two| u8::from_str_radix(two, 16).ok());
        match (first, value) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = tail.get(2..).unwrap_or_default();
            }
            (byte, _) => {
                bytes.push(*byte);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_decoded_once_as_a_whole_and_once_in_its_parts() {
        let found = metadata("a%2520b=c%252Fd%2526e");
        assert_eq!(found.get("a b").map(String::as_str), Some("c/d&e"));
        assert_eq!(metadata("user=u1&app=x").len(), 2);
        assert!(metadata("%").is_empty() && metadata("%zz").is_empty());
    }
}
