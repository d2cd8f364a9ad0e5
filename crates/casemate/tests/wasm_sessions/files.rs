//! Files that are put together, and what is known of files beside their bytes.

use std::io::{Read as _, Write as _};
use std::time::SystemTime;

use super::*;

/// One request of JSON, on a connection of its own: the answer's head and body as text.
fn post(session: &dyn Session, path: &str, body: &str) -> String {
    let mut stream = StdStream::from(session.connect().unwrap());
    stream.set_nonblocking(false).unwrap();
    let length = body.len();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[tokio::test]
async fn files_are_put_together() {
    let _together = TOGETHER.read().await;
    let sessions = sessions();
    let Open {
        client, session, ..
    } = open(&sessions);
    let make = "open('a', 'w').write('one ')\nopen('/tmp/b', 'w').write('two')";
    assert!(run(&client, make).await.error.is_none());
    let compose = |body: &str| post(&*session, "/files/compose", body);
    let made = compose(r#"{"source_paths": ["a", "/tmp/b"], "destination": "new/c"}"#);
    assert!(made.starts_with("HTTP/1.1 200"), "{made}");
    assert!(made.contains(r#""path":"/home/user/new/c""#), "{made}");
    assert_eq!(run(&client, "open('new/c').read()").await.text(), "one two");
    for (body, status, why) in [
        (
            r#"{"source_paths": ["a", "nothing"], "destination": "a2"}"#,
            404,
            "/home/user/nothing",
        ),
        (
            r#"{"source_paths": ["a"], "destination": "~/a"}"#,
            400,
            "itself",
        ),
        (
            r#"{"source_paths": ["new"], "destination": "d"}"#,
            400,
            "new",
        ),
        (
            r#"{"source_paths": ["a"], "destination": "/etc/d"}"#,
            403,
            "/etc/d",
        ),
        (
            r#"{"source_paths": ["a"], "destination": "d", "username": "root"}"#,
            401,
            "root",
        ),
        (r#"{"source_paths": "a"}"#, 400, ""),
    ] {
        let refused = compose(body);
        let begins = format!("HTTP/1.1 {status}");
        assert!(
            refused.starts_with(&begins) && refused.contains(why),
            "{body}: {refused}"
        );
    }
    let there = run(&client, "import os\nsorted(os.listdir())").await;
    assert_eq!(there.text(), "['a', 'new']");
}

#[tokio::test]
async fn times_and_metadata_of_files_go_where_the_files_go() {
    let _together = TOGETHER.read().await;
    let sessions = sessions();
    let one = open(&sessions);
    let metadata = BTreeMap::from([("origin".to_owned(), "a test".to_owned())]);
    let upload = one.client.upload("told", b"x".to_vec(), &metadata);
    upload.await.unwrap();
    let old = "import os\nopen('old', 'w').write('y')\nos.utime('old', ns=(10 ** 18, 10 ** 18))";
    assert!(run(&one.client, old).await.error.is_none());
    // Where temporary files are kept without attributes there is nothing to see.
    let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    one.session.save(folder.path()).unwrap();
    let then = SystemTime::UNIX_EPOCH + Duration::from_nanos(10_u64.pow(18));
    let saved = std::fs::metadata(folder.path().join("home/old")).unwrap();
    assert_eq!(saved.modified().unwrap(), then);
    let saved = std::fs::File::open(folder.path()).unwrap().into();
    let two = open_with(&sessions, &plan(), Some(&saved));
    let ran = run(&two.client, "import os\nos.stat('old').st_mtime_ns").await;
    assert_eq!(ran.text(), "1000000000000000000");
    let before = one.client.stat("told").await.unwrap();
    let after = two.client.stat("told").await.unwrap();
    assert_eq!(after.metadata, metadata);
    assert_eq!(after.modified_time, before.modified_time);
}
