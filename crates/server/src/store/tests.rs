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
