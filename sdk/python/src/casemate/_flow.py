"""What is asked in which order, without asking: one text for the client that waits and the one that awaits.

A flow is a generator. It yields a call and is given the answer, or the error of there being none; it yields a pause and
is given nothing. What it returns is the verb's result.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar
from urllib.parse import quote

import httpx

from ._errors import CasemateError, Lost, NotFound, TimedOut, malformed, of_response, of_transport, own
from ._events import Observed, kept
from ._outcome import Artifact, Outcome, Receipt, Run, Scan, Upload
from ._program import Program

T = TypeVar("T")

#: Answers that say that nothing was done: 429 and 503 are the server's, 502 and 504 a proxy's.
AGAIN = (429, 502, 503, 504)
#: Those of them that are the server's own word.
REFUSED = (429, 503)
#: Errors after which it is not known whether the request arrived. Nearly every request can bear to be sent twice: a run
#: and a submission have an idempotency key, and the others say what shall be rather than what to add. What cannot is
#: marked (`Call.once`).
BROKEN = (httpx.NetworkError, httpx.RemoteProtocolError, httpx.ConnectTimeout)
#: Seconds that a request other than a run's may be silent.
SHORT = 60.0


@dataclass(frozen=True)
class Call:
    """A request."""

    method: str
    path: str
    content: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    timeout: float = SHORT
    #: Whether the answer's body is read bit by bit.
    streamed: bool = False
    #: Whether it is sent again only where the server says that it has done nothing.
    once: bool = False


@dataclass(frozen=True)
class Pause:
    """Seconds to wait."""

    seconds: float


Answer: TypeAlias = httpx.Response | httpx.TransportError | None
Flow: TypeAlias = Generator[Call | Pause, Answer, T]


def run_path(run: str | Run | Outcome) -> str:
    """A run's path, whichever way it is named."""
    return f"/v1/runs/{quote(run if isinstance(run, str) else run.run, safe='')}"


