//! Codecs that programs pack texts with. Each is bounded by [`MAX_TEXT`] bytes of output.

use std::io::Read;

use crate::value::MAX_TEXT;

/// What unpacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decoder {
    Base64,
    UrlBase64,
    Base32,
    Base85,
    Ascii85,
    Hex,
    Zlib,
    Gzip,
    Bzip2,
    Lzma,
    QuotedPrintable,
    Percent,
    /// `codecs.decode`, with the codec by name.
    Named,
    /// The packing side of each, which gives texts as well.
    ToBase64,
    ToHex,
}

/// What came out.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Out {
    Bytes(Vec<u8>),
    Text(String),
    /// It is longer than what is worked out.
    TooLong,
    /// It is not what the codec reads.
    Bad,
}

/// The decoder that a function is, by its qualified name.
pub(crate) fn decoder(name: &str) -> Option<Decoder> {
    Some(match name {
        "base64.b64decode"
        | "base64.standard_b64decode"
        | "base64.decodebytes"
        | "base64.decodestring"
        | "binascii.a2b_base64" => Decoder::Base64,
        "base64.urlsafe_b64decode" => Decoder::UrlBase64,
        "base64.b32decode" => Decoder::Base32,
        "base64.b85decode" => Decoder::Base85,
        "base64.a85decode" => Decoder::Ascii85,
        "base64.b16decode"
        | "binascii.unhexlify"
        | "binascii.a2b_hex"
        | "builtins.bytes.fromhex"
        | "builtins.bytearray.fromhex" => Decoder::Hex,
        "zlib.decompress" => Decoder::Zlib,
        "gzip.decompress" => Decoder::Gzip,
        "bz2.decompress" => Decoder::Bzip2,
        "lzma.decompress" => Decoder::Lzma,
        "quopri.decodestring" | "binascii.a2b_qp" => Decoder::QuotedPrintable,
        "urllib.parse.unquote" | "urllib.parse.unquote_plus" | "urllib.parse.unquote_to_bytes" => {
            Decoder::Percent
        }
        "codecs.decode" | "codecs.encode" => Decoder::Named,
        "base64.b64encode" | "base64.standard_b64encode" | "base64.encodebytes" => {
            Decoder::ToBase64
        }
        "binascii.hexlify" | "binascii.b2a_hex" => Decoder::ToHex,
        _ => return None,
    })
}

/// Unpacks.
pub(crate) fn decode(decoder: Decoder, codec: Option<&str>, bytes: &[u8], text_in: bool) -> Out {
    let bytes_or_bad = |bytes: Option<Vec<u8>>| bytes.map_or(Out::Bad, Out::Bytes);
    match decoder {
        Decoder::Base64 => bytes_or_bad(base64(bytes, b'+', b'/')),
        Decoder::UrlBase64 => bytes_or_bad(base64(bytes, b'-', b'_')),
        Decoder::Base32 => bytes_or_bad(base32(bytes)),
        Decoder::Base85 => bytes_or_bad(base85(bytes)),
        Decoder::Ascii85 => bytes_or_bad(ascii85(bytes)),
        Decoder::Hex => bytes_or_bad(hex(bytes)),
        Decoder::Zlib => inflate(flate2::read::ZlibDecoder::new(bytes)),
        Decoder::Gzip => inflate(flate2::read::MultiGzDecoder::new(bytes)),
        Decoder::Bzip2 => inflate(bzip2_rs::DecoderReader::new(bytes)),
        Decoder::Lzma => lzma(bytes),
        Decoder::QuotedPrintable => Out::Bytes(escaped(bytes, b'=')),
        Decoder::Percent => match String::from_utf8(escaped(bytes, b'%')) {
            Ok(text) => Out::Text(text),
            Err(_) => Out::Bad,
        },
        Decoder::Named => named(codec.unwrap_or("utf-8"), bytes, text_in),
        Decoder::ToBase64 => {
            use base64::Engine as _;
            Out::Bytes(
                base64::engine::general_purpose::STANDARD
                    .encode(bytes)
                    .into_bytes(),
            )
        }
        Decoder::ToHex => Out::Bytes(to_hex(bytes).into_bytes()),
    }
}

