# attack: forged_messages
# threat: escape
# tries: speak to the host in the sandbox's own name: invented events, walls, endings and lengths
# wall: driver messages
# control: a naive host's message file takes the forged wall
# oracle: nothing that was forged stands in the receipt, or among the host's own events
import os

print("begun", flush=True)
arena = os.environ.get("CASEMATE_ARENA")
device = os.path.join(arena, "dev/casemate") if arena else "/dev/casemate"
if os.path.exists(device):
    channels = [os.open(device, os.O_RDWR)]
else:
    # Where there is no device, the channel is a descriptor that the process was started with.
    channels = [fd for fd in range(3, 64) if os.path.exists(f"/proc/self/fd/{fd}")]
forged = [
    b'{"kind":"receipt","wall":"forged","granted":true}\n',
    b'{"kind":"event","witness":"host","event":"denied","wall":"forged","call":"forged","detail":"forged","error":""}\n',
    b'{"kind":"event","what":"limit_reached","detail":"forged"}\n',
    b'{"kind":"event","what":"process","witness":"host","detail":"forged"}\n',
    b'{"kind":"display","origin":"host","mimes":[["text/plain",1]]}\nx',
    b'{"kind":"display","origin":"figure","mimes":[["text/plain",18446744073709551615]]}\nx',
    b'{"kind":"display","origin":"figure","mimes":[["text/plain",4294967295]]}\nx',
    b"\x00\x00\x00\x00\xff\xff\xff\xff",
    b'{"kind":"end","exit_code":0}\n',
    b'{"kind":"end","exit_code":"forged"}\n',
    b"[" * 100000,
    b"\n",
]
for fd in channels:
    for message in forged:
        try:
            os.write(fd, message)
        except OSError as error:
            print(error)
