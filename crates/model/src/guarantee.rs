//! Guarantees: what a sandbox holds, as a set rather than a ladder.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

/// One property of a sandbox that a job may ask for and a backend may really give.
///
/// A WebAssembly worker and a virtual machine are not on one line: each gives some of these and not
/// others, which is why they form a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Guarantee {
    /// No file of the host can be opened, listed or named, beside the read-only software of its system
    /// where the receipt says that this is shown.
    HostFilesHidden,
    /// What was handed in cannot be changed, by something the guest cannot reach.
    InputsReadOnly,
    /// No interface, no resolver, no socket.
    NetworkAbsent,
    /// Only listed hosts can be reached, through a proxy on the host's side.
    NetworkAllowlisted,
    /// The process that holds the guest is confined to a list of system calls.
    SyscallsFiltered,
    /// The guest does not share the host's kernel.
    SeparateKernel,
    /// The guest runs in a memory of its own inside the process that holds it (WebAssembly).
    MemoryIsolated,
    /// Memory has a ceiling that the guest cannot move.
    MemoryCapped,
    /// Processor time has a ceiling.
    CpuCapped,
    /// Elapsed time has a ceiling.
    WallCapped,
    /// The number of processes and threads has a ceiling.
    TasksCapped,
    /// Written bytes and created files have a ceiling.
    DiskCapped,
    /// Output streams have a ceiling.
    OutputCapped,
    /// Open descriptors have a ceiling.
    OpenFilesCapped,
    /// The environment holds nothing but what the job names and the interpreter needs.
    EnvironmentEmpty,
    /// Clocks are no finer than the policy's granularity.
    ClockCoarse,
    /// No process can be started.
    ProcessesAbsent,
    /// No native code chosen by the guest can be loaded.
    NativeCodeAbsent,
    /// Where things lie in the guest's memory, and its hash secret, were drawn for this run alone.
    LayoutFresh,
    /// What the processor would do for the guest ahead of time, past stores and at indirect branches, it does not, where
    /// that is known to give memory away.
    SpeculationLimited,
    /// Nothing outside runs on the other half of a core that the guest runs on, as far as the kernel knows the cores.
    CoreUnshared,
}

impl Guarantee {
    /// What the guarantee means, in a few words for people.
    pub fn describe(self) -> &'static str {
        match self {
            Self::HostFilesHidden => "host files hidden",
            Self::InputsReadOnly => "inputs read-only",
            Self::NetworkAbsent => "no network",
            Self::NetworkAllowlisted => "network by allowlist",
            Self::SyscallsFiltered => "system calls filtered",
            Self::SeparateKernel => "separate kernel",
            Self::MemoryIsolated => "memory isolated",
            Self::MemoryCapped => "memory capped",
            Self::CpuCapped => "CPU time capped",
            Self::WallCapped => "wall time capped",
            Self::TasksCapped => "tasks capped",
            Self::DiskCapped => "disk capped",
            Self::OutputCapped => "output capped",
            Self::OpenFilesCapped => "open files capped",
            Self::EnvironmentEmpty => "environment empty",
            Self::ClockCoarse => "clock coarse",
            Self::ProcessesAbsent => "no processes",
            Self::NativeCodeAbsent => "no native code",
            Self::LayoutFresh => "fresh memory layout",
            Self::SpeculationLimited => "speculation limited",
            Self::CoreUnshared => "core not shared",
        }
    }
}

impl fmt::Display for Guarantee {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.describe())
    }
}

/// A set of guarantees.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Guarantees(BTreeSet<Guarantee>);

impl Guarantees {
    /// The empty set.
    pub fn none() -> Self {
        Self::default()
    }

    /// Adds one guarantee.
    pub fn insert(&mut self, guarantee: Guarantee) {
        self.0.insert(guarantee);
    }

    /// Whether `guarantee` is in the set.
    pub fn contains(&self, guarantee: Guarantee) -> bool {
        self.0.contains(&guarantee)
    }

    /// Everything in either set.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        Self(self.0.union(&other.0).copied().collect())
    }

    /// What is asked here and absent from `offered`.
    #[must_use]
    pub fn missing_from(&self, offered: &Self) -> Self {
        Self(self.0.difference(&offered.0).copied().collect())
    }

    /// What is in both sets.
    #[must_use]
    pub fn common(&self, other: &Self) -> Self {
        Self(self.0.intersection(&other.0).copied().collect())
    }

    /// Whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The number of guarantees in the set.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The guarantees in a stable order.
    pub fn iter(&self) -> impl Iterator<Item = Guarantee> + '_ {
        self.0.iter().copied()
    }
}

impl FromIterator<Guarantee> for Guarantees {
    fn from_iter<I: IntoIterator<Item = Guarantee>>(iter: I) -> Self {
        Self(iter.into_iter().collect())
    }
}

impl fmt::Display for Guarantees {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, guarantee) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{guarantee}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_is_what_was_asked_and_not_offered() {
        let asked: Guarantees = [Guarantee::NetworkAbsent, Guarantee::SeparateKernel]
            .into_iter()
            .collect();
        let offered: Guarantees = [Guarantee::NetworkAbsent, Guarantee::CpuCapped]
            .into_iter()
            .collect();
        let missing = asked.missing_from(&offered);
        assert_eq!(
            missing.iter().collect::<Vec<_>>(),
            [Guarantee::SeparateKernel]
        );
        assert_eq!(missing.to_string(), "separate kernel");
    }

    #[test]
    fn the_union_holds_both() {
        let a: Guarantees = [Guarantee::NetworkAbsent].into_iter().collect();
        let b: Guarantees = [Guarantee::CpuCapped].into_iter().collect();
        assert_eq!(a.union(&b).len(), 2);
        assert!(a.common(&b).is_empty());
        assert_eq!(a.union(&b).common(&a), a);
    }
}
