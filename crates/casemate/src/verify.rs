//! `casemate verify FILE`: who signed a result, whether it is whole, and what it says. Offline.

use std::path::Path;

use anyhow::{Context, ensure};
use casemate_engine::Record;
use casemate_server::wire::{RECEIPT, RECEIPT_TYPE};
use serde::Serialize;
use serde_json::{Value, json};

use crate::attack::{AttackResult, Results, depends, envelope_in, parsed};
use crate::cli::VerifyArgs;
use crate::run::NotFound;
use crate::sign::{Envelope, PublicKey, file_sha256};
use crate::text::line;

/// The exit code when a result is not to be relied on.
pub(crate) const NOT_VERIFIED: i32 = 1;

/// What was found out.
struct Verified {
    result: AttackResult,
    /// Why it is not to be relied on.
    trouble: Option<String>,
    /// What has changed since, where it is about this machine.
    changed: Vec<String>,
}

/// Checks a file and says what it says: 0 when the key that was expected signed it, 1 otherwise.
pub(crate) fn command(args: &VerifyArgs) -> anyhow::Result<i32> {
    ensure!(
        args.file.exists(),
        NotFound::new(format!("{} does not exist", args.file.display()))
    );
    let envelope = envelope_in(&args.file).with_context(|| args.file.display().to_string())?;
    if envelope.is_of(RECEIPT_TYPE) {
        return receipt(args, &envelope).with_context(|| args.file.display().to_string());
    }
    ensure!(
        args.has.is_empty(),
        "--has belongs to receipts, and {} is none",
        args.file.display()
    );
    let verified =
        verify(&envelope, args.key.as_deref()).with_context(|| args.file.display().to_string())?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&as_json(&verified))?);
    } else {
        print!("{}", as_text(&verified));
    }
    Ok(if verified.trouble.is_some() {
        NOT_VERIFIED
    } else {
        0
    })
}

/// Why the document in an envelope is not to be relied on, if it is not: without a key that is named, this user's own
/// must have signed it.
///
/// # Errors
/// When the key that is named is none.
pub(crate) fn trouble(
    envelope: &Envelope,
    payload_type: &str,
    key: Option<&str>,
) -> anyhow::Result<Option<String>> {
    let expected = match key {
        Some(text) => Some(PublicKey::parse(text)?),
        None => Results::open()?.public_key()?,
    };
    Ok(match expected {
        None => Some(
            "there is no key of this user's to check it with; name the key that you expect with --key"
                .to_owned(),
        ),
        Some(key) => match envelope.opened(payload_type, key) {
            Ok(_) => None,
            Err(error) => Some(format!("{error:#}")),
        },
    })
}

fn verify(envelope: &Envelope, key: Option<&str>) -> anyhow::Result<Verified> {
    let result = parsed(&envelope.unverified(crate::attack::RESULT_TYPE)?)?;
    let trouble = trouble(envelope, crate::attack::RESULT_TYPE, key)?;
    let now = depends()?.of(&result.backend);
    Ok(Verified {
        changed: result.changed(&now),
        result,
        trouble,
    })
}

fn as_json(verified: &Verified) -> serde_json::Value {
    json!({
        "schema": "casemate.verified/1",
        "verified": verified.trouble.is_none(),
        "trouble": verified.trouble,
        "changed_since": verified.changed,
        "result": verified.result,
    })
}

fn as_text(verified: &Verified) -> String {
    let result = &verified.result;
    let said = |name: &str, text: &str| format!("{name:<12} {}\n", line(text, 400));
    let mut text = match &verified.trouble {
        None => said("verified", "signed by the key that was expected, and whole"),
        Some(why) => said("NOT VERIFIED", why),
    };
    text.push_str(&said("key", &result.public_key));
    text.push_str(&said("backend", &result.backend));
    text.push_str(&said("attacked", &result.made_at));
    text.push_str(&said(
        "casemate",
        &format!("{}, SHA-256 {}", result.casemate, result.program_sha256),
    ));
    let verdict = match result.record() {
        Record::None { why } => why,
        Record::Stood {
            stopped, promised, ..
        } => format!("{stopped} of {promised} attacks stopped"),
        Record::Fell { attacks, .. } => format!("GOT THROUGH: {}", attacks.join(", ")),
    };
    text.push_str(&said("result", &verdict));
    let open = result
        .attacks
        .iter()
        .filter(|a| a.verdict == "not_promised");
    let open: Vec<String> = open
        .map(|attack| match attack.bits_per_second {
            Some(rate) => format!("{} ({rate:.1} bit/s)", attack.attack),
            None => attack.attack.clone(),
        })
        .collect();
    text.push_str(&said("not promised", &open.join(", ")));
    let still = match verified.changed.as_slice() {
        [] => "yes: nothing that it rests on has changed".to_owned(),
        changed => format!("no: {} differ", changed.join(", ")),
    };
    text.push_str(&said("counts here", &still));
    for (name, value) in &result.depends_on {
        text.push_str(&format!("  {:<18} {}\n", line(name, 40), line(value, 300)));
    }
    text
}

