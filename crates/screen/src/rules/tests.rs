use super::*;

/// Rules that behave on their examples; all that do not are told at once.
fn behaving(text: &str) -> Rules {
    let rules = Rules::parse(text).unwrap_or_else(|error| panic!("{error}"));
    let wrong: Vec<String> = rules
        .rules
        .iter()
        .filter_map(|rule| Some(rule.check_examples(rules.language).err()?.to_string()))
        .collect();
    assert_eq!(wrong, [] as [&str; 0]);
    rules
}

#[test]
fn every_embedded_rule_behaves_on_its_examples() {
    let rules = behaving(EMBEDDED);
    assert_eq!(check_rules(EMBEDDED).unwrap(), rules.rules.len());
    assert!(rules.rules.len() >= 25);
}

#[test]
fn every_rule_for_bash_behaves_on_its_examples() {
    let rules = behaving(EMBEDDED_BASH);
    let python = Rules::parse(EMBEDDED).unwrap();
    let known = |id: &String| python.rules.iter().any(|rule| rule.form.id == *id);
    assert!(rules.better_way.keys().all(known));
}

#[test]
fn globs() {
    for (pattern, text, fits) in [
        ("os.system", "os.system", true),
        ("os.system", "os.systemd", false),
        ("os.*", "os.a.b", true),
        ("*.connect", "socket.socket().connect", true),
        ("*a*b*", "xxaxxbxx", true),
        ("*a*b", "ab_a", false),
        ("", "", true),
        ("*", "", true),
        ("a?c", "abc", true),
    ] {
        assert_eq!(
            glob(pattern.as_bytes(), text.as_bytes()),
            fits,
            "{pattern} {text}"
        );
    }
    let (pattern, text) = ("*a".repeat(50), "a".repeat(200) + "b");
    assert!(!glob(pattern.as_bytes(), text.as_bytes()));
}

#[test]
fn paths_have_one_spelling() {
    for (path, plain) in [
        ("/etc/../etc//./shadow", "/etc/shadow"),
        ("/../etc/shadow", "/etc/shadow"),
        ("../../etc/shadow", "../../etc/shadow"),
        ("~/.ssh/id_rsa", "~/.ssh/id_rsa"),
        ("/home/ann/.ssh/id_rsa", "~/.ssh/id_rsa"),
        ("/root/.aws/credentials", "~/.aws/credentials"),
        ("file:///etc/passwd", "/etc/passwd"),
        ("./data.csv", "data.csv"),
        ("a/../b", "b"),
    ] {
        assert_eq!(plain_path(path), plain, "{path}");
    }
}

#[test]
fn a_rule_that_does_not_behave_is_an_error() {
    let rule = |matching: &str, action: &str| {
        format!(
            "[[rule]]\nid='x'\nseverity='low'\naction='{action}'\nmessage='m'\nreason='r'\nbetter_way='b'\n\
             match={{call=['os.system']}}\nmatching=['{matching}']\nnon_matching=['x = 1']\n"
        )
    };
    assert_eq!(
        check_rules(&rule("import os; os.system(1)", "pass")).unwrap(),
        1
    );
    let error = check_rules(&rule("import os", "pass"))
        .unwrap_err()
        .to_string();
    assert_eq!(error, "rule x does not match this example: \"import os\"");
    assert!(check_rules(&rule("import os; os.system(1)", "confine")).is_err());
    assert!(check_rules("[[rule]]\nid='x'\nnonsense=1\n").is_err());
    let twice = rule("import os; os.system(1)", "pass").repeat(2);
    assert!(
        check_rules(&twice)
            .unwrap_err()
            .to_string()
            .contains("twice")
    );
}
