# attack: stubborn_loop
# threat: exhaustion
# tries: outlive its limit by catching every exception and ignoring every signal
# wall: limit_cpu_time
# control: more than a second of processor time is used, asked to stop or not
# oracle: the processor time that the host measured stays below one second
import atexit
import signal
import sys

print("begun", flush=True)


def forever():
    while True:
        try:
            while True:
                pass
        except BaseException:
            continue


class Clinging:
    def __del__(self):
        forever()


atexit.register(forever)
clinging = Clinging()
sys.excepthook = lambda *error: forever()
for number in range(1, 32):
    try:
        signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError, AttributeError):
        continue
try:
    forever()
finally:
    forever()
