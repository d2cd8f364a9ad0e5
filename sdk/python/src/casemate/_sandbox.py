"""A sandbox that lives on: cells that share their state, commands and files."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypedDict
from urllib.parse import quote

from ._api import CellLanguage as Language
from ._api import CellRequest, CommandRequest, PauseRequest, SandboxRequest, TimeRequest
from ._errors import malformed
from ._flow import SHORT, Call, Flow, Flows, document
from ._outcome import Document, ProgramError, Result, Wall, _object, _objects
from ._program import said

if TYPE_CHECKING:
    from ._client import AsyncCasemate, Casemate

#: Seconds that the server may take beyond what the program may.
SLACK = 30.0
#: Seconds that a cell or a command may take where nothing is said.
CALL = 60

#: What each form of a result is called on the wire, and which of them are base64.
_FORMS = {
    "text": "text/plain",
    "html": "text/html",
    "markdown": "text/markdown",
    "svg": "image/svg+xml",
    "latex": "text/latex",
    "javascript": "application/javascript",
    "json": "application/json",
    "chart": "application/vnd.casemate.chart+json",
}
_BYTES = {"png": "image/png", "jpeg": "image/jpeg", "pdf": "application/pdf"}


class SandboxOptions(TypedDict, total=False):
    """What may be said of a sandbox to be."""

    #: A template or a snapshot; the server's first one with an interpreter where nothing is said.
    template: str | None
    #: Seconds until its end: 300 where nothing is said.
    timeout_s: int | None
    #: Seconds that it may be left alone before its end comes.
    idle_s: int | None
    #: What its end is: `kill` where nothing is said, or `pause`.
    on_timeout: Literal["kill", "pause"] | None
    #: Environment variables of everything in it.
    env: Mapping[str, str]
    #: What you want to find it by.
    metadata: Mapping[str, str]


def _result(shown: Document) -> Result:
    forms: dict[str, Any] = {mime: shown[name] for name, mime in _FORMS.items() if name in shown}
    for name, mime in _BYTES.items():
        try:
            forms[mime] = base64.b64decode(shown[name], validate=True)
        except (KeyError, binascii.Error, TypeError, ValueError):
            continue
    forms.update(_object(shown, "extra"))
    return Result("expression" if shown.get("is_main_result") else "display", forms)


@dataclass(frozen=True)
class Cell:
    """What a cell said and showed."""

    stdout: str = field(repr=False)
    stderr: str = field(repr=False)
    results: tuple[Result, ...] = field(repr=False)
    error: ProgramError | None
    #: Why it was not heard to its end: its time was over.
    cut_off: str | None
    execution_count: int | None

    @classmethod
    def of(cls, said: Document) -> Cell:
        """Reads one."""
        error = said.get("error")
        return cls(
            stdout=str(said.get("stdout", "")),
            stderr=str(said.get("stderr", "")),
            results=tuple(map(_result, _objects(said, "results"))),
            error=ProgramError.of(error) if isinstance(error, Mapping) else None,
            cut_off=said.get("cut_off"),
            execution_count=said.get("execution_count"),
        )

    @property
    def ok(self) -> bool:
        """Whether it came to its end without an error."""
        return self.error is None and self.cut_off is None

    @property
    def text(self) -> str | None:
        """The value of its last expression."""
        return next((result.text for result in reversed(self.results) if result.origin == "expression"), None)

    @property
    def pictures(self) -> tuple[bytes, ...]:
        """The figures that it showed, as PNG."""
        return tuple(result.png for result in self.results if result.png)


@dataclass(frozen=True)
class Command:
    """How a command ended, and what it said."""

    #: None where it was killed.
    exit_code: int | None
    status: str
    stdout: str = field(repr=False)
    stderr: str = field(repr=False)
    #: Why it was not heard to its end: its time was over.
    cut_off: str | None

    @classmethod
    def of(cls, said: Document) -> Command:
        """Reads one."""
        words = {name: str(said.get(name, "")) for name in ("status", "stdout", "stderr")}
        return cls(exit_code=said.get("exit_code"), cut_off=said.get("cut_off"), **words)

    @property
    def ok(self) -> bool:
        """Whether it ended by itself with exit code 0."""
        return self.exit_code == 0


@dataclass(frozen=True)
class Entry:
    """A file or a folder of a sandbox. `kind` is `file`, `folder` or `other`."""

    path: str
    kind: str
    size_bytes: int

    @classmethod
    def of(cls, said: Document) -> Entry:
        """Reads one."""
        return cls(str(said.get("path")), str(said.get("kind")), int(said.get("size_bytes") or 0))


def _post(path: str, body: Any, timeout: float = SHORT) -> Call:
    """A request that is sent once: what it does it would do again."""
    content = json.dumps(said(asdict(body))).encode()
    return Call("POST", path, content, {"Content-Type": "application/json"}, timeout=timeout, once=True)


class _Inside:
    """The verbs of one sandbox, asked for by whichever client."""

    def __init__(self, flows: Flows, about: Document) -> None:
        if not isinstance(about.get("sandbox"), str):
            raise malformed("sandbox")
        self._flows = flows
        #: What the server said of it when it was made.
        self.raw = about
        self.id = str(about["sandbox"])
        self._path = f"/v1/sandboxes/{quote(self.id, safe='')}"

    def __repr__(self) -> str:
        """Which one it is."""
        return f"{type(self).__name__}({self.id!r})"

    def _run(
        self, code: str, language: Language | None, context: str | None, env: Mapping[str, str], time: int
    ) -> Flow[Cell]:
        request = CellRequest(
            code=code,
            language=language,
            context=context,
            env=dict(env),
            timeout_s=time,
        )
        return Cell.of((yield from self._flows.json(_post(f"{self._path}/cells", request, time + SLACK))))

    def _command(
        self, command: str, cwd: str | None, env: Mapping[str, str], stdin: str | None, time: int
    ) -> Flow[Command]:
        request = CommandRequest(command=command, cwd=cwd, env=dict(env), stdin=stdin, timeout_s=time)
        return Command.of((yield from self._flows.json(_post(f"{self._path}/commands", request, time + SLACK))))

    def _write(self, path: str, content: str | bytes) -> Flow[str]:
        content = content.encode() if isinstance(content, str) else content
        headers = {"Content-Type": "application/octet-stream"}
        timeout = max(SHORT, self._flows.timeout)
        call = Call("PUT", f"{self._path}/files", content, headers, {"path": path}, timeout)
        return str((yield from self._flows.json(call)).get("path"))

    def _read(self, path: str) -> Flow[bytes]:
        timeout = max(SHORT, self._flows.timeout)
        call = Call("GET", f"{self._path}/files", query={"path": path}, timeout=timeout)
        return (yield from self._flows.ask(call)).content

    def _entries(self, path: str, depth: int) -> Flow[list[Entry]]:
        query = {"path": path, "depth": str(depth)}
        listed = (yield from self._flows.ask(Call("GET", f"{self._path}/folders", query=query))).content
        entries = json.loads(listed)
        if not isinstance(entries, list):
            raise malformed("list of entries")
        return [Entry.of(entry) for entry in entries if isinstance(entry, Mapping)]

    def _remove(self, path: str) -> Flow[None]:
        yield from self._flows.ask(Call("DELETE", f"{self._path}/files", query={"path": path}, once=True))

    def _pause(self, memory: bool) -> Flow[None]:
        yield from self._flows.ask(_post(f"{self._path}/pause", PauseRequest(memory=memory)))

    def _resume(self, timeout_s: int | None) -> Flow[None]:
        yield from self._flows.ask(_post(f"{self._path}/resume", TimeRequest(timeout_s=timeout_s)))

    def _timeout(self, timeout_s: int) -> Flow[None]:
        yield from self._flows.ask(_post(f"{self._path}/timeout", TimeRequest(timeout_s=timeout_s)))

    def _walls(self) -> Flow[tuple[Wall, ...]]:
        receipt = _object((yield from self._flows.json(Call("GET", f"{self._path}/receipt"))), "receipt")
        return tuple(map(Wall.of, _objects(receipt, "walls")))

    def _close(self) -> Flow[None]:
        # What is gone is gone: an end is an end.
        answer = yield Call("DELETE", self._path)
        del answer


def opened(flows: Flows, options: SandboxOptions) -> Flow[Document]:
    """Makes a sandbox."""
    request = SandboxRequest(
        template=options.get("template"),
        timeout_s=options.get("timeout_s"),
        idle_s=options.get("idle_s"),
        on_timeout=options.get("on_timeout"),
        env=dict(options.get("env") or {}),
        metadata=dict(options.get("metadata") or {}),
    )
    response = yield from flows.ask(_post("/v1/sandboxes", request))
    return document(response.content)


class Sandbox(_Inside):
    """A sandbox that lives on until it is closed, or its time is over. `with` closes it."""

    def __init__(self, client: Casemate, about: Document) -> None:
        """Of a client; `Casemate.sandbox` makes one."""
        super().__init__(client._flows, about)
        self._do = client._do

    def run(
        self,
        code: str,
        *,
        language: Language | None = None,
        context: str | None = None,
        env: Mapping[str, str] = {},
        timeout_s: int = CALL,
    ) -> Cell:
        """Runs code in it. What earlier cells defined is there."""
        return self._do(self._run(code, language, context, env, timeout_s))

    def command(
        self,
        command: str,
        *,
        cwd: str | None = None,
        env: Mapping[str, str] = {},
        stdin: str | None = None,
        timeout_s: int = CALL,
    ) -> Command:
        """Runs a line of bash in it."""
        return self._do(self._command(command, cwd, env, stdin, timeout_s))

    def write(self, path: str, content: str | bytes) -> str:
        """Writes a file, and says where it is."""
        return self._do(self._write(path, content))

    def read(self, path: str) -> bytes:
        """Reads a file."""
        return self._do(self._read(path))

    def entries(self, path: str = ".", depth: int = 1) -> list[Entry]:
        """What is in a folder."""
        return self._do(self._entries(path, depth))

    def remove(self, path: str) -> None:
        """Removes a file or a folder with all that is in it."""
        self._do(self._remove(path))

    def pause(self, memory: bool = True) -> None:
        """Freezes it with everything in it; without `memory` its files are kept and all else ends."""
        self._do(self._pause(memory))

    def resume(self, timeout_s: int | None = None) -> None:
        """Lets it go on: where it was, or from its files alone."""
        self._do(self._resume(timeout_s))

    def set_timeout(self, timeout_s: int) -> None:
        """Sets when it ends, from now."""
        self._do(self._timeout(timeout_s))

    def walls(self) -> tuple[Wall, ...]:
        """What stands around it."""
        return self._do(self._walls())

    def close(self) -> None:
        """Ends it, and everything in it."""
        self._do(self._close())

    def __enter__(self) -> Sandbox:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Ends it."""
        self.close()


