//! What the daemon offers, and why not more.

use std::path::Path;

use bollard::models::{SystemInfo, SystemVersion};
use casemate_backend::contract::{Offer, Usable};
use casemate_driver::lowered::{MEMORY_CEILING, MEMORY_FLOOR};
use casemate_driver::packages::{Store, guest, host_system};
use casemate_driver::walls::offered_here;
use casemate_model::job::Language;
use casemate_model::unit::ByteSize;

use super::Variant;
use super::daemon::{Daemon, socket};
use super::trouble::Trouble;
use crate::advisories::{Advisories, Program, Version};
use crate::probe::{DPKG, Lack, ask, debian_revision, parse_version, upstream_of};

/// A daemon that may be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) daemon: Daemon,
    /// Docker and the runtime, by version.
    pub(super) versions: String,
    /// How it has its control groups and its storage.
    pub(super) settings: String,
    /// Holes that are not reached here.
    pub(super) notes: Vec<String>,
    /// When the lists were gone through.
    reviewed: String,
}

fn lack(trouble: &Trouble) -> Lack {
    (trouble.to_string(), trouble.way_out())
}

/// The daemon at `host`, which is what `DOCKER_HOST` says, if it can be used for this variant.
pub(super) fn find(variant: Variant, host: Option<&str>) -> Result<Found, Lack> {
    if !rustix::process::geteuid().is_root() {
        let why = "a daemon's containers can be measured by root only".to_owned();
        let fix =
            "run as root, or take the jail, which does without: --backend jail; who may use the daemon's \
             socket is root in any case"
                .to_owned();
        return Err((why, fix));
    }
    let asked = || -> Result<_, Trouble> {
        let daemon = Daemon::at(socket(host)?)?;
        let (version, info) = (daemon.version()?, daemon.info()?);
        Ok((daemon, version, info))
    };
    let (daemon, version, info) = asked().map_err(|trouble| lack(&trouble))?;
    fits(&info)?;
    let engine = engine(&version);
    let mut parts = vec![(Program::Docker, engine)];
    parts.push(match variant {
        Variant::Native => (Program::Runc, component(&version, "runc")?),
        Variant::Gvisor => (Program::Runsc, runsc(&info)?),
    });
    judge(daemon, &info, &parts)
}

/// Whether it is a daemon of the kind that can be looked at.
fn fits(info: &SystemInfo) -> Result<(), Lack> {
    let options = info.security_options.iter().flatten();
    for option in options {
        for (word, why) in [
            ("name=rootless", "the daemon is a rootless one"),
            (
                "name=userns",
                "the daemon maps users to others (userns-remap)",
            ),
        ] {
            if option.split(',').any(|part| part == word) {
                return Err((
                    format!("{why}, and what it makes cannot be measured yet"),
                    "take the system's own daemon without that setting, or --backend crun"
                        .to_owned(),
                ));
            }
        }
    }
    let here = rustix::system::uname();
    let here = here.release().to_string_lossy();
    let there = info.kernel_version.as_deref().unwrap_or_default();
    if there != here {
        return Err(lack(&Trouble::Elsewhere {
            host: format!("a machine with the kernel {there:?} (this one has {here:?})"),
        }));
    }
    Ok(())
}

/// Docker itself. Its own words name the upstream version; the package, where it is the distribution's and
/// of that version, says what is patched.
fn engine(version: &SystemVersion) -> Version {
    let upstream = version.version.clone().unwrap_or_default();
    let debian = debian_revision(Path::new(DPKG), "docker.io", Path::new("/usr/sbin/dockerd"));
    let plain = |text: &str| text.split(['+', '-', '~']).next().map(str::to_owned);
    let debian = debian.filter(|own| upstream_of(own) == plain(&upstream));
    Version { upstream, debian }
}

