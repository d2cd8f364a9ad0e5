# attack: big_number
# threat: exhaustion
# tries: hold a processor inside one operation, where the interpreter never looks up
# wall: limit_cpu_time
# control: more than a second of processor time is used
# oracle: the processor time that the host measured stays below one second
print("begun", flush=True)
print((9**9 ** 8) % 1000)
