# attack: environment
# threat: files
# tries: read the secrets in the host's environment
# wall: wasi_environment
# native: environment
# control: the secret in the environment is printed
# oracle: neither the secret nor a value of the host's environment is in what comes back
import os

print("begun", flush=True)
for name, value in os.environ.items():
    print(f"{name}={value}")
for path in ("/proc/self/environ", "/proc/1/environ", "/proc/thread-self/environ"):
    # With no sandbox, other processes' environments are none of a stand-in's business.
    if path != "/proc/1/environ" or "CASEMATE_ARENA" not in os.environ:
        try:
            with open(path, "rb") as file:
                print(file.read().replace(b"\0", b"\n").decode("utf-8", "replace"))
        except OSError as error:
            print(error)
