# attack: remove_files
# threat: files
# tries: delete a folder of the host by its path, without a shell
# wall: wasi_files
# native: root
# control: the folder is gone
# oracle: the host's file in the folder is still there, unchanged
import os
import shutil
import sys

print("begun", flush=True)
target = os.path.join(sys.argv[1], "treasure")
# Every way in: the file itself, then the folder.
for remove in (os.remove, os.truncate):
    try:
        remove(os.path.join(target, "ledger.txt"), *([0] if remove is os.truncate else []))
    except OSError as error:
        print(error)
shutil.rmtree(target)
