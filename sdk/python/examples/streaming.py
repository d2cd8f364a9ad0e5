"""What a run tells as it happens: `python streaming.py`."""

from casemate import Casemate, Displayed, Ended, Observed, Output, Raised

CODE = """
for step in range(3):
    print("step", step, flush=True)
open("/tmp/steps.txt", "w").write("3")
{"steps": 3}
"""

with Casemate() as casemate:
    for event in casemate.stream(CODE):
        match event:
            case Output(stream, text):
                print(f"{stream}: {text}", end="")
            case Displayed(result):
                print("shown:", result.text)
            case Raised(error):
                print("died of", error.name)
            case Observed("file_write", witness, _, fields) if fields["path"].startswith("/tmp/"):
                print(f"{witness} saw {fields['path']} written")
            case Ended(outcome):
                print("ended:", outcome.ending.cause)