/// A part of Docker's by its own word, which it has from the program. A distribution's build names its package
/// where upstream's names a commit.
fn component(version: &SystemVersion, name: &str) -> Result<Version, Lack> {
    let mut all = version.components.iter().flatten();
    let found = all.find(|part| part.name == name).ok_or_else(|| {
        (
            format!("the Docker daemon does not say which {name} it has"),
            format!("install {name} (Debian: apt-get install {name})"),
        )
    })?;
    let upstream = found.version.clone();
    let commit = found.details.as_ref().and_then(|all| all.get("GitCommit"));
    let debian = commit.filter(|commit| commit.starts_with(&format!("{upstream}-")));
    Ok(Version {
        debian: debian.cloned(),
        upstream,
    })
}

/// runsc, by what the program that the daemon would start says.
fn runsc(info: &SystemInfo) -> Result<Version, Lack> {
    let runtimes = info.runtimes.iter().flatten();
    let mut named = runtimes.filter(|(name, _)| *name == Variant::Gvisor.runtime());
    let (_, runtime) = named.next().ok_or_else(|| lack(&Trouble::NoRuntime))?;
    let path = runtime.path.as_deref().unwrap_or_default();
    let failed = |why: String| {
        let fix = "name runsc by its whole path in /etc/docker/daemon.json".to_owned();
        (format!("the daemon's runsc is {path:?}: {why}"), fix)
    };
    let program = Path::new(path);
    if !program.is_absolute() {
        return Err(failed("not a path".to_owned()));
    }
    if let Some(debian) = debian_revision(Path::new(DPKG), "runsc", program)
        && let Some(upstream) = upstream_of(&debian)
    {
        return Ok(Version {
            upstream,
            debian: Some(debian),
        });
    }
    let said = ask(program).map_err(failed)?;
    let upstream =
        parse_version(&said).ok_or_else(|| failed("it does not say its version".to_owned()))?;
    Ok(Version {
        upstream,
        debian: None,
    })
}

fn judge(daemon: Daemon, info: &SystemInfo, parts: &[(Program, Version)]) -> Result<Found, Lack> {
    let mut versions = Vec::new();
    let mut notes = Vec::new();
    let mut reviewed = String::new();
    for (program, version) in parts {
        let list = Advisories::of(*program).map_err(|why| (why, "report this".to_owned()))?;
        let verdict = list.judge_in_docker(version);
        if let Some(why) = verdict.refused {
            return Err((why, newer(*program)));
        }
        notes.extend(verdict.notes);
        versions.push(version.named(program.name()));
        reviewed = list.reviewed.clone();
    }
    let settings = format!(
        "storage {}, control groups {} of version {}",
        info.driver.as_deref().unwrap_or("unknown"),
        info.cgroup_driver
            .as_ref()
            .map_or_else(|| "unknown".to_owned(), ToString::to_string),
        info.cgroup_version
            .as_ref()
            .map_or_else(|| "1".to_owned(), ToString::to_string),
    );
    Ok(Found {
        daemon,
        versions: versions.join(" with "),
        settings,
        notes,
        reviewed,
    })
}

fn newer(program: Program) -> String {
    format!(
        "install a newer {0}, or your distribution's patched one (Debian: apt-get install {1})",
        program.name(),
        program.package()
    )
}

/// The offer. Whether the walls really stand is measured at each container, and is in each run's receipt.
pub(super) fn offer(variant: Variant, found: &Result<Found, Lack>, store: &Store) -> Offer {
    let usable = match found {
        Err((why, fix)) => Usable::No {
            why: why.clone(),
            fix: fix.clone(),
        },
        Ok(_) => host_system(Some(store)),
    };
    let (why, fix) = super::no_images();
    let (guarantees, lost) = offered_here(variant.family().walls());
    Offer {
        backend: variant.name().to_owned(),
        usable,
        images: Usable::No { why, fix },
        languages: vec![Language::Python],
        guarantees,
        lost,
        memory_floor: ByteSize(MEMORY_FLOOR),
        memory_ceiling: ByteSize(MEMORY_CEILING),
        cost: match variant {
            Variant::Native => 80,
            Variant::Gvisor => 90,
        },
        notes: notes(variant, found),
    }
}

