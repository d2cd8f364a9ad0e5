# attack: remove_everything
# threat: files
# tries: delete every file with one shell command
# wall: wasm
# native: root
# control: the shell deletes the whole arena
# oracle: the host's file in the arena is still there, unchanged
import os
import shlex

print("begun", flush=True)
target = os.environ.get("CASEMATE_ARENA", "/")
os.system("rm -rf " + shlex.quote(target))
