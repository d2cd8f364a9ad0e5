"""The client against a real server."""

import asyncio
import contextlib
import hashlib
import os
from pathlib import Path

import pytest

from casemate import (
    AsyncCasemate,
    BadRequest,
    Casemate,
    CasemateError,
    Conflict,
    Content,
    Displayed,
    Ended,
    Event,
    Limits,
    NotAllowed,
    NotFound,
    NotOk,
    Observed,
    Output,
    Raised,
    Run,
    Started,
    TimedOut,
    Upload,
)

FOREVER = "while True: pass"
#: What works is measured, and that is told: only what sleeps is silent.
SILENT = "import time; time.sleep(50)"
ANALYSIS = """
import os
import matplotlib.pyplot as plt
import pandas as pd
table = pd.read_csv("/data/table.csv")
os.makedirs("/tmp/charts")
table.plot(x="day", y="n")
plt.savefig("/tmp/charts/n.png")
plt.close()
table.to_csv("/tmp/out.csv")
plt.plot([1, 2])
plt.show()
print(len(table))
table
"""
LISTING = """
import pathlib
for path in sorted(pathlib.Path("/data").rglob("*")):
    if path.is_file():
        print(path, path.read_bytes())
"""


def ended(casemate: Casemate, run: str) -> str:
    """How a run ended, once it has."""
    return casemate.wait(run, timeout=20).ending.status


