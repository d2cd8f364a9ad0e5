# attack: path_traversal
# threat: escape
# tries: climb out of /tmp with every spelling of `..` to a file whose place is known
# wall: wasi_files
# native: root
# control: the secret is read
# oracle: the secret is not in what comes back
import os
import sys
import tempfile

print("begun", flush=True)
secret = os.path.join(sys.argv[1], "secret.txt").lstrip("/")
up = "/".join([".."] * 40)
here = tempfile.gettempdir()
spellings = [
    f"/{secret}",
    f"{here}/{up}/{secret}",
    f"{here}/./{up}/./{secret}",
    f"//{secret}",
    f"{up}/{secret}",
    f"/dev/{up}/{secret}",
    f"/data/{up}/{secret}",
    f"/usr/local/lib/{up}/{secret}",
    f"{here}/%2e%2e/%2e%2e/{secret}",
    f"/{secret}/",
    f"/{secret}\0.txt",
    f"/proc/self/root/{secret}",
    f"/proc/self/cwd/{up}/{secret}",
    f"/proc/1/root/{secret}",
]
for path in spellings:
    try:
        with open(path) as file:
            print(file.read())
    except (OSError, ValueError) as error:
        print(error)
for fd in (0, 1, 2, 3, 4, 5):
    try:
        print(os.read(os.open(f"{up}/{secret}", os.O_RDONLY, dir_fd=fd), 4096))
    except (OSError, NotImplementedError) as error:
        print(error)
