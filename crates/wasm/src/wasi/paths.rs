//! Calls that name a path.

use casemate_model::event::{Access, What};
use casemate_model::limit::LimitKind;

use super::Wasi;
use super::descriptors::{FILESTAT_SIZE, write_filestat};
use super::errno::{Answer, Errno};
use super::log::clip;
use super::mem::Mem;
use super::table::{Open, Target};
use super::tree::{Ino, Kind, Spot};

const RIGHT_READ: u64 = 1 << 1;
const RIGHT_WRITE: u64 = 1 << 6;
const OFLAG_CREATE: u32 = 1;
const OFLAG_DIRECTORY: u32 = 2;
const OFLAG_EXCLUSIVE: u32 = 4;
const OFLAG_TRUNCATE: u32 = 8;
const FDFLAG_APPEND: u32 = 1;

/// Folders whose missing files say nothing about the program: the interpreter looks there by itself.
const OWN_PLACES: [&str; 5] = ["/usr/local/lib/", "/work", "/tmp", "/data", "/dev/"];

/// The arguments of `path_open`.
pub(crate) struct OpenCall<'a> {
    pub(crate) dir_fd: u32,
    pub(crate) follow: bool,
    pub(crate) path: &'a str,
    pub(crate) oflags: u32,
    pub(crate) rights: u64,
    pub(crate) fdflags: u32,
}

impl Wasi {
    /// The folder behind a descriptor and the full path for events.
    fn at(&self, fd: u32, path: &str) -> Result<(Ino, String), Errno> {
        let open = self.table.get(fd)?;
        let Target::Dir(ino) = open.target else {
            return Err(Errno::NotDir);
        };
        Ok((ino, lexical(&open.path, path)))
    }

    fn spot(&mut self, fd: u32, path: &str, follow: bool) -> Result<(Spot, String), Errno> {
        let (dir, full) = self.at(fd, path)?;
        let spot = self.tree.spot(dir, path, follow);
        if matches!(&spot, Err(Errno::NoEnt) | Ok(Spot { found: None, .. })) {
            self.missing(&full);
        }
        Ok((spot?, full))
    }

    fn missing(&mut self, full: &str) {
        if !OWN_PLACES.iter().any(|place| full.starts_with(place)) {
            self.note(What::Missing { path: clip(full) });
        }
    }

    /// `path_open`: the new descriptor.
    pub(crate) fn path_open(&mut self, call: &OpenCall<'_>) -> Result<u32, Errno> {
        if self.table.opened() >= self.open_files_allowed {
            let (allowed, seen) = (self.open_files_allowed, self.open_files_allowed + 1);
            self.log_limit(LimitKind::OpenFiles, allowed, seen);
            return Err(Errno::MFile);
        }
        let create = call.oflags & OFLAG_CREATE != 0;
        let follow = call.follow && call.oflags & OFLAG_EXCLUSIVE == 0;
        let (dir, full) = self.at(call.dir_fd, call.path)?;
        let spot = self.tree.spot(dir, call.path, follow);
        let spot = match spot {
            Ok(spot) if spot.found.is_some() || create => spot,
            Ok(_) | Err(Errno::NoEnt) => {
                self.missing(&full);
                return Err(Errno::NoEnt);
            }
            Err(errno) => return Err(errno),
        };
        let write = call.rights & RIGHT_WRITE != 0;
        let read = call.rights & RIGHT_READ != 0;
        let (ino, created) = self.open_or_create(&spot, call, write, &full)?;
        let target = self.target(ino, call, write, &full)?;
        if call.oflags & OFLAG_TRUNCATE != 0 && matches!(target, Target::File(_)) && !created {
            let now = self.now();
            self.tree
                .resize(ino, 0, now)
                .map_err(|errno| self.refuse_write("path_open", &full, errno))?;
        }
        let access = match (&target, read, write) {
            (Target::Dir(_), ..) => Access::List,
            (_, true, true) => Access::ReadWrite,
            (_, _, true) => Access::Write,
            _ => Access::Read,
        };
        if !matches!(target, Target::Device(super::tree::Device::Casemate, _)) {
            self.note(What::FileOpen {
                path: clip(&full),
                access,
                created,
            });
        }
        self.tree.opened(ino);
        let append = call.fdflags & FDFLAG_APPEND != 0;
        let fd = self
            .table
            .insert(Open::new(target, &clip(&full), read, write, append));
        self.open_files_peak = self.open_files_peak.max(self.table.opened());
        Ok(fd)
    }