class AsyncSandbox(_Inside):
    """`Sandbox` with `await`."""

    def __init__(self, client: AsyncCasemate, about: Document) -> None:
        """Of a client; `AsyncCasemate.sandbox` makes one."""
        super().__init__(client._flows, about)
        self._do = client._do

    async def run(
        self,
        code: str,
        *,
        language: Language | None = None,
        context: str | None = None,
        env: Mapping[str, str] = {},
        timeout_s: int = CALL,
    ) -> Cell:
        """Runs code in it. What earlier cells defined is there."""
        return await self._do(self._run(code, language, context, env, timeout_s))

    async def command(
        self,
        command: str,
        *,
        cwd: str | None = None,
        env: Mapping[str, str] = {},
        stdin: str | None = None,
        timeout_s: int = CALL,
    ) -> Command:
        """Runs a line of bash in it."""
        return await self._do(self._command(command, cwd, env, stdin, timeout_s))

    async def write(self, path: str, content: str | bytes) -> str:
        """Writes a file, and says where it is."""
        return await self._do(self._write(path, content))

    async def read(self, path: str) -> bytes:
        """Reads a file."""
        return await self._do(self._read(path))

    async def entries(self, path: str = ".", depth: int = 1) -> list[Entry]:
        """What is in a folder."""
        return await self._do(self._entries(path, depth))

    async def remove(self, path: str) -> None:
        """Removes a file or a folder with all that is in it."""
        await self._do(self._remove(path))

    async def pause(self, memory: bool = True) -> None:
        """Freezes it with everything in it; without `memory` its files are kept and all else ends."""
        await self._do(self._pause(memory))

    async def resume(self, timeout_s: int | None = None) -> None:
        """Lets it go on: where it was, or from its files alone."""
        await self._do(self._resume(timeout_s))

    async def set_timeout(self, timeout_s: int) -> None:
        """Sets when it ends, from now."""
        await self._do(self._timeout(timeout_s))

    async def walls(self) -> tuple[Wall, ...]:
        """What stands around it."""
        return await self._do(self._walls())

    async def close(self) -> None:
        """Ends it, and everything in it."""
        await self._do(self._close())

    async def __aenter__(self) -> AsyncSandbox:
        """Itself."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Ends it."""
        await self.close()
