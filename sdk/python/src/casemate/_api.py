"""What the server is asked, and the body of its errors: made from its description by `./generate`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias


@dataclass(kw_only=True)
class CellError:
    """An error that a cell ended on."""

    name: str
    """Its class."""
    traceback: str
    """Where it came from."""
    value: str
    """Its text."""


CellLanguage: TypeAlias = Literal["python", "bash", "javascript", "typescript"]
"""The languages of cells."""


@dataclass(kw_only=True)
class CellRequest:
    """Code to run in a sandbox."""

    code: str
    """The code. The value of its last expression is shown, as in a notebook."""
    context: str | None = None
    """The context it runs in; the language's own where none is named."""
    env: dict[str, str] | None = None
    """Environment variables for this cell alone."""
    language: CellLanguage | None = None
    timeout_s: int | None = None
    """Seconds until it is interrupted, 60 where nothing is said. What it defined by then stays."""


@dataclass(kw_only=True)
class CommandBody:
    """How a command ended, and what it said. All of it is the guest's word."""

    status: str
    """How it ended, in words."""
    stderr: str
    """What it wrote to standard error."""
    stdout: str
    """What it wrote to standard output."""
    cut_off: str | None = None
    """Why it was not heard to its end."""
    exit_code: int | None = None
    """Its exit code; none where it was killed."""


@dataclass(kw_only=True)
class CommandRequest:
    """A command to run in a sandbox."""

    command: str
    """A line for bash."""
    background: bool | None = None
    """
    Whether it is left to run: the answer is its number at once, and it lives until it ends, is ended, or the
    sandbox is.
    """
    cwd: str | None = None
    """Its working folder; the user's home where nothing is said."""
    env: dict[str, str] | None = None
    """Environment variables of its own."""
    stdin: str | None = None
    """Its standard input; it has none where nothing is said."""
    timeout_s: int | None = None
    """Seconds until it is killed, 60 where nothing is said; for one in the background none where nothing is said."""


@dataclass(kw_only=True)
class ContextBody:
    """An interpreter with a state."""

    context: str
    """Its id."""
    cwd: str
    """Where it began."""
    language: str
    """Its language."""


@dataclass(kw_only=True)
class EntryBody:
    """A file or a folder."""

    kind: str
    """`file`, `folder` or `other`."""
    mode: int
    """Its permission bits."""
    path: str
    """Its absolute path."""
    size_bytes: int
    """Its bytes."""
    link_to: str | None = None
    """Where a link leads."""


@dataclass(kw_only=True)
class ErrorBody:
    """The body of every error."""

    cause: str
    """A fixed word for programs, such as `unknown_run`."""
    code: int
    """The HTTP status."""
    message: str
    """What happened, in a sentence."""
    remediation: str
    """What to do about it."""
    request_id: str
    """What to search the server's log for."""


@dataclass(kw_only=True)
class FileRequest:
    """A file for a program: its content here, or an upload's."""

    path: str
    """Where the program finds it, under `/data/`."""
    base64: str | None = None
    """Its content as standard base64."""
    text: str | None = None
    """Its content as text."""
    upload: str | None = None
    """The SHA-256 of an upload, in hexadecimal."""


@dataclass(kw_only=True)
class ForkRequest:
    """Copies to be."""

    count: int | None = None
    """How many, 1 where nothing is said."""
    timeout_s: int | None = None
    """Seconds until their end, 300 where nothing is said."""


LanguageName: TypeAlias = Literal["python", "bash", "javascript"]
"""The languages that are served."""


@dataclass(kw_only=True)
class LimitsRequest:
    """Ceilings that a request may lower."""

    artifacts: int | None = None
    """Files handed back."""
    cpu_millis: int | None = None
    """Processors at once, in thousandths."""
    cpu_time_ms: int | None = None
    """Processor time, in milliseconds."""
    disk_bytes: int | None = None
    """Bytes in `/tmp` and the working folder."""
    memory_bytes: int | None = None
    """Memory the program may add, in bytes."""
    output_bytes: int | None = None
    """Bytes of each output stream."""
    tasks: int | None = None
    """Processes and threads."""
    wall_time_ms: int | None = None
    """Elapsed time, in milliseconds."""


@dataclass(kw_only=True)
class NewContext:
    """A context to be."""

    cwd: str | None = None
    """Its working folder; the user's home where nothing is said."""
    language: CellLanguage | None = None


OnTimeout: TypeAlias = Literal["kill", "pause"]
"""The end of a sandbox's time."""


PauseMode: TypeAlias = Literal["full", "filesystem"]
"""What is kept of a sandbox that is paused."""


@dataclass(kw_only=True)
class PauseRequest:
    """A pause."""

    memory: bool | None = None
    """
    Whether what runs and what is in memory is kept, frozen. With `false` the files alone are: all else ends, and its
    memory is given back. True where nothing is said.
    """