    fn open_or_create(
        &mut self,
        spot: &Spot,
        call: &OpenCall<'_>,
        write: bool,
        full: &str,
    ) -> Result<(Ino, bool), Errno> {
        match spot.found {
            Some(_) if call.oflags & OFLAG_EXCLUSIVE != 0 => Err(Errno::Exist),
            Some(ino) => Ok((ino, false)),
            None if call.oflags & OFLAG_DIRECTORY != 0 || call.path.ends_with('/') => {
                Err(Errno::Inval)
            }
            None => {
                let now = self.now();
                let made = self.tree.create(spot, Kind::Written(Vec::new()), now);
                self.note_quota();
                let call = if write {
                    "path_open for writing"
                } else {
                    "path_open"
                };
                let ino = made.map_err(|errno| self.refuse_write(call, full, errno))?;
                Ok((ino, true))
            }
        }
    }

    fn target(
        &mut self,
        ino: Ino,
        call: &OpenCall<'_>,
        write: bool,
        full: &str,
    ) -> Result<Target, Errno> {
        let node = self.tree.node(ino)?;
        let target = match &node.kind {
            Kind::Dir(_) if write => return Err(Errno::IsDir),
            Kind::Dir(_) => Target::Dir(ino),
            _ if call.oflags & OFLAG_DIRECTORY != 0 => return Err(Errno::NotDir),
            Kind::Fixed(_) if write => {
                return Err(self.refuse_write("path_open for writing", full, Errno::RoFs));
            }
            Kind::Fixed(_) | Kind::Written(_) => Target::File(ino),
            Kind::Device(device) => Target::Device(*device, ino),
            Kind::Link(_) => return Err(Errno::Loop),
        };
        Ok(target)
    }

    /// Notes a refused write when it was a wall that refused it.
    fn refuse_write(&mut self, call: &str, path: &str, errno: Errno) -> Errno {
        match errno {
            Errno::RoFs => self.denied("read-only files", call, clip(path), errno),
            _ => errno,
        }
    }

    pub(crate) fn path_filestat_get(
        &mut self,
        mem: &mut Mem<'_>,
        fd: u32,
        follow: bool,
        path: &str,
        out: u32,
    ) -> Answer {
        let (spot, _) = self.spot(fd, path, follow)?;
        let ino = spot.found.ok_or(Errno::NoEnt)?;
        mem.bytes(out, FILESTAT_SIZE)?;
        Ok(write_filestat(mem, out, ino, self.tree.node(ino)?)?)
    }

    pub(crate) fn path_set_times(
        &mut self,
        fd: u32,
        follow: bool,
        path: &str,
        mtime: Option<u64>,
    ) -> Answer {
        let (spot, full) = self.spot(fd, path, follow)?;
        let ino = spot.found.ok_or(Errno::NoEnt)?;
        Ok(self.set_mtime(ino, mtime, &full)?)
    }

    pub(crate) fn set_mtime(
        &mut self,
        ino: Ino,
        mtime: Option<u64>,
        full: &str,
    ) -> Result<(), Errno> {
        if !self.tree.node(ino)?.writable {
            return Err(self.refuse_write("set_times", full, Errno::RoFs));
        }
        if let Some(mtime) = mtime {
            self.tree.node_mut(ino)?.mtime = mtime;
        }
        Ok(())
    }

