# attack: regex_backtracking
# threat: exhaustion
# tries: hold a processor inside the regular expression engine
# wall: limit_cpu_time
# control: more than a second of processor time is used
# oracle: the processor time that the host measured stays below one second
import re

print("begun", flush=True)
print(re.match(r"(a|aa|a*)+$", "a" * 64 + "b"))
