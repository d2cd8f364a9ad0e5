# attack: artifact_flood
# threat: exhaustion
# tries: leave so many files that whoever collects them is drowned
# wall: limit_artifacts
# control: 100 files are left
# oracle: no more files were handed back than the limit
import os
import tempfile

print("begun", flush=True)
for number in range(100):
    with open(os.path.join(tempfile.gettempdir(), f"left{number}.txt"), "w") as file:
        file.write("x" * 100)
