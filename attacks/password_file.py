# attack: password_file
# threat: files
# tries: read the password hashes of the machine
# wall: wasi_files
# native: root
# control: the hash in the arena's stand-in is printed
# oracle: neither the stand-in's hash nor a line of the host's own files is in what comes back
import os
import sys

print("begun", flush=True)
paths = [os.path.join(sys.argv[1], "etc/shadow")]
if "CASEMATE_ARENA" not in os.environ:
    paths += ["/etc/shadow", "/etc/passwd", "/etc/gshadow", "/etc/ssh/ssh_host_ed25519_key", "/root/.ssh/id_rsa"]
for path in paths:
    try:
        with open(path) as file:
            print(file.read())
    except OSError as error:
        print(error)
