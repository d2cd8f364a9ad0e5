//! Results: Jupyter's semantics, figures and tables as data, honest errors, and the schema of the outcome.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use serde_json::{Value, json};
use support::outcome;

/// A result's form with this media type.
fn form<'a>(result: &'a Value, mime: &str) -> Option<&'a Value> {
    result["representations"]
        .as_array()?
        .iter()
        .find(|form| form["mime"] == mime)
}

fn text(value: &Value, index: usize) -> String {
    form(&value["results"][index], "text/plain")
        .and_then(|form| form["text"].as_str())
        .unwrap_or_default()
        .to_owned()
}

#[test]
fn the_last_expression_is_shown_and_nothing_else() {
    let value = outcome(&["-c", "1\nx = 2\nx * 21"]);
    assert_eq!(value["results"].as_array().unwrap().len(), 1);
    assert_eq!(text(&value, 0), "42");
    assert_eq!(value["results"][0]["origin"], "expression");
    assert_eq!(outcome(&["-c", "x = 1"])["results"], json!([]));
    assert_eq!(outcome(&["-c", "None"])["results"], json!([]));
    assert_eq!(
        outcome(&["-c", "5;"])["results"],
        json!([]),
        "a semicolon hides it, as in a notebook"
    );
}

#[test]
fn display_and_rich_reprs_keep_their_media_types() {
    let program = "from IPython.display import display, HTML, Markdown, SVG, JSON\n\
                   display(HTML('<b>h</b>'), Markdown('# m'), JSON({'a': 1}))\n\
                   display(SVG('<svg xmlns=\"http://www.w3.org/2000/svg\"/>'))\n\
                   class R:\n    def _repr_html_(self): return '<i>r</i>'\nR()";
    let value = outcome(&["-c", program]);
    let mimes = [
        "text/html",
        "text/markdown",
        "application/json",
        "image/svg+xml",
        "text/html",
    ];
    for (index, mime) in mimes.iter().enumerate() {
        assert!(
            form(&value["results"][index], mime).is_some(),
            "{index} {mime}: {}",
            value["results"][index]
        );
    }
    assert_eq!(
        form(&value["results"][2], "application/json").unwrap()["json"],
        json!({"a": 1})
    );
}

#[test]
fn figures_are_captured_without_savefig_and_also_as_data() {
    let program = "import matplotlib.pyplot as plt\nplt.plot([1, 2, 3], [4, 5, 6], label='s')\nplt.title('T')\nplt.xlabel('X')\n\
                   plt.ylabel('Y')\nplt.show()\nfig, ax = plt.subplots()\nax.bar(['a', 'b'], [1, 2])";
    let value = outcome(&["-c", program]);
    let figures: Vec<&Value> = value["results"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|result| form(result, "image/png").is_some())
        .collect();
    assert_eq!(figures.len(), 2, "{}", value["stderr"]);
    assert!(
        form(figures[0], "image/png").unwrap()["base64"]
            .as_str()
            .unwrap()
            .starts_with("iVBORw0KGgo")
    );
    let chart = &form(figures[0], "application/vnd.casemate.chart+json").unwrap()["json"];
    assert_eq!(
        (&chart["type"], &chart["title"]),
        (&json!("line"), &json!("T"))
    );
    assert_eq!(
        (&chart["x_label"], &chart["y_label"]),
        (&json!("X"), &json!("Y"))
    );
    assert_eq!(chart["elements"][0]["label"], "s");
    assert_eq!(
        chart["elements"][0]["points"],
        json!([[1.0, 4.0], [2.0, 5.0], [3.0, 6.0]])
    );
    assert_eq!(
        form(figures[1], "application/vnd.casemate.chart+json").unwrap()["json"]["type"],
        "bar"
    );
}

