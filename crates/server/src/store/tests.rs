use super::*;

fn entry(subject: &str) -> Entry<'_> {
    Entry {
        tenant: "t",
        who: "",
        action: "tried",
        subject,
        detail: "",
    }
}

#[tokio::test]
async fn steps_wait_for_each_other_in_turn_and_reads_do_not_wait() {
    let data = tempfile::tempdir().unwrap();
    let store = Store::open(data.path(), None).await.unwrap();
    let mut first = store.step().await.unwrap();
    audit::write(&mut first, &entry("0")).await.unwrap();
    let mut others = Vec::new();
    for number in 1..=20 {
        let own = store.clone();
        others.push(tokio::spawn(async move {
            own.note(&entry(&number.to_string())).await
        }));
        // It stands in line before the next one comes.
        tokio::task::yield_now().await;
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(others.iter().all(|other| !other.is_finished()));
    let read = store.audit_tail("t", 100);
    let read = tokio::time::timeout(Duration::from_secs(2), read).await;
    assert!(read.unwrap().unwrap().is_empty(), "nothing stays as yet");

    first.commit().await.unwrap();
    for other in others {
        other.await.unwrap().unwrap();
    }
    let dropped = async {
        let mut step = store.step().await.unwrap();
        audit::write(&mut step, &entry("dropped")).await.unwrap();
    };
    dropped.await;
    store.note(&entry("21")).await.unwrap();

    let rows = store.audit_tail("t", 100).await.unwrap();
    let mut in_turn = rows.clone();
    in_turn.sort_by_key(|row| row.seq);
    let subjects: Vec<_> = in_turn.iter().map(|row| row.subject.clone()).collect();
    let wanted: Vec<_> = (0..=21).map(|number| number.to_string()).collect();
    assert_eq!(subjects, wanted);
    let head = store.audit_head("t").await.unwrap().unwrap();
    let looked = store.look_through(head).await.unwrap();
    assert_eq!((looked.entries, looked.trouble), (22, None));
}

#[tokio::test]
async fn how_a_run_ended_is_read_as_it_was_written_also_by_an_earlier_version() {
    let data = tempfile::tempdir().unwrap();
    let store = Store::open(data.path(), None).await.unwrap();
    for id in ["now", "before", "unsigned"] {
        let intent = Intent {
            id,
            tenant: "t",
            who: "",
            idempotency_key: Some(id),
            request_sha256: "",
            about: "{}",
        };
        assert!(store.intend(&intent).await.unwrap());
    }
    let outcome = "{\"stdout\":\"a line\\n\"}".repeat(500);
    for (id, receipt) in [("now", Some("{\"signed\":1}\n")), ("unsigned", None)] {
        let ended = Ended {
            id,
            tenant: "t",
            status: "exited",
            outcome: &outcome,
            brief: "{}",
            receipt,
            events: None,
            artifacts: &[],
        };
        let kept = store.finish(&ended).await.unwrap();
        assert!(kept < outcome.len() as u64 / 10, "{kept}");
    }
    sqlx::query("UPDATE runs SET state = 'ended', outcome = '{}', receipt = '{\"signed\":0}' WHERE id = 'before'")
        .execute(&store.steps)
        .await
        .unwrap();
    for (id, outcome, receipt) in [
        ("now", outcome.as_str(), Some("{\"signed\":1}\n")),
        ("before", "{}", Some("{\"signed\":0}")),
        ("unsigned", outcome.as_str(), None),
    ] {
        let run = store.run("t", id).await.unwrap().unwrap();
        assert_eq!(run.outcome.as_deref(), Some(outcome), "{id}");
        let by_key = store.run_by_key("t", id).await.unwrap().unwrap();
        assert_eq!(by_key.outcome.as_deref(), Some(outcome), "{id}");
        let signed = store.receipt("t", id).await.unwrap();
        assert_eq!(signed.as_deref(), receipt, "{id}");
    }
    assert_eq!(store.receipt("other", "now").await.unwrap(), None);
}
