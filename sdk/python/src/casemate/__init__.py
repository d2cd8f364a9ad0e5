"""Runs code that nobody trusts on a Casemate server, and says how it ended.

from casemate import Casemate

outcome = Casemate().run("print(6 * 7)")
print(outcome)
"""

from ._api import LimitsRequest as Limits
from ._client import AsyncCasemate, Casemate
from ._errors import (
    BadRequest,
    Busy,
    CasemateError,
    Conflict,
    Lost,
    NoSpace,
    NotAllowed,
    NotFound,
    ServerError,
    TimedOut,
    TooLarge,
    Unreachable,
)
from ._events import Displayed, Ended, Event, Observed, Other, Output, Raised, Started
from ._outcome import (
    Artifact,
    Ending,
    Finding,
    NotOk,
    Outcome,
    ProgramError,
    Receipt,
    Result,
    Run,
    Scan,
    Table,
    Upload,
    Wall,
)
from ._program import Content, Files, Options
from ._sandbox import AsyncSandbox, Cell, Command, Entry, Sandbox, SandboxOptions

__all__ = [
    "Artifact",
    "AsyncCasemate",
    "AsyncSandbox",
    "BadRequest",
    "Busy",
    "Casemate",
    "CasemateError",
    "Cell",
    "Command",
    "Conflict",
    "Content",
    "Displayed",
    "Ended",
    "Ending",
    "Entry",
    "Event",
    "Files",
    "Finding",
    "Limits",
    "Lost",
    "NoSpace",
    "NotAllowed",
    "NotFound",
    "NotOk",
    "Observed",
    "Options",
    "Other",
    "Outcome",
    "Output",
    "ProgramError",
    "Raised",
    "Receipt",
    "Result",
    "Run",
    "Sandbox",
    "SandboxOptions",
    "Scan",
    "ServerError",
    "Started",
    "Table",
    "TimedOut",
    "TooLarge",
    "Unreachable",
    "Upload",
    "Wall",
]
