# attack: fork_bomb
# threat: exhaustion
# tries: start processes that start processes
# wall: wasm
# native: limit_tasks
# control: 96 processes live at once; the bomb counts itself and stops there
# oracle: the host never sees 64 tasks more than before, and no process left its mark
import os
import sys
import time

print("begun", flush=True)
bounded = "CASEMATE_ARENA" in os.environ
for number in range(96 if bounded else 10**6):
    if os.fork() == 0:
        open(os.path.join(sys.argv[1], f"child{number}"), "w").close()
        if bounded:
            time.sleep(2)
            os._exit(0)
time.sleep(0.5)
