//! `casemate key`.

use std::os::unix::fs::DirBuilderExt;

use anyhow::{Context, ensure};
use casemate_engine::policies;
use casemate_server::{KeyInfo, NewKey, Store};

use crate::cli::{DataArgs, KeyCommand};
use crate::run::NotFound;
use crate::serve::{data_folder, runtime};

/// Makes, lists or revokes keys in a server's database; the server need not run.
pub(crate) fn command(command: KeyCommand) -> anyhow::Result<i32> {
    runtime()?.block_on(async {
        match command {
            KeyCommand::Create {
                tenant,
                name,
                policy,
                backend,
                scope,
                running,
                per_minute,
                quota,
                expires,
                data,
            } => {
                ensure!(!tenant.is_empty(), "--tenant: a tenant needs a name");
                if let Some(policy) = &policy
                    && policies::preset(policy)?.is_none()
                {
                    let presets = policies::names().collect::<Vec<_>>().join(", ");
                    let why = format!("--policy {policy}: a key is bound to a preset ({presets})");
                    return Err(NotFound::new(why).into());
                }
                let words = |words: &[String]| words.iter().all(|word| !word.contains(','));
                ensure!(words(&backend), "--backend: name one at a time");
                let expires_ms = expires.map(end_of).transpose()?;
                let new = NewKey {
                    tenant,
                    name,
                    policy,
                    backends: backend,
                    scopes: scope,
                    running,
                    per_minute,
                    stored_bytes: quota.map(|quota| quota.0),
                    expires_ms,
                };
                let (key, info) = open(&data).await?.create_key(&new).await?;
                // The key alone on standard output, so that a script can take it.
                println!("{key}");
                eprintln!(
                    "{} of tenant {}; it is not shown again",
                    info.id, info.tenant
                );
            }
            KeyCommand::Ls { json, data } => {
                let keys = open(&data).await?.keys().await?;
                if json {
                    println!("{}", serde_json::to_string_pretty(&keys)?);
                } else {
                    keys.iter().for_each(|key| println!("{}", line(key)));
                }
            }
            KeyCommand::Revoke { id, data } => {
                let revoked = open(&data).await?.revoke_key(&id).await?;
                if !revoked {
                    let why = format!("there is no key {id} that is not revoked already");
                    return Err(NotFound::new(why).into());
                }
                println!("{id} is revoked");
            }
        }
        Ok(0)
    })
}

fn end_of(from_now: std::time::Duration) -> anyhow::Result<i64> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    i64::try_from((now + from_now).as_millis()).context("--expires: that is too far away")
}

/// The database of a server.
///
/// # Errors
/// When it cannot be opened.
pub(crate) async fn open(args: &DataArgs) -> anyhow::Result<Store> {
    let folder = data_folder(args)?;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&folder)
        .with_context(|| folder.display().to_string())?;
    Ok(Store::open(&folder, args.database.as_deref()).await?)
}

fn line(key: &KeyInfo) -> String {
    let state = if key.revoked_ms.is_some() {
        "revoked"
    } else {
        ""
    };
    let policy = key.policy.as_deref().unwrap_or("the server's");
    format!(
        "{:18} {:16} policy {policy:14} {:8} {}",
        key.id, key.tenant, state, key.name
    )
}