fn notes(variant: Variant, found: &Result<Found, Lack>) -> Vec<String> {
    let mut notes = vec![guest()];
    if let Ok(found) = found {
        notes.insert(0, found.versions.clone());
        notes.push(found.settings.clone());
    }
    notes.push(match variant {
        Variant::Gvisor => {
            "a kernel of its own between the program and the host's, with the settings that the daemon has for runsc"
        }
        Variant::Native => {
            "shares the host's kernel and shows its /usr, read-only; no Landlock, and no user namespace of its own"
        }
    }
    .to_owned());
    notes.push(
        "the daemon, which is root, makes the container and would keep it if this program and its keeper were both killed: \
         its process 1 then ends by itself, and the next start takes it away"
            .to_owned(),
    );
    if let Ok(found) = found {
        notes.extend(found.notes.iter().cloned());
        notes.push(format!("advisories as of {}", found.reviewed));
    }
    notes
}

/// The files of the daemon and its runtime, wherever they are looked for. The daemon itself is not asked:
/// this is wanted before every run.
pub(crate) fn rests_on(variant: Variant) -> impl Iterator<Item = (String, String)> {
    let runtime = match variant {
        Variant::Native => "runc",
        Variant::Gvisor => "runsc",
    };
    let folders = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin"];
    let programs = ["dockerd", "containerd", runtime];
    let places = programs
        .into_iter()
        .flat_map(move |program| folders.map(|folder| Path::new(folder).join(program)));
    places.filter_map(|path| {
        let file = casemate_linux::file::identity(&path).ok()?;
        Some((path.display().to_string(), file))
    })
}

#[cfg(test)]
mod tests {
    use bollard::models::{Runtime, SystemVersionComponents};

    use super::*;

    fn info() -> SystemInfo {
        let here = rustix::system::uname();
        SystemInfo {
            kernel_version: Some(here.release().to_string_lossy().into_owned()),
            security_options: Some(vec!["name=seccomp,profile=default".to_owned()]),
            ..SystemInfo::default()
        }
    }

    #[test]
    fn a_daemon_that_cannot_be_measured_is_refused() {
        assert_eq!(fits(&info()), Ok(()));
        for option in ["name=rootless", "name=userns"] {
            let mut info = info();
            info.security_options = Some(vec![option.to_owned()]);
            assert!(fits(&info).is_err(), "{option}");
        }
        let mut info = info();
        info.kernel_version = Some("6.1.0-linuxkit".to_owned());
        assert!(fits(&info).unwrap_err().0.contains("linuxkit"));
    }

    #[test]
    fn a_part_names_its_package_where_it_is_the_distributions() {
        let part = |name: &str, version: &str, commit: &str| SystemVersionComponents {
            name: name.to_owned(),
            version: version.to_owned(),
            details: Some([("GitCommit".to_owned(), commit.to_owned())].into()),
        };
        let version = SystemVersion {
            components: Some(vec![
                part("Engine", "20.10.24+dfsg1", "5d6db84"),
                part("runc", "1.1.5+ds1", "1.1.5+ds1-1+deb12u1"),
            ]),
            ..SystemVersion::default()
        };
        let runc = component(&version, "runc").unwrap();
        assert_eq!(runc.upstream, "1.1.5+ds1");
        assert_eq!(runc.debian.as_deref(), Some("1.1.5+ds1-1+deb12u1"));
        assert!(component(&version, "containerd").is_err());
        let upstream = SystemVersion {
            components: Some(vec![part("runc", "1.2.5", "v1.2.5-0-g59923ef")]),
            ..SystemVersion::default()
        };
        assert_eq!(component(&upstream, "runc").unwrap().debian, None);
    }

    #[test]
    fn without_the_runtime_there_is_a_way_out() {
        let (why, fix) = runsc(&info()).unwrap_err();
        assert!(
            why.contains("runsc") && fix.contains("daemon.json"),
            "{why} {fix}"
        );
        let mut relative = info();
        let runtime = Runtime {
            path: Some("runsc".to_owned()),
            ..Runtime::default()
        };
        relative.runtimes = Some([("runsc".to_owned(), runtime)].into());
        assert!(runsc(&relative).unwrap_err().0.contains("not a path"));
    }
}
