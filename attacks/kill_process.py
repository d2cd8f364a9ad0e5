# attack: kill_process
# threat: escape
# tries: kill another process of the user
# wall: wasm
# native: pid_namespace | separate_kernel
# control: the other process is dead
# oracle: the other process is alive
import os
import sys

print("begun", flush=True)
os.kill(int(sys.argv[3]), 9)
