//! The runtimes, and how each is spoken to.

use casemate_linux::keeper::Groups;

use crate::advisories::Program;
use crate::walls::Family;

/// Where the bundle lies in the keeper's mounts.
pub(crate) const BUNDLE: &str = "/tmp/bundle";
/// Where the runtime finds the folder of a checkpoint, which it is given as a descriptor.
pub(crate) const IMAGE_FD: i32 = 12;
const IMAGE: &str = "/proc/self/fd/12";
/// The container's name. Each keeper has a folder of its own for what the runtime keeps.
const ID: &str = "casemate";

/// A runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The Open Container Initiative's own.
    Runc,
    /// The one in C.
    Crun,
    /// gVisor's, with a kernel of its own.
    Gvisor(Platform),
}

/// How gVisor takes the guest's system calls. Its third way, by `/dev/kvm`, is never used: where the
/// device is there and cannot run a guest it hangs without a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Platform {
    /// By seccomp traps: the default.
    Systrap,
    /// By ptrace: slower, and for kernels that refuse the other.
    Ptrace,
}

impl Platform {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Systrap => "systrap",
            Self::Ptrace => "ptrace",
        }
    }
}

impl Kind {
    /// The backend's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Runc => "runc",
            Self::Crun => "crun",
            Self::Gvisor(_) => "gvisor",
        }
    }

    /// The program, and the Debian package it comes in.
    pub(crate) const fn program(self) -> &'static str {
        match self {
            Self::Runc => "runc",
            Self::Crun => "crun",
            Self::Gvisor(_) => "runsc",
        }
    }

    /// Its list of advisories.
    pub(crate) const fn advised(self) -> Program {
        match self {
            Self::Runc => Program::Runc,
            Self::Crun => Program::Crun,
            Self::Gvisor(_) => Program::Runsc,
        }
    }

    /// What its containers' walls are.
    pub(crate) const fn family(self) -> Family {
        match self {
            Self::Runc | Self::Crun => Family::Runtime,
            Self::Gvisor(_) => Family::Gvisor,
        }
    }

    pub(crate) const fn is_gvisor(self) -> bool {
        matches!(self, Self::Gvisor(_))
    }

    /// The control groups it is shown. runc makes groups in every hierarchy that it finds and cannot do
    /// without that of devices; the others are told to leave groups alone, and find none.
    pub(crate) const fn groups(self) -> Groups {
        match self {
            Self::Runc => Groups::Devices,
            Self::Crun | Self::Gvisor(_) => Groups::None,
        }
    }

    /// Its arguments to make the container, up to where the program would begin.
    pub(crate) fn create(self) -> Vec<String> {
        let mut arguments = self.general();
        let create = ["create", "--bundle", BUNDLE, "--pid-file"];
        arguments.extend(create.map(str::to_owned));
        arguments.extend([format!("{BUNDLE}/pid"), ID.to_owned()]);
        arguments
    }

    /// Its arguments to begin.
    pub(crate) fn start(self) -> Vec<String> {
        let mut arguments = self.general();
        arguments.extend(["start", ID].map(str::to_owned));
        arguments
    }

    /// What its command to begin reads in the place of the container's process, which waits until somebody does. It is
    /// what that command is there for, and a second start of the runtime takes longer than an interpreter's.
    pub(crate) fn fifo(self) -> Option<String> {
        match self {
            Self::Runc => Some(format!("{BUNDLE}/state/{ID}/exec.fifo")),
            Self::Crun | Self::Gvisor(_) => None,
        }
    }

    /// Its arguments to go on from a checkpoint, in the place of those to begin.
    pub(crate) fn restore(self) -> Vec<String> {
        let mut arguments = self.general();
        let restore = ["restore", "--detach", "--bundle", BUNDLE];
        arguments.extend(restore.map(str::to_owned));
        arguments.extend([format!("--image-path={IMAGE}"), ID.to_owned()]);
        arguments
    }

    /// Its arguments to make a checkpoint. Packed it takes a third of the room, and each start from it the time to
    /// unpack it.
    pub(crate) fn checkpoint(self) -> Vec<String> {
        let mut arguments = self.general();
        let checkpoint = ["checkpoint", "--compression=none"];
        arguments.extend(checkpoint.map(str::to_owned));
        arguments.extend([format!("--image-path={IMAGE}"), ID.to_owned()]);
        arguments
    }

    fn general(self) -> Vec<String> {
        let mut arguments = vec![
            format!("--root={BUNDLE}/state"),
            format!("--log={BUNDLE}/log"),
        ];
        match self {
            Self::Runc => {}
            Self::Crun => arguments.push("--cgroup-manager=disabled".to_owned()),
            Self::Gvisor(platform) => {
                arguments.push(format!("--platform={}", platform.name()));
                let rest = [
                    "--network=none",
                    "--ignore-cgroups",
                    // Scratch is the host's file system with its own quota, not one in the sandbox's memory.
                    "--overlay2=none",
                    // The sandbox itself opens no file of the host's: another process does that for it.
                    "--directfs=false",
                ];
                arguments.extend(rest.map(str::to_owned));
            }
        }
        arguments
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_these() {
        let runc = Kind::Runc.create().join(" ");
        assert_eq!(
            runc,
            "--root=/tmp/bundle/state --log=/tmp/bundle/log create --bundle /tmp/bundle --pid-file /tmp/bundle/pid casemate"
        );
        let crun = Kind::Crun.start().join(" ");
        assert_eq!(
            crun,
            "--root=/tmp/bundle/state --log=/tmp/bundle/log --cgroup-manager=disabled start casemate"
        );
        let fifo = Kind::Runc.fifo().unwrap();
        assert_eq!(fifo, "/tmp/bundle/state/casemate/exec.fifo");
        assert_eq!(Kind::Crun.fifo(), None);
        for platform in [Platform::Systrap, Platform::Ptrace] {
            let gvisor = Kind::Gvisor(platform).create().join(" ");
            assert!(gvisor.contains(&format!(
                "--platform={} --network=none --ignore-cgroups",
                platform.name()
            )));
            assert!(!gvisor.contains("kvm"));
            // What goes on from a checkpoint is told the same of its walls as what begins.
            let of = |words: Vec<String>| {
                words
                    .into_iter()
                    .take_while(|word| word.starts_with("--"))
                    .collect::<Vec<_>>()
            };
            let kind = Kind::Gvisor(platform);
            assert_eq!(of(kind.restore()), of(kind.create()));
            assert_eq!(of(kind.checkpoint()), of(kind.create()));
        }
    }
}
