# attack: shared_memory
# threat: exhaustion
# tries: hold memory that is counted as a file's or as nobody's: shared, and without a name
# wall: limit_memory
# control: the memory is held
# oracle: the memory of the process, measured from outside it, stays below 480 MiB
import time

print("begun", flush=True)
try:
    import mmap

    memory = mmap.mmap(-1, 600 << 20)
    for at in range(0, 600 << 20, 4096):
        memory[at] = 255
except (ImportError, OSError):
    memory = bytearray(b"\xff") * (600 << 20)
time.sleep(0.3)
print(len(memory))
