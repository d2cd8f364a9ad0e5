"""How a run ended. The documents are `casemate.outcome/1` and its kin; new fields may appear, so reading is lenient."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from . import _show

Document = Mapping[str, Any]


def _objects(document: Document, name: str) -> list[Document]:
    listed = document.get(name)
    return [item for item in listed if isinstance(item, Mapping)] if isinstance(listed, list) else []


def _object(document: Document, name: str) -> Document:
    found = document.get(name)
    return found if isinstance(found, Mapping) else {}


@dataclass(frozen=True)
class Ending:
    """Which of the endings it was, and why.

    `status` is `exited`, `over` (a limit), `denied` (a wall), `signalled`, `refused` (before anything ran),
    `cancelled` or `faulted` (the server's own fault); the fields below belong to one or two of them.
    """

    status: str
    cause: str
    hint: str | None = None
    code: int | None = None
    limit: str | None = None
    allowed: int | None = None
    seen: int | None = None
    wall: str | None = None
    by: str | None = None
    reason: str | None = None
    signal: int | None = None

    @classmethod
    def of(cls, document: Document) -> Ending:
        """Reads one."""
        known = {name: document[name] for name in cls.__dataclass_fields__ if document.get(name) is not None}
        return cls(**{"status": "unknown", "cause": "", **known})


@dataclass(frozen=True)
class ProgramError:
    """The exception that the program died of."""

    name: str
    value: str
    traceback: str
    line: int | None

    @classmethod
    def of(cls, document: Document) -> ProgramError:
        """Reads one."""
        words = {name: str(document.get(name) or "") for name in ("name", "value", "traceback")}
        return cls(**words, line=document.get("line"))


@dataclass(frozen=True)
class Table:
    """A data frame: its first rows, and how many there were."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    row_count: int

    def _repr_html_(self) -> str:
        return _show.table(self)


@dataclass(frozen=True)
class Result:
    """Something that the program displayed: the value of the last expression, a figure, `display(...)`."""

    origin: str
    #: Contents by media type: text, bytes or JSON.
    forms: Mapping[str, Any] = field(repr=False)

    @classmethod
    def of(cls, document: Document) -> Result:
        """Reads one."""
        forms = {}
        for form in _objects(document, "representations"):
            content = form.get("text", form.get("json"))
            if "base64" in form:
                try:
                    content = base64.b64decode(form["base64"], validate=True)
                except (binascii.Error, TypeError, ValueError):
                    continue
            forms[str(form.get("mime"))] = content
        return cls(str(document.get("origin")), forms)

    def _text(self, mime: str) -> str | None:
        form = self.forms.get(mime)
        return form if isinstance(form, str) else None

    def _bytes(self, mime: str) -> bytes | None:
        form = self.forms.get(mime)
        return form if isinstance(form, bytes) else None

    @property
    def text(self) -> str | None:
        """As plain text."""
        return self._text("text/plain")

    @property
    def markdown(self) -> str | None:
        """As Markdown."""
        return self._text("text/markdown")

    @property
    def html(self) -> str | None:
        """As the program's own HTML, which may hold scripts: show it in a sandboxed frame or not at all."""
        return self._text("text/html")

    @property
    def png(self) -> bytes | None:
        """As a picture."""
        return self._bytes("image/png")

    @property
    def jpeg(self) -> bytes | None:
        """As a picture."""
        return self._bytes("image/jpeg")

    @property
    def chart(self) -> Mapping[str, Any] | None:
        """A figure as data: type, title, axes and elements."""
        form = self.forms.get("application/vnd.casemate.chart+json")
        return form if isinstance(form, Mapping) else None

    @property
    def table(self) -> Table | None:
        """A data frame as data."""
        form = self.forms.get("application/vnd.casemate.table+json")
        if not isinstance(form, Mapping):
            return None
        columns = tuple(str(column.get("name")) for column in _objects(form, "columns"))
        rows = tuple(tuple(row) for row in form.get("preview_rows") or () if isinstance(row, list))
        return Table(columns, rows, int(form.get("row_count") or 0))


@dataclass(frozen=True)
class Artifact:
    """A file that the program left. `Casemate.artifact` gets its content."""

    run: str
    number: int
    path: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Wall:
    """A wall of the receipt: what was asked, and what was got or is missing."""

    name: str
    need: str
    asked: str | None
    got: str | None
    missing: str | None
    guarantees: tuple[str, ...]

    @classmethod
    def of(cls, document: Document) -> Wall:
        """Reads one."""
        asked, got, missing = (document.get(name) for name in ("asked", "got", "missing"))
        guarantees = tuple(document.get("guarantees") or ())
        return cls(str(document.get("name")), str(document.get("need")), asked, got, missing, guarantees)


@dataclass(frozen=True)
class Finding:
    """What screening found. `action` is `pass`, `confine` or `refuse`."""

    rule: str
    severity: str
    message: str
    reason: str
    better_way: str
    line: int | None
    excerpt: str
    action: str

    @classmethod
    def of(cls, document: Document) -> Finding:
        """Reads one."""
        word = {name: str(document.get(name) or "") for name in cls.__dataclass_fields__ if name != "line"}
        return cls(**word, line=_object(document, "place").get("line"))


@dataclass(frozen=True)
class Scan:
    """What a program would need and what is wrong with it. Nothing ran."""

    policy: str
    refused: bool
    verdict: str
    findings: tuple[Finding, ...]
    #: Modules, files, hosts and the rest of what the text shows; see docs/outcome.md.
    manifest: Document = field(repr=False)
    raw: Document = field(repr=False)

    @classmethod
    def of(cls, document: Document) -> Scan:
        """Reads one."""
        screening = _object(document, "screening")
        return cls(
            policy=str(document.get("policy")),
            refused=bool(document.get("refused")),
            verdict=str(screening.get("verdict")),
            findings=tuple(map(Finding.of, _objects(screening, "findings"))),
            manifest=_object(screening, "manifest"),
            raw=document,
        )


@dataclass(frozen=True)
class Run:
    """A run in a list, or one that was submitted. `state` is `accepted`, `ended` or `lost`."""

    run: str
    state: str
    created_ms: int | None = None
    ended_ms: int | None = None

    @classmethod
    def of(cls, document: Document) -> Run:
        """Reads one."""
        state = str(document.get("state", "ended"))
        return cls(str(document.get("run")), state, document.get("created_ms"), document.get("ended_ms"))


@dataclass(frozen=True)
class Upload:
    """A content that the server has. Any number of runs may name it."""

    sha256: str
    name: str
    size_bytes: int

    @classmethod
    def of(cls, document: Document) -> Upload:
        """Reads one."""
        return cls(str(document.get("sha256")), str(document.get("name")), int(document.get("size_bytes") or 0))


@dataclass(frozen=True)
class Receipt:
    """What was run on what, by hashes, under which policy, behind which walls."""

    run: str
    policy: str
    backend: str | None
    walls: tuple[Wall, ...]
    raw: Document = field(repr=False)

    @classmethod
    def of(cls, document: Document) -> Receipt:
        """Reads one."""
        walls = _object(document, "walls")
        listed = tuple(map(Wall.of, _objects(walls, "walls")))
        return cls(str(document.get("run")), str(document.get("policy")), walls.get("backend"), listed, document)


@dataclass(frozen=True)
class Outcome:
    """How a run ended. `str()` tells it to a person or a model; `raw` is the whole document."""

    run: str
    ending: Ending
    exit_code: int
    stdout: str = field(repr=False)
    stderr: str = field(repr=False)
    error: ProgramError | None = field(repr=False)
    results: tuple[Result, ...] = field(repr=False)
    artifacts: tuple[Artifact, ...] = field(repr=False)
    walls: tuple[Wall, ...] = field(repr=False)
    findings: tuple[Finding, ...] = field(repr=False)
    raw: Document = field(repr=False)

    @classmethod
    def of(cls, document: Document) -> Outcome:
        """Reads one."""
        run = str(document.get("run"))
        error = document.get("error")
        artifacts = enumerate(_objects(document, "artifacts"))
        return cls(
            run=run,
            ending=Ending.of(_object(document, "ending")),
            exit_code=int(document.get("exit_code", 125)),
            stdout=str(document.get("stdout") or ""),
            stderr=str(document.get("stderr") or ""),
            error=ProgramError.of(error) if isinstance(error, Mapping) else None,
            results=tuple(map(Result.of, _objects(document, "results"))),
            artifacts=tuple(
                Artifact(run, number, str(item.get("path")), int(item.get("size_bytes", 0)), str(item.get("sha256")))
                for number, item in artifacts
            ),
            walls=tuple(map(Wall.of, _objects(_object(document, "receipt"), "walls"))),
            findings=tuple(map(Finding.of, _objects(_object(document, "screening"), "findings"))),
            raw=document,
        )

    @property
    def ok(self) -> bool:
        """Whether the program ended by itself with exit code 0."""
        return self.ending.status == "exited" and self.ending.code == 0

    @property
    def refused(self) -> bool:
        """Whether nothing ran."""
        return self.ending.status == "refused"

    @property
    def backend(self) -> str | None:
        """Where it ran."""
        return _object(self.raw, "placement").get("backend")

    @property
    def receipt(self) -> Document:
        """The walls as the document has them: `backend`, `guest`, `walls`. Empty where nothing ran."""
        return _object(self.raw, "receipt")

    @property
    def usage(self) -> Document:
        """What was measured: `wall_us`, `cpu_us`, `memory_peak_bytes` and more."""
        return _object(self.raw, "usage")

    @property
    def tables(self) -> tuple[Table, ...]:
        """The data frames that were displayed."""
        return tuple(result.table for result in self.results if result.table)

    @property
    def pictures(self) -> tuple[bytes, ...]:
        """The figures that were displayed, as PNG."""
        return tuple(result.png for result in self.results if result.png)

    @property
    def trouble(self) -> str:
        """Why it did not end well and what to do about it; empty where it did."""
        return _show.trouble(self)

    def artifact(self, path: str) -> Artifact:
        """The file of this path, or of this name where only one has it."""
        found = [file for file in self.artifacts if file.path == path]
        found = found or [file for file in self.artifacts if file.path.rsplit("/", 1)[-1] == path]
        if len(found) != 1:
            there = ", ".join(file.path for file in self.artifacts) or "none"
            raise KeyError(f"{path!r} is not one of the files that were left: {there}")
        return found[0]

    def check(self) -> Outcome:
        """This outcome where it is `ok`.

        Raises:
            NotOk: where it is not, with the reason and what to do.
        """
        if not self.ok:
            raise NotOk(self)
        return self

    def __str__(self) -> str:
        """What was printed and shown, why it was refused or killed, what to do, what was left."""
        return _show.text(self)

    def _repr_html_(self) -> str:
        return _show.html(self)


class NotOk(Exception):
    """`Outcome.check` found that the program was refused, was killed or failed."""

    def __init__(self, outcome: Outcome) -> None:
        """Keeps the outcome."""
        super().__init__(outcome)
        self.outcome = outcome

    def __str__(self) -> str:
        """Why, and what to do."""
        return self.outcome.trouble
