//! The zygote's process: this program once more, which gives up what its children do not need and becomes
//! the interpreter. It is of the machine's own system, and of no other.

use std::convert::Infallible;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::ExitCode;

use casemate_driver::handover::{Told, tell};
use casemate_driver::packets::Packets;
use casemate_driver::system::host_zygote;
use casemate_linux::jail::root::{Builder, Folders, Ground, Plan, System};
use casemate_linux::jail::zygote::{leave, shed, use_one_processor};
use casemate_linux::{Limit, take_fd};

use super::Loaded;
use crate::init::command;

/// The first argument that makes this program a zygote; the second is the folder of the packages, the third what it loads.
pub const ARGUMENT: &str = "jail-zygote";
/// The channel to the host.
pub(crate) const CONTROL: i32 = 3;
/// The folder of the packages, as the host checked it.
pub(crate) const PACKAGES: i32 = 4;

/// What a warm-up may write.
const SCRATCH: u64 = 16 << 20;
const SCRATCH_FILES: u64 = 256;

/// Becomes the interpreter, or says why it could not.
pub fn main() -> ExitCode {
    let (Ok(control), Ok(packages)) = (take_fd(CONTROL), take_fd(PACKAGES)) else {
        // There is nobody to tell: it was started by hand.
        return ExitCode::from(125);
    };
    let control = Packets::new(control);
    match tell(&control, |control| become_zygote(control, &packages)) {
        Ok(never) => match never {},
        Err(Told) => ExitCode::from(125),
    }
}

fn become_zygote(control: &Packets, packages: &OwnedFd) -> Result<Infallible, String> {
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let path = std::env::args_os().nth(2).map(PathBuf::from);
    let path = path.ok_or("the folder of the packages is not named")?;
    let loaded = std::env::args().nth(3);
    let loaded = loaded.as_deref().and_then(Loaded::of_word);
    let loaded = loaded.ok_or("what it is to load is not named")?;
    leave(&[0, 1, 2, CONTROL, PACKAGES])?;
    let plan = Plan {
        ground: Ground {
            system: System::Host,
            packages: path,
            venv: None,
            agent: None,
        },
        input_bytes: 0,
        input_files: 0,
        scratch_bytes: Limit::At(SCRATCH),
        scratch_files: Limit::At(SCRATCH_FILES),
        links: Vec::new(),
        owner: (0, 0),
        seen_as: (0, 0),
        machine: None,
    };
    let mut steps = Vec::new();
    let folders = Folders {
        packages: packages.as_fd(),
        image: None,
        venv: None,
        agent: None,
    };
    drop(Builder::begin(plan, folders, &mut steps)?.finish(&mut steps));
    for step in steps {
        step.got
            .map_err(|why| format!("{}: {why}", step.wall))
            .map(drop)?;
    }
    use_one_processor()?;
    shed()?;
    let zygote = host_zygote(loaded.modules());
    command(&zygote.argv, &zygote.env)
        .fd(control, CONTROL)
        .exec()
        .map_err(|error| error.to_string())
}
