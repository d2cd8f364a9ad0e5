# attack: native_code
# threat: escape
# tries: call the C library past the interpreter
# wall: wasm
# native: root
# control: the C library makes a file in the arena
# oracle: the file is not there
import ctypes
import os
import sys

print("begun", flush=True)
place = os.path.join(sys.argv[1], "started").encode()
# The newest names first; None is the program itself, in which the C library is linked.
for name in (None, "libc.so.6", "libc.musl-x86_64.so.1", "libc.so"):
    try:
        library = ctypes.CDLL(name)
        print(library.creat(place, 0o600))
        break
    except (OSError, AttributeError) as error:
        failure = error
        print(error)
else:
    raise failure
