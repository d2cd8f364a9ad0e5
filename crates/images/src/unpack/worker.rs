//! The other process: locked in before it reads the first byte of an archive.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;

use casemate_linux::file::Tree;
use casemate_linux::lockdown::enter_unpacker;
use casemate_linux::take_fd;

use super::entries::apply;
use super::{ARCHIVE, FOLDER, Form, Job, Stop, TELL, Told, Unpacked};

/// Memory of this process; tar keeps long names in it.
const DATA_BYTES: u64 = 256 << 20;
/// Bytes between two words of how far it is.
const TELL_EVERY: u64 = 8 << 20;

/// Unpacks the archive that it was given below the folder it was given.
pub fn main() -> ExitCode {
    let (Ok(archive), Ok(out), Ok(folder)) = (take_fd(ARCHIVE), take_fd(TELL), take_fd(FOLDER))
    else {
        // There is nobody to tell: it was started by hand.
        return ExitCode::from(125);
    };
    let mut out = File::from(out);
    let told = match unpack(archive, folder, &mut out) {
        Ok(unpacked) => Told::Done(unpacked),
        Err(stop) => Told::Stopped(stop),
    };
    let code = u8::from(!matches!(told, Told::Done(_)));
    match tell(&mut out, &told) {
        Ok(()) => ExitCode::from(code),
        Err(_) => ExitCode::from(125),
    }
}

fn unpack(archive: OwnedFd, folder: OwnedFd, out: &mut File) -> Result<Unpacked, Stop> {
    let job: Job = std::env::args()
        .nth(2)
        .and_then(|text| serde_json::from_str(&text).ok())
        .ok_or_else(|| wall("job", "there is none"))?;
    let keep = [0, 1, 2, ARCHIVE, TELL];
    let steps = enter_unpacker(&keep, folder.as_fd(), job.bounds.bytes, DATA_BYTES);
    for step in &steps {
        if let Err(why) = &step.got {
            return Err(wall(&step.wall, why));
        }
    }
    let archive = BufReader::with_capacity(256 << 10, File::from(archive));
    let reader: Box<dyn Read> = match job.form {
        Form::Plain => Box::new(archive),
        Form::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(archive)),
    };
    let mut tree = Tree::new(folder);
    let mut next = TELL_EVERY;
    let mut said = |at: u64| {
        if at >= next {
            next = at + TELL_EVERY;
            // Whoever does not listen any more kills this process.
            drop(tell(out, &Told::At(at)));
        }
    };
    apply(reader, &mut tree, job.layer, job.bounds, &mut said)
}

fn wall(wall: &str, why: &str) -> Stop {
    Stop::Wall {
        wall: wall.to_owned(),
        why: why.to_owned(),
    }
}

fn tell(out: &mut File, told: &Told) -> io::Result<()> {
    let mut line = serde_json::to_vec(told)?;
    line.push(b'\n');
    out.write_all(&line)
}
