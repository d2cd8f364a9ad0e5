//! The API's description as one page for people, made from the same document.

use std::fmt::Write as _;

use serde_json::Value;

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:52rem;margin:2rem auto;padding:0 1rem}\
code,pre{font-family:ui-monospace,monospace}h2{margin-top:2rem;border-top:1px solid #8888;padding-top:1rem}\
table{border-collapse:collapse}td,th{text-align:left;padding:.15rem 1rem .15rem 0;vertical-align:top}\
@media(prefers-color-scheme:dark){body{background:#14161a;color:#e6e6e6}a{color:#8ab4f8}}";

/// The page.
pub(crate) fn page(document: &utoipa::openapi::OpenApi) -> String {
    let value = serde_json::to_value(document).unwrap_or_default();
    let mut page = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>Casemate: API</title><style>{STYLE}</style><h1>Casemate: API</h1><p>{}</p>\
         <p>The same for programs: <a href=\"/openapi.json\">/openapi.json</a> (OpenAPI 3.1).</p>",
        text(&value["info"]["description"])
    );
    for (path, methods) in entries(&value["paths"]) {
        for (method, operation) in entries(methods) {
            operation_html(&mut page, path, method, operation);
        }
    }
    page.push_str("</html>");
    page
}

fn operation_html(page: &mut String, path: &str, method: &str, operation: &Value) {
    // Writing to a String cannot fail.
    write!(
        page,
        "<h2><code>{} {}</code></h2><p>{}</p><p>{}</p><table>",
        method.to_uppercase(),
        escape(path),
        text(&operation["summary"]),
        text(&operation["description"]),
    )
    .ok();
    for (status, response) in entries(&operation["responses"]) {
        let description = text(&response["description"]);
        write!(
            page,
            "<tr><th scope=\"row\">{status}</th><td>{description}</td></tr>"
        )
        .ok();
    }
    page.push_str("</table>");
}

fn entries(value: &Value) -> impl Iterator<Item = (&str, &Value)> {
    let object = value.as_object().into_iter().flatten();
    object.map(|(key, value)| (key.as_str(), value))
}

fn text(value: &Value) -> String {
    escape(value.as_str().unwrap_or_default())
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}
