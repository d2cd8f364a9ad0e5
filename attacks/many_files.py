# attack: many_files
# threat: exhaustion
# tries: use up the file table with empty files and folders
# wall: limit_disk_files
# native: scratch_quota
# control: 600 files and folders are there
# oracle: there were never more than 300
import os
import tempfile

print("begun", flush=True)
here = tempfile.gettempdir()
for number in range(300):
    open(os.path.join(here, f"file{number}"), "w").close()
    os.mkdir(os.path.join(here, f"folder{number}"))
