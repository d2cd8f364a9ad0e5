"""What the client does when the server is busy, gone, somebody else or hostile: played by httpx's own double."""

import asyncio
import json
import socket
import traceback
from pathlib import Path
from typing import Any

import httpx
import pytest

from casemate import Artifact, AsyncCasemate, Busy, Casemate, Ended, Lost, Outcome, ServerError, TimedOut, Unreachable
from casemate._save import save
from casemate._show import plain

OUTCOME: dict[str, Any] = {
    "schema": "casemate.outcome/1",
    "run": "run-1",
    "ending": {"status": "exited", "code": 0, "cause": "the program ended normally", "hint": None},
    "exit_code": 0,
    "stdout": "1\n",
}


def error(code: int, cause: str) -> dict[str, Any]:
    return {"code": code, "message": "no", "cause": cause, "remediation": "later", "request_id": "req-1"}


class Server:
    """Answers one after the other, and remembers what it was asked."""

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self.answers = list(answers)
        self.asked: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def client(self, **more: Any) -> Casemate:
        return Casemate("http://casemate.test", transport=httpx.MockTransport(self), **more)

    def twin(self, **more: Any) -> AsyncCasemate:
        return AsyncCasemate("http://casemate.test", transport=httpx.MockTransport(self), **more)


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    pauses: list[float] = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr("time.sleep", pauses.append)
    monkeypatch.setattr("asyncio.sleep", pause)
    return pauses


def busy(after: str) -> httpx.Response:
    return httpx.Response(429, json=error(429, "too_many_requests"), headers={"Retry-After": after})


def test_a_busy_server_is_asked_again_when_it_says(slept: list[float]) -> None:
    server = Server(busy("3"), httpx.Response(503, json=error(503, "stopping")), httpx.Response(200, json=OUTCOME))
    assert server.client().run("print(1)").stdout == "1\n"
    assert slept[0] == 3.0
    assert 0.1 < slept[1] < 0.3
    # The same request with the same key is the same run.
    assert len({request.content for request in server.asked}) == 1
    assert len({request.headers["Idempotency-Key"] for request in server.asked}) == 1


def test_a_server_that_asks_for_too_much_is_not_waited_for(slept: list[float]) -> None:
    server = Server(busy("3600"))
    with pytest.raises(Busy) as caught:
        server.client().run("print(1)")
    assert not slept
    error = caught.value
    assert (error.code, error.cause, error.request_id) == (429, "too_many_requests", "req-1")
    assert (error.message, error.remediation) == ("no", "later")
    assert not isinstance(error, Unreachable)
    server = Server(*(busy("20") for _ in range(5)))
    with pytest.raises(Busy):
        server.client().runs()
    assert slept == [20.0], "patience is for all of them together"


def test_a_broken_connection_is_mended_and_the_run_is_the_same(slept: list[float]) -> None:
    broken = httpx.RemoteProtocolError("gone"), httpx.ConnectError("refused"), httpx.ReadError("reset")
    server = Server(*broken, httpx.Response(200, json=OUTCOME))
    assert server.client().run("print(1)").ok
    assert len(slept) == 3
    assert len({request.headers["Idempotency-Key"] for request in server.asked}) == 1
    server = Server(*(httpx.ConnectError("refused") for _ in range(5)))
    with pytest.raises(Unreachable, match=r"casemate\.test") as caught:
        server.client().run("print(1)")
    assert len(server.asked) == 5
    assert caught.value.code == 0


@pytest.mark.usefixtures("slept")
def test_a_wait_that_is_too_long_stops_the_run() -> None:
    named = httpx.Response(202, json={"run": "run-1", "state": "accepted"})
    server = Server(httpx.ReadTimeout("slow"), named, httpx.Response(202, json={}))
    with pytest.raises(TimedOut):
        server.client().run("print(1)")
    first, again, cancel = server.asked
    assert again.headers["Prefer"] == "respond-async"
    assert again.headers["Idempotency-Key"] == first.headers["Idempotency-Key"]
    assert cancel.url.path == "/v1/runs/run-1/cancel"


def lines(*documents: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(document).encode() + b"\n" for document in documents)


