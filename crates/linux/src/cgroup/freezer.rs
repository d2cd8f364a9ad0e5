//! Stopping a group where it is.

use std::io;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::layout::Version;
use super::{Place, remove};

/// How long everything in a group may take to stop.
const STOPPED_WITHIN: Duration = Duration::from_secs(2);
/// How often it is asked.
const ASK_EVERY: Duration = Duration::from_millis(1);

/// Where a group is stopped.
pub(super) struct Freezer<'a>(pub(super) &'a Place);

impl Freezer<'_> {
    /// Stops it, and waits until all of it has stopped.
    pub(super) fn freeze(&self) -> io::Result<()> {
        match self.0.version {
            Version::V1 => self.0.write("freezer.state", "FROZEN")?,
            Version::V2 => self.0.write("cgroup.freeze", "1")?,
        }
        let deadline = Instant::now() + STOPPED_WITHIN;
        while !self.is_frozen()? {
            if Instant::now() > deadline {
                return Err(io::Error::other("something in it does not stop"));
            }
            sleep(ASK_EVERY);
        }
        Ok(())
    }

    fn is_frozen(&self) -> io::Result<bool> {
        match self.0.version {
            Version::V1 => Ok(self.0.read("freezer.state")?.trim() == "FROZEN"),
            Version::V2 => Ok(self.0.keyed("cgroup.events", "frozen")? == 1),
        }
    }

    /// Lets it go on.
    pub(super) fn thaw(&self) -> io::Result<()> {
        match self.0.version {
            Version::V1 => remove::thaw_v1(&self.0.dir),
            Version::V2 => self.0.write("cgroup.freeze", "0"),
        }
    }
}
