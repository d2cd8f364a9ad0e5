"""An outcome as text for people and models, and as HTML for notebooks.

What a program printed is as hostile as the program: no control character reaches a terminal, and nothing of it is
HTML of ours.
"""

from __future__ import annotations

import base64
import re
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._outcome import Finding, Outcome, Result, Table

#: Characters of one output that are shown.
MOST = 32 << 10
#: What a terminal acts on, and what turns the direction of writing.
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
#: Findings that are shown; the first ones are why.
_FINDINGS = 5


def plain(text: str) -> str:
    """A text without what a terminal would act on."""
    return _CONTROL.sub("", text.replace("\r\n", "\n"))


def cut(text: str, most: int = MOST) -> str:
    """A text that fits, and says what is missing."""
    text = plain(text).rstrip()
    return text if len(text) <= most else f"{text[:most]}\n[{len(text) - most} characters more are not shown]"


def worded(advice: str) -> str:
    """The server speaks of the command line's flags; here they are arguments, and no limit can be raised."""
    advice = re.sub(r"[;,]? or raise the limit with --[a-z-]+", "", advice)
    return advice.replace("--data", "`files`")


def size(count: int) -> str:
    """A number of bytes for people."""
    amount, unit = float(count), "bytes"
    for larger in ("KiB", "MiB", "GiB"):
        if amount < 1024:
            break
        amount, unit = amount / 1024, larger
    return f"{count} bytes" if unit == "bytes" else f"{amount:.1f} {unit}"


def _finding(finding: Finding, before: str) -> str:
    lines = [f"line {finding.line}: {finding.message} [{finding.rule}]" if finding.line else finding.message]
    if finding.excerpt != before:
        lines.append(f"    {finding.excerpt.strip()}")
    if finding.reason:
        lines.append(f"  why: {finding.reason}")
    if finding.better_way:
        lines.append(f"  instead: {worded(finding.better_way)}")
    return plain("\n".join(lines))


def trouble(outcome: Outcome) -> str:
    """Why it did not end well, and what to do; nothing where it did."""
    if outcome.ok:
        return ""
    parts = [plain(outcome.ending.cause)]
    refusing = [finding for finding in outcome.findings if finding.action == "refuse"] if outcome.refused else []
    excerpts = ["", *(finding.excerpt for finding in refusing)]
    parts += map(_finding, refusing[:_FINDINGS], excerpts)
    error = outcome.error
    if error and error.traceback not in outcome.stderr:
        parts.append(cut(error.traceback))
    missing = [wall for wall in outcome.walls if wall.missing and wall.need == "required"]
    parts += [f"missing wall {wall.name}: {wall.missing}" for wall in missing]
    hint = worded(outcome.ending.hint or "")
    if hint and not any(hint == worded(finding.better_way) for finding in refusing[:_FINDINGS]):
        parts.append(f"what to do: {plain(hint)}")
    return "\n".join(parts)


def text(outcome: Outcome) -> str:
    """What was printed and shown, what went wrong, what was left."""
    shown = [result.text or result.markdown or "" for result in outcome.results]
    parts = [cut(outcome.stdout), *(cut(form) for form in shown)]
    if outcome.stderr.strip():
        parts.append(f"standard error:\n{cut(outcome.stderr)}")
    parts.append(trouble(outcome))
    if outcome.artifacts:
        files = [f"  {plain(file.path)} ({size(file.size_bytes)})" for file in outcome.artifacts]
        parts.append("\n".join(["files:", *files]))
    return "\n".join(part for part in parts if part) or "the program printed nothing"


def table(it: Table) -> str:
    """A table as HTML of ours."""
    head = "".join(f"<th>{escape(plain(name))}</th>" for name in it.columns)
    rows = "".join(
        "<tr>" + "".join(f"<td>{escape('' if cell is None else plain(str(cell)))}</td>" for cell in row) + "</tr>"
        for row in it.rows
    )
    more = it.row_count - len(it.rows)
    note = f"<p>{more} rows more</p>" if more > 0 else ""
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>{note}"


def _result(result: Result) -> str:
    for mime, content in (("image/png", result.png), ("image/jpeg", result.jpeg)):
        if content:
            return f'<img alt="" src="data:{mime};base64,{base64.b64encode(content).decode()}">'
    # The program's own HTML could hold scripts; the table's data cannot.
    if result.table:
        return table(result.table)
    return _block(result.text or "")


def _block(said: str) -> str:
    return f"<pre>{escape(cut(said))}</pre>" if said.strip() else ""


def html(outcome: Outcome) -> str:
    """The same for a notebook, with pictures and tables."""
    parts = [_block(outcome.stdout), *map(_result, outcome.results), _block(outcome.stderr), _block(trouble(outcome))]
    if outcome.artifacts:
        files = "".join(f"<li>{escape(plain(file.path))} ({size(file.size_bytes)})</li>" for file in outcome.artifacts)
        parts.append(f"<ul>{files}</ul>")
    return f"<div>{''.join(parts)}</div>"
