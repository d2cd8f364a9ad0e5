//! What `casemate serve` offers of sandboxes that live on: jails with the agent.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use casemate_backend::session::Sessions;
use casemate_jail::JailSessions;
use casemate_server::Template;

use crate::run::{named_policy, systems};

/// The agent's program.
const AGENT: &str = "casemate-guest";
/// The folder beside this program where a build has the agent that needs nothing of the system it runs in.
const STATIC: &str = "../agent";
/// What SDKs name, and whether it has an interpreter ready.
const TEMPLATES: [(&str, bool); 2] = [("base", false), ("code-interpreter-v1", true)];

/// The templates under a policy. Without an agent there are none, which is said.
///
/// # Errors
/// A policy that there is not, or a data folder that cannot be written.
pub(crate) fn templates(policy: &str, data: &Path) -> anyhow::Result<Vec<Template>> {
    let policy = named_policy(policy)?;
    let Some(agent) = beside_this_program() else {
        eprintln!(
            "casemate: no sandboxes that live on: {AGENT} is not beside this program; `./dev agent` builds it"
        );
        return Ok(Vec::new());
    };
    let folder = keep(&agent, data)?;
    let sessions = match JailSessions::new(systems()?, "/proc/self/exe", &folder) {
        Ok(sessions) => Arc::new(sessions) as Arc<dyn Sessions>,
        Err(why) => {
            eprintln!("casemate: no sandboxes that live on: {why}");
            return Ok(Vec::new());
        }
    };
    let template = |(name, warm): (&str, bool)| Template {
        name: name.to_owned(),
        sessions: Arc::clone(&sessions),
        policy: policy.clone(),
        warm,
    };
    Ok(TEMPLATES.into_iter().map(template).collect())
}

fn beside_this_program() -> Option<PathBuf> {
    let own = fs::canonicalize("/proc/self/exe").ok()?;
    let folder = own.parent()?;
    [folder.join(STATIC), folder.to_owned()]
        .into_iter()
        .map(|folder| folder.join(AGENT))
        .find(|agent| agent.is_file())
}

/// A copy in a folder that has nothing else in it, since that folder is what a sandbox sees; its name is the
/// content's, so that one that is in use is not written again.
fn keep(agent: &Path, data: &Path) -> anyhow::Result<PathBuf> {
    let bytes = fs::read(agent).with_context(|| format!("reading {}", agent.display()))?;
    let mut private = fs::DirBuilder::new();
    private.recursive(true).mode(0o700).create(data)?;
    let folder = data.join("agent").join(casemate_engine::sha256_hex(&bytes));
    let kept = folder.join(AGENT);
    if fs::read(&kept).is_ok_and(|there| there == bytes) {
        return Ok(folder);
    }
    private.mode(0o755).create(&folder)?;
    let making = folder.join(format!("{AGENT}.{}", std::process::id()));
    let mut file = fs::OpenOptions::new();
    let mut file = file
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o755)
        .open(&making)
        .with_context(|| format!("writing {}", making.display()))?;
    file.write_all(&bytes)?;
    drop(file);
    // Whatever the user's own mask says, the user of a sandbox is to enter the one and run the other.
    for path in [&folder, &making] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    }
    fs::rename(&making, &kept)?;
    Ok(folder)
}