/// A codec by the name that `codecs.decode`, `str.encode` and `bytes.decode` know it by.
pub(crate) fn named(codec: &str, bytes: &[u8], text_in: bool) -> Out {
    let codec = codec.to_ascii_lowercase().replace(['-', ' '], "_");
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).map_or(Out::Bad, Out::Text);
    match codec.as_str() {
        "utf_8" | "utf8" | "u8" | "ascii" | "us_ascii" | "utf" => {
            if text_in {
                Out::Bytes(bytes.to_vec())
            } else {
                text(bytes)
            }
        }
        "latin_1" | "latin1" | "iso_8859_1" | "iso8859_1" | "cp1252" | "charmap" => {
            if text_in {
                let Ok(source) = str::from_utf8(bytes) else {
                    return Out::Bad;
                };
                let narrow: Option<Vec<u8>> = source
                    .chars()
                    .map(|c| u8::try_from(u32::from(c)).ok())
                    .collect();
                narrow.map_or(Out::Bad, Out::Bytes)
            } else {
                Out::Text(bytes.iter().map(|&byte| char::from(byte)).collect())
            }
        }
        "rot13" | "rot_13" => Out::Text(rot13(bytes)),
        "hex" | "hex_codec" => hex(bytes).map_or(Out::Bad, Out::Bytes),
        "base64" | "base64_codec" | "base_64" => {
            base64(bytes, b'+', b'/').map_or(Out::Bad, Out::Bytes)
        }
        "zlib" | "zip" | "zlib_codec" => inflate(flate2::read::ZlibDecoder::new(bytes)),
        "bz2" | "bz2_codec" => inflate(bzip2_rs::DecoderReader::new(bytes)),
        "unicode_escape" | "raw_unicode_escape" | "string_escape" => {
            unescaped(bytes).map_or(Out::Bad, Out::Text)
        }
        "utf_16" | "utf_16_le" => wide(bytes).map_or(Out::Bad, Out::Text),
        _ => Out::Bad,
    }
}

fn inflate(reader: impl Read) -> Out {
    let mut bytes = Vec::new();
    let limit = u64::try_from(MAX_TEXT).unwrap_or(u64::MAX);
    match reader.take(limit + 1).read_to_end(&mut bytes) {
        Ok(_) if bytes.len() > MAX_TEXT => Out::TooLong,
        Ok(_) => Out::Bytes(bytes),
        Err(_) => Out::Bad,
    }
}

/// A writer that refuses to grow past the bound.
struct Bounded(Vec<u8>);

impl std::io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_TEXT {
            return Err(std::io::ErrorKind::FileTooLarge.into());
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn lzma(bytes: &[u8]) -> Out {
    let mut out = Bounded(Vec::new());
    let mut input = bytes;
    let options = lzma_rs::decompress::Options {
        memlimit: Some(16 * 1024 * 1024),
        ..lzma_rs::decompress::Options::default()
    };
    let result = if bytes.starts_with(b"\xfd7zXZ") {
        lzma_rs::xz_decompress(&mut input, &mut out)
    } else {
        lzma_rs::lzma_decompress_with_options(&mut input, &mut out, &options)
    };
    match result {
        Ok(()) => Out::Bytes(out.0),
        Err(_) if out.0.len() + 4096 > MAX_TEXT => Out::TooLong,
        Err(_) => Out::Bad,
    }
}

/// Characters outside the alphabet are left out, as Python leaves them out.
fn base64(bytes: &[u8], plus: u8, slash: u8) -> Option<Vec<u8>> {
    let digits = bytes.iter().filter_map(|&byte| match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        byte if byte == plus => Some(62),
        byte if byte == slash => Some(63),
        _ => None,
    });
    let digits: Vec<u8> = digits.collect();
    (digits.len() % 4 != 1).then(|| regrouped(&digits, 6))
}

