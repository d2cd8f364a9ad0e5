# attack: leftovers
# threat: files
# tries: leave a secret everywhere one run can, and look for it in the next
# wall: wasm
# native: root
# control: the second run finds what the first one left
# oracle: the secret, told to the first run alone, is not in what the second gives back
import builtins
import glob
import os
import sys
import sysconfig
import tempfile

print("begun", flush=True)
here = tempfile.gettempdir()
secret = sys.argv[4] if len(sys.argv) > 4 else ""


def attempt(step):
    try:
        return step()
    except (OSError, ImportError, TypeError) as error:
        print(error)


def write(path):
    with open(path, "w") as file:
        file.write(secret)


def show(path):
    with open(path) as file:
        print(file.read())


if secret:
    builtins.leftover = secret
    sys.modules["leftover"] = type(sys)("leftover", secret)
    os.environ["LEFTOVER"] = secret
    sys.path.append("/leftover/" + secret)
    tempfile.leftover = secret
    keep = [bytearray(secret.encode() * 1000) for _ in range(2000)]
    library = sysconfig.get_paths()["stdlib"] if "CASEMATE_ARENA" not in os.environ else here
    for folder in (here, ".", "/work", "/data", "/usr/local/lib", library):
        if "CASEMATE_ARENA" not in os.environ or folder in (here, "."):
            attempt(lambda: write(os.path.join(folder, "leftover.txt")))
else:
    print(getattr(builtins, "leftover", ""), sys.modules.get("leftover", ""), os.environ.get("LEFTOVER", ""))
    print(sys.path, getattr(tempfile, "leftover", ""))
    for folder in (here, ".", "/work", "/data", "/usr/local/lib"):
        for path in glob.glob(os.path.join(folder, "leftover*")):
            attempt(lambda: show(path))
    # Memory that was not cleaned would still hold what the other run wrote there.
    for size in (1 << 10, 1 << 14, 1 << 20, 1 << 24):
        block = memoryview(bytearray(size))
        found = bytes(block).find(b"canary-")
        print(bytes(block)[found : found + 64] if found >= 0 else "clean")
