//! Messages of the guest's driver: hostile bytes, decoded totally.
//!
//! A message is a line of JSON, a newline, and blobs one after another. Whoever sends one is the
//! guest, whatever it looks like: nothing in it is believed beyond what it shows of the guest itself.

use casemate_backend::contract::Signal;
use casemate_model::event::{Access, Event, What, Witness};
use casemate_model::limit::LimitKind;
use casemate_model::result::{Displayed, Origin, ProgramError, Representation};
use serde::Deserialize;

/// Bytes of a message's first line.
const HEADER_MAX: usize = 1 << 20;
/// Forms of one displayed result.
const FORMS_MAX: usize = 16;
/// Bytes of one text in an event.
const TEXT_MAX: usize = 1024;
/// Bytes of a traceback.
const TRACEBACK_MAX: usize = 64 << 10;

/// What a message says.
#[derive(Debug)]
pub enum Message {
    /// Something for the trace.
    Signal(Signal),
    /// The program's exit code.
    End(i32),
    /// A limit that the guest says it felt.
    Felt(LimitKind),
}

#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Header {
    Display {
        origin: Origin,
        mimes: Vec<(String, u64)>,
    },
    Error {
        name: String,
        value: String,
        traceback: String,
        line: Option<u32>,
    },
    Event {
        what: GuestEvent,
        detail: String,
    },
    Felt {
        limit: FeltLimit,
    },
    End {
        exit_code: i64,
    },
}

/// Limits that only the guest feels, as an error of its own.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum FeltLimit {
    OpenFiles,
    Tasks,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum GuestEvent {
    EnvRead,
    EnvWrite,
    Network,
    Process,
    NativeCode,
    Thread,
    FileRead,
    FileWrite,
}

/// Decodes one message that came this long after the start of the program.
///
/// # Errors
/// What is wrong with it.
pub fn decode(bytes: &[u8], at_us: u64) -> Result<Message, &'static str> {
    let head = &bytes[..bytes.len().min(HEADER_MAX)];
    let end = head
        .iter()
        .position(|&byte| byte == b'\n')
        .ok_or("no header line")?;
    let header: Header =
        serde_json::from_slice(&head[..end]).map_err(|_| "a header that is not one")?;
    let blobs = &bytes[end + 1..];
    Ok(match header {
        Header::Display { origin, mimes } => {
            let representations = forms(mimes, blobs)?;
            Message::Signal(Signal::Displayed(Displayed {
                origin,
                representations,
            }))
        }
        Header::Error {
            name,
            value,
            traceback,
            line,
        } => Message::Signal(Signal::Error(ProgramError {
            name: clip(name, TEXT_MAX),
            value: clip(value, TRACEBACK_MAX),
            traceback: clip(traceback, TRACEBACK_MAX),
            line,
        })),
        Header::Event { what, detail } => {
            Message::Signal(Signal::Event(event(what, clip(detail, TEXT_MAX), at_us)))
        }
        Header::Felt { limit } => Message::Felt(match limit {
            FeltLimit::OpenFiles => LimitKind::OpenFiles,
            FeltLimit::Tasks => LimitKind::Tasks,
        }),
        Header::End { exit_code } => {
            Message::End(i32::try_from(exit_code.rem_euclid(256)).unwrap_or(1))
        }
    })
}

fn forms(mimes: Vec<(String, u64)>, mut blobs: &[u8]) -> Result<Vec<Representation>, &'static str> {
    if mimes.len() > FORMS_MAX {
        return Err("too many forms of one result");
    }
    let mut forms = Vec::new();
    for (mime, len) in mimes {
        let len = usize::try_from(len).map_err(|_| "a length beyond the message")?;
        let (content, rest) = blobs
            .split_at_checked(len)
            .ok_or("a length beyond the message")?;
        blobs = rest;
        let plain = |c: char| c.is_ascii_graphic() && c != '"';
        if mime.is_empty() || mime.len() > 127 || !mime.chars().all(plain) {
            return Err("a media type that is not one");
        }
        forms.push(Representation {
            mime,
            content: content.to_vec(),
        });
    }
    Ok(forms)
}

