//! Containers that an agent lives in: what it can do, what it cannot, and what is left of it.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use casemate_backend::contract::CreateError;
use casemate_backend::plan::Plan;
use casemate_backend::session::{Session, Sessions};
use casemate_backend::suite;
use casemate_container::ContainerSessions;
use casemate_driver::walls::lost_to_the_processor;
use casemate_envd::client::{
    Client, Dial, Dialling, Init, Io, ProcessStream, ProcessTold, StartOptions,
};
use casemate_envd::interpreter::{ExecuteRequest, Line};
use casemate_envd::process::{EndEvent, ProcessConfig, PtySize};
use casemate_model::guarantee::Guarantee;
use casemate_model::limit::{Limit, Millis};
use casemate_model::receipt::Receipt;
use casemate_model::unit::ByteSize;

use crate::support::lacking;
use crate::walls::{left_of, left_of_this_process};

/// One runtime's sessions, and a test of them.
pub(crate) type Test = (&'static str, fn(&ContainerSessions));

pub(crate) const TESTS: &[Test] = &[
    ("a_receipt_names_every_wall", a_receipt_names_every_wall),
    (
        "the_agent_does_what_it_is_for",
        the_agent_does_what_it_is_for,
    ),
    ("a_terminal_is_one", a_terminal_is_one),
    ("the_loopback_is_all_there_is", the_loopback_is_all_there_is),
    (
        "walls_stand_around_what_it_starts",
        walls_stand_around_what_it_starts,
    ),
    (
        "proc_tells_of_the_session_alone",
        proc_tells_of_the_session_alone,
    ),
    ("files_go_on_in_another", files_go_on_in_another),
    ("it_is_paused_and_goes_on", it_is_paused_and_goes_on),
    ("limits_hold", limits_hold),
    (
        "what_is_left_to_process_1_is_reaped",
        what_is_left_to_process_1_is_reaped,
    ),
    (
        "nothing_is_left_after_its_end",
        nothing_is_left_after_its_end,
    ),
];

/// A session and its client.
pub(crate) struct Open {
    pub(crate) session: Arc<dyn Session>,
    pub(crate) receipt: Receipt,
    pub(crate) client: Client,
}

/// What makes streams to it.
struct To(Arc<dyn Session>);

impl Dial for To {
    fn dial(&self) -> Dialling<'_> {
        Box::pin(async {
            let stream = std::os::unix::net::UnixStream::from(self.0.connect()?);
            stream.set_nonblocking(true)?;
            let stream = tokio::net::UnixStream::from_std(stream)?;
            Ok(Box::new(stream) as Box<dyn Io>)
        })
    }
}

pub(crate) fn plan() -> Plan {
    let mut plan = suite::plan_without("", &lacking());
    plan.limits.wall_time = Limit::At(Millis(Duration::from_secs(300)));
    plan.limits.cpu_time = Limit::At(Millis(Duration::from_secs(300)));
    // The agent places descriptors for what it starts above 64.
    plan.limits.open_files = Limit::At(1024);
    plan
}

pub(crate) fn try_open(
    sessions: &ContainerSessions,
    plan: &Plan,
    files: Option<&OwnedFd>,
) -> Result<Open, CreateError> {
    let (session, receipt) = sessions.open(plan, false, files)?;
    let session: Arc<dyn Session> = Arc::from(session);
    let client = Client::new(To(Arc::clone(&session)));
    Ok(Open {
        session,
        receipt,
        client,
    })
}

/// One with these files, spoken to.
fn open_with(
    sessions: &ContainerSessions,
    files: Option<&OwnedFd>,
    change: impl FnOnce(&mut Plan),
) -> Open {
    let mut plan = plan();
    change(&mut plan);
    try_open(sessions, &plan, files).unwrap()
}

fn open(sessions: &ContainerSessions) -> Open {
    open_with(sessions, None, |_| {})
}

pub(crate) fn wait<T>(done: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.unwrap().block_on(done)
}

