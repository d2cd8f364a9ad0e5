# attack: oom_target
# threat: exhaustion
# tries: have another tenant's process killed first when memory runs out
# wall: wasi_files
# native: pid_namespace
# control: the other process is marked to be killed first
# oracle: the host sees that the mark of its process is as it was
import sys

print("begun", flush=True)
with open(f"/proc/{sys.argv[3]}/oom_score_adj", "w") as score:
    score.write("1000")
