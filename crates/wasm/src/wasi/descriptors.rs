//! Calls on open descriptors.

use casemate_model::limit::LimitKind;

use super::Wasi;
use super::calls::{len32, random};
use super::errno::{Answer, Errno, Halt, Stop};
use super::mem::{Mem, offset};
use super::table::Target;
use super::tree::{Device, Ino, Kind, Node};

pub(crate) const FILESTAT_SIZE: u32 = 64;
const RIGHTS_READ_ONLY: u64 = 0x1fff_ffff & !(1 << 6);
const RIGHTS_ALL: u64 = 0x1fff_ffff;
/// The largest message of the guest's driver.
const MESSAGE_MAX: usize = 64 << 20;

/// Writes a `filestat`.
pub(crate) fn write_filestat(
    mem: &mut Mem<'_>,
    out: u32,
    ino: Ino,
    node: &Node,
) -> Result<(), Errno> {
    mem.bytes_mut(out, FILESTAT_SIZE)?.fill(0);
    mem.write_u64(offset(out, 8)?, u64::from(ino) + 1)?;
    mem.write(offset(out, 16)?, &[file_type(&node.kind)])?;
    mem.write_u64(offset(out, 24)?, u64::from(node.links()))?;
    mem.write_u64(offset(out, 32)?, node.size())?;
    for field in [40, 48, 56] {
        mem.write_u64(offset(out, field)?, node.mtime)?;
    }
    Ok(())
}

fn file_type(kind: &Kind) -> u8 {
    match kind {
        Kind::Device(_) => 2,
        Kind::Dir(_) => 3,
        Kind::Fixed(_) | Kind::Written(_) => 4,
        Kind::Link(_) => 7,
    }
}

impl Wasi {
    pub(crate) fn fd_close(&mut self, fd: u32) -> Answer {
        let open = self.table.remove(fd)?;
        for what in open.account() {
            self.note(what);
        }
        if let Target::File(ino) | Target::Dir(ino) | Target::Device(_, ino) = open.target {
            self.tree.closed(ino)?;
        }
        Ok(())
    }

    /// Closes everything, so that what was read and written is in the log.
    pub(crate) fn close_all(&mut self) {
        for open in self.table.drain() {
            for what in open.account() {
                self.note(what);
            }
        }
    }

    pub(crate) fn fd_fdstat_get(&mut self, mem: &mut Mem<'_>, fd: u32, out: u32) -> Answer {
        let open = self.table.get(fd)?;
        let kind = match &open.target {
            Target::Stdin | Target::Stream(_) | Target::Device(..) => 2,
            Target::File(_) => 4,
            Target::Dir(_) => 3,
        };
        let rights = match (&open.target, open.read, open.write) {
            (Target::Dir(_), ..) | (_, true, true) => RIGHTS_ALL,
            (_, false, true) => RIGHTS_ALL & !(1 << 1),
            _ => RIGHTS_READ_ONLY,
        };
        let append = open.append;
        mem.bytes_mut(out, 24)?.fill(0);
        mem.write(out, &[kind, 0, u8::from(append), 0])?;
        mem.write_u64(offset(out, 8)?, rights)?;
        Ok(mem.write_u64(offset(out, 16)?, RIGHTS_ALL)?)
    }

    pub(crate) fn fd_filestat_get(&mut self, mem: &mut Mem<'_>, fd: u32, out: u32) -> Answer {
        match self.table.get(fd)?.target {
            Target::File(ino) | Target::Dir(ino) | Target::Device(_, ino) => {
                Ok(write_filestat(mem, out, ino, self.tree.node(ino)?)?)
            }
            Target::Stdin | Target::Stream(_) => {
                mem.bytes_mut(out, FILESTAT_SIZE)?.fill(0);
                Ok(mem.write(offset(out, 16)?, &[2])?)
            }
        }
    }

