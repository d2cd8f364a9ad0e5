//! Sandboxes that live on, in WebAssembly: real workers, spoken to by the agent's protocol.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::collections::BTreeMap;
use std::os::unix::net::UnixStream as StdStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use casemate_backend::session::{Session, Sessions};
use casemate_backend::{Plan, suite};
use casemate_envd::client::{Dial, Dialling, Init, Io, StartOptions};
use casemate_envd::filesystem::WatchRequest;
use casemate_envd::interpreter::{ContextRequest, ExecuteRequest, Line, Shown};
use casemate_envd::process::{ProcessConfig, ProcessSelector};
use casemate_envd::{Client, ClientError, Code};
use casemate_model::limit::{Limit, Millis};
use casemate_model::receipt::Receipt;
use casemate_model::unit::ByteSize;
use casemate_wasm::WasmSessions;
use casemate_wasm::setup::Store;
use tokio::sync::RwLock;

#[path = "wasm_sessions/files.rs"]
mod files;
#[path = "wasm_sessions/interrupts.rs"]
mod interrupts;

/// A session, and a client of it.
struct Open {
    session: Arc<dyn Session>,
    client: Client,
    receipt: Receipt,
}

struct To(Arc<dyn Session>);

impl Dial for To {
    fn dial(&self) -> Dialling<'_> {
        Box::pin(async {
            let stream = StdStream::from(self.0.connect()?);
            stream.set_nonblocking(true)?;
            let stream = tokio::net::UnixStream::from_std(stream)?;
            Ok(Box::new(stream) as Box<dyn Io>)
        })
    }
}

/// Held by every test, and alone by the one that counts processes.
static TOGETHER: RwLock<()> = RwLock::const_new(());

fn sessions() -> WasmSessions {
    let store = Store::open().expect("a cache folder");
    store
        .installed()
        .expect("the guest must be set up before the tests: casemate setup");
    WasmSessions::new(store, env!("CARGO_BIN_EXE_casemate")).expect("sessions")
}

/// What is asked of a session, with half a minute for a cell.
fn plan() -> Plan {
    let mut plan = suite::plan_for("raise SystemExit('a session runs no program')");
    plan.limits.wall_time = Limit::At(Millis(Duration::from_secs(60)));
    plan.limits.cpu_time = Limit::At(Millis(Duration::from_secs(60)));
    plan.limits.memory = Limit::At(ByteSize::mib(256));
    plan
}

fn open_with(sessions: &WasmSessions, plan: &Plan, files: Option<&std::os::fd::OwnedFd>) -> Open {
    let (session, receipt) = sessions.open(plan, true, files).expect("a session");
    let session: Arc<dyn Session> = session.into();
    let client = Client::new(To(Arc::clone(&session)));
    Open {
        session,
        client,
        receipt,
    }
}

fn open(sessions: &WasmSessions) -> Open {
    open_with(sessions, &plan(), None)
}

/// What one cell did.
#[derive(Debug, Default)]
struct Ran {
    count: u64,
    stdout: String,
    stderr: String,
    shown: Vec<Shown>,
    error: Option<(String, String, String)>,
}

impl Ran {
    fn text(&self) -> &str {
        let main = self.shown.iter().find(|shown| shown.is_main_result);
        main.and_then(|shown| shown.text.as_deref()).unwrap_or("")
    }

    fn error(&self) -> &str {
        self.error.as_ref().map_or("", |(name, ..)| name)
    }
}

async fn run_with(client: &Client, request: &ExecuteRequest) -> Result<Ran, ClientError> {
    let mut lines = client.execute(request).await?;
    let mut ran = Ran::default();
    while let Some(line) = lines.next().await? {
        match line {
            Line::NumberOfExecutions { execution_count } => ran.count = execution_count,
            Line::Stdout { text, .. } => ran.stdout.push_str(&text),
            Line::Stderr { text, .. } => ran.stderr.push_str(&text),
            Line::Result(shown) => ran.shown.push(*shown),
            Line::Error {
                name,
                value,
                traceback,
            } => ran.error = Some((name, value, traceback)),
            other => panic!("{other:?}"),
        }
    }
    Ok(ran)
}

