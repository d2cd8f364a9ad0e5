//! `bwrap` as a backend: Debian's bubblewrap with the best flags that it has, and nothing of ours around it.
//!
//! What it does not do is not done for it either, but for three things that a test must have: its output
//! is read, its files are collected, and a run that nothing stops is ended after [`PATIENCE`].

use std::fs;
use std::io::{PipeReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use casemate_backend::contract::{
    Backend, Cancel, CreateError, Fault, Finish, Lost, Offer, Sandbox, Signal, Usable,
};
use casemate_backend::plan::{Plan, PlannedFile};
use casemate_linux::{Child, Exit as Ended, Spawn};
use casemate_model::guarantee::Guarantee::{
    EnvironmentEmpty, HostFilesHidden, InputsReadOnly, NetworkAbsent,
};
use casemate_model::guarantee::{Guarantee, Guarantees};
use casemate_model::job::Language;
use casemate_model::outcome::{Exit, Usage};
use casemate_model::receipt::{Need, Receipt, Wall};
use casemate_model::result::Artifact;
use casemate_model::unit::ByteSize;
use tempfile::TempDir;

const PROGRAM: &str = "/usr/bin/bwrap";
/// After this a run has no limit that stops it.
const PATIENCE: Duration = Duration::from_secs(4);
/// Bytes of output that are kept of what nobody limits.
const KEPT: usize = 1 << 20;

/// The walls that its own manual promises, each with the flags that put it up.
const WALLS: [(&str, &str, &[Guarantee]); 4] = [
    ("network_namespace", "--unshare-all", &[NetworkAbsent]),
    (
        "root",
        "--ro-bind /usr, and nothing else of the host's",
        &[HostFilesHidden],
    ),
    ("inputs_read_only", "--ro-bind", &[InputsReadOnly]),
    ("environment", "--clearenv", &[EnvironmentEmpty]),
];

/// The foreign wall.
pub(crate) struct Bwrap;

impl Bwrap {
    /// Where this machine has none.
    pub(crate) fn missing() -> bool {
        !Path::new(PROGRAM).exists()
    }

    fn guarantees() -> Guarantees {
        let all = WALLS.iter().flat_map(|(_, _, set)| set.iter().copied());
        all.collect()
    }
}

impl Backend for Bwrap {
    fn name(&self) -> &'static str {
        "bwrap"
    }

    fn probe(&self) -> Offer {
        Offer {
            backend: self.name().to_owned(),
            usable: Usable::Yes,
            images: Usable::No {
                why: "it shows the machine's own system".to_owned(),
                fix: "take the jail".to_owned(),
            },
            languages: vec![Language::Python],
            guarantees: Self::guarantees(),
            lost: Lost::new(),
            memory_floor: ByteSize(0),
            memory_ceiling: ByteSize(u64::MAX),
            cost: 1,
            notes: Vec::new(),
        }
    }

    fn create(&self, plan: &Plan) -> Result<(Box<dyn Sandbox>, Receipt), CreateError> {
        let fault = |error: std::io::Error| CreateError::Fault(error.to_string());
        let scratch = lay_out(plan).map_err(fault)?;
        let walls = WALLS.iter().map(|(name, flags, set)| {
            let set = set.iter().copied().collect();
            Wall::standing(*name, Need::Required, "the wall", *flags, set)
        });
        let receipt = Receipt {
            backend: self.name().to_owned(),
            guest: "the system's Python".to_owned(),
            walls: walls.collect(),
        };
        Ok((Box::new(Ready { scratch }), receipt))
    }
}

/// The host's side of what the program is shown.
fn lay_out(plan: &Plan) -> std::io::Result<TempDir> {
    let scratch = tempfile::tempdir()?;
    for folder in ["tmp", "work", "data"] {
        fs::create_dir(scratch.path().join(folder))?;
    }
    let write = |file: &PlannedFile| {
        let path = scratch.path().join(file.path.trim_start_matches('/'));
        fs::write(path, &file.bytes)
    };
    plan.inputs.iter().try_for_each(write)?;
    write(&plan.program)?;
    Ok(scratch)
}