#[test]
fn data_frames_are_html_and_typed_columns() {
    let program = "import pandas as pd\npd.DataFrame({'n': [1, 2], 'x': [1.5, None], 's': ['a', 'b'], \
                   'd': pd.to_datetime(['2024-01-01', '2024-01-02'])})";
    let value = outcome(&["-c", program]);
    let result = &value["results"][0];
    assert!(
        form(result, "text/html").unwrap()["text"]
            .as_str()
            .unwrap()
            .contains("<table")
    );
    let table = &form(result, "application/vnd.casemate.table+json").unwrap()["json"];
    assert_eq!(table["row_count"], 2);
    let names: Vec<&str> = table["columns"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|c| c["name"].as_str())
        .collect();
    assert!(
        ["n", "x", "s", "d"].iter().all(|name| names.contains(name)),
        "{table}"
    );
    assert!(
        table["preview_rows"].to_string().contains("null"),
        "a missing value is null: {table}"
    );
}

#[test]
fn errors_name_the_users_file_and_line_and_no_frames_of_ours() {
    let value = outcome(&[
        "-c",
        "def f():\n    return {}['missing']\n\nprint('before')\nf()\n",
    ]);
    assert_eq!(value["stdout"], "before\n");
    assert_eq!(value["exit_code"], 1);
    assert_eq!(
        (&value["error"]["name"], &value["error"]["line"]),
        (&json!("KeyError"), &json!(2))
    );
    let traceback = value["error"]["traceback"].as_str().unwrap();
    assert!(
        traceback.contains("File \"main.py\", line 5") && traceback.contains("line 2, in f"),
        "{traceback}"
    );
    for ours in ["casemate_guest", "IPython", "interactiveshell", "<turn"] {
        assert!(!traceback.contains(ours), "{traceback}");
    }
    let syntax = outcome(&["--screen", "off", "-c", "x = 1\nif x\n  pass"]);
    assert_eq!(
        (&syntax["error"]["name"], &syntax["error"]["line"]),
        (&json!("SyntaxError"), &json!(2))
    );
}

#[test]
fn programs_run_as_they_would_from_a_file() {
    let program = "import sys, os, inspect, pickle\nfrom dataclasses import dataclass\n\
                   @dataclass\nclass P:\n    x: int\n\
                   def f(): return 1\n\
                   if __name__ == '__main__':\n    print(os.path.basename(__file__), sys.argv, os.getcwd())\n\
                   \x20   print(pickle.loads(pickle.dumps(P(3))), inspect.getsource(f).strip())\n";
    let value = outcome(&["-c", program, "--", "a"]);
    assert_eq!(
        value["stdout"], "main.py ['main.py', 'a'] /work\nP(x=3) def f(): return 1\n",
        "{}",
        value["stderr"]
    );
}

#[test]
fn a_file_left_open_loses_nothing() {
    let value = outcome(&[
        "-c",
        "f = open('/tmp/a.txt', 'w')\nf.write('all of it')\nprint('no newline', end='')",
    ]);
    assert_eq!(value["artifacts"][0]["base64"], "YWxsIG9mIGl0");
    assert_eq!(value["stdout"], "no newline");
}

#[test]
fn inputs_are_found_as_models_write_them() {
    let csv = support::repository("examples/sales/sales.csv");
    let program = "import pandas as pd\na = pd.read_csv('sales.csv')\nb = pd.read_csv('/data/sales.csv')\nprint(len(a) == len(b) > 10000)";
    let value = outcome(&[
        "--policy",
        "data-analysis",
        "-d",
        csv.to_str().unwrap(),
        "-c",
        program,
    ]);
    assert_eq!(value["stdout"], "True\n", "{}", value["stderr"]);
}

#[test]
fn clocks_are_as_coarse_as_the_policy_says() {
    let program = "import time\ns = set()\nfor _ in range(20000): s.add(time.perf_counter_ns())\nprint(all(t % 1_000_000 == 0 for t in s))";
    assert_eq!(outcome(&["-c", program])["stdout"], "True\n");
    let strict = "import time\nprint(all(time.monotonic_ns() % 100_000_000 == 0 for _ in range(1000)), time.time_ns() % 100_000_000)";
    assert_eq!(
        outcome(&["--policy", "strict", "-c", strict])["stdout"],
        "True 0\n"
    );
}