    pub(crate) fn fd_seek(
        &mut self,
        mem: &mut Mem<'_>,
        fd: u32,
        by: i64,
        whence: u32,
        out: u32,
    ) -> Answer {
        mem.bytes(out, 8)?;
        let open = self.table.get(fd)?;
        let Target::File(ino) = open.target else {
            return Err(Errno::SPipe.into());
        };
        let from = match whence {
            0 => 0,
            1 => open.at,
            2 => self.tree.node(ino)?.size(),
            _ => return Err(Errno::Inval.into()),
        };
        let to = from
            .checked_add_signed(by)
            .filter(|&to| i64::try_from(to).is_ok())
            .ok_or(Errno::Inval)?;
        self.table.get_mut(fd)?.at = to;
        Ok(mem.write_u64(out, to)?)
    }

    pub(crate) fn fd_resize(&mut self, fd: u32, size: u64) -> Answer {
        let open = self.table.get(fd)?;
        let Target::File(ino) = open.target else {
            return Err(Errno::Inval.into());
        };
        if !open.write {
            return Err(Errno::Inval.into());
        }
        let now = self.now();
        let done = self.tree.resize(ino, size, now);
        self.note_quota();
        Ok(done?)
    }

    pub(crate) fn fd_read(
        &mut self,
        mem: &mut Mem<'_>,
        fd: u32,
        iovs: u32,
        count: u32,
        place: Option<u64>,
        out: u32,
    ) -> Answer {
        self.clock.check()?;
        let buffers = mem.buffers(iovs, count)?;
        let open = self.table.get(fd)?;
        if !open.read {
            return Err(Errno::BadF.into());
        }
        let target = open.target.clone();
        let mut at = place.unwrap_or(open.at);
        let mut total = 0_u64;
        for (to, len) in buffers {
            let buffer = mem.bytes_mut(to, len)?;
            let done = self.read_into(&target, at, buffer)?;
            at += done as u64;
            total += done as u64;
            if done < buffer.len() {
                break;
            }
        }
        let open = self.table.get_mut(fd)?;
        if place.is_none() {
            open.at = at;
        }
        open.read_bytes += total;
        open.read_calls += 1;
        Ok(mem.write_u32(out, u32::try_from(total).map_err(|_| Errno::FBig)?)?)
    }

    fn read_into(&mut self, target: &Target, at: u64, buffer: &mut [u8]) -> Result<usize, Stop> {
        let source: &[u8] = match target {
            Target::File(ino) => from(self.tree.content(*ino)?, at),
            Target::Device(Device::Casemate, _) => from(&self.job, at),
            Target::Device(Device::Null, _) => &[],
            Target::Device(Device::Zero, _) => {
                buffer.fill(0);
                return Ok(buffer.len());
            }
            Target::Device(Device::Random, _) => {
                random(self, buffer)?;
                return Ok(buffer.len());
            }
            Target::Stdin => {
                let rest = self.stdin.get(self.stdin_at..).unwrap_or_default();
                let done = rest.len().min(buffer.len());
                buffer[..done].copy_from_slice(&rest[..done]);
                self.stdin_at += done;
                return Ok(done);
            }
            Target::Dir(_) => return Err(Errno::IsDir.into()),
            Target::Stream(_) => return Err(Errno::BadF.into()),
        };
        let done = source.len().min(buffer.len());
        buffer[..done].copy_from_slice(&source[..done]);
        Ok(done)
    }

    pub(crate) fn fd_write(
        &mut self,
        mem: &mut Mem<'_>,
        fd: u32,
        iovs: u32,
        count: u32,
        place: Option<u64>,
        out: u32,
    ) -> Answer {
        self.clock.check()?;
        mem.bytes(out, 4)?;
        let buffers = mem.buffers(iovs, count)?;
        let open = self.table.get(fd)?;
        if !open.write {
            return Err(Errno::BadF.into());
        }
        let (target, append) = (open.target.clone(), open.append);
        let mut at = place.unwrap_or(open.at);
        if let (Target::File(ino), true) = (&target, append) {
            at = self.tree.node(*ino)?.size();
        }
        let mut total = 0_u32;
        if matches!(target, Target::Device(Device::Casemate, _)) {
            total = self.message(mem, &buffers)?;
        } else {
            for (from, len) in buffers {
                let done = self.write_from(&target, at, mem.bytes(from, len)?)?;
                at += u64::from(done);
                total = total.saturating_add(done);
            }
        }
        let open = self.table.get_mut(fd)?;
        if place.is_none() {
            open.at = at;
        }
        open.written_bytes += u64::from(total);
        open.written_calls += 1;
        Ok(mem.write_u32(out, total)?)
    }

