# attack: result_flood
# threat: exhaustion
# tries: drown whoever shows its results, through displays and through the device below them
# wall: limit_results
# control: more than 4 MiB arrive
# oracle: the host was given less than 2 MiB
import os

print("begun", flush=True)
payload = "x" * 100000
if "CASEMATE_ARENA" in os.environ:
    for _ in range(80):
        print(payload)
else:
    for _ in range(80):
        display(payload)  # noqa: F821 - the sandbox's own name
    fd = os.open("/dev/casemate", os.O_RDWR)
    header = b'{"kind":"display","origin":"display","mimes":[["text/plain",100000]]}\n'
    while True:
        os.write(fd, header + payload.encode())
