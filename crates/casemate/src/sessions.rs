//! What `casemate serve` offers of sandboxes that live on: jails with the agent.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use casemate_backend::session::Sessions;
use casemate_backend::setup::cache_root;
use casemate_jail::JailSessions;
use casemate_server::Template;

use crate::run::{named_policy, systems};

/// The agent's program.
const AGENT: &str = "casemate-guest";
/// The folder beside this program where a build has the agent that needs nothing of the system it runs in.
const STATIC: &str = "../agent";
/// What contexts for JavaScript and TypeScript run on, as the agent finds it beside itself.
const DENO: &str = "deno";
/// The package that has it, below where `./dev` fetches it, and the SHA-256 of the program.
const DENO_PINNED: Option<(&str, &str)> = if cfg!(target_arch = "x86_64") {
    Some((
        "@deno/linux-x64-glibc",
        "bceb5b6a6239b0b010418406d8c77a508f67cf4337d94288f1c19fe71304aab0",
    ))
} else if cfg!(target_arch = "aarch64") {
    Some((
        "@deno/linux-arm64-glibc",
        "d08d392418df53f4e6e88a08909c0e1bccbf9adcead7232df72b6ad6075ec416",
    ))
} else {
    None
};
/// What SDKs name, and whether it has an interpreter ready.
const TEMPLATES: [(&str, bool); 2] = [("base", false), ("code-interpreter-v1", true)];

/// The templates under a policy. Without an agent there are none, which is said.
///
/// # Errors
/// A policy that there is not, a data folder that cannot be written, or a Deno that was named and is not the one known.
pub(crate) fn templates(
    policy: &str,
    data: &Path,
    deno: Option<&Path>,
) -> anyhow::Result<Vec<Template>> {
    let policy = named_policy(policy)?;
    let Some(agent) = beside_this_program() else {
        eprintln!(
            "casemate: no sandboxes that live on: {AGENT} is not beside this program; `./dev agent` builds it"
        );
        return Ok(Vec::new());
    };
    let mut programs = vec![Copied::of(AGENT, read(&agent)?)];
    match known_deno(deno) {
        Ok(known) => programs.push(known),
        Err(why) if deno.is_some() => return Err(why),
        Err(why) => eprintln!("casemate: no contexts for JavaScript and TypeScript: {why:#}"),
    }
    let folder = keep(&programs, data)?;
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

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("reading {}", path.display()))
}

/// A program that sandboxes are shown.
struct Copied {
    name: &'static str,
    bytes: Vec<u8>,
    sha256: String,
}

impl Copied {
    fn of(name: &'static str, bytes: Vec<u8>) -> Self {
        let sha256 = casemate_engine::sha256_hex(&bytes);
        Self {
            name,
            bytes,
            sha256,
        }
    }
}

/// The Deno that was named or that `./dev` fetched: only the one whose hash is known here.
fn known_deno(named: Option<&Path>) -> anyhow::Result<Copied> {
    let (package, hash) = DENO_PINNED.context("none is known for this machine's processor")?;
    let path = match named {
        Some(path) => path.to_owned(),
        None => cache_root()?
            .join("deno/node_modules")
            .join(package)
            .join(DENO),
    };
    if named.is_none() && !path.is_file() {
        bail!("Deno is not there; `./dev serve` fetches it, and `--deno FILE` names one");
    }
    let found = Copied::of(DENO, read(&path)?);
    if found.sha256 != hash {
        bail!(
            "{} is not the Deno that is known here: its SHA-256 is {}, expected {hash}",
            path.display(),
            found.sha256
        );
    }
    Ok(found)
}

/// Copies in a folder that has nothing else in it, since that folder is what a sandbox sees; its name is the
/// contents', so that one that is in use is not written again.
fn keep(programs: &[Copied], data: &Path) -> anyhow::Result<PathBuf> {
    let mut private = fs::DirBuilder::new();
    private.recursive(true).mode(0o700).create(data)?;
    let hashes: Vec<&str> = programs.iter().map(|one| one.sha256.as_str()).collect();
    let name = match hashes.as_slice() {
        [one] => (*one).to_owned(),
        several => casemate_engine::sha256_hex(several.join("\n").as_bytes()),
    };
    let folder = data.join("agent").join(name);
    private.mode(0o755).create(&folder)?;
    // Whatever the user's own mask says, the user of a sandbox is to enter the one and run the others.
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755))?;
    for program in programs {
        put(&folder, program.name, &program.bytes)?;
    }
    Ok(folder)
}

fn put(folder: &Path, name: &str, bytes: &[u8]) -> anyhow::Result<()> {
    let kept = folder.join(name);
    if fs::read(&kept).is_ok_and(|there| there == bytes) {
        return Ok(());
    }
    let making = folder.join(format!("{name}.{}", std::process::id()));
    let mut file = fs::OpenOptions::new();
    let mut file = file
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o755)
        .open(&making)
        .with_context(|| format!("writing {}", making.display()))?;
    file.write_all(bytes)?;
    drop(file);
    fs::set_permissions(&making, fs::Permissions::from_mode(0o755))?;
    fs::rename(&making, &kept)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_deno_than_the_one_that_is_known_is_not_taken() {
        let folder = tempfile::tempdir().unwrap();
        let other = folder.path().join(DENO);
        fs::write(&other, "#!/bin/sh").unwrap();
        let why = known_deno(Some(&other)).err().unwrap().to_string();
        assert!(why.contains("is not the Deno that is known"), "{why}");
        let why = known_deno(Some(&folder.path().join("none"))).err().unwrap();
        assert!(why.to_string().contains("reading"), "{why}");
    }

    #[test]
    fn what_a_sandbox_sees_is_named_by_its_contents() {
        let data = tempfile::tempdir().unwrap();
        let agent = Copied::of(AGENT, b"agent".to_vec());
        let alone = keep(std::slice::from_ref(&agent), data.path()).unwrap();
        let both = keep(&[agent, Copied::of(DENO, b"deno".to_vec())], data.path()).unwrap();
        assert_ne!(alone, both);
        assert!(!alone.join(DENO).exists());
        assert_eq!(fs::read(both.join(DENO)).unwrap(), b"deno");
    }
}
