# attack: deep_recursion
# threat: exhaustion
# tries: overflow the stack of the process, in a place where nothing counts the depth
# wall: wasm
# native: - the program is a process of its own, and what its crash ends is its own
# control: the process dies of a signal
# oracle: the host's process does not die of a signal, and the run has an ending
print("begun", flush=True)
nested = iter([1])
for _ in range(10**6):
    nested = map(int, nested)
print(next(nested))
