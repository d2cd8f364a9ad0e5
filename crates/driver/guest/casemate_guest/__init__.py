"""What runs inside the guest: a Python program in, its displays, error and observations out.

The host writes one job to `/dev/casemate` and reads messages back from it; `main` is the only entry.
Nothing here is a wall. The walls are outside; this package makes what happens inside legible.
"""

__all__ = ["main"]


def main():
    """Run the one job the host's device holds."""
    from .runner import main as run

    run()