async fn run(client: &Client, code: &str) -> Ran {
    let request = ExecuteRequest {
        code: code.to_owned(),
        ..ExecuteRequest::default()
    };
    run_with(client, &request).await.expect("an execution")
}

/// Workers of this test's that serve sessions or runs.
fn workers() -> Vec<u32> {
    let own = std::process::id().to_string();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let of = |file: &str| std::fs::read_to_string(entry.path().join(file)).unwrap_or_default();
        let parent = of("status");
        let parent = parent.lines().find_map(|line| line.strip_prefix("PPid:\t"));
        if parent == Some(&own) && of("cmdline").contains("wasm-worker") {
            found.push(pid);
        }
    }
    found
}

async fn until(what: &str, mut is: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is() {
        assert!(begun.elapsed() < Duration::from_secs(20), "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn cells_keep_what_others_left() {
    let _together = TOGETHER.read().await;
    let sessions = sessions();
    let Open {
        client, receipt, ..
    } = open(&sessions);
    let missing = plan().asked.missing_from(&receipt.granted());
    assert!(missing.is_empty(), "{missing:?}");
    client.health().await.unwrap();
    let one = run(
        &client,
        "import random, time\nx = 41\nprint('out')\nbegun = time.monotonic(); random.seed(1)",
    )
    .await;
    assert_eq!((one.count, one.stdout.as_str()), (1, "out\n"));
    assert!(one.error.is_none() && one.shown.is_empty(), "{one:?}");
    let two = run(&client, "import sys\nprint('err', file=sys.stderr)\nx + 1").await;
    assert_eq!((two.count, two.text()), (2, "42"));
    assert_eq!(two.stderr, "err\n");
    let three = run(&client, "def f():\n    return 1 / 0\nf()").await;
    let (name, value, traceback) = three.error.clone().unwrap();
    assert_eq!(
        (name.as_str(), value.as_str()),
        ("ZeroDivisionError", "division by zero")
    );
    assert!(
        traceback.contains("<cell 3>") && traceback.contains("in f"),
        "{traceback}"
    );
    assert_eq!((three.stdout.as_str(), three.stderr.as_str()), ("", ""));
    // Clocks go on, and what was seeded stays so.
    let four = run(
        &client,
        "(0 < time.monotonic() - begun < 60, round(random.random(), 3))",
    )
    .await;
    assert_eq!(four.text(), "(True, 0.134)");
    let five = run(&client, "x = (").await;
    assert_eq!(five.error(), "SyntaxError");
    let six = run(&client, "import asyncio\nawait asyncio.sleep(0.01)\n'text'").await;
    assert_eq!((six.count, six.text()), (6, "text"));
    let seven = run(&client, "exit()").await;
    assert_eq!(seven.error(), "SystemExit");
    assert_eq!(run(&client, "x").await.text(), "41");
}

#[tokio::test]
async fn results_have_the_forms_that_sdks_look_for() {
    let _together = TOGETHER.read().await;
    let sessions = sessions();
    let Open { client, .. } = open(&sessions);
    let plot = "import matplotlib.pyplot as plt\nplt.plot([1, 2, 3], [4, 5, 6])\nplt.title('t')\nplt.show()";
    let ran = run(&client, plot).await;
    assert!(ran.error.is_none(), "{ran:?}");
    let [figure] = ran.shown.as_slice() else {
        panic!("{ran:?}")
    };
    // The signature of a PNG, in base64.
    assert!(figure.png.as_deref().unwrap().starts_with("iVBORw0KGgo"));
    let chart = figure.chart.as_ref().unwrap().get();
    assert!(
        chart.contains("\"line\"") && chart.contains("\"t\""),
        "{chart}"
    );
    let ran = run(
        &client,
        "import pandas as pd\npd.DataFrame({'a': [1, 2], 'b': ['x', None]})",
    )
    .await;
    let [table] = ran.shown.as_slice() else {
        panic!("{ran:?}")
    };
    assert!(table.is_main_result && table.html.as_deref().unwrap().contains("<table"));
    assert_eq!(
        table.data.as_ref().unwrap().get(),
        r#"{"a":[1,2],"b":["x",null]}"#
    );
    let ran = run(
        &client,
        "display({'k': 1})\nfrom IPython.display import Markdown\nMarkdown('*m*')",
    )
    .await;
    assert_eq!(ran.shown.len(), 2);
    assert!(!ran.shown[0].is_main_result);
    assert_eq!(ran.shown[1].markdown.as_deref(), Some("*m*"));
    // A figure that was left open is shown at the end of its cell, and not at the end of the next.
    assert_eq!(run(&client, "plt.plot([1]);").await.shown.len(), 1);
    assert_eq!(run(&client, "1;").await.shown.len(), 0);
}

#[tokio::test]
async fn the_environment_is_the_sessions_and_a_cells_own() {
    let _together = TOGETHER.read().await;
    let sessions = sessions();
    let Open { client, .. } = open(&sessions);
    let init = Init {
        env_vars: Some(BTreeMap::from([("A".to_owned(), "1".to_owned())])),
        access_token: Some("secret".to_owned()),
        ..Init::default()
    };
    client.init(&init).await.unwrap();
    let refused = client.envs().await.unwrap_err();
    assert_eq!(refused.code(), Some(Code::Unauthenticated));
    let refused = client.stat("/tmp").await.unwrap_err();
    assert_eq!(refused.code(), Some(Code::Unauthenticated));
    let client = client.with_token("secret");
    assert_eq!(client.envs().await.unwrap()["A"], "1");
    let see = "import os\n[os.environ.get(name) for name in ('A', 'B', 'HOME')] + [os.getcwd()]";
    let request = ExecuteRequest {
        code: see.to_owned(),
        env_vars: Some(BTreeMap::from([("B".to_owned(), "2".to_owned())])),
        ..ExecuteRequest::default()
    };
    let ran = run_with(&client, &request).await.unwrap();
    assert_eq!(ran.text(), "['1', '2', '/home/user', '/home/user']");
    let ran = run(&client, see).await;
    assert_eq!(ran.text(), "['1', None, '/home/user', '/home/user']");
    let metrics = client.metrics().await.unwrap();
    assert_eq!(metrics.mem_total_mib, 256);
    assert!(
        metrics.mem_used > 0 && metrics.disk_total > 0,
        "{metrics:?}"
    );
}

#[tokio::test]
async fn files_are_the_same_from_outside_and_from_python() {
    let _together = TOGETHER.read().await;
    let sessions = sessions();
    let Open {
        client, session, ..
    } = open(&sessions);
    let metadata = BTreeMap::from([("author".to_owned(), "me".to_owned())]);
    let large: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    let written = client
        .upload("in/data.bin", large.clone(), &metadata)
        .await
        .unwrap();
    assert_eq!(written.path, "/home/user/in/data.bin");
    assert_eq!(written.metadata, metadata);
    assert!(session.held().disk_bytes >= 3_000_000);
    let sum = "import hashlib\nhashlib.md5(open('in/data.bin', 'rb').read()).hexdigest()\nlen(open('in/data.bin', 'rb').read())";
    assert_eq!(run(&client, sum).await.text(), "3000000");
    let back = client.download("in/data.bin", 4 << 20).await.unwrap();
    assert_eq!(back.whole().await.unwrap(), large);
    let make = "import os\nos.makedirs('out/deep')\nopen('out/deep/f.txt', 'w').write('fünf')\nos.symlink('deep/f.txt', 'out/link')";
    assert!(run(&client, make).await.error.is_none());
    let listed = client.list_dir("/home/user", 9).await.unwrap();
    let paths: Vec<&str> = listed.iter().map(|entry| entry.path.as_str()).collect();
    assert_eq!(
        paths,
        [
            "/home/user/in",
            "/home/user/in/data.bin",
            "/home/user/out",
            "/home/user/out/deep",
            "/home/user/out/deep/f.txt",
            "/home/user/out/link"
        ]
    );
    assert_eq!(listed[1].metadata, metadata);
    assert_eq!(
        listed[5].symlink_target.as_deref(),
        Some("/home/user/out/deep/f.txt")
    );
    let text = client.download("/home/user/out/link", 100).await.unwrap();
    assert_eq!(text.whole().await.unwrap(), "fünf".as_bytes());
    let moved = client
        .rename("out/deep/f.txt", "~/elsewhere/g.txt")
        .await
        .unwrap();
    assert_eq!(
        (moved.path.as_str(), moved.size),
        ("/home/user/elsewhere/g.txt", 5)
    );
    client.remove("out").await.unwrap();
    client.remove("out").await.unwrap();
    let see = "[sorted(os.listdir('.')), open('elsewhere/g.txt').read()]";
    assert_eq!(
        run(&client, see).await.text(),
        "[['elsewhere', 'in'], 'fünf']"
    );
    client
        .upload("empty", Vec::new(), &BTreeMap::new())
        .await
        .unwrap();
    let empty = client.download("empty", 1).await.unwrap();
    assert_eq!(empty.whole().await.unwrap(), b"");
    client.make_dir("/work/a/b").await.unwrap();
    assert_eq!(
        client.stat("/work/a").await.unwrap().permissions,
        "drwxr-xr-x"
    );
    for (code, refused) in [
        (
            Code::AlreadyExists,
            client.make_dir("/work/a/b").await.unwrap_err(),
        ),
        (
            Code::InvalidArgument,
            client.make_dir("empty").await.unwrap_err(),
        ),
        (
            Code::InvalidArgument,
            client.list_dir("empty", 1).await.unwrap_err(),
        ),
        (
            Code::NotFound,
            client.list_dir("nothing", 1).await.unwrap_err(),
        ),
        (Code::NotFound, client.stat("empty/x").await.unwrap_err()),
        (
            Code::NotFound,
            client.rename("nothing", "x").await.unwrap_err(),
        ),
        (
            Code::NotFound,
            client.download("nothing", 1).await.map(drop).unwrap_err(),
        ),
        (
            Code::InvalidArgument,
            client.download("in", 1).await.map(drop).unwrap_err(),
        ),
        (
            Code::PermissionDenied,
            client.make_dir("/etc/x").await.unwrap_err(),
        ),
        (
            Code::PermissionDenied,
            client.remove("/tmp").await.unwrap_err(),
        ),
        (
            Code::Unauthenticated,
            client.clone().as_user("root").stat("/").await.unwrap_err(),
        ),
    ] {
        assert_eq!(refused.code(), Some(code), "{refused}");
    }
}

#[tokio::test]
async fn what_is_not_there_is_said_so() {
    let _together = TOGETHER.read().await;
    let sessions = sessions();
    let Open {
        client, session, ..
    } = open(&sessions);
    let config = ProcessConfig {
        cmd: "/bin/ls".to_owned(),
        ..ProcessConfig::default()
    };
    let refused = client
        .start(config, StartOptions::default())
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Some(Code::Unimplemented), "{refused}");
    assert!(refused.to_string().contains("jail"), "{refused}");
    let pid = ProcessSelector::by_pid(7);
    let refused = client.connect(pid.clone()).await.unwrap_err();
    assert_eq!(refused.code(), Some(Code::Unimplemented), "{refused}");
    let refused = client.write_stdin(pid, b"x".to_vec()).await.unwrap_err();
    assert_eq!(refused.code(), Some(Code::Unimplemented), "{refused}");
    assert!(client.processes().await.unwrap().is_empty());
    let watch = WatchRequest {
        path: "/tmp".to_owned(),
        ..WatchRequest::default()
    };
    let refused = client.watch(&watch).await.map(drop).unwrap_err();
    assert_eq!(refused.code(), Some(Code::Unimplemented), "{refused}");
    let refused = client.create_watcher(&watch).await.unwrap_err();
    assert_eq!(refused.code(), Some(Code::Unimplemented), "{refused}");
    let [context] = client.contexts().await.unwrap().try_into().unwrap();
    assert_eq!(
        (context.language.as_str(), context.cwd.as_str()),
        ("python", "/home/user")
    );
    let refused = client
        .create_context(&ContextRequest::default())
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Some(Code::Unimplemented), "{refused}");
    let named = ExecuteRequest {
        code: "1 + 1".to_owned(),
        context_id: Some(context.id),
        ..ExecuteRequest::default()
    };
    assert_eq!(run_with(&client, &named).await.unwrap().text(), "2");
    let bash = ExecuteRequest {
        code: "ls".to_owned(),
        language: Some("bash".to_owned()),
        ..ExecuteRequest::default()
    };
    let refused = run_with(&client, &bash).await.unwrap_err();
    assert_eq!(refused.code(), Some(Code::Unimplemented), "{refused}");
    // Nobody listens at any port: a stream to one ends at once.
    let mut port = StdStream::from(session.connect_to(8000).unwrap());
    assert_eq!(std::io::Read::read(&mut port, &mut [0]).unwrap(), 0);
    let ran = run(&client, "!ls").await;
    assert!(
        ran.error
            .unwrap()
            .1
            .contains("no processes in this sandbox")
    );
    let ran = run(
        &client,
        "import _thread\n_thread.start_new_thread(print, ())",
    )
    .await;
    assert_eq!(ran.error(), "RuntimeError");
}

