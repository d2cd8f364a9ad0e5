# attack: stowaway
# threat: escape
# tries: go on after its own end, as a process without a parent or a session
# wall: wasm
# native: pid_namespace
# control: the process is still there when the program has ended
# oracle: a moment after the end no process on the machine has the name that it gave itself
import ctypes
import os
import sys
import time

print("begun", flush=True)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        ctypes.CDLL(None).prctl(15, f"stow-{sys.argv[2]}".encode())
        # Nobody waits for what holds no pipe.
        for fd in range(64):
            try:
                os.close(fd)
            except OSError:
                continue
        time.sleep(5)
    os._exit(0)
time.sleep(0.2)
