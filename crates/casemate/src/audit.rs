//! `casemate audit`: a server's entries, and whether their chains are whole.

use std::path::Path;

use anyhow::{Context, ensure};
use casemate_server::wire::{AUDIT_HEAD, AUDIT_HEAD_TYPE};
use casemate_server::{Looked, Store};
use serde::Deserialize;
use serde_json::json;

use crate::attack::envelope_in;
use crate::cli::AuditCommand;
use crate::key::open;
use crate::serve::runtime;
use crate::text::line;
use crate::verify::{NOT_VERIFIED, trouble};

/// Looks at the entries of a server's database.
pub(crate) fn command(command: AuditCommand) -> anyhow::Result<i32> {
    runtime()?.block_on(async {
        match command {
            AuditCommand::Verify { head, key, data } => {
                let store = open(&data).await?;
                verify(&store, &head, key.as_deref()).await
            }
            AuditCommand::Tail {
                tenant,
                lines,
                data,
            } => {
                let store = open(&data).await?;
                tail(&store, &tenant, lines.into()).await?;
                Ok(0)
            }
        }
    })
}

async fn tail(store: &Store, tenant: &str, lines: i64) -> anyhow::Result<()> {
    for row in store.audit_tail(tenant, lines).await? {
        let entry = json!({
            "at_ms": row.at_ms,
            "tenant": tenant,
            "key": row.who,
            "action": row.action,
            "subject": row.subject,
            "detail": row.detail,
            "seq": row.seq,
            "sha256": row.sha256,
        });
        println!("{entry}");
    }
    Ok(())
}

async fn verify(
    store: &Store,
    heads: &[std::path::PathBuf],
    key: Option<&str>,
) -> anyhow::Result<i32> {
    let mut whole = true;
    for head in store.audit_heads().await? {
        let looked = store.look_through(head).await?;
        whole &= looked.trouble.is_none();
        println!("{}", said(&looked));
    }
    for path in heads {
        let (good, text) = kept(store, path, key)
            .await
            .with_context(|| path.display().to_string())?;
        whole &= good;
        println!("{}: {text}", path.display());
    }
    Ok(if whole { 0 } else { NOT_VERIFIED })
}

fn said(looked: &Looked) -> String {
    let tenant = line(&looked.head.tenant, 80);
    match &looked.trouble {
        Some(why) => format!("{tenant}: NOT WHOLE: {why}"),
        None => format!(
            "{tenant}: whole, {} entries from {} to {}, the last {}",
            looked.entries, looked.first, looked.head.seq, looked.head.sha256
        ),
    }
}

/// A head as a server signs it.
#[derive(Deserialize)]
struct Kept {
    schema: String,
    tenant: String,
    seq: i64,
    sha256: String,
}

/// Whether a chain still has the entry that was its last when a head was signed.
async fn kept(store: &Store, path: &Path, key: Option<&str>) -> anyhow::Result<(bool, String)> {
    let envelope = envelope_in(path)?;
    let payload = envelope.unverified(AUDIT_HEAD_TYPE)?;
    let kept: Kept =
        serde_json::from_slice(&payload).context("its content is no head of an audit")?;
    ensure!(
        kept.schema == AUDIT_HEAD,
        "its schema is {}, not {AUDIT_HEAD}",
        line(&kept.schema, 60)
    );
    if let Some(why) = trouble(&envelope, AUDIT_HEAD_TYPE, key)? {
        return Ok((false, format!("NOT VERIFIED: {why}")));
    }
    let tenant = line(&kept.tenant, 80);
    let found = store.audit_at(&kept.tenant, kept.seq).await?;
    let is_there = found.and_then(|row| row.sha256) == Some(kept.sha256);
    let text = if is_there {
        format!("entry {} of {tenant} is the one that was signed", kept.seq)
    } else {
        format!(
            "NOT WHOLE: entry {} of {tenant} is another, or gone",
            kept.seq
        )
    };
    Ok((is_there, text))
}
