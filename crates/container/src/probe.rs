//! What this machine offers for a container runtime, and why not more.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use casemate_backend::contract::{Offer, Usable};
use casemate_driver::lowered::{MEMORY_CEILING, MEMORY_FLOOR};
use casemate_driver::packages::{guest, host_system};
use casemate_driver::walls::offered_here;
use casemate_images::Systems;
use casemate_linux::{Exit, Spawn};
use casemate_model::job::Language;
use casemate_model::unit::ByteSize;

use crate::advisories::{Advisories, Version};
use crate::kind::Kind;

/// Where programs of the system are.
const FOLDERS: [&str; 4] = ["/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin"];
/// How long a runtime may take to say its version.
const VERSION_WITHIN: Duration = Duration::from_secs(20);
/// Where Debian keeps what it has installed.
pub(crate) const DPKG: &str = "/var/lib/dpkg";

/// A runtime that was found and may be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) program: PathBuf,
    pub(crate) version: Version,
    /// Holes that are not reached here.
    pub(crate) notes: Vec<String>,
}

/// Why there is none, and what to do.
pub(crate) type Lack = (String, String);

/// The runtime, if it can be used here.
pub(crate) fn find(kind: Kind) -> Result<Found, Lack> {
    if !rustix::process::geteuid().is_root() {
        let why = format!("{} is driven as root only", kind.program());
        let fix = "run as root, or take the jail, which does without: --backend jail".to_owned();
        return Err((why, fix));
    }
    let program = locate(kind)?;
    let version = version(kind, &program)?;
    let list = Advisories::of(kind.advised()).map_err(|why| (why, "report this".to_owned()))?;
    let verdict = list.judge(&version);
    match verdict.refused {
        Some(why) => Err((why, newer(kind))),
        None => Ok(Found {
            program,
            version,
            notes: verdict.notes,
        }),
    }
}

fn newer(kind: Kind) -> String {
    match kind {
        Kind::Gvisor(_) => "install a newer runsc (Debian 12: from bookworm-backports)".to_owned(),
        _ => format!(
            "install a newer {0}, or your distribution's patched one (Debian: apt-get install {0})",
            kind.program()
        ),
    }
}

/// The program, which root alone may have put there.
fn locate(kind: Kind) -> Result<PathBuf, Lack> {
    let name = kind.program();
    let path = FOLDERS
        .iter()
        .map(|folder| Path::new(folder).join(name))
        .find(|path| path.exists());
    let path = path.ok_or_else(|| {
        let package = match kind {
            Kind::Gvisor(_) => "runsc of bookworm-backports or newer".to_owned(),
            _ => format!("apt-get install {name}"),
        };
        (
            format!("there is no {name}"),
            format!("install it (Debian: {package})"),
        )
    })?;
    let real = std::fs::canonicalize(&path)
        .map_err(|error| (format!("{}: {error}", path.display()), newer(kind)))?;
    if owned_by_root(&real) {
        return Ok(real);
    }
    let why = format!(
        "{} could have been put there by others than root",
        real.display()
    );
    Err((why, newer(kind)))
}

fn owned_by_root(real: &Path) -> bool {
    real.ancestors().all(|path| {
        std::fs::symlink_metadata(path)
            .is_ok_and(|meta| meta.uid() == 0 && meta.mode() & 0o022 == 0)
    })
}

/// A package's revision says the version too, and reading it is far quicker than starting the program.
fn version(kind: Kind, program: &Path) -> Result<Version, Lack> {
    let debian = debian_revision(Path::new(DPKG), kind.program(), program);
    if let Some(upstream) = debian.as_deref().and_then(upstream_of) {
        return Ok(Version { upstream, debian });
    }
    let lack = |why: String| (format!("{}: {why}", program.display()), newer(kind));
    let said = ask(program).map_err(lack)?;
    let upstream = parse_version(&said).ok_or_else(|| {
        let first = said.lines().next().unwrap_or_default();
        lack(format!("it does not say its version: {first:?}"))
    })?;
    Ok(Version { upstream, debian })
}