    fn write_from(&mut self, target: &Target, at: u64, bytes: &[u8]) -> Result<u32, Stop> {
        match target {
            Target::Stream(number) => self.emit(*number, bytes)?,
            Target::File(ino) => {
                let now = self.now();
                let done = self.tree.write(*ino, at, bytes, now);
                self.note_quota();
                return Ok(done?);
            }
            Target::Device(Device::Null | Device::Zero | Device::Random, _) => {}
            Target::Device(Device::Casemate, _) | Target::Stdin | Target::Dir(_) => {
                return Err(Errno::BadF.into());
            }
        }
        Ok(len32(bytes.len())?)
    }

    /// One message of the guest's driver: one write.
    fn message(&mut self, mem: &Mem<'_>, buffers: &[(u32, u32)]) -> Result<u32, Stop> {
        let size: usize = buffers.iter().map(|(_, len)| *len as usize).sum();
        if size > MESSAGE_MAX {
            let (limit, allowed) = (LimitKind::ResultBytes, MESSAGE_MAX as u64);
            return Err(Halt::Limit {
                limit,
                allowed,
                seen: size as u64,
            }
            .into());
        }
        let mut bytes = Vec::with_capacity(size);
        for (at, len) in buffers {
            bytes.extend_from_slice(mem.bytes(*at, *len)?);
        }
        self.pass_message(&bytes)?;
        Ok(len32(size)?)
    }

    pub(crate) fn fd_readdir(
        &mut self,
        mem: &mut Mem<'_>,
        fd: u32,
        at: u32,
        len: u32,
        cookie: u64,
        out: u32,
    ) -> Answer {
        const HEADER: usize = 24;
        mem.bytes(at, len)?;
        let Target::Dir(dir) = self.table.get(fd)?.target else {
            return Err(Errno::NotDir.into());
        };
        if cookie == 0 || self.table.get(fd)?.listing.is_none() {
            let listing = self.tree.list(dir)?;
            self.table.get_mut(fd)?.listing = Some(listing);
        }
        let listing = self.table.get(fd)?.listing.as_deref().unwrap_or_default();
        let mut bytes = Vec::with_capacity(len as usize);
        for (index, (name, ino)) in (0_u64..)
            .zip(listing)
            .skip(usize::try_from(cookie).unwrap_or(usize::MAX))
        {
            if bytes.len() >= len as usize {
                break;
            }
            // A name removed since the listing began has no node any more: its type is unknown.
            let kind = self.tree.node(*ino).map_or(0, |node| file_type(&node.kind));
            let mut header = [0_u8; HEADER];
            header[..8].copy_from_slice(&(index + 1).to_le_bytes());
            header[8..16].copy_from_slice(&(u64::from(*ino) + 1).to_le_bytes());
            header[16..20].copy_from_slice(&len32(name.len())?.to_le_bytes());
            header[20] = kind;
            bytes.extend_from_slice(&header);
            bytes.extend_from_slice(name.as_bytes());
        }
        bytes.truncate(len as usize);
        mem.write(at, &bytes)?;
        Ok(mem.write_u32(out, len32(bytes.len())?)?)
    }
}

fn from(bytes: &[u8], at: u64) -> &[u8] {
    usize::try_from(at)
        .ok()
        .and_then(|at| bytes.get(at..))
        .unwrap_or_default()
}
