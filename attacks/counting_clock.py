# attack: counting_clock
# threat: side-channel
# tries: make a fine clock out of a second process that does nothing but count
# wall: wasm
# native: - a native program may start processes that count; give it one task where that matters
# control: the count goes up within 100 microseconds
# oracle: no tick that is shorter than half the policy's granularity is reported
import mmap
import os
import time

print("begun", flush=True)
try:
    page = mmap.mmap(-1, 4096)
except OSError:
    page = bytearray(4096)
counter = memoryview(page).cast("Q")
child = os.fork()
if child == 0:
    # Until the other one is gone, and no longer than a moment.
    while counter[1] == 0 and counter[0] < 10**7:
        counter[0] += 1
    os._exit(0)
time.sleep(0.05)
before, start = counter[0], time.monotonic_ns()
time.sleep(0.05)
after, end = counter[0], time.monotonic_ns()
counter[1] = 1
os.waitpid(child, 0)
print(f"finest_tick_ns={(end - start) / max(after - before, 1)}")
