# attack: symlink_out
# threat: escape
# tries: reach a file of the host through links made in /tmp
# wall: wasi_files
# native: root
# control: the secret is read through a link
# oracle: the secret is in nothing that comes back, what was left in /tmp included
import os
import sys
import tempfile

print("begun", flush=True)
arena, here = sys.argv[1], tempfile.mkdtemp()
secret = os.path.join(arena, "secret.txt")
up = "/".join([".."] * 40)


def attempt(step, *args):
    try:
        return step(*args)
    except OSError as error:
        print(error)


def show(path):
    with open(path) as file:
        print(file.read())


attempt(os.symlink, secret, f"{here}/absolute")
attempt(os.symlink, f"{up}{secret}", f"{here}/relative")
attempt(os.symlink, arena, f"{here}/folder")
attempt(os.symlink, "/", f"{here}/root")
attempt(os.symlink, "absolute", f"{here}/twice")
attempt(os.link, secret, f"{here}/hard")
attempt(os.mkdir, f"{here}/inner")
attempt(os.symlink, f"../{up}", f"{here}/inner/up")
for path in (
    "absolute",
    "relative",
    "folder/secret.txt",
    "folder/../" + os.path.basename(arena) + "/secret.txt",
    f"root{secret}",
    "twice",
    "hard",
    f"inner/up{secret}",
    "absolute/",
):
    attempt(show, f"{here}/{path}")
attempt(os.rename, secret, f"{here}/moved")
attempt(show, f"{here}/moved")
