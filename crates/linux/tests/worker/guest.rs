//! What runs on the other side: the worker and its relatives.

use std::ffi::c_void;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::mpsc;

use casemate_linux::cgroup::{Cgroup, CgroupLimits};
use casemate_linux::lockdown::{self, LockdownPlan};
use casemate_linux::{Limit, Spawn, Stderr, take_fd};

/// `mov eax, 42; ret`
const CODE: [u8; 6] = [0xb8, 42, 0, 0, 0, 0xc3];
const PAGE: usize = 4096;
const RW: i32 = libc::PROT_READ | libc::PROT_WRITE;
const RX: i32 = libc::PROT_READ | libc::PROT_EXEC;

pub(crate) const CHANNEL: i32 = 3;
pub(crate) const MODULE: i32 = 4;

struct Worker {
    /// Kept for the life of the process, because a second handle would need `dup`.
    channel: &'static UnixStream,
    module: std::fs::File,
    code: *mut c_void,
    /// A thread that is there before the filter is narrowed.
    early: mpsc::Sender<usize>,
    answer: mpsc::Receiver<bool>,
}

/// Locks down, says what stands, then obeys.
pub(crate) fn worker() -> ExitCode {
    let steps = lockdown::enter(&LockdownPlan::new(&[0, 1, 2, CHANNEL, MODULE]));
    let channel: &UnixStream = Box::leak(Box::new(take_fd(CHANNEL).unwrap().into()));
    let module = std::fs::File::from(take_fd(MODULE).unwrap());
    assert!(take_fd(CHANNEL).is_err(), "a descriptor is taken once");
    let (early, orders) = mpsc::channel();
    let (done, answer) = mpsc::channel();
    std::thread::spawn(move || {
        for address in orders {
            done.send(protect(address as *mut c_void, RX)).unwrap();
        }
    });
    let mut worker = Worker {
        channel,
        module,
        code: std::ptr::null_mut(),
        early,
        answer,
    };
    worker.say(&serde_json::to_string(&steps).unwrap());
    let orders = BufReader::new(channel);
    for order in orders.lines() {
        let answer = worker.obey(&order.unwrap());
        worker.say(&answer);
    }
    ExitCode::SUCCESS
}

impl Worker {
    fn say(&mut self, text: &str) {
        self.channel
            .write_all(format!("{text}\n").as_bytes())
            .unwrap();
    }

    fn obey(&mut self, order: &str) -> String {
        let fresh = || map(RW, None);
        let done = match order {
            "thread" => std::thread::spawn(|| 7)
                .join()
                .is_ok_and(|seven| seven == 7),
            "sleep a little" => {
                std::thread::sleep(std::time::Duration::from_millis(3));
                true
            }
            "hash" => std::collections::HashMap::from([(1, 2)]).contains_key(&1),
            "size" => self.module.metadata().unwrap().len() > 0,
            "load" => self.load(),
            "run" => return run(self.code).to_string(),
            "seal" => return serde_json::to_string(&lockdown::seal()).unwrap(),
            "grow" => {
                vec![1u8; 64 << 20]
                    .iter()
                    .map(|b| u64::from(*b))
                    .sum::<u64>()
                    == 64 << 20
            }
            "spin" => loop {
                std::hint::spin_loop();
            },
            // From here on: what must not work.
            "writable and executable" => !map(RW | libc::PROT_EXEC, None).is_null(),
            "later executable" => protect(fresh(), RX),
            "later executable, another thread" => {
                self.early.send(fresh() as usize).unwrap();
                self.answer.recv().unwrap()
            }
            "file executable" => !map(RX, Some(self.module.as_raw_fd())).is_null(),
            "open" => std::fs::File::open("/etc/passwd").is_ok(),
            "list" => std::fs::read_dir("/").is_ok(),
            "connect" => std::net::TcpStream::connect("127.0.0.1:1").is_ok(),
            "start a program" => start_a_program(),
            "kill the parent" => kill_the_parent(),
            "duplicate" => self.channel.try_clone().is_ok(),
            "seal again" => lockdown::seal().iter().all(casemate_linux::Step::stands),
            "abort" => std::process::abort(),
            other => panic!("unknown order: {other}"),
        };
        done.to_string()
    }

    /// As wasmtime does it: mapped privately from the file, writable, then executable.
    fn load(&mut self) -> bool {
        self.code = map(RW, Some(self.module.as_raw_fd()));
        protect(self.code, RX) && run(self.code) == 42
    }
}

fn map(protection: i32, file: Option<i32>) -> *mut c_void {
    let anonymous = if file.is_none() {
        libc::MAP_ANONYMOUS
    } else {
        0
    };
    let flags = libc::MAP_PRIVATE | anonymous;
    // SAFETY: a new mapping wherever the kernel likes.
    let address = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            PAGE,
            protection,
            flags,
            file.unwrap_or(-1),
            0,
        )
    };
    assert_ne!(
        address,
        libc::MAP_FAILED,
        "{}",
        std::io::Error::last_os_error()
    );
    address
}

fn protect(address: *mut c_void, protection: i32) -> bool {
    // SAFETY: the page was mapped by `map` and holds nothing Rust knows of.
    unsafe { libc::mprotect(address, PAGE, protection) == 0 }
}

