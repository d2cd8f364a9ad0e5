//! The stage of one attack: a throw-away folder with baits, listeners and a victim, all of the host's.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use casemate_linux::{Child, Spawn};
use tempfile::TempDir;

use super::listen::{Heard, Listener, Reply};

/// Paths that mean something else inside a guest: an arena there could not be told from the guest's own.
const SHADOWED: [&str; 5] = ["/tmp", "/data", "/work", "/dev", "/usr/local/lib"];
/// What the bait holds besides the secret.
const LEDGER: &str = "nobody may change this line\n";
/// What an attack is handed as its input.
const INPUT: &str = "a,b\n1,2\n";
/// The descriptor on which a control inherits the open secret.
pub(crate) const INHERITED: i32 = 7;

/// One attack's stage. Dropping it takes everything down.
#[derive(Debug)]
pub(crate) struct Stage {
    arena: TempDir,
    listener: Listener,
    victim: Option<Child>,
    /// How soon the kernel would kill the victim for memory, when it was started.
    score: Option<i32>,
    /// Open in this process throughout, so that a descriptor that leaks has something to show.
    secret_file: fs::File,
    secret: String,
}

/// What a stage needs besides its baits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Props {
    /// A shell's command is sent to whoever connects.
    pub(crate) shell: bool,
    /// A process waits to be killed or looked into.
    pub(crate) victim: bool,
    /// Whoever asks the listener is given the secret.
    pub(crate) metadata: bool,
}

impl Stage {
    /// Builds a stage; `python` is what the victim runs.
    ///
    /// # Errors
    /// Those of making files, sockets and processes.
    pub(crate) fn build(props: Props, python: Option<&Path>) -> anyhow::Result<Self> {
        let secret = random_secret()?;
        let arena = folder()?;
        let root = arena.path();
        lay_out(root, &secret).with_context(|| format!("preparing {}", root.display()))?;
        let reply = match props {
            Props { shell: true, .. } => {
                Reply::Command(format!("cat '{}/secret.txt'; exit\n", root.display()))
            }
            Props { metadata: true, .. } => Reply::Secret(secret.clone()),
            _ => Reply::Accepted,
        };
        let listener = Listener::start(&root.join("docker.sock"), reply)
            .context("listening on loopback for what an attack sends")?;
        let secret_file = fs::File::open(root.join("secret.txt"))?;
        let victim = match python {
            Some(python) if props.victim => Some(victim(python, &secret, &secret_file)?),
            _ => None,
        };
        let score = victim.as_ref().and_then(|victim| score(victim.pid()));
        Ok(Self {
            listener,
            victim,
            score,
            secret_file,
            secret,
            arena,
        })
    }

    /// The folder.
    pub(crate) fn root(&self) -> &Path {
        self.arena.path()
    }

    /// What must not leave it.
    pub(crate) fn secret(&self) -> &str {
        &self.secret
    }

    /// The file with the secret, open.
    pub(crate) fn secret_file(&self) -> &fs::File {
        &self.secret_file
    }

    /// The input that is handed to the attack.
    pub(crate) fn input(&self) -> &'static [u8] {
        INPUT.as_bytes()
    }

    /// The victim's process number, or one that nobody has.
    pub(crate) fn victim_pid(&self) -> u32 {
        self.victim.as_ref().map_or(u32::MAX >> 1, Child::pid)
    }

    /// The listener's port, which also goes into the names that an attack gives.
    pub(crate) fn port(&self) -> u16 {
        self.listener.port()
    }

    /// What the attack is told: the arena, the port, the victim, the secret where it is the first of two,
    /// and the second at which it starts where two must agree on one.
    pub(crate) fn args(&self, tell_secret: bool, start: Option<u64>) -> Vec<String> {
        let mut args = vec![
            self.root().display().to_string(),
            self.listener.port().to_string(),
            self.victim_pid().to_string(),
        ];
        if tell_secret {
            args.push(self.secret.clone());
        }
        args.extend(start.map(|start| start.to_string()));
        args
    }

    /// Ends the attack's time on the stage and looks at what it did.
    ///
    /// # Errors
    /// When the host cannot tell what became of the victim.
    pub(crate) fn inspect(&mut self) -> io::Result<Inspection> {
        let heard = self.listener.finish();
        let marked = match &self.victim {
            Some(victim) => score(victim.pid()) > self.score,
            None => false,
        };
        let died = match &mut self.victim {
            // A killed process is gone when the signal has been dealt with, not when it was sent.
            Some(victim) => victim.wait_timeout(Duration::from_millis(100))?.is_some(),
            None => false,
        };
        let root = self.root();
        Ok(Inspection {
            heard,
            victim_died: died,
            victim_marked: marked,
            ledger_intact: is(root, "treasure/ledger.txt", LEDGER),
            input_intact: is(root, "in.csv", INPUT),
            started: root.join("started").exists(),
            left: measure(&root.join("tmp")),
            messages: fs::read(root.join("dev/casemate")).unwrap_or_default(),
        })
    }
}

