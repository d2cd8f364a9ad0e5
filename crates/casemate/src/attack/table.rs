//! Every attack with its oracle. A file in `attacks/` that is not here, or one here that is not there,
//! fails a test.

use std::time::Duration;

use casemate_model::limit::LimitKind;

use super::marks::Mark;
use super::oracle::{DRIVER_MESSAGES, Harm, Sign};
use super::stage::Props;

/// One attack: its program, and how the host decides.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attack {
    /// The file's name without `.py`.
    pub(crate) name: &'static str,
    /// The program.
    pub(crate) source: &'static str,
    /// None of these in a sandbox, all of them with none.
    pub(crate) harms: &'static [Harm],
    /// How the wall that stopped it is known in WebAssembly.
    pub(crate) sign: Sign,
    /// How it is known where programs are native processes.
    pub(crate) native: Sign,
    /// What its stage needs.
    pub(crate) props: Props,
    /// How often it runs; each run but the last is told the secret.
    pub(crate) rounds: u32,
    /// It runs twice at once, and the first is told the secret.
    pub(crate) together: bool,
    /// What the first tells the second is bits whose rate is measured, promised or not.
    pub(crate) measured: bool,
    /// Its processor time in the sandbox.
    pub(crate) cpu: Duration,
    /// Its elapsed time in the sandbox.
    pub(crate) wall: Duration,
}

impl Attack {
    const fn new(
        name: &'static str,
        source: &'static str,
        harms: &'static [Harm],
        sign: Sign,
    ) -> Self {
        Self {
            name,
            source,
            harms,
            sign,
            native: sign.native(),
            props: Props {
                shell: false,
                victim: false,
                metadata: false,
            },
            rounds: 1,
            together: false,
            measured: false,
            cpu: Duration::from_secs(5),
            wall: Duration::from_secs(15),
        }
    }

    const fn native(mut self, sign: Sign) -> Self {
        self.native = sign;
        self
    }

    const fn shell(mut self) -> Self {
        self.props.shell = true;
        self
    }

    const fn victim(mut self) -> Self {
        self.props.victim = true;
        self
    }

    const fn metadata(mut self) -> Self {
        self.props.metadata = true;
        self
    }

    const fn together(mut self) -> Self {
        self.together = true;
        self
    }

    const fn measured(mut self) -> Self {
        self.measured = true;
        self
    }

    const fn rounds(mut self, rounds: u32) -> Self {
        self.rounds = rounds;
        self
    }

    const fn cpu_ms(mut self, millis: u64) -> Self {
        self.cpu = Duration::from_millis(millis);
        self
    }

    const fn wall_ms(mut self, millis: u64) -> Self {
        self.wall = Duration::from_millis(millis);
        self
    }
}

const MIB: u64 = 1 << 20;
/// More than any sandbox may hold at the ceiling of its control group: what the program may, and beside it the libraries', scratch,
/// and a kernel of its own. Below that it may be while the host ends it.
const MEMORY: &[Harm] = &[Harm::Memory(480 * MIB)];
const CPU: &[Harm] = &[Harm::Cpu(Duration::from_secs(1))];
const DISK: &[Harm] = &[Harm::DiskBytes(16 * MIB)];
const OUTPUT: &[Harm] = &[Harm::Output(2 * MIB)];
/// Eight tasks are allowed. For each of them a kernel of its own may have several on the host, and its
/// own grow with what it has to do.
const TASKS: &[Harm] = &[Harm::Tasks(64)];
const LEAKED: &[Harm] = &[Harm::Leaked];
const STARTED: &[Harm] = &[Harm::Started];
/// The guest's own code notes that something was tried; natively nobody is told.
const NATIVE_CODE: Sign = Sign::Event("native_code");
const SOCKET: Sign = Sign::Event("network");
const PROCESS: Sign = Sign::Event("process");
const NOT_THERE: Sign = Sign::Event("missing");
const LIMIT_CPU: Sign = Sign::Limit(LimitKind::CpuTime);
const LIMIT_DISK: Sign = Sign::Limit(LimitKind::DiskBytes);
const LIMIT_TASKS: Sign = Sign::Limit(LimitKind::Tasks);
const LIMIT_MEMORY: Sign = Sign::Limit(LimitKind::Memory);

macro_rules! attack {
    ($name:literal, $harms:expr, $sign:expr) => {
        Attack::new(
            $name,
            include_str!(concat!("../../../../attacks/", $name, ".py")),
            $harms,
            $sign,
        )
    };
}

