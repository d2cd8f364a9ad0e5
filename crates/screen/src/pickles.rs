//! Pickles as opcodes: which functions loading one calls, with the texts it gives them.

/// The most opcodes that are read.
const MAX_OPCODES: usize = 20_000;

/// The functions a pickle calls by `REDUCE` and its like, and the texts on the stack then.
pub(crate) fn calls(bytes: &[u8]) -> Vec<(String, Vec<String>)> {
    let mut reader = Reader {
        bytes,
        texts: Vec::new(),
        names: Vec::new(),
        calls: Vec::new(),
    };
    for _ in 0..MAX_OPCODES {
        if reader.step().is_none() {
            break;
        }
    }
    // A name that is put there and never seen to be called counts as called.
    for name in std::mem::take(&mut reader.names) {
        reader.calls.push((name, reader.texts.clone()));
    }
    reader.calls
}

struct Reader<'b> {
    bytes: &'b [u8],
    texts: Vec<String>,
    names: Vec<String>,
    calls: Vec<(String, Vec<String>)>,
}

impl<'b> Reader<'b> {
    fn take(&mut self, count: usize) -> Option<&'b [u8]> {
        let (taken, rest) = self.bytes.split_at_checked(count)?;
        self.bytes = rest;
        Some(taken)
    }

    fn line(&mut self) -> Option<String> {
        let end = self.bytes.iter().position(|&byte| byte == b'\n')?;
        let line = self.take(end + 1)?;
        Some(String::from_utf8_lossy(line.get(..end)?).into_owned())
    }

    fn sized(&mut self, width: usize) -> Option<&'b [u8]> {
        let size = self.take(width)?;
        let count = size.iter().rev().fold(0_usize, |sum, &byte| {
            sum.saturating_mul(256).saturating_add(usize::from(byte))
        });
        self.take(count)
    }

    fn text(&mut self, text: &[u8]) {
        if self.texts.len() < 64 {
            self.texts.push(String::from_utf8_lossy(text).into_owned());
        }
    }

    fn step(&mut self) -> Option<()> {
        let opcode = *self.take(1)?.first()?;
        match opcode {
            b'.' => return None,
            // GLOBAL, INST
            b'c' | b'i' => {
                let (module, name) = (self.line()?, self.line()?);
                self.names.push(format!("{module}.{name}"));
            }
            // STACK_GLOBAL
            0x93 => {
                let (name, module) = (self.texts.pop()?, self.texts.pop()?);
                self.names.push(format!("{module}.{name}"));
            }
            // REDUCE, OBJ, NEWOBJ, BUILD
            b'R' | b'o' | 0x81 => {
                if let Some(name) = self.names.pop() {
                    self.calls.push((name, self.texts.clone()));
                }
            }
            // STRING, UNICODE
            b'S' | b'V' => {
                let line = self.line()?;
                self.text(line.trim_matches(['\'', '"']).as_bytes());
            }
            // BINUNICODE and BINSTRING by the width of their size
            b'X' | b'T' | b'B' => {
                let text = self.sized(4)?;
                self.text(text);
            }
            0x8c | b'U' | b'C' => {
                let text = self.sized(1)?;
                self.text(text);
            }
            0x8d | 0x8e => {
                let text = self.sized(8)?;
                self.text(text);
            }
            b'I' | b'L' | b'F' | b'p' | b'g' | b'P' => {
                self.line()?;
            }
            // Opcodes with one, two, four and eight bytes after them
            b'K' | b'q' | b'h' | 0x80 | 0x82 => {
                self.take(1)?;
            }
            b'M' | 0x83 => {
                self.take(2)?;
            }
            b'J' | b'r' | b'j' | 0x84 => {
                self.take(4)?;
            }
            b'G' | 0x95 => {
                self.take(8)?;
            }
            0x8a => {
                self.sized(1)?;
            }
            0x8b => {
                self.sized(4)?;
            }
            _ => {}
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_pickle_calls_is_read() {
        let old = calls(b"cos\nsystem\n(S'id'\ntR.");
        assert_eq!(old, [("os.system".to_owned(), vec!["id".to_owned()])]);
        let new = calls(b"\x80\x04\x95\x1d\0\0\0\0\0\0\0\x8c\x05posix\x94\x8c\x06system\x94\x93\x94\x8c\x02id\x94\x85\x94R\x94.");
        assert_eq!(new, [("posix.system".to_owned(), vec!["id".to_owned()])]);
    }

    #[test]
    fn what_is_cut_or_wrong_ends() {
        for bytes in [
            &b""[..],
            b"c",
            b"cos\n",
            b"X\xff\xff\xff\xff",
            b"\x93",
            b"R",
            b"\x8e\xff\xff\xff\xff\xff\xff\xff\xff",
        ] {
            assert!(calls(bytes).is_empty(), "{bytes:?}");
        }
    }
}
