//! What a sandbox with native programs shows as its system, and what is started in it.

use casemate_backend::plan::{Plan, Start};
use casemate_model::job::Language;

use crate::packages::{Opened, PYTHON};

mod host;

pub use host::{host, interpreters as host_interpreters};

/// Where the driver and its packages are seen.
pub const PACKAGES: &str = "/opt/casemate";
/// Where the packages of a virtual environment of the user's own are seen.
pub const VENV: &str = "/opt/venv";

/// Where the agent is seen, in a sandbox that one lives in.
pub const AGENT: &str = "/opt/agent/casemate-guest";
/// Its first argument where it is to be process 1 of a container: it waits for the word to begin, and an agent with the
/// other arguments is its child.
pub const FIRST: &str = "first";
/// Where it finds the channel over which it is handed connections.
pub const AGENT_CHANNEL: i32 = 3;
/// The user of such a sandbox.
const AGENT_USER: &str = "user";

/// The interpreter's environment; nothing of the host's is in it.
const ENVIRON: [(&str, &str); 5] = [
    ("HOME", "/tmp"),
    ("LANG", "C.UTF-8"),
    ("MPLBACKEND", "agg"),
    ("MPLCONFIGDIR", "/tmp"),
    ("TMPDIR", "/tmp"),
];
/// Where the host's programs are looked for.
const HOST_PATH: &str = "/usr/bin:/bin";

/// A system: folders that are shown, opened and checked, and the programs in them.
#[derive(Debug)]
pub struct System {
    /// What it is, for the receipt.
    pub described: String,
    /// The root of an image; none is the host's own system.
    pub root: Option<Opened>,
    /// What is seen at [`PACKAGES`].
    pub packages: Opened,
    /// What is seen at [`VENV`].
    pub venv: Option<Opened>,
    /// The interpreters in it.
    pub interpreters: Interpreters,
    /// Variables that an image brings, `PATH` among them.
    pub env: Vec<(String, String)>,
}

/// Absolute paths of interpreters in a system.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interpreters {
    /// Python 3.
    pub python: Option<String>,
    /// Bash.
    pub bash: Option<String>,
    /// node.
    pub javascript: Option<String>,
}

impl Interpreters {
    /// That of a language.
    #[must_use]
    pub fn of(&self, language: Language) -> Option<&str> {
        match language {
            Language::Python => self.python.as_deref(),
            Language::Bash => self.bash.as_deref(),
            Language::JavaScript => self.javascript.as_deref(),
            _ => None,
        }
    }

    /// The languages there are.
    #[must_use]
    pub fn languages(&self) -> Vec<Language> {
        let there = |language: &Language| self.of(*language).is_some();
        Language::ALL.into_iter().filter(there).collect()
    }
}

/// What is started in a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// The program by its absolute path, and its arguments.
    pub argv: Vec<String>,
    /// Its whole environment.
    pub env: Vec<(String, String)>,
    /// Whether nobody in the sandbox says when the program begins, and so whoever starts it must.
    pub silent: bool,
}

/// How the driver is reached in a kind of sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// It is started with its channel in place; a plain program is started by itself.
    Direct,
    /// It finds its channel as standard input and waits there for the word to begin; a plain program is
    /// started by a small part of it, once that word came.
    Waiting,
}

impl System {
    /// What is started for a plan.
    ///
    /// # Errors
    /// When the system has no interpreter for the language: what is missing, and what to do.
    pub fn command(&self, plan: &Plan, entry: Entry) -> Result<Command, (String, String)> {
        let language = plan.guest.language;
        let program = self.interpreter(language)?;
        let mut env = self.environment();
        match (plan.guest.start, entry) {
            (Start::Driver, _) => Ok(Command {
                argv: self.driver(program, entry),
                env,
                silent: false,
            }),
            (Start::Plain, Entry::Direct) => {
                for (name, value) in &plan.env {
                    set(&mut env, name, value);
                }
                Ok(Command {
                    argv: plain(program, plan),
                    env,
                    silent: true,
                })
            }
            (Start::Plain, Entry::Waiting) => Ok(Command {
                argv: waiting(self.interpreter(Language::Python)?),
                env,
                silent: false,
            }),
        }
    }

