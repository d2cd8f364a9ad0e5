//! The process that analyses one script of bash: this program once more, locked in before it reads the script.

use std::fs::File;
use std::io::{self, Read, Write};
use std::process::ExitCode;

use casemate_linux::lockdown::enter_reader;
use casemate_linux::{Spawn, take_fd};
use casemate_screen::apart;

/// The first argument that makes this program that process.
pub(crate) const ARGUMENT: &str = "screen-reader";
/// The request.
const ASKED: i32 = 3;
/// The answer.
const TELL: i32 = 4;
/// Bytes of a request: scripts are bounded before they become one.
const REQUEST_MAX: u64 = 4 << 20;
/// Memory of the process, in bytes. The largest script needs a fifth.
const DATA_BYTES: u64 = 512 << 20;
/// Its processor time. Screening gives up sooner.
const CPU_SECONDS: u64 = 5;

/// Has scripts analysed by such processes from here on.
pub(crate) fn install() {
    apart::carry_by(|request| carried(request).unwrap_or_else(|error| Err(error.to_string())));
}

fn carried(request: &[u8]) -> io::Result<Result<Vec<u8>, String>> {
    let (asked, mut asking) = io::pipe()?;
    let (told, telling) = io::pipe()?;
    let mut child = Spawn::this_program()
        .arg(ARGUMENT)
        .fd(&asked, ASKED)
        .fd(&telling, TELL)
        .spawn()?;
    drop((asked, telling));
    // It reads all of it before it says anything.
    asking.write_all(request)?;
    drop(asking);
    let mut answer = Vec::new();
    let most = apart::ANSWER_MAX as u64;
    told.take(most + 1).read_to_end(&mut answer)?;
    if answer.len() > apart::ANSWER_MAX {
        return Ok(Err(format!("it said more than {most} bytes")));
    }
    let ended = child.wait()?;
    if answer.is_empty() {
        return Ok(Err(format!("it ended with {:?}", ended.exit)));
    }
    Ok(Ok(answer))
}

/// Analyses the script that it is given.
pub(crate) fn main() -> ExitCode {
    let (Ok(asked), Ok(tell)) = (take_fd(ASKED), take_fd(TELL)) else {
        // There is nobody to tell: it was started by hand.
        return ExitCode::from(125);
    };
    match answered(File::from(asked), File::from(tell)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(125),
    }
}

fn answered(mut asked: File, mut tell: File) -> io::Result<()> {
    let steps = enter_reader(&[0, 1, 2, ASKED, TELL], DATA_BYTES, CPU_SECONDS);
    let missing = steps
        .iter()
        .find_map(|step| Some((&step.wall, step.got.as_ref().err()?)));
    if let Some((wall, why)) = missing {
        return tell.write_all(&apart::refusal(&format!(
            "it could not be locked in: {wall}: {why}"
        )));
    }
    let mut request = Vec::new();
    // A file by itself would be asked for its size, which the filter does not let through.
    (&mut asked).take(REQUEST_MAX).read_to_end(&mut request)?;
    drop(asked);
    tell.write_all(&apart::answer(&request))
}
