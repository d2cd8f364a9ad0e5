# attack: fifo_in_output
# threat: exhaustion
# tries: leave a pipe where files are collected, at which whoever opens it waits for ever
# wall: wasi_files
# native: host_output
# control: the program that collects the files waits at the pipe for five seconds
# oracle: the host has the outcome within five seconds
import os
import socket
import tempfile

print("begun", flush=True)
here = tempfile.gettempdir()
path = os.path.join(here, "report.csv")
os.mkfifo(path)
try:
    # What else can stand where a file is expected.
    os.mkfifo("report.csv")
    socket.socket(socket.AF_UNIX).bind(os.path.join(here, "socket.csv"))
    os.symlink("/dev/zero", os.path.join(here, "endless.csv"))
    os.symlink("loop.csv", os.path.join(here, "loop.csv"))
except OSError as error:
    print(error)
if "CASEMATE_ARENA" in os.environ:
    # What a careless collector does.
    with open(path) as file:
        file.read()