@dataclass(kw_only=True)
class ProcessBody:
    """A process of a sandbox."""

    argv: list[str]
    """Its program and arguments."""
    pid: int
    """Its number in the sandbox."""
    cwd: str | None = None
    """Its working folder."""


@dataclass(kw_only=True)
class RunRequest:
    """A program to run."""

    args: list[str] = field(default_factory=list)
    """Arguments after the program's name."""
    backend: str | None = None
    """The backend; the one that fits best where none is named."""
    code: str = ""
    """The program's text."""
    env: dict[str, str] = field(default_factory=dict)
    """Environment variables; there are no others."""
    files: list[FileRequest] = field(default_factory=list)
    """Files the program finds, read-only."""
    keep_events: bool = False
    """
    Whether its events are kept with its outcome: `GET /v1/runs/{run}/events` has them then. They count to what
    the tenant keeps.
    """
    language: LanguageName | None = None
    limits: LimitsRequest = field(
        default_factory=lambda: LimitsRequest(
            memory_bytes=None,
            cpu_millis=None,
            cpu_time_ms=None,
            wall_time_ms=None,
            disk_bytes=None,
            output_bytes=None,
            artifacts=None,
            tasks=None,
        )
    )
    """Lower ceilings than the policy's."""
    name: str | None = None
    """The name that tracebacks show."""
    policy: str | None = None
    """A policy to be no less strict than. The key's, or the server's, stays in force."""
    stdin: str = ""
    """Standard input."""


@dataclass(kw_only=True)
class SampleBody:
    """What a sandbox held at one moment, measured from outside."""

    at_s: int
    """When, in seconds since 1970."""
    cache_bytes: int
    """Of it what the kernel could take back."""
    cpu_used_percent: float
    """Of the processor time that it might have had since it began, in percent."""
    disk_bytes: int
    """Bytes of files."""
    memory_bytes: int
    """Bytes of memory."""


@dataclass(kw_only=True)
class SandboxBody:
    """A sandbox."""

    backend: str
    """Who makes its walls."""
    cpu_millis: int
    """Thousandths of a processor."""
    ends_ms: int
    """When its time is over."""
    href: str
    """Where it is found."""
    made_ms: int
    """When its walls were built, which its receipt tells of: before it was yours, where it waited for you."""
    metadata: dict[str, str]
    """What it can be found by."""
    on_timeout: OnTimeout
    """What its end is."""
    sandbox: str
    """Its id."""
    started_ms: int
    """When it began, in milliseconds since 1970."""
    state: str
    """`running` or `paused`."""
    template: str
    """What it was asked for by."""
    disk_bytes: int | None = None
    """Bytes of files."""
    idle_s: int | None = None
    """Seconds that it may be left alone."""
    memory_bytes: int | None = None
    """Bytes of memory; none where there is no such limit."""
    pause_mode: PauseMode | None = None


@dataclass(kw_only=True)
class SandboxPage:
    """A page of a list of sandboxes."""

    sandboxes: list[SandboxBody]
    """The sandboxes, the latest first."""
    next: str | None = None
    """The `after` of the next page."""


@dataclass(kw_only=True)
class SandboxRequest:
    """A sandbox to be."""

    env: dict[str, str] = field(default_factory=dict)
    """Environment variables of everything in it."""
    idle_s: int | None = None
    """
    Seconds that it may be left alone before its end comes. A request to it that goes on is company; a program in
    it that nobody listens to is not.
    """
    metadata: dict[str, str] = field(default_factory=dict)
    """What you want to find it by."""
    on_timeout: OnTimeout | None = None
    template: str | None = None
    """What it is made of: a template, or a snapshot of yours. The first with an interpreter where nothing is said."""
    timeout_s: int | None = None
    """Seconds until its end, 300 where nothing is said."""


@dataclass(kw_only=True)
class TimeRequest:
    """A time."""

    timeout_s: int | None = None
    """Seconds from now until its end, 300 where nothing is said."""


@dataclass(kw_only=True)
class WrittenBody:
    """A file that was written."""

    path: str
    """Its absolute path."""
    size_bytes: int
    """Its bytes."""


@dataclass(kw_only=True)
class CellBody:
    """What a cell said and showed. All of it is the guest's word."""

    results: list[Any]
    """What it showed, each in the forms there are: `text`, `html`, `png` (base64), `data`, `chart` and others."""
    stderr: str
    """What it wrote to standard error."""
    stdout: str
    """What it wrote to standard output."""
    cut_off: str | None = None
    """Why it was not heard to its end."""
    error: CellError | None = None
    execution_count: int | None = None
    """How many cells its context has had, this one included."""


@dataclass(kw_only=True)
class ForkBody:
    """A copy, or why there is none."""

    error: ErrorBody | None = None
    sandbox: SandboxBody | None = None