/// The command line: every namespace, no capability, a session of its own, and only what is named.
fn command(plan: &Plan, scratch: &Path) -> Vec<String> {
    let path = |name: &str| scratch.join(name).display().to_string();
    let words = |text: &str| -> Vec<String> { text.split(' ').map(str::to_owned).collect() };
    let mut all = words(
        "--unshare-all --die-with-parent --new-session --clearenv --cap-drop ALL --hostname bwrap --uid 65534 \
         --gid 65534 --ro-bind /usr /usr --symlink usr/bin /bin --symlink usr/lib /lib --symlink usr/lib64 /lib64 \
         --proc /proc --dev /dev --setenv PATH /usr/bin --setenv LANG C.UTF-8 --setenv HOME /tmp",
    );
    for (flag, from, to) in [
        ("--bind", path("tmp"), "/tmp"),
        ("--bind", path("work"), "/work"),
        ("--ro-bind", path("data"), "/data"),
    ] {
        all.extend([flag.to_owned(), from, to.to_owned()]);
    }
    for input in &plan.inputs {
        let name = input.path.rsplit('/').next().unwrap_or_default();
        let shown = format!("/work/{name}");
        all.extend(["--ro-bind".to_owned(), path(&format!("data/{name}")), shown]);
    }
    for (name, value) in &plan.env {
        all.extend(["--setenv".to_owned(), name.clone(), value.clone()]);
    }
    // It names the working folder in the environment, whatever it is told.
    all.extend(words(
        "--chdir /work /usr/bin/env -u PWD /usr/bin/python3 -B",
    ));
    all.extend(plan.argv.iter().cloned());
    all
}

struct Ready {
    scratch: TempDir,
}

impl Sandbox for Ready {
    fn run(
        self: Box<Self>,
        plan: &Plan,
        sink: &mut dyn FnMut(Signal),
        cancel: &Cancel,
    ) -> Result<Finish, Fault> {
        let fault = |error: std::io::Error| Fault(error.to_string());
        let begun = Instant::now();
        let (mut child, output) = self.start(plan).map_err(fault)?;
        let exit = watch(&mut child, &output, sink, cancel, begun).map_err(fault)?;
        Ok(Finish {
            exit,
            // It measures nothing.
            usage: Usage::default(),
            artifacts: self.artifacts(plan),
        })
    }
}

type Piece = (bool, Vec<u8>);

impl Ready {
    fn start(&self, plan: &Plan) -> std::io::Result<(Child, Receiver<Piece>)> {
        let (input, mut to_input) = std::io::pipe()?;
        let (stdout, out) = std::io::pipe()?;
        let (stderr, err) = std::io::pipe()?;
        let mut spawn = Spawn::new(PROGRAM).fd(&input, 0).fd(&out, 1).fd(&err, 2);
        for word in command(plan, self.scratch.path()) {
            spawn = spawn.arg(word);
        }
        let child = spawn.spawn()?;
        drop((input, out, err));
        let bytes = plan.stdin.clone();
        std::thread::spawn(move || {
            // A program that does not read its input ends without it.
            to_input.write_all(&bytes).ok();
        });
        let (tell, told) = channel();
        for (is_error, pipe) in [(false, stdout), (true, stderr)] {
            let tell = tell.clone();
            std::thread::spawn(move || read(pipe, |bytes| tell.send((is_error, bytes)).is_ok()));
        }
        Ok((child, told))
    }

    fn artifacts(&self, plan: &Plan) -> Vec<Artifact> {
        let given: Vec<PathBuf> = plan
            .inputs
            .iter()
            .chain([&plan.program])
            .filter_map(|file| Some(Path::new("/work").join(Path::new(&file.path).file_name()?)))
            .collect();
        ["tmp", "work"]
            .iter()
            .flat_map(|folder| walkdir::WalkDir::new(self.scratch.path().join(folder)))
            .filter_map(Result::ok)
            .filter(|entry| entry.file_type().is_file())
            .filter_map(|entry| {
                let inside = entry.path().strip_prefix(self.scratch.path()).ok()?;
                let path = Path::new("/").join(inside);
                (!given.contains(&path)).then(|| Artifact {
                    path: path.display().to_string(),
                    bytes: fs::read(entry.path()).unwrap_or_default(),
                })
            })
            .collect()
    }
}

fn read(mut pipe: PipeReader, mut tell: impl FnMut(Vec<u8>) -> bool) {
    let mut chunk = vec![0; 16 << 10];
    while let Ok(len) = pipe.read(&mut chunk) {
        if len == 0 || !tell(chunk[..len].to_vec()) {
            return;
        }
    }
}

/// Passes output on until both ends of it are closed, or patience is.
fn watch(
    child: &mut Child,
    output: &Receiver<Piece>,
    sink: &mut dyn FnMut(Signal),
    cancel: &Cancel,
    begun: Instant,
) -> std::io::Result<Exit> {
    let mut kept = 0;
    loop {
        let stopped = cancel.is_cancelled();
        if stopped || begun.elapsed() > PATIENCE {
            child.kill()?;
            child.wait()?;
            return Ok(if stopped {
                Exit::Cancelled
            } else {
                Exit::Signal(9)
            });
        }
        match output.recv_timeout(Duration::from_millis(20)) {
            Ok((is_error, bytes)) if kept < KEPT => {
                kept += bytes.len();
                sink(match is_error {
                    true => Signal::Stderr(bytes),
                    false => Signal::Stdout(bytes),
                });
            }
            Ok(_) | Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {}
            Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => break,
        }
    }
    Ok(match child.wait()?.exit {
        Ended::Code(code) => Exit::Code(code),
        Ended::Signal(signal) => Exit::Signal(signal),
    })
}
