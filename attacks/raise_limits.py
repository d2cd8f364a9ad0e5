# attack: raise_limits
# threat: exhaustion
# tries: raise its own memory limit in the control group that holds it
# wall: wasi_files
# native: root
# control: the limit of the control's group is the one that it wrote
# oracle: no group of the sandbox's processes has the limit that was written
import os
import time

print("begun", flush=True)
groups = []
try:
    with open("/proc/self/cgroup") as file:
        groups = [line.strip().split(":", 2) for line in file]
except OSError as error:
    print(error)
paths = [(kinds, path) for _, kinds, path in groups] or [("memory", "/")]
limit = str(1100 << 20)
done = False
for kinds, path in paths:
    if kinds in ("", "memory"):
        for root in ("/sys/fs/cgroup", "/sys/fs/cgroup/memory", "/sys/fs/cgroup/unified"):
            for name in ("memory.memsw.limit_in_bytes", "memory.limit_in_bytes", "memory.max"):
                # Only a group that was made for this is written to, never the user's or the whole machine's.
                if "casemate" in path or path == "/" and "CASEMATE_ARENA" not in os.environ:
                    try:
                        with open(root + path + "/" + name, "r+") as file:
                            file.write(limit)
                        done = True
                    except OSError as error:
                        print(error)
if not done:
    print("impossible: the control has no control group of its own to write to")
    raise SystemExit(1)
time.sleep(0.7)
