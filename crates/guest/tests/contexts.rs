//! Contexts on a real agent: Python with IPython, and bash.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::time::{Duration, Instant};

use casemate_envd::client::{Client, Init};
use casemate_envd::interpreter::{ContextRequest, ExecuteRequest, Line, Shown};
use casemate_envd::{ClientError, Code};
use support::{Agent, As, python, status};

/// What one execution told.
#[derive(Debug, Default)]
struct Told {
    count: u64,
    stdout: String,
    stderr: String,
    shown: Vec<Shown>,
    error: Option<(String, String, String)>,
}

impl Told {
    fn text(&self) -> &str {
        let main = self.shown.iter().find(|shown| shown.is_main_result);
        main.and_then(|shown| shown.text.as_deref())
            .unwrap_or_default()
    }

    fn error(&self) -> (&str, &str) {
        let (name, value, _) = self.error.as_ref().unwrap_or_else(|| panic!("{self:?}"));
        (name, value)
    }
}

async fn execute(client: &Client, request: ExecuteRequest) -> Result<Told, ClientError> {
    let mut execution = client.execute(&request).await?;
    let mut told = Told::default();
    while let Some(line) = execution.next().await? {
        match line {
            Line::NumberOfExecutions { execution_count } => told.count = execution_count,
            Line::Stdout { text, timestamp } => {
                assert!(timestamp.ends_with('Z'));
                told.stdout.push_str(&text);
            }
            Line::Stderr { text, .. } => told.stderr.push_str(&text),
            Line::Result(shown) => told.shown.push(*shown),
            Line::Error {
                name,
                value,
                traceback,
            } => told.error = Some((name, value, traceback)),
            other => panic!("{other:?}"),
        }
    }
    Ok(told)
}

fn cell(code: &str) -> ExecuteRequest {
    ExecuteRequest {
        code: code.to_owned(),
        ..ExecuteRequest::default()
    }
}

async fn run(client: &Client, code: &str) -> Told {
    execute(client, cell(code)).await.unwrap()
}

fn env(pairs: &[(&str, &str)]) -> Option<std::collections::BTreeMap<String, String>> {
    Some(
        pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect(),
    )
}

/// An agent with a Python, where there is one.
fn agent() -> Option<Agent> {
    let python = python()?;
    Some(Agent::start(
        As::Us,
        &["--python", python.to_str().unwrap(), "--deno", "/no/deno"],
    ))
}

#[tokio::test]
async fn cells_share_a_state_and_are_counted() {
    let Some(agent) = agent() else { return };
    let client = agent.client();
    let told = run(&client, "x = 1\nprint('a')\nx + 1").await;
    assert_eq!(
        (told.count, told.stdout.as_str(), told.text()),
        (1, "a\n", "2")
    );
    let told = run(&client, "x += 1; x").await;
    assert_eq!((told.count, told.text()), (2, "2"));
    let told = run(&client, "echo 'this is no Python'").await;
    assert_eq!((told.count, told.error().0), (3, "SyntaxError"));
    assert_eq!(told.stderr, "", "an error is told once");
    assert_eq!(
        run(&client, "    y = x\n    y * 10").await.text(),
        "20",
        "indented as a whole"
    );
    assert_eq!(run(&client, "_ + 1").await.text(), "21");
    assert_eq!(run(&client, "'text'").await.text(), "text");
    assert_eq!(run(&client, "x = 5").await.shown.len(), 0);
    assert_eq!(
        run(&client, "import asyncio\nawait asyncio.sleep(0, 'slept')")
            .await
            .text(),
        "slept"
    );
    let told = run(&client, "import random\nrandom.seed(1)").await;
    assert!(told.error.is_none());
    let (one, two) = (
        run(&client, "random.random()").await,
        run(&client, "random.random()").await,
    );
    assert!(
        one.text().starts_with("0.1343") && two.text().starts_with("0.8474"),
        "no cell seeds anew"
    );
}

#[tokio::test]
async fn errors_have_a_name_a_value_and_the_cells_own_lines() {
    let Some(agent) = agent() else { return };
    let client = agent.client();
    run(&client, "def f(n):\n    return 1 / n").await;
    let told = run(&client, "print('before')\nf(0)").await;
    assert_eq!(told.stdout, "before\n");
    assert_eq!(told.error(), ("ZeroDivisionError", "division by zero"));
    let (.., traceback) = told.error.unwrap();
    for line in [
        "File \"<cell 2>\", line 2",
        "f(0)",
        "File \"<cell 1>\", line 2, in f",
        "return 1 / n",
    ] {
        assert!(traceback.contains(line), "{traceback}");
    }
    assert!(
        !traceback.contains("casemate_guest") && !traceback.contains('\x1b'),
        "{traceback}"
    );
    assert_eq!(
        run(&client, "import sys; sys.exit(3)").await.error(),
        ("SystemExit", "3")
    );
    assert_eq!(run(&client, "f(2)").await.text(), "0.5");
}

