//! `casemate verify FILE`: who signed a result, whether it is whole, and what it says. Offline.

use std::path::Path;

use anyhow::{Context, ensure};
use casemate_engine::Record;
use serde_json::json;

use crate::attack::{AttackResult, PublicKey, Results, depends, envelope_in, parsed};
use crate::cli::VerifyArgs;
use crate::run::NotFound;
use crate::text::line;

/// The exit code when a result is not to be relied on.
const NOT_VERIFIED: i32 = 1;

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
    let verified =
        verify(&args.file, args.key.as_deref()).with_context(|| args.file.display().to_string())?;
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

fn verify(path: &Path, key: Option<&str>) -> anyhow::Result<Verified> {
    let envelope = envelope_in(path)?;
    let result = parsed(&envelope.unverified(crate::attack::RESULT_TYPE)?)?;
    let expected = match key {
        Some(text) => Some(PublicKey::parse(text)?),
        None => Results::open()?.public_key()?,
    };
    let trouble = match expected {
        None => Some(
            "there is no key of this user's to check it with; name the key that you expect with --key"
                .to_owned(),
        ),
        Some(key) => match envelope.opened(crate::attack::RESULT_TYPE, key) {
            Ok(_) => None,
            Err(error) => Some(format!("{error:#}")),
        },
    };
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
