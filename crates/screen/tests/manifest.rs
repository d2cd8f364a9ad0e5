//! Every kind of fact that the manifest promises, from the smallest program that shows it.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use casemate_model::job::Language;
use casemate_model::manifest::{Certainty, Fact, Manifest};
use casemate_screen::{ScreenConfig, Source, screen};

fn manifest(program: &str) -> Manifest {
    let source = Source {
        bytes: program.as_bytes(),
        language: Language::Python,
        name: "a.py",
    };
    screen(&source, &ScreenConfig::default()).manifest
}

fn expect(list: fn(&Manifest) -> &Vec<Fact>, cases: &[(&str, &str)]) {
    for (program, value) in cases {
        let manifest = manifest(program);
        let facts = list(&manifest);
        let fact = facts.iter().find(|fact| fact.value == *value);
        let fact = fact.unwrap_or_else(|| panic!("{value} is missing for {program}: {facts:?}"));
        assert!(fact.place.is_some(), "{value} has no place in {program}");
    }
}

#[test]
fn modules_however_they_are_imported() {
    expect(
        |manifest| &manifest.modules,
        &[
            ("import os.path as p", "os.path"),
            ("from os import *", "os"),
            (
                "import importlib\nimportlib.import_module('socket')",
                "socket",
            ),
            ("__import__('so' + 'cket')", "socket"),
            ("import sys\nsys.modules.get('os')", "os"),
        ],
    );
    expect(
        |manifest| &manifest.calls,
        &[
            ("import os as o\no.getcwd()", "os.getcwd"),
            ("from os import *\ngetcwd()", "os.getcwd"),
            ("import sys\nsys.modules['os'].getcwd()", "os.getcwd"),
            ("import queue\nqueue.threading._os.getcwd()", "os.getcwd"),
        ],
    );
}

#[test]
fn files_by_what_happens_to_them() {
    for (program, told) in [
        ("open('/data/a')", "Read /data/a"),
        (
            "from pathlib import Path\nPath('b').write_text('x')",
            "Write b",
        ),
        ("import os\nos.remove('/tmp/c')", "Delete /tmp/c"),
        ("import os\nos.symlink('/data/a', '/tmp/b')", "Link /data/a"),
        ("import os\nos.link('a', 'b')", "Write b"),
        (
            "import zipfile\nzipfile.ZipFile('a.zip', 'w')",
            "Write a.zip",
        ),
        // The part that is constant.
        ("def f(n):\n    open(f'/data/{n}.csv')", "Read /data/….csv"),
        (
            "import os\ndef f(n):\n    open(os.path.join(n, 'a.csv'))",
            "Read …/a.csv",
        ),
    ] {
        let files = manifest(program).files;
        let files: Vec<String> = files
            .iter()
            .map(|file| format!("{:?} {}", file.access, file.value))
            .collect();
        assert!(
            files.iter().any(|file| file == told),
            "{program}: {files:?}"
        );
    }
}

#[test]
fn hosts_with_protocol_and_port() {
    expect(
        |manifest| &manifest.endpoints,
        &[
            (
                "import requests\nrequests.get('https://a.example:8443/x')",
                "https://a.example:8443",
            ),
            (
                "import pandas\npandas.read_csv('http://a.example/a.csv')",
                "http://a.example:80",
            ),
            (
                "import socket\ns = socket.socket()\ns.connect(('b.example', 4444))",
                "tcp://b.example:4444",
            ),
            (
                "import smtplib\nsmtplib.SMTP('mail.example', 587)",
                "smtp://mail.example:587",
            ),
            (
                "import ftplib\nftplib.FTP('ftp.example')",
                "ftp://ftp.example:21",
            ),
        ],
    );
    expect(
        |manifest| &manifest.hosts,
        &[
            (
                "import requests\nrequests.get('https://a.example/x')",
                "a.example",
            ),
            ("import requests\nrequests.get(url)", "?"),
        ],
    );
}

