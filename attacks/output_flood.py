# attack: output_flood
# threat: exhaustion
# tries: drown whoever reads its output
# wall: limit_output
# control: more than 4 MiB of output arrive
# oracle: the host was given less than 2 MiB
import sys

print("begun", flush=True)
line = "x" * 65535
while True:
    try:
        print(line)
        print(line, file=sys.stderr)
    except OSError:
        continue
