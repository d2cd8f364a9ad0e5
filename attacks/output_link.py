# attack: output_link
# threat: escape
# tries: leave a file whose name is a link in the folder where results are saved
# wall: host_output
# control: writing to that name changes the file behind the link
# oracle: the file behind the link has the bytes it had after results were saved
import os
import tempfile

print("begun", flush=True)
# With no sandbox the output folder is the working folder; in one it is what the host saves /tmp to.
folder = os.path.join(os.environ["CASEMATE_ARENA"], "out") if "CASEMATE_ARENA" in os.environ else tempfile.gettempdir()
with open(os.path.join(folder, "report.txt"), "w") as report:
    report.write("forged")
