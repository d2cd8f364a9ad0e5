//! The API's description as one page for people, made from the same document.

use std::fmt::Write as _;

use serde_json::Value;

const STYLE: &str = include_str!("docs.css");
const INTRODUCTION: &str = "<p>The same for programs: <a href=\"/openapi.json\">/openapi.json</a> (OpenAPI 3.1). A key goes in \
    <code>X-API-Key</code> or <code>Authorization: Bearer</code>; on loopback none is needed until the first is made. Whatever \
    goes wrong is answered with <a href=\"#schema-ErrorBody\">the same body</a>, which says what to do.</p>\
    <pre>curl -s http://127.0.0.1:3000/v1/runs -H 'Content-Type: application/json' -d '{\"code\": \"print(6 * 7)\"}'</pre>";

/// The page.
pub(crate) fn page(document: &utoipa::openapi::OpenApi) -> String {
    let value = serde_json::to_value(document).unwrap_or_default();
    let groups = groups(&value["paths"]);
    let schemas: Vec<(&str, &Value)> = entries(&value["components"]["schemas"]).collect();
    let mut page = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>Casemate: API</title><style>{STYLE}</style><nav aria-label=\"Contents\">"
    );
    for (tag, operations) in &groups {
        let links = operations.iter().map(Operation::link).collect::<String>();
        page += &format!("<h2>{}</h2><ul>{links}</ul>", escape(tag));
    }
    let links = schemas
        .iter()
        .map(|(name, _)| format!("<li>{}</li>", to_schema(name)));
    page += &format!(
        "<h2>values</h2><ul>{}</ul></nav><main><h1>Casemate: API</h1><p>{}</p>{INTRODUCTION}",
        links.collect::<String>(),
        text(&value["info"]["description"])
    );
    for operation in groups.iter().flat_map(|(_, operations)| operations) {
        operation.write(&mut page);
    }
    page += "<h2>Values</h2>";
    for (name, schema) in schemas {
        page += &format!(
            "<section id=\"schema-{name}\"><h3>{name}</h3><p>{}</p>{}</section>",
            text(&schema["description"]),
            fields(schema)
        );
    }
    page += "</main></html>";
    page
}

/// One method of one path.
struct Operation<'a> {
    method: &'a str,
    path: &'a str,
    about: &'a Value,
}

/// All of them by their first tag, as the document has them.
fn groups(paths: &Value) -> Vec<(&str, Vec<Operation<'_>>)> {
    let mut groups: Vec<(&str, Vec<Operation<'_>>)> = Vec::new();
    for (path, methods) in entries(paths) {
        for (method, about) in entries(methods) {
            let tag = about["tags"][0].as_str().unwrap_or("other");
            let operation = Operation {
                method,
                path,
                about,
            };
            match groups.iter_mut().find(|(known, _)| *known == tag) {
                Some((_, known)) => known.push(operation),
                None => groups.push((tag, vec![operation])),
            }
        }
    }
    groups
}

impl Operation<'_> {
    fn id(&self) -> String {
        text(&self.about["operationId"])
    }

    fn link(&self) -> String {
        let path = escape(self.path);
        format!(
            "<li><a href=\"#{}\"><b>{}</b> {path}</a></li>",
            self.id(),
            self.method
        )
    }

    fn write(&self, page: &mut String) {
        let about = self.about;
        let parameters = about["parameters"].as_array().into_iter().flatten();
        let parameters: String = parameters.map(parameter).collect();
        let body = &about["requestBody"];
        let responses = entries(&about["responses"]).map(|(status, response)| {
            let schema = &response["content"]["application/json"]["schema"];
            let kind = if schema.is_null() || schema == &Value::Object(serde_json::Map::new()) {
                String::new()
            } else {
                format!(" ({})", kind(schema))
            };
            let said = text(&response["description"]);
            format!("<tr><th scope=\"row\">{status}</th><td>{said}{kind}</td></tr>")
        });
        let responses: String = responses.collect();
        // Writing to a String cannot fail.
        write!(
            page,
            "<section id=\"{}\"><h2><b>{}</b> <code>{}</code></h2><p><strong>{}</strong></p>{}",
            self.id(),
            self.method,
            escape(self.path),
            text(&about["summary"]),
            paragraphs(&about["description"]),
        )
        .ok();
        table(page, "Parameters", &parameters);
        for (media_type, content) in entries(&body["content"]) {
            let kind = match &content["schema"] {
                schema if media_type == "application/json" => kind(schema),
                _ => "bytes".to_owned(),
            };
            *page += &format!(
                "<p>Body: {kind} as <code>{}</code>.</p>",
                escape(media_type)
            );
        }
        table(page, "Answers", &responses);
        *page += "</section>";
    }
}

fn table(page: &mut String, name: &str, rows: &str) {
    if !rows.is_empty() {
        *page += &format!("<table><caption>{name}</caption>{rows}</table>");
    }
}

