# attack: search_disk
# threat: files
# tries: look through every file it can find for a secret
# wall: wasi_files
# native: root
# control: the secret is found in one of the arena's files
# oracle: the secret is not in what comes back
import os
import sys
import time

print("begun", flush=True)
until = time.monotonic() + 2.5
# With no sandbox, other files than the arena's are none of an attack's business.
roots = [os.environ["CASEMATE_ARENA"]] if "CASEMATE_ARENA" in os.environ else [sys.argv[1], "/home", "/root", "/etc", "/"]
looked = 0
for root in roots:
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if os.path.join(folder, name) not in ("/usr", "/opt", "/proc", "/sys")]
        for name in names:
            path = os.path.join(folder, name)
            try:
                # A pipe or a device would wait for ever.
                if os.path.isfile(path):
                    with open(path, "rb") as file:
                        text = file.read(1 << 16)
                    looked += 1
                    if b"canary-" in text and "search_disk" not in name:
                        print(path, text[text.index(b"canary-") :][:64])
            except OSError as error:
                print(error)
        if time.monotonic() > until:
            break
print(looked)
try:
    with open(os.path.join(sys.argv[1], "secret.txt")) as file:
        print(file.read())
except OSError as error:
    print(error)
