//! The result of layers 1 and 2: a verdict, what it rests on, and what the program needs.

use serde::ser::SerializeStruct as _;
use serde::{Deserialize, Serialize, Serializer};

use crate::finding::{Action, Finding, Severity};
use crate::guarantee::Guarantees;
use crate::manifest::Manifest;

/// What screening decides. Ordered: the strictest of several wins.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Nothing asks for more than the policy's own walls.
    Pass,
    /// It may run behind these walls too.
    Confine(Guarantees),
    /// It does not run.
    Refuse,
}

impl Verdict {
    /// `pass`, `confine` or `refuse`.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Confine(_) => "confine",
            Self::Refuse => "refuse",
        }
    }

    /// The stricter of two; two confinements ask for the walls of both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Confine(a), Self::Confine(b)) => Self::Confine(a.union(&b)),
            (a, b) => a.max(b),
        }
    }

    /// The walls asked for beyond the policy's.
    pub fn guarantees(&self) -> Guarantees {
        match self {
            Self::Confine(guarantees) => guarantees.clone(),
            Self::Pass | Self::Refuse => Guarantees::none(),
        }
    }
}

/// What layers 1 and 2 say about one program.
///
/// In JSON the verdict is its word, and the walls it asks for are the field `guarantees`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Screening {
    /// The verdict.
    pub verdict: Verdict,
    /// What was seen, the strictest first.
    pub findings: Vec<Finding>,
    /// Findings over the bound of the list, which are not in it. The strictest were kept.
    pub findings_omitted: u64,
    /// What the program needs.
    pub manifest: Manifest,
    /// Comments that ask a scanner to look away (`# nosec`, `# noqa`). They are counted, never obeyed.
    pub suppressions_ignored: u64,
    /// Whether screening was switched off, so that nothing above was looked at.
    pub skipped: bool,
    /// How long screening took, in microseconds.
    pub took_us: u64,
}

impl Screening {
    /// The screening of a program that nobody looked at, because the policy says so.
    pub fn skipped() -> Self {
        Self {
            verdict: Verdict::Pass,
            findings: Vec::new(),
            findings_omitted: 0,
            manifest: Manifest::default(),
            suppressions_ignored: 0,
            skipped: true,
            took_us: 0,
        }
    }

    /// The findings that refuse.
    pub fn refusals(&self) -> impl Iterator<Item = &Finding> {
        self.findings
            .iter()
            .filter(|finding| finding.action == Action::Refuse)
    }

    /// The worst severity among the findings.
    pub fn worst(&self) -> Option<Severity> {
        self.findings.iter().map(|finding| finding.severity).max()
    }
}

impl Serialize for Screening {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut out = serializer.serialize_struct("Screening", 8)?;
        out.serialize_field("verdict", self.verdict.word())?;
        out.serialize_field("guarantees", &self.verdict.guarantees())?;
        out.serialize_field("skipped", &self.skipped)?;
        out.serialize_field("findings", &self.findings)?;
        out.serialize_field("findings_omitted", &self.findings_omitted)?;
        out.serialize_field("manifest", &self.manifest)?;
        out.serialize_field("suppressions_ignored", &self.suppressions_ignored)?;
        out.serialize_field("took_us", &self.took_us)?;
        out.end()
    }
}

impl<'de> Deserialize<'de> for Screening {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "snake_case")]
        enum Word {
            Pass,
            Confine,
            Refuse,
        }
        #[derive(Deserialize)]
        struct Form {
            verdict: Word,
            guarantees: Guarantees,
            skipped: bool,
            findings: Vec<Finding>,
            findings_omitted: u64,
            manifest: Manifest,
            suppressions_ignored: u64,
            took_us: u64,
        }
        let form = Form::deserialize(deserializer)?;
        let verdict = match form.verdict {
            Word::Pass => Verdict::Pass,
            Word::Confine => Verdict::Confine(form.guarantees),
            Word::Refuse => Verdict::Refuse,
        };
        Ok(Self {
            verdict,
            findings: form.findings,
            findings_omitted: form.findings_omitted,
            manifest: form.manifest,
            suppressions_ignored: form.suppressions_ignored,
            skipped: form.skipped,
            took_us: form.took_us,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guarantee::Guarantee;

    fn confine(guarantee: Guarantee) -> Verdict {
        Verdict::Confine([guarantee].into_iter().collect())
    }

    #[test]
    fn the_strictest_verdict_wins_and_walls_add_up() {
        let net = confine(Guarantee::NetworkAbsent);
        assert!(Verdict::Pass < net && net < Verdict::Refuse);
        assert_eq!(Verdict::Pass.and(net.clone()), net);
        assert_eq!(net.clone().and(Verdict::Refuse), Verdict::Refuse);
        assert_eq!(
            net.and(confine(Guarantee::ProcessesAbsent))
                .guarantees()
                .len(),
            2
        );
    }

    #[test]
    fn json_keeps_the_word_and_the_walls_apart_and_comes_back() {
        let screening = Screening {
            verdict: confine(Guarantee::NetworkAbsent),
            ..Screening::skipped()
        };
        let json = serde_json::to_value(&screening).unwrap();
        assert_eq!(json["verdict"], "confine");
        assert_eq!(json["guarantees"], serde_json::json!(["network_absent"]));
        assert_eq!(
            serde_json::from_value::<Screening>(json).unwrap(),
            screening
        );
    }
}
