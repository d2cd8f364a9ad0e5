//! An outcome for people: six layers in six lines, what the program displayed, where things are, why it ended.

use std::io::Write;

use casemate_model::finding::{Action, Finding};
use casemate_model::guarantee::{Guarantee, Guarantees};
use casemate_model::limit::{Limit, LimitKind, Millis};
use casemate_model::outcome::{Ending, Outcome};
use casemate_model::receipt::Receipt;
use casemate_model::screening::{Screening, Verdict};
use casemate_model::unit::ByteSize;

pub(crate) use casemate_server::wire::{cause, trouble};

use crate::out::Saved;
use crate::text::{line, plain};

/// Characters of one line of a report.
const WIDTH: usize = 110;

/// The six layers, one line each.
pub(crate) fn layers(outcome: &Outcome, source: &[u8]) -> String {
    let rows = [
        ("1 validation", validation(&outcome.screening, source)),
        ("2 analysis", analysis(&outcome.screening)),
        ("3 isolation", isolation(outcome)),
        ("4 limits", limits(outcome)),
        ("5 network", network(outcome)),
        ("6 observation", observation(outcome)),
    ];
    rows.iter()
        .map(|(name, (word, text))| format!("  {name:14} {word:8} {}\n", line(text, WIDTH)))
        .collect()
}

