//! A displayed result in the words of the interpreter's protocol.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::value::RawValue;

use crate::interpreter::Shown;

/// A chart as data.
const CHART: &str = "application/vnd.casemate.chart+json";
/// A data frame as columns and values.
const COLUMNS: &str = "e2b/data";

/// Puts each form, a media type and its content, where SDKs look for it. A form that is not what its type says is
/// left out.
pub fn shown(is_main_result: bool, forms: impl IntoIterator<Item = (String, Vec<u8>)>) -> Shown {
    let mut shown = Shown {
        is_main_result,
        ..Shown::default()
    };
    let mut extra = serde_json::Map::new();
    for (mime, content) in forms {
        match mime.as_str() {
            "text/plain" => shown.text = Some(unquoted(text(content))),
            "text/html" => shown.html = Some(text(content)),
            "text/markdown" => shown.markdown = Some(text(content)),
            "text/latex" => shown.latex = Some(text(content)),
            "image/svg+xml" => shown.svg = Some(text(content)),
            "application/javascript" => shown.javascript = Some(text(content)),
            "image/png" => shown.png = Some(STANDARD.encode(content)),
            "image/jpeg" => shown.jpeg = Some(STANDARD.encode(content)),
            "application/pdf" => shown.pdf = Some(STANDARD.encode(content)),
            "application/json" => shown.json = raw(&content),
            COLUMNS => shown.data = raw(&content),
            CHART => shown.chart = raw(&content),
            _ => {
                let value = other(&mime, content);
                extra.insert(mime, value);
            }
        }
    }
    if !extra.is_empty() {
        shown.extra = serde_json::value::to_raw_value(&extra).ok();
    }
    shown
}

fn text(content: Vec<u8>) -> String {
    String::from_utf8(content)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

/// A text shows as itself and not as its source.
fn unquoted(text: String) -> String {
    let quoted = |quote| text.strip_prefix(quote)?.strip_suffix(quote);
    match quoted('\'').or_else(|| quoted('"')) {
        Some(inner) => inner.to_owned(),
        None => text,
    }
}

fn raw(content: &[u8]) -> Option<Box<RawValue>> {
    serde_json::from_slice(content).ok()
}

/// Any other type: JSON as it is, text as text, anything else as base64.
fn other(mime: &str, content: Vec<u8>) -> serde_json::Value {
    if mime.ends_with("json")
        && let Ok(value) = serde_json::from_slice(&content)
    {
        return value;
    }
    match String::from_utf8(content) {
        Ok(text) => text.into(),
        Err(error) => STANDARD.encode(error.as_bytes()).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(is_main_result: bool, forms: &[(&str, &[u8])]) -> String {
        let forms = forms.iter();
        let forms = forms.map(|(mime, content)| ((*mime).to_owned(), content.to_vec()));
        serde_json::to_string(&shown(is_main_result, forms)).unwrap()
    }

    #[test]
    fn every_type_has_its_place() {
        assert_eq!(
            of(
                true,
                &[
                    ("text/plain", b"'it\\'s'"),
                    ("image/png", b"\x89P"),
                    ("application/json", b"{\"a\": [1]}"),
                    (CHART, b"{}"),
                    (COLUMNS, b"{\"a\":[1]}"),
                ],
            ),
            r#"{"is_main_result":true,"text":"it\\'s","png":"iVA=","json":{"a": [1]},"data":{"a":[1]},"chart":{}}"#
        );
    }

    #[test]
    fn other_types_go_together() {
        assert_eq!(
            of(
                false,
                &[
                    ("a/b", b"text"),
                    ("c/d", b"\xff"),
                    ("application/vnd.x+json", b"[1]")
                ]
            ),
            r#"{"is_main_result":false,"extra":{"a/b":"text","c/d":"/w==","application/vnd.x+json":[1]}}"#
        );
    }

    #[test]
    fn json_that_is_none_is_left_out() {
        assert_eq!(
            of(false, &[("application/json", b"{")]),
            r#"{"is_main_result":false}"#
        );
    }

    #[test]
    fn one_pair_of_quotes_is_taken_off() {
        for (text, bare) in [
            ("'x'", "x"),
            ("\"x\"", "x"),
            ("''x''", "'x'"),
            ("'", "'"),
            ("'x\"", "'x\""),
            ("", ""),
        ] {
            assert_eq!(unquoted(text.to_owned()), bare);
        }
    }
}