fn run(code: *mut c_void) -> i32 {
    // SAFETY: the page holds `CODE`, a function without arguments that returns an int.
    let function: extern "C" fn() -> i32 = unsafe { std::mem::transmute(code) };
    function()
}

#[allow(clippy::disallowed_methods, reason = "it must fail")]
fn start_a_program() -> bool {
    std::process::Command::new("/bin/true").status().is_ok()
}

fn kill_the_parent() -> bool {
    // SAFETY: two numbers. Should it get through, the test ends loudly.
    unsafe { libc::kill(libc::getppid(), libc::SIGTERM) == 0 }
}

/// The file a worker is given as its module.
pub(crate) fn module() -> std::fs::File {
    let mut file = tempfile::tempfile().unwrap();
    let mut page = CODE.to_vec();
    page.resize(PAGE, 0);
    file.write_all(&page).unwrap();
    file
}

/// Tells what a freshly spawned program has.
pub(crate) fn look() -> ExitCode {
    let listed: Vec<i32> = std::fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok())
        .collect();
    // The descriptor of the listing itself is closed by now.
    let mut open: Vec<i32> = listed
        .into_iter()
        .filter(|fd| std::fs::read_link(format!("/proc/self/fd/{fd}")).is_ok())
        .collect();
    open.sort_unstable();
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let signals: Vec<&str> = status
        .lines()
        .filter(|line| line.starts_with("Sig"))
        .collect();
    // SAFETY: takes a number and changes nothing.
    let session = unsafe { libc::getsid(0) };
    let mut death = 0;
    // SAFETY: the operation stores an int into live memory.
    unsafe { libc::prctl(libc::PR_GET_PDEATHSIG, &raw mut death) };
    let seen = serde_json::json!({
        "args": std::env::args().collect::<Vec<_>>(),
        "env": std::env::vars().collect::<Vec<_>>(),
        "fds": open,
        "leads_session": session.unsigned_abs() == std::process::id(),
        "death_signal": death,
        "signals": signals,
        "null": std::fs::read_link("/proc/self/fd/0").unwrap(),
    });
    let mut out = std::fs::File::from(take_fd(CHANNEL).unwrap());
    out.write_all(seen.to_string().as_bytes()).unwrap();
    ExitCode::SUCCESS
}

/// Starts a worker, tells its number on the given channel, and waits to be killed.
pub(crate) fn parent() -> ExitCode {
    let mut out = std::fs::File::from(take_fd(CHANNEL).unwrap());
    let (ours, theirs) = UnixStream::pair().unwrap();
    let child = Spawn::this_program()
        .arg("worker")
        .fd(&theirs, CHANNEL)
        .fd(module(), MODULE)
        .spawn()
        .unwrap();
    let mut steps = String::new();
    BufReader::new(ours.try_clone().unwrap())
        .read_line(&mut steps)
        .unwrap();
    out.write_all(child.pid().to_string().as_bytes()).unwrap();
    drop(out);
    loop {
        std::thread::park();
    }
}

/// Locks down although a second thread runs, and says how that went.
pub(crate) fn crowded() -> ExitCode {
    let mut out = std::fs::File::from(take_fd(CHANNEL).unwrap());
    let _other = std::thread::spawn(std::thread::park);
    let steps = lockdown::enter(&LockdownPlan::new(&[0, 1, 2, CHANNEL]));
    out.write_all(serde_json::to_string(&steps).unwrap().as_bytes())
        .unwrap();
    ExitCode::SUCCESS
}

/// Makes a control group with a process in it, tells where, and waits to be killed.
pub(crate) fn owner() -> ExitCode {
    let mut out = std::fs::File::from(take_fd(CHANNEL).unwrap());
    let limits = CgroupLimits {
        memory_bytes: Limit::At(32 << 20),
        pids: Limit::At(4),
        cpu_millicores: Limit::Unlimited,
    };
    let Ok(group) = Cgroup::create("owned", &limits) else {
        return ExitCode::SUCCESS;
    };
    let _child = Spawn::new("/bin/sleep")
        .arg("100")
        .cgroup(&group)
        .spawn()
        .unwrap();
    out.write_all(serde_json::to_string(&group.paths()).unwrap().as_bytes())
        .unwrap();
    drop(out);
    loop {
        std::thread::park();
    }
}

/// Gives up root and starts a worker as an ordinary user does; passes its steps on.
pub(crate) fn unprivileged() -> ExitCode {
    let mut out = std::fs::File::from(take_fd(CHANNEL).unwrap());
    // SAFETY: numbers, before any thread exists.
    let left = unsafe {
        libc::setgroups(0, std::ptr::null()) == 0
            && libc::setresgid(1234, 1234, 1234) == 0
            && libc::setresuid(1234, 1234, 1234) == 0
    };
    assert!(left, "{}", std::io::Error::last_os_error());
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut child = Spawn::this_program()
        .arg("worker")
        .stderr(Stderr::Inherit)
        .fd(&theirs, CHANNEL)
        .fd(take_fd(MODULE).unwrap(), MODULE)
        .spawn()
        .unwrap();
    drop(theirs);
    let mut steps = String::new();
    BufReader::new(&ours).read_line(&mut steps).unwrap();
    out.write_all(steps.as_bytes()).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    ExitCode::SUCCESS
}