class Breaks(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A stream that ends in the middle of a line."""

    def __iter__(self) -> Any:
        yield lines({"type": "started", "run": "run-1"}) + b'{"type": "std'
        raise httpx.ReadError("reset")

    async def __aiter__(self) -> Any:
        for piece in self:
            yield piece


def test_the_outcome_comes_though_the_stream_broke() -> None:
    server = Server(httpx.Response(200, stream=Breaks()), httpx.Response(200, json=OUTCOME))
    events = list(server.client().stream("print(1)"))
    assert isinstance(events[-1], Ended)
    assert len({request.headers["Idempotency-Key"] for request in server.asked}) == 1

    async def twin() -> None:
        server = Server(httpx.Response(200, stream=Breaks()), httpx.Response(200, json=OUTCOME))
        events = [event async for event in server.twin().stream("print(1)")]
        assert isinstance(events[-1], Ended)

    asyncio.run(twin())


def test_a_stream_may_say_that_the_end_was_lost() -> None:
    told = lines({"type": "news"}, {"type": "failed", "error": error(500, "internal")})
    server = Server(httpx.Response(200, content=told))
    events = server.client().stream("print(1)")
    next(events)
    with pytest.raises(ServerError, match="no; later"):
        next(events)
    assert len(server.asked) == 1, "there is nothing to stop"


@pytest.mark.usefixtures("slept")
def test_a_run_that_was_going_on_is_waited_for_and_may_be_lost() -> None:
    accepted = {"run": "run-1", "state": "accepted"}
    server = Server(
        httpx.Response(200, json=accepted), httpx.Response(200, json=accepted), httpx.Response(200, json=OUTCOME)
    )
    assert server.client().run("print(1)").ok
    lost = {"run": "run-1", "state": "lost"}
    server = Server(httpx.Response(200, json=lost), httpx.Response(200, json=lost))
    with pytest.raises(Lost, match="run-1"):
        server.client().run("print(1)")


@pytest.mark.parametrize("answer", [httpx.Response(200, text="<html>"), httpx.Response(200, json=[1])])
def test_another_server_is_known_as_such(answer: httpx.Response) -> None:
    with pytest.raises(Unreachable) as caught:
        Server(answer).client().runs()
    assert caught.value.cause == "not_casemate"


def test_a_proxys_error_is_an_error() -> None:
    with pytest.raises(ServerError, match="500") as caught:
        Server(httpx.Response(500, text="<html>")).client().runs()
    assert (caught.value.code, caught.value.cause) == (500, "not_casemate")


def test_the_key_is_sent_and_never_shown() -> None:
    server = Server(httpx.Response(200, json={"runs": [], "next": None}))
    client = server.client(api_key="secret-key")
    assert client.runs() == []
    assert server.asked[0].headers["X-API-Key"] == "secret-key"
    assert "secret" not in repr(client)


def test_a_key_that_is_none_is_not_told_to_anybody() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        client = Casemate(f"http://127.0.0.1:{listening.getsockname()[1]}", api_key=" secret\nkey\n")
        with pytest.raises(Unreachable) as caught:
            client.runs()
    assert caught.value.cause == "not_sent"
    assert "secret" not in "".join(traceback.format_exception(caught.value))
    assert Casemate(api_key="key\n")._flows.headers["X-API-Key"] == "key"


def test_a_redirect_is_not_followed_with_the_key() -> None:
    server = Server(httpx.Response(302, headers={"Location": "http://elsewhere.test/"}))
    with pytest.raises(Exception, match="302"):
        server.client(api_key="secret-key").runs()
    assert len(server.asked) == 1


def test_a_server_on_this_machine_is_asked_without_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.test:1")
    assert not Casemate("http://127.0.0.1:3000")._http._mounts
    assert Casemate("http://casemate.test")._http._mounts


def test_an_artifact_is_what_the_outcome_says() -> None:
    file = Artifact("run-1", 0, "/tmp/x", 1, "0" * 64)
    with pytest.raises(Unreachable, match="SHA-256"):
        Server(httpx.Response(200, content=b"x")).client().artifact(file)


def test_files_stay_in_their_folder_whatever_they_are_called(tmp_path: Path) -> None:
    folder, outside = tmp_path / "out", tmp_path / "outside"
    folder.mkdir()
    outside.mkdir()
    (folder / "link").symlink_to(outside)
    (folder / "file").symlink_to(outside / "victim")
    names = ["/tmp/../../up", "/work/a/b", "/tmp/a/b", "/tmp/a\\b\x1b[1m", "/", "/tmp", "/tmp/file"]
    outcome = Outcome.of(OUTCOME)
    contents = [(Artifact("run-1", number, name, 1, ""), name.encode()) for number, name in enumerate(names)]
    written = save(outcome, contents, folder)
    found = [str(path.relative_to(folder)) for path in written]
    assert found == ["up", "a/b", "a/b-2", "a_b", "_", "tmp", "file"]
    assert not list(outside.iterdir())
    with pytest.raises(PermissionError):
        save(outcome, [(Artifact("run-1", 0, "/tmp/link/x", 1, ""), b"")], folder)
    assert not list(outside.iterdir())


def test_what_a_program_prints_is_shown_and_not_obeyed() -> None:
    evil = "\x1b[2J\x1b]0;title\x07<script>alert(1)</script>\u202e\x9b31m"
    table = {"columns": [{"name": evil}], "row_count": 9, "preview_rows": [[evil]]}
    shown = [
        {"origin": "expression", "representations": [{"mime": "text/html", "text": evil}]},
        {
            "origin": "expression",
            "representations": [{"mime": "application/vnd.casemate.table+json", "json": table}],
        },
    ]
    outcome = Outcome.of({**OUTCOME, "stdout": evil, "stderr": evil, "results": shown})
    assert outcome.stdout == evil, "as it was"
    for said in (str(outcome), outcome._repr_html_()):
        assert not set("\x1b\x07\x9b\u202e") & set(said)
    assert "<script>" not in outcome._repr_html_()
    assert "8 rows more" in outcome._repr_html_()
    assert plain(evil + "\n\tx") == "]0;title<script>alert(1)</script>31m\n\tx"


def test_a_long_output_is_cut_for_people_and_whole_for_programs() -> None:
    outcome = Outcome.of({**OUTCOME, "stdout": "x" * 100_000})
    assert len(outcome.stdout) == 100_000
    assert str(outcome).endswith(f"[{100_000 - (32 << 10)} characters more are not shown]")


def test_documents_are_read_leniently() -> None:
    # What a server says of a run that it failed at has not much in it.
    outcome = Outcome.of({"run": "run-1", "ending": {"status": "faulted", "cause": "Casemate failed", "new": 1}})
    assert (outcome.ok, outcome.exit_code, outcome.walls) == (False, 125, ())
    assert "Casemate failed" in str(outcome)
    assert Outcome.of({}).ending.status == "unknown"
