//! What counts as a result: whole, this user's, about this backend, and about the machine as it is now.

use std::os::unix::fs::PermissionsExt;

use super::*;

fn attacked(name: &str, verdict: &str, control: &str) -> Attacked {
    Attacked {
        attack: name.to_owned(),
        verdict: verdict.to_owned(),
        wall: Some("root".to_owned()),
        control: control.to_owned(),
        bits_per_second: None,
    }
}

fn now() -> BTreeMap<String, String> {
    let pairs = [("kernel", "6.18"), ("runtime", "1.1.5")];
    pairs
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
}

fn result(attacks: Vec<Attacked>) -> AttackResult {
    AttackResult {
        schema: SCHEMA.to_owned(),
        backend: "jail".to_owned(),
        made_at: "2026-11-25T10:00:00Z".to_owned(),
        casemate: "0".to_owned(),
        program_sha256: String::new(),
        public_key: String::new(),
        depends_on: now(),
        attacks,
    }
}

fn held() -> AttackResult {
    result(vec![
        attacked("netlink", "stopped", "succeeded"),
        attacked("kernel_crypto", "stopped", "impossible"),
        attacked("cache_channel", "not_promised", "succeeded"),
    ])
}

fn kept(result: &AttackResult) -> (tempfile::TempDir, Results) {
    let dir = tempfile::tempdir().unwrap();
    let results = Results::at(dir.path().join("data"));
    let key = results.key().unwrap();
    results.keep(result, &key).unwrap();
    (dir, results)
}

fn why(record: Record) -> String {
    match record {
        Record::None { why } => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_result_that_is_kept_is_found_again() {
    let (_dir, results) = kept(&held());
    assert_eq!(
        results.record("jail", &now()),
        Record::Stood {
            on: "2026-11-25".to_owned(),
            stopped: 2,
            promised: 2
        }
    );
    assert_eq!(
        why(results.record("wasm", &now())),
        "not attacked on this machine"
    );
}

#[test]
fn one_that_got_through_is_a_wall_that_fell() {
    let through = attacked("netlink", "got_through", "succeeded");
    let (_dir, results) = kept(&result(vec![
        attacked("a", "stopped", "succeeded"),
        through,
    ]));
    assert_eq!(
        results.record("jail", &now()),
        Record::Fell {
            on: "2026-11-25".to_owned(),
            attacks: vec!["netlink".to_owned()]
        }
    );
}

#[test]
fn what_proves_nothing_counts_as_none() {
    for attacks in [
        vec![],
        vec![attacked("a", "unproven", "succeeded")],
        vec![attacked("a", "not_run", "succeeded")],
        vec![attacked("a", "stopped", "failed")],
        vec![attacked("a", "stopped", "not_run")],
        vec![attacked("a", "no such word", "succeeded")],
    ] {
        let said = why(result(attacks).record());
        assert!(said.contains("proves nothing"), "{said}");
    }
}

#[test]
fn every_change_of_what_it_rests_on_invalidates_it_by_name() {
    let (_dir, results) = kept(&held());
    let with = |name: &str, value: Option<&str>| {
        let mut now = now();
        match value {
            Some(value) => drop(now.insert(name.to_owned(), value.to_owned())),
            None => drop(now.remove(name)),
        }
        why(results.record("jail", &now))
    };
    assert!(with("kernel", Some("6.19")).ends_with("changed: kernel"));
    assert!(with("runtime", None).ends_with("changed: runtime"));
    assert!(with("settings", Some("new")).ends_with("changed: settings"));
}

#[test]
fn a_file_that_was_tampered_with_counts_as_none_and_says_so() {
    let (_dir, results) = kept(&result(vec![attacked(
        "netlink",
        "got_through",
        "succeeded",
    )]));
    let path = results.path("jail");
    let mut envelope: serde_json::Value =
        serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let forged = serde_json::to_vec(&held()).unwrap();
    use base64::Engine as _;
    let forged = base64::engine::general_purpose::STANDARD.encode(forged);
    envelope["payload"] = forged.into();
    fs::write(&path, envelope.to_string()).unwrap();
    let said = why(results.record("jail", &now()));
    assert!(said.contains("changed after it was signed"), "{said}");
}

#[test]
fn a_foreign_file_counts_as_none_and_says_so() {
    let (_dir, results) = kept(&held());
    let (_other_dir, other) = kept(&held());
    fs::copy(other.path("jail"), results.path("jail")).unwrap();
    let said = why(results.record("jail", &now()));
    assert!(said.contains("another key"), "{said}");
    // One's own, about another backend.
    let (_dir, results) = kept(&held());
    fs::copy(results.path("jail"), results.path("wasm")).unwrap();
    let said = why(results.record("wasm", &now()));
    assert!(said.contains("it is about jail"), "{said}");
}

#[test]
fn a_file_that_cannot_be_read_or_that_others_may_write_counts_as_none() {
    let (_dir, results) = kept(&held());
    let path = results.path("jail");
    for text in ["", "{}", "[1", "\0"] {
        fs::write(&path, text).unwrap();
        let said = why(results.record("jail", &now()));
        assert!(said.contains("does not count"), "{said}");
    }
    let (_dir, results) = kept(&held());
    let path = results.path("jail");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
    assert!(why(results.record("jail", &now())).contains("does not count"));
    // A folder in its place.
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(why(results.record("jail", &now())).contains("does not count"));
}

#[test]
fn without_the_key_nothing_counts() {
    let (_dir, results) = kept(&held());
    fs::remove_file(results.data.join("signing.key")).unwrap();
    let said = why(results.record("jail", &now()));
    assert!(said.contains("no key"), "{said}");
}
