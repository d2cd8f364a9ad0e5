# attack: thread_bomb
# threat: exhaustion
# tries: start threads without end
# wall: wasm
# native: limit_tasks
# control: 40 threads live at once
# oracle: the host never sees 16 tasks more than before
import _thread
import threading
import time

print("begun", flush=True)
try:
    for _ in range(40):
        threading.Thread(target=time.sleep, args=(0.5,), daemon=True).start()
except RuntimeError as error:
    print(error)
for _ in range(40):
    _thread.start_new_thread(time.sleep, (0.5,))
time.sleep(0.3)
