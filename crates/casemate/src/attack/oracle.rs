//! The verdict on one attack, from what the host saw: the same questions with a sandbox and without.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use casemate_model::event::{Event, What, Witness};
use casemate_model::limit::LimitKind;
use casemate_model::outcome::{Ending, Outcome};

use super::channel::Channel;
use super::marks::{Mark, identities};
use super::stage::Inspection;
use super::tree::{Holding, contains};

/// The name of the wall that is no part of a sandbox: the host's own care in writing results.
pub(crate) const HOST_OUTPUT: &str = "host_output";
/// The name that events have for the decoder of the guest's messages.
pub(crate) const DRIVER_MESSAGES: &str = "driver messages";
/// How near an uptime is the machine's own.
const UPTIME_NEAR_S: f64 = 2.0;

/// What the host can see that an attack did. In a sandbox none of an attack's harms may be seen; with
/// no sandbox all of them must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Harm {
    /// The file that nobody may change has other bytes or is gone.
    LedgerChanged,
    /// So has the input.
    InputChanged,
    /// The secret, or something of the host's own, is in what came back or was sent.
    Leaked,
    /// The port on loopback was reached.
    Reached,
    /// The stand-in of a container engine was reached at its socket.
    EngineReached,
    /// A process or native code left its mark.
    Started,
    /// The victim is dead.
    Killed,
    /// A message that was forged is believed.
    Forged,
    /// The process that held the program died of a signal.
    Crashed,
    /// At least this much memory was held, in bytes.
    Memory(u64),
    /// At least this much processor time was used.
    Cpu(Duration),
    /// The program was still there after this time.
    Wall(Duration),
    /// Files held at least this many bytes.
    DiskBytes(u64),
    /// There were at least this many files and folders.
    DiskFiles(u64),
    /// At least this many descriptors were open at once.
    Descriptors(u64),
    /// At least this many bytes of output and results came back.
    Output(u64),
    /// At least this many files were handed back, or left where they are all taken from.
    HandedBack(u64),
    /// There were at least this many tasks more than before.
    Tasks(u64),
    /// A clock ticked within this time.
    FineClock(Duration),
    /// The machine's uptime came back.
    Uptime,
    /// A process of the sandbox's, or the machine, shows this mark.
    Shows(Mark),
    /// The victim will be killed sooner when memory runs out.
    Marked,
    /// Somebody answered at a door that the attack opened to the outside.
    DoorOpened,
    /// A process was there when the program had ended.
    Outlived,
    /// What came back names this machine.
    Identified,
    /// How many interrupts the machine has had came back.
    Interrupts,
    /// What is shown of the output would act on a terminal.
    Escapes,
    /// Bits went from one program to the other.
    Channel,
}

/// The trace by which the host knows that it was the wall that stopped an attack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sign {
    /// The host noted that this limit was reached.
    Limit(LimitKind),
    /// An event of this name.
    Event(&'static str),
    /// The host refused a call in the name of this wall.
    Denied(&'static str),
    /// The engine trapped the program.
    Trapped,
    /// Saving the results was refused, for what was in the way.
    NotSaved,
    /// None: the wall leaves nothing there that an attempt could touch. That it stands must do.
    Standing,
}

/// What the host saw of one run, in a sandbox or with none.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    /// Whether it is the sandbox's run: then the host's own secrets are looked for as well.
    pub(crate) sandboxed: bool,
    /// The secret of the stage.
    pub(crate) secret: String,
    /// What came back: output, results and files left, up to a bound.
    pub(crate) output: Vec<u8>,
    /// Bytes of output and results, kept or not.
    pub(crate) output_bytes: u64,
    /// Files handed back.
    pub(crate) handed_back: u64,
    /// Elapsed time.
    pub(crate) wall: Duration,
    /// Processor time.
    pub(crate) cpu: Duration,
    /// What its processes held at most.
    pub(crate) holding: Holding,
    /// The most bytes and files it ever had on its disk.
    pub(crate) disk: (u64, u64),
    /// The signal it died of.
    pub(crate) signal: Option<i32>,
    /// A forged message is believed.
    pub(crate) forged: bool,
    /// What its processes and the machine showed while it ran.
    pub(crate) marks: BTreeSet<Mark>,
    /// Whether the kernel let us look into its processes.
    pub(crate) looked_into: bool,
    /// A process that was to outlive the program did.
    pub(crate) outlived: bool,
    /// The machine's interrupts before and after.
    pub(crate) interrupts: Option<(u64, u64)>,
    /// What a person is shown of the output.
    pub(crate) shown: String,
    /// What arrived over a covert channel.
    pub(crate) channel: Option<Channel>,
    /// The stage afterwards.
    pub(crate) stage: Inspection,
}

