# attack: machine_counters
# threat: side-channel
# tries: watch what everybody else on the machine does, in the kernel's own counts
# wall: wasi_files
# native: proc | root
# control: the number of the machine's interrupts is read
# oracle: no number given back lies between the machine's counts of interrupts before and after
import glob

print("begun", flush=True)
for path in ["/proc/stat", "/proc/interrupts", "/proc/loadavg", "/proc/vmstat", "/proc/diskstats", "/proc/softirqs"]:
    try:
        with open(path) as file:
            for line in file:
                if line.startswith(("intr ", "ctxt ")):
                    print(line.split()[0] + "=" + line.split()[1])
    except OSError as error:
        print(error)
print(glob.glob("/sys/devices/system/cpu/*/cpuidle/*/usage"))