#[tokio::test]
async fn a_cell_that_never_ends_ends_the_session_by_its_limit() {
    let _together = TOGETHER.read().await;
    let sessions = sessions();
    let mut plan = plan();
    plan.limits.wall_time = Limit::At(Millis(Duration::from_secs(2)));
    let Open {
        client, session, ..
    } = open_with(&sessions, &plan, None);
    // The time is each cell's own.
    for _ in 0..3 {
        let ran = run(&client, "import time\ntime.sleep(0.9)").await;
        assert!(ran.error.is_none(), "{ran:?}");
    }
    let ran = run(&client, "print('begun')\nwhile True: pass").await;
    assert_eq!(ran.stdout, "begun\n");
    let (name, value, _) = ran.error.unwrap();
    assert_eq!(name, "UnexpectedEndOfExecution");
    assert!(value.contains("limit of wall time"), "{value}");
    until("it has ended", || session.ended().is_some()).await;
    let why = session.ended().unwrap();
    assert!(why.contains("2.00 s allowed"), "{why}");
    assert!(session.connect().is_err());
    assert!(session.pause().is_err());
}

#[tokio::test]
async fn what_is_too_large_is_refused_and_a_full_memory_ends_the_session() {
    let _together = TOGETHER.read().await;
    let sessions = sessions();
    let Open {
        client, session, ..
    } = open(&sessions);
    let ran = run(&client, "b = bytearray(1 << 30)").await;
    assert_eq!(ran.error(), "MemoryError", "{ran:?}");
    let fill = "open('/tmp/f', 'wb').write(bytes(200 << 20))";
    let ran = run(&client, fill).await;
    assert!(
        ran.error.as_ref().unwrap().1.contains("No space"),
        "{ran:?}"
    );
    let large = vec![0; 120 << 20];
    let refused = client.upload("big", large, &BTreeMap::new()).await;
    assert!(refused.unwrap_err().to_string().contains("space"));
    assert_eq!(session.ended(), None);
    let ran = run(&client, "l = []\nwhile True: l.append('x' * 1000)").await;
    assert_eq!(ran.error(), "MemoryError", "{ran:?}");
    assert_eq!(run(&client, "del l\n1 + 1").await.text(), "2");
    // Nothing is left: no cell can even be read.
    let all = "l, n = [], 1 << 20\nwhile n:\n    try: l.append(bytes(n))\n    except MemoryError: n //= 2";
    for code in [all, "1 + 1"] {
        let request = ExecuteRequest {
            code: code.to_owned(),
            ..ExecuteRequest::default()
        };
        // The first may end the session already.
        run_with(&client, &request).await.ok();
    }
    until("it has ended", || session.ended().is_some()).await;
    let why = session.ended().unwrap();
    assert!(why.contains("limit of memory"), "{why}");
}

