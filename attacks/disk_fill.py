# attack: disk_fill
# threat: exhaustion
# tries: fill the disk with one file
# wall: limit_disk
# control: 32 MiB are on the disk
# oracle: less than 16 MiB were ever in the files, and nothing of it in the arena
import os
import tempfile

print("begun", flush=True)
with open(os.path.join(tempfile.gettempdir(), "fill.bin"), "wb") as file:
    for _ in range(32):
        file.write(os.urandom(1 << 20))
