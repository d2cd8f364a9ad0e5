"""The client that waits, and its twin that awaits."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import httpx

from ._errors import TimedOut, malformed, of_transport
from ._events import Ended, Event, Heard, Observed
from ._flow import BROKEN, Answer, Call, Flow, Flows, Pause
from ._outcome import Artifact, Outcome, Receipt, Run, Scan, Upload
from ._program import Options, Program, program
from ._sandbox import AsyncSandbox, Sandbox, SandboxOptions, opened
from ._save import save

if TYPE_CHECKING:
    # Only for whoever checks types: nothing of it is needed when the package runs.
    from typing_extensions import Self, Unpack

T = TypeVar("T")

_LINES = {"Accept": "application/x-ndjson"}


def _request(http: httpx.Client | httpx.AsyncClient, call: Call) -> httpx.Request:
    timeout = httpx.Timeout(call.timeout, connect=10.0, pool=None)
    return http.build_request(
        call.method, call.path, params=call.query, content=call.content, headers=call.headers, timeout=timeout
    )


def _stops(it: Program, error: BaseException) -> bool:
    """Whether a run is to be stopped because nobody waits for it any more.

    That is after a silence that was too long, an interruption, a cancelled task or a loop that was left. Where the
    server has said no, or is gone, there is nothing to stop, or nobody to tell.
    """
    return not it.lasting and (isinstance(error, TimedOut) or not isinstance(error, Exception))


class Casemate:
    """A Casemate server.

    Args:
        url: where it is; else CASEMATE_URL, else http://127.0.0.1:3000.
        api_key: a key of `casemate key create`; else CASEMATE_API_KEY. On loopback none is needed until the first is
            made.
        timeout: seconds without a word from the server after which a run is given up and stopped. A stream has words as
            long as its program works. A run's own time is limited by the policy and by `limits`.
        retries: how often a request is sent again where the server is busy or the connection broke. A run is not run
            twice: every request has an idempotency key.
        patience: seconds to wait in all before sending again; a server that asks for more is not waited for.
        transport: httpx's way to the server, where it is to be another.
    """

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        timeout: float = 300.0,
        retries: int = 4,
        patience: float = 30.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """Connects to nothing yet."""
        self._flows = Flows(url, api_key, timeout, retries, patience)
        self._http = httpx.Client(
            base_url=self._flows.url,
            headers=self._flows.headers,
            trust_env=not self._flows.local,
            transport=transport,
        )

    def run(
        self, code: str, *, on_event: Callable[[Event], object] | None = None, **options: Unpack[Options]
    ) -> Outcome:
        """Runs a program and gives how it ended, however that was.

        With `on_event` each event is told as it happens. Where the caller is interrupted, or gives up, the run is
        stopped, unless it has an `idempotency_key` of the caller's.

        Raises:
            CasemateError: where there is no outcome.
        """
        it = program(code, **options)
        if on_event is None:
            with self._stopping(it):
                return self._do(self._flows.run(it))
        with contextlib.closing(self._stream(it)) as events:
            for event in events:
                on_event(event)
                if isinstance(event, Ended):
                    return event.outcome
        raise malformed("stream with an end")

    def stream(self, code: str, **options: Unpack[Options]) -> Generator[Event, None, None]:
        """Runs a program and gives what happens as it happens; the last event is `Ended`.

        A loop that is left early stops the run. Where the connection breaks, the outcome still comes.
        """
        return self._stream(program(code, **options))

    def submit(self, code: str, **options: Unpack[Options]) -> Run:
        """Sends a program and does not wait."""
        return self._do(self._flows.submit(program(code, **options)))

    def wait(self, run: str | Run | Outcome, timeout: float | None = None) -> Outcome:
        """Waits for a run's end.

        Raises:
            TimedOut: where that takes more than `timeout` seconds; the run goes on.
            Lost: where nobody saw its end.
        """
        return self._do(self._flows.wait(run, timeout))

    def cancel(self, run: str | Run | Outcome) -> None:
        """Stops a run; one that has ended stays as it is."""
        self._do(self._flows.cancel(run))

    def scan(self, code: str, **options: Unpack[Options]) -> Scan:
        """Screens a program without running it."""
        return self._do(self._flows.scan(program(code, **options)))

    def upload(self, path: str | Path, name: str | None = None) -> Upload:
        """Stores a file once, by its SHA-256, for any number of runs: `files={"x.csv": upload}`."""
        path = Path(path)
        return self._do(self._flows.upload(path.read_bytes(), path.name if name is None else name))

    def runs(self, most: int = 50) -> list[Run]:
        """Your runs, the latest first."""
        return self._do(self._flows.runs(most))

    def receipt(self, run: str | Run | Outcome) -> Receipt:
        """What was run on what, under which policy, and which walls stood."""
        return self._do(self._flows.receipt(run))

    def events(self, run: str | Run | Outcome) -> list[Observed]:
        """What happened in a run that was sent with `keep_events`, and what it used as time went on."""
        return self._do(self._flows.events(run))

    def artifact(self, file: Artifact) -> bytes:
        """The content of a file that a run left; its SHA-256 is the outcome's."""
        return self._do(self._flows.artifact(file))

    def save(self, outcome: Outcome, folder: str | Path) -> list[Path]:
        """Writes the files that a run left, and its figures, into a folder and never outside it."""
        return save(outcome, self._do(self._flows.artifacts(outcome)), folder)

    def forget(self, it: str | Run | Outcome | Upload) -> None:
        """Deletes an ended run with what it left, or an upload."""
        self._do(self._flows.forget(it))

    def sandbox(self, **options: Unpack[SandboxOptions]) -> Sandbox:
        """Makes a sandbox that lives on: `with casemate.sandbox() as box: box.run("1 + 1").text`."""
        return Sandbox(self, self._do(opened(self._flows, options)))

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes the connections."""
        self.close()

    def __repr__(self) -> str:
        """Where the server is; never the key."""
        return f"{type(self).__name__}({self._flows.url!r})"

    def _do(self, flow: Flow[T]) -> T:
        said: Answer = None
        while True:
            try:
                step = flow.send(said)
            except StopIteration as end:
                result: T = end.value
                return result
            if isinstance(step, Pause):
                time.sleep(step.seconds)
                said = None
            else:
                said = self._once(step)

    def _once(self, call: Call) -> Answer:
        try:
            response = self._http.send(_request(self._http, call), stream=call.streamed)
            if not response.is_success:
                response.read()
        except httpx.TransportError as error:
            return error
        return response

    @contextlib.contextmanager
    def _stopping(self, it: Program) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            if _stops(it, error):
                self._do(self._flows.abandon(it, None))
            raise

    def _stream(self, it: Program) -> Generator[Event, None, None]:
        heard = Heard()
        try:
            response = self._do(self._flows.begin(it, _LINES, streamed=True))
            try:
                for piece in response.iter_bytes():
                    yield from heard.events(piece)
            except BROKEN:
                # The run goes on, and what it comes to can still be asked for.
                pass
            except httpx.TransportError as error:
                raise of_transport(error, self._flows.url) from error
            finally:
                response.close()
            if not heard.ended:
                yield heard.end(self._do(self._flows.run(it)))
        except BaseException as error:
            if not heard.ended and _stops(it, error):
                self._do(self._flows.abandon(it, heard.run))
            raise


class AsyncCasemate:
    """A Casemate server, for asyncio: `Casemate` with `await`. Files are read and written in a thread."""

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        timeout: float = 300.0,
        retries: int = 4,
        patience: float = 30.0,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """Connects to nothing yet. The arguments are `Casemate`'s."""
        self._flows = Flows(url, api_key, timeout, retries, patience)
        self._http = httpx.AsyncClient(
            base_url=self._flows.url,
            headers=self._flows.headers,
            trust_env=not self._flows.local,
            transport=transport,
        )

    async def run(
        self, code: str, *, on_event: Callable[[Event], object] | None = None, **options: Unpack[Options]
    ) -> Outcome:
        """Runs a program and gives how it ended. A task that is cancelled stops its run."""
        it = await _program(code, options)
        if on_event is None:
            try:
                return await self._do(self._flows.run(it))
            except BaseException as error:
                if _stops(it, error):
                    await self._abandon(it, None)
                raise
        async with contextlib.aclosing(self._stream(it)) as events:
            async for event in events:
                on_event(event)
                if isinstance(event, Ended):
                    return event.outcome
        raise malformed("stream with an end")

    async def stream(self, code: str, **options: Unpack[Options]) -> AsyncGenerator[Event, None]:
        """Runs a program and gives what happens as it happens; the last event is `Ended`.

        Leave the loop early within `contextlib.aclosing`, and the run is stopped at once.
        """
        async with contextlib.aclosing(self._stream(await _program(code, options))) as events:
            async for event in events:
                yield event

    async def submit(self, code: str, **options: Unpack[Options]) -> Run:
        """Sends a program and does not wait."""
        return await self._do(self._flows.submit(await _program(code, options)))

    async def wait(self, run: str | Run | Outcome, timeout: float | None = None) -> Outcome:
        """Waits for a run's end; `TimedOut` where that takes longer, and the run goes on."""
        return await self._do(self._flows.wait(run, timeout))

    async def cancel(self, run: str | Run | Outcome) -> None:
        """Stops a run; one that has ended stays as it is."""
        await self._do(self._flows.cancel(run))

    async def scan(self, code: str, **options: Unpack[Options]) -> Scan:
        """Screens a program without running it."""
        return await self._do(self._flows.scan(await _program(code, options)))

    async def upload(self, path: str | Path, name: str | None = None) -> Upload:
        """Stores a file once, by its SHA-256, for any number of runs."""
        path = Path(path)
        content = await asyncio.to_thread(path.read_bytes)
        return await self._do(self._flows.upload(content, path.name if name is None else name))

    async def runs(self, most: int = 50) -> list[Run]:
        """Your runs, the latest first."""
        return await self._do(self._flows.runs(most))

    async def receipt(self, run: str | Run | Outcome) -> Receipt:
        """What was run on what, under which policy, and which walls stood."""
        return await self._do(self._flows.receipt(run))

    async def events(self, run: str | Run | Outcome) -> list[Observed]:
        """What happened in a run that was sent with `keep_events`, and what it used as time went on."""
        return await self._do(self._flows.events(run))

    async def artifact(self, file: Artifact) -> bytes:
        """The content of a file that a run left; its SHA-256 is the outcome's."""
        return await self._do(self._flows.artifact(file))

    async def save(self, outcome: Outcome, folder: str | Path) -> list[Path]:
        """Writes the files that a run left, and its figures, into a folder and never outside it."""
        contents = await self._do(self._flows.artifacts(outcome))
        return await asyncio.to_thread(save, outcome, contents, folder)

    async def forget(self, it: str | Run | Outcome | Upload) -> None:
        """Deletes an ended run with what it left, or an upload."""
        await self._do(self._flows.forget(it))

    async def sandbox(self, **options: Unpack[SandboxOptions]) -> AsyncSandbox:
        """Makes a sandbox that lives on: `async with await casemate.sandbox() as box:`."""
        return AsyncSandbox(self, await self._do(opened(self._flows, options)))

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        """Itself."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Closes the connections."""
        await self.close()

    def __repr__(self) -> str:
        """Where the server is; never the key."""
        return f"{type(self).__name__}({self._flows.url!r})"

    async def _do(self, flow: Flow[T]) -> T:
        said: Answer = None
        while True:
            try:
                step = flow.send(said)
            except StopIteration as end:
                result: T = end.value
                return result
            if isinstance(step, Pause):
                await asyncio.sleep(step.seconds)
                said = None
            else:
                said = await self._once(step)

    async def _once(self, call: Call) -> Answer:
        try:
            response = await self._http.send(_request(self._http, call), stream=call.streamed)
            if not response.is_success:
                await response.aread()
        except httpx.TransportError as error:
            return error
        return response

    async def _abandon(self, it: Program, run: str | None) -> None:
        # A task of its own: this one may be cancelled again at any `await`.
        await asyncio.shield(asyncio.ensure_future(self._do(self._flows.abandon(it, run))))

    async def _stream(self, it: Program) -> AsyncGenerator[Event, None]:
        heard = Heard()
        try:
            response = await self._do(self._flows.begin(it, _LINES, streamed=True))
            try:
                async for piece in response.aiter_bytes():
                    for event in heard.events(piece):
                        yield event
            except BROKEN:
                # The run goes on, and what it comes to can still be asked for.
                pass
            except httpx.TransportError as error:
                raise of_transport(error, self._flows.url) from error
            finally:
                await response.aclose()
            if not heard.ended:
                yield heard.end(await self._do(self._flows.run(it)))
        except BaseException as error:
            if not heard.ended and _stops(it, error):
                await self._abandon(it, heard.run)
            raise


async def _program(code: str, options: Options) -> Program:
    return await asyncio.to_thread(program, code, **options)