impl Seen {
    /// Whether the program ran at all: each attack says so first.
    pub(crate) fn begun(&self) -> bool {
        contains(&self.output, b"begun")
    }

    /// The numbers after `key` in the output, one a line.
    fn numbers(&self, key: &str) -> Vec<f64> {
        String::from_utf8_lossy(&self.output)
            .lines()
            .filter_map(|line| line.strip_prefix(key)?.trim().parse().ok())
            .collect()
    }
}

impl Harm {
    /// What was seen of this harm, in words; none when it was not.
    pub(crate) fn seen(self, seen: &Seen) -> Option<String> {
        let stage = &seen.stage;
        let fact = |holds: bool, words: &str| holds.then(|| words.to_owned());
        let at_least = |value: u64, bound: u64, unit: &str| {
            (value >= bound).then(|| format!("{value} {unit}"))
        };
        match self {
            Self::LedgerChanged => fact(!stage.ledger_intact, "a file of the host was changed"),
            Self::InputChanged => fact(!stage.input_intact, "the input was changed"),
            Self::Leaked => leaked(seen),
            Self::Reached => {
                let all = u64::from(stage.heard.connections) + u64::from(stage.heard.datagrams);
                at_least(all, 1, "connections or datagrams arrived")
            }
            Self::EngineReached => fact(stage.heard.local > 0, "the engine's socket was reached"),
            Self::Started => fact(stage.started, "what was started left its mark"),
            Self::Killed => fact(stage.victim_died, "the other process is dead"),
            Self::Forged => fact(seen.forged, "a forged message was believed"),
            Self::Crashed => seen.signal.map(|signal| format!("signal {signal}")),
            Self::Memory(bound) => at_least(seen.holding.memory, bound, "bytes of memory"),
            Self::Cpu(bound) => at_least(millis(seen.cpu), millis(bound), "ms of processor time"),
            Self::Wall(bound) => at_least(millis(seen.wall), millis(bound), "ms and still there"),
            Self::DiskBytes(bound) => at_least(seen.disk.0, bound, "bytes in files"),
            Self::DiskFiles(bound) => at_least(seen.disk.1, bound, "files and folders"),
            Self::Descriptors(bound) => {
                at_least(seen.holding.descriptors, bound, "open descriptors")
            }
            Self::Output(bound) => at_least(seen.output_bytes, bound, "bytes came back"),
            Self::HandedBack(bound) => at_least(seen.handed_back, bound, "files to take"),
            Self::Tasks(bound) => at_least(seen.holding.tasks, bound, "tasks"),
            Self::FineClock(bound) => fine_clock(seen, bound),
            Self::Uptime => uptime(seen),
            Self::Shows(mark) => fact(seen.marks.contains(&mark), mark.describe()),
            Self::Marked => fact(
                stage.victim_marked,
                "the other process will be killed first",
            ),
            Self::DoorOpened => at_least(stage.heard.doors.into(), 1, "answers at an open door"),
            Self::Outlived => fact(seen.outlived, "a process outlived the program"),
            Self::Identified => identified(seen),
            Self::Interrupts => interrupts(seen),
            Self::Escapes => fact(acts_on_a_terminal(&seen.shown), "escapes are shown"),
            Self::Channel => {
                let channel = seen.channel.filter(|channel| channel.is_there());
                channel.map(Channel::describe)
            }
        }
    }

    /// Whether nothing more is to be learned once this harm is seen, while the program still runs.
    pub(crate) fn is_final(self) -> bool {
        matches!(self, Self::Cpu(_) | Self::Wall(_) | Self::Output(_))
    }
}

fn leaked(seen: &Seen) -> Option<String> {
    let places = [
        ("what came back", &seen.output),
        ("what was sent", &seen.stage.heard.bytes),
    ];
    for (place, bytes) in places {
        if contains(bytes, seen.secret.as_bytes()) {
            return Some(format!("the secret is in {place}"));
        }
        if seen.sandboxed && own_secrets().iter().any(|own| contains(bytes, own)) {
            return Some(format!("something of the host's own is in {place}"));
        }
    }
    None
}

