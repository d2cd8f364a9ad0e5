# attack: obfuscated
# threat: escape
# tries: hide a command from every analysis, in layers of encoding built at run time
# wall: wasm
# native: root
# control: the command runs and leaves its mark
# oracle: the mark is not there
import base64
import codecs
import sys
import zlib

print("begun", flush=True)
layers = codecs.encode("vzcbeg fhocebprff; fhocebprff.pnyy(['/ova/fu', '-p', ': > ' + zbir])", "rot13")
packed = base64.b85encode(zlib.compress(layers.replace("move", "mark").encode()))
names = {"mark": "'" + sys.argv[1] + "/started'"}
run = getattr(__import__("".join(map(chr, (98, 117, 105, 108, 116, 105, 110, 115)))), "cexe"[::-1])
run(zlib.decompress(base64.b85decode(packed)).decode(), names)