#[tokio::test]
async fn more_output_than_a_cell_may_print_is_refused_and_said() {
    let _together = TOGETHER.read().await;
    let sessions = sessions();
    let Open { client, .. } = open(&sessions);
    let ran = run(&client, "for _ in range(40000): print('x' * 99)").await;
    assert_eq!(ran.error(), "OSError", "{:?}", ran.error);
    assert_eq!(ran.stdout.len(), 1 << 20);
    assert!(
        ran.stderr.contains("a cell may print 1 MiB"),
        "{}",
        ran.stderr
    );
    let next = run(&client, "print('next')").await;
    assert!(
        next.stdout.ends_with("next\n") && next.error.is_none(),
        "{next:?}"
    );
    assert!(next.stdout.len() < 20_000, "{}", next.stdout.len());
}

#[tokio::test]
async fn files_go_from_one_session_to_another() {
    let _together = TOGETHER.read().await;
    let sessions = sessions();
    let one = open(&sessions);
    let make = "import os\nos.makedirs('/work/a/empty')\nopen('/work/a/f', 'wb').write(bytes(range(256)) * 9000)\nopen('mine', 'w').write('home')\nos.symlink('/etc/passwd', '/tmp/link')";
    assert!(run(&one.client, make).await.error.is_none());
    let folder = tempfile::tempdir().unwrap();
    let bytes = one.session.save(folder.path()).unwrap();
    assert_eq!(bytes, 256 * 9000 + 4);
    assert_eq!(
        std::fs::read(folder.path().join("home/mine")).unwrap(),
        b"home"
    );
    let link = std::fs::read_link(folder.path().join("tmp/link")).unwrap();
    assert_eq!(link, std::path::Path::new("/etc/passwd"));
    let files = one.session.files().unwrap();
    drop(one);
    let see = "import os\n[len(open('/work/a/f', 'rb').read()), os.listdir('/work/a/empty'), open('mine').read(), os.readlink('/tmp/link')]";
    let saved = std::fs::File::open(folder.path()).unwrap().into();
    for files in [saved, files] {
        let two = open_with(&sessions, &plan(), Some(&files));
        let ran = run(&two.client, see).await;
        assert_eq!(
            ran.text(),
            "[2304000, [], 'home', '/etc/passwd']",
            "{ran:?}"
        );
    }
}

