//! `process.Process` over a real agent.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::time::{Duration, Instant};

use casemate_envd::Code;
use casemate_envd::client::{ClientError, ProcessStream, ProcessTold, StartOptions};
use casemate_envd::process::{ProcessConfig, ProcessSelector, PtySize, Signal};
use support::{Agent, As, bash, envelope, envelopes, whole};

fn with_stdin() -> StartOptions {
    StartOptions {
        stdin: true,
        ..StartOptions::default()
    }
}

#[tokio::test]
async fn output_errors_and_the_end_are_told() {
    let agent = Agent::start(As::Nobody, &[]);
    let client = agent.client();
    let process = client.start(
        bash("echo out; echo err >&2; exit 3"),
        StartOptions::default(),
    );
    let said = whole(process.await.unwrap()).await;
    assert_eq!(
        (&said.stdout[..], &said.stderr[..]),
        (&b"out\n"[..], &b"err\n"[..])
    );
    assert_eq!((said.end.exit_code, said.end.exited), (3, true));
    assert_eq!(said.end.status, "exit status 3");
    assert_eq!(said.end.error.as_deref(), Some("exit status 3"));
    let process = client.start(bash("kill -9 $$"), StartOptions::default());
    let said = whole(process.await.unwrap()).await;
    assert_eq!((said.end.exit_code, said.end.exited), (-1, false));
    assert_eq!(said.end.status, "signal: killed");
    let process = client.start(bash("printf '\\xff\\x00\\xfe'"), StartOptions::default());
    assert_eq!(whole(process.await.unwrap()).await.stdout, b"\xff\0\xfe");
}

#[tokio::test]
async fn the_environment_is_the_users_the_hosts_and_the_callers_and_no_more() {
    let agent = Agent::start(As::Nobody, &[]);
    let client = agent.client();
    let init = casemate_envd::client::Init {
        env_vars: Some(
            [("GLOBAL", "g"), ("BOTH", "g")]
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .into(),
        ),
        ..Default::default()
    };
    client.init(&init).await.unwrap();
    let mut process = ProcessConfig {
        cmd: "env".to_owned(),
        ..ProcessConfig::default()
    };
    process.envs = [("OWN", "o"), ("BOTH", "o")]
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .into();
    let process = client
        .start(process, StartOptions::default())
        .await
        .unwrap();
    let said = String::from_utf8(whole(process).await.stdout).unwrap();
    let mut lines: Vec<&str> = said.lines().filter(|l| !l.starts_with("PATH=")).collect();
    lines.sort_unstable();
    let home = format!("HOME={}", agent.home.display());
    assert_eq!(
        lines,
        [
            "BOTH=o",
            "GLOBAL=g",
            &home,
            "LOGNAME=user",
            "OWN=o",
            "USER=user"
        ]
    );
}

#[tokio::test]
async fn a_process_begins_where_it_is_told() {
    let agent = Agent::start(As::Nobody, &[]);
    let client = agent.client();
    std::fs::create_dir(agent.home.join("down")).unwrap();
    let pwd = |cwd: Option<&str>| ProcessConfig {
        cwd: cwd.map(str::to_owned),
        ..bash("pwd")
    };
    let home = agent.home.to_str().unwrap();
    for (cwd, expected) in [
        (None, home.to_owned()),
        (Some(""), home.to_owned()),
        (Some("down"), format!("{home}/down")),
        (Some("~/down/.."), home.to_owned()),
        (Some("/usr"), "/usr".to_owned()),
    ] {
        let process = client
            .start(pwd(cwd), StartOptions::default())
            .await
            .unwrap();
        let said = whole(process).await;
        assert_eq!(
            String::from_utf8(said.stdout).unwrap(),
            format!("{expected}\n")
        );
    }
    let error = client
        .start(pwd(Some("/no/such")), StartOptions::default())
        .await
        .unwrap_err();
    assert_eq!(error.code(), Some(Code::InvalidArgument));
    assert_eq!(error.to_string(), "cwd '/no/such' does not exist");
}

