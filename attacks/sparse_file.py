# attack: sparse_file
# threat: exhaustion
# tries: claim disk by length alone: truncate up, write behind the end, seek far
# wall: limit_disk
# native: limit_artifacts
# control: a file of 32 MiB is there
# oracle: no file was ever longer than 16 MiB
import os
import tempfile

print("begun", flush=True)
path = os.path.join(tempfile.gettempdir(), "sparse.bin")
# With no sandbox one modest size is enough to show it.
sizes = (32 << 20,) if "CASEMATE_ARENA" in os.environ else (32 << 20, 1 << 40, (1 << 63) - 1)
failure = None
for size in sizes:
    for grow in (
        lambda file: file.truncate(size),
        lambda file: (file.seek(size - 1), file.write(b"x")),
        lambda file: os.pwrite(file.fileno(), b"x", size - 1),
    ):
        try:
            with open(path, "w+b", buffering=0) as file:
                grow(file)
        except (OSError, OverflowError) as error:
            print(error)
            failure = error
if failure:
    raise failure
