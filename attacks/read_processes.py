# attack: read_processes
# threat: files
# tries: read the command lines of other processes, where secrets often stand
# wall: wasi_files
# native: pid_namespace | separate_kernel
# control: another process's command line is read, with the secret in it
# oracle: the secret, an argument of a process of the host, is not in what comes back
import os
import sys

print("begun", flush=True)
pids = [sys.argv[3]]
if "CASEMATE_ARENA" not in os.environ:
    pids += ["1", "self"] + [str(pid) for pid in range(2, 400)]
    try:
        pids += os.listdir("/proc")
    except OSError as error:
        print(error)
for pid in pids:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            print(file.read().replace(b"\0", b" ").decode("utf-8", "replace"))
    except OSError:
        continue