/// What an attack did to its stage.
#[derive(Debug, Clone, Default)]
pub(crate) struct Inspection {
    /// At the sockets.
    pub(crate) heard: Heard,
    /// The victim is no longer there.
    pub(crate) victim_died: bool,
    /// The victim is to be killed sooner when memory runs out.
    pub(crate) victim_marked: bool,
    /// The bait that must not be changed is as it was.
    pub(crate) ledger_intact: bool,
    /// So is the input.
    pub(crate) input_intact: bool,
    /// Something that was started left its mark.
    pub(crate) started: bool,
    /// Bytes and entries in the arena's temporary folder.
    pub(crate) left: (u64, u64),
    /// What stands in the naive host's message file.
    pub(crate) messages: Vec<u8>,
}

fn random_secret() -> anyhow::Result<String> {
    let mut bytes = [0; 16];
    fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .context("/dev/urandom")?;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("canary-{hex}"))
}

/// A folder outside every path that a guest has of its own.
fn folder() -> anyhow::Result<TempDir> {
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let candidates = [
        Some(std::env::temp_dir()),
        Some(PathBuf::from("/var/tmp")),
        home,
    ];
    candidates
        .into_iter()
        .flatten()
        .filter_map(|path| path.canonicalize().ok())
        .filter(|path| !SHADOWED.iter().any(|shadow| path.starts_with(shadow)))
        .find_map(|path| {
            tempfile::Builder::new()
                .prefix("casemate-attack-")
                .tempdir_in(path)
                .ok()
        })
        .context(
            "no folder for throw-away files outside /tmp; set TMPDIR to one that can be written",
        )
}

fn lay_out(root: &Path, secret: &str) -> io::Result<()> {
    for folder in [
        "etc", "treasure", "bin", "tmp", "work", "out", "dev", ".ssh",
    ] {
        fs::create_dir(root.join(folder))?;
    }
    fs::write(root.join(".ssh/id_ed25519"), format!("{secret}\n"))?;
    fs::write(root.join("secret.txt"), format!("{secret}\n"))?;
    let shadow = format!("root:$6${secret}:20000:0:99999:7:::\n");
    fs::write(root.join("etc/shadow"), shadow)?;
    fs::write(root.join("treasure/ledger.txt"), LEDGER)?;
    fs::write(root.join("in.csv"), INPUT)?;
    fs::write(root.join("dev/casemate"), "")?;
    symlink("../treasure/ledger.txt", root.join("out/report.txt"))?;
    let engine = root.join("bin/docker");
    fs::write(&engine, "#!/bin/sh\n: > \"$CASEMATE_ARENA/started\"\n")?;
    fs::set_permissions(&engine, fs::Permissions::from_mode(0o755))
}

/// Lets everybody of its user trace it, where the machine asks for that, and does nothing.
const VICTIM: &str = "
import time
try:
    import ctypes
    ctypes.CDLL(None).prctl(0x59616d61, ctypes.c_ulong(-1), 0, 0, 0)
except (ImportError, OSError):
    pass
time.sleep(120)
";

/// A process with the secret on its command line and in an open file. It ends with this program.
fn victim(python: &Path, secret: &str, file: &fs::File) -> io::Result<Child> {
    Spawn::new(python)
        .arg("-I")
        .arg("-c")
        .arg(VICTIM)
        .arg(secret)
        .fd(file, INHERITED)
        .spawn()
}

/// How soon the kernel would kill a process for memory; none when it is gone.
fn score(pid: u32) -> Option<i32> {
    let text = fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).ok()?;
    text.trim().parse().ok()
}

fn is(root: &Path, name: &str, expected: &str) -> bool {
    fs::read(root.join(name)).is_ok_and(|bytes| bytes == expected.as_bytes())
}

/// Bytes by length and entries, folders included.
fn measure(folder: &Path) -> (u64, u64) {
    walkdir::WalkDir::new(folder)
        .min_depth(1)
        .into_iter()
        .filter_map(Result::ok)
        .filter_map(|entry| entry.metadata().ok())
        .fold((0, 0), |(bytes, count), meta| {
            let len = if meta.is_file() { meta.len() } else { 0 };
            (bytes + len, count + 1)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const BARE: Props = Props {
        shell: false,
        victim: false,
        metadata: false,
    };

    #[test]
    fn an_untouched_stage_shows_no_harm_and_leaves_nothing() {
        let mut stage = Stage::build(BARE, None).unwrap();
        let root = stage.root().to_owned();
        let seen = stage.inspect().unwrap();
        assert!(seen.ledger_intact && seen.input_intact && !seen.started && !seen.victim_died);
        assert!(!seen.victim_marked);
        assert_eq!((seen.left, seen.heard.connections), ((0, 0), 0));
        drop(stage);
        assert!(!root.exists());
    }

    #[test]
    fn harm_is_seen_where_it_is_done() {
        let mut stage = Stage::build(BARE, None).unwrap();
        let root = stage.root().to_owned();
        // Through the link, as a careless host would.
        fs::write(root.join("out/report.txt"), "forged").unwrap();
        fs::write(root.join("started"), "").unwrap();
        fs::write(root.join("tmp/a"), "123").unwrap();
        let seen = stage.inspect().unwrap();
        assert!(!seen.ledger_intact && seen.input_intact && seen.started);
        assert_eq!(seen.left, (3, 1));
    }

    #[test]
    fn no_two_stages_share_a_secret() {
        assert_ne!(random_secret().unwrap(), random_secret().unwrap());
    }
}
