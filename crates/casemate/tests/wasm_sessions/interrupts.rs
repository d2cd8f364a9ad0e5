//! Cells that nobody waits for any more, and interpreters that are started anew.

use super::*;

/// Runs a cell for so long, and goes away.
async fn leave(client: &Client, code: &str, after: Duration) {
    let left = tokio::time::timeout(after, run(client, code)).await;
    assert!(left.is_err(), "{code}: {left:?}");
}

/// What a cell shows that must run within a few seconds.
async fn soon(client: &Client, code: &str) -> Ran {
    let ran = tokio::time::timeout(Duration::from_secs(10), run(client, code)).await;
    ran.unwrap_or_else(|_| panic!("{code:?} does not come to run"))
}

#[tokio::test]
async fn a_cell_that_nobody_waits_for_ends_and_what_others_left_stays() {
    let _together = TOGETHER.read().await;
    let sessions = sessions();
    let Open { client, .. } = open(&sessions);
    run(&client, "import time, asyncio, re\nx = 41\nseen = []").await;
    for code in [
        "while True: pass",
        "def f(n):\n    while n: n += 1\nf(1)",
        "time.sleep(3600)",
        "await asyncio.sleep(3600)",
        "re.match(r'(a+)+$', 'a' * 40 + 'b')",
        "7 ** (7 ** 11)",
        "try:\n    while True: pass\nexcept KeyboardInterrupt as error:\n    seen.append(error)",
    ] {
        leave(&client, code, Duration::from_millis(700)).await;
        let ran = soon(&client, "x + 1").await;
        assert_eq!(ran.text(), "42", "{code}: {ran:?}");
    }
    assert_eq!(soon(&client, "len(seen)").await.text(), "1");
    // It is gone before its code has begun.
    leave(&client, "while True: pass", Duration::from_millis(1)).await;
    assert_eq!(soon(&client, "x").await.text(), "41");
}

#[tokio::test]
async fn who_waits_in_line_comes_to_run_when_the_one_before_goes_away() {
    let _together = TOGETHER.read().await;
    let sessions = sessions();
    let Open { client, .. } = open(&sessions);
    run(&client, "x = 1").await;
    let first = client.clone();
    let first = tokio::spawn(async move { run(&first, "while True: x += 1").await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    let second = client.clone();
    let second = tokio::spawn(async move { run(&second, "x > 1").await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!second.is_finished());
    first.abort();
    let ran = tokio::time::timeout(Duration::from_secs(10), second).await;
    assert_eq!(ran.unwrap().unwrap().text(), "True");
}

#[tokio::test]
async fn a_program_hears_interrupts_as_it_wants_to_and_only_while_it_runs() {
    let _together = TOGETHER.read().await;
    let sessions = sessions();
    let Open { client, .. } = open(&sessions);
    let own = "import signal\nheard = []\nsignal.signal(signal.SIGINT, lambda *_: heard.append(1))";
    assert!(run(&client, own).await.error.is_none());
    let until = "while not heard: pass";
    leave(&client, until, Duration::from_millis(500)).await;
    assert_eq!(soon(&client, "heard").await.text(), "[1]");
    let raised = "signal.signal(signal.SIGINT, signal.default_int_handler)\n\
        signal.raise_signal(signal.SIGINT)\nwhile True: pass";
    assert_eq!(run(&client, raised).await.error(), "KeyboardInterrupt");
    assert_eq!(run(&client, "heard").await.text(), "[1]");
}

#[tokio::test]
async fn a_cell_that_does_not_end_over_it_loses_its_interpreter_and_no_file() {
    let _together = TOGETHER.read().await;
    let sessions = sessions();
    let Open {
        client, session, ..
    } = open(&sessions);
    let left = "import os\nx = 1\nopen('kept', 'w').write('here')\nopened = open('other', 'w')";
    assert!(run(&client, left).await.error.is_none());
    let deaf =
        "while True:\n    try:\n        while True: pass\n    except BaseException:\n        pass";
    leave(&client, deaf, Duration::from_millis(500)).await;
    let next = tokio::time::timeout(Duration::from_secs(40), run(&client, "x")).await;
    assert_eq!(next.unwrap().error(), "NameError");
    let kept = run(&client, "import os\n[open('kept').read(), os.getcwd()]").await;
    assert_eq!(kept.text(), "['here', '/home/user']");
    assert_eq!(session.ended(), None);
    // The next is interrupted as the first was.
    run(&client, "x = 2").await;
    leave(&client, "while True: pass", Duration::from_millis(500)).await;
    assert_eq!(soon(&client, "x").await.text(), "2");
}

#[tokio::test]
async fn a_context_is_started_anew_and_files_stay() {
    let _together = TOGETHER.read().await;
    let sessions = sessions();
    let Open {
        client, session, ..
    } = open(&sessions);
    let [context] = client.contexts().await.unwrap().try_into().unwrap();
    run(&client, "x = 1\nopen('kept', 'w').write('here')").await;
    client.restart_context(&context.id).await.unwrap();
    assert_eq!(run(&client, "x").await.error(), "NameError");
    assert_eq!(
        run(&client, "x = 2\nopen('kept').read()").await.text(),
        "here"
    );
    // In the middle of a cell, which is told, and before those that wait.
    let running = client.clone();
    let running = tokio::spawn(async move { run(&running, "while True: pass").await });
    tokio::time::sleep(Duration::from_millis(500)).await;
    let waiting = client.clone();
    let waiting = tokio::spawn(async move { run(&waiting, "x").await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    let begun = Instant::now();
    client.restart_context(&context.id).await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(5));
    let ran = running.await.unwrap();
    let (name, value, _) = ran.error.unwrap();
    assert_eq!(
        (name.as_str(), value.as_str()),
        ("ContextRestarting", "Context was restarted")
    );
    assert_eq!(waiting.await.unwrap().error(), "NameError");
    let [same] = client.contexts().await.unwrap().try_into().unwrap();
    assert_eq!(same.id, context.id);
    let unknown = client.restart_context("0000").await.unwrap_err();
    assert_eq!(unknown.code(), Some(Code::NotFound), "{unknown}");
    // Its limits are those that it had.
    let full = run(&client, "'x' * (300 << 20)").await;
    assert_eq!(full.error(), "MemoryError");
    session.end();
    assert!(client.restart_context(&context.id).await.is_err());
}
