# attack: zip_bomb
# threat: exhaustion
# tries: unpack a small archive into something large
# wall: limit_disk
# control: 32 MiB are on the disk
# oracle: less than 16 MiB were ever in the files, and nothing of it in the arena
import io
import tempfile
import zipfile

print("begun", flush=True)
small = io.BytesIO()
with zipfile.ZipFile(small, "w", zipfile.ZIP_DEFLATED) as archive:
    with archive.open("bomb.bin", "w") as member:
        for _ in range(32):
            member.write(bytes(1 << 20))
print(len(small.getvalue()))
zipfile.ZipFile(small).extractall(tempfile.gettempdir())
