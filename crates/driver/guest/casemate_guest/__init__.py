"""What runs inside the guest: a Python program in, its displays, error and observations out.

The host writes one job to `/dev/casemate` and reads messages back from it; `main` is the entry of a program, `cell` that
of a cell of a session.
Nothing here is a wall. The walls are outside; this package makes what happens inside legible.
"""

__all__ = ["cell", "main"]


def main():
    """Run the one job the host's device holds."""
    from .runner import main as run

    run()


def cell():
    """Run the one cell that the host's device holds, in the interpreter as cells before it left it."""
    from .cells import main as run

    run()
