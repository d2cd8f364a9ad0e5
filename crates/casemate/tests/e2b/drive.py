"""The official SDKs, unchanged, over every verb that the door has. The server is named by E2B's own variables."""

import json
import os
import time
import unittest
import urllib.error
import urllib.request

from e2b import SandboxException, TimeoutException
from e2b.sandbox.commands.command_handle import PtySize
from e2b_code_interpreter import Sandbox


class Base(unittest.TestCase):
    def sandbox(self, template="code-interpreter-v1", **options):
        sandbox = Sandbox.create(template, timeout=120, **options)
        self.addCleanup(sandbox.kill)
        return sandbox


class Interpreter(Base):
    def test_a_csv_becomes_a_table_and_a_chart(self):
        sandbox = self.sandbox()
        sandbox.files.write("sales.csv", "month,revenue\n1,10\n2,30\n3,20\n")
        first = sandbox.run_code("import pandas as pd\nsales = pd.read_csv('sales.csv')\nsales")
        self.assertIsNone(first.error)
        self.assertIn("<table", first.results[0].html)
        self.assertEqual(first.results[0].data, {"month": [1, 2, 3], "revenue": [10, 30, 20]})
        second = sandbox.run_code(
            "import matplotlib.pyplot as plt\nplt.bar(sales.month, sales.revenue)\nplt.title('Revenue')\nplt.show()"
        )
        self.assertIsNone(second.error)
        self.assertTrue(second.results[0].png)
        self.assertEqual(second.results[0].chart.title, "Revenue")

    def test_contexts_are_apart_and_errors_are_told(self):
        sandbox = self.sandbox(envs={"NAME": "value"})
        self.assertEqual(sandbox.run_code("import os; os.environ['NAME']").text, "value")
        other = sandbox.create_code_context(cwd="/tmp")
        sandbox.run_code("x = 1")
        self.assertEqual(sandbox.run_code("x", context=other).error.name, "NameError")
        self.assertEqual(sandbox.run_code("import os; os.getcwd()", context=other).text, "/tmp")
        self.assertIn("bash", sandbox.run_code("echo $0", language="bash").logs.stdout[0])


    def test_javascript_and_typescript_have_contexts_of_their_own(self):
        sandbox = self.sandbox(envs={"NAME": "value"})

        def js(code, **options):
            return sandbox.run_code(code, language="js", **options)

        self.assertEqual(js("let x = 41; process.cwd()").text, "/home/user")
        self.assertEqual(js("x + 1").text, "42")
        self.assertEqual(js("process.env.NAME", envs={"NAME": "once"}).text, "once")
        self.assertEqual(js("process.env.NAME").text, "value")
        said = js("console.log('a'); console.error('b'); process.stdout.write('c'); require('path').sep")
        self.assertEqual(("".join(said.logs.stdout), "".join(said.logs.stderr)), ("a\nc", "b\n"))
        self.assertEqual(said.text, "/")
        failed = js("function f() { throw new RangeError('no') }\nf()").error
        self.assertEqual((failed.name, failed.value), ("RangeError", "no"))
        self.assertIn("at f", failed.traceback)
        self.assertEqual(js("let = ;").error.name, "SyntaxError")
        self.assertEqual(js("Deno.jupyter.html`<b>x</b>`").results[0].html, "<b>x</b>")
        self.assertEqual(sandbox.run_code("typeof x", language="typescript").text, "undefined")
        self.assertEqual(sandbox.run_code("const n: number = 1; n", language="ts").text, "1")
        # A cell that nobody waits for is interrupted, and the state stays.
        with self.assertRaises(TimeoutException):
            js("while (true) {}", timeout=1)
        self.assertEqual(js("x").text, "41")
        self.assertEqual(js("Deno.exit(3)").error.name, "UnexpectedEndOfExecution")
        self.assertEqual(js("typeof x").text, "undefined")
        context = sandbox.create_code_context(language="js", cwd="/tmp")
        self.assertEqual(sandbox.run_code("process.cwd()", context=context).text, "/tmp")
        sandbox.run_code("let y = 1", context=context)
        sandbox.restart_code_context(context)
        self.assertEqual(sandbox.run_code("typeof y", context=context).text, "undefined")
        # It leads nowhere.
        self.assertIsNotNone(js("await fetch('http://192.0.2.1')").error)


