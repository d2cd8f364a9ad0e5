"""A request to run: the program with its files, as the bytes that are sent."""

from __future__ import annotations

import base64
import hashlib
import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeAlias, TypedDict

from ._api import FileRequest, LimitsRequest, RunRequest
from ._outcome import Upload

#: What a file is made of: text, bytes, a file of this machine, or an upload.
Content: TypeAlias = str | bytes | Path | Upload
#: Contents by the name that the program finds them under in `/data`, or files of this machine under their own names.
Files: TypeAlias = Mapping[str, Content] | Sequence[str | Path]

#: Contents above this are uploaded once instead of being sent with every request.
INLINE = 1 << 20


class Options(TypedDict, total=False):
    """What may be said of a run besides its code. All of it narrows; nothing widens the policy in force."""

    #: What the program finds in `/data`, read-only: `{"x.csv": Path("x.csv")}`, or a list of paths.
    files: Files | None
    #: Its arguments, `sys.argv[1:]`.
    args: Sequence[str]
    #: Its environment variables; there are no others.
    env: Mapping[str, str] | None
    #: Its standard input.
    stdin: str
    #: The name that tracebacks show.
    name: str | None
    #: A policy to be no less strict than.
    policy: str | None
    #: Where to run it; the one that fits best where none is named.
    backend: str | None
    #: Lower ceilings than the policy's.
    limits: LimitsRequest | None
    #: Whether the server keeps its events: `client.events(run)` has them then.
    keep_events: bool
    #: The same request with the same key is the same run. One is made where none is given. A run with a key of
    #: yours goes on when you stop waiting for it.
    idempotency_key: str | None


@dataclass(frozen=True)
class Program:
    """A request as it is sent: the same bytes each time, or its key would belong to another request."""

    body: bytes
    key: str
    #: Whether the run is to go on when nobody waits for it any more.
    lasting: bool
    #: What must be uploaded first, by SHA-256.
    contents: Mapping[str, bytes] = field(default_factory=dict)


def program(
    code: str,
    *,
    files: Files | None = None,
    args: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    stdin: str = "",
    name: str | None = None,
    policy: str | None = None,
    backend: str | None = None,
    limits: LimitsRequest | None = None,
    keep_events: bool = False,
    idempotency_key: str | None = None,
) -> Program:
    """Reads the files and makes the request."""
    contents: dict[str, bytes] = {}
    request = RunRequest(
        code=code,
        files=[_file(path, content, contents) for path, content in placed(files).items()],
        args=list(args),
        env=dict(env or {}),
        stdin=stdin,
        name=name,
        policy=policy,
        backend=backend,
        limits=limits or LimitsRequest(),
        keep_events=keep_events,
    )
    body = json.dumps(said(asdict(request))).encode()
    key = idempotency_key or uuid.uuid4().hex
    return Program(body, key, idempotency_key is not None, contents)


def placed(files: Files | None) -> dict[str, Content]:
    """The contents by the paths that the program finds them under."""
    if isinstance(files, str | bytes | Path):
        raise TypeError("`files` is a list of paths, or a mapping of names to contents, and not one path")
    named: Iterable[tuple[str, Content]]
    named = files.items() if isinstance(files, Mapping) else [(Path(path).name, Path(path)) for path in files or ()]
    found: dict[str, Content] = {}
    for name, content in named:
        path = name if name.startswith("/") else f"/data/{name}"
        if path in found:
            raise ValueError(f"two of the files would be {path}")
        found[path] = content
    return found


def _file(path: str, content: Content, contents: dict[str, bytes]) -> FileRequest:
    if isinstance(content, Upload):
        return FileRequest(path=path, upload=content.sha256)
    if isinstance(content, str):
        content = content.encode()
    elif isinstance(content, Path):
        content = content.read_bytes()
    if len(content) > INLINE:
        sha256 = hashlib.sha256(content).hexdigest()
        contents[sha256] = content
        return FileRequest(path=path, upload=sha256)
    try:
        return FileRequest(path=path, text=content.decode())
    except UnicodeDecodeError:
        return FileRequest(path=path, base64=base64.b64encode(content).decode())


def said(value: Any) -> Any:
    """Without what was left unsaid, so that an older server is not asked for what it does not know."""
    if isinstance(value, list):
        return [said(item) for item in value]
    if not isinstance(value, dict):
        return value
    inner = {name: said(item) for name, item in value.items()}
    # An empty text is something: a file may be empty.
    return {name: item for name, item in inner.items() if item is not None and item != {} and item != []}
