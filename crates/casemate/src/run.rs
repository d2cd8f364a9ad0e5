//! `casemate run`.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use casemate_backend::contract::{Backend, Cancel, Signal};
use casemate_container::docker::{DockerBackend, Variant};
use casemate_container::{ContainerBackend, Kind, Make};
use casemate_engine::{Engine, Records, policies};
use casemate_images::{ImageName, Images, Systems};
use casemate_jail::JailBackend;
use casemate_model::job::{
    Demand, GuestPath, ImageChoice, Input, Job, JobBuilder, Language, Program, RunId,
};
use casemate_model::limit::{Limit, Millis};
use casemate_model::outcome::Outcome;
use casemate_model::policy::{Attacked, Policy, ScreenMode};
use casemate_wasm::WasmBackend;
use casemate_wasm::setup::Store;
use casemate_watch::{AlertRules, alerts_jsonl, events_jsonl};

use crate::attack::Results;
use crate::cli::{LangArg, LimitArgs, RunArgs, ScreenArg};
use crate::out::{Saved, save};
use crate::receipt::Draft;
use crate::{json, restored, setup, show, text, warm};

/// Bytes of one input file; what is larger belongs in several.
const INPUT_MAX: u64 = 1 << 30;
/// Bytes of standard input that are passed on.
const STDIN_MAX: u64 = 256 << 20;
/// Bytes of a program that are read before screening refuses it for its size.
const PROGRAM_MAX: u64 = 64 << 20;

/// Runs a program and gives the exit code.
pub(crate) fn command(args: RunArgs) -> anyhow::Result<i32> {
    let job = job(&args)?;
    let source = job.program.source.clone();
    let store = Store::open()?;
    if let Some(out) = &args.out {
        check_out(out)?;
    }
    let engine = engine(&store)?;
    if args.dry_run {
        return dry_run(&engine, job);
    }
    let draft = args.receipt.as_ref().map(|_| Draft::of(&job)).transpose()?;
    if !screened_out(&job) {
        set_up(&job, &store)?;
    }
    // Only now: until here Ctrl-C ends this process, and a set-up that it ended is taken up again later.
    let cancel = Cancel::new();
    let raise = cancel.clone();
    casemate_linux::term::on_interrupt(move |_| raise.cancel()).context("watching for Ctrl-C")?;
    let mut listener = Listener {
        live: !args.json,
        failed: None,
    };
    let outcome = engine.run(job, &mut |signal| listener.hear(signal), &cancel);
    if let (Some(draft), Some(path)) = (&draft, &args.receipt) {
        draft.write(&outcome, path)?;
    }
    finish(&args, &outcome, &source, listener)
}

/// Sets up what the job will run in, where that has not been done. An image is complete.
fn set_up(job: &Job, store: &Store) -> anyhow::Result<()> {
    if !job.demand.image.is_host() {
        return Ok(());
    }
    let native = job.program.language != Language::Python || job.demand.image.venv.is_some();
    match job.demand.backend.as_deref() {
        // All of these show the guest the same packages.
        Some(casemate_jail::NAME | "runc" | "crun" | "gvisor") => drop(setup::ensure_jail()?),
        None if native => drop(setup::ensure_jail()?),
        _ => drop(setup::ensure(store)?),
    }
    Ok(())
}

/// An engine with the backends of this build, and what is known of attacks on them.
pub(crate) fn engine(store: &Store) -> anyhow::Result<Engine> {
    over(backends(store)?)
}

/// The same with further backends.
pub(crate) fn over(backends: Vec<Arc<dyn Backend>>) -> anyhow::Result<Engine> {
    let records = records(&backends)?;
    Ok(Engine::new(backends, AlertRules::embedded()?).attacked(records))
}

/// The same for a process that runs programs for as long as it lives, so many at once.
pub(crate) fn lasting_engine(store: &Store, parallel: usize) -> anyhow::Result<Engine> {
    // Only root has zygotes.
    if !rustix::process::geteuid().is_root() {
        return engine(store);
    }
    let program = Path::new("/proc/self/exe");
    let backends = with_jail(
        store,
        Arc::new(warm::jail(program, parallel)?),
        Make::Beside,
    )?;
    let mut attacked = backends.clone();
    attacked.extend(warm::only_warm(program)?);
    let mut records = records(&attacked)?;
    warm::all_starts(&mut records);
    Ok(Engine::new(backends, AlertRules::embedded()?).attacked(records))
}

