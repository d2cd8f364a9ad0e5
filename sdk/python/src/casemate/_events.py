"""What a run tells while it goes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from ._errors import malformed, of_body
from ._outcome import Document, Outcome, ProgramError, Result


@dataclass(frozen=True)
class Started:
    """It has its turn."""

    run: str


@dataclass(frozen=True)
class Output:
    """Something was printed. `stream` is `stdout` or `stderr`."""

    stream: str
    text: str


@dataclass(frozen=True)
class Displayed:
    """A figure or a value was shown."""

    result: Result


@dataclass(frozen=True)
class Raised:
    """The program dies of an exception."""

    error: ProgramError


@dataclass(frozen=True)
class Observed:
    """A file, a process, the network, a denial: see docs/outcome.md. `witness` is `host` or `guest`."""

    kind: str
    witness: str
    at_us: int
    fields: Mapping[str, Any]


@dataclass(frozen=True)
class Ended:
    """It is over. The last event of a stream."""

    outcome: Outcome


@dataclass(frozen=True)
class Other:
    """An event that a newer server tells."""

    kind: str
    fields: Mapping[str, Any] = field(repr=False)


Event: TypeAlias = Started | Output | Displayed | Raised | Observed | Ended | Other


def _observed(document: Document) -> Observed:
    fields = dict(document)
    kind, witness = str(fields.pop("event", "")), str(fields.pop("witness", ""))
    return Observed(kind, witness, int(fields.pop("at_us", 0)), fields)


def kept(text: str) -> list[Observed]:
    """Reads the events that were kept of a run, a line each."""
    try:
        return [_observed(json.loads(line)) for line in text.split("\n") if line]
    except ValueError as error:
        raise malformed("list of events") from error


def event_of(line: Document) -> Event:
    """Reads a line of a stream.

    Raises:
        CasemateError: where the line says that the run's end was lost.
    """
    kind = line.get("type")
    inner = {name: value for name, value in line.items() if isinstance(value, Mapping)}
    if kind == "started":
        return Started(str(line.get("run")))
    if kind in ("stdout", "stderr"):
        return Output(kind, str(line.get("text", "")))
    if kind == "result" and "result" in inner:
        return Displayed(Result.of(inner["result"]))
    if kind == "error" and "error" in inner:
        return Raised(ProgramError.of(inner["error"]))
    if kind == "event" and "event" in inner:
        return _observed(inner["event"])
    if kind == "outcome" and "outcome" in inner:
        return Ended(Outcome.of(inner["outcome"]))
    if kind == "failed":
        raise of_body(line.get("error"))
    return Other(str(kind), line)


class Heard:
    """What has been heard of a run so far."""

    def __init__(self) -> None:
        """Nothing yet."""
        self.run: str | None = None
        self.ended = False
        self._rest: list[bytes] = []

    def events(self, piece: bytes) -> Iterator[Event]:
        """The events of the lines that a piece of the stream completes.

        Lines end in a line feed and nothing else: a text may hold what Unicode has besides.
        """
        first, *others = piece.split(b"\n")
        self._rest.append(first)
        for other in others:
            line, self._rest = b"".join(self._rest), [other]
            if line.strip():
                yield self._event(line)

    def end(self, outcome: Outcome) -> Ended:
        """The last event, of an outcome that came another way."""
        self.ended = True
        return Ended(outcome)

    def _event(self, line: bytes) -> Event:
        try:
            said = json.loads(line)
        except ValueError:
            said = None
        if not isinstance(said, Mapping):
            raise malformed("line of a stream")
        event = event_of(said)
        if isinstance(event, Started):
            self.run = event.run
        self.ended = self.ended or isinstance(event, Ended)
        return event
