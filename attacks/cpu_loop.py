# attack: cpu_loop
# threat: exhaustion
# tries: keep a processor busy for ever
# wall: limit_cpu_time
# control: more than a second of processor time is used
# oracle: the processor time that the host measured stays below one second
print("begun", flush=True)
while True:
    pass
