//! The guest's memory as the host sees it: every access is checked, and a bad one is `EFAULT`.

use super::errno::Errno;

/// A view of the guest's linear memory.
pub(crate) struct Mem<'a>(pub(crate) &'a mut [u8]);

impl Mem<'_> {
    pub(crate) fn bytes(&self, at: u32, len: u32) -> Result<&[u8], Errno> {
        let (at, len) = (at as usize, len as usize);
        self.0.get(at..at.saturating_add(len)).ok_or(Errno::Fault)
    }

    pub(crate) fn bytes_mut(&mut self, at: u32, len: u32) -> Result<&mut [u8], Errno> {
        let (at, len) = (at as usize, len as usize);
        self.0
            .get_mut(at..at.saturating_add(len))
            .ok_or(Errno::Fault)
    }

    pub(crate) fn write(&mut self, at: u32, bytes: &[u8]) -> Result<(), Errno> {
        let len = u32::try_from(bytes.len()).map_err(|_| Errno::Fault)?;
        self.bytes_mut(at, len)?.copy_from_slice(bytes);
        Ok(())
    }

    pub(crate) fn write_u32(&mut self, at: u32, value: u32) -> Result<(), Errno> {
        self.write(at, &value.to_le_bytes())
    }

    pub(crate) fn write_u64(&mut self, at: u32, value: u64) -> Result<(), Errno> {
        self.write(at, &value.to_le_bytes())
    }

    pub(crate) fn read_u16(&self, at: u32) -> Result<u16, Errno> {
        let bytes = self.bytes(at, 2)?;
        Ok(u16::from_le_bytes([bytes[0], bytes[1]]))
    }

    pub(crate) fn read_u32(&self, at: u32) -> Result<u32, Errno> {
        let bytes = self.bytes(at, 4)?;
        Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    pub(crate) fn read_u64(&self, at: u32) -> Result<u64, Errno> {
        Ok(u64::from(self.read_u32(at)?) | u64::from(self.read_u32(offset(at, 4)?)?) << 32)
    }

    /// A path: UTF-8, without NUL, at most 4,096 bytes.
    pub(crate) fn path(&self, at: u32, len: u32) -> Result<&str, Errno> {
        if len > 4096 {
            return Err(Errno::NameTooLong);
        }
        let text = std::str::from_utf8(self.bytes(at, len)?).map_err(|_| Errno::IlSeq)?;
        if text.contains('\0') {
            return Err(Errno::Inval);
        }
        Ok(text)
    }

    /// The buffers of a scattered read or write: address and length, at most 1,024 of them.
    pub(crate) fn buffers(&self, at: u32, count: u32) -> Result<Vec<(u32, u32)>, Errno> {
        if count > 1024 {
            return Err(Errno::Inval);
        }
        (0..count)
            .map(|index| {
                let entry = offset(at, index * 8)?;
                let buffer = (self.read_u32(entry)?, self.read_u32(offset(entry, 4)?)?);
                self.bytes(buffer.0, buffer.1)?;
                Ok(buffer)
            })
            .collect()
    }
}

/// `at + by`, or `EFAULT` past the end of the address space.
pub(crate) fn offset(at: u32, by: u32) -> Result<u32, Errno> {
    at.checked_add(by).ok_or(Errno::Fault)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_access_past_the_end_is_a_fault() {
        let mut bytes = vec![0u8; 16];
        let mut mem = Mem(&mut bytes);
        assert_eq!(mem.bytes(16, 1), Err(Errno::Fault));
        assert_eq!(mem.bytes(u32::MAX, u32::MAX), Err(Errno::Fault));
        assert_eq!(mem.write_u64(12, 1), Err(Errno::Fault));
        assert_eq!(mem.read_u64(u32::MAX - 4), Err(Errno::Fault));
        assert_eq!(mem.buffers(8, 2), Err(Errno::Fault));
        assert_eq!(mem.buffers(0, u32::MAX), Err(Errno::Inval));
        assert!(mem.write_u64(8, 7).is_ok());
        assert_eq!(mem.read_u64(8), Ok(7));
    }

    #[test]
    fn paths_are_utf8_without_nul_and_bounded() {
        let mut bytes = b"ok\xffx\0".to_vec();
        let mem = Mem(&mut bytes);
        assert_eq!(mem.path(0, 2), Ok("ok"));
        assert_eq!(mem.path(0, 3), Err(Errno::IlSeq));
        assert_eq!(mem.path(3, 2), Err(Errno::Inval));
        assert_eq!(mem.path(0, 5000), Err(Errno::NameTooLong));
    }
}
