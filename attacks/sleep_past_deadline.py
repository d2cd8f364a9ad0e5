# attack: sleep_past_deadline
# threat: exhaustion
# tries: hold its place without using a processor
# wall: limit_wall_time
# control: the program is still asleep after three seconds
# oracle: the host sees the run end within three seconds
import time

print("begun", flush=True)
while True:
    try:
        time.sleep(3600)
    except BaseException:
        continue
