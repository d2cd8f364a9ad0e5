"""What can go wrong besides the program: a program that is refused, killed or fails is an outcome, not an error."""

from __future__ import annotations

import json

import httpx

from ._api import ErrorBody


class CasemateError(Exception):
    """The server said no, or there was no answer.

    `code` is the HTTP status, 0 where there was none; `cause` a fixed word for programs; `remediation` what to do;
    `request_id` what to search the server's log for.
    """

    def __init__(self, body: ErrorBody) -> None:
        """Keeps what the server said."""
        super().__init__(body)
        self.code = body.code
        self.message = body.message
        self.cause = body.cause
        self.remediation = body.remediation
        self.request_id = body.request_id

    def __str__(self) -> str:
        """The sentence, what to do, and where to look."""
        log = f" ({self.request_id})" if self.request_id else ""
        return f"{self.message}; {self.remediation}{log}" if self.remediation else f"{self.message}{log}"


class Unreachable(CasemateError):
    """There was no answer, or one that is not Casemate's."""


class TimedOut(CasemateError):
    """The answer did not come in time. A run that was waited for has been told to stop."""


class Lost(CasemateError):
    """Nobody saw how the run ended: the server went down in the middle of it."""


class BadRequest(CasemateError):
    """The request was not understood (400)."""


class NotAllowed(CasemateError):
    """No key, or one that may not do this (401, 403)."""


class NotFound(CasemateError):
    """There is no such run, upload, artifact or policy of yours (404)."""


class Conflict(CasemateError):
    """It contradicts what was said before, or comes too early (409)."""


class TooLarge(CasemateError):
    """More bytes than the server takes (413)."""


class Busy(CasemateError):
    """Too much at once, or the server is going down (429, 503). It was asked again, and still is."""


class NoSpace(CasemateError):
    """The disk or the quota is full (507)."""


class ServerError(CasemateError):
    """The server failed."""


_KINDS: dict[int, type[CasemateError]] = {
    400: BadRequest,
    401: NotAllowed,
    403: NotAllowed,
    404: NotFound,
    409: Conflict,
    413: TooLarge,
    429: Busy,
    503: Busy,
    507: NoSpace,
}


def own(kind: type[CasemateError], cause: str, message: str, remediation: str) -> CasemateError:
    """An error that this side found."""
    return kind(ErrorBody(code=0, message=message, cause=cause, remediation=remediation, request_id=""))


def of_body(body: object) -> CasemateError:
    """The error of a server's body."""
    said = body if isinstance(body, dict) else {}
    code = said.get("code")
    code = code if isinstance(code, int) else 500
    words = {name: str(said.get(name, "")) for name in ("message", "cause", "remediation", "request_id")}
    kind = _KINDS.get(code, ServerError if code >= 500 else BadRequest)
    return kind(ErrorBody(code=code, **words))


def of_response(response: httpx.Response) -> CasemateError:
    """The error of an answer, whoever gave it: a proxy in between speaks another language."""
    try:
        body = json.loads(response.content)
    except ValueError:
        body = None
    if not isinstance(body, dict) or "message" not in body:
        body = {
            "message": f"the answer is {response.status_code} {response.reason_phrase}, and not Casemate's",
            "cause": "not_casemate",
            "remediation": "look whether the URL is the server's, and what stands in between",
        }
    return of_body({**body, "code": response.status_code})


def of_transport(error: httpx.TransportError, url: str) -> CasemateError:
    """The error of no answer."""
    if isinstance(error, httpx.LocalProtocolError):
        # Its text has the header in it, which may be the key.
        advice = "look at the key and the idempotency key: visible ASCII characters"
        return own(Unreachable, "not_sent", f"the request to {url} cannot be sent as HTTP", advice)
    why = str(error) or type(error).__name__
    if isinstance(error, httpx.TimeoutException) and not isinstance(error, httpx.ConnectTimeout):
        advice = "lower the program's limits, or wait longer with `timeout`"
        return own(TimedOut, "timed_out", f"no answer from {url} in time", advice)
    advice = "look whether `casemate serve` runs there, and at `url` or CASEMATE_URL"
    return own(Unreachable, "unreachable", f"{url} does not answer: {why}", advice)


def malformed(what: str) -> CasemateError:
    """The error of an answer that is not what was asked for."""
    advice = "look whether the URL is a Casemate server's, and of this version"
    return own(Unreachable, "not_casemate", f"the answer is no {what}", advice)
