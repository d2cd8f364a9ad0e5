"""Official SDKs, unchanged, against a real agent.

The control plane is stood in for by a few lines here; the sandbox is the agent, behind a forwarder from TCP to
its unix socket. Usage: drive.py SOCKET HOME [unittest options]
"""

import asyncio
import http.server
import json
import os
import socket
import sys
import threading
import time
import unittest
import urllib.error
import urllib.request

SOCKET, HOME = sys.argv[1:3]
TOKEN = "token-of-the-sandbox"


def forward(listener):
    """Carries every TCP connection over a connection to the agent, byte by byte, each way to its end."""

    def copy(source, target):
        try:
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            for end in (source, target):
                end.close()

    while True:
        near, _ = listener.accept()
        far = socket.socket(socket.AF_UNIX)
        far.connect(SOCKET)
        for pair in ((near, far), (far, near)):
            threading.Thread(target=copy, args=pair, daemon=True).start()


class Api(http.server.BaseHTTPRequestHandler):
    """As much of the control plane as makes a sandbox."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers.get("content-length") or 0))
        self._answer(
            201,
            {
                "templateID": "base",
                "sandboxID": "isdk",
                "clientID": "c",
                "envdVersion": "0.6.13",
                "envdAccessToken": TOKEN,
                "domain": None,
            },
        )

    def do_DELETE(self):
        self._answer(204)

    def _answer(self, status, body=None):
        data = b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass


def serve():
    api = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Api)
    threading.Thread(target=api.serve_forever, daemon=True).start()
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    threading.Thread(target=forward, args=(listener,), daemon=True).start()
    os.environ.update(
        E2B_API_KEY="e2b_" + "0" * 40,
        E2B_API_URL=f"http://127.0.0.1:{api.server_port}",
        E2B_SANDBOX_URL=f"http://127.0.0.1:{listener.getsockname()[1]}",
    )
    os.environ.pop("E2B_DEBUG", None)


serve()

import e2b  # noqa: E402
from e2b_code_interpreter import AsyncSandbox, Sandbox  # noqa: E402


def setUpModule():
    body = json.dumps({"accessToken": TOKEN, "envVars": {"GLOBAL": "set"}}).encode()
    request = urllib.request.Request(os.environ["E2B_SANDBOX_URL"] + "/init", body, {"X-Access-Token": TOKEN})
    urllib.request.urlopen(request).close()


class WithSandbox(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.sandbox = Sandbox.create()


class Commands(WithSandbox):
    def test_run(self):
        done = self.sandbox.commands.run('echo "Hello, World!"; echo err >&2')
        self.assertEqual((done.exit_code, done.stdout, done.stderr), (0, "Hello, World!\n", "err\n"))
        with self.assertRaises(e2b.CommandExitException) as failed:
            self.sandbox.commands.run("exit 7")
        self.assertEqual(failed.exception.exit_code, 7)

    def test_environment_and_folder(self):
        done = self.sandbox.commands.run("echo $GLOBAL $FOO; pwd", envs={"FOO": "bar"}, cwd="/usr")
        self.assertEqual(done.stdout, "set bar\n/usr\n")
        with self.assertRaises(e2b.InvalidArgumentException):
            self.sandbox.commands.run("true", cwd="/no/such/place")

    def test_users(self):
        self.assertEqual(self.sandbox.commands.run("echo $USER", user="user").stdout, "user\n")
        with self.assertRaises(e2b.AuthenticationException):
            self.sandbox.commands.run("true", user="stranger")

    def test_background_list_connect_kill(self):
        command = self.sandbox.commands.run("sleep 30", background=True)
        self.assertIn(command.pid, [process.pid for process in self.sandbox.commands.list()])
        self.assertEqual(self.sandbox.commands.connect(command.pid).pid, command.pid)
        self.assertTrue(self.sandbox.commands.kill(command.pid))
        self.assertFalse(self.sandbox.commands.kill(command.pid))
        with self.assertRaises(e2b.CommandExitException):
            command.wait()
        with self.assertRaises(e2b.NotFoundException):
            self.sandbox.commands.connect(999999)

    def test_stdin(self):
        command = self.sandbox.commands.run("cat", background=True, stdin=True)
        self.sandbox.commands.send_stdin(command.pid, "Hello,\n")
        self.sandbox.commands.send_stdin(command.pid, b"World")
        self.sandbox.commands.close_stdin(command.pid)
        self.assertEqual(command.wait().stdout, "Hello,\nWorld")

    def test_timeout(self):
        command = self.sandbox.commands.run("sleep 10", timeout=1, background=True)
        with self.assertRaises(e2b.TimeoutException):
            command.wait()

    def test_large_output(self):
        done = self.sandbox.commands.run("head -c 3000000 /dev/zero | tr '\\0' 'x'")
        self.assertEqual(len(done.stdout), 3_000_000)


class Terminals(WithSandbox):
    def test_pty(self):
        terminal = self.sandbox.pty.create(e2b.PtySize(cols=80, rows=24), envs={"ABC": "123"}, cwd="/")
        self.sandbox.pty.resize(terminal.pid, e2b.PtySize(cols=100, rows=30))
        self.sandbox.pty.send_stdin(terminal.pid, b"echo $ABC; stty size\nexit\n")
        output = []
        self.assertEqual(terminal.wait(on_pty=output.append).exit_code, 0)
        text = b"".join(output).decode()
        self.assertIn("123", text)
        self.assertIn("30 100", text)

    def test_kill(self):
        terminal = self.sandbox.pty.create(e2b.PtySize(cols=80, rows=24))
        self.assertTrue(self.sandbox.pty.kill(terminal.pid))
        self.assertFalse(self.sandbox.pty.kill(999999))


class Files(WithSandbox):
    def setUp(self):
        self.sandbox.files.remove("t")
        self.sandbox.files.make_dir("t")

    def test_write_and_read(self):
        files = self.sandbox.files
        for options in ({}, {"gzip": True}, {"use_octet_stream": True}, {"use_octet_stream": True, "gzip": True}):
            with self.subTest(options):
                info = files.write("t/a b", "text é", **options)
                self.assertEqual(info.path, f"{HOME}/t/a b")
                self.assertEqual(files.read("t/a b"), "text é")
                self.assertEqual(bytes(files.read("t/a b", format="bytes", gzip=True)), "text é".encode())
        self.assertEqual(b"".join(files.read("t/a b", format="stream")), "text é".encode())
        written = files.write_files([{"path": f"t/{n}", "data": str(n)} for n in range(5)])
        self.assertEqual([info.path for info in written], [f"{HOME}/t/{n}" for n in range(5)])
        self.assertEqual(files.read("t/4"), "4")
        files.write("t/empty", "")
        self.assertEqual(files.read("t/empty"), "")
        with self.assertRaises(e2b.FileNotFoundException):
            files.read("t/none")

    def test_info(self):
        files = self.sandbox.files
        files.write("t/f", "test", metadata={"author": "mish"})
        info = files.get_info("t/f")
        self.assertEqual((info.name, info.type, info.size, info.mode), ("f", e2b.FileType.FILE, 4, 0o644))
        self.assertEqual((info.permissions, info.owner, info.group), ("-rw-r--r--", "user", "user"))
        self.assertEqual(info.metadata, {"author": "mish"})
        self.assertIsNotNone(info.modified_time.tzinfo)
        self.sandbox.commands.run("ln -s f t/link")
        link = files.get_info("t/link")
        self.assertEqual((link.type, link.symlink_target), (e2b.FileType.FILE, f"{HOME}/t/f"))
        self.assertTrue(files.exists("t/f"))
        self.assertFalse(files.exists("t/g"))
        self.assertFalse(files.make_dir("t"))
        self.assertTrue(files.make_dir("t/x/y"))
        self.assertEqual([entry.name for entry in files.list("t", depth=2)], ["f", "link", "x", "y"])
        self.assertEqual(files.rename("t/f", "t/x/g").path, f"{HOME}/t/x/g")
        files.remove("t/x")
        self.assertFalse(files.exists("t/x/g"))

    def test_watch(self):
        watch = self.sandbox.files.watch_dir("t", recursive=True)
        self.sandbox.files.make_dir("t/n")
        self.sandbox.files.write("t/n/f", "x")
        seen = [(event.type, event.name) for event in watch.get_new_events()]
        self.assertIn((e2b.FilesystemEventType.CREATE, "n"), seen)
        self.assertIn((e2b.FilesystemEventType.WRITE, "n/f"), seen)
        watch.stop()
        plain = self.sandbox.files.watch_dir("t")
        self.sandbox.files.write("t/one", "x")
        self.assertEqual(len(plain.get_new_events()), 3)
        with self.assertRaises(e2b.SandboxException):
            self.sandbox.files.watch_dir("t/one")

    def test_signed_urls(self):
        self.sandbox.files.write("t/s p", "signed")
        for options in ({}, {"user": "user"}, {"use_signature_expiration": 100}):
            url = self.sandbox.download_url("t/s p", **options)
            self.assertEqual(urllib.request.urlopen(url).read(), b"signed")
        url = self.sandbox.download_url("t/s p", "user", use_signature_expiration=-120)
        with self.assertRaises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(url)
        self.assertEqual(refused.exception.code, 401)
        self.assertEqual(
            json.loads(refused.exception.read()), {"code": 401, "message": "signature is already expired"}
        )


class Code(WithSandbox):
    def test_state_results_and_errors(self):
        run = self.sandbox.run_code
        run("x = 1")
        self.assertEqual(run("x += 1; x").text, "2")
        done = run("import sys\nprint('out')\nprint('err', file=sys.stderr)")
        self.assertEqual((done.logs.stdout, done.logs.stderr), (["out\n"], ["err\n"]))
        self.assertEqual(run("1/0").error.name, "ZeroDivisionError")
        self.assertEqual("".join(run("!pwd").logs.stdout).strip(), HOME)
        self.assertEqual(run("import os; os.getenv('FOO')", envs={"FOO": "bar"}).text, "bar")
        self.assertEqual(run("os.getenv('FOO', 'default') + os.environ['GLOBAL']").text, "defaultset")
        self.assertEqual("".join(run("echo $0", language="bash").logs.stdout), "bash\n")

    def test_callbacks(self):
        seen = []
        self.sandbox.run_code(
            "print('a')\n'main'",
            on_stdout=lambda message: seen.append(message.line),
            on_result=lambda result: seen.append(result.text),
        )
        self.assertEqual(seen, ["a\n", "main"])

    def test_contexts(self):
        context = self.sandbox.create_code_context(cwd="/usr")
        self.assertEqual(self.sandbox.list_code_contexts()[-1].id, context.id)
        self.assertEqual(self.sandbox.run_code("import os; os.getcwd()", context=context).text, "/usr")
        self.sandbox.restart_code_context(context.id)
        self.assertEqual(self.sandbox.run_code("os", context=context).error.value, "name 'os' is not defined")
        self.sandbox.remove_code_context(context.id)
        self.assertNotIn(context.id, [other.id for other in self.sandbox.list_code_contexts()])

    def test_charts_and_tables(self):
        result = self.sandbox.run_code("import pandas as pd\npd.DataFrame({'a': [1, 2, 3]})").results[0]
        self.assertEqual(result.data, {"a": [1, 2, 3]})
        code = "import matplotlib.pyplot as plt\nplt.plot([1, 2], [3, 4], label='l')\nplt.xlabel('X (m)')\nplt.show()"
        result = self.sandbox.run_code(code).results[0]
        self.assertTrue(result.png)
        self.assertFalse(result.extra)
        self.assertEqual((result.chart.type.value, result.chart.x_unit), ("line", "m"))
        self.assertEqual(result.chart.elements[0].points, [(1.0, 3.0), (2.0, 4.0)])

    def test_a_reader_that_goes(self):
        with self.assertRaises(e2b.TimeoutException):
            self.sandbox.run_code("import time; time.sleep(300)", timeout=2)
        started = time.monotonic()
        self.assertEqual(self.sandbox.run_code("1 + 1", timeout=10).text, "2")
        self.assertLess(time.monotonic() - started, 10)


class Async(unittest.IsolatedAsyncioTestCase):
    async def test_all_at_once(self):
        sandbox = await AsyncSandbox.create()
        self.assertTrue(await sandbox.is_running())
        await sandbox.files.remove("a")
        await sandbox.files.make_dir("a")
        seen = []
        watch = await sandbox.files.watch_dir("a", on_event=lambda event: seen.append(event.type))
        runs = [sandbox.commands.run(f"echo {number}") for number in range(20)]
        done = await asyncio.gather(sandbox.files.write("a/f", "x"), sandbox.run_code("6 * 7"), *runs)
        self.assertEqual(done[1].text, "42")
        self.assertEqual([run.stdout for run in done[2:]], [f"{number}\n" for number in range(20)])
        await asyncio.sleep(0.5)
        self.assertEqual(len(seen), 3)
        await watch.stop()
        output = []
        terminal = await sandbox.pty.create(e2b.PtySize(cols=80, rows=24), on_data=output.append)
        await sandbox.pty.send_stdin(terminal.pid, b"exit 3\n")
        with self.assertRaises(e2b.CommandExitException) as ended:
            await terminal.wait()
        self.assertEqual(ended.exception.exit_code, 3)


if __name__ == "__main__":
    print(f"e2b {e2b.__version__ if hasattr(e2b, '__version__') else ''}".strip(), file=sys.stderr)
    unittest.main(argv=[sys.argv[0], *sys.argv[3:]])
