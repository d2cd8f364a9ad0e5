# attack: huge_array
# threat: exhaustion
# tries: allocate one array far larger than the limit
# wall: limit_memory
# control: the array is there
# oracle: the memory of the process, measured from outside it, stays below 480 MiB
import time

print("begun", flush=True)
array = bytearray(b"\xff") * (600 << 20)
time.sleep(0.3)
print(len(array))