/// Everything a process said, and its end.
#[derive(Debug, Default)]
struct Said {
    stdout: String,
    stderr: String,
    terminal: String,
    end: EndEvent,
}

async fn whole(mut process: ProcessStream) -> Said {
    let mut said = Said::default();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    while let Some(told) = process.next().await.unwrap() {
        match told {
            ProcessTold::Stdout(bytes) => said.stdout.push_str(&text(bytes)),
            ProcessTold::Stderr(bytes) => said.stderr.push_str(&text(bytes)),
            ProcessTold::Terminal(bytes) => said.terminal.push_str(&text(bytes)),
            ProcessTold::Ended(end) => said.end = end,
        }
    }
    said
}

fn program(command: &str, code: &str) -> ProcessConfig {
    ProcessConfig {
        cmd: command.to_owned(),
        args: vec!["-c".to_owned(), code.to_owned()],
        ..ProcessConfig::default()
    }
}

impl Open {
    fn said(&self, command: &str, code: &str) -> Said {
        wait(async {
            let process = self
                .client
                .start(program(command, code), StartOptions::default());
            whole(process.await.unwrap()).await
        })
    }

    fn bash(&self, code: &str) -> Said {
        self.said("/bin/bash", code)
    }

    fn python(&self, code: &str) -> String {
        let said = self.said("/usr/bin/python3", code);
        assert_eq!(said.stderr, "", "{}", said.stdout);
        said.stdout
    }

    /// Runs a cell in the default context.
    fn cell(&self, code: &str) -> String {
        let request = ExecuteRequest {
            code: code.to_owned(),
            ..ExecuteRequest::default()
        };
        wait(async {
            let mut execution = self.client.execute(&request).await.unwrap();
            let mut said = String::new();
            while let Some(line) = execution.next().await.unwrap() {
                match line {
                    Line::Stdout { text, .. } => said.push_str(&text),
                    Line::Result(shown) => said.push_str(shown.text.as_deref().unwrap_or_default()),
                    Line::Error { name, value, .. } => panic!("{name}: {value}"),
                    _ => {}
                }
            }
            said
        })
    }

    fn read(&self, path: &str) -> Vec<u8> {
        wait(async {
            let download = self.client.download(path, 1 << 20).await.unwrap();
            download.whole().await.unwrap()
        })
    }

    fn write(&self, path: &str, bytes: &'static [u8]) {
        let written = wait(self.client.upload(path, bytes, &BTreeMap::new()));
        written.unwrap();
    }

