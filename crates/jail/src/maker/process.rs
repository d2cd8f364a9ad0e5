//! The process that makes jails: this program once more, which forks instead of being started anew for each of them. It
//! sees nothing of a job, and nothing that a guest can reach speaks to it.

use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;

use casemate_driver::packets::Packets;
use casemate_linux::jail::maker::{Made, Maker};
use casemate_linux::{handoff, take_fd};

use crate::init::{self, Given, OpenGround};

/// The first argument that makes this program a maker of jails; what they show follows, as for one jail.
pub const ARGUMENT: &str = "jail-maker";
/// The channel to the host.
pub(crate) const CONTROL: i32 = init::CONTROL;
/// What asks for a jail, beside the descriptors that it is made with.
pub(crate) const MAKE: &[u8] = b"j";

/// Makes jails until the host is gone or nothing can be made; in each of them, is that jail.
pub fn main() -> ExitCode {
    let (Ok(control), Ok(shows)) = (take_fd(CONTROL), OpenGround::take()) else {
        // There is nobody to tell: it was started by hand.
        return ExitCode::from(125);
    };
    let filter = shows.filter();
    let maker = Maker::of_this_process();
    loop {
        let Some((given, groups)) = asked(&control) else {
            return ExitCode::SUCCESS;
        };
        match maker.fork() {
            Ok(Made::Maker(pidfd)) => {
                // Nobody may be there any more: then the jail dies with the host too.
                if handoff::send(&control, &pidfd).is_err() {
                    return ExitCode::SUCCESS;
                }
            }
            Ok(Made::New(new)) => {
                drop(control);
                if let Err(why) = new.begin(&groups) {
                    return init::failed(&given, &why);
                }
                drop(groups);
                return init::become_jail(given, shows, Some(filter));
            }
            // The host starts one itself, and hears why it cannot be made.
            Err(_) => return ExitCode::from(125),
        }
    }
}

/// What the next jail is made with; nothing when no more are wanted.
fn asked(control: &OwnedFd) -> Option<(Given, Vec<OwnedFd>)> {
    let (word, fds) = handoff::receive_all::<1>(control.as_fd()).ok()?;
    let mut fds = fds.into_iter();
    let given = Given {
        control: Packets::new(fds.next()?),
        handoff: fds.next()?,
        messages: fds.next()?,
        stdout: fds.next()?,
        stderr: fds.next()?,
    };
    (word == MAKE).then(|| (given, fds.collect()))
}