#[test]
fn half_a_processor_takes_twice_as_long() {
    let program = "n = 0\nfor i in range(2_000_000): n += i";
    let value = outcome(&["--cpus", "0.25", "-c", program]);
    let (wall, cpu) = (
        value["usage"]["wall_us"].as_f64().unwrap(),
        value["usage"]["cpu_us"].as_f64().unwrap(),
    );
    assert!(wall > cpu * 2.5, "wall {wall} cpu {cpu}");
}

/// The shape of the outcome: every key, with values replaced by their types.
fn shape(value: &Value) -> Value {
    match value {
        Value::Object(fields) => fields
            .iter()
            .map(|(name, value)| (name.clone(), shape(value)))
            .collect(),
        Value::Array(items) => items
            .first()
            .map_or(json!([]), |first| json!([shape(first)])),
        Value::String(_) => json!("text"),
        Value::Number(_) => json!("number"),
        Value::Bool(_) => json!("true or false"),
        Value::Null => Value::Null,
    }
}

#[test]
fn the_schema_of_the_outcome_is_pinned() {
    let program = "import pandas as pd\nopen('/tmp/a', 'w').write('x')\nimport os\nos.environ.get('HOME')\npd.DataFrame({'a': [1]})";
    insta::assert_json_snapshot!("outcome", shape(&outcome(&["-c", program])));
    insta::assert_json_snapshot!(
        "outcome_over",
        shape(&outcome(&["-c", "x = bytearray(10**9)"]))
    );
    insta::assert_json_snapshot!(
        "outcome_refused",
        shape(&outcome(&["-c", "open('/etc/shadow')"]))
    );
}

/// Every limit of layer 4: what was allowed, what was seen, and what to do.
#[test]
fn every_limit_that_is_hit_is_over_with_a_hint() {
    let table: [(&str, &[&str], &str, u64); 11] = [
        ("memory", &["-m", "32m"], "x = bytearray(10**8)", 32 << 20),
        (
            "cpu_time",
            &["--cpu-time", "200ms"],
            "while True: pass",
            200,
        ),
        (
            "wall_time",
            &["--timeout", "200ms"],
            "import time\ntime.sleep(9)",
            200,
        ),
        (
            "disk_bytes",
            &["--tmp-size", "1m"],
            "open('/tmp/a', 'wb').write(bytes(2 << 20))",
            1 << 20,
        ),
        (
            "disk_files",
            &["--tmp-files", "5"],
            "for i in range(9): open(f'/tmp/{i}', 'w').close()",
            5,
        ),
        (
            "output_bytes",
            &["--output-size", "1k"],
            "print('x' * 5000)",
            1024,
        ),
        (
            "output_bytes",
            &["--output-size", "1k"],
            "import sys\nprint('x' * 5000, file=sys.stderr)",
            1024,
        ),
        (
            "open_files",
            &["--open-files", "3"],
            "f = [open('/tmp/a', 'w') for _ in range(9)]",
            3,
        ),
        (
            "artifact_count",
            &["--artifacts", "2"],
            "for i in range(3): open(f'/tmp/{i}', 'w').write('x')",
            2,
        ),
        (
            "artifact_bytes",
            &["--artifact-size", "1k"],
            "open('/tmp/a', 'w').write('x' * 5000)",
            1024,
        ),
        (
            "result_bytes",
            &["--result-size", "10k"],
            "from IPython.display import display\nfor _ in range(9): display({'text/plain': 'x' * 5000}, raw=True)",
            10 << 10,
        ),
    ];
    for (limit, flags, program, allowed) in table {
        let all: Vec<&str> = flags.iter().copied().chain(["-c", program]).collect();
        let value = outcome(&all);
        let ending = &value["ending"];
        assert_eq!(
            (&ending["status"], &ending["limit"]),
            (&json!("over"), &json!(limit)),
            "{ending}"
        );
        assert_eq!(ending["allowed"], json!(allowed), "{ending}");
        assert!(ending["seen"].as_u64().unwrap() >= allowed, "{ending}");
        assert!(
            ending["hint"]
                .as_str()
                .unwrap()
                .contains(flags[0].replace("-m", "--memory").as_str()),
            "{ending}"
        );
    }
}