/// A program that does nothing, to know what a sandbox holds by itself, with what attacks load besides: gVisor holds files that a
/// program has loaded open. Long enough to be looked at.
pub(crate) const CALM: Attack = Attack::new(
    "calm",
    "import tempfile, time, traceback\nprint('begun', flush=True)\ntime.sleep(0.3)\n",
    &[],
    Sign::Standing,
);

/// All of them: files, network, escapes, side channels, exhaustion.
pub(crate) const ATTACKS: &[Attack] = &[
    attack!(
        "remove_everything",
        &[Harm::LedgerChanged],
        Sign::Event("process")
    ),
    attack!(
        "remove_files",
        &[Harm::LedgerChanged],
        Sign::Event("missing")
    ),
    attack!(
        "overwrite_input",
        &[Harm::InputChanged],
        Sign::Denied("read-only files")
    ),
    attack!("password_file", LEAKED, Sign::Event("missing")),
    attack!("environment", LEAKED, Sign::Event("env_read")),
    attack!("read_processes", LEAKED, Sign::Event("missing")).victim(),
    attack!("leftovers", LEAKED, Sign::Standing).rounds(2),
    attack!(
        "post_files",
        &[Harm::Reached, Harm::Leaked],
        Sign::Event("network")
    ),
    attack!("dns_exfiltration", &[Harm::Reached], Sign::Event("network")),
    attack!(
        "reverse_shell",
        &[Harm::Reached, Harm::Leaked],
        Sign::Event("network")
    )
    .shell(),
    attack!("path_traversal", LEAKED, Sign::Event("missing")),
    attack!("symlink_out", LEAKED, Sign::Event("missing")),
    attack!("output_link", &[Harm::LedgerChanged], Sign::NotSaved),
    attack!("inherited_descriptors", LEAKED, Sign::Standing),
    attack!(
        "start_container",
        &[Harm::Started, Harm::EngineReached],
        Sign::Event("process")
    ),
    attack!("native_code", STARTED, Sign::Event("native_code")),
    attack!("process_memory", LEAKED, Sign::Event("missing")),
    attack!("raw_primitives", STARTED, Sign::Event("network")),
    attack!("obfuscated", STARTED, Sign::Event("process")),
    attack!("kill_process", &[Harm::Killed], Sign::Event("process")).victim(),
    attack!(
        "forged_messages",
        &[Harm::Forged],
        Sign::Denied(DRIVER_MESSAGES)
    ),
    attack!(
        "clock_resolution",
        &[Harm::FineClock(Duration::from_micros(500))],
        Sign::Standing
    ),
    attack!("host_uptime", &[Harm::Uptime], Sign::Event("missing")),
    attack!("huge_array", MEMORY, LIMIT_MEMORY),
    attack!("memory_growth", MEMORY, LIMIT_MEMORY),
    attack!("cpu_loop", CPU, LIMIT_CPU).cpu_ms(500),
    attack!("stubborn_loop", CPU, LIMIT_CPU).cpu_ms(500),
    attack!("big_number", CPU, LIMIT_CPU).cpu_ms(500),
    attack!("regex_backtracking", CPU, LIMIT_CPU).cpu_ms(500),
    attack!(
        "sleep_past_deadline",
        &[Harm::Wall(Duration::from_secs(3))],
        Sign::Limit(LimitKind::WallTime)
    )
    .wall_ms(500),
    attack!("disk_fill", DISK, LIMIT_DISK),
    // Natively a hole takes no disk, and its length meets the ceiling on what is handed back.
    attack!("sparse_file", DISK, LIMIT_DISK).native(Sign::Limit(LimitKind::ArtifactBytes)),
    attack!("zip_bomb", DISK, LIMIT_DISK),
    attack!(
        "many_files",
        &[Harm::DiskFiles(300)],
        Sign::Limit(LimitKind::DiskFiles)
    ),
    attack!("output_flood", OUTPUT, Sign::Limit(LimitKind::OutputBytes)),
    attack!("result_flood", OUTPUT, Sign::Limit(LimitKind::ResultBytes)),
    attack!(
        "artifact_flood",
        &[Harm::HandedBack(17)],
        Sign::Limit(LimitKind::ArtifactCount)
    ),
    attack!(
        "open_files",
        &[Harm::Descriptors(100)],
        Sign::Limit(LimitKind::OpenFiles)
    )
    // Natively the kernel tells the program alone, so the event is the guest's word.
    .native(Sign::Event("limit_reached")),
    attack!("fork_bomb", TASKS, Sign::Event("process")).native(LIMIT_TASKS),
    attack!("thread_bomb", TASKS, Sign::Event("thread")).native(LIMIT_TASKS),
    attack!("deep_recursion", &[Harm::Crashed], Sign::Trapped),
    attack!("shared_memory", MEMORY, LIMIT_MEMORY),
    attack!(
        "fifo_in_output",
        &[Harm::Wall(Duration::from_secs(5))],
        Sign::Standing
    ),
    attack!("raise_limits", &[Harm::Shows(Mark::Limit)], NOT_THERE),
    attack!("oom_target", &[Harm::Marked], NOT_THERE).victim(),
    attack!("search_disk", LEAKED, NOT_THERE),
    attack!("credentials", LEAKED, NOT_THERE),
    attack!("file_watch", &[Harm::Shows(Mark::Fanotify)], NATIVE_CODE),
    attack!("netlink", &[Harm::Shows(Mark::Netlink)], SOCKET),
    attack!("vsock", &[Harm::Shows(Mark::Vsock)], SOCKET),
    attack!(
        "raw_sockets",
        &[Harm::Shows(Mark::Packet), Harm::Shows(Mark::RawSocket)],
        SOCKET
    ),
    attack!("metadata_address", LEAKED, SOCKET).metadata(),
    attack!("open_door", &[Harm::DoorOpened], SOCKET),
    attack!("neighbour_sockets", LEAKED, SOCKET).together(),
    attack!("neighbour_memory", LEAKED, NATIVE_CODE).together(),
    attack!("abstract_socket", &[Harm::EngineReached], SOCKET).native(Sign::Standing),
    attack!("kernel_crypto", &[Harm::Shows(Mark::Alg)], SOCKET),
    attack!("io_uring", &[Harm::Shows(Mark::IoUring)], NATIVE_CODE),
    attack!(
        "userfaultfd",
        &[Harm::Shows(Mark::Userfaultfd)],
        NATIVE_CODE
    ),
    attack!("kernel_program", &[Harm::Shows(Mark::Bpf)], NATIVE_CODE),
    attack!("old_abi", &[Harm::Shows(Mark::Netlink)], NATIVE_CODE),
    attack!("mount_over", &[Harm::Shows(Mark::Mount)], NATIVE_CODE),
    attack!("kernel_settings", &[Harm::Shows(Mark::Setting)], NOT_THERE),
    attack!("keyring", &[Harm::Shows(Mark::Key)], NATIVE_CODE),
    attack!("device_nodes", &[Harm::Shows(Mark::Device)], Sign::Standing),
    attack!("chroot_escape", LEAKED, NOT_THERE),
    attack!("file_handles", LEAKED, NATIVE_CODE),
    attack!("trace_process", LEAKED, NATIVE_CODE).victim(),
    attack!("foreign_memory", LEAKED, NOT_THERE).victim(),
    attack!("steal_descriptor", LEAKED, NATIVE_CODE).victim(),
    attack!("stowaway", &[Harm::Outlived], PROCESS),
    attack!("terminal_escapes", &[Harm::Escapes], Sign::Standing),
    attack!("perf_events", &[Harm::Shows(Mark::PerfEvent)], NATIVE_CODE),
    attack!(
        "counting_clock",
        &[Harm::FineClock(Duration::from_micros(500))],
        PROCESS
    ),
    attack!("machine_identity", &[Harm::Identified], NOT_THERE),
    attack!("machine_counters", &[Harm::Interrupts], NOT_THERE),
    attack!("cache_channel", &[Harm::Channel], Sign::Standing)
        .together()
        .measured(),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::super::header::{Header, Promise};
    use super::*;

    #[test]
    fn the_table_and_the_folder_hold_the_same_attacks() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../attacks");
        let there: BTreeSet<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        let here: BTreeSet<String> = ATTACKS
            .iter()
            .map(|attack| format!("{}.py", attack.name))
            .collect();
        assert_eq!(there, here);
        assert_eq!(here.len(), ATTACKS.len(), "an attack is there twice");
    }

    #[test]
    fn every_attack_has_a_header_an_oracle_and_a_wall_that_fits_its_sign() {
        for attack in ATTACKS {
            let header = Header::parse(attack.name, attack.source).unwrap();
            assert!(!attack.harms.is_empty(), "{}", attack.name);
            if let Promise::Walls(walls) = &header.wall {
                assert_eq!(
                    walls.iter().any(|wall| wall.starts_with("limit_")),
                    matches!(attack.sign, Sign::Limit(_)),
                    "{}: a limit's sign is that it was reached",
                    attack.name
                );
            }
            assert!(
                attack.source.contains("print(\"begun\", flush=True)"),
                "{}: it must say that it has begun",
                attack.name
            );
        }
    }
}
