# attack: clock_resolution
# threat: side-channel
# tries: find a clock fine enough to time caches and other tenants with
# wall: wasi_clock
# native: - a native program reads the machine's own clocks; ask for clock_coarse where that matters
# control: a clock that ticks within 100 microseconds is found
# oracle: no tick that is shorter than half the policy's granularity is reported
import time

print("begun", flush=True)
finest = None
for name in ("time_ns", "monotonic_ns", "perf_counter_ns", "process_time_ns", "thread_time_ns"):
    clock = getattr(time, name, None)
    if clock is None:
        continue
    last = clock()
    end = time.time() + 0.1
    while time.time() < end:
        now = clock()
        if now != last:
            finest = now - last if finest is None else min(finest, now - last)
            last = now
print(f"finest_tick_ns={finest}")
