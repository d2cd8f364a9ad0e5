//! Events in short.

use casemate_model::event::{Access, Event, What};
use casemate_model::guarantee::{Guarantee, Guarantees};
use casemate_model::outcome::Summary;

/// Entries of each list.
const LISTED: usize = 100;
/// Where the interpreter's own library lies: reading it says nothing about the program.
const LIBRARY: &str = "/usr/local/lib/";

/// The summary of a run's events, behind walls that grant these guarantees.
pub(crate) fn of(events: &[Event], granted: &Guarantees) -> Summary {
    let mut summary = Summary::default();
    for event in events {
        match &event.what {
            What::Dropped { count } => summary.events_dropped += count,
            other => {
                summary.events += 1;
                note(&mut summary, other, granted);
            }
        }
    }
    summary
}

fn note(summary: &mut Summary, what: &What, granted: &Guarantees) {
    let absent = |guarantee| granted.contains(guarantee);
    match what {
        What::FileOpen {
            path,
            access: Access::Read | Access::ReadWrite,
            ..
        } if !path.starts_with(LIBRARY) => {
            add(&mut summary.files_read, path);
        }
        What::FileOpen {
            path,
            access: Access::Write,
            ..
        }
        | What::FileWrite { path, .. }
        | What::FileUnlink { path }
        | What::DirCreate { path }
        | What::DirRemove { path }
        | What::Link { path, .. }
        | What::Rename { to: path, .. } => add(&mut summary.files_written, path),
        What::Denied {
            wall, call, detail, ..
        } => {
            let text = if detail.is_empty() {
                format!("{wall}: {call}")
            } else {
                format!("{wall}: {call} {detail}")
            };
            add(&mut summary.denials, &text);
        }
        What::Network { detail } => add(&mut summary.denials, &format!("no network: {detail}")),
        // Where there are some, the event tells of one that was started or loaded.
        What::Process { detail } if absent(Guarantee::ProcessesAbsent) => {
            add(&mut summary.denials, &format!("no processes: {detail}"));
        }
        What::NativeCode { detail } if absent(Guarantee::NativeCodeAbsent) => {
            add(&mut summary.denials, &format!("no native code: {detail}"));
        }
        What::Thread { detail } if absent(Guarantee::ProcessesAbsent) => {
            add(&mut summary.denials, &format!("no threads: {detail}"));
        }
        What::Missing { path } => add(&mut summary.denials, &format!("no such file here: {path}")),
        What::EnvRead { name } => add(&mut summary.env_read, name),
        _ => {}
    }
}

fn add(list: &mut Vec<String>, entry: &str) {
    if list.len() < LISTED && !list.iter().any(|known| known == entry) {
        list.push(entry.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use casemate_model::event::Witness;

    use super::*;

    fn event(what: What) -> Event {
        Event {
            at_us: 0,
            witness: Witness::Host,
            what,
        }
    }

    #[test]
    fn each_thing_is_listed_once_and_the_library_not_at_all() {
        let open = |path: &str| {
            event(What::FileOpen {
                path: path.into(),
                access: Access::Read,
                created: false,
            })
        };
        let events = [
            open("/data/a.csv"),
            open("/data/a.csv"),
            open("/usr/local/lib/python315.zip"),
            event(What::FileWrite {
                path: "/tmp/a".into(),
                bytes: 1,
                calls: 1,
            }),
            event(What::Network {
                detail: "x:1".into(),
            }),
            event(What::Dropped { count: 4 }),
        ];
        let summary = of(&events, &Guarantees::none());
        assert_eq!(summary.files_read, ["/data/a.csv"]);
        assert_eq!(summary.files_written, ["/tmp/a"]);
        assert_eq!(summary.denials, ["no network: x:1"]);
        assert_eq!((summary.events, summary.events_dropped), (5, 4));
    }

    #[test]
    fn a_process_is_a_denial_only_where_there_are_none() {
        let events = [event(What::Process {
            detail: "ls".into(),
        })];
        let none: Guarantees = [Guarantee::ProcessesAbsent].into_iter().collect();
        assert_eq!(of(&events, &none).denials, ["no processes: ls"]);
        assert!(of(&events, &Guarantees::none()).denials.is_empty());
    }
}