class Commands(Base):
    def test_commands_input_and_terminals(self):
        sandbox = self.sandbox("base")
        done = sandbox.commands.run("id -un; pwd; python -c 'import pandas; print(pandas.__name__)'")
        self.assertEqual(done.stdout.split(), ["user", "/home/user", "pandas"])
        cat = sandbox.commands.run("cat", background=True, stdin=True)
        sandbox.commands.send_stdin(cat.pid, "hello\n")
        sandbox.commands.close_stdin(cat.pid)
        self.assertEqual(cat.wait().stdout, "hello\n")
        with self.assertRaises(TimeoutException):
            sandbox.commands.run("sleep 30", timeout=1)
        terminal = sandbox.pty.create(PtySize(24, 80))
        seen = []
        sandbox.pty.send_stdin(terminal.pid, b"tty; exit\n")
        terminal.wait(on_pty=seen.append)
        self.assertIn(b"/dev/pts/", b"".join(seen))

    def test_files_are_watched_listed_and_signed(self):
        sandbox = self.sandbox("base")
        watcher = sandbox.files.watch_dir("/home/user")
        sandbox.files.write("folder/a.txt", "text")
        self.assertTrue(sandbox.files.exists("folder/a.txt"))
        self.assertEqual([entry.name for entry in sandbox.files.list("folder")], ["a.txt"])
        for _ in range(50):
            if watcher.get_new_events():
                break
            time.sleep(0.1)
        else:
            self.fail("no event")
        url = sandbox.download_url("folder/a.txt", use_signature_expiration=60)
        with urllib.request.urlopen(url) as answer:
            self.assertEqual(answer.read(), b"text")
        with self.assertRaises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(url.replace("a.txt", "b.txt"))
        self.assertEqual(refused.exception.code, 401)


class Life(Base):
    def test_what_runs_is_there_after_a_pause(self):
        sandbox = self.sandbox()
        sandbox.run_code("x = 42")
        ticks = "i=0; while sleep 0.1; do i=$((i+1)); echo $i > /tmp/ticks; done"
        sandbox.commands.run(ticks, background=True)
        time.sleep(0.5)
        sandbox.pause()
        with self.assertRaises(SandboxException):
            sandbox.commands.run("true", request_timeout=5)
        sandbox.connect()
        self.assertEqual(sandbox.run_code("x").text, "42")
        before = sandbox.files.read("/tmp/ticks")
        time.sleep(0.5)
        self.assertNotEqual(sandbox.files.read("/tmp/ticks"), before)

    def test_forks_and_snapshots_have_the_files(self):
        sandbox = self.sandbox("base")
        sandbox.files.write("kept.txt", "kept")
        (fork,) = sandbox.fork(count=1)
        self.addCleanup(fork.kill)
        fork.files.write("kept.txt", "changed")
        snapshot = sandbox.create_snapshot()
        made = Sandbox.create(snapshot.snapshot_id, timeout=60)
        self.addCleanup(made.kill)
        for one, text in ((sandbox, "kept"), (fork, "changed"), (made, "kept")):
            self.assertEqual(one.files.read("/home/user/kept.txt"), text)
        self.assertTrue(Sandbox.delete_snapshot(snapshot.snapshot_id))

    def test_it_ends_when_its_time_is_over(self):
        sandbox = self.sandbox("base")
        sandbox.set_timeout(1)
        for _ in range(100):
            if not sandbox.is_running():
                return
            time.sleep(0.1)
        self.fail("it is still there")


class Walls(Base):
    def test_nothing_of_the_host_is_there(self):
        sandbox = self.sandbox("base")
        code = """
import os, socket, json
def attempt(what):
    try:
        what()
    except OSError as error:
        return error.__class__.__name__
    return "DONE"
print(json.dumps({
    "shadow": attempt(lambda: open("/etc/shadow")),
    "system": attempt(lambda: open("/usr/x", "w")),
    "outside": attempt(lambda: socket.create_connection(("192.0.2.1", 80), 2)),
    "packets": attempt(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW)),
    "netlink": attempt(lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)),
    "raw": attempt(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)),
}))
"""
        sandbox.files.write("try.py", code)
        seen = json.loads(sandbox.commands.run("python3 try.py").stdout)
        for name in ("shadow", "system", "outside", "packets", "netlink", "raw"):
            self.assertNotEqual(seen[name], "DONE", name)
        self.assertNotIn("CANARY", sandbox.commands.run("env").stdout)

    def test_a_server_in_it_is_reached_by_its_host_name_and_by_nobody_else(self):
        sandbox = self.sandbox("base")
        sandbox.commands.run("echo hello > index.html; python -m http.server 8001", background=True)
        host = sandbox.get_host(8001)
        # By a name of the sandbox's own where names lead to the server.
        url = os.environ.get("E2B_SANDBOX_URL", f"https://{host}") + "/index.html"
        request = urllib.request.Request(url, headers={"Host": host})
        for _ in range(50):
            try:
                with urllib.request.urlopen(request) as answer:
                    self.assertEqual(answer.read(), b"hello\n")
                    break
            except urllib.error.HTTPError as error:
                self.assertEqual(error.code, 502)
                time.sleep(0.1)
        else:
            self.fail("it is not reached")
        other = self.sandbox("base")
        done = other.commands.run("python3 -c 'import socket; socket.create_connection((\"127.0.0.1\", 8001), 2)' || true")
        self.assertIn("ConnectionRefusedError", done.stderr)

    def test_memory_is_held_to_its_limit(self):
        sandbox = self.sandbox("base")
        with self.assertRaises(SandboxException):
            sandbox.commands.run("python3 -c 'x = bytearray(4 << 30); print(len(x))'")
        for _ in range(100):
            if not sandbox.is_running():
                break
            time.sleep(0.1)


if __name__ == "__main__":
    unittest.main()
