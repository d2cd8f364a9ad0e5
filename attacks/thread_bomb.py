# attack: thread_bomb
# threat: exhaustion
# tries: start threads without end
# wall: wasm
# native: limit_tasks
# control: 96 threads live at once
# oracle: the host never sees 64 tasks more than before
import _thread
import threading
import time

print("begun", flush=True)
try:
    for _ in range(48):
        threading.Thread(target=time.sleep, args=(1,), daemon=True).start()
except RuntimeError as error:
    print(error)
for _ in range(48):
    _thread.start_new_thread(time.sleep, (1,))
time.sleep(0.3)
