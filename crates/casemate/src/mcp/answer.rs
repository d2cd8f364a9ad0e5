//! An outcome as what a model is told: text that fits its context, pictures, and links to the rest.

use casemate_model::outcome::Outcome;
use casemate_model::result::{Artifact, base64};
use rmcp::model::{CallToolResult, ContentBlock, ResourceContents};
use serde_json::json;

use super::kept::{address, link};
use crate::show::{cause, trouble};
use crate::text::plain;

/// Bytes of an output that are told.
const TOLD: usize = 32 << 10;
/// Bytes of a picture that is told and not only linked to.
const PICTURE: usize = 2 << 20;
/// Pictures that are told.
const PICTURES: usize = 8;

/// A run's answer.
pub(super) fn of_run(outcome: &Outcome) -> CallToolResult {
    let run = outcome.id.to_string();
    let mut text = String::new();
    section(&mut text, "", &outcome.stdout);
    section(&mut text, "standard error:\n", &outcome.stderr);
    for shown in &outcome.results {
        if let Some(form) = shown.form("text/plain") {
            section(&mut text, "", &form.content);
        }
    }
    if !outcome.ending.is_success() {
        section(&mut text, "", trouble(outcome).as_bytes());
    }
    if text.is_empty() {
        text.push_str("the program printed nothing");
    }
    let mut content = vec![ContentBlock::text(text)];
    let shown = outcome
        .results
        .iter()
        .filter_map(|shown| shown.form("image/png"));
    let shown = shown.map(|form| (form.content.as_slice(), "image/png"));
    let left = outcome
        .artifacts
        .iter()
        .map(|file| (file.bytes.as_slice(), mime(file)));
    let pictures = shown
        .chain(left)
        .filter(|(bytes, mime)| is_picture(mime) && bytes.len() <= PICTURE);
    content.extend(
        pictures
            .take(PICTURES)
            .map(|(bytes, mime)| ContentBlock::image(base64(bytes), mime)),
    );
    let links = outcome.artifacts.iter().enumerate();
    content.extend(links.map(|(index, file)| ContentBlock::resource_link(link(&run, index, file))));
    let files: Vec<_> = outcome
        .artifacts
        .iter()
        .enumerate()
        .map(|(index, file)| {
            json!({"path": file.path, "size_bytes": file.bytes.len(), "uri": address(&run, index)})
        })
        .collect();
    let told = json!({
        "run": run,
        "ending": outcome.ending,
        "cause": cause(&outcome.ending),
        "hint": outcome.hint,
        "error": outcome.error,
        "exit_code": outcome.ending.exit_code(),
        "backend": outcome.placement.as_ref().map(|placement| &placement.backend),
        "usage": outcome.usage,
        "artifacts": files,
    });
    let mut answer = if outcome.ending.is_success() {
        CallToolResult::success(content)
    } else {
        CallToolResult::error(content)
    };
    answer.structured_content = Some(told);
    answer
}

/// A file as what a model can look at.
pub(super) fn content(uri: &str, artifact: &Artifact) -> ContentBlock {
    let mime = mime(artifact);
    if is_picture(mime) {
        ContentBlock::image(base64(&artifact.bytes), mime)
    } else {
        ContentBlock::resource(resource(uri, artifact))
    }
}

/// A file as a resource: text where it is text.
pub(super) fn resource(uri: &str, artifact: &Artifact) -> ResourceContents {
    let contents = match std::str::from_utf8(&artifact.bytes) {
        Ok(text) => ResourceContents::text(text, uri),
        Err(_) => ResourceContents::blob(base64(&artifact.bytes), uri),
    };
    contents.with_mime_type(mime(artifact))
}

/// Its media type, by what it begins with or by its name; a client that shows it must not trust either.
pub(super) fn mime(artifact: &Artifact) -> &'static str {
    let bytes = &artifact.bytes;
    if bytes.starts_with(b"\x89PNG\r\n\x1a\n") {
        return "image/png";
    }
    if bytes.starts_with(b"\xff\xd8\xff") {
        return "image/jpeg";
    }
    let name = artifact
        .path
        .rsplit_once('.')
        .map(|(_, extension)| extension);
    match name {
        Some("csv") => "text/csv",
        Some("json") => "application/json",
        Some("html") => "text/html",
        Some("svg") => "image/svg+xml",
        Some("pdf") => "application/pdf",
        _ if std::str::from_utf8(bytes).is_ok() => "text/plain",
        _ => "application/octet-stream",
    }
}

/// Pictures that every client can show. SVG is not among them: it may hold programs.
fn is_picture(mime: &str) -> bool {
    matches!(mime, "image/png" | "image/jpeg")
}

/// Adds a text, without what a terminal would act on, and says how much of it was cut.
fn section(text: &mut String, title: &str, bytes: &[u8]) {
    if bytes.is_empty() {
        return;
    }
    if !text.is_empty() {
        text.push('\n');
    }
    text.push_str(title);
    let told = &bytes[..bytes.len().min(TOLD)];
    text.push_str(plain(told).trim_end());
    if bytes.len() > TOLD {
        text.push_str(&format!(
            "\n[{} bytes more are not shown]",
            bytes.len() - TOLD
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_outputs_are_cut_and_say_so() {
        let mut text = String::new();
        section(&mut text, "", &vec![b'x'; TOLD + 7]);
        assert!(text.ends_with("\n[7 bytes more are not shown]"));
        section(&mut text, "standard error:\n", b"\x1b[31mred");
        assert!(
            text.ends_with("\nstandard error:\n[31mred")
                || text.ends_with("\nstandard error:\nred"),
            "{text:?}"
        );
    }

    #[test]
    fn pictures_are_known_by_their_bytes() {
        let file = |path: &str, bytes: &[u8]| Artifact {
            path: path.to_owned(),
            bytes: bytes.to_vec(),
        };
        for (path, bytes, expected) in [
            ("/tmp/a.csv", &b"\x89PNG\r\n\x1a\n"[..], "image/png"),
            ("/tmp/a.png", b"<script>", "text/plain"),
            ("/tmp/a.svg", b"<svg/>", "image/svg+xml"),
            ("/tmp/a.csv", b"a,b", "text/csv"),
            ("/tmp/a", b"\xff\xfe", "application/octet-stream"),
        ] {
            assert_eq!(mime(&file(path, bytes)), expected, "{path}");
        }
    }
}
