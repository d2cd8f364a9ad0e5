//! Writing what a program left to the user's folder: never through a link, never outside it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::Context;
use casemate_linux::file::{Dir, write_beneath};
use casemate_model::outcome::Outcome;

/// Where things were written, in the order of the outcome.
#[derive(Debug, Default)]
pub(crate) struct Saved {
    /// Of each artifact; none where it could not be written.
    pub(crate) artifacts: Vec<Option<PathBuf>>,
    /// Of each result that is a picture.
    pub(crate) pictures: Vec<Option<PathBuf>>,
    /// What could not be written, and why. The outcome is told all the same.
    pub(crate) failed: Vec<String>,
}

/// The folder being written to.
struct Folder<'a> {
    open: Dir,
    path: &'a Path,
    taken: BTreeSet<PathBuf>,
    failed: Vec<String>,
}

/// Writes artifacts, and figures that no artifact already is.
///
/// # Errors
/// When the folder cannot be made. A file that cannot be written is noted in [`Saved::failed`].
pub(crate) fn save(outcome: &Outcome, dir: &Path) -> anyhow::Result<Saved> {
    let open = Dir::create(dir)
        .with_context(|| format!("the output folder {} cannot be used", dir.display()))?;
    let mut folder = Folder {
        open,
        path: dir,
        taken: BTreeSet::new(),
        failed: Vec::new(),
    };
    let artifacts: Vec<Option<PathBuf>> = outcome
        .artifacts
        .iter()
        .map(|artifact| folder.write(&relative(&artifact.path), &artifact.bytes))
        .collect();
    let mut pictures = Vec::new();
    let mut number = 0;
    for result in &outcome.results {
        let forms = [
            ("image/png", "png"),
            ("image/svg+xml", "svg"),
            ("image/jpeg", "jpg"),
        ];
        let picture = forms
            .iter()
            .find_map(|(mime, extension)| Some((result.form(mime)?, *extension)));
        pictures.push(picture.and_then(|(form, extension)| {
            let same = outcome
                .artifacts
                .iter()
                .position(|artifact| artifact.bytes == form.content);
            if let Some(index) = same {
                return artifacts.get(index).cloned().flatten();
            }
            number += 1;
            folder.write(
                Path::new(&format!("figure-{number}.{extension}")),
                &form.content,
            )
        }));
    }
    Ok(Saved {
        artifacts,
        pictures,
        failed: folder.failed,
    })
}

impl Folder<'_> {
    fn write(&mut self, wanted: &Path, bytes: &[u8]) -> Option<PathBuf> {
        let name = free_name(wanted, &mut self.taken);
        match write_beneath(&self.open, &name, bytes) {
            Ok(()) => Some(self.path.join(name)),
            Err(error) => {
                self.failed.push(format!("{}: {error}", wanted.display()));
                None
            }
        }
    }
}

/// `/tmp/a/b.png` and `/work/a/b.png` are both `a/b.png` to the user.
fn relative(path: &str) -> PathBuf {
    let inner = path
        .strip_prefix("/tmp/")
        .or_else(|| path.strip_prefix("/work/"))
        .unwrap_or(path);
    inner
        .split('/')
        .filter(|part| !part.is_empty() && *part != "." && *part != "..")
        .collect()
}

fn free_name(wanted: &Path, taken: &mut BTreeSet<PathBuf>) -> PathBuf {
    let mut name = wanted.to_path_buf();
    let mut number = 1;
    while !taken.insert(name.clone()) {
        number += 1;
        let stem = wanted.file_stem().unwrap_or_default().to_string_lossy();
        let extension = wanted
            .extension()
            .map(|e| format!(".{}", e.to_string_lossy()))
            .unwrap_or_default();
        name = wanted.with_file_name(format!("{stem}-{number}{extension}"));
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_inside_and_apart() {
        assert_eq!(relative("/tmp/../../etc/passwd"), Path::new("etc/passwd"));
        assert_eq!(relative("/work/a//b"), Path::new("a/b"));
        let mut taken = BTreeSet::new();
        assert_eq!(
            free_name(Path::new("a/x.png"), &mut taken),
            Path::new("a/x.png")
        );
        assert_eq!(
            free_name(Path::new("a/x.png"), &mut taken),
            Path::new("a/x-2.png")
        );
    }
}
