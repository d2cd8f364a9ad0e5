//! What `casemate serve` and `casemate mcp` offer of sandboxes that live on: templates, each of a backend and a system.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, anyhow, bail, ensure};
use casemate_backend::session::Sessions;
use casemate_backend::setup::cache_root;
use casemate_container::{ContainerSessions, Kind, Unfit};
use casemate_images::Systems;
use casemate_jail::JailSessions;
use casemate_model::job::ImageChoice;
use casemate_server::Template;
use casemate_wasm::WasmSessions;
use casemate_wasm::setup::Store;

use crate::cli::TemplateArgs;
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
/// The template whose sandboxes have no interpreter ready.
const PLAIN: &str = "base";
/// What SDKs name when nothing is named to them.
const TEMPLATES: [&str; 2] = [PLAIN, "code-interpreter-v1"];

/// A backend whose sandboxes can live on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Holder {
    Jail,
    Runc,
    Crun,
    Wasm,
}

impl Holder {
    const ALL: [Self; 4] = [Self::Jail, Self::Runc, Self::Crun, Self::Wasm];
    /// One of which it is known why there are none.
    const NEVER: &str = "gvisor";

    const fn name(self) -> &'static str {
        match self {
            Self::Jail => casemate_jail::NAME,
            Self::Runc => Kind::Runc.name(),
            Self::Crun => Kind::Crun.name(),
            Self::Wasm => casemate_wasm::NAME,
        }
    }
}

/// What the backends are opened with.
struct Around<'a> {
    systems: &'a Systems,
    wasm: &'a Store,
    /// The folder with the agent, or why there is none.
    agent: Result<PathBuf, String>,
}

impl Around<'_> {
    fn open(&self, holder: Holder) -> Result<Arc<dyn Sessions>, String> {
        let program = "/proc/self/exe";
        let systems = || self.systems.clone();
        let agent = || self.agent.as_deref().map_err(Clone::clone);
        let container = |kind| {
            let made = ContainerSessions::new(kind, systems(), program, agent()?);
            made.map_err(|unfit| unfit.to_string())
        };
        Ok(match holder {
            Holder::Jail => Arc::new(JailSessions::new(systems(), program, agent()?)?),
            Holder::Runc => Arc::new(container(Kind::Runc)?),
            Holder::Crun => Arc::new(container(Kind::Crun)?),
            Holder::Wasm => Arc::new(WasmSessions::new(self.wasm.clone(), program)?),
        })
    }
}

/// A template as it is asked for: `NAME=BACKEND[:IMAGE]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Asked {
    name: String,
    holder: Holder,
    image: ImageChoice,
}

impl Asked {
    /// Reads one.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (name, of) = text
            .split_once('=')
            .ok_or("a template is NAME=BACKEND or NAME=BACKEND:IMAGE")?;
        let (backend, image) = of.split_once(':').unwrap_or((of, ImageChoice::HOST));
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if name.is_empty() || name.len() > 64 || !name.bytes().all(plain) {
            return Err(format!(
                "{name:?} is no name of a template: letters, digits, `-`, `_` and `.`, at most 64"
            ));
        }
        if backend == Holder::NEVER {
            return Err(Unfit::Gvisor.to_string());
        }
        let holder = Holder::ALL.into_iter().find(|one| one.name() == backend);
        let holder = holder.ok_or_else(|| {
            let all = Holder::ALL.map(Holder::name).join(", ");
            format!("sandboxes that live on are of: {all}; {backend:?} is none of them")
        })?;
        let image = ImageChoice::named(image);
        if holder == Holder::Wasm && !image.is_host() {
            return Err("in WebAssembly a guest is its own, and takes no image".to_owned());
        }
        Ok(Self {
            name: name.to_owned(),
            holder,
            image,
        })
    }

    /// What there is when nothing is asked for.
    fn by_default(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            holder: Holder::Jail,
            image: ImageChoice::default(),
        }
    }
}

/// Those that there always are, each as it is asked for where it is, and then the others.
fn with_defaults(asked: &[Asked]) -> anyhow::Result<Vec<Asked>> {
    let mut all: Vec<Asked> = TEMPLATES.into_iter().map(Asked::by_default).collect();
    for (at, one) in asked.iter().enumerate() {
        let twice = asked.iter().take(at).any(|other| other.name == one.name);
        ensure!(!twice, "the template {} is named twice", one.name);
        match all.iter_mut().find(|known| known.name == one.name) {
            Some(known) => *known = one.clone(),
            None => all.push(one.clone()),
        }
    }
    Ok(all)
}

