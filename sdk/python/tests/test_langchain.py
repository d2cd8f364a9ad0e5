"""The tool in the hands of a model that was talked into things."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import ToolMessage

from casemate import AsyncCasemate, Casemate, Limits, Outcome, Unreachable
from casemate.langchain import CasemateTool


def call(**arguments: Any) -> dict[str, Any]:
    return {"type": "tool_call", "name": "run_python", "id": "call-1", "args": arguments}


@pytest.fixture
def tool(casemate: Casemate) -> CasemateTool:
    return CasemateTool(client=casemate, files={"own.csv": "a,b\n1,2\n"}, limits=Limits(wall_time_ms=5_000))


def test_a_call_gives_text_and_the_outcome(tool: CasemateTool) -> None:
    message = tool.invoke(call(code="print(open('/data/own.csv').read()); open('/tmp/left', 'w').write('x')"))
    assert isinstance(message, ToolMessage)
    assert message.status == "success"
    assert "1,2" in str(message.content)
    assert "/tmp/left" in str(message.content)
    assert isinstance(message.artifact, Outcome)
    assert tool.client.artifact(message.artifact.artifacts[0]) == b"x"
    assert "/data/own.csv" in tool.description


def test_a_refusal_is_an_answer_with_a_better_way(tool: CasemateTool) -> None:
    message = tool.invoke(call(code="open('/etc/shadow').read()"))
    assert message.artifact.refused
    assert "instead: hand the file in with `files`" in str(message.content)


def test_nothing_in_a_call_widens_anything(tool: CasemateTool) -> None:
    schema = tool.tool_call_schema.model_json_schema()  # type: ignore[union-attr]
    assert set(schema["properties"]) == {"code", "files", "args", "timeout_seconds"}
    wider: list[dict[str, Any]] = [
        {"policy": "trusted"},
        {"backend": "jail"},
        {"limits": {}},
        {"client": None},
        {"env": {}},
    ]
    for more in wider:
        message = tool.invoke(call(code="print(1)", **more))
        assert message.status == "error"
        assert next(iter(more)) in str(message.content)
    longer = tool.invoke(call(code="print(1)", timeout_seconds=80_000)).artifact
    assert longer.raw["limits"]["wall_time_ms"] == 5_000
    shorter = tool.invoke(call(code="while True: pass", timeout_seconds=1))
    assert shorter.artifact.ending.allowed == 1_000
    assert "wall time" in str(shorter.content)


def test_files_of_the_models_own(tool: CasemateTool) -> None:
    code = "print(open('/data/mine.txt').read())"
    assert tool.invoke(call(code=code, files={"mine.txt": "mine"})).content == "mine"
    for name in ("own.csv", "/data/own.csv", "../x", "/etc/x"):
        message = tool.invoke(call(code="1", files={name: "mine"}))
        assert message.status == "error", name
    assert "own.csv" in str(tool.invoke(call(code="1", files={"own.csv": ""})).content)


def test_a_path_in_a_call_is_a_text_and_not_a_file_of_ours(tool: CasemateTool, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    path = str(tmp_path / "secret")
    assert tool.invoke(call(code="print(open('/data/x').read())", files={"x": path})).content == path


def test_a_server_that_is_gone_is_not_the_models_fault() -> None:
    tool = CasemateTool(client=Casemate("http://127.0.0.1:9", retries=0))
    with pytest.raises(Unreachable):
        tool.invoke(call(code="1"))


def test_it_can_be_awaited(tool: CasemateTool) -> None:
    async def both() -> None:
        assert (await tool.ainvoke(call(code="print(1)"))).content == "1"
        async with AsyncCasemate() as client:
            twin = CasemateTool(async_client=client)
            assert (await twin.ainvoke(call(code="print(2)"))).content == "2"

    asyncio.run(both())