fn event(what: GuestEvent, detail: String, at_us: u64) -> Event {
    let what = match what {
        GuestEvent::EnvRead => What::EnvRead { name: detail },
        GuestEvent::EnvWrite => What::EnvWrite { name: detail },
        GuestEvent::Network => What::Network { detail },
        GuestEvent::Process => What::Process { detail },
        GuestEvent::NativeCode => What::NativeCode { detail },
        GuestEvent::Thread => What::Thread { detail },
        GuestEvent::FileRead => opened(detail, Access::Read),
        GuestEvent::FileWrite => opened(detail, Access::Write),
    };
    Event {
        at_us,
        witness: Witness::Guest,
        what,
    }
}

fn opened(path: String, access: Access) -> What {
    What::FileOpen {
        path,
        access,
        created: false,
    }
}

fn clip(mut text: String, max: usize) -> String {
    if text.len() > max {
        let end = (0..=max)
            .rev()
            .find(|&end| text.is_char_boundary(end))
            .unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_display_carries_its_blobs_in_order() {
        let header = r#"{"kind":"display","origin":"figure","mimes":[["text/plain",2],["image/png",3]],"metadata":{}}"#;
        let bytes = [header.as_bytes(), b"\nhi\x89PN"].concat();
        let Message::Signal(Signal::Displayed(shown)) = decode(&bytes, 0).unwrap() else {
            panic!()
        };
        assert_eq!(shown.origin, Origin::Figure);
        assert_eq!(shown.form("image/png").unwrap().content, b"\x89PN");
    }

    #[test]
    fn lies_about_lengths_counts_and_types_are_refused() {
        for header in [
            r#"{"kind":"display","origin":"figure","mimes":[["text/plain",99]]}"#,
            r#"{"kind":"display","origin":"figure","mimes":[["text/plain",18446744073709551615]]}"#,
            r#"{"kind":"display","origin":"figure","mimes":[["text/<script>\u0000",0]]}"#,
            r#"{"kind":"display","origin":"host","mimes":[]}"#,
            r#"{"kind":"receipt","granted":true}"#,
            r#"{"kind":"end"}"#,
            r#"{"kind":"felt","limit":"memory"}"#,
            "[[[[",
        ] {
            assert!(
                decode(format!("{header}\n").as_bytes(), 0).is_err(),
                "{header}"
            );
        }
        assert!(decode(b"no newline", 0).is_err());
        assert!(decode(b"", 0).is_err());
    }

    #[test]
    fn events_of_the_guest_are_marked_as_its_own() {
        let bytes = b"{\"kind\":\"event\",\"what\":\"network\",\"detail\":\"example.org:443\"}\n";
        let Message::Signal(Signal::Event(event)) = decode(bytes, 5).unwrap() else {
            panic!()
        };
        assert_eq!(event.witness, Witness::Guest);
        assert_eq!(
            event.what,
            What::Network {
                detail: "example.org:443".into()
            }
        );
    }

    #[test]
    fn exit_codes_are_those_of_a_process() {
        for (code, expected) in [(0, 0), (3, 3), (256, 0), (-1, 255), (i64::MAX, 255)] {
            let bytes = format!("{{\"kind\":\"end\",\"exit_code\":{code}}}\n");
            let Message::End(got) = decode(bytes.as_bytes(), 0).unwrap() else {
                panic!()
            };
            assert_eq!(got, expected, "{code}");
        }
    }

    #[test]
    fn any_bytes_decode_or_are_refused() {
        let mut state = 1_u64;
        for _ in 0..20_000 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let len = (state >> 33) as usize % 64;
            let bytes: Vec<u8> = (0..len).map(|i| (state >> (i % 56)) as u8).collect();
            drop(decode(&bytes, 0));
        }
    }
}
