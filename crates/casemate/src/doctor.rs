//! `casemate doctor`: what each backend offers here, found by trying.

use casemate_backend::contract::Cancel;
use casemate_backend::contract::{Lost, Offer, Usable};
use casemate_engine::{Record, policies};
use casemate_linux::proc::kernel_facts;
use casemate_model::guarantee::Guarantees;
use casemate_model::job::{JobBuilder, Language, Program, RunId};
use casemate_model::outcome::Outcome;
use casemate_model::policy::{Policy, base_guarantees};
use casemate_wasm::setup::Store;
use serde_json::json;

use crate::cli::DoctorArgs;
use crate::run::engine;
use crate::show;

/// Prints the diagnosis: 0 when a backend is usable and every required wall stands, 1 otherwise.
pub(crate) fn command(args: &DoctorArgs) -> anyhow::Result<i32> {
    let store = Store::open()?;
    let engine = engine(&store)?;
    let mut healthy = false;
    let mut reports = Vec::new();
    for offer in engine.offers() {
        // A wall is judged by a sandbox that stands, not by what the kernel says it could do.
        let tried = matches!(offer.usable, Usable::Yes)
            .then(|| attempt(&engine, &offer))
            .transpose()?;
        healthy |= tried
            .as_ref()
            .is_some_and(|outcome| outcome.ending.is_success());
        reports.push((offer, tried));
    }
    if args.json {
        let backends: Vec<_> = reports
            .iter()
            .map(|(offer, tried)| as_json(offer, tried.as_ref(), &engine.record(&offer.backend)))
            .collect();
        let value = json!({ "schema": "casemate.doctor/1", "kernel": kernel_facts(), "backends": backends });
        println!("{}", serde_json::to_string_pretty(&value)?);
    } else {
        print_kernel();
        for (offer, tried) in &reports {
            print(offer, tried.as_ref(), &engine.record(&offer.backend));
        }
    }
    Ok(i32::from(!healthy))
}

fn attempt(engine: &casemate_engine::Engine, offer: &Offer) -> anyhow::Result<Outcome> {
    let program = Program {
        source: b"print(1)\n".to_vec(),
        name: "doctor.py".into(),
        language: Language::Python,
    };
    let demand = casemate_model::job::Demand {
        backend: Some(offer.backend.clone()),
        ..Default::default()
    };
    // What a backend does not claim to give is shown as lacking, and is not why it would not start.
    let policy = Policy {
        require: base_guarantees().common(&offer.guarantees),
        ..Policy::default()
    };
    let job = JobBuilder::new(RunId::from_bits(0), program, policy)
        .demand(demand)
        .build()?;
    Ok(engine.run(job, &mut |_| {}, &Cancel::new()))
}

fn as_json(offer: &Offer, tried: Option<&Outcome>, record: &Record) -> serde_json::Value {
    let attacked = match record {
        Record::None { .. } => "no",
        Record::Stood { .. } => "stood",
        Record::Fell { .. } => "fell",
    };
    json!({
        "offer": offer,
        "attacked": { "result": attacked, "detail": record.describe() },
        "tried": tried.map(|outcome| json!({ "ending": outcome.ending, "receipt": outcome.receipt })),
    })
}

fn print_kernel() {
    let facts = kernel_facts();
    println!("machine");
    if let Ok(serde_json::Value::Object(fields)) = serde_json::to_value(&facts) {
        for (name, value) in fields {
            let value = plain_value(&value);
            println!("  {:24} {value}", name.replace('_', " "));
        }
    }
}

/// A fact in words: what was found, or why it could not be.
fn plain_value(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::String(text) => text.clone(),
        serde_json::Value::Array(items) => {
            items.iter().map(plain_value).collect::<Vec<_>>().join(" ")
        }
        serde_json::Value::Object(fields) => match (fields.get("Ok"), fields.get("Err")) {
            (Some(value), _) => plain_value(value),
            (_, Some(why)) => format!("no: {}", plain_value(why)),
            _ => value.to_string(),
        },
        other => other.to_string(),
    }
}

/// The last attack, and how to have one that counts.
fn attacked(record: &Record, backend: &str) -> String {
    match record {
        Record::Stood { .. } => record.describe(),
        Record::None { .. } => format!(
            "{}; `casemate attack --backend {backend}` attacks it",
            record.describe()
        ),
        Record::Fell { .. } => format!(
            "{}: not taken unless it is named; mend the wall, then `casemate attack --backend {backend}`",
            record.describe()
        ),
    }
}

/// What is lost for the same reason, together.
fn by_reason(lost: &Lost) -> Vec<(Guarantees, &str)> {
    let mut all: Vec<(Guarantees, &str)> = Vec::new();
    for (guarantee, why) in lost {
        match all.iter_mut().find(|(_, other)| other == why) {
            Some((together, _)) => together.insert(*guarantee),
            None => all.push(([*guarantee].into_iter().collect(), why)),
        }
    }
    all
}

fn print(offer: &Offer, tried: Option<&Outcome>, record: &Record) {
    println!("\n{}", offer.backend);
    match (&offer.usable, tried) {
        (Usable::No { why, fix }, _) => println!("  not usable: {why}\n  mend it: {fix}"),
        (Usable::AfterSetup { what }, _) => println!("  usable after `casemate setup`: {what}"),
        (Usable::Yes, Some(outcome)) if outcome.ending.is_success() => println!("  usable"),
        (Usable::Yes, Some(outcome)) => println!("  NOT usable: {}", show::cause(&outcome.ending)),
        (Usable::Yes, None) => {}
    }
    println!("  {}", attacked(record, &offer.backend));
    for note in &offer.notes {
        println!("  {note}");
    }
    let lacking = base_guarantees().missing_from(&offer.guarantees);
    if !lacking.is_empty() {
        let preset = policies::fitting(&offer.guarantees);
        let preset = preset.map_or_else(String::new, |name| format!(" (preset: {name})"));
        println!("  lacks: {lacking}; runs only under a policy that does not require it{preset}");
    }
    for (lost, why) in by_reason(&offer.lost) {
        println!("  cannot give here: {lost}: {why}");
    }
    let Some(receipt) = tried.and_then(|outcome| outcome.receipt.as_ref()) else {
        return;
    };
    for wall in &receipt.walls {
        let (mark, text) = match (&wall.got, &wall.missing) {
            (Some(got), None) => ("stands ", got.as_str()),
            (_, missing) => ("MISSING", missing.as_deref().unwrap_or_default()),
        };
        println!("  {mark} {:20} {text}", wall.name);
    }
    println!("  guarantees: {}", receipt.granted());
    let lost = offer.guarantees.missing_from(&receipt.granted());
    if !lost.is_empty() {
        println!("  lost on this machine: {lost}");
    }
}
