"""What the server is asked, and the body of its errors: made from its description by `./generate`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias


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