    /// The agent, which is handed its connections over the channel, and says nothing there. It brings its own
    /// packages for contexts: those of the machine's own Python, or else what an image has.
    ///
    /// # Errors
    /// When the system has no Python.
    pub fn agent(&self, warm: bool) -> Result<Command, (String, String)> {
        let python = self.interpreter(Language::Python)?;
        let channel = AGENT_CHANNEL.to_string();
        let mut argv = vec![AGENT, "--handoff-fd", &channel, "--user", AGENT_USER];
        argv.extend(["--python", python]);
        let packages = format!("{PACKAGES}/site-packages");
        if self.root.is_none() {
            argv.extend(["--packages", &packages]);
        }
        if self.venv.is_some() {
            argv.extend(["--packages", VENV]);
        }
        if warm {
            argv.push("--warm");
        }
        let mut env = self.environment();
        set(&mut env, "HOME", "/home/user");
        Ok(Command {
            argv: argv.into_iter().map(str::to_owned).collect(),
            env,
            silent: true,
        })
    }

    /// The command line of a program that is run by its interpreter alone; none where our driver runs it.
    ///
    /// # Errors
    /// Those of [`System::command`].
    pub fn plain_command(&self, plan: &Plan) -> Result<Option<Vec<String>>, (String, String)> {
        match plan.guest.start {
            Start::Driver => Ok(None),
            Start::Plain => Ok(Some(plain(self.interpreter(plan.guest.language)?, plan))),
        }
    }

    fn interpreter(&self, language: Language) -> Result<&str, (String, String)> {
        self.interpreters.of(language).ok_or_else(|| {
            let (program, package) = match language {
                Language::Bash => ("bash", "bash"),
                Language::JavaScript => ("node", "nodejs"),
                _ => ("python3", "python3"),
            };
            match &self.root {
                None => (
                    format!("there is no {program} in this machine's /usr/bin, so that {language} cannot be run"),
                    format!(
                        "install it (Debian: apt-get install {package}), or build an image that has it: \
                         casemate image build NAME --debian {package}"
                    ),
                ),
                Some(_) => (
                    format!("{} has no {program}, so that {language} cannot be run", self.described),
                    format!(
                        "take an image that has it, or build one: casemate image build NAME --debian {package}"
                    ),
                ),
            }
        })
    }

    /// Whether it is the machine's own system with our packages and nothing beside them.
    #[must_use]
    pub fn is_host(&self) -> bool {
        self.root.is_none() && self.venv.is_none()
    }

    fn environment(&self) -> Vec<(String, String)> {
        environment(&self.env)
    }

    /// Python with our driver: isolated from the environment, and on the host's own system from whatever is
    /// installed beside it.
    fn driver(&self, python: &str, entry: Entry) -> Vec<String> {
        let module = match entry {
            Entry::Direct => "native",
            Entry::Waiting => "container",
        };
        let from = format!("{PACKAGES}/site-packages");
        let mut boot = format!("import sys; sys.path.append('{from}'); ");
        let mut then = String::new();
        if self.root.is_some() || self.venv.is_some() {
            // The driver has its own packages first; what the program imports is the system's first.
            boot = format!("import sys; sys.path.insert(0, '{from}'); ");
            then = "sys.path.pop(0); ".to_owned();
            if self.venv.is_some() {
                then.push_str(&format!("import site; site.addsitedir('{VENV}'); "));
            }
            then.push_str(&format!("sys.path.append('{from}'); "));
        }
        boot.push_str(&format!(
            "from casemate_guest.{module} import main; {then}main()"
        ));
        let mut argv = vec![python.to_owned(), "-I".to_owned()];
        if self.root.is_none() {
            argv.push("-S".to_owned());
        }
        argv.extend(["-B".to_owned(), "-c".to_owned(), boot]);
        argv
    }
}

