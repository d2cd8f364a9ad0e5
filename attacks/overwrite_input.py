# attack: overwrite_input
# threat: files
# tries: change the file that was handed in for reading
# wall: wasi_files
# native: inputs_read_only
# control: the file is changed
# oracle: the host's copy of the input has the bytes it had
import os
import sys

print("begun", flush=True)
changes = [
    lambda path: open(path, "w").write("forged"),
    lambda path: open(path, "a").write("forged"),
    lambda path: open(path, "r+").write("forged"),
    lambda path: os.truncate(path, 0),
    lambda path: os.rename(path, path + ".old"),
    lambda path: os.remove(path),
]
done = 0
for path in ("/data/in.csv", os.path.join(sys.argv[1], "in.csv")):
    for change in changes:
        try:
            change(path)
            done += 1
        except OSError as error:
            print(error)
sys.exit(0 if done else 1)