/// A file that a receipt was to name.
#[derive(Serialize)]
struct Named {
    file: String,
    sha256: String,
    /// What it was to the run; none where it was nothing.
    was: Option<String>,
}

/// Checks a receipt, and that it names the files that were given.
fn receipt(args: &VerifyArgs, envelope: &Envelope) -> anyhow::Result<i32> {
    let payload = envelope.unverified(RECEIPT_TYPE)?;
    let receipt: Value =
        serde_json::from_slice(&payload).context("its content is no receipt of a run")?;
    ensure!(
        receipt["schema"] == RECEIPT,
        "its schema is {}, not {RECEIPT}",
        line(&receipt["schema"].to_string(), 60)
    );
    let trouble = trouble(envelope, RECEIPT_TYPE, args.key.as_deref())?;
    let named = args.has.iter().map(|path| named(path, &receipt));
    let named = named.collect::<anyhow::Result<Vec<_>>>()?;
    let is_good = trouble.is_none() && named.iter().all(|named| named.was.is_some());
    if args.json {
        let value = json!({
            "schema": "casemate.verified/1",
            "verified": trouble.is_none(),
            "trouble": trouble,
            "has": named,
            "receipt": receipt,
        });
        println!("{}", serde_json::to_string_pretty(&value)?);
    } else {
        print!("{}", receipt_text(&receipt, trouble.as_deref(), &named));
    }
    Ok(if is_good { 0 } else { NOT_VERIFIED })
}

/// What a file was to a run, by its content alone.
fn named(path: &Path, receipt: &Value) -> anyhow::Result<Named> {
    let sha256 = file_sha256(path).with_context(|| path.display().to_string())?;
    let is = |it: &Value| it["sha256"] == sha256.as_str();
    let listed = |list: &str, what: &str| {
        let all = receipt[list].as_array().into_iter().flatten();
        all.filter(|it| is(it))
            .map(|it| format!("{what} {}", it["path"].as_str().unwrap_or_default()))
            .next()
    };
    let was = is(&receipt["program"])
        .then(|| "the program".to_owned())
        .or_else(|| listed("inputs", "the input"))
        .or_else(|| listed("artifacts", "the file that it left,"));
    Ok(Named {
        file: path.display().to_string(),
        sha256,
        was,
    })
}

fn receipt_text(receipt: &Value, trouble: Option<&str>, named: &[Named]) -> String {
    let word = |value: &Value| match value {
        Value::String(text) => line(text, 300),
        other => line(&other.to_string(), 300),
    };
    let said = |name: &str, text: &str| format!("{name:<12} {text}\n");
    let mut text = match trouble {
        None => said("verified", "signed by the key that was expected, and whole"),
        Some(why) => said("NOT VERIFIED", &line(why, 400)),
    };
    let at = receipt["created_ms"].as_i64().unwrap_or_default();
    let at =
        jiff::Timestamp::from_millisecond(at).map_or_else(|_| String::new(), |at| at.to_string());
    text.push_str(&said("run", &format!("{}, {at}", word(&receipt["run"]))));
    text.push_str(&said(
        "program",
        &format!(
            "{}, SHA-256 {}",
            word(&receipt["program"]["name"]),
            word(&receipt["program"]["sha256"])
        ),
    ));
    text.push_str(&said("policy", &word(&receipt["policy"])));
    let walls = receipt["walls"]["walls"].as_array();
    let count = |got: bool| {
        let walls = walls.into_iter().flatten();
        walls.filter(|wall| wall["got"].is_string() == got).count()
    };
    text.push_str(&said(
        "walls",
        &match walls {
            None => "none: nothing ran".to_owned(),
            Some(_) => format!(
                "{}: {} stood, {} did not",
                word(&receipt["walls"]["backend"]),
                count(true),
                count(false)
            ),
        },
    ));
    text.push_str(&said("ending", &word(&receipt["ending"]["cause"])));
    let lists = [("inputs", "input"), ("artifacts", "left")];
    for (list, name) in lists {
        for it in receipt[list].as_array().into_iter().flatten() {
            let about = format!("{}, SHA-256 {}", word(&it["path"]), word(&it["sha256"]));
            text.push_str(&said(name, &about));
        }
    }
    for named in named {
        let was = match &named.was {
            Some(was) => line(was, 300),
            None => format!("NOT IN IT: its SHA-256 is {}", named.sha256),
        };
        text.push_str(&said(&line(&named.file, 100), &was));
    }
    text
}