#[tokio::test]
async fn what_cannot_be_started_is_said_so() {
    let agent = Agent::start(As::Nobody, &[]);
    let client = agent.client();
    for (cmd, why) in [
        ("no-such-program", "no such file"),
        ("/etc/passwd", "permission denied"),
        ("", "no command"),
    ] {
        let process = ProcessConfig {
            cmd: cmd.to_owned(),
            ..ProcessConfig::default()
        };
        let error = client
            .start(process, StartOptions::default())
            .await
            .unwrap_err();
        assert_eq!(error.code(), Some(Code::InvalidArgument), "{error}");
        assert!(error.to_string().contains(why), "{error}");
    }
    let stranger = client.clone().as_user("stranger");
    let error = stranger
        .start(bash("id"), StartOptions::default())
        .await
        .unwrap_err();
    assert_eq!(error.code(), Some(Code::Unauthenticated));
    assert_eq!(error.to_string(), "invalid username: 'stranger'");
    let other = client.clone().as_user("other");
    let error = other
        .start(bash("id"), StartOptions::default())
        .await
        .unwrap_err();
    assert_eq!(
        error.code(),
        Some(Code::PermissionDenied),
        "only root can be somebody else"
    );
}

/// The next so many bytes that it prints.
async fn hear(process: &mut ProcessStream, count: usize) -> Vec<u8> {
    let mut all = Vec::new();
    while all.len() < count {
        match process.next().await.unwrap() {
            Some(ProcessTold::Stdout(bytes)) => all.extend(bytes),
            other => panic!("{other:?}"),
        }
    }
    all
}

#[tokio::test]
async fn a_process_reads_what_it_is_sent_until_its_input_is_closed() {
    let agent = Agent::start(As::Nobody, &[]);
    let client = agent.client();
    let mut cat = client
        .start(bash("cat; echo end; exec sleep 60"), with_stdin())
        .await
        .unwrap();
    let selector = cat.selector();
    client
        .write_stdin(selector.clone(), b"Hello,\n".to_vec())
        .await
        .unwrap();
    client
        .write_stdin(selector.clone(), b"World".to_vec())
        .await
        .unwrap();
    assert_eq!(hear(&mut cat, 12).await, b"Hello,\nWorld");
    client.close_stdin(selector.clone()).await.unwrap();
    assert_eq!(hear(&mut cat, 4).await, b"end\n");
    // It lives, so that a second time is nothing.
    client.close_stdin(selector.clone()).await.unwrap();
    client.signal(selector, Signal::Kill).await.unwrap();
    assert_eq!(whole(cat).await.stdout, b"");
    let none = client
        .start(bash("cat; sleep 5"), StartOptions::default())
        .await
        .unwrap();
    let error = client
        .write_stdin(none.selector(), b"x".to_vec())
        .await
        .unwrap_err();
    assert_eq!(error.code(), Some(Code::Internal));
    client.signal(none.selector(), Signal::Kill).await.unwrap();
}