/// `1.1.5+ds1-1+deb12u1` is of 1.1.5, `0.0~20240729.0-4~bpo12+2` of 20240729.0.
pub(crate) fn upstream_of(debian: &str) -> Option<String> {
    let version = debian
        .rsplit_once(':')
        .map_or(debian, |(_, version)| version);
    let version = version.strip_prefix("0.0~").unwrap_or(version);
    let version = version.split(['+', '-']).next()?;
    version
        .starts_with(|c: char| c.is_ascii_digit())
        .then(|| version.to_owned())
}

pub(crate) fn ask(program: &Path) -> Result<String, String> {
    let (mut said, to_us) = std::io::pipe().map_err(|error| error.to_string())?;
    let mut child = Spawn::new(program)
        .arg("--version")
        .fd(&to_us, 1)
        .spawn()
        .map_err(|error| error.to_string())?;
    drop(to_us);
    let finished = child
        .wait_timeout(VERSION_WITHIN)
        .map_err(|error| error.to_string())?;
    match finished.map(|finished| finished.exit) {
        Some(Exit::Code(0)) => {}
        Some(exit) => return Err(format!("it ended with {exit:?}")),
        None => return Err("it does not end".to_owned()),
    }
    // What fits a pipe; the program has ended, so that there is an end to it.
    let mut text = String::new();
    std::io::Read::read_to_string(&mut said, &mut text).map_err(|error| error.to_string())?;
    Ok(text)
}

/// `runc version 1.1.5+ds1`, `crun version 1.8.1`, `runsc version 0.0~20240729.0` or `release-20240729.0`.
pub(crate) fn parse_version(said: &str) -> Option<String> {
    let word = said.lines().next()?.split_whitespace().last()?;
    let word = word.strip_prefix("release-").unwrap_or(word);
    let word = word.strip_prefix("0.0~").unwrap_or(word);
    let word = word.split('+').next()?;
    word.starts_with(|c: char| c.is_ascii_digit())
        .then(|| word.to_owned())
}

/// The revision of the package of that name, where the program is a file of the package's.
pub(crate) fn debian_revision(dpkg: &Path, package: &str, program: &Path) -> Option<String> {
    let files = std::fs::read_to_string(dpkg.join(format!("info/{package}.list"))).ok()?;
    if !files.lines().any(|line| Path::new(line) == program) {
        return None;
    }
    let status = std::fs::read_to_string(dpkg.join("status")).ok()?;
    let entry = status.split("\n\n").find(|entry| {
        entry
            .lines()
            .any(|line| line.strip_prefix("Package: ") == Some(package))
    })?;
    let installed = entry
        .lines()
        .any(|line| line == "Status: install ok installed");
    let version = entry
        .lines()
        .find_map(|line| line.strip_prefix("Version: "));
    version.filter(|_| installed).map(str::to_owned)
}

/// The runtime's file: another version, or the same one installed anew, is another.
pub(crate) fn rests_on(found: &Found) -> (String, String) {
    let version = found.version.debian.as_ref();
    let version = version.unwrap_or(&found.version.upstream);
    let file = casemate_linux::file::identity(&found.program);
    let file = file.unwrap_or_else(|error| error.to_string());
    ("runtime".to_owned(), format!("{version}, {file}"))
}

/// The offer. Whether the walls really stand is found out by each container when it is made, and is in
/// each run's receipt.
pub(crate) fn offer(
    kind: Kind,
    found: &Result<Found, Lack>,
    systems: &Systems,
    restores: bool,
) -> Offer {
    let lacking = found.as_ref().err().map(|(why, fix)| Usable::No {
        why: why.clone(),
        fix: fix.clone(),
    });
    let usable = lacking.clone();
    let usable = usable.unwrap_or_else(|| host_system(systems.store()));
    let (guarantees, lost) = offered_here(kind.family().walls());
    Offer {
        backend: kind.name().to_owned(),
        usable,
        images: lacking.unwrap_or(Usable::Yes),
        languages: Language::ALL.to_vec(),
        guarantees,
        lost,
        memory_floor: ByteSize(MEMORY_FLOOR),
        memory_ceiling: ByteSize(MEMORY_CEILING),
        cost: match kind {
            Kind::Crun => 30,
            Kind::Runc => 32,
            Kind::Gvisor(_) => 60,
        },
        notes: notes(kind, found, restores),
    }
}