#[test]
fn processes_environment_and_native_code() {
    expect(
        |manifest| &manifest.processes,
        &[
            ("import subprocess\nsubprocess.run(['ls', '-l'])", "ls -l"),
            ("import os\ndef f(n):\n    os.system(f'ls {n}')", "ls …"),
            ("import subprocess\nsubprocess.run(x)", "?"),
        ],
    );
    expect(
        |manifest| &manifest.env,
        &[
            ("import os\nos.getenv('KEY')", "KEY"),
            ("import os\nprint(os.environ)", "*"),
        ],
    );
    expect(
        |manifest| &manifest.native_code,
        &[("import ctypes", "ctypes"), ("import cffi", "cffi")],
    );
}

#[test]
fn code_and_objects_from_bytes() {
    expect(
        |manifest| &manifest.dynamic_code,
        &[
            ("eval(x)", "builtins.eval"),
            ("import runpy\nrunpy.run_path(x)", "runpy.run_path"),
        ],
    );
    expect(
        |manifest| &manifest.deserialisation,
        &[
            ("import pickle\npickle.load(f)", "pickle.load"),
            ("import marshal\nmarshal.loads(b)", "marshal.loads"),
            ("import shelve\nshelve.open('a')", "shelve.open"),
            (
                "import numpy as np\nnp.load('a.npy', allow_pickle=True)",
                "numpy.load",
            ),
            ("import torch\ntorch.load('a.pt')", "torch.load"),
            (
                "import pandas as pd\npd.read_pickle('a.pkl')",
                "pandas.read_pickle",
            ),
            ("import joblib\njoblib.load('a')", "joblib.load"),
            ("import yaml\nyaml.load(x, Loader=yaml.Loader)", "yaml.load"),
        ],
    );
}

#[test]
fn ways_into_the_interpreter() {
    expect(
        |manifest| &manifest.introspection,
        &[
            ("().__class__.__base__.__subclasses__()", "__subclasses__"),
            ("f.__globals__", "__globals__"),
            ("g.gi_frame.f_back", "gi_frame"),
            ("e.__traceback__.tb_frame", "tb_frame"),
            ("import gc\ngc.get_objects()", "gc.get_objects"),
            ("import sys\nsys.addaudithook(f)", "sys.addaudithook"),
            ("import types\ntypes.CodeType(1)", "types.CodeType"),
            ("'{0.__class__}'.format(x)", "{0.__class__}"),
            ("f.__code__.co_consts", "co_consts"),
        ],
    );
}

#[test]
fn what_may_use_too_much() {
    let bomb = "bomb: an allocation of many gigabytes";
    let power = "bomb: a power with millions of digits";
    expect(
        |manifest| &manifest.resources,
        &[
            ("x = 'a' * 10**12", bomb),
            ("list(range(10**12))", bomb),
            ("9 ** 9 ** 9", power),
            ("import math\nmath.factorial(10**9)", power),
            ("while True:\n    pass", "a loop without an end"),
            ("def f():\n    f()", "a recursion without an end"),
            (
                "while True:\n    print('x')",
                "a loop without an end that floods the output",
            ),
            (
                "f = open('a', 'w')\nwhile True:\n    f.write('x')",
                "bomb: a loop without an end that fills the disk",
            ),
            (
                "import re\nre.match('(a+)+$', x)",
                "a pattern with a repetition inside a repetition",
            ),
        ],
    );
}

#[test]
fn secrets_and_what_is_hidden() {
    expect(
        |manifest| &manifest.secrets,
        &[("password = 'hunter2hunter2'", "password")],
    );
    expect(
        |manifest| &manifest.hidden,
        &[
            ("exec('x' * 300000 + 'y')", "builtins.exec"),
            (
                "s = ''\nfor i in range(999):\n    for j in range(999):\n        s += 'a'\nexec(s)",
                "builtins.exec",
            ),
        ],
    );
}

/// A fact that does not stand there openly says how it came about, and how sure it is.
#[test]
fn facts_have_certainty_and_a_chain() {
    let manifest =
        manifest("import os\nt = {'a': os.system}\nrun = t['a']\nrun('ls')\nos.system('pwd')\n");
    let of = |command: &str| {
        let mut processes = manifest.processes.iter();
        processes.find(|fact| fact.value == command).unwrap()
    };
    assert_eq!(of("pwd").certainty, Certainty::Certain);
    assert!(of("pwd").chain.is_empty());
    assert!(!of("ls").chain.is_empty(), "{:?}", of("ls"));
}
