//! Which versions of the runtimes have known holes, from data.

use std::sync::OnceLock;

use serde::Deserialize;

/// A program that has a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Program {
    Runc,
    Crun,
    Runsc,
    Docker,
}

impl Program {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Runc => "runc",
            Self::Crun => "crun",
            Self::Runsc => "runsc",
            Self::Docker => "Docker",
        }
    }

    /// Debian's package of it.
    pub(crate) const fn package(self) -> &'static str {
        match self {
            Self::Docker => "docker.io",
            other => other.name(),
        }
    }
}

/// One file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Advisories {
    /// The runtime.
    program: String,
    /// When the list was last gone through.
    pub(crate) reviewed: String,
    /// The first version that can be used at all.
    oldest: String,
    /// What those before it lack.
    lacks: String,
    #[serde(rename = "advisory")]
    list: Vec<Advisory>,
}

/// One hole.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Advisory {
    id: String,
    fixed: Vec<String>,
    #[serde(default)]
    debian: Vec<String>,
    consequence: String,
    /// Why it is not reached by a bundle of ours.
    unreachable: Option<String>,
    /// Why it is not reached by a container of ours that Docker makes.
    unreachable_in_docker: Option<String>,
}

/// What is installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Version {
    /// As the program says it, such as `1.1.5`.
    pub(crate) upstream: String,
    /// The revision of the Debian package that the program belongs to.
    pub(crate) debian: Option<String>,
}

/// What is known about a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Why it is refused.
    pub(crate) refused: Option<String>,
    /// Holes that it has and that cannot be reached here, each with why.
    pub(crate) notes: Vec<String>,
}

impl Version {
    /// With the program's name, for people.
    pub(crate) fn named(&self, program: &str) -> String {
        let package = self.debian.as_ref();
        let package = package.map_or_else(String::new, |own| format!(" (Debian {own})"));
        format!("{program} {}{package}", self.upstream)
    }
}

impl Advisories {
    pub(crate) fn of(program: Program) -> Result<&'static Self, String> {
        // Asked for with every run that is placed.
        static LISTS: [OnceLock<Result<Advisories, String>>; 4] = [const { OnceLock::new() }; 4];
        let [docker, runc, crun, runsc] = &LISTS;
        let (list, text) = match program {
            Program::Docker => (
                docker,
                include_str!("../../../policies/advisories/docker.toml"),
            ),
            Program::Runc => (runc, include_str!("../../../policies/advisories/runc.toml")),
            Program::Crun => (crun, include_str!("../../../policies/advisories/crun.toml")),
            Program::Runsc => (
                runsc,
                include_str!("../../../policies/advisories/runsc.toml"),
            ),
        };
        let list = list.get_or_init(|| Self::parse(text)).as_ref();
        list.map_err(Clone::clone)
    }

    fn parse(text: &str) -> Result<Self, String> {
        toml::from_str(text).map_err(|error| format!("the list of advisories: {error}"))
    }

    /// For a bundle that we write.
    pub(crate) fn judge(&self, version: &Version) -> Verdict {
        self.judge_by(version, |advisory| advisory.unreachable.as_deref())
    }

    /// For a container that we have Docker make.
    pub(crate) fn judge_in_docker(&self, version: &Version) -> Verdict {
        self.judge_by(version, |advisory| {
            advisory.unreachable_in_docker.as_deref()
        })
    }

    fn judge_by(
        &self,
        version: &Version,
        unreachable: impl Fn(&Advisory) -> Option<&str>,
    ) -> Verdict {
        let program = &self.program;
        let mut refused = None;
        let mut notes = Vec::new();
        if upstream(&version.upstream) < upstream(&self.oldest) {
            refused = Some(format!(
                "{program} {} is older than {}, and lacks {}",
                version.upstream, self.oldest, self.lacks
            ));
        }
        for advisory in self
            .list
            .iter()
            .filter(|advisory| !advisory.is_fixed(version))
        {
            let Advisory {
                id, consequence, ..
            } = advisory;
            match unreachable(advisory) {
                Some(why) => notes.push(format!(
                    "{id} is not fixed in it ({consequence}); not reached here: {why}"
                )),
                None => {
                    refused.get_or_insert(format!(
                        "{program} {} has {id}: {consequence}",
                        version.upstream
                    ));
                }
            }
        }
        Verdict { refused, notes }
    }
}

impl Advisory {
    fn is_fixed(&self, version: &Version) -> bool {
        let have = upstream(&version.upstream);
        let line = |numbers: &[u64]| numbers.iter().take(2).copied().collect::<Vec<_>>();
        let fixes: Vec<(Vec<u64>, bool)> = self.fixed.iter().map(|text| upstream(text)).collect();
        let highest = fixes.iter().max();
        let by_upstream = highest.is_some_and(|fix| have >= *fix)
            || fixes
                .iter()
                .any(|fix| line(&fix.0) == line(&have.0) && have >= *fix);
        by_upstream
            || version
                .debian
                .as_deref()
                .is_some_and(|own| self.is_patched(own))
    }