#[tokio::test]
async fn an_end_leaves_no_process_and_a_pause_holds_cells_back() {
    let _alone = TOGETHER.write().await;
    let sessions = sessions();
    let before = workers();
    let Open {
        client, session, ..
    } = open(&sessions);
    assert!(before.is_empty(), "{before:?}");
    assert_eq!(workers().len(), 1);
    assert_eq!(run(&client, "x = 1\nx").await.text(), "1");
    session.pause().unwrap();
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(session.save(folder.path()).unwrap(), 0);
    let waiting = tokio::time::timeout(Duration::from_millis(500), run(&client, "x = 2")).await;
    assert!(waiting.is_err());
    // Until it is seen that nobody waits for it any more.
    tokio::time::sleep(Duration::from_millis(300)).await;
    session.resume().unwrap();
    // Whoever asked for the one before has gone, and so it never ran.
    assert_eq!(run(&client, "x").await.text(), "1");
    let looping = client.clone();
    let endless = tokio::spawn(async move {
        run_with(
            &looping,
            &ExecuteRequest {
                code: "while True: pass".to_owned(),
                ..ExecuteRequest::default()
            },
        )
        .await
    });
    tokio::time::sleep(Duration::from_millis(500)).await;
    let idle = session.held();
    assert!(idle.memory_bytes > 0, "{idle:?}");
    session.end();
    assert!(endless.await.unwrap().is_err());
    until("it has ended", || session.ended().is_some()).await;
    assert_eq!(session.ended().as_deref(), Some("it was ended"));
    drop((client, session));
    assert!(workers().is_empty());
}

#[tokio::test]
async fn a_session_that_waits_burns_nothing() {
    let _together = TOGETHER.read().await;
    let sessions = sessions();
    let Open {
        client, session, ..
    } = open(&sessions);
    run(&client, "1").await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let before = session.held().cpu_us;
    if before == 0 {
        eprintln!("SKIPPED: there is no control group to count in");
        return;
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let used = session.held().cpu_us - before;
    assert!(used < 20_000, "{used} us in two seconds");
}