/// What loads these modules of Python's own on the machine's own system, or the libraries where there are none, and
/// waits there, to be forked for the programs that [`System::command`] starts our driver for: with the same options and
/// the same environment.
#[must_use]
pub fn host_zygote(modules: &[&str]) -> Command {
    let names = modules.join(" ");
    host_driver(&format!(
        "from casemate_guest.zygote import main; main('{names}'.split())"
    ))
}

/// What loads the libraries in a container on the machine's own system and waits there to be kept as files; restored, it
/// goes on as our driver, which [`System::command`] starts.
#[must_use]
pub fn host_saved() -> Command {
    host_driver("from casemate_guest.container import save; save()")
}

/// The machine's own Python with our packages, which then does this.
fn host_driver(then: &str) -> Command {
    let boot = format!("import sys; sys.path.append('{PACKAGES}/site-packages'); {then}");
    let argv = [PYTHON, "-I", "-S", "-B", "-c", &boot];
    Command {
        argv: argv.map(str::to_owned).to_vec(),
        env: environment(&[]),
        silent: false,
    }
}

/// The interpreter's environment, with what a system brings.
fn environment(brought: &[(String, String)]) -> Vec<(String, String)> {
    let mut env: Vec<(String, String)> = vec![("PATH".to_owned(), HOST_PATH.to_owned())];
    for (name, value) in brought {
        set(&mut env, name, value);
    }
    for (name, value) in ENVIRON {
        set(&mut env, name, value);
    }
    env
}

/// A system that is none, for tests of what is made of a plan: Python, bash and node of the host's, packages
/// in `/p`.
///
/// # Errors
/// When the root directory cannot be opened.
pub fn sample() -> std::io::Result<System> {
    Ok(System {
        described: "a test".to_owned(),
        root: None,
        packages: Opened {
            folder: std::fs::File::open("/")?,
            path: "/p".to_owned(),
        },
        venv: None,
        interpreters: Interpreters {
            python: Some("/usr/bin/python3".to_owned()),
            bash: Some("/usr/bin/bash".to_owned()),
            javascript: Some("/usr/bin/node".to_owned()),
        },
        env: Vec::new(),
    })
}

fn set(env: &mut Vec<(String, String)>, name: &str, value: &str) {
    match env.iter_mut().find(|(known, _)| known == name) {
        Some((_, old)) => *old = value.to_owned(),
        None => env.push((name.to_owned(), value.to_owned())),
    }
}

/// An interpreter with the program's file and the program's arguments.
fn plain(interpreter: &str, plan: &Plan) -> Vec<String> {
    let options: &[&str] = match plan.guest.language {
        // The program is seen where it is asked for, and what lies beside it there is found.
        Language::JavaScript => &["--preserve-symlinks-main"],
        Language::Python => &["-I", "-S", "-B"],
        _ => &[],
    };
    let words = std::iter::once(interpreter).chain(options.iter().copied());
    let words = words.chain(std::iter::once(plan.program.path.as_str()));
    let arguments = plan.argv.iter().skip(1).map(String::as_str);
    words.chain(arguments).map(str::to_owned).collect()
}

/// The part of the driver that waits for the word to begin and starts another program then.
fn waiting(python: &str) -> Vec<String> {
    let boot = format!(
        "import sys; sys.path.append('{PACKAGES}/site-packages'); from casemate_plain import main; main()"
    );
    ["-I", "-S", "-B", "-c", &boot]
        .iter()
        .fold(vec![python.to_owned()], |mut argv, word| {
            argv.push((*word).to_owned());
            argv
        })
}

#[cfg(test)]
mod tests {
    use casemate_backend::plan::Guest;
    use casemate_backend::suite::plan_for;
    use casemate_model::job::ImageChoice;

    use super::*;

    fn plan(language: Language) -> Plan {
        let mut plan = plan_for("x");
        plan.program.path = format!("/work/{}", language.default_file());
        plan.guest = Guest::new(language, ImageChoice::default());
        plan.argv = vec![language.default_file().to_owned(), "a b".to_owned()];
        plan.env.insert("KEY".to_owned(), "value".to_owned());
        plan.env.insert("PATH".to_owned(), "/own".to_owned());
        plan
    }

