"""What the tests have in common: a server that somebody started, at CASEMATE_URL with CASEMATE_API_KEY."""

import os
from collections.abc import Iterator

import pytest

from casemate import Casemate


@pytest.fixture
def casemate() -> Iterator[Casemate]:
    """A client of the server."""
    if "CASEMATE_URL" not in os.environ:
        pytest.fail("start `casemate serve` and set CASEMATE_URL")
    with Casemate() as client:
        yield client
