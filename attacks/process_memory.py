# attack: process_memory
# threat: escape
# tries: search the memory of the process that holds it, through /proc/self/mem
# wall: wasi_files
# native: environment
# control: the secret is found on the stack, where the kernel put the environment
# oracle: the secret is not in what comes back
import re

print("begun", flush=True)
with open("/proc/self/maps") as maps:
    lines = maps.readlines()
with open("/proc/self/mem", "r+b", buffering=0) as memory:
    for line in lines:
        if "[stack]" in line or "[heap]" in line:
            start, end = (int(part, 16) for part in line.split()[0].split("-"))
            memory.seek(start)
            for found in re.findall(rb"CASEMATE_CANARY=[!-~]+", memory.read(end - start)):
                print(found)