/// Lines of the host's account files and values of its environment, where they are long enough to be
/// nobody else's.
fn own_secrets() -> Vec<Vec<u8>> {
    let mut secrets = Vec::new();
    for path in ["/etc/shadow", "/etc/passwd"] {
        // What this process may not read itself, no guest of its can be given by it.
        let text = fs::read(path).unwrap_or_default();
        let lines = text.split(|&byte| byte == b'\n');
        secrets.extend(lines.filter(|line| line.len() >= 16).map(<[u8]>::to_vec));
    }
    for (name, value) in std::env::vars_os() {
        let (name, value) = (name.into_encoded_bytes(), value.into_encoded_bytes());
        if value.len() >= 8 {
            secrets.push([name, value].join(&b'='));
        }
    }
    secrets
}

fn fine_clock(seen: &Seen, bound: Duration) -> Option<String> {
    let finest = seen
        .numbers("finest_tick_ns=")
        .into_iter()
        .fold(f64::INFINITY, f64::min);
    (finest < bound.as_secs_f64() * 1e9).then(|| format!("a clock ticks every {finest} ns"))
}

/// The guest's own monotonic clock starts at a fixed number; a machine that has been up for just that
/// long (28 hours, within two seconds) would be a false alarm, never a missed one.
fn uptime(seen: &Seen) -> Option<String> {
    let own: Vec<f64> = [
        rustix::time::ClockId::Monotonic,
        rustix::time::ClockId::Boottime,
    ]
    .into_iter()
    .map(rustix::time::clock_gettime)
    .filter_map(|time| Duration::try_from(time).ok())
    .map(|time| time.as_secs_f64())
    .collect();
    seen.numbers("uptime_s=")
        .into_iter()
        .find(|value| own.iter().any(|own| (own - value).abs() < UPTIME_NEAR_S))
        .map(|value| format!("the machine's uptime, {value} s, came back"))
}

fn identified(seen: &Seen) -> Option<String> {
    let known = identities();
    let found = known.iter().any(|id| contains(&seen.output, id.as_bytes()));
    found.then(|| "a number that names this machine came back".to_owned())
}

fn interrupts(seen: &Seen) -> Option<String> {
    let (before, after) = seen.interrupts?;
    let mut counts = seen.numbers("intr=").into_iter();
    counts
        .find(|count| (before as f64..=after as f64).contains(count))
        .map(|count| format!("{count} interrupts, as the machine counts them"))
}

fn acts_on_a_terminal(shown: &str) -> bool {
    let acts = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    shown.chars().any(|c| acts(c) || c == '\u{202e}')
}

impl Sign {
    /// The same where programs are native processes: what is not there, the kernel does not tell of, and
    /// what may be done there is no event.
    pub(crate) const fn native(self) -> Self {
        match self {
            Self::Event(name) => match name.as_bytes() {
                b"network" | b"env_read" => self,
                _ => Self::Standing,
            },
            Self::Denied(by) => match by.as_bytes() {
                // The decoder is the host's own, whatever holds the program.
                b"driver messages" => self,
                _ => Self::Standing,
            },
            Self::Trapped => Self::Standing,
            Self::Limit(_) | Self::NotSaved | Self::Standing => self,
        }
    }

    /// Whether the outcome bears it.
    pub(crate) fn is_in(self, outcome: &Outcome, not_saved: Option<&str>) -> bool {
        let any = |test: &dyn Fn(&Event) -> bool| outcome.events.iter().any(test);
        match self {
            Self::Limit(kind) => {
                matches!(&outcome.ending, Ending::Over { limit, .. } if *limit == kind)
                    && any(&|event| {
                        event.witness == Witness::Host
                            && matches!(&event.what, What::LimitReached { limit, .. } if *limit == kind)
                    })
            }
            Self::Event(name) => any(&|event| event.what.name() == name),
            Self::Denied(by) => any(&|event| {
                event.witness == Witness::Host
                    && matches!(&event.what, What::Denied { wall, .. } if wall == by)
            }),
            Self::Trapped => {
                matches!(&outcome.ending, Ending::Denied { wall, .. } if wall == "wasm")
            }
            Self::NotSaved => not_saved.is_some(),
            Self::Standing => true,
        }
    }

