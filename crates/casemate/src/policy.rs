//! `casemate policy`.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::path::Path;

use anyhow::Context;
use casemate_engine::policies;
use casemate_model::finding::{Action, visible};
use casemate_model::job::Language;
use casemate_model::policy::Policy;
use casemate_screen::{Preset, ScreenConfig, Source, screen};

use crate::cli::PolicyCommand;
use crate::run::{NotFound, named_policy};

/// Lists, shows or checks policies.
pub(crate) fn command(command: PolicyCommand) -> anyhow::Result<i32> {
    match command {
        PolicyCommand::Ls => {
            for name in policies::names() {
                if let Some(policy) = policies::preset(name)? {
                    println!("{name:14} {}", policy.description);
                }
            }
            Ok(0)
        }
        PolicyCommand::Show { policy } => {
            println!("{}", serde_json::to_string_pretty(&named_policy(&policy)?)?);
            Ok(0)
        }
        PolicyCommand::Explain { policy, code } => explain(&policy, &code),
        PolicyCommand::Check { files } => {
            let mut bad = 0;
            for file in files {
                let name = file.display().to_string();
                let text = fs::read_to_string(&file).with_context(|| name.clone())?;
                match policies::parse(&name, &text) {
                    Ok(policy) => println!("{name}: ok ({})", policy.name),
                    Err(error) => {
                        bad += 1;
                        println!("{error}");
                    }
                }
            }
            Ok(i32::from(bad > 0))
        }
    }
}

/// Rule by rule: what it does under this policy, what it does under `data-analysis` when that differs,
/// and the steps that led to it. 0 when the program may run, 1 when it is refused.
fn explain(name: &str, code: &Path) -> anyhow::Result<i32> {
    let policy = named_policy(name)?;
    let (config, preset) = config_of(&policy);
    let mut bytes = Vec::new();
    let limit = u64::try_from(config.max_bytes)
        .unwrap_or(u64::MAX)
        .saturating_add(1);
    let shown = if code == Path::new("-") {
        std::io::stdin().take(limit).read_to_end(&mut bytes)?;
        "<stdin>".to_owned()
    } else {
        let file = fs::File::open(code).map_err(|error| {
            NotFound::new(format!("{} cannot be read: {error}", code.display()))
        })?;
        file.take(limit)
            .read_to_end(&mut bytes)
            .with_context(|| code.display().to_string())?;
        code.display().to_string()
    };
    let source = Source {
        bytes: &bytes,
        language: Language::Python,
        name: &shown,
    };
    let screening = screen(&source, &config);
    println!(
        "policy {}: screening as in {}, mode {:?}",
        policy.name,
        preset.name(),
        policy.screen
    );
    println!("{shown}: {}", screening.verdict.word());
    for action in [Action::Refuse, Action::Confine, Action::Pass] {
        let title = match action {
            Action::Refuse => "refuses",
            Action::Confine => "asks for walls",
            Action::Pass => "is only told",
        };
        // What one line does twice is said once.
        let mut said = BTreeSet::new();
        let findings: Vec<_> = screening
            .findings
            .iter()
            .filter(|finding| finding.action == action)
            .filter(|finding| {
                let line = finding.place.map(|place| place.line);
                said.insert((&finding.rule, line, &finding.message))
            })
            .collect();
        if findings.is_empty() {
            continue;
        }
        println!("\nwhat {title}:");
        for finding in findings {
            let clean = |text: &str| text.chars().map(visible).collect::<String>();
            let place = finding
                .place
                .map_or_else(String::new, |place| format!(" at line {}", place.line));
            println!(
                "  [{}]{place}, layer {}: {}",
                finding.rule,
                layer(finding),
                clean(&finding.message)
            );
            for step in &finding.chain {
                let place = step
                    .place
                    .map_or_else(String::new, |place| format!("line {}: ", place.line));
                println!("      via {place}{}", clean(&step.what));
            }
            println!("      why: {}", finding.reason);
            println!("      instead: {}", finding.better_way);
        }
    }
    let walls = screening.verdict.guarantees();
    if !walls.is_empty() {
        println!("\nwalls it needs beyond the policy's: {walls}");
    }
    Ok(i32::from(screening.verdict.word() == "refuse"))
}

/// The bounds and the preset that screening takes from a policy.
fn config_of(policy: &Policy) -> (ScreenConfig, Preset) {
    let preset = Preset::named(&policy.name).unwrap_or_default();
    let max_bytes = usize::try_from(policy.source.0).unwrap_or(usize::MAX);
    let config = ScreenConfig {
        max_bytes,
        preset,
        ..ScreenConfig::default()
    };
    (config, preset)
}

fn layer(finding: &casemate_model::finding::Finding) -> &'static str {
    match finding.layer {
        casemate_model::finding::Layer::Validation => "1 (validation)",
        casemate_model::finding::Layer::Analysis => "2 (analysis)",
    }
}