/// Without a folder for results there are none. Every process may go on from a checkpoint, so that what is known of
/// gVisor is what is known of both its starts.
fn records(backends: &[Arc<dyn Backend>]) -> anyhow::Result<Records> {
    let restored = restored::only_restored(Path::new("/proc/self/exe"))?;
    let all = backends.iter().chain([&restored]).map(AsRef::as_ref);
    let results = Results::open().map(|results| results.records(all));
    let mut records = results.unwrap_or_default();
    restored::all_starts(&mut records);
    Ok(records)
}

/// The backends of this build.
pub(crate) fn backends(store: &Store) -> anyhow::Result<Vec<Arc<dyn Backend>>> {
    with_jail(
        store,
        Arc::new(JailBackend::new(systems()?, "/proc/self/exe")),
        Make::Never,
    )
}

/// The systems that a native sandbox can show: this machine's own and the user's images.
pub(crate) fn systems() -> anyhow::Result<Systems> {
    Ok(Systems::new(
        casemate_jail::setup::Store::open()?,
        Images::open()?,
    ))
}

fn with_jail(
    store: &Store,
    jail: Arc<dyn Backend>,
    make: Make,
) -> anyhow::Result<Vec<Arc<dyn Backend>>> {
    let wasm: Arc<dyn Backend> = Arc::new(WasmBackend::new(store.clone(), "/proc/self/exe"));
    let systems = systems()?;
    let mut backends = vec![wasm, jail];
    for kind in [Kind::Crun, Kind::Runc] {
        backends.push(Arc::new(ContainerBackend::new(
            kind,
            systems.clone(),
            "/proc/self/exe",
        )));
    }
    let gvisor = restored::gvisor(Path::new("/proc/self/exe"), make)?;
    backends.push(Arc::new(gvisor));
    for variant in [Variant::Native, Variant::Gvisor] {
        let store = casemate_jail::setup::Store::open()?;
        backends.push(Arc::new(DockerBackend::new(
            variant,
            store,
            "/proc/self/exe",
        )));
    }
    Ok(backends)
}

/// Whether screening refuses the program: then there is no reason to set anything up for it.
fn screened_out(job: &Job) -> bool {
    job.policy.screen == ScreenMode::Enforce
        && casemate_screen::clear(job.clone(), ScreenMode::Enforce).is_err()
}

fn dry_run(engine: &Engine, job: Job) -> anyhow::Result<i32> {
    match engine.prepare(job) {
        Ok(prepared) => {
            let value = serde_json::json!({
                "schema": "casemate.plan/1",
                "placement": prepared.placement,
                "screening": prepared.screening(),
                "plan": prepared.plan,
            });
            println!("{}", serde_json::to_string_pretty(&value)?);
            Ok(0)
        }
        Err(outcome) => {
            eprint!("{}", show::trouble(&outcome));
            Ok(outcome.ending.exit_code())
        }
    }
}

/// Passes output on while the program runs.
struct Listener {
    live: bool,
    failed: Option<io::Error>,
}

impl Listener {
    fn hear(&mut self, signal: &Signal) {
        if !self.live {
            return;
        }
        let written = match signal {
            Signal::Stdout(bytes) => write_flush(&mut io::stdout().lock(), &text::plain(bytes)),
            Signal::Stderr(bytes) => write_flush(&mut io::stderr().lock(), &text::plain(bytes)),
            _ => Ok(()),
        };
        // A reader that went away (`| head`) does not end the run; it is told at the end.
        if let (Err(error), None) = (written, &self.failed) {
            self.failed = Some(error);
        }
    }
}

fn write_flush(to: &mut impl Write, text: &str) -> io::Result<()> {
    to.write_all(text.as_bytes())?;
    to.flush()
}