/// A layer's word and what there is to say of it.
type Row = (&'static str, String);

fn validation(screening: &Screening, source: &[u8]) -> Row {
    if screening.skipped {
        return ("skipped", "by --screen or the policy".to_owned());
    }
    let layer1 = |finding: &&Finding| finding.layer == casemate_model::finding::Layer::Validation;
    let size = ByteSize(source.len() as u64);
    match screening
        .findings
        .iter()
        .filter(layer1)
        .find(|finding| finding.action == Action::Refuse)
    {
        Some(finding) => ("REFUSED", format!("{}: {}", finding.rule, finding.message)),
        None => (
            "ok",
            format!(
                "{size}, {} lines",
                source.iter().filter(|&&byte| byte == b'\n').count().max(1)
            ),
        ),
    }
}

fn analysis(screening: &Screening) -> Row {
    if screening.skipped {
        return ("skipped", "by --screen or the policy".to_owned());
    }
    let names = |facts: &[casemate_model::manifest::Fact]| {
        facts
            .iter()
            .take(6)
            .map(|fact| fact.value.clone())
            .collect::<Vec<_>>()
            .join(", ")
    };
    let manifest = &screening.manifest;
    let mut needs = Vec::new();
    if !manifest.modules.is_empty() {
        needs.push(format!("needs {}", names(&manifest.modules)));
    }
    if !manifest.files.is_empty() {
        let files: Vec<&str> = manifest
            .files
            .iter()
            .take(4)
            .map(|file| file.value.as_str())
            .collect();
        needs.push(format!("names {}", files.join(", ")));
    }
    let word = if screening.verdict == Verdict::Refuse {
        "REFUSED"
    } else {
        screening.verdict.word()
    };
    let findings = match screening.findings.len() {
        0 => "nothing found".to_owned(),
        1 => "1 finding".to_owned(),
        more => format!("{more} findings"),
    };
    needs.insert(0, findings);
    (word, needs.join("; "))
}

fn isolation(outcome: &Outcome) -> Row {
    match &outcome.receipt {
        None => not_reached(),
        Some(receipt) => {
            let standing = receipt.walls.iter().filter(|wall| wall.stands()).count();
            let text = format!(
                "{}: {}, {standing} of {} walls",
                receipt.backend,
                receipt.guest,
                receipt.walls.len()
            );
            (
                if missing(outcome).is_empty() {
                    "stands"
                } else {
                    "MISSING"
                },
                text,
            )
        }
    }
}

fn limits(outcome: &Outcome) -> Row {
    let (usage, limits) = (&outcome.usage, &outcome.limits);
    let bytes = |limit: Limit<ByteSize>| match limit {
        Limit::At(size) => size.to_string(),
        Limit::Unlimited => "unlimited".to_owned(),
    };
    let time = |limit: Limit<Millis>| match limit {
        Limit::At(millis) => millis.to_string(),
        Limit::Unlimited => "unlimited".to_owned(),
    };
    if outcome.receipt.is_none() {
        return not_reached();
    }
    let word = if matches!(outcome.ending, Ending::Over { .. }) {
        "OVER"
    } else {
        "within"
    };
    let text = format!(
        "memory {} of {}, CPU {} of {}, wall {} of {}, disk {} of {}",
        ByteSize(usage.memory_peak_bytes),
        bytes(limits.memory),
        LimitKind::CpuTime.show(usage.cpu_us / 1000),
        time(limits.cpu_time),
        LimitKind::WallTime.show(usage.wall_us / 1000),
        time(limits.wall_time),
        ByteSize(usage.disk_peak_bytes),
        bytes(limits.disk),
    );
    (word, text)
}

fn network(outcome: &Outcome) -> Row {
    let attempts = outcome
        .events
        .iter()
        .filter(|event| event.what.name() == "network")
        .count();
    match &outcome.receipt {
        None => not_reached(),
        Some(receipt) if receipt.granted().contains(Guarantee::NetworkAbsent) => {
            // Processes of one sandbox may talk to each other by sockets that lead nowhere else.
            let how = if receipt.granted().contains(Guarantee::ProcessesAbsent) {
                "no socket can be made"
            } else {
                "no interface, and no socket that leads out"
            };
            ("absent", format!("{how}; {attempts} attempts"))
        }
        Some(_) => ("unknown", format!("{attempts} attempts")),
    }
}

fn observation(outcome: &Outcome) -> Row {
    if outcome.receipt.is_none() {
        return not_reached();
    }
    let summary = &outcome.summary;
    let mut text = format!(
        "{} events, {} files read, {} written, {} denials, {} alerts",
        summary.events,
        summary.files_read.len(),
        summary.files_written.len(),
        summary.denials.len(),
        outcome.alerts.len(),
    );
    for alert in &outcome.alerts {
        text.push_str(&format!("; {}: {}", alert.rule, alert.message));
    }
    (
        if outcome.alerts.is_empty() {
            "quiet"
        } else {
            "ALERT"
        },
        text,
    )
}

fn not_reached() -> Row {
    ("-", "not reached".to_owned())
}

fn missing(outcome: &Outcome) -> Guarantees {
    let granted = outcome
        .receipt
        .as_ref()
        .map(Receipt::granted)
        .unwrap_or_default();
    outcome.asked.missing_from(&granted)
}

/// What the program displayed, as text on standard output.
pub(crate) fn results(
    outcome: &Outcome,
    saved: Option<&Saved>,
    to: &mut impl Write,
) -> std::io::Result<()> {
    for (index, result) in outcome.results.iter().enumerate() {
        let path = saved.and_then(|saved| saved.pictures.get(index)?.clone());
        if let Some(path) = path {
            writeln!(to, "[figure: {}]", path.display())?;
        } else if result
            .representations
            .iter()
            .any(|form| form.mime.starts_with("image/"))
        {
            writeln!(to, "[figure, not kept: give --out DIR to keep it]")?;
        } else if let Some(text) = result.form("text/plain").and_then(|form| form.text()) {
            writeln!(to, "{}", plain(text.as_bytes()).trim_end_matches('\n'))?;
        } else if let Some(form) = result.representations.first() {
            writeln!(
                to,
                "[{}, {}]",
                line(&form.mime, 60),
                ByteSize(form.content.len() as u64)
            )?;
        }
    }
    Ok(())
}

/// Where the files are.
pub(crate) fn files(outcome: &Outcome, saved: Option<&Saved>) -> String {
    let mut text = String::new();
    for (index, artifact) in outcome.artifacts.iter().enumerate() {
        let size = ByteSize(artifact.bytes.len() as u64);
        let path = saved.and_then(|saved| saved.artifacts.get(index)?.as_ref());
        let (name, note) = match (path, saved) {
            (Some(path), _) => (path.display().to_string(), ""),
            (None, Some(_)) => (artifact.path.clone(), ", NOT WRITTEN"),
            (None, None) => (artifact.path.clone(), ", not kept: give --out DIR"),
        };
        text.push_str(&format!(
            "  file           {} ({size}){note}\n",
            line(&name, WIDTH)
        ));
    }
    text
}

/// The receipt: what was asked, what stands, what is missing.
pub(crate) fn receipt(outcome: &Outcome) -> String {
    let Some(receipt) = &outcome.receipt else {
        return String::new();
    };
    let missing = missing(outcome);
    let mut text = format!(
        "  receipt        asked for {} guarantees, ",
        outcome.asked.len()
    );
    text.push_str(&if missing.is_empty() {
        "every one stands\n".to_owned()
    } else {
        format!("MISSING: {missing}\n")
    });
    for wall in receipt.walls.iter().filter(|wall| !wall.stands()) {
        let why = wall.missing.as_deref().unwrap_or_default();
        text.push_str(&format!(
            "                 not standing: {} ({})\n",
            wall.name,
            line(why, WIDTH)
        ));
    }
    text.push_str(&format!("                 {}\n", outcome.id));
    text
}
