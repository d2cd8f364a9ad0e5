"""What runs inside the guest: a Python program in, its displays, error and observations out.

The host writes one job to `/dev/casemate` and reads messages back from it; `main` is the only entry.
Nothing here is a wall. The walls are outside; this package makes what happens inside legible.
"""

from .runner import main

__all__ = ["main"]
