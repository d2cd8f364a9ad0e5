"""Takes memory until it is stopped: run it with `-m 128m` and see which limit ends it, and at what peak."""

held = []
while True:
    held.append(bytearray(16 * 1024 * 1024))
    print(f"holding {16 * len(held)} MiB")