    pub(crate) fn path_create_directory(&mut self, fd: u32, path: &str) -> Answer {
        let (dir, full) = self.at(fd, path)?;
        let spot = self.tree.spot(dir, path.trim_end_matches('/'), false)?;
        let now = self.now();
        let made = self
            .tree
            .create(&spot, Kind::Dir(std::collections::BTreeMap::new()), now);
        self.note_quota();
        made.map_err(|errno| self.refuse_write("path_create_directory", &full, errno))?;
        self.note(What::DirCreate { path: clip(&full) });
        Ok(())
    }

    pub(crate) fn path_remove(&mut self, fd: u32, path: &str, folder: bool) -> Answer {
        let (spot, full) = self.spot(fd, path.trim_end_matches('/'), false)?;
        let now = self.now();
        let call = if folder {
            "path_remove_directory"
        } else {
            "path_unlink_file"
        };
        self.tree
            .unlink(&spot, folder, now)
            .map_err(|errno| self.refuse_write(call, &full, errno))?;
        let path = clip(&full);
        self.note(if folder {
            What::DirRemove { path }
        } else {
            What::FileUnlink { path }
        });
        Ok(())
    }

    pub(crate) fn path_rename(&mut self, fd: u32, from: &str, to_fd: u32, to: &str) -> Answer {
        let (from_spot, from_full) = self.spot(fd, from.trim_end_matches('/'), false)?;
        let (to_dir, to_full) = self.at(to_fd, to)?;
        let to_spot = self.tree.spot(to_dir, to.trim_end_matches('/'), false)?;
        let now = self.now();
        self.tree
            .rename(&from_spot, &to_spot, now)
            .map_err(|errno| self.refuse_write("path_rename", &to_full, errno))?;
        self.note(What::Rename {
            from: clip(&from_full),
            to: clip(&to_full),
        });
        Ok(())
    }

    pub(crate) fn path_link(
        &mut self,
        fd: u32,
        follow: bool,
        from: &str,
        to_fd: u32,
        to: &str,
    ) -> Answer {
        let (from_spot, from_full) = self.spot(fd, from, follow)?;
        let ino = from_spot.found.ok_or(Errno::NoEnt)?;
        let (to_dir, to_full) = self.at(to_fd, to)?;
        let to_spot = self.tree.spot(to_dir, to, false)?;
        self.tree
            .hard_link(ino, &to_spot)
            .map_err(|errno| self.refuse_write("path_link", &to_full, errno))?;
        self.note(What::Link {
            target: clip(&from_full),
            path: clip(&to_full),
        });
        Ok(())
    }

    pub(crate) fn path_symlink(&mut self, target: &str, fd: u32, path: &str) -> Answer {
        let (dir, full) = self.at(fd, path)?;
        let spot = self.tree.spot(dir, path, false)?;
        let now = self.now();
        let made = self.tree.create(&spot, Kind::Link(target.to_owned()), now);
        self.note_quota();
        made.map_err(|errno| self.refuse_write("path_symlink", &full, errno))?;
        self.note(What::Link {
            target: clip(target),
            path: clip(&full),
        });
        Ok(())
    }

    pub(crate) fn path_readlink(&mut self, fd: u32, path: &str) -> Result<String, Errno> {
        let (spot, _) = self.spot(fd, path, false)?;
        let ino = spot.found.ok_or(Errno::NoEnt)?;
        match &self.tree.node(ino)?.kind {
            Kind::Link(target) => Ok(target.clone()),
            _ => Err(Errno::Inval),
        }
    }

    /// The time to stamp on files: the guest's own real-time clock.
    pub(crate) fn now(&self) -> u64 {
        self.clock.read(0).unwrap_or_default()
    }
}

/// The path people know it by: `.` and `..` folded without looking at links.
fn lexical(dir: &str, path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    let start = if path.starts_with('/') { "" } else { dir };
    for part in start.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::lexical;

    #[test]
    fn event_paths_are_absolute_and_folded() {
        assert_eq!(lexical("", "tmp/../etc/./shadow"), "/etc/shadow");
        assert_eq!(lexical("/tmp/a", "../../../x"), "/x");
        assert_eq!(lexical("/tmp", "/data/a"), "/data/a");
    }
}