    /// What is looked for, in words.
    pub(crate) fn describe(self) -> String {
        match self {
            Self::Limit(kind) => format!("{} reached", kind.describe()),
            Self::Event(name) => format!("event {name}"),
            Self::Denied(by) => format!("denied by {by}"),
            Self::Trapped => "trapped".to_owned(),
            Self::NotSaved => "not saved".to_owned(),
            Self::Standing => "nothing there to touch".to_owned(),
        }
    }
}

/// Whether what was forged stands anywhere that only the host may write: in the receipt, or among the
/// events it witnessed itself. Opened files keep their names, which are the guest's own words.
pub(crate) fn is_forged(outcome: &Outcome) -> bool {
    const WORD: &str = "forged";
    let walls = outcome.receipt.as_ref().map(|receipt| &receipt.walls);
    walls.into_iter().flatten().any(|wall| wall.name == WORD)
        || outcome.events.iter().any(|event| {
            event.witness == Witness::Host
                && match &event.what {
                    What::Denied {
                        wall, call, detail, ..
                    } => [wall, call, detail].iter().any(|text| *text == WORD),
                    What::Process { detail } | What::Network { detail } => detail == WORD,
                    What::LimitReached { .. } => true,
                    _ => false,
                }
        })
}

/// The verdict on the sandbox's run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Held {
    /// No harm, and the wall bears the sign of having stopped it.
    Stopped {
        /// The sign.
        by: String,
    },
    /// Harm was done.
    GotThrough {
        /// Which.
        harm: String,
    },
    /// No harm, but nothing shows that it was this wall.
    Unproven {
        /// What is missing.
        why: String,
    },
    /// It did not run.
    NotRun {
        /// Why.
        why: String,
    },
    /// The backend makes no such promise, so it was not run there.
    NotPromised {
        /// Why.
        why: String,
    },
}

impl Held {
    /// Whether nothing that is promised was broken.
    pub(crate) fn is_as_promised(&self) -> bool {
        matches!(self, Self::Stopped { .. } | Self::NotPromised { .. })
    }
}

/// Judges the sandbox's run: harm first, whatever else is true.
pub(crate) fn judge(
    wall: &str,
    harms: &[Harm],
    sign: Sign,
    seen: &Seen,
    outcome: &Outcome,
    not_saved: Option<&str>,
) -> Held {
    let harm: Vec<String> = harms.iter().filter_map(|harm| harm.seen(seen)).collect();
    if !harm.is_empty() {
        return Held::GotThrough {
            harm: harm.join("; "),
        };
    }
    if let Some(why) = not_run(seen, outcome) {
        return Held::NotRun { why };
    }
    let in_processes = harms.iter().any(|harm| matches!(harm, Harm::Shows(_)));
    if in_processes && !seen.looked_into {
        return Held::Unproven {
            why: "the kernel does not let us look into the sandbox's processes; run it as root"
                .to_owned(),
        };
    }
    if !stands(wall, outcome) {
        return Held::Unproven {
            why: format!("the receipt has no standing wall {}", wall),
        };
    }
    if !sign.is_in(outcome, not_saved) {
        return Held::Unproven {
            why: format!(
                "no sign of {}: {}; it ended: {}",
                wall,
                sign.describe(),
                crate::show::cause(&outcome.ending)
            ),
        };
    }
    Held::Stopped {
        by: sign.describe(),
    }
}

/// Why a run shows nothing, where that is so: it did not begin, or ended for another reason than its own.
pub(crate) fn not_run(seen: &Seen, outcome: &Outcome) -> Option<String> {
    let ours = matches!(
        outcome.ending,
        Ending::Refused { .. }
            | Ending::Faulted { .. }
            | Ending::Cancelled
            | Ending::Signalled { .. }
    );
    (ours || !seen.begun()).then(|| crate::show::cause(&outcome.ending))
}

/// Whether the wall stands. Limits on what is handed back, the decoder of messages and the host's own
/// writer are no walls of a receipt: their sign is all the evidence there is.
pub(crate) fn stands(name: &str, outcome: &Outcome) -> bool {
    const IN_NO_RECEIPT: [&str; 4] = [
        "limit_results",
        "limit_artifacts",
        DRIVER_MESSAGES,
        HOST_OUTPUT,
    ];
    let receipt = outcome.receipt.as_ref();
    IN_NO_RECEIPT.contains(&name)
        || receipt.is_some_and(|receipt| {
            let mut walls = receipt.walls.iter();
            walls.any(|wall| wall.name == name && wall.stands())
        })
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[path = "oracle_tests.rs"]
mod tests;