#[tokio::test]
async fn input_can_be_streamed() {
    let agent = Agent::start(As::Nobody, &[]);
    let cat = agent
        .client()
        .start(bash("cat"), with_stdin())
        .await
        .unwrap();
    let messages = [
        format!(r#"{{"start":{{"process":{{"pid":{}}}}}}}"#, cat.pid()),
        r#"{"data":{"input":{"stdin":"b25l"}}}"#.to_owned(),
        r#"{"keepalive":{}}"#.to_owned(),
        r#"{"data":{"input":{"stdin":"dHdv"}}}"#.to_owned(),
    ];
    let body: Vec<u8> = messages.iter().flat_map(|text| envelope(0, text)).collect();
    let headers = "content-type: application/connect+json\r\n";
    let (head, body) = agent.http("POST /process.Process/StreamInput", headers, body);
    assert_eq!(support::status(&head), 200);
    assert_eq!(
        envelopes(&body),
        [(0, "{}".to_owned()), (2, "{}".to_owned())]
    );
    agent.client().close_stdin(cat.selector()).await.unwrap();
    assert_eq!(whole(cat).await.stdout, b"onetwo");
}

#[tokio::test]
async fn processes_are_listed_and_found_by_number_and_by_name() {
    let agent = Agent::start(As::Nobody, &[]);
    let client = agent.client();
    let options = StartOptions {
        tag: Some("mine".to_owned()),
        ..StartOptions::default()
    };
    let first = client.start(bash("sleep 60"), options).await.unwrap();
    let second = client
        .start(bash("sleep 60"), StartOptions::default())
        .await
        .unwrap();
    let listed = client.processes().await.unwrap();
    let pids: Vec<u32> = listed.iter().map(|info| info.pid).collect();
    assert!(pids.contains(&first.pid()) && pids.contains(&second.pid()));
    let mine = listed
        .iter()
        .find(|info| info.tag.as_deref() == Some("mine"))
        .unwrap();
    assert_eq!(mine.config.as_ref().unwrap().args, ["-c", "sleep 60"]);
    let again = client
        .connect(ProcessSelector::by_tag("mine"))
        .await
        .unwrap();
    assert_eq!(again.pid(), first.pid());
    client
        .signal(ProcessSelector::by_tag("mine"), Signal::Term)
        .await
        .unwrap();
    for stream in [again, first] {
        assert_eq!(whole(stream).await.end.status, "signal: terminated");
    }
    client
        .signal(second.selector(), Signal::Kill)
        .await
        .unwrap();
    assert_eq!(whole(second).await.end.status, "signal: killed");
    assert!(client.processes().await.unwrap().is_empty());
    let error = client
        .signal(ProcessSelector::by_pid(999_999), Signal::Kill)
        .await
        .unwrap_err();
    assert_eq!(error.code(), Some(Code::NotFound));
    assert_eq!(error.to_string(), "process with pid 999999 not found");
}

#[tokio::test]
async fn a_process_goes_on_when_nobody_listens_and_its_end_is_kept() {
    let agent = Agent::start(As::Nobody, &[]);
    let client = agent.client();
    let file = agent.home.join("done");
    let code = format!("sleep 0.5; echo x > {}; exit 7", file.display());
    let process = client
        .start(bash(&code), StartOptions::default())
        .await
        .unwrap();
    let selector = process.selector();
    drop(process);
    let deadline = Instant::now() + Duration::from_secs(20);
    while !client.processes().await.unwrap().is_empty() {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(file.exists());
    let late = client.connect(selector).await.unwrap();
    assert_eq!(whole(late).await.end.exit_code, 7);
}

#[tokio::test]
async fn a_process_that_takes_longer_than_its_call_may_is_killed() {
    let agent = Agent::start(As::Nobody, &[]);
    let client = agent.client();
    let options = StartOptions {
        timeout: Some(Duration::from_millis(300)),
        ..StartOptions::default()
    };
    let mut process = client.start(bash("sleep 60"), options).await.unwrap();
    let selector = process.selector();
    let error = process.next().await.unwrap_err();
    assert_eq!(error.code(), Some(Code::DeadlineExceeded));
    let late = client.connect(selector).await.unwrap();
    assert_eq!(whole(late).await.end.status, "signal: killed");
}

#[tokio::test]
async fn a_terminal_has_a_size_that_changes_and_is_the_processs_own() {
    let agent = Agent::start(As::Nobody, &[]);
    let client = agent.client();
    let options = StartOptions {
        terminal: Some(PtySize { cols: 80, rows: 24 }),
        ..StartOptions::default()
    };
    let code =
        "stty size; tty >/dev/null && echo terminal; read line; stty size; echo got:$line; exit 4";
    let mut process = client.start(bash(code), options).await.unwrap();
    let selector = process.selector();
    let mut text = String::new();
    while !text.contains("terminal") {
        match process.next().await.unwrap() {
            Some(ProcessTold::Terminal(bytes)) => text.push_str(&String::from_utf8(bytes).unwrap()),
            other => panic!("{other:?} after {text:?}"),
        }
    }
    assert!(text.starts_with("24 80\r\n"), "{text:?}");
    client
        .resize(
            selector.clone(),
            PtySize {
                cols: 100,
                rows: 30,
            },
        )
        .await
        .unwrap();
    client
        .write_terminal(selector.clone(), b"abc\n".to_vec())
        .await
        .unwrap();
    let said = whole(process).await;
    let rest = String::from_utf8(said.terminal).unwrap();
    assert!(rest.contains("30 100\r\ngot:abc\r\n"), "{rest:?}");
    assert_eq!(said.end.exit_code, 4);
    let error = client.close_stdin(selector).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::NotFound));
}

#[tokio::test]
async fn a_shell_in_a_terminal_has_jobs_and_is_interrupted_by_a_key() {
    let agent = Agent::start(As::Nobody, &[]);
    let client = agent.client();
    let options = StartOptions {
        terminal: Some(PtySize { cols: 80, rows: 24 }),
        ..StartOptions::default()
    };
    let shell = ProcessConfig {
        cmd: "/bin/bash".to_owned(),
        args: vec!["-i".to_owned(), "-l".to_owned()],
        envs: [("TERM".to_owned(), "xterm-256color".to_owned())].into(),
        cwd: Some("/".to_owned()),
    };
    let process = client.start(shell, options).await.unwrap();
    let selector = process.selector();
    client
        .write_terminal(selector.clone(), b"sleep 100\n".to_vec())
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_millis(700)).await;
    client
        .write_terminal(selector.clone(), b"\x03".to_vec())
        .await
        .unwrap();
    client
        .write_terminal(selector, b"echo status:$?\nexit\n".to_vec())
        .await
        .unwrap();
    let begun = Instant::now();
    let text = String::from_utf8_lossy(&whole(process).await.terminal).into_owned();
    assert!(begun.elapsed() < Duration::from_secs(20));
    assert!(text.contains("status:130"), "{text:?}");
    assert!(!text.contains("no job control"), "{text:?}");
}

