# attack: memory_growth
# threat: exhaustion
# tries: keep a little more memory at every step, and go on whenever it is refused
# wall: limit_memory
# control: the memory is kept
# oracle: the memory of the process, measured from outside it, stays below 480 MiB
import time

print("begun", flush=True)
kept = []
refused = 0
while len(kept) < 600 and refused < 50:
    try:
        kept.append(b"\xff" * (1 << 20))
    except MemoryError:
        refused += 1
time.sleep(0.3)
if refused:
    raise MemoryError(f"{len(kept)} MiB and no more")
