"""Casemate as a tool of LangChain's: `pip install 'casemate[langchain]'`.

What a tool takes is written by a model, which may have been talked into anything. So policy, backend, limits and the
data are fields that whoever makes the tool sets, and nothing in a call can widen them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, Any, Literal

from langchain_core.callbacks import AsyncCallbackManagerForToolRun, CallbackManagerForToolRun
from langchain_core.tools import BaseTool, ToolException
from pydantic import BaseModel, ConfigDict, Field, SkipValidation, ValidationError

from ._api import LimitsRequest
from ._client import AsyncCasemate, Casemate
from ._errors import BadRequest, TooLarge
from ._outcome import Outcome
from ._program import Files, Options, placed

_DESCRIPTION = (
    "Run a Python program in a sandbox and get what it prints, shows and leaves. pandas, numpy and matplotlib are "
    "there; a network is not. Each call is a run of its own and remembers nothing. Data is in /data, read-only; files "
    "that the program writes to /tmp are handed back to the user. The value of the last expression is shown, as in a "
    "notebook. A program that is refused is told why and what to do instead."
)


def _wrong(error: Exception) -> str:
    """What is wrong with a call, for whoever made it."""
    if not isinstance(error, ValidationError):
        return f"this call cannot be understood: {error}"
    faults = (f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
    return f"this call cannot be understood: {'; '.join(faults)}"


class RunPython(BaseModel):
    """What a model may say."""

    model_config = ConfigDict(extra="forbid")

    code: str = Field(description="The program.")
    files: dict[str, str] = Field(
        default_factory=dict,
        description="Text files of your own: their contents by name. The program finds them in /data.",
    )
    args: list[str] = Field(default_factory=list, description="The program's arguments, sys.argv[1:].")
    timeout_seconds: int | None = Field(
        default=None,
        ge=1,
        le=86_400,
        description="Stop it after so many seconds, if that is less than the policy allows.",
    )


class CasemateTool(BaseTool):
    """Runs a model's Python. The message's content is text to act on, its artifact the `casemate.Outcome`.

        tool = CasemateTool(files={"sales.csv": Path("sales.csv")}, limits=Limits(wall_time_ms=20_000))

    A program that is refused, killed or fails is an answer, with the reason and a better way. A server that does not
    answer is an exception: the model can do nothing about it.
    """

    name: str = "run_python"
    description: str = _DESCRIPTION
    args_schema: type[BaseModel] = RunPython
    response_format: Literal["content", "content_and_artifact"] = "content_and_artifact"
    # What the model got wrong it is told.
    handle_tool_error: Any = True
    handle_validation_error: Any = _wrong

    #: Who is asked, and who is awaited; where no such one is given, a thread asks the first.
    client: Casemate = Field(default_factory=Casemate, exclude=True, repr=False)
    async_client: AsyncCasemate | None = Field(default=None, exclude=True, repr=False)
    #: What every run finds in `/data`. The model is told the names.
    files: Annotated[Files | None, SkipValidation] = Field(default=None, exclude=True, repr=False)
    policy: str | None = None
    backend: str | None = None
    limits: LimitsRequest | None = None

    def model_post_init(self, context: Any, /) -> None:
        """Tells the model what there is."""
        super().model_post_init(context)
        if self.files:
            self.description += f" There is {', '.join(placed(self.files))}."

    def _run(
        self,
        code: str,
        files: dict[str, str] | None = None,
        args: list[str] | None = None,
        timeout_seconds: int | None = None,
        run_manager: CallbackManagerForToolRun | None = None,  # noqa: ARG002
    ) -> tuple[str, Outcome]:
        options = self._options(files, args, timeout_seconds)
        with _told():
            outcome = self.client.run(code, **options)
        return str(outcome), outcome

    async def _arun(
        self,
        code: str,
        files: dict[str, str] | None = None,
        args: list[str] | None = None,
        timeout_seconds: int | None = None,
        run_manager: AsyncCallbackManagerForToolRun | None = None,  # noqa: ARG002
    ) -> tuple[str, Outcome]:
        if self.async_client is None:
            return await asyncio.to_thread(self._run, code, files, args, timeout_seconds)
        options = self._options(files, args, timeout_seconds)
        with _told():
            outcome = await self.async_client.run(code, **options)
        return str(outcome), outcome

    def _options(self, files: dict[str, str] | None, args: list[str] | None, seconds: int | None) -> Options:
        given, own = placed(self.files), placed(files)
        twice = sorted(given.keys() & own.keys())
        if twice:
            raise ToolException(f"{', '.join(twice)} is there already: give your file another name")
        limits = self.limits or LimitsRequest()
        if seconds is not None:
            ceilings = [seconds * 1000, *([limits.wall_time_ms] if limits.wall_time_ms is not None else [])]
            limits = replace(limits, wall_time_ms=min(ceilings))
        return Options(files={**given, **own}, args=args or [], policy=self.policy, backend=self.backend, limits=limits)


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """What is wrong with the request is the model's to mend."""
    try:
        yield
    except (BadRequest, TooLarge) as error:
        raise ToolException(f"{error.message}; {error.remediation}") from error