/// The templates that the command line asks for; none where it wants no sandboxes that live on.
///
/// # Errors
/// Those of [`templates`], and a template that is asked for beside `off`.
pub(crate) fn wanted(
    policy: &str,
    of: &TemplateArgs,
    wasm: &Store,
    data: &Path,
) -> anyhow::Result<Vec<Template>> {
    if policy == "off" {
        ensure!(
            of.template.is_empty(),
            "--template is for sandboxes that live on, and --sessions off offers none"
        );
        return Ok(Vec::new());
    }
    templates(policy, &of.template, wasm, data, of.deno.as_deref())
}

/// The templates under a policy. One that nobody asked for and that the machine cannot have is left out, which is said.
///
/// # Errors
/// A policy that there is not, a data folder that cannot be written, a Deno that was named and is not the one known, or a
/// template that was asked for and cannot be.
fn templates(
    policy: &str,
    asked: &[Asked],
    wasm: &Store,
    data: &Path,
    deno: Option<&Path>,
) -> anyhow::Result<Vec<Template>> {
    let policy = named_policy(policy)?;
    let wanted = with_defaults(asked)?;
    let systems = systems()?;
    for one in asked.iter().filter(|one| !one.image.is_host()) {
        let opened = systems.of(&one.image);
        opened.map_err(|(why, fix)| anyhow!("the template {}: {why}; {fix}", one.name))?;
    }
    let native = wanted.iter().any(|one| one.holder != Holder::Wasm);
    let agent = if native {
        agent(data, deno)?
    } else {
        Err("nothing needs it".to_owned())
    };
    let around = Around {
        systems: &systems,
        wasm,
        agent,
    };
    let mut opened = BTreeMap::new();
    let mut templates = Vec::new();
    for one in wanted {
        let sessions = opened.entry(one.holder);
        let sessions = sessions.or_insert_with(|| around.open(one.holder));
        match sessions {
            Ok(sessions) => templates.push(Template {
                warm: one.name != PLAIN,
                sessions: Arc::clone(sessions),
                name: one.name,
                image: one.image,
                policy: policy.clone(),
            }),
            Err(why) if asked.contains(&one) => bail!("the template {}: {why}", one.name),
            Err(why) => eprintln!("casemate: no template {}: {why}", one.name),
        }
    }
    Ok(templates)
}

/// The folder with what native sandboxes are shown: the agent, and what it starts. The inner error says why there is none.
fn agent(data: &Path, deno: Option<&Path>) -> anyhow::Result<Result<PathBuf, String>> {
    let Some(agent) = beside_this_program() else {
        let why = format!("{AGENT} is not beside this program; `./dev agent` builds it");
        return Ok(Err(why));
    };
    let mut programs = vec![Copied::of(AGENT, read(&agent)?)];
    match known_deno(deno) {
        Ok(known) => programs.push(known),
        Err(why) if deno.is_some() => return Err(why),
        Err(why) => eprintln!("casemate: no contexts for JavaScript and TypeScript: {why:#}"),
    }
    keep(&programs, data).map(Ok)
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
    fn a_template_is_a_name_a_backend_and_perhaps_an_image() {
        let asked = Asked::parse("data=jail:python-data").unwrap();
        assert_eq!(asked.image, ImageChoice::named("python-data"));
        assert_eq!(Asked::parse("base=jail"), Ok(Asked::by_default(PLAIN)));
        for (text, why) in [
            ("data", "NAME=BACKEND"),
            ("=jail", "no name of a template"),
            ("a b=jail", "no name of a template"),
            ("../x=jail", "no name of a template"),
            ("data=gvisor", "pidfd"),
            ("data=docker", "none of them"),
            ("data=wasm:python-data", "takes no image"),
            ("data=", "none of them"),
        ] {
            let error = Asked::parse(text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn a_template_that_is_asked_for_stands_in_the_place_of_the_one_there_always_is() {
        let asked = ["code-interpreter-v1=jail:own", "data=jail"];
        let asked = asked.map(|text| Asked::parse(text).unwrap());
        let all = with_defaults(&asked).unwrap();
        let all: Vec<(&str, &str)> = all
            .iter()
            .map(|one| (one.name.as_str(), one.image.name.as_str()))
            .collect();
        let expected = [
            ("base", "host"),
            ("code-interpreter-v1", "own"),
            ("data", "host"),
        ];
        assert_eq!(all, expected);
        let twice = [asked[1].clone(), asked[1].clone()];
        assert!(
            with_defaults(&twice)
                .unwrap_err()
                .to_string()
                .contains("twice")
        );
    }

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
