//! The addresses of files: what `list_artifacts` and runs give, and `read_artifact` takes.

use std::fmt;

/// Where a file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A file that a run handed back.
    Artifact {
        /// The run.
        run: String,
        /// The file's place in its list, from 0.
        index: usize,
    },
    /// A file in a session.
    File {
        /// The session.
        session: String,
        /// Its absolute path there.
        path: String,
    },
}

impl Address {
    /// Reads an address; none where it is none.
    pub fn parse(uri: &str) -> Option<Self> {
        let rest = uri.strip_prefix("casemate://")?;
        if let Some(rest) = rest.strip_prefix("runs/") {
            let (run, index) = rest.split_once("/artifacts/")?;
            return Some(Self::Artifact {
                run: run.to_owned(),
                index: index.parse().ok()?,
            });
        }
        let (session, path) = rest.strip_prefix("sessions/")?.split_once("/files/")?;
        Some(Self::File {
            session: session.to_owned(),
            path: format!("/{}", unquoted(path)?),
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Artifact { run, index } => {
                write!(f, "casemate://runs/{run}/artifacts/{index}")
            }
            Self::File { session, path } => {
                let path = path.strip_prefix('/').unwrap_or(path);
                write!(f, "casemate://sessions/{session}/files/{}", quoted(path))
            }
        }
    }
}

/// A path as a part of an address (RFC 3986, section 2.1).
fn quoted(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

fn unquoted(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digits = std::str::from_utf8(after.get(..2)?).ok()?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = after.get(2..)?;
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_as_it_is_written() {
        for address in [
            Address::Artifact {
                run: "run-0000000000000007".to_owned(),
                index: 3,
            },
            Address::File {
                session: "i0".to_owned(),
                path: "/home/user/a b/ü%2F.png".to_owned(),
            },
        ] {
            let uri = address.to_string();
            assert!(uri.bytes().all(|byte| byte.is_ascii_graphic()), "{uri}");
            assert_eq!(Address::parse(&uri), Some(address));
        }
    }

    #[test]
    fn what_is_no_address_is_none() {
        for uri in [
            "",
            "file:///etc/passwd",
            "casemate://runs/run-1/artifacts/-1",
            "casemate://runs/run-1",
            "casemate://sessions/i0/files/%f",
            "casemate://sessions/i0/files/%zz",
            "casemate://sessions/i0/files/%ff",
            "casemate://keys/1",
        ] {
            assert_eq!(Address::parse(uri), None, "{uri}");
        }
    }
}
