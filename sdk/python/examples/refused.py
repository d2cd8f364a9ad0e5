"""A program that is refused says why and what to do instead: `python refused.py`."""

from casemate import Casemate

# As a model might write it: it goes to the network for what could be handed in.
FIRST = """
import socket
connection = socket.create_connection(("203.0.113.9", 80))
"""
SECOND = """
print(open("/data/rates.txt").read())
"""

with Casemate() as casemate:
    scan = casemate.scan(FIRST)
    print("refused before it ran:", scan.refused)

    outcome = casemate.run(FIRST)
    assert outcome.refused
    print(outcome.trouble)

    # What the advice says: the data comes in with the request.
    outcome = casemate.run(SECOND, files={"rates.txt": "EUR 1.08"})
    print(outcome.check())