class Flows:
    """The verbs of one client."""

    def __init__(self, url: str | None, api_key: str | None, timeout: float, retries: int, patience: float) -> None:
        """Where the server is, and how long to bear with it."""
        self.url = (url or os.environ.get("CASEMATE_URL") or "http://127.0.0.1:3000").rstrip("/")
        self.timeout = timeout
        self.retries = retries
        self.patience = patience
        # Keys come from files and variables, with the line's end.
        key = (api_key or os.environ.get("CASEMATE_API_KEY") or "").strip()
        self.headers = {"User-Agent": "casemate-python", **({"X-API-Key": key} if key else {})}
        #: Contents that the server has, as far as this client knows.
        self.stored: set[str] = set()

    @property
    def local(self) -> bool:
        """Whether the server is on this machine: then no proxy of the environment's is asked, nor told the key."""
        return httpx.URL(self.url).host in ("localhost", "127.0.0.1", "::1")

    def ask(self, call: Call) -> Flow[httpx.Response]:
        """Asks, and asks again where that is safe and may help."""
        patience = self.patience
        for tried in range(self.retries + 1):
            answer = yield call
            if isinstance(answer, httpx.Response) and answer.is_success:
                return answer
            wait = _wait(answer, tried, call.once)
            if wait is None or wait > patience or tried == self.retries:
                break
            patience -= wait
            yield Pause(wait)
        if isinstance(answer, httpx.Response):
            raise of_response(answer)
        assert isinstance(answer, httpx.TransportError)
        # What cannot be sent is not shown as the cause either: it may hold the key.
        raise of_transport(answer, self.url) from (None if isinstance(answer, httpx.LocalProtocolError) else answer)

    def json(self, call: Call) -> Flow[dict[str, Any]]:
        """Asks for a document."""
        response = yield from self.ask(call)
        return document(response.content)

    def begin(self, it: Program, headers: Mapping[str, str], *, streamed: bool = False) -> Flow[httpx.Response]:
        """Sends a program, after what it needs."""
        call = Call(
            "POST",
            "/v1/runs",
            it.body,
            {"Content-Type": "application/json", "Idempotency-Key": it.key, **headers},
            timeout=self.timeout,
            streamed=streamed,
        )
        yield from self.store(it.contents)
        try:
            return (yield from self.ask(call))
        except NotFound as error:
            if error.cause != "unknown_upload" or not it.contents:
                raise
        # Somebody deleted what this client thought was there.
        self.stored.difference_update(it.contents)
        yield from self.store(it.contents)
        return (yield from self.ask(call))

    def store(self, contents: Mapping[str, bytes]) -> Flow[None]:
        """Uploads what the server does not have yet."""
        for sha256, content in contents.items():
            if sha256 not in self.stored:
                yield from self.upload(content, "")

    def upload(self, content: bytes, name: str) -> Flow[Upload]:
        """Stores a content under its SHA-256."""
        sha256 = hashlib.sha256(content).hexdigest()
        headers = {"Content-Type": "application/octet-stream"}
        call = Call("PUT", f"/v1/uploads/{sha256}", content, headers, {"name": name}, max(SHORT, self.timeout))
        stored = Upload.of((yield from self.json(call)))
        self.stored.add(sha256)
        return stored

    def run(self, it: Program) -> Flow[Outcome]:
        """Runs a program and waits."""
        response = yield from self.begin(it, {})
        return (yield from self.ended(document(response.content)))

    def submit(self, it: Program) -> Flow[Run]:
        """Sends a program and does not wait."""
        response = yield from self.begin(it, {"Prefer": "respond-async"})
        return Run.of(document(response.content))

    def ended(self, said: dict[str, Any]) -> Flow[Outcome]:
        """The outcome, where the answer is one or comes to be one."""
        if "ending" in said:
            return Outcome.of(said)
        return (yield from self.wait(Run.of(said), None))

    def wait(self, run: str | Run | Outcome, timeout: float | None) -> Flow[Outcome]:
        """Asks until a run has ended."""
        until = None if timeout is None else time.monotonic() + timeout
        pause = 0.05
        while True:
            said = yield from self.json(Call("GET", run_path(run)))
            if "ending" in said:
                return Outcome.of(said)
            if said.get("state") == "lost":
                raise own(Lost, "lost", f"nobody saw how {said.get('run')} ended", "send the program again")
            if until is not None and time.monotonic() + pause > until:
                advice = "it goes on: wait again, or cancel it"
                raise own(TimedOut, "timed_out", f"{said.get('run')} has not ended yet", advice)
            yield Pause(pause)
            pause = min(pause * 1.5, 1.0)

    def cancel(self, run: str | Run | Outcome) -> Flow[None]:
        """Stops a run."""
        yield from self.ask(Call("POST", f"{run_path(run)}/cancel"))

    def abandon(self, it: Program, run: str | None) -> Flow[None]:
        """Stops a run that nobody waits for any more, as far as that can be done at once.

        Where its number is not known yet, the same request names it: it is the same run.
        """
        try:
            if run is None:
                headers = {"Content-Type": "application/json", "Idempotency-Key": it.key, "Prefer": "respond-async"}
                answer = yield Call("POST", "/v1/runs", it.body, headers, timeout=5)
                if not isinstance(answer, httpx.Response) or not answer.is_success:
                    return
                run = Run.of(document(answer.content)).run
            yield Call("POST", f"{run_path(run)}/cancel", timeout=5)
        except CasemateError:
            # Whoever stopped waiting has an error already; this run ends at its limits.
            return

    def scan(self, it: Program) -> Flow[Scan]:
        """Screens a program."""
        yield from self.store(it.contents)
        call = Call("POST", "/v1/scans", it.body, {"Content-Type": "application/json"})
        return Scan.of((yield from self.json(call)))

    def runs(self, most: int) -> Flow[list[Run]]:
        """The latest runs, page by page."""
        found: list[Run] = []
        query: dict[str, str] = {}
        while len(found) < most:
            query["limit"] = str(min(100, most - len(found)))
            page = yield from self.json(Call("GET", "/v1/runs", query=dict(query)))
            found += map(Run.of, page.get("runs") or [])
            if not page.get("next"):
                break
            query["after"] = page["next"]
        return found

    def receipt(self, run: str | Run | Outcome) -> Flow[Receipt]:
        """A run's receipt."""
        return Receipt.of((yield from self.json(Call("GET", f"{run_path(run)}/receipt"))))

    def events(self, run: str | Run | Outcome) -> Flow[list[Observed]]:
        """What happened in a run."""
        response = yield from self.ask(Call("GET", f"{run_path(run)}/events"))
        return kept(response.text)

    def artifact(self, file: Artifact) -> Flow[bytes]:
        """A file's content, and no other."""
        path = f"{run_path(file.run)}/artifacts/{file.number}"
        response = yield from self.ask(Call("GET", path))
        content = response.content
        if hashlib.sha256(content).hexdigest() != file.sha256:
            raise malformed(f"file with the SHA-256 that the outcome has for {file.path}")
        return content

    def artifacts(self, outcome: Outcome) -> Flow[list[tuple[Artifact, bytes]]]:
        """The contents of all files."""
        found = []
        for file in outcome.artifacts:
            found.append((file, (yield from self.artifact(file))))
        return found

    def forget(self, it: str | Run | Outcome | Upload) -> Flow[None]:
        """Deletes a run with what it left, or an upload."""
        if isinstance(it, Upload):
            self.stored.discard(it.sha256)
            yield from self.ask(Call("DELETE", f"/v1/uploads/{it.sha256}"))
        else:
            yield from self.ask(Call("DELETE", run_path(it)))


def _wait(answer: Answer, tried: int, once: bool) -> float | None:
    """Seconds until it may help to ask again, if at all."""
    backoff: float = 0.1 * 2**tried * random.uniform(0.75, 1.25)
    if isinstance(answer, httpx.ConnectTimeout if once else BROKEN):
        return backoff
    if not isinstance(answer, httpx.Response) or answer.status_code not in (REFUSED if once else AGAIN):
        return None
    try:
        return max(backoff, float(answer.headers.get("Retry-After", "0")))
    except ValueError:
        # A date, which no Casemate sends.
        return backoff


def document(content: bytes) -> dict[str, Any]:
    """An answer's JSON."""
    try:
        said = json.loads(content)
    except ValueError:
        said = None
    if not isinstance(said, dict):
        raise malformed("JSON document")
    return said