    /// Why it ended, which it is to do soon.
    fn end(&self) -> String {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(why) = self.session.ended() {
                return why;
            }
            assert!(Instant::now() < deadline, "it does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn a_receipt_names_every_wall(sessions: &ContainerSessions) {
    let open = open(sessions);
    let asked = plan().asked;
    assert!(asked.contains(Guarantee::NetworkAbsent));
    assert_eq!(open.receipt.satisfies(&asked), Ok(()), "{:?}", open.receipt);
    assert_eq!(open.receipt.backend, sessions.name());
    let walls = &open.receipt.walls;
    let names: BTreeSet<&str> = walls.iter().map(|wall| wall.name.as_str()).collect();
    assert_eq!(names.len(), walls.len(), "each once");
    for wall in walls {
        println!("    {:24} {:?} {:?}", wall.name, wall.got, wall.missing);
    }
    let lost = lost_to_the_processor();
    let missing = walls.iter().filter(|wall| !wall.stands());
    let missing: Vec<_> = missing
        .filter(|wall| !wall.guarantees.iter().any(|of| lost.contains_key(&of)))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
    // That there is no network is the namespace's doing alone.
    let absent = walls
        .iter()
        .filter(|wall| wall.guarantees.contains(Guarantee::NetworkAbsent));
    let absent: Vec<&str> = absent.map(|wall| wall.name.as_str()).collect();
    assert_eq!(absent, ["network_namespace"]);
    assert_eq!(open.session.ended(), None);
}

fn the_agent_does_what_it_is_for(sessions: &ContainerSessions) {
    let open = open(sessions);
    let said = open.bash("id -un; id -u; pwd; echo $HOME; hostname; exit 3");
    assert_eq!(
        said.stdout, "user\n1000\n/home/user\n/home/user\ncasemate\n",
        "{said:?}"
    );
    assert_eq!(said.end.exit_code, 3);
    open.write("folder/file", b"written");
    assert_eq!(open.read("/home/user/folder/file"), b"written");
    let said = open.bash("cat folder/file; echo more >> folder/file; stat -c %U folder/file");
    assert_eq!(said.stdout, "writtenuser\n");
    assert_eq!(open.read("folder/file"), b"writtenmore\n");
    open.cell("x = 40\nimport pandas");
    assert_eq!(open.cell("x += 2\nx"), "42");
    let told = wait(open.client.init(&Init {
        env_vars: Some([("TOLD".to_owned(), "yes".to_owned())].into()),
        ..Init::default()
    }));
    told.unwrap();
    assert_eq!(open.bash("echo $TOLD").stdout, "yes\n");
    let metrics = wait(open.client.metrics()).unwrap();
    let Limit::At(ByteSize(memory)) = plan().limits.memory else {
        panic!("the suite has a limit");
    };
    assert_eq!(metrics.mem_total, memory);
    let held = open.session.held();
    assert!(
        held.cpu_us > 0 && held.memory_bytes > 0 && held.disk_bytes > 0,
        "{held:?}"
    );
}

fn a_terminal_is_one(sessions: &ContainerSessions) {
    let open = open(sessions);
    let options = StartOptions {
        terminal: Some(PtySize { cols: 80, rows: 24 }),
        ..StartOptions::default()
    };
    let code = "stty size; tty; ls /dev/pts; read line; echo got:$line; exit 4";
    let said = wait(async {
        let process = open.client.start(program("/bin/bash", code), options);
        let process = process.await.unwrap();
        let typed = b"abc\n".to_vec();
        let selector = process.selector();
        open.client.write_terminal(selector, typed).await.unwrap();
        whole(process).await
    });
    // None of the host's is there: its own is the first.
    for part in ["24 80\r\n", "/dev/pts/0\r\n", "0  ptmx\r\n", "got:abc\r\n"] {
        assert!(said.terminal.contains(part), "{part:?}: {said:?}");
    }
    assert_eq!(said.end.exit_code, 4);
    // One more, made by a program of the guest's own.
    let pair =
        "import os\na, b = os.openpty()\nos.write(b, b'hi')\nprint(os.read(a, 9), os.ttyname(b))";
    assert!(open.python(pair).starts_with("b'hi' /dev/pts/"));
}

fn the_loopback_is_all_there_is(sessions: &ContainerSessions) {
    let open = open(sessions);
    let serve = "import http.server, threading, urllib.request, sys\n\
        server = http.server.HTTPServer(('127.0.0.1', 8000), http.server.SimpleHTTPRequestHandler)\n\
        threading.Thread(target=server.serve_forever, daemon=True).start()\n\
        print(urllib.request.urlopen('http://localhost:8000/').status, flush=True)\n\
        sys.stdin.read()";
    wait(async {
        let options = StartOptions {
            stdin: true,
            ..StartOptions::default()
        };
        let process = open
            .client
            .start(program("/usr/bin/python3", serve), options);
        let mut process = process.await.unwrap();
        loop {
            match process.next().await.unwrap() {
                Some(ProcessTold::Stdout(said)) => break assert_eq!(said, b"200\n"),
                // It writes down each request.
                Some(ProcessTold::Stderr(_)) => {}
                other => panic!("{other:?}"),
            }
        }
        let port = std::os::unix::net::UnixStream::from(open.session.connect_to(8000).unwrap());
        assert!(answer(port).starts_with("HTTP/1.0 200"));
        let nobody = std::os::unix::net::UnixStream::from(open.session.connect_to(8001).unwrap());
        assert_eq!(answer(nobody), "");
    });
    let look = "import errno, socket\n\
        def tried(make):\n    \
            try: make(); return 'OK'\n    \
            except OSError as error: return errno.errorcode[error.errno]\n\
        def connect(family, address):\n    \
            s = socket.socket(family, socket.SOCK_STREAM); s.settimeout(3); s.connect(address)\n\
        print(tried(lambda: connect(socket.AF_INET, ('1.1.1.1', 80))), tried(lambda: connect(socket.AF_INET6, ('2606:4700::1', 80))))\n\
        print([tried(lambda: socket.socket(f, t)) for f, t in ((16, 3), (17, 3), (38, 5), (40, 1))], tried(lambda: socket.socket(2, 3, 1)))\n\
        print([line.split(':')[0].strip() for line in open('/proc/net/dev') if ':' in line], len(open('/proc/net/route').readlines()))";
    assert_eq!(
        open.python(look),
        "ENETUNREACH ENETUNREACH\n['EACCES', 'EACCES', 'EACCES', 'EACCES'] EPERM\n['lo'] 1\n"
    );
}

/// What a server says to a request, to the end.
fn answer(mut stream: std::os::unix::net::UnixStream) -> String {
    use std::io::{Read, Write};
    let within = Some(Duration::from_secs(10));
    stream.set_read_timeout(within).unwrap();
    // One that ended it already takes nothing.
    drop(stream.write_all(b"GET / HTTP/1.0\r\n\r\n"));
    let mut said = Vec::new();
    drop(stream.read_to_end(&mut said));
    String::from_utf8_lossy(&said).into_owned()
}

fn walls_stand_around_what_it_starts(sessions: &ContainerSessions) {
    let open = open(sessions);
    let written = "import os\n\
        for folder in ['/', '/usr', '/usr/bin', '/usr/local/bin', '/etc', '/etc/passwd', '/opt/agent', '/opt/casemate', '/run', '/data', '/dev', '/home', '/root', '/proc', '/proc/sys/kernel', '/proc/1']:\n    \
            for what in (lambda: open(folder + '/x', 'w'), lambda: os.mkdir(folder + '/x'), lambda: os.rename('/tmp', folder + '/x'), lambda: os.chmod(folder, 0o777)):\n        \
                try: what(); print('WROTE', folder)\n        \
                except OSError: pass\n\
        for folder in ['/tmp', '/work', '/dev/shm', '/home/user']: open(folder + '/x', 'w').write('x')\n\
        print(sorted(set(os.listdir('/')) - {'bin', 'lib', 'lib32', 'lib64', 'sbin'}), sorted(os.listdir('/etc')), sorted(os.listdir('/opt')))";
    assert_eq!(
        open.python(written),
        "['data', 'dev', 'etc', 'home', 'opt', 'proc', 'root', 'run', 'tmp', 'usr', 'work'] \
         ['alternatives', 'group', 'hosts', 'ld.so.cache', 'passwd'] ['agent', 'casemate']\n"
    );
    let said = open.bash("grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status; cat /proc/1/environ /proc/1/mem /proc/$PPID/environ; kill -9 1; echo alive");
    let none = "0000000000000000";
    let expected = format!(
        "CapInh:\t{none}\nCapPrm:\t{none}\nCapEff:\t{none}\nCapBnd:\t{none}\nCapAmb:\t{none}\nNoNewPrivs:\t1\nSeccomp:\t2\n"
    );
    assert_eq!(said.stdout, format!("{expected}alive\n"), "{said:?}");
    let said = open.said("/usr/bin/python3", "import ctypes, errno\n\
        libc = ctypes.CDLL(None, use_errno=True)\n\
        for call in (libc.mount, libc.unshare, libc.setns, libc.ptrace, libc.chroot):\n    \
            ctypes.set_errno(0); r = call(0x10000000 if call is libc.unshare else b'/', b'/', 0, 0, 0); print(r, errno.errorcode.get(ctypes.get_errno()))");
    assert_eq!(said.stdout, "-1 EPERM\n".repeat(5), "{said:?}");
}

fn proc_tells_of_the_session_alone(sessions: &ContainerSessions) {
    let open = open_with(sessions, None, |plan| {
        plan.limits.memory = Limit::At(ByteSize(200 << 20));
    });
    let code = "import os\n\
        print([name for name in os.listdir('/proc') if not name.isdigit()], open('/proc/meminfo').readline().split())\n\
        ours = ['cpuinfo', 'filesystems', 'loadavg', 'meminfo', 'stat', 'uptime', 'version', 'sys/kernel/random/boot_id']\n\
        print([name for name in ours if not open('/proc/' + name).read()], os.readlink('/proc/mounts'), open('/proc/sys/kernel/hostname').read())\n\
        others = ['kallsyms', 'kcore', 'cmdline', 'modules', 'slabinfo', 'keys', 'sysrq-trigger', 'sys/kernel/core_pattern', 'net/sockstat', 'net/softnet_stat', 'net/protocols']\n\
        for name in others:\n    \
            try: open('/proc/' + name).read(1); print('READ', name)\n    \
            except OSError: pass\n\
        print(sorted(int(name) for name in os.listdir('/proc') if name.isdigit())[-1] == os.getpid(), os.path.exists('/proc/1'), os.path.exists('/sys/kernel'))";
    assert_eq!(
        open.python(code),
        "['self', 'thread-self'] ['MemTotal:', '204800', 'kB']\n[] self/mounts casemate\n\nTrue False False\n"
    );
    let ids = [(); 2].map(|()| self::open(sessions).bash("cat /proc/sys/kernel/random/boot_id"));
    assert_ne!(ids[0].stdout, ids[1].stdout);
}

fn files_go_on_in_another(sessions: &ContainerSessions) {
    let one = open(sessions);
    one.write("kept", b"here");
    one.bash("mkdir -p /work/a; echo there > /work/a/b; ln -s /etc/passwd link; touch -d @1000 old; chmod 700 kept");
    let saved = tempfile::tempdir().unwrap();
    assert!(one.session.save(saved.path()).unwrap() >= 10);
    let look = "cat kept /work/a/b; readlink link; stat -c '%U %a %Y' kept old | cut -c1-9";
    let expected = one.bash(look).stdout;
    assert!(
        expected.starts_with("herethere\n/etc/passwd\nuser 700 "),
        "{expected}"
    );
    let live = one.session.files().unwrap();
    let of_one = open_with(sessions, Some(&live), |_| {});
    assert_eq!(of_one.bash(look).stdout, expected);
    drop(one);
    let folder = OwnedFd::from(std::fs::File::open(saved.path()).unwrap());
    let two = open_with(sessions, Some(&folder), |_| {});
    assert_eq!(two.bash(look).stdout, expected);
    assert_eq!(
        two.bash("echo more >> kept && tail -c5 kept").stdout,
        "more\n"
    );
    let mut small = plan();
    small.limits.disk = Limit::At(ByteSize(4096));
    two.bash("head -c 100000 /dev/zero > big");
    let more = two.session.files().unwrap();
    let error = try_open(sessions, &small, Some(&more)).err().unwrap();
    assert!(error.to_string().contains("copying its files"), "{error}");
}

fn it_is_paused_and_goes_on(sessions: &ContainerSessions) {
    let open = open(sessions);
    wait(async {
        let count = "n=0; while :; do n=$((n+1)); echo $n > /tmp/n; done";
        let process = open
            .client
            .start(program("/bin/bash", count), StartOptions::default());
        let process = process.await.unwrap();
        open.session.pause().unwrap();
        let used = || open.session.held().cpu_us;
        let before = used();
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(used(), before, "it stands still");
        let asked = tokio::time::timeout(Duration::from_millis(300), open.client.health());
        assert!(asked.await.is_err(), "nobody answers");
        open.session.resume().unwrap();
        open.client.health().await.unwrap();
        std::thread::sleep(Duration::from_millis(100));
        assert!(used() > before);
        drop(process);
    });
    assert_eq!(open.cell("1 + 1"), "2");
    // What is frozen ends all the same.
    open.session.pause().unwrap();
    open.session.end();
    assert_eq!(open.end(), "it was ended");
    assert!(open.session.connect().is_err() || wait(open.client.health()).is_err());
    drop(open);
    assert_eq!(left_of_this_process(), Vec::<String>::new());
}

fn limits_hold(sessions: &ContainerSessions) {
    let open = open_with(sessions, None, |plan| {
        plan.limits.memory = Limit::At(ByteSize(64 << 20));
        plan.limits.disk = Limit::At(ByteSize(1 << 20));
        plan.limits.tasks = Limit::At(16);
        plan.limits.open_files = Limit::At(200);
    });
    let fork = "import os, time\nmade = []\n\
        try:\n    \
            for _ in range(200):\n        \
                made.append(os.fork())\n        \
                if made[-1] == 0: time.sleep(30); os._exit(0)\n\
        except OSError as error: print(4 < len(made) < 16, error.strerror)\n\
        for pid in made: os.kill(pid, 9); os.waitpid(pid, 0)";
    assert_eq!(open.python(fork), "True Resource temporarily unavailable\n");
    let files = "import os\nfds = []\n\
        try:\n    \
            while True: fds.append(os.dup(0))\n\
        except OSError as error: print(100 < len(fds) < 200, error.strerror)";
    assert_eq!(open.python(files), "True Too many open files\n");
    let said = open.bash("head -c 5000000 /dev/zero > /tmp/big; stat -c %s /tmp/big; rm /tmp/big");
    assert!(said.stderr.contains("No space left"), "{said:?}");
    wait(async {
        let hog = program("/usr/bin/python3", "x = bytearray(900 << 20)");
        // Its stream is cut when all of it ends.
        drop(open.client.start(hog, StartOptions::default()).await);
    });
    let why = open.end();
    assert!(why.starts_with("it reached its limit of memory"), "{why}");
}

fn what_is_left_to_process_1_is_reaped(sessions: &ContainerSessions) {
    let open = open(sessions);
    for _ in 0..3 {
        open.bash("for n in 1 2 3 4 5 6 7 8 9 10; do (setsid sleep 0.05 &) ; done");
    }
    std::thread::sleep(Duration::from_millis(300));
    let said = open.bash("cat /proc/[0-9]*/stat | grep -c ' Z '; exit 0");
    assert_eq!(said.stdout, "0\n", "{said:?}");
}

fn nothing_is_left_after_its_end(sessions: &ContainerSessions) {
    let before = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let fds = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    drop(open(sessions));
    let descriptors = fds();
    let busy = open(sessions);
    let stays = "setsid sleep 1000 & setsid sleep 1000 & (trap '' TERM; sleep 1000) & echo";
    busy.bash(&format!("exec 2>/dev/null; {{ {stays}; }} >/dev/null"));
    busy.cell("x = 1");
    let number = std::process::id();
    assert!(!left_of(number).is_empty(), "it has a group");
    drop(busy);
    // One whose agent ends by itself.
    let gone = open(sessions);
    wait(async {
        let kill = program("/bin/bash", "kill -9 $PPID");
        // Its stream is cut.
        drop(gone.client.start(kill, StartOptions::default()).await);
    });
    let why = gone.end();
    assert!(why.contains("ended with"), "{why}");
    drop(gone);
    assert_eq!(left_of_this_process(), Vec::<String>::new());
    assert_eq!(
        std::fs::read_to_string("/proc/self/mounts").unwrap(),
        before
    );
    assert_eq!(fds(), descriptors);
}