def test_a_program_with_its_data(casemate: Casemate, tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("day,n\n1,2\n2,3\n3,5\n")
    outcome = casemate.run(ANALYSIS, files=[tmp_path / "table.csv"]).check()
    assert outcome.ok
    assert outcome.stdout == "3\n"
    assert outcome.tables[0].columns == ("day", "n")
    assert outcome.tables[0].rows == ((1, 2), (2, 3), (3, 5))
    assert outcome.pictures
    assert outcome.pictures[-1].startswith(b"\x89PNG")
    assert {file.path for file in outcome.artifacts} == {"/tmp/charts/n.png", "/tmp/out.csv"}
    assert casemate.artifact(outcome.artifact("out.csv")).startswith(b",day,n\n")
    with pytest.raises(KeyError, match=r"out\.csv"):
        outcome.artifact("other.csv")

    saved = casemate.save(outcome, tmp_path / "out")
    names = {str(path.relative_to(tmp_path / "out")) for path in saved}
    assert {"charts/n.png", "out.csv", "figure-1.png"} <= names
    assert all(path.stat().st_size for path in saved)

    page = outcome._repr_html_()
    assert "<table>" in page
    assert "data:image/png;base64," in page
    assert "files:" in str(outcome)

    assert outcome.backend == "wasm"
    assert outcome.walls
    assert not [wall for wall in outcome.walls if wall.need == "required" and wall.missing]
    receipt = casemate.receipt(outcome)
    assert (receipt.run, receipt.policy) == (outcome.run, "data-analysis")
    assert receipt.walls == outcome.walls
    assert receipt.raw["inputs"][0]["path"] == "/data/table.csv"


def test_files_of_every_kind(casemate: Casemate, tmp_path: Path) -> None:
    (tmp_path / "b.bin").write_bytes(b"\xff\x00")
    upload = casemate.upload(tmp_path / "b.bin", name="whatever")
    files: dict[str, Content] = {
        "t.txt": "text",
        "/data/sub/b.bin": b"\xfe\xff",
        "p.bin": tmp_path / "b.bin",
        "u.bin": upload,
        "e": "",
    }
    outcome = casemate.run(LISTING, files=files).check()
    assert outcome.stdout.splitlines() == [
        "/data/e b''",
        r"/data/p.bin b'\xff\x00'",
        r"/data/sub/b.bin b'\xfe\xff'",
        "/data/t.txt b'text'",
        r"/data/u.bin b'\xff\x00'",
    ]


def test_a_large_file_is_uploaded_once_and_again_where_it_was_deleted(casemate: Casemate) -> None:
    content = os.urandom(3 << 20)
    code = "import os; print(os.path.getsize('/data/large'))"
    for _ in range(2):
        assert casemate.run(code, files={"large": content}).stdout == f"{3 << 20}\n"
    sha256 = hashlib.sha256(content).hexdigest()
    assert casemate._flows.stored == {sha256}
    with Casemate() as other:
        other.forget(Upload(sha256, "", len(content)))
    assert casemate.run(code, files={"large": content}).ok


def test_what_else_a_request_may_say(casemate: Casemate) -> None:
    code = "import sys, os\nprint(sys.argv[1:], os.environ['A'], sys.stdin.read())\n1/0"
    outcome = casemate.run(code, args=["x", "y z"], env={"A": "b"}, stdin="in", name="mine.py", backend="wasm")
    assert outcome.stdout == "['x', 'y z'] b in\n"
    assert outcome.error
    assert (outcome.error.name, outcome.error.line) == ("ZeroDivisionError", 3)
    assert "mine.py" in outcome.error.traceback
    assert not outcome.ok
    assert outcome.exit_code == 1
    with pytest.raises(NotOk, match="exit code 1"):
        outcome.check()


def test_a_refusal_says_why_and_what_instead(casemate: Casemate) -> None:
    outcome = casemate.run("open('/etc/shadow').read()")
    assert outcome.refused
    assert outcome.ending.by == "screening"
    said = str(outcome)
    assert "/etc/shadow" in said
    assert "instead:" in said
    assert "--data" not in said
    assert outcome.receipt == {}
    scan = casemate.scan("open('/etc/shadow').read()")
    assert (scan.refused, scan.verdict) == (True, "refuse")
    assert scan.findings[0].line == 1
    assert not casemate.scan("print(1)").refused


def test_a_limit_says_how_much_was_allowed_and_seen(casemate: Casemate) -> None:
    outcome = casemate.run(FOREVER, limits=Limits(wall_time_ms=400))
    assert (outcome.ending.status, outcome.ending.limit, outcome.ending.allowed) == ("over", "wall_time", 400)
    assert outcome.ending.seen
    assert "wall time" in outcome.trouble
    assert "--" not in outcome.trouble


def test_nothing_in_a_request_widens_the_policy(casemate: Casemate) -> None:
    usual = casemate.run("print(1)")
    wide = casemate.run("print(1)", policy="trusted", limits=Limits(memory_bytes=1 << 40, wall_time_ms=10**9))
    assert wide.raw["limits"] == usual.raw["limits"]
    assert set(usual.raw["asked"]) <= set(wide.raw["asked"])
    assert [wall.name for wall in wide.walls] == [wall.name for wall in usual.walls]


def test_what_happens_is_told_as_it_happens(casemate: Casemate) -> None:
    code = """
import sys
open("/tmp/x", "w").write("x")
print("one\\u2028\\x85\\x0c")
print("two", file=sys.stderr)
{"a": 1}
"""
    events = list(casemate.stream(code))
    assert isinstance(events[0], Started)
    assert "".join(e.text for e in events if isinstance(e, Output) and e.stream == "stdout") == "one\u2028\x85\x0c\n"
    assert [e.text for e in events if isinstance(e, Output) and e.stream == "stderr"] == ["two\n"]
    assert [e.result.text for e in events if isinstance(e, Displayed)] == ["{'a': 1}"]
    seen = [e for e in events if isinstance(e, Observed) and e.fields.get("path") == "/tmp/x"]
    assert {("file_write", "host")} <= {(e.kind, e.witness) for e in seen}
    assert isinstance(events[-1], Ended)
    assert events[-1].outcome.run == events[0].run

    told: list[Event] = []
    outcome = casemate.run("1/0", on_event=told.append)
    assert outcome.error
    assert any(isinstance(event, Raised) for event in told)


def test_whoever_stops_listening_stops_the_run(casemate: Casemate) -> None:
    for event in casemate.stream(FOREVER):
        assert isinstance(event, Started)
        run = event.run
        break
    assert ended(casemate, run) == "cancelled"

    def fails(event: Event) -> None:
        assert isinstance(event, Started)
        seen.append(event.run)
        raise RuntimeError("enough")

    seen: list[str] = []
    with pytest.raises(RuntimeError, match="enough"):
        casemate.run(FOREVER, on_event=fails)
    assert ended(casemate, seen[0]) == "cancelled"


def test_whoever_gives_up_stops_the_run(casemate: Casemate) -> None:
    with Casemate(timeout=1.0) as hasty, pytest.raises(TimedOut) as caught:
        hasty.run(FOREVER)
    assert caught.value.remediation
    assert ended(casemate, casemate.runs(1)[0].run) == "cancelled"
    with Casemate(timeout=1.0) as hasty, pytest.raises(TimedOut):
        list(hasty.stream(SILENT))
    assert ended(casemate, casemate.runs(1)[0].run) == "cancelled"
    # With a key of the caller's it goes on, and can be asked for.
    with Casemate(timeout=1.0) as hasty, pytest.raises(TimedOut):
        hasty.run("import time; time.sleep(2); print('late')", idempotency_key=(key := os.urandom(8).hex()))
    outcome = casemate.run("import time; time.sleep(2); print('late')", idempotency_key=key)
    assert outcome.stdout == "late\n"


def test_the_same_key_is_the_same_run(casemate: Casemate) -> None:
    key = os.urandom(8).hex()
    first = casemate.run("print(1)", idempotency_key=key)
    assert casemate.run("print(1)", idempotency_key=key).run == first.run
    assert casemate.submit("print(1)", idempotency_key=key).run == first.run
    assert casemate.run("print(1)").run != first.run
    with pytest.raises(Conflict) as caught:
        casemate.run("print(2)", idempotency_key=key)
    assert caught.value.code == 409


def test_submitted_waited_for_cancelled_forgotten(casemate: Casemate) -> None:
    run = casemate.submit(FOREVER)
    assert isinstance(run, Run)
    with pytest.raises(TimedOut, match="not ended"):
        casemate.wait(run, timeout=0.2)
    with pytest.raises(Conflict):
        casemate.receipt(run)
    casemate.cancel(run)
    assert ended(casemate, run.run) == "cancelled"
    assert "cancelled" in str(casemate.wait(run))
    assert casemate.runs(1)[0].run == run.run
    casemate.forget(run)
    with pytest.raises(NotFound) as caught:
        casemate.wait(run)
    error = caught.value
    assert (error.code, error.cause) == (404, "unknown_run")
    assert error.request_id.startswith("req-")
    assert error.remediation in str(error)


def test_lists_go_over_pages(casemate: Casemate) -> None:
    made = [casemate.submit("1").run for _ in range(5)]
    found = [run.run for run in casemate.runs(103)]
    assert set(made) <= set(found)
    assert len(found) == len(set(found)) <= 103


def test_what_is_wrong_with_a_request_is_an_error(casemate: Casemate, tmp_path: Path) -> None:
    with pytest.raises(BadRequest):
        casemate.run("1", files={"../etc/x": "y"})
    with pytest.raises(ValueError, match="/data/a"):
        casemate.run("1", files={"a": "", "/data/a": ""})
    with pytest.raises(TypeError, match="list"):
        casemate.run("1", files=str(tmp_path))
    with pytest.raises(FileNotFoundError):
        casemate.run("1", files=[tmp_path / "none"])
    with pytest.raises(NotFound, match="nope"):
        casemate.run("1", policy="nope")
    with pytest.raises(NotFound):
        casemate.wait("../healthz")


@pytest.mark.skipif("CASEMATE_API_KEY" not in os.environ, reason="the server has no keys")
def test_another_key_is_none() -> None:
    with Casemate(api_key="none") as casemate, pytest.raises(NotAllowed) as caught:
        casemate.runs()
    assert caught.value.code == 401


@pytest.mark.usefixtures("casemate")
def test_the_twin_that_awaits(tmp_path: Path) -> None:
    async def twin() -> None:
        async with AsyncCasemate() as client:
            outcomes = await asyncio.gather(*(client.run(f"print({n})") for n in range(4)))
            assert [outcome.stdout for outcome in outcomes] == ["0\n", "1\n", "2\n", "3\n"]

            outcome = await client.run("open('/tmp/x', 'w').write('y')", files={"a": "b"})
            saved = await client.save(outcome, tmp_path)
            assert [path.read_text() for path in saved] == ["y"]
            assert await client.artifact(outcome.artifacts[0]) == b"y"
            assert (await client.receipt(outcome)).run == outcome.run
            kept = await client.run("open('/tmp/x', 'w').write('y')", keep_events=True)
            assert any(event.kind == "file_write" for event in await client.events(kept))
            with pytest.raises(CasemateError, match="no events"):
                await client.events(outcome)
            assert (await client.scan("print(1)")).verdict == "pass"
            upload = await client.upload(tmp_path / "x")
            assert (await client.run("print(open('/data/x').read())", files={"x": upload})).stdout == "y\n"
            await client.forget(upload)
            events = [event async for event in client.stream("print(1)")]
            assert isinstance(events[-1], Ended)
            told: list[Event] = []
            assert (await client.run("print(1)", on_event=told.append)).ok
            assert told

            submitted = await client.submit(FOREVER)
            await client.cancel(submitted)
            assert (await client.wait(submitted, timeout=20)).ending.status == "cancelled"

            # A task that is cancelled stops its run, whichever way it listens.
            for listens in (None, told.append):
                task = asyncio.create_task(client.run(FOREVER, on_event=listens))
                await asyncio.sleep(1)
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
                assert task.cancelled()
                latest = (await client.runs(1))[0]
                assert (await client.wait(latest, timeout=20)).ending.status == "cancelled"

            async with contextlib.aclosing(client.stream(FOREVER)) as listening:
                started = await anext(listening)
            assert isinstance(started, Started)
            assert (await client.wait(started.run, timeout=20)).ending.status == "cancelled"

    asyncio.run(asyncio.wait_for(twin(), 90))


def test_a_sandbox_that_lives_on(casemate: Casemate) -> None:
    with casemate.sandbox(env={"TEAM": "blue"}, timeout_s=120, idle_s=60) as box:
        assert box.run("x = 40").ok
        cell = box.run("import os\nprint(os.environ['TEAM'])\nx + 2")
        assert (cell.stdout, cell.text) == ("blue\n", "42")
        wrong = box.run("1 / 0")
        assert not wrong.ok
        assert wrong.error is not None
        assert wrong.error.name == "ZeroDivisionError"
        shown = box.run("import matplotlib.pyplot as plt\nplt.bar(['a'], [1])\nplt.show()")
        assert shown.pictures[0].startswith(b"\x89PNG")
        assert shown.results[0].chart is not None
        table = box.run("import pandas as pd\npd.DataFrame({'n': [1, 2]})").results[0].table
        assert table is not None
        assert table.rows == ((1,), (2,))
        assert box.run("sleep 30", language="bash", timeout_s=1).cut_off

        path = box.write("in.txt", "given")
        assert box.command("cat in.txt; cat", stdin=" more").stdout == "given more"
        assert not box.command("exit 3").ok
        assert path in {entry.path for entry in box.entries()}
        assert box.read("in.txt") == b"given"
        box.remove("in.txt")
        with pytest.raises(NotFound):
            box.read("in.txt")
        assert any(wall.got for wall in box.walls())

        box.pause()
        with pytest.raises(Conflict, match="paused"):
            box.run("x")
        box.resume()
        assert box.run("x").text == "40"
        box.pause(memory=False)
        box.resume()
        assert box.run("x").error is not None
        box.set_timeout(600)
    with pytest.raises(NotFound):
        box.run("x")


def test_a_sandbox_that_is_awaited() -> None:
    async def go() -> str | None:
        async with AsyncCasemate() as casemate, await casemate.sandbox() as box:
            await box.write("n.txt", b"6")
            return (await box.run("int(open('n.txt').read()) * 7")).text

    assert asyncio.run(go()) == "42"
