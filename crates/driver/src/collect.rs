//! Reading what a program left, once nothing of it runs any more.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::Path;

use casemate_linux::file::{Left, left_beneath, open_beneath};
use casemate_model::event::What;
use casemate_model::limit::LimitKind;

use crate::lowered::Watched;
use crate::tally::{Over, Tally};

/// Files that are looked at; a scratch without a limit on files may hold more.
const LOOKED_AT: usize = 100_000;

/// What was left, in bytes.
#[derive(Default)]
pub struct Collected {
    /// Bytes of all regular files.
    pub bytes: u64,
    /// The same in whole pages, as the file system counts them.
    pub pages: u64,
}

/// Takes the files of /tmp and /work up to the limits; a limit that cut them is an event.
///
/// # Errors
/// When what is there cannot be read.
pub fn collect(
    scratch: &OwnedFd,
    watched: &Watched,
    tally: &mut Tally<'_>,
) -> io::Result<Collected> {
    let mut left = left_beneath(scratch, Path::new("tmp"), LOOKED_AT)?;
    left.extend(left_beneath(scratch, Path::new("work"), LOOKED_AT)?);
    let total = left
        .iter()
        .fold(0_u64, |sum, file| sum.saturating_add(file.bytes));
    let counted = &watched.counted;
    let most = usize::try_from(counted.artifacts).unwrap_or(usize::MAX);
    for file in left.iter().take(most) {
        take(scratch, file, tally)?;
    }
    let checks = [
        (
            LimitKind::ArtifactCount,
            counted.artifacts,
            left.len() as u64,
        ),
        (LimitKind::ArtifactBytes, counted.artifact_bytes, total),
    ];
    for (limit, allowed, seen) in checks
        .into_iter()
        .filter(|(_, allowed, seen)| seen > allowed)
    {
        tally.reached(Over {
            limit,
            allowed,
            seen,
        });
    }
    let page = |file: &Left| file.stored.div_ceil(4096).saturating_mul(4096);
    Ok(Collected {
        bytes: left.iter().map(|file| file.stored).sum(),
        pages: left.iter().map(page).sum(),
    })
}

/// One that is too large is left out, and smaller ones after it are not.
fn take(scratch: &OwnedFd, file: &Left, tally: &mut Tally<'_>) -> io::Result<()> {
    let path = format!("/{}", file.path.display());
    let opened = match open_beneath(scratch, &file.path) {
        Ok(opened) => opened,
        // Without root a file whose owner took the right to read it away stays unread.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            tally.event(What::Denied {
                wall: "files out".to_owned(),
                call: "open".to_owned(),
                detail: path,
                error: "it may not be read".to_owned(),
            });
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    match tally.artifact(path, file.bytes) {
        Ok(()) => copy(opened, file.bytes, tally),
        Err(_) => Ok(()),
    }
}

fn copy(from: File, bytes: u64, tally: &mut Tally<'_>) -> io::Result<()> {
    let mut from = from.take(bytes);
    let mut buffer = vec![0; 64 << 10];
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok(()),
            read => tally.artifact_data(&buffer[..read]),
        }
    }
}
