//! What a model is told: text that fits its context, pictures, and links to the rest.

use casemate_model::outcome::Outcome;
use casemate_model::result::{Artifact, base64};
use rmcp::model::{CallToolResult, ContentBlock, Resource, ResourceContents};
use serde_json::{Value, json};

use super::address::Address;
use super::host::{Listed, ToolError};
use crate::text::plain;
use crate::wire::{cause, trouble};

/// Bytes of an output that are told.
pub(super) const TOLD: usize = 32 << 10;
/// Bytes of a picture that is told and not only linked to.
pub(super) const PICTURE: usize = 2 << 20;
/// Pictures that are told.
pub(super) const PICTURES: usize = 8;

/// What one call is answered with, as it is put together.
#[derive(Default)]
pub(super) struct Telling {
    text: String,
    pictures: Vec<ContentBlock>,
    links: Vec<ContentBlock>,
}

impl Telling {
    /// Adds a text, without what a terminal would act on, and says how much of it was cut: `total` bytes there were.
    pub(super) fn section(&mut self, title: &str, bytes: &[u8], total: usize) {
        if total == 0 {
            return;
        }
        if !self.text.is_empty() {
            self.text.push('\n');
        }
        self.text.push_str(title);
        let told = &bytes[..bytes.len().min(TOLD)];
        self.text.push_str(plain(told).trim_end());
        if total > told.len() {
            let missing = total - told.len();
            self.text
                .push_str(&format!("\n[{missing} bytes more are not shown]"));
        }
    }

    fn whole(&mut self, title: &str, bytes: &[u8]) {
        self.section(title, bytes, bytes.len());
    }

    /// Adds a picture where it is one that every client can show, and there is room.
    pub(super) fn picture(&mut self, bytes: &[u8]) {
        if let Some(mime) = picture(bytes)
            && bytes.len() <= PICTURE
            && self.has_room()
        {
            let block = ContentBlock::image(base64(bytes), mime);
            self.pictures.push(block);
        }
    }

    pub(super) fn has_room(&self) -> bool {
        self.pictures.len() < PICTURES
    }

    pub(super) fn link(&mut self, file: &Listed) {
        self.links.push(ContentBlock::resource_link(resource(file)));
    }

    pub(super) fn answer(mut self, is_well: bool, structured: Value) -> CallToolResult {
        if self.text.is_empty() {
            self.text.push_str("the program printed nothing");
        }
        let mut content = vec![ContentBlock::text(self.text)];
        content.append(&mut self.pictures);
        content.append(&mut self.links);
        let mut answer = if is_well {
            CallToolResult::success(content)
        } else {
            CallToolResult::error(content)
        };
        answer.structured_content = Some(structured);
        answer
    }
}

/// A run's answer.
pub(super) fn of_run(outcome: &Outcome) -> CallToolResult {
    let run = outcome.id.to_string();
    let mut telling = Telling::default();
    telling.whole("", &outcome.stdout);
    telling.whole("standard error:\n", &outcome.stderr);
    for shown in &outcome.results {
        if let Some(form) = shown.form("text/plain") {
            telling.whole("", &form.content);
        }
        if let Some(form) = shown.form("image/png") {
            telling.picture(&form.content);
        }
    }
    let is_well = outcome.ending.is_success();
    if !is_well {
        telling.whole("", trouble(outcome).as_bytes());
    }
    let files = outcome.artifacts.iter().enumerate();
    let files = files.map(|(index, file)| Listed::of(&run, index, file));
    let files: Vec<Listed> = files.collect();
    for (file, artifact) in files.iter().zip(&outcome.artifacts) {
        telling.picture(&artifact.bytes);
        telling.link(file);
    }
    let structured = json!({
        "run": run,
        "ending": outcome.ending,
        "cause": cause(&outcome.ending),
        "hint": outcome.hint,
        "error": outcome.error,
        "exit_code": outcome.ending.exit_code(),
        "backend": outcome.placement.as_ref().map(|placement| &placement.backend),
        "usage": outcome.usage,
        "artifacts": in_short(&files),
    });
    telling.answer(is_well, structured)
}