fn finish(
    args: &RunArgs,
    outcome: &Outcome,
    source: &[u8],
    listener: Listener,
) -> anyhow::Result<i32> {
    // The logs first: whatever happens to the rest, what was seen is kept.
    write_log(args.events.as_deref(), || events_jsonl(&outcome.events))?;
    write_log(args.alerts.as_deref(), || alerts_jsonl(&outcome.alerts))?;
    let saved = args
        .out
        .as_deref()
        .map(|dir| save(outcome, dir))
        .transpose()?;
    let broken_pipe = |error: &io::Error| error.kind() == io::ErrorKind::BrokenPipe;
    let printed = match listener.failed {
        Some(error) => Err(error),
        None => print(args, outcome, saved.as_ref(), source),
    };
    if let Err(error) = printed
        && !broken_pipe(&error)
    {
        return Err(error).context("printing the outcome");
    }
    let failed = saved.map(|saved| saved.failed).unwrap_or_default();
    for failure in &failed {
        eprintln!("casemate: not written: {}", text::line(failure, 300));
    }
    let code = outcome.ending.exit_code();
    Ok(if code == 0 && !failed.is_empty() {
        crate::FAILED
    } else {
        code
    })
}

fn print(
    args: &RunArgs,
    outcome: &Outcome,
    saved: Option<&Saved>,
    source: &[u8],
) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if args.json {
        let value = json::outcome(outcome, saved);
        serde_json::to_writer(&mut out, &value)?;
        return writeln!(out);
    }
    show::results(outcome, saved, &mut out)?;
    out.flush()?;
    let mut report = String::new();
    if !args.quiet {
        report.push('\n');
        report.push_str(&show::layers(outcome, source));
        report.push_str(&show::files(outcome, saved));
        report.push_str(&show::receipt(outcome));
    }
    report.push_str(&show::trouble(outcome));
    io::stderr().lock().write_all(report.as_bytes())
}

fn write_log(path: Option<&Path>, text: impl FnOnce() -> String) -> anyhow::Result<()> {
    let Some(path) = path else { return Ok(()) };
    fs::write(path, text()).with_context(|| format!("writing {}", path.display()))
}

/// A folder that cannot be written to is found out before the program runs.
fn check_out(dir: &Path) -> anyhow::Result<()> {
    casemate_linux::file::Dir::create(dir)
        .with_context(|| format!("the output folder {} cannot be used", dir.display()))
        .map(drop)
}

fn job(args: &RunArgs) -> anyhow::Result<Job> {
    ensure!(
        args.allow_host.is_empty(),
        "--allow-host: no backend of this version offers a network; hand the data in with --data instead"
    );
    let policy = policy(args)?;
    let program = program(args)?;
    let stdin = stdin(args, &program)?;
    let inputs = args
        .data
        .iter()
        .map(|spec| input(spec))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let backend = (args.backend != "auto").then(|| args.backend.clone());
    let id = RunId::from_bits(random_bits()?);
    let job = JobBuilder::new(id, program, policy)
        .args(args.args.clone())
        .env(environment(&args.env)?)
        .inputs(inputs)
        .stdin(stdin)
        .demand(Demand {
            backend,
            attacked: if args.attacked {
                Attacked::Required
            } else {
                Attacked::default()
            },
            image: image(args)?,
            ..Demand::default()
        })
        .build()?;
    Ok(job)
}

/// The system that is asked for. That there is such an image is found out before anything is set up.
fn image(args: &RunArgs) -> anyhow::Result<ImageChoice> {
    let choice = ImageChoice {
        name: args.image.clone(),
        venv: args.venv.clone(),
    };
    if choice.is_host() {
        return Ok(choice);
    }
    ensure!(
        choice.venv.is_none(),
        "--venv belongs to this machine's own Python, and --image {} brings its own; build an image with the packages: \
         `casemate image build NAME --requirements FILE`",
        choice.name
    );
    Images::open()?.get(&ImageName::new(&choice.name)?)?;
    Ok(choice)
}

/// A number for a run's id.
pub(crate) fn random_bits() -> anyhow::Result<u64> {
    let mut bytes = [0; 8];
    fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .context("/dev/urandom")?;
    Ok(u64::from_ne_bytes(bytes))
}

fn program(args: &RunArgs) -> anyhow::Result<Program> {
    let given = args.language.map(LangArg::language);
    let nameless = || given.unwrap_or_default().default_file().to_owned();
    let (source, name) = match (&args.code, &args.file) {
        (Some(code), _) => (code.clone().into_bytes(), nameless()),
        (None, Some(file)) if file == Path::new("-") => (
            read_bounded(&mut io::stdin().lock(), PROGRAM_MAX, "standard input")?,
            nameless(),
        ),
        (None, Some(file)) => {
            let name = file
                .file_name()
                .map(|name| name.to_string_lossy().into_owned())
                .unwrap_or_default();
            (read_file(file, PROGRAM_MAX, "the program")?, name)
        }
        (None, None) => bail!("give a program: a file, `-` for standard input, or -c CODE"),
    };
    let language = given.or_else(|| Language::of_file(&name));
    Ok(Program {
        source,
        name,
        language: language.unwrap_or_default(),
    })
}

