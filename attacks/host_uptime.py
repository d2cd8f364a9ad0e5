# attack: host_uptime
# threat: side-channel
# tries: learn how long the machine has been running, which tells machines and tenants apart
# wall: wasi_clock
# native: - a native program reads the machine's own clocks; ask for clock_coarse where that matters
# control: the monotonic clock is the machine's uptime
# oracle: no number given back lies within two seconds of the machine's uptime
import time

print("begun", flush=True)
print(f"uptime_s={time.monotonic():.3f}")
for clock in ("CLOCK_BOOTTIME", "CLOCK_MONOTONIC_RAW", "CLOCK_UPTIME_RAW"):
    if hasattr(time, clock):
        print(f"uptime_s={time.clock_gettime(getattr(time, clock)):.3f}")
for path in ("/proc/uptime", "/proc/stat"):
    try:
        with open(path) as file:
            print("uptime_s=" + file.read().split()[0])
    except (OSError, IndexError) as error:
        print(error)
