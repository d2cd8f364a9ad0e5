//! The analysis of bash in a process of its own.
//!
//! Its parser is written in C. Whoever finds a hole in that gets, with a script made for it, the process that
//! parses: so it is one that is locked in, that has seen no other script and ends with this one. What it can do is to
//! give a wrong answer, and screening is no wall.
//!
//! This crate starts no process: whoever has one to offer says so once ([`carry_by`]), and has the other side
//! call [`answer`]. Without one the analysis is done where it is asked for.

use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

use crate::analyse::failed;
use crate::preset::Preset;
use crate::{Analysis, bash, unicode, validate};

/// Bytes of an answer that are believed.
pub const ANSWER_MAX: usize = 16 << 20;
/// Findings that are told. The strictest are, so that the verdict is the same.
const FINDINGS_MAX: usize = 1_000;

type Carry = Box<dyn Fn(&[u8]) -> Result<Vec<u8>, String> + Send + Sync>;

static CARRY: OnceLock<Carry> = OnceLock::new();

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    source: String,
    preset: String,
}

type Answer = Result<Analysis, String>;

/// Says how a request gets to the process that analyses, and the answer back. The first one stays.
pub fn carry_by(carry: impl Fn(&[u8]) -> Result<Vec<u8>, String> + Send + Sync + 'static) {
    drop(CARRY.set(Box::new(carry)));
}

/// The answer to a request, made here.
pub fn answer(request: &[u8]) -> Vec<u8> {
    let made = serde_json::from_slice(request)
        .map_err(|error| format!("the request is none: {error}"))
        .and_then(analysed);
    encoded(&made)
}

/// The answer of a process that cannot analyse.
pub fn refusal(why: &str) -> Vec<u8> {
    encoded(&Err(why.to_owned()))
}

fn encoded(answer: &Answer) -> Vec<u8> {
    // Nothing in an answer can fail to be written; an empty one is no answer, which refuses.
    serde_json::to_vec(answer).unwrap_or_default()
}

fn analysed(request: Request) -> Answer {
    let preset = Preset::named(&request.preset).ok_or("there is no such preset")?;
    let hidden = unicode::find(&request.source, validate::MAX_HIDDEN);
    let mut analysis = bash::here(request.source, &hidden, preset);
    analysis.keep(FINDINGS_MAX);
    Ok(analysis)
}

/// Has a script analysed elsewhere, where there is an elsewhere. What goes wrong on the way is a refusal.
pub(crate) fn ask(source: &str, preset: Preset) -> Option<Analysis> {
    let carry = CARRY.get()?;
    let request = Request {
        source: source.to_owned(),
        preset: preset.name().to_owned(),
    };
    let answer = serde_json::to_vec(&request)
        .map_err(|error| error.to_string())
        .and_then(|request| carry(&request))
        .and_then(|answer| {
            serde_json::from_slice::<Answer>(&answer)
                .map_err(|error| format!("its answer is none: {error}"))
        })
        .and_then(|answer| answer);
    Some(answer.unwrap_or_else(|why| {
        let why = format!("the process that analyses scripts gave no analysis: {why}");
        Analysis {
            findings: vec![failed(&why)],
            ..Analysis::default()
        }
    }))
}

#[cfg(test)]
mod tests {
    use casemate_model::finding::Action;

    use super::*;

    fn asked(source: &str) -> Answer {
        let request = Request {
            source: source.to_owned(),
            preset: "data-analysis".to_owned(),
        };
        serde_json::from_slice(&answer(&serde_json::to_vec(&request).unwrap())).unwrap()
    }

    #[test]
    fn an_answer_is_what_is_said_here() {
        let source = "f=/etc/sha\ncat ${f}dow\n";
        let (there, here) = (
            asked(source).unwrap(),
            bash::here(source.to_owned(), &[], Preset::DataAnalysis),
        );
        assert_eq!(there.manifest, here.manifest);
        assert_eq!(there.guarantees, here.guarantees);
        assert_eq!(there.findings.len(), here.findings.len());
        assert_eq!(there.findings[0].action, Action::Refuse);
    }

    #[test]
    fn what_refuses_is_never_left_out() {
        let source = format!("{}cat /etc/shadow\n", "date\n".repeat(4_000));
        let analysis = asked(&source).unwrap();
        assert!(analysis.findings.len() <= FINDINGS_MAX);
        assert_eq!(analysis.findings[0].action, Action::Refuse);
        assert!(answer(source.as_bytes()).len() < ANSWER_MAX);
    }

    #[test]
    fn a_request_that_is_none_is_no_analysis() {
        for request in [&b""[..], b"{}", br#"{"source":"x","preset":"lenient"}"#] {
            let answer: Answer = serde_json::from_slice(&answer(request)).unwrap();
            answer.unwrap_err();
        }
    }
}
