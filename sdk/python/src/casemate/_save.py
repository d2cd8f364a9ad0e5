"""Writing what a program left to a folder: never outside it, whatever the program called its files."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from ._outcome import Artifact, Outcome
from ._show import plain

#: What a name may not hold on one system or another.
_BAD = re.compile(r'[\\:*?"<>|\x00-\x1f]')


def save(outcome: Outcome, contents: Iterable[tuple[Artifact, bytes]], folder: str | Path) -> list[Path]:
    """Writes the files, and as `figure-N.png` the figures that no file is. Gives the paths."""
    root = Path(folder)
    root.mkdir(parents=True, exist_ok=True)
    root = root.resolve()
    taken: set[Path] = set()
    written, seen = [], set()
    for file, content in contents:
        seen.add(content)
        written.append(_write(root, _free(_relative(file.path), taken), content))
    figures = [picture for picture in outcome.pictures if picture not in seen]
    for number, picture in enumerate(figures, 1):
        written.append(_write(root, _free(Path(f"figure-{number}.png"), taken), picture))
    return written


def _relative(path: str) -> Path:
    """`/tmp/a/b.png` and `/work/a/b.png` are both `a/b.png` to the user."""
    parts = [part for part in PurePosixPath(path).parts if part not in ("/", "//", ".", "..")]
    if len(parts) > 1 and parts[0] in ("tmp", "work"):
        parts = parts[1:]
    return Path(*(_BAD.sub("_", plain(part)) or "_" for part in parts)) if parts else Path("_")


def _free(wanted: Path, taken: set[Path]) -> Path:
    name, number = wanted, 1
    while name in taken:
        number += 1
        name = wanted.with_name(f"{wanted.stem}-{number}{wanted.suffix}")
    taken.add(name)
    return name


def _write(root: Path, name: Path, content: bytes) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    # A link that stood in the folder before must not lead out of it.
    if not path.parent.resolve().is_relative_to(root):
        raise PermissionError(f"{path.parent} leads out of {root}")
    handle, part = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as out:
            out.write(content)
        # Takes the place of a link instead of writing through it.
        Path(part).replace(path)
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise
    return path
