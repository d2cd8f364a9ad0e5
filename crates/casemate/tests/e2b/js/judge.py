#!/usr/bin/env python3
"""What Vitest reported, held against the list of what cannot be served: judge.py REPORT ROOT LIST

Prints a line `FILE<TAB>NAME` for each test that failed and is not on the list, and for the reader how many there were.
A listed test that passes is an error too: the list would go stale.
"""

import json
import pathlib
import sys


def main() -> int:
    report, root, listed = sys.argv[1:]
    known = {}
    for line in pathlib.Path(listed).read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            file, name, reason = line.split("\t")
            known[file, name] = reason
    said = json.loads(pathlib.Path(report).read_text())
    counts = {"passed": 0, "failed": 0}
    served = []
    for suite in said["testResults"]:
        file = str(pathlib.Path(suite["name"]).relative_to(root))
        if suite["status"] == "failed" and not suite["assertionResults"]:
            print(f"{file}\t")
        for test in suite["assertionResults"]:
            name = test["fullName"]
            counts[test["status"]] = counts.get(test["status"], 0) + 1
            if test["status"] == "failed" and (file, name) not in known:
                print(f"{file}\t{name}")
            if test["status"] == "passed" and (file, name) in known:
                served.append(f"{file}: {name}")
    print(", ".join(f"{count} {how}" for how, count in counts.items()), file=sys.stderr)
    for name in served:
        print(f"it is listed as not served, and passes: {name}", file=sys.stderr)
    return 1 if served or not counts["passed"] else 0


if __name__ == "__main__":
    sys.exit(main())