fn base32(bytes: &[u8]) -> Option<Vec<u8>> {
    let digits = bytes
        .iter()
        .filter(|&&byte| byte != b'=')
        .map(|&byte| match byte {
            b'A'..=b'Z' => Some(byte - b'A'),
            b'a'..=b'z' => Some(byte - b'a'),
            b'2'..=b'7' => Some(byte - b'2' + 26),
            _ => None,
        });
    Some(regrouped(&digits.collect::<Option<Vec<u8>>>()?, 5))
}

/// Groups of `width` bits as bytes; what is left over at the end is padding.
fn regrouped(digits: &[u8], width: u32) -> Vec<u8> {
    let (mut held, mut bits) = (0_u32, 0_u32);
    let mut out = Vec::with_capacity(digits.len());
    for &digit in digits {
        held = (held << width | u32::from(digit)) & 0xffff;
        bits += width;
        if bits >= 8 {
            bits -= 8;
            out.push((held >> bits).to_le_bytes()[0]);
        }
    }
    out
}

fn base85(bytes: &[u8]) -> Option<Vec<u8>> {
    const ALPHABET: &[u8] =
        b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;<=>?@^_`{|}~";
    let digits = bytes
        .iter()
        .map(|byte| ALPHABET.iter().position(|known| known == byte));
    let digits: Option<Vec<u32>> = digits.map(|digit| u32::try_from(digit?).ok()).collect();
    from_85(&digits?)
}

fn ascii85(bytes: &[u8]) -> Option<Vec<u8>> {
    let text = bytes.strip_prefix(b"<~").unwrap_or(bytes);
    let text = text.strip_suffix(b"~>").unwrap_or(text);
    let mut digits = Vec::new();
    for &byte in text {
        match byte {
            b'!'..=b'u' => digits.push(u32::from(byte - b'!')),
            b'z' => digits.extend([0; 5]),
            b' ' | b'\n' | b'\r' | b'\t' => {}
            _ => return None,
        }
    }
    from_85(&digits)
}

fn from_85(digits: &[u32]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    for group in digits.chunks(5) {
        let mut value = 0_u64;
        for index in 0..5 {
            value = value * 85 + u64::from(group.get(index).copied().unwrap_or(84));
        }
        let bytes = u32::try_from(value).ok()?.to_be_bytes();
        out.extend(bytes.iter().take(group.len().saturating_sub(1)));
    }
    Some(out)
}

fn hex(bytes: &[u8]) -> Option<Vec<u8>> {
    let digits = bytes.iter().filter(|byte| !byte.is_ascii_whitespace());
    let digits: Option<Vec<u32>> = digits.map(|&byte| char::from(byte).to_digit(16)).collect();
    let digits = digits?;
    if digits.len() % 2 != 0 {
        return None;
    }
    let pair = |pair: &[u32]| {
        pair.iter()
            .fold(0_u32, |sum, digit| sum * 16 + digit)
            .to_le_bytes()[0]
    };
    Some(digits.chunks(2).map(pair).collect())
}

pub(crate) fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn rot13(bytes: &[u8]) -> String {
    let turned = String::from_utf8_lossy(bytes);
    let turn = |c: char| match c {
        'a'..='m' | 'A'..='M' => char::from_u32(u32::from(c) + 13).unwrap_or(c),
        'n'..='z' | 'N'..='Z' => char::from_u32(u32::from(c) - 13).unwrap_or(c),
        c => c,
    };
    turned.chars().map(turn).collect()
}

/// `%41` or `=41`.
fn escaped(bytes: &[u8], mark: u8) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((&byte, tail)) = rest.split_first() {
        if byte == mark
            && let Some(code) = tail.get(..2).and_then(hex)
        {
            out.extend(code);
            rest = tail.get(2..).unwrap_or_default();
            continue;
        }
        out.push(byte);
        rest = tail;
    }
    out
}

/// `\x41`, `\u0041`, `\101`, `\n`.
fn unescaped(bytes: &[u8]) -> Option<String> {
    let text = str::from_utf8(bytes).ok()?;
    let mut out = String::new();
    let mut rest = text;
    while let Some(index) = rest.find('\\') {
        out.push_str(rest.get(..index)?);
        let tail = rest.get(index + 1..)?;
        let kind = tail.chars().next()?;
        let digits = match kind {
            'x' => 2,
            'u' => 4,
            'U' => 8,
            _ => 0,
        };
        if digits > 0 {
            let code = u32::from_str_radix(tail.get(1..=digits)?, 16).ok()?;
            out.push(char::from_u32(code)?);
            rest = tail.get(digits + 1..)?;
        } else if kind.is_digit(8) {
            let count = tail.chars().take(3).take_while(|c| c.is_digit(8)).count();
            out.push(char::from_u32(
                u32::from_str_radix(tail.get(..count)?, 8).ok()?,
            )?);
            rest = tail.get(count..)?;
        } else {
            out.push(match kind {
                'n' => '\n',
                't' => '\t',
                'r' => '\r',
                other => other,
            });
            rest = tail.get(kind.len_utf8()..)?;
        }
    }
    out.push_str(rest);
    Some(out)
}

fn wide(bytes: &[u8]) -> Option<String> {
    let bytes = bytes.strip_prefix(b"\xff\xfe").unwrap_or(bytes);
    let units = bytes
        .chunks_exact(2)
        .map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
    String::from_utf16(&units.collect::<Vec<_>>()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_codec_unpacks_what_python_packed() {
        let cases: &[(&str, &[u8], &[u8])] = &[
            ("base64.b64decode", b"b3MuIHN5c3RlbQ==", b"os. system"),
            ("base64.urlsafe_b64decode", b"-_8=", &[0xfb, 0xff]),
            ("base64.b32decode", b"N5ZS443ZON2GK3I=", b"os.system"),
            ("base64.b85decode", b"Z*wkld2@7SZ2", b"os.system"),
            ("base64.b16decode", b"6F73", b"os"),
            (
                "zlib.decompress",
                b"\x78\x9c\xcb\x2f\x06\x00\x01\x53\x00\xe3",
                b"os",
            ),
            ("quopri.decodestring", b"o=73", b"os"),
        ];
        for (name, packed, plain) in cases {
            let out = decode(decoder(name).unwrap(), None, packed, true);
            assert_eq!(out, Out::Bytes(plain.to_vec()), "{name}");
        }
        assert_eq!(
            named("rot13", b"bf.flfgrz", true),
            Out::Text("os.system".to_owned())
        );
        assert_eq!(
            named("unicode-escape", b"\\x6f\\163\\n", false),
            Out::Text("os\n".to_owned())
        );
        assert_eq!(
            decode(Decoder::Percent, None, b"%6fs%", true),
            Out::Text("os%".to_owned())
        );
    }

    #[test]
    fn what_is_not_of_the_codec_is_bad() {
        for (name, packed) in [
            ("base64.b16decode", &b"6"[..]),
            ("zlib.decompress", b"x"),
            ("gzip.decompress", b""),
            ("base64.b85decode", b"\"\""),
            ("bz2.decompress", b"BZ"),
            ("lzma.decompress", b"\xfd7zXZ\0\0"),
        ] {
            let out = decode(decoder(name).unwrap(), None, packed, false);
            assert!(
                matches!(out, Out::Bad) || matches!(&out, Out::Bytes(bytes) if bytes.is_empty()),
                "{name}: {out:?}"
            );
        }
    }

    #[test]
    fn what_grows_without_end_is_too_long() {
        use std::io::Write as _;
        let mut packer = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
        packer.write_all(&vec![0; 8 * 1024 * 1024]).unwrap();
        let packed = packer.finish().unwrap();
        assert_eq!(decode(Decoder::Zlib, None, &packed, false), Out::TooLong);
    }
}