/// Files as structured content names them.
pub(super) fn in_short(files: &[Listed]) -> Vec<Value> {
    let one = |file: &Listed| json!({"path": file.path, "size_bytes": file.bytes, "uri": file.address.to_string()});
    files.iter().map(one).collect()
}

/// A mistake of whoever called, in words that can be acted on.
pub(super) fn wrong(error: &ToolError) -> CallToolResult {
    CallToolResult::error(vec![ContentBlock::text(error.to_string())])
}

/// A file as something to be linked to.
pub(super) fn resource(file: &Listed) -> Resource {
    Resource::new(file.address.to_string(), file.path.clone())
        .with_mime_type(file.mime.clone())
        .with_size(file.bytes)
}

/// A file as what a model can look at.
pub(super) fn content(address: &Address, artifact: &Artifact) -> ContentBlock {
    match picture(&artifact.bytes) {
        Some(mime) => ContentBlock::image(base64(&artifact.bytes), mime),
        None => ContentBlock::resource(contents(address, artifact)),
    }
}

/// A file as a resource: text where it is text.
pub(super) fn contents(address: &Address, artifact: &Artifact) -> ResourceContents {
    let uri = address.to_string();
    let contents = match std::str::from_utf8(&artifact.bytes) {
        Ok(text) => ResourceContents::text(text, uri),
        Err(_) => ResourceContents::blob(base64(&artifact.bytes), uri),
    };
    contents.with_mime_type(mime(artifact))
}

/// Its media type, by what it begins with or by its name; a client that shows it must not trust either.
pub(super) fn mime(artifact: &Artifact) -> &'static str {
    if let Some(mime) = picture(&artifact.bytes) {
        return mime;
    }
    let is_text = || std::str::from_utf8(&artifact.bytes).is_ok();
    match by_name(&artifact.path) {
        // A name alone makes no picture.
        Some(mime) if mime != "image/png" && mime != "image/jpeg" => mime,
        _ if is_text() => "text/plain",
        _ => "application/octet-stream",
    }
}

/// The media type that a name says.
pub(super) fn by_name(path: &str) -> Option<&'static str> {
    let (_, extension) = path.rsplit_once('.')?;
    Some(match extension.to_ascii_lowercase().as_str() {
        "csv" => "text/csv",
        "json" => "application/json",
        "html" => "text/html",
        "svg" => "image/svg+xml",
        "pdf" => "application/pdf",
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        _ => return None,
    })
}

/// Pictures that every client can show, by what they begin with. SVG is not among them: it may hold programs.
fn picture(bytes: &[u8]) -> Option<&'static str> {
    if bytes.starts_with(b"\x89PNG\r\n\x1a\n") {
        return Some("image/png");
    }
    bytes.starts_with(b"\xff\xd8\xff").then_some("image/jpeg")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_outputs_are_cut_and_say_so() {
        let mut telling = Telling::default();
        telling.whole("", &vec![b'x'; TOLD + 7]);
        assert!(telling.text.ends_with("\n[7 bytes more are not shown]"));
        telling.section("", b"kept", 10);
        assert!(
            telling
                .text
                .ends_with("\nkept\n[6 bytes more are not shown]")
        );
        telling.whole("standard error:\n", b"\x1b[31mred");
        assert!(telling.text.ends_with("\nstandard error:\nred"));
    }

    #[test]
    fn so_many_pictures_are_told_and_no_larger_ones() {
        let mut telling = Telling::default();
        let mut large = b"\x89PNG\r\n\x1a\n".to_vec();
        telling.picture(b"<svg/>");
        large.resize(PICTURE + 1, 0);
        telling.picture(&large);
        assert_eq!(telling.pictures.len(), 0);
        large.truncate(PICTURE);
        (0..PICTURES + 2).for_each(|_| telling.picture(&large));
        assert_eq!(telling.pictures.len(), PICTURES);
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