#[tokio::test]
async fn much_output_comes_whole_and_a_slow_reader_holds_the_process_back() {
    let agent = Agent::start(As::Nobody, &[]);
    let client = agent.client();
    let process = client.start(bash("head -c 30000000 /dev/zero"), StartOptions::default());
    let process = process.await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    // It is still there: its output went nowhere yet.
    assert_eq!(client.processes().await.unwrap().len(), 1);
    let before = memory(agent.pid());
    assert!(before < 64 << 20, "{before} bytes");
    assert_eq!(whole(process).await.stdout.len(), 30_000_000);
}

fn memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    line.split_whitespace()
        .nth(1)
        .unwrap()
        .parse::<u64>()
        .unwrap()
        * 1024
}

#[tokio::test]
async fn many_at_once_do_not_disturb_each_other() {
    let agent = Agent::start(As::Nobody, &[]);
    let client = agent.client();
    let mut all = tokio::task::JoinSet::new();
    for number in 0..100 {
        let client = client.clone();
        all.spawn(async move {
            let process = client.start(
                bash(&format!("echo {number}; exit {number}")),
                StartOptions::default(),
            );
            let said = whole(process.await.unwrap()).await;
            assert_eq!(said.stdout, format!("{number}\n").into_bytes());
            assert_eq!(said.end.exit_code, number);
        });
    }
    while let Some(done) = all.join_next().await {
        done.unwrap();
    }
}

#[tokio::test]
async fn everything_ends_with_the_agent() {
    let agent = Agent::start(As::Nobody, &[]);
    let process = agent
        .client()
        .start(bash("exec sleep 60"), StartOptions::default())
        .await
        .unwrap();
    let proc = format!("/proc/{}", process.pid());
    assert!(std::path::Path::new(&proc).exists());
    drop(agent);
    let deadline = Instant::now() + Duration::from_secs(10);
    while std::path::Path::new(&proc).exists() {
        assert!(Instant::now() < deadline, "the process outlives the agent");
        std::thread::sleep(Duration::from_millis(10));
    }
    let mut process = process;
    let error = loop {
        match process.next().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("an end that nobody told"),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, ClientError::Cut(_)), "{error:?}");
}

/// Only root can be somebody else.
#[tokio::test]
async fn as_root_the_agent_starts_processes_as_whom_it_is_told() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: this takes root");
        return;
    }
    let agent = Agent::start(As::Us, &[]);
    let passwd = format!(
        "root:x:0:0::/root:/bin/sh\nuser:x:4321:4321::{}:/bin/sh\n",
        agent.home.display()
    );
    std::fs::write(agent.home.join("../passwd"), passwd).unwrap();
    std::fs::write(
        agent.home.join("../group"),
        "user:x:4321:\nextra:x:99:user\n",
    )
    .unwrap();
    std::os::unix::fs::chown(&agent.home, Some(4321), Some(4321)).unwrap();
    std::fs::set_permissions(
        agent.home.join(".."),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .unwrap();
    let client = agent.client();
    let id = || bash("id -u; id -G; pwd");
    let said = whole(client.start(id(), StartOptions::default()).await.unwrap()).await;
    let text = String::from_utf8(said.stdout).unwrap();
    assert_eq!(text, format!("4321\n4321 99\n{}\n", agent.home.display()));
    let root = client.clone().as_user("root");
    let said = whole(root.start(id(), StartOptions::default()).await.unwrap()).await;
    assert!(said.stdout.starts_with(b"0\n0\n"));
    let made = client.make_dir("down").await.unwrap();
    assert_eq!((made.owner.as_str(), made.group.as_str()), ("user", "user"));
    client
        .upload("down/f", "x", &Default::default())
        .await
        .unwrap();
    assert_eq!(client.stat("down/f").await.unwrap().owner, "user");
    let options = StartOptions {
        terminal: Some(PtySize { cols: 80, rows: 24 }),
        ..StartOptions::default()
    };
    let said = whole(
        client
            .start(bash("stat -c %u $(tty)"), options)
            .await
            .unwrap(),
    )
    .await;
    assert_eq!(said.terminal, b"4321\r\n");
}
