# attack: inherited_descriptors
# threat: escape
# tries: read and climb from descriptors that the process was started with
# wall: descriptors
# native: descriptors | separate_kernel
# control: the secret is read from an inherited descriptor
# oracle: the secret, open in the host's process meanwhile, is not in what comes back
import os

print("begun", flush=True)
for fd in range(3, 256):
    for step in (
        lambda: os.pread(fd, 4096, 0),
        lambda: os.read(fd, 4096),
        lambda: os.listdir(fd),
        lambda: os.read(os.open("../secret.txt", os.O_RDONLY, dir_fd=fd), 4096),
    ):
        # Reading a terminal or a pipe would wait for ever; only files and folders are of interest.
        try:
            if os.fstat(fd).st_mode & 0o170000 in (0o100000, 0o040000):
                print(fd, step())
        except (OSError, NotImplementedError, TypeError, AttributeError):
            continue
