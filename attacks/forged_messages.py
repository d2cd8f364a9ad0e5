# attack: forged_messages
# threat: escape
# tries: speak to the host in the sandbox's own name: invented events, walls, endings and lengths
# wall: driver messages
# control: a naive host's message file takes the forged wall
# oracle: nothing that was forged stands in the receipt, or among the host's own events
import os
import stat

print("begun", flush=True)
arena = os.environ.get("CASEMATE_ARENA")
device = os.path.join(arena, "dev/casemate") if arena else "/dev/casemate"
try:
    channels, kinds = [os.open(device, os.O_RDWR)], [b""]
except OSError:
    # A native guest has a socket instead, on which the first byte says what a packet is.
    def is_socket(fd):
        try:
            return stat.S_ISSOCK(os.fstat(fd).st_mode)
        except OSError:
            return False

    channels, kinds = [fd for fd in range(3, 64) if is_socket(fd)], [b"", b"\0", b"\1", b"\2"]
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
    for kind in kinds:
        for message in forged:
            try:
                os.write(fd, kind + message)
            except OSError:
                # Larger than a packet can be.
                pass
