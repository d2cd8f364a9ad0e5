//! `casemate verify FILE`: who signed a result, whether it is whole, and what it says. Offline.

use std::path::Path;

use anyhow::{Context, ensure};
use casemate_engine::Record;
use casemate_server::wire::{RECEIPT, RECEIPT_TYPE, SANDBOX_RECEIPT, SANDBOX_RECEIPT_TYPE};
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
        "--has belongs to receipts of runs, and {} is none",
        args.file.display()
    );
    if envelope.is_of(SANDBOX_RECEIPT_TYPE) {
        return sandbox(args, &envelope).with_context(|| args.file.display().to_string());
    }
    let verified =
        verify(&envelope, args.key.as_deref()).with_context(|| args.file.display().to_string())?;
    let is_good = verified.trouble.is_none();
    tell(args, &as_json(&verified), &as_text(&verified), is_good)
}

/// Says what was found out, as it was asked for, and how this program is to end.
fn tell(args: &VerifyArgs, value: &Value, text: &str, is_good: bool) -> anyhow::Result<i32> {
    if args.json {
        println!("{}", serde_json::to_string_pretty(value)?);
    } else {
        print!("{text}");
    }
    Ok(if is_good { 0 } else { NOT_VERIFIED })
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
    let said = |name: &str, text: &str| said(name, &line(text, 400));
    let mut text = verdict(verified.trouble.as_deref());
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
    let receipt = document(envelope, RECEIPT_TYPE, RECEIPT)?;
    let trouble = trouble(envelope, RECEIPT_TYPE, args.key.as_deref())?;
    let named = args.has.iter().map(|path| named(path, &receipt));
    let named = named.collect::<anyhow::Result<Vec<_>>>()?;
    let is_good = trouble.is_none() && named.iter().all(|named| named.was.is_some());
    let value = json!({
        "schema": "casemate.verified/1",
        "verified": trouble.is_none(),
        "trouble": trouble,
        "has": named,
        "receipt": receipt,
    });
    let text = receipt_text(&receipt, trouble.as_deref(), &named);
    tell(args, &value, &text, is_good)
}

/// Checks a receipt of a sandbox that lives on.
fn sandbox(args: &VerifyArgs, envelope: &Envelope) -> anyhow::Result<i32> {
    let receipt = document(envelope, SANDBOX_RECEIPT_TYPE, SANDBOX_RECEIPT)?;
    let trouble = trouble(envelope, SANDBOX_RECEIPT_TYPE, args.key.as_deref())?;
    let value = json!({
        "schema": "casemate.verified/1",
        "verified": trouble.is_none(),
        "trouble": trouble,
        "receipt": receipt,
    });
    let text = sandbox_text(&receipt, trouble.as_deref());
    tell(args, &value, &text, trouble.is_none())
}

/// The document in an envelope, of this schema.
fn document(envelope: &Envelope, payload_type: &str, schema: &str) -> anyhow::Result<Value> {
    let payload = envelope.unverified(payload_type)?;
    let document: Value = serde_json::from_slice(&payload).context("its content is no receipt")?;
    ensure!(
        document["schema"] == schema,
        "its schema is {}, not {schema}",
        line(&document["schema"].to_string(), 60)
    );
    Ok(document)
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

fn word(value: &Value) -> String {
    match value {
        Value::String(text) => line(text, 300),
        other => line(&other.to_string(), 300),
    }
}

fn said(name: &str, text: &str) -> String {
    format!("{name:<12} {text}\n")
}

fn verdict(trouble: Option<&str>) -> String {
    match trouble {
        None => said("verified", "signed by the key that was expected, and whole"),
        Some(why) => said("NOT VERIFIED", &line(why, 400)),
    }
}

/// Milliseconds since 1970 as a time.
fn moment(value: &Value) -> String {
    let at = jiff::Timestamp::from_millisecond(value.as_i64().unwrap_or_default());
    at.map_or_else(|_| String::new(), |at| at.to_string())
}

fn walls(receipt: &Value) -> String {
    let Some(walls) = receipt["walls"].as_array() else {
        return said("walls", "none: nothing ran");
    };
    let stood = walls.iter().filter(|wall| wall["got"].is_string()).count();
    let backend = word(&receipt["backend"]);
    let text = format!("{backend}: {stood} stood, {} did not", walls.len() - stood);
    said("walls", &text)
}

fn sandbox_text(receipt: &Value, trouble: Option<&str>) -> String {
    let mut text = verdict(trouble);
    let id = word(&receipt["sandbox"]);
    let template = word(&receipt["template"]);
    text += &said("sandbox", &format!("{id}, of {template}"));
    text += &said("made", &moment(&receipt["made_ms"]));
    text += &said("signed", &moment(&receipt["signed_ms"]));
    text += &walls(&receipt["walls"]);
    for (name, limit) in receipt["limits"].as_object().into_iter().flatten() {
        text += &format!("  {:<18} {}\n", line(name, 40), word(limit));
    }
    text
}

fn receipt_text(receipt: &Value, trouble: Option<&str>, named: &[Named]) -> String {
    let mut text = verdict(trouble);
    let at = moment(&receipt["created_ms"]);
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
    text.push_str(&walls(&receipt["walls"]));
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