fn notes(kind: Kind, found: &Result<Found, Lack>, restores: bool) -> Vec<String> {
    let mut notes = vec![guest()];
    if let Ok(found) = found {
        notes.insert(0, runtime(kind, found));
    }
    notes.push(match kind {
        Kind::Gvisor(_) => "a kernel of its own between the program and the host's; what the program's processes have \
             inside (limits, filter) cannot be seen from outside"
            .to_owned(),
        _ => "shares the host's kernel and shows its /usr, read-only; no Landlock, which the jail has".to_owned(),
    });
    if restores {
        notes.push(
            "programs that need the libraries go on from a checkpoint that has loaded them, where there is one \
             (`casemate setup --backend gvisor`), and share its memory layout; cold under a policy that requires \
             layout_fresh"
                .to_owned(),
        );
    }
    if let Ok(found) = found {
        notes.extend(found.notes.iter().cloned());
        if let Ok(list) = Advisories::of(kind.advised()) {
            notes.push(format!("advisories as of {}", list.reviewed));
        }
    }
    notes
}

/// The runtime, by version.
pub(crate) fn runtime(kind: Kind, found: &Found) -> String {
    let platform = match kind {
        Kind::Gvisor(platform) => format!(", platform {}", platform.name()),
        _ => String::new(),
    };
    format!("{}{platform}", found.version.named(kind.program()))
}

#[cfg(test)]
mod tests {
    use casemate_driver::packages::Store;

    use super::*;
    use crate::Platform;

    #[test]
    fn versions_are_read_as_they_are_said() {
        for (said, version) in [
            ("runc version 1.1.5+ds1\ncommit: x", "1.1.5"),
            ("runc version 1.4.0-rc.2", "1.4.0-rc.2"),
            ("crun version 1.8.1\ncommit: x", "1.8.1"),
            ("runsc version 0.0~20240729.0\nspec: x", "20240729.0"),
            ("runsc version release-20250319.0", "20250319.0"),
        ] {
            assert_eq!(parse_version(said).as_deref(), Some(version));
        }
        assert_eq!(parse_version("what?"), None);
        for (debian, version) in [
            ("1.1.5+ds1-1+deb12u1", "1.1.5"),
            ("1.8.1-1+deb12u1", "1.8.1"),
            ("0.0~20240729.0-4~bpo12+2", "20240729.0"),
            ("1:1.4.0~rc2+ds1-1", "1.4.0~rc2"),
        ] {
            assert_eq!(upstream_of(debian).as_deref(), Some(version));
        }
    }

    #[test]
    fn a_package_counts_only_for_its_own_file() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("info")).unwrap();
        std::fs::write(dir.path().join("info/runc.list"), "/.\n/usr/sbin/runc\n").unwrap();
        let status = "Package: a\nStatus: install ok installed\nVersion: 9\n\nPackage: runc\n\
                      Status: install ok installed\nVersion: 1.1.5+ds1-1+deb12u1\n";
        std::fs::write(dir.path().join("status"), status).unwrap();
        let revision = |path: &str| debian_revision(dir.path(), "runc", Path::new(path));
        assert_eq!(
            revision("/usr/sbin/runc").as_deref(),
            Some("1.1.5+ds1-1+deb12u1")
        );
        assert_eq!(revision("/usr/local/sbin/runc"), None);
        std::fs::write(
            dir.path().join("status"),
            status.replace("install ok installed", "deinstall ok config-files"),
        )
        .unwrap();
        assert_eq!(revision("/usr/sbin/runc"), None);
    }

    #[test]
    fn a_runtime_that_cannot_be_used_is_said_so_with_a_way_out() {
        let store = Store::at(tempfile::tempdir().unwrap().path().to_owned()).into();
        let lack: Result<Found, Lack> = Err(("runc 1.0 has CVE-1".into(), "install".into()));
        let offer = offer(Kind::Gvisor(Platform::Systrap), &lack, &store, true);
        assert!(matches!(offer.usable, Usable::No { why, .. } if why.contains("CVE-1")));
        assert_eq!(offer.backend, "gvisor");
    }
}