/// A file's bytes. Folders, devices and what is not there get a clear word.
fn read_file(path: &Path, max: u64, what: &str) -> anyhow::Result<Vec<u8>> {
    let shown = path.display();
    let meta = fs::metadata(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => NotFound(format!("{what} {shown} does not exist")).into(),
        _ => anyhow::Error::new(error).context(format!("{what} {shown} cannot be read")),
    })?;
    ensure!(
        !meta.is_dir(),
        "{what} {shown} is a folder; name a file in it"
    );
    ensure!(
        meta.len() <= max,
        "{what} {shown} is larger than {} bytes",
        max
    );
    let mut file =
        fs::File::open(path).with_context(|| format!("{what} {shown} cannot be read"))?;
    read_bounded(&mut file, max, &shown.to_string())
}

fn read_bounded(from: &mut impl Read, max: u64, what: &str) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(max + 1)
        .read_to_end(&mut bytes)
        .with_context(|| format!("{what} cannot be read"))?;
    ensure!(
        bytes.len() as u64 <= max,
        "{what} is larger than {max} bytes"
    );
    Ok(bytes)
}

/// Something the user named is not there: exit code 127.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct NotFound(String);

impl NotFound {
    /// Says what is not there.
    pub(crate) fn new(what: String) -> Self {
        Self(what)
    }
}

/// Standard input is read to its end when the program seems to want it; waiting for the end of a pipe
/// that nobody writes to, for a program that does not read, helps no one.
fn stdin(args: &RunArgs, program: &Program) -> anyhow::Result<Vec<u8>> {
    let from_stdin = args.code.is_none() && args.file.as_deref() == Some(Path::new("-"));
    if from_stdin {
        ensure!(
            !args.stdin,
            "standard input is the program; it cannot also be the program's input"
        );
        return Ok(Vec::new());
    }
    let wants = reads_stdin(program.language, &String::from_utf8_lossy(&program.source));
    let stdin = io::stdin();
    if args.stdin || (wants && !stdin.is_terminal()) {
        return read_bounded(&mut stdin.lock(), STDIN_MAX, "standard input");
    }
    Ok(Vec::new())
}

/// Whether a program's text shows that it reads standard input.
fn reads_stdin(language: Language, source: &str) -> bool {
    match language {
        Language::Bash => bash_reads_stdin(source),
        Language::JavaScript => ["stdin", "fd/0", "(0", "readline"]
            .iter()
            .any(|word| source.contains(word)),
        _ => python_reads_stdin(source),
    }
}

/// Commands that read it when they are given no file; whether they are given one is not looked at.
fn bash_reads_stdin(source: &str) -> bool {
    const READERS: [&str; 17] = [
        "read",
        "mapfile",
        "readarray",
        "cat",
        "tee",
        "xargs",
        "sort",
        "uniq",
        "wc",
        "head",
        "tail",
        "tr",
        "cut",
        "sed",
        "awk",
        "grep",
        "jq",
    ];
    source.contains("stdin")
        || source
            .split(|c: char| !(c.is_alphanumeric() || c == '_' || c == '-' || c == '.'))
            .any(|word| READERS.contains(&word))
}

fn python_reads_stdin(source: &str) -> bool {
    let calls_input = source.match_indices("input").any(|(at, word)| {
        let inside = |c: char| c.is_alphanumeric() || c == '_' || c == '.';
        let before = source[..at].chars().next_back().is_some_and(inside);
        !before
            && source[at + word.len()..]
                .trim_start_matches([' ', '\t'])
                .starts_with('(')
    });
    calls_input
        || ["stdin", "fileinput", "open(0"]
            .iter()
            .any(|word| source.contains(word))
}

