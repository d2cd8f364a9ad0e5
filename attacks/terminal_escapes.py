# attack: terminal_escapes
# threat: escape
# tries: take over the terminal of whoever reads its output: set its title, its clipboard, type into it
# wall: host_output
# control: the sequences arrive as they were written
# oracle: what is shown of the output holds no escape and no other control character
import sys

print("begun", flush=True)
sequences = [
    "\x1b]0;pwned\x07",
    "\x1b]52;c;cm0gLXJmIH4=\x07",
    "\x1b[21t",
    "\x1bP+q544e\x1b\\",
    "\x1b[2J\x1b[H$ rm -rf ~\r\n",
    "\x9b31m",
    "safe\rrm -rf ~",
    "\x08\x08\x08\x7f",
    "\u202egnp.exe",
]
for text in sequences:
    print(text)
    print(text, file=sys.stderr)
raise ValueError("".join(sequences))