    /// A revision of the same Debian line, and not before the one with the patch.
    fn is_patched(&self, own: &str) -> bool {
        self.debian.iter().any(|patched| {
            let (line, revision) = split(patched);
            let (own_line, own_revision) = split(own);
            line == own_line && numbers(own_revision) >= numbers(revision)
        })
    }
}

/// `1.1.5+ds1-1+deb12u1` is revision `deb12u1` of `1.1.5+ds1-1`, and so is `1.1.5+ds1-1+deb12u1+b6`, which
/// was only built again.
fn split(version: &str) -> (&str, &str) {
    let rebuilt = |end: &str| {
        end.strip_prefix('b')
            .is_some_and(|n| n.parse::<u32>().is_ok())
    };
    let version = match version.rsplit_once('+') {
        Some((front, end)) if rebuilt(end) => front,
        _ => version,
    };
    version.rsplit_once('+').unwrap_or((version, ""))
}

/// The numbers in a version, in order.
fn numbers(text: &str) -> Vec<u64> {
    let digits = |c: char| !c.is_ascii_digit();
    text.split(digits)
        .filter(|part| !part.is_empty())
        .filter_map(|part| part.parse().ok())
        .collect()
}

/// An upstream version's numbers, and whether it is the release itself: a candidate comes before it.
fn upstream(text: &str) -> (Vec<u64>, bool) {
    let name = text.split(['-', '~']).next().unwrap_or_default();
    let core = name.split('+').next().unwrap_or_default();
    (numbers(core), name.len() == text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(upstream: &str, debian: Option<&str>) -> Version {
        Version {
            upstream: upstream.into(),
            debian: debian.map(str::to_owned),
        }
    }

    fn runc(upstream: &str, debian: Option<&str>) -> Verdict {
        let list = Advisories::of(Program::Runc).unwrap();
        list.judge(&version(upstream, debian))
    }

    #[test]
    fn every_list_is_well_formed_and_of_its_program() {
        for program in [
            Program::Runc,
            Program::Crun,
            Program::Runsc,
            Program::Docker,
        ] {
            let list = Advisories::of(program).unwrap();
            assert_eq!(list.program, program.name());
            assert!(
                list.list
                    .iter()
                    .all(|advisory| advisory.id.starts_with("CVE-"))
            );
        }
        assert!(Advisories::parse("program = 'x'\nsurprise = 1").is_err());
    }

    #[test]
    fn a_hole_refuses_with_its_number_and_a_patched_package_does_not() {
        let plain = runc("1.1.5", None);
        assert!(plain.refused.unwrap().contains("CVE-2024-21626"));
        let before = runc("1.1.5", Some("1.1.5+ds1-1"));
        assert!(before.refused.unwrap().contains("CVE-2024-21626"));
        for patched in ["1.1.5+ds1-1+deb12u1", "1.1.5+ds1-1+deb12u2"] {
            assert_eq!(runc("1.1.5", Some(patched)).refused, None);
        }
        let other = runc("1.1.5", Some("1.1.5+ds2-9+deb12u3"));
        assert!(other.refused.is_some(), "another line tells nothing");
    }

    #[test]
    fn what_is_not_reached_is_named() {
        let notes = runc("1.1.12", None).notes.join("\n");
        for id in [
            "CVE-2024-45310",
            "CVE-2025-31133",
            "CVE-2025-52565",
            "CVE-2025-52881",
            "CVE-2026-41579",
        ] {
            assert!(notes.contains(id), "{id}: {notes}");
        }
        assert_eq!(
            runc("1.5.0", None),
            Verdict {
                refused: None,
                notes: Vec::new()
            }
        );
    }

    #[test]
    fn each_line_has_its_own_fix() {
        for (upstream, fixed) in [
            ("1.2.7", false),
            ("1.2.8", true),
            ("1.3.2", false),
            ("1.3.3", true),
            ("1.1.15", false),
            ("1.4.0-rc.2", false),
            ("1.4.0", true),
            ("2.0.0", true),
        ] {
            let notes = runc(upstream, None).notes.join("\n");
            assert_eq!(!notes.contains("CVE-2025-31133"), fixed, "{upstream}");
        }
    }

    #[test]
    fn gvisor_of_2022_is_refused_with_the_way_out() {
        let list = Advisories::of(Program::Runsc).unwrap();
        let old = list.judge(&version("20221219.0", None));
        assert!(old.refused.unwrap().contains("bookworm-backports"));
        let new = list.judge(&version("20240729.0", None));
        assert_eq!(new.refused, None);
        assert!(new.notes[0].contains("CVE-2025-2713"));
    }
}
