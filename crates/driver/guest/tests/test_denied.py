"""Stand-ins and observation, in a process of their own because neither can be taken back."""

import json
import os
import pathlib
import subprocess
import sys
import unittest

from .support import needs_libraries

GUEST = pathlib.Path(__file__).resolve().parent.parent
DRIVER = """
import json, os, sys
from casemate_guest import denied, observe, threads
denied.install(); threads.install(); observe.install()
found = {}
for name, code in json.load(sys.stdin).items():
    events = []
    observe.start(lambda what, detail: events.append([what, detail]))
    error = None
    try:
        exec(compile(code, "program.py", "exec"), {"__name__": "__main__"})
    except BaseException as caught:
        error = [type(caught).__name__, isinstance(caught, OSError), str(caught)]
    observe.stop()
    found[name] = [events, error]
json.dump(found, sys.stdout)
"""
CASES = {
    "connect": "import socket\ns = socket.socket(); s.settimeout(3); s.connect(('10.0.0.1', 4444))",
    "raw": "import _socket\n_socket.socket()",
    "resolve": "import socket\nsocket.getaddrinfo('example.com', 80)",
    "https": "import urllib.request\nurllib.request.urlopen('https://example.com/x')",
    "client": "import http.client\nhttp.client.HTTPSConnection('example.com').request('GET', '/')",
    "mail": "import smtplib\nsmtplib.SMTP('mail.example.com', 25)",
    "file url": "import urllib.request\nurllib.request.urlopen('data:,hi').read()",
    "system": "import os\nos.system('rm -rf /')",
    "fork": "import os\nos.fork()",
    "run": "import subprocess\nsubprocess.run(['ls', '-l'])",
    "popen": "import os\nos.popen('id')",
    "pty": "import pty\npty.spawn('/bin/sh')",
    "process": "import multiprocessing\nmultiprocessing.Process(target=print).start()",
    "pool": "from concurrent.futures import ProcessPoolExecutor\nProcessPoolExecutor()",
    "native": "import ctypes\nctypes.CDLL('libc.so.6')",
    "raw thread": "import _thread\n_thread.start_new_thread(print, ())",
    "daemon": "import threading\nthreading.Thread(target=print, daemon=True, name='D').start()",
    "threads": "import threading\nmade = []\ndef work(n): made.append((n, threading.current_thread().name))\n"
    "all = [threading.Thread(target=work, args=(n,), name=f'T{n}') for n in range(2)]\n"
    "for t in all: t.start()\nfor t in all: t.join()\n"
    "assert made == [(0, 'T0'), (1, 'T1')] and not t.is_alive() and threading.current_thread().name == 'MainThread'",
    "waits": "import queue, threading, time\nlock = threading.Lock()\n"
    "assert lock.acquire() and not lock.acquire(timeout=0.01) and not lock.acquire(blocking=False)\nlock.release()\n"
    "assert not threading.Event().wait(0.01) and threading.Semaphore(1).acquire()\n"
    "try: queue.Queue().get(timeout=0.01)\nexcept queue.Empty: pass\n"
    "try: queue.SimpleQueue().get(timeout=0.01)\nexcept queue.Empty: pass\n"
    "c = threading.Condition()\nwith c: c.notify_all()",
    "deadlock": "import queue, threading\nq = queue.Queue()\nthreading.Thread(target=q.get).start()",
    "executor": "from concurrent.futures import ThreadPoolExecutor\n"
    "with ThreadPoolExecutor() as pool: assert list(pool.map(abs, [-1, -2])) == [1, 2]",
    "to_thread": "import asyncio\nasync def f(): return await asyncio.to_thread(abs, -3)\nassert asyncio.run(f()) == 3",
    "environment": "import os\nos.environ.get('SECRET'); os.getenv('SECRET')\n"
    "os.environ['NEW'] = '1'; 'HOME' in os.environ",
    "all of it": "import os\ndict(os.environ)",
    "expansion": "import os\nos.path.expandvars('$SECRET')",
    "library": "import tempfile\ntempfile.tempdir = None; tempfile.gettempdir()",
    "absent": "import aiohttp",
    "empty path": "open('')",
}


@needs_libraries
class Denied(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        done = subprocess.run(
            [sys.executable, "-c", DRIVER],
            input=json.dumps(CASES),
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(GUEST)},
            timeout=120,
        )
        if done.returncode != 0:
            raise AssertionError(done.stderr)
        cls.found = json.loads(done.stdout)

    def check(self, name, event, words, is_os_error=True):
        events, error = self.found[name]
        self.assertIn(event, events)
        self.assertIsNotNone(error, name)
        self.assertEqual(error[1], is_os_error, error)
        self.assertIn(words, error[2])

    def test_network(self):
        for name, where in {
            "connect": "10.0.0.1:4444",
            "raw": "_socket.socket",
            "resolve": "example.com:80",
            "https": "example.com:443",
            "client": "example.com:443",
            "mail": "mail.example.com:25",
        }.items():
            with self.subTest(name):
                self.check(name, ["network", where], "no network in this sandbox")

    def test_urls_that_stay_inside_work(self):
        self.assertEqual(self.found["file url"], [[], None])

    def test_processes(self):
        for name, detail in {
            "system": "os.system('rm -rf /')",
            "fork": "os.fork()",
            "run": "ls -l",
            "popen": "id",
            "pty": "pty.spawn('/bin/sh')",
            "process": "multiprocessing.Process.start()",
            "pool": "ProcessPoolExecutor()",
        }.items():
            with self.subTest(name):
                self.check(name, ["process", detail], "no processes in this sandbox")

    def test_native_code_and_threads(self):
        self.check("native", ["native_code", "ctypes.CDLL('libc.so.6')"], "no native libraries in this sandbox")
        self.check("raw thread", ["thread", "print"], "can't start new thread", is_os_error=False)
        self.check("daemon", ["thread", "daemon D"], "can't start new thread", is_os_error=False)
        self.check("deadlock", ["thread", self.found["deadlock"][0][0][1]], "would wait forever", is_os_error=False)

    def test_threads_run_where_they_are_started(self):
        events, error = self.found["threads"]
        self.assertIsNone(error)
        self.assertEqual([detail for _, detail in events], [f"T{n}, run in the calling thread" for n in range(2)])
        self.assertEqual(self.found["waits"], [[], None])

    def test_executors_run_in_the_calling_thread(self):
        for name in ("executor", "to_thread"):
            events, error = self.found[name]
            self.assertIsNone(error)
            self.assertEqual(events, [["thread", "ThreadPoolExecutor.submit, run in the calling thread"]] * len(events))
            self.assertTrue(events)

    def test_environment(self):
        events, error = self.found["environment"]
        self.assertIsNone(error)
        self.assertEqual(events, [["env_read", "SECRET"], ["env_write", "NEW"], ["env_read", "HOME"]])
        self.assertEqual(self.found["all of it"][0], [["env_read", "*"]])
        self.assertEqual(self.found["expansion"][0], [["env_read", "SECRET"]])
        self.assertEqual(self.found["library"][0], [])

    def test_the_empty_path_is_no_file(self):
        self.assertEqual(self.found["empty path"][1][0], "FileNotFoundError")

    def test_absent_modules_say_why(self):
        events, error = self.found["absent"]
        self.assertEqual((error[0], events), ("ModuleNotFoundError", [["network", "import aiohttp"]]))


if __name__ == "__main__":
    unittest.main()
