"""The tool in the hands of a model. The model is a script, so that this runs without one: `python langchain_tool.py`.

A real one takes its place in one line: `model = ChatSomething(...).bind_tools([tool])`.
"""

from pathlib import Path

from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.messages.tool import tool_call

from casemate import Limits
from casemate.langchain import CasemateTool

# Whoever makes the tool chooses what a program finds and what it may use; the model cannot.
tool = CasemateTool(files=[Path(__file__).parent / "orders.csv"], limits=Limits(wall_time_ms=20_000))


def calls(number: int, code: str) -> AIMessage:
    """A turn of the model's that calls the tool."""
    return AIMessage("", tool_calls=[tool_call(name=tool.name, args={"code": code}, id=f"call-{number}")])


# First it reaches for what is not its own; told why not, it reads what it was given.
model = GenericFakeChatModel(
    messages=iter(
        [
            calls(1, "print(open('/etc/passwd').read())"),
            calls(2, "import pandas as pd\npd.read_csv('/data/orders.csv').groupby('region')['revenue'].sum()"),
            AIMessage("North sold the most."),
        ]
    )
)

conversation: list[BaseMessage] = [HumanMessage("Which region sold the most?")]
while True:
    turn = model.invoke(conversation)
    conversation.append(turn)
    if not turn.tool_calls:
        break
    for call in turn.tool_calls:
        answer = tool.invoke(call)
        conversation.append(answer)
        print(f"--- {answer.artifact.ending.status}\n{answer.content}")
print(f"--- the model\n{conversation[-1].content}")
