# attack: open_files
# threat: exhaustion
# tries: use up the descriptors of the machine
# wall: limit_open_files
# control: 300 files are open at once
# oracle: never more than 100 were open
import os
import tempfile
import time

print("begun", flush=True)
path = os.path.join(tempfile.gettempdir(), "open.txt")
kept = [open(path, "w") for _ in range(300)]
time.sleep(0.3)