/// `FILE` or `FILE:GUESTPATH`; a file whose name has a colon in it is taken as it is.
/// A file as an argument names it.
pub(crate) fn input(spec: &str) -> anyhow::Result<Input> {
    let whole = Path::new(spec);
    let (file, guest) = match spec.rsplit_once(":/") {
        Some((file, guest)) if !whole.exists() => (PathBuf::from(file), Some(format!("/{guest}"))),
        _ => (whole.to_path_buf(), None),
    };
    let bytes = read_file(&file, INPUT_MAX, "the input")?;
    let path = match guest {
        Some(guest) => guest,
        None => {
            let name = file.file_name().and_then(|name| name.to_str());
            format!(
                "/data/{}",
                name.context("the input's name is not UTF-8; give it one with FILE:/data/NAME")?
            )
        }
    };
    Ok(Input {
        path: GuestPath::input(&path)?,
        bytes: bytes.into(),
    })
}

fn environment(pairs: &[String]) -> anyhow::Result<BTreeMap<String, String>> {
    pairs
        .iter()
        .map(|pair| {
            let (name, value) = pair
                .split_once('=')
                .with_context(|| format!("-e {pair}: an environment variable is KEY=VALUE"))?;
            Ok((name.to_owned(), value.to_owned()))
        })
        .collect()
}

/// The policy: the strict default, a preset or a file, with what the flags say on top.
fn policy(args: &RunArgs) -> anyhow::Result<Policy> {
    let mut policy = match &args.policy {
        None => Policy::default(),
        Some(name) => named_policy(name)?,
    };
    if let Some(screen) = args.screen {
        policy.screen = match screen {
            ScreenArg::Enforce => ScreenMode::Enforce,
            ScreenArg::Warn => ScreenMode::Warn,
            ScreenArg::Off => ScreenMode::Off,
        };
    }
    apply_limits(&mut policy, &args.limits)?;
    Ok(policy)
}

/// A preset, or else a file.
pub(crate) fn named_policy(name: &str) -> anyhow::Result<Policy> {
    if let Some(policy) = policies::preset(name)? {
        return Ok(policy);
    }
    let presets = policies::names().collect::<Vec<_>>().join(", ");
    let text = fs::read_to_string(name).map_err(|error| {
        NotFound(format!(
            "--policy {name}: not a preset ({presets}) and not a readable file: {error}"
        ))
    })?;
    Ok(policies::parse(name, &text)?)
}

fn apply_limits(policy: &mut Policy, args: &LimitArgs) -> anyhow::Result<()> {
    fn set<T>(limit: &mut Limit<T>, value: Option<T>) {
        if let Some(value) = value {
            *limit = Limit::At(value);
        }
    }
    if let (Some(cpu), Some(wall)) = (args.cpu_time, args.timeout) {
        let reachable = wall.saturating_mul(args.cpus.unwrap_or(1000)) / 1000;
        ensure!(
            cpu <= reachable,
            "--cpu-time and --timeout contradict each other: that much CPU time cannot be used before the timeout; \
             lower one or raise the other"
        );
    }
    let limits = &mut policy.limits;
    set(&mut limits.memory, args.memory);
    set(&mut limits.wall_time, args.timeout.map(Millis));
    set(&mut limits.cpu_time, args.cpu_time.map(Millis));
    set(&mut limits.tasks, args.pids);
    set(&mut limits.disk, args.tmp_size);
    set(&mut limits.disk_files, args.tmp_files);
    set(&mut limits.output, args.output_size);
    set(&mut limits.open_files, args.open_files);
    set(&mut limits.artifacts, args.artifacts);
    set(&mut limits.artifact_bytes, args.artifact_size);
    set(&mut limits.result_bytes, args.result_size);
    limits.cpu_millis = args.cpus.unwrap_or(limits.cpu_millis);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_program_that_reads_waits_for_standard_input() {
        for source in [
            "x = input()",
            "print(input ('?'))",
            "sys.stdin.read()",
            "for l in open(0): pass",
        ] {
            assert!(reads_stdin(Language::Python, source), "{source}");
        }
        for source in [
            "input_data = 1",
            "df.input(3)",
            "my_input(3)",
            "inputs = {}",
            "# the input\n",
        ] {
            assert!(!reads_stdin(Language::Python, source), "{source}");
        }
        for (language, source, reads) in [
            (
                Language::Bash,
                "while read -r line; do echo $line; done",
                true,
            ),
            (Language::Bash, "echo hello | cat", true),
            (Language::Bash, "echo thread; ./ready", false),
            (Language::JavaScript, "process.stdin.on('data', f)", true),
            (Language::JavaScript, "require('fs').readFileSync(0)", true),
            (Language::JavaScript, "console.log(1)", false),
        ] {
            assert_eq!(reads_stdin(language, source), reads, "{source}");
        }
    }
}