#[tokio::test]
async fn what_is_shown_has_its_forms() {
    let Some(agent) = agent() else { return };
    let client = agent.client();
    let code = "from IPython.display import *\ndisplay(HTML('<b>x</b>'))\ndisplay({'text/latex': 'l'}, raw=True)\n\
                display(JSON({'a': [1]}))\n'main'";
    let told = run(&client, code).await;
    let [html, latex, json, main] = &told.shown[..] else {
        panic!("{told:?}")
    };
    assert_eq!(html.html.as_deref(), Some("<b>x</b>"));
    assert!(!html.is_main_result && main.is_main_result);
    assert_eq!(
        (latex.latex.as_deref(), latex.text.as_deref()),
        (Some("l"), None)
    );
    assert_eq!(json.json.as_ref().unwrap().get(), r#"{"a":[1]}"#);
    let code = "import pandas as pd\npd.DataFrame({'a': [1, 2], 't': pd.to_datetime(['2026-01-01', None]), 's': ['x' * 300, None]})";
    let told = run(&client, code).await;
    let shown = &told.shown[0];
    assert!(shown.html.as_ref().unwrap().contains("<table"));
    let data: serde_json::Value = serde_json::from_str(shown.data.as_ref().unwrap().get()).unwrap();
    assert_eq!(data["a"], serde_json::json!([1, 2]));
    assert_eq!(data["t"], serde_json::json!(["2026-01-01T00:00:00", null]));
    assert_eq!(data["s"][0].as_str().unwrap().len(), 300);
    let extra = shown.extra.as_ref().unwrap().get();
    assert!(
        extra.contains("application/vnd.casemate.table+json") && extra.contains("\"row_count\":2")
    );
}

#[tokio::test]
async fn figures_are_pictures_and_data() {
    let Some(agent) = agent() else { return };
    let client = agent.client();
    let code = "import matplotlib.pyplot as plt\nplt.bar(['a', 'b'], [1, 2], label='n')\nplt.title('T')\nplt.show()";
    let told = run(&client, code).await;
    let [shown] = &told.shown[..] else {
        panic!("{told:?}")
    };
    assert!(shown.png.as_ref().unwrap().starts_with("iVBOR"));
    assert!(shown.extra.is_none());
    let chart: serde_json::Value =
        serde_json::from_str(shown.chart.as_ref().unwrap().get()).unwrap();
    assert_eq!(
        (&chart["type"], &chart["title"]),
        (&"bar".into(), &"T".into())
    );
    assert_eq!(
        chart["elements"][1],
        serde_json::json!({"label": "b", "group": "n", "value": 2.0})
    );
    let told = run(&client, "plt.plot([1, 2])").await;
    let figures = told.shown.iter().filter(|shown| shown.chart.is_some());
    assert_eq!(
        figures.count(),
        1,
        "a figure that was left open is shown at the end of its cell"
    );
    assert_eq!(run(&client, "1").await.shown.len(), 1, "and once");
    let code = "from PIL import Image\nImage.new('RGB', (4, 4)).save('x.png')\nprint('saved')";
    let told = run(&client, code).await;
    assert!(
        told.shown[0].png.is_some() && told.stdout == "saved\n",
        "{told:?}"
    );
}

#[tokio::test]
async fn output_comes_as_it_is_written() {
    let Some(agent) = agent() else { return };
    let client = agent.client();
    let code = "import sys, time\nprint('one')\nprint(2, file=sys.stderr)\nprint('half', end='')\ntime.sleep(1.5)\nprint(' é€😀')";
    let mut execution = client.execute(&cell(code)).await.unwrap();
    let begun = Instant::now();
    let mut first = String::new();
    let mut stderr = Vec::new();
    while !first.contains("half") {
        match execution.next().await.unwrap() {
            Some(Line::Stdout { text, .. }) => first.push_str(&text),
            Some(Line::Stderr { text, .. }) => stderr.push(text),
            Some(_) => {}
            None => panic!("{first:?}"),
        }
    }
    assert_eq!(
        (first.as_str(), &stderr[..]),
        ("one\nhalf", &["2\n".to_owned()][..])
    );
    assert!(
        begun.elapsed() < Duration::from_millis(1400),
        "half a line is not held back"
    );
    let mut rest = String::new();
    while let Some(line) = execution.next().await.unwrap() {
        if let Line::Stdout { text, .. } = line {
            rest.push_str(&text);
        }
    }
    assert_eq!(rest, " é€😀\n");
    let told = run(
        &client,
        "print('before')\n!echo from a shell; pwd\nprint('after')",
    )
    .await;
    let home = agent.home.to_str().unwrap();
    assert_eq!(
        told.stdout,
        format!("before\nfrom a shell\n{home}\nafter\n")
    );
    let told = run(&client, "for n in range(200000): print(n)").await;
    assert_eq!(told.stdout.lines().count(), 200_000);
    assert!(told.stdout.ends_with("199999\n"));
}

#[tokio::test]
async fn variables_are_the_sandboxs_and_the_executions() {
    let Some(agent) = agent() else { return };
    let client = agent.client();
    let init = Init {
        env_vars: env(&[("GLOBAL", "supertest")]),
        ..Init::default()
    };
    client.init(&init).await.unwrap();
    for (language, read) in [
        (
            None,
            "import os; os.getenv('GLOBAL') + ' ' + os.getenv('FOO', 'none')",
        ),
        (Some("bash"), "echo $GLOBAL ${FOO:-none}"),
    ] {
        let with = |vars| ExecuteRequest {
            language: language.map(str::to_owned),
            env_vars: vars,
            ..cell(read)
        };
        let said = |told: &Told| {
            if language.is_none() {
                told.text().to_owned()
            } else {
                told.stdout.trim().to_owned()
            }
        };
        let told = execute(&client, with(None)).await.unwrap();
        assert_eq!(said(&told), "supertest none", "{told:?}");
        let told = execute(&client, with(env(&[("GLOBAL", "a 'b'"), ("FOO", "bar")])))
            .await
            .unwrap();
        assert_eq!(said(&told), "a 'b' bar");
        let told = execute(&client, with(None)).await.unwrap();
        assert_eq!(said(&told), "supertest none");
    }
}

#[tokio::test]
async fn contexts_are_apart_and_live_until_they_are_removed() {
    let Some(agent) = agent() else { return };
    let client = agent.client();
    let listed = client.contexts().await.unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(
        (listed[0].language.as_str(), listed[0].cwd.as_str()),
        ("python", agent.home.to_str().unwrap())
    );
    let request = ContextRequest {
        language: Some(" Python".to_owned()),
        cwd: Some("/usr".to_owned()),
    };
    let own = client.create_context(&request).await.unwrap();
    assert_eq!(
        (own.language.as_str(), own.cwd.as_str()),
        ("python", "/usr")
    );
    assert_eq!(client.contexts().await.unwrap().last(), Some(&own));
    let within = |code: &str| ExecuteRequest {
        context_id: Some(own.id.clone()),
        ..cell(code)
    };
    let told = execute(&client, within("import os; x = 1; os.getcwd()"))
        .await
        .unwrap();
    assert_eq!((told.count, told.text()), (1, "/usr"));
    assert_eq!(
        run(&client, "x").await.error(),
        ("NameError", "name 'x' is not defined")
    );
    client.restart_context(&own.id).await.unwrap();
    let told = execute(&client, within("x")).await.unwrap();
    assert_eq!(told.error(), ("NameError", "name 'x' is not defined"));
    client.remove_context(&own.id).await.unwrap();
    assert!(!client.contexts().await.unwrap().contains(&own));
    for error in [
        execute(&client, within("1")).await.map(drop).unwrap_err(),
        client.restart_context(&own.id).await.unwrap_err(),
        client.remove_context(&own.id).await.unwrap_err(),
    ] {
        assert_eq!(error.code(), Some(Code::NotFound));
    }
    let both = ExecuteRequest {
        context_id: Some(listed[0].id.clone()),
        language: Some("bash".to_owned()),
        ..cell("1")
    };
    let error = execute(&client, both).await.map(drop).unwrap_err();
    assert_eq!(error.code(), Some(Code::InvalidArgument));
    let error = client
        .create_context(&ContextRequest {
            language: Some("cobol".to_owned()),
            cwd: None,
        })
        .await
        .unwrap_err();
    assert!(error.to_string().contains("cobol"), "{error}");
    let error = client
        .create_context(&ContextRequest {
            language: None,
            cwd: Some("/no".to_owned()),
        })
        .await
        .unwrap_err();
    assert!(error.to_string().contains("does not exist"), "{error}");
    assert_eq!(
        client.contexts().await.unwrap().len(),
        1,
        "what could not be started is not kept"
    );
}

#[tokio::test]
async fn one_execution_at_a_time_the_others_wait() {
    let Some(agent) = agent() else { return };
    let client = agent.client();
    run(&client, "import time\nlog = []").await;
    let mut all = tokio::task::JoinSet::new();
    for number in 0..8 {
        let client = client.clone();
        all.spawn(async move {
            run(
                &client,
                &format!(
                    "log.append(({number}, 'in')); time.sleep(0.05); log.append(({number}, 'out'))"
                ),
            )
            .await
        });
    }
    while let Some(done) = all.join_next().await {
        assert!(done.unwrap().error.is_none());
    }
    let told = run(
        &client,
        "[log[i][0] == log[i + 1][0] for i in range(0, 16, 2)] == [True] * 8",
    )
    .await;
    assert_eq!(told.text(), "True");
}

#[tokio::test]
async fn a_cell_whose_reader_goes_is_interrupted_and_the_state_stays() {
    let Some(agent) = agent() else { return };
    let client = agent.client();
    for (code, language) in [
        ("x = 41\nimport time\ntime.sleep(300)", None),
        ("!sleep 300", None),
        ("while True: pass", None),
        ("y=1; sleep 300", Some("bash")),
    ] {
        let request = |code: &str| ExecuteRequest {
            language: language.map(str::to_owned),
            ..cell(code)
        };
        let mut execution = client.execute(&request(code)).await.unwrap();
        assert!(matches!(
            execution.next().await,
            Ok(Some(Line::NumberOfExecutions { .. }))
        ));
        tokio::time::sleep(Duration::from_millis(500)).await;
        drop(execution);
        let begun = Instant::now();
        let next = if language.is_none() {
            "x + 1"
        } else {
            "echo $((y + 41))"
        };
        let told = execute(&client, request(next)).await.unwrap();
        assert!(begun.elapsed() < Duration::from_secs(10), "{code}");
        assert!(
            told.text() == "42" || told.stdout == "42\n",
            "{code}: {told:?}"
        );
    }
}

#[tokio::test]
async fn a_cell_that_will_not_be_interrupted_is_ended() {
    let Some(agent) = agent() else { return };
    let client = agent.client();
    let code = "import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\ntime.sleep(300)";
    let mut execution = client.execute(&cell(code)).await.unwrap();
    assert!(execution.next().await.unwrap().is_some());
    tokio::time::sleep(Duration::from_millis(500)).await;
    drop(execution);
    let begun = Instant::now();
    assert_eq!(run(&client, "1 + 1").await.text(), "2");
    assert!(begun.elapsed() < Duration::from_secs(60));
}

#[tokio::test]
async fn a_context_whose_process_ends_says_so_and_begins_anew() {
    let Some(agent) = agent() else { return };
    let client = agent.client();
    for code in [
        "x = 1\nprint('last')\nimport os; os._exit(5)",
        "import os, signal; print('last'); os.kill(os.getpid(), signal.SIGKILL)",
        "import os; print('last', flush=True); os.closerange(3, 20)",
    ] {
        let told = run(&client, code).await;
        assert_eq!(told.error().0, "UnexpectedEndOfExecution", "{code}");
        assert_eq!(told.stdout, "last\n", "{code}");
        assert_eq!(run(&client, "x").await.error().0, "NameError");
    }
    let mut execution = client
        .execute(&cell("import time; time.sleep(300)"))
        .await
        .unwrap();
    assert!(execution.next().await.unwrap().is_some());
    let id = client.contexts().await.unwrap()[0].id.clone();
    client.restart_context(&id).await.unwrap();
    let Some(Line::Error { name, value, .. }) = execution.next().await.unwrap() else {
        panic!()
    };
    assert_eq!(
        (name.as_str(), value.as_str()),
        ("ContextRestarting", "Context was restarted")
    );
    assert!(execution.next().await.unwrap().is_none());
}

#[tokio::test]
async fn children_of_a_cell_do_not_speak_for_it() {
    let Some(agent) = agent() else { return };
    let client = agent.client();
    let told = run(
        &client,
        "import os\npid = os.fork()\nprint('child' if pid == 0 else os.waitpid(pid, 0)[1])",
    )
    .await;
    assert_eq!(told.stdout, "child\n0\n");
    assert!(told.error.is_none());
    let told = run(
        &client,
        "from multiprocessing import Pool\nwith Pool(2) as p: r = p.map(abs, [-1, -2])\nr",
    )
    .await;
    assert_eq!(told.text(), "[1, 2]", "{told:?}");
    let told = run(&client, "import subprocess\nsubprocess.Popen(['sh', '-c', 'while :; do echo noise; done'])\n'started'").await;
    assert!(told.text().starts_with("started"));
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(
        run(&client, "1 + 1").await.text(),
        "2",
        "noise between cells holds nothing up"
    );
}

#[tokio::test]
async fn bash_keeps_its_state() {
    let agent = Agent::start(As::Nobody, &[]);
    let client = agent.client();
    let bash = |code: &str| ExecuteRequest {
        language: Some("bash".to_owned()),
        ..cell(code)
    };
    let told = execute(&client, bash("x=5; f() { echo f:$1; }; cd /usr; pwd"))
        .await
        .unwrap();
    assert_eq!((told.count, told.stdout.as_str()), (1, "/usr\n"));
    let told = execute(&client, bash("f $x; pwd; echo err >&2\nfalse"))
        .await
        .unwrap();
    assert_eq!(
        (told.stdout.as_str(), told.stderr.as_str()),
        ("f:5\n/usr\n", "err\n")
    );
    assert_eq!(told.error(), ("CommandFailed", "exit status 1"));
    let told = execute(
        &client,
        bash("echo $?; cat; read -t 1 -u 3; ls /proc/self/fd | wc -l"),
    )
    .await
    .unwrap();
    assert!(
        told.stdout.starts_with("1\n") && told.stdout.ends_with("4\n"),
        "{told:?}"
    );
    let told = execute(&client, bash("if then")).await.unwrap();
    assert!(told.stderr.contains("syntax error"), "{told:?}");
    let told = execute(&client, bash("exit 3")).await.unwrap();
    assert_eq!(told.error().0, "UnexpectedEndOfExecution");
    let told = execute(&client, bash("echo ${x:-gone}")).await.unwrap();
    assert_eq!(told.stdout, "gone\n");
}

#[test]
fn lines_are_never_empty_and_silence_is_filled() {
    let agent = Agent::start(As::Nobody, &[]);
    let (head, body) = agent.http(
        "POST /execute",
        "",
        r#"{"code":"sleep 6; echo","language":"bash","context_id":null,"env_vars":null}"#,
    );
    assert_eq!(status(&head), 200);
    let body = String::from_utf8(body).unwrap();
    let lines: Vec<&str> = body.split_inclusive('\n').collect();
    assert!(
        lines
            .iter()
            .all(|line| line.len() > 2 && line.ends_with('\n')),
        "{lines:?}"
    );
    assert_eq!(
        lines[0],
        "{\"type\":\"number_of_executions\",\"execution_count\":1}\n"
    );
    assert_eq!(lines[1], "{\"type\":\"keepalive\"}\n");
    assert!(lines[2].starts_with("{\"type\":\"stdout\",\"text\":\"\\n\",\"timestamp\":\"20"));
    assert_eq!(lines[3..], ["{\"type\":\"end_of_execution\"}\n"]);
    let (head, body) = agent.http("POST /execute", "", r#"{"code":"1","context_id":"nope"}"#);
    assert_eq!(
        (status(&head), body),
        (404, b"Context nope not found".to_vec())
    );
    let (head, _) = agent.http("POST /execute", "", "{}");
    assert_eq!(status(&head), 400);
}

#[tokio::test]
async fn without_a_deno_it_is_said_how_to_get_one() {
    for (deno, why) in [("/no/deno", "--deno FILE"), ("/bin/false", "did not start")] {
        let agent = Agent::start(As::Nobody, &["--deno", deno]);
        for language in ["js", "typescript"] {
            let request = ExecuteRequest {
                language: Some(language.to_owned()),
                ..cell("1")
            };
            let error = execute(&agent.client(), request).await.map(drop);
            let error = error.unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}

#[tokio::test]
async fn without_a_python_that_can_it_is_said_why() {
    let agent = Agent::start(As::Nobody, &["--python", "/bin/false"]);
    let error = execute(&agent.client(), cell("1"))
        .await
        .map(drop)
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("the python context did not start"),
        "{error}"
    );
    let agent = Agent::start(As::Nobody, &["--python", "/no/python"]);
    let error = execute(&agent.client(), cell("1"))
        .await
        .map(drop)
        .unwrap_err();
    assert!(error.to_string().contains("no such file"), "{error}");
}