fn parameter(parameter: &Value) -> String {
    let name = text(&parameter["name"]);
    let place = text(&parameter["in"]);
    row(
        &format!("<code>{name}</code> <small>{place}</small>"),
        &parameter["schema"],
        &parameter["description"],
        parameter["required"] == true,
    )
}

/// The fields of an object, or what else a value may be.
fn fields(schema: &Value) -> String {
    let required = |name: &str| {
        let all = schema["required"].as_array().into_iter().flatten();
        all.into_iter().any(|known| known == name)
    };
    let rows: String = entries(&schema["properties"])
        .map(|(name, field)| row(&code(name), field, said_of(field), required(name)))
        .collect();
    if rows.is_empty() {
        return format!("<p>{}</p>", kind(schema));
    }
    format!("<table>{rows}</table>")
}

/// What is said of a field; of one that may be left out it is said beside what it is else.
fn said_of(field: &Value) -> &Value {
    let inner = &field["oneOf"][0]["description"];
    if inner.is_null() {
        &field["description"]
    } else {
        inner
    }
}

/// A name as markup, what its value is, and what that is for.
fn row(name: &str, schema: &Value, description: &Value, required: bool) -> String {
    let needed = if required { ", required" } else { "" };
    format!(
        "<tr><th scope=\"row\">{name}</th><td>{}{needed}</td><td>{}</td></tr>",
        kind(schema),
        text(description)
    )
}

/// What a value is, in a word or with a way to its fields.
fn kind(schema: &Value) -> String {
    if let Some(reference) = schema["$ref"].as_str() {
        return to_schema(reference.rsplit('/').next().unwrap_or_default());
    }
    for choice in ["oneOf", "anyOf", "allOf"] {
        if let Some(all) = schema[choice].as_array() {
            let all = all.iter().filter(|one| one["type"] != "null").map(kind);
            return all.collect::<Vec<_>>().join(" or ");
        }
    }
    if let Some(words) = schema["enum"].as_array() {
        let words = words
            .iter()
            .map(|word| format!("<code>{}</code>", text(word)));
        return words.collect::<Vec<_>>().join(", ");
    }
    let named = match &schema["type"] {
        Value::String(name) => name.as_str(),
        // With "null" beside it where it may be left out.
        Value::Array(names) => {
            let names = names.iter().filter_map(Value::as_str);
            names
                .into_iter()
                .find(|name| *name != "null")
                .unwrap_or("value")
        }
        _ => "value",
    };
    match named {
        "array" => format!("list of {}", kind(&schema["items"])),
        name => escape(name),
    }
}

fn to_schema(name: &str) -> String {
    let name = escape(name);
    format!("<a href=\"#schema-{name}\">{name}</a>")
}

fn entries(value: &Value) -> impl Iterator<Item = (&str, &Value)> {
    let object = value.as_object().into_iter().flatten();
    object.map(|(key, value)| (key.as_str(), value))
}

fn paragraphs(value: &Value) -> String {
    let all = value.as_str().unwrap_or_default().split("\n\n");
    let all = all.filter(|one| !one.trim().is_empty());
    all.map(|one| format!("<p>{}</p>", marked(one))).collect()
}

fn text(value: &Value) -> String {
    marked(value.as_str().unwrap_or_default())
}

/// Text with what stands between backticks as code.
fn marked(text: &str) -> String {
    let parts = text.split('`').enumerate().map(|(place, part)| {
        if place % 2 == 1 {
            code(part)
        } else {
            escape(part)
        }
    });
    parts.collect()
}

fn code(text: &str) -> String {
    format!("<code>{}</code>", escape(text))
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    /// What stands between these words, each time.
    fn between<'a>(page: &'a str, from: &str, to: &str) -> BTreeSet<&'a str> {
        let parts = page.split(from).skip(1);
        parts.filter_map(|part| part.split(to).next()).collect()
    }

    #[test]
    fn every_operation_is_on_the_page_and_every_link_leads_somewhere() {
        let document = crate::openapi::document();
        let page = super::page(&document);
        let places = between(&page, " id=\"", "\"");
        let links = between(&page, "href=\"#", "\"");
        let lost: Vec<_> = links.difference(&places).collect();
        assert!(lost.is_empty(), "{lost:?}");
        let value = serde_json::to_value(&document).unwrap();
        let paths = value["paths"].as_object().unwrap();
        for operation in paths.values().flat_map(|item| item.as_object().unwrap()) {
            let id = operation.1["operationId"].as_str().unwrap();
            assert!(places.contains(id) && links.contains(id), "{id}");
        }
        for said in [
            "keep_events",
            "Idempotency-Key",
            "schema-RunRequest",
            "/v1/runs/{run}/events",
        ] {
            assert!(page.contains(said), "{said}");
        }
    }

    #[test]
    fn what_is_described_cannot_be_markup() {
        assert_eq!(
            super::marked("a `<b>` & \"c\""),
            "a <code>&lt;b&gt;</code> &amp; &quot;c&quot;"
        );
        assert_eq!(super::marked("`open"), "<code>open</code>");
    }
}