    fn variable<'a>(command: &'a Command, name: &str) -> Option<&'a str> {
        let found = command.env.iter().filter(|(known, _)| known == name);
        let values: Vec<&str> = found.map(|(_, value)| value.as_str()).collect();
        assert!(values.len() <= 1, "{name} is there twice");
        values.first().copied()
    }

    #[test]
    fn other_languages_are_run_by_their_interpreter_alone() {
        let system = sample().unwrap();
        let bash = system
            .command(&plan(Language::Bash), Entry::Direct)
            .unwrap();
        assert_eq!(bash.argv, ["/usr/bin/bash", "/work/main.sh", "a b"]);
        assert!(bash.silent);
        assert_eq!(variable(&bash, "KEY"), Some("value"));
        assert_eq!(variable(&bash, "PATH"), Some("/own"));
        let node = system
            .command(&plan(Language::JavaScript), Entry::Direct)
            .unwrap();
        let words = [
            "/usr/bin/node",
            "--preserve-symlinks-main",
            "/work/main.js",
            "a b",
        ];
        assert_eq!(node.argv, words);
    }

    #[test]
    fn in_a_container_a_small_part_of_the_driver_waits_first() {
        let system = sample().unwrap();
        let plan = plan(Language::Bash);
        let command = system.command(&plan, Entry::Waiting).unwrap();
        assert_eq!(command.argv.first().unwrap(), "/usr/bin/python3");
        assert!(command.argv.last().unwrap().contains("casemate_plain"));
        assert!(!command.silent);
        assert_eq!(
            variable(&command, "KEY"),
            None,
            "its variables are not ours"
        );
        let plain = system.plain_command(&plan).unwrap().unwrap();
        assert_eq!(plain, ["/usr/bin/bash", "/work/main.sh", "a b"]);
    }

    #[test]
    fn the_driver_of_an_image_has_its_packages_first_and_the_program_the_image_s() {
        let mut system = sample().unwrap();
        let python = plan(Language::Python);
        let host = system.command(&python, Entry::Direct).unwrap();
        assert!(host.argv.contains(&"-S".to_owned()));
        assert_eq!(system.plain_command(&python).unwrap(), None);
        system.root = Some(Opened {
            folder: std::fs::File::open("/").unwrap(),
            path: "/image".to_owned(),
        });
        system.env = vec![
            ("PATH".to_owned(), "/image/bin".to_owned()),
            ("HOME".to_owned(), "/root".to_owned()),
        ];
        let image = system.command(&python, Entry::Direct).unwrap();
        assert!(!image.argv.contains(&"-S".to_owned()));
        let boot = image.argv.last().unwrap();
        assert!(boot.find("insert(0").unwrap() < boot.find("import main").unwrap());
        assert!(boot.find("sys.path.append").unwrap() < boot.find("; main()").unwrap());
        assert_eq!(variable(&image, "PATH"), Some("/image/bin"));
        assert_eq!(
            variable(&image, "HOME"),
            Some("/tmp"),
            "only that can be written"
        );
    }

    #[test]
    fn a_zygote_is_started_as_the_driver_is_on_the_machine_s_own_system() {
        let driver = sample()
            .unwrap()
            .command(&plan(Language::Python), Entry::Direct)
            .unwrap();
        let zygote = host_zygote(&["json", "os"]);
        assert_eq!(zygote.env, driver.env);
        assert_eq!(zygote.argv[..5], driver.argv[..5]);
        assert!(zygote.argv[5].ends_with("main('json os'.split())"));
        assert!(sample().unwrap().is_host());
    }

    #[test]
    fn what_is_not_there_is_said_with_a_way_out() {
        let mut system = sample().unwrap();
        system.interpreters.javascript = None;
        let (why, fix) = system
            .command(&plan(Language::JavaScript), Entry::Direct)
            .unwrap_err();
        assert!(
            why.contains("no node") && fix.contains("nodejs"),
            "{why}; {fix}"
        );
        assert_eq!(
            system.interpreters.languages(),
            [Language::Python, Language::Bash]
        );
    }
}
