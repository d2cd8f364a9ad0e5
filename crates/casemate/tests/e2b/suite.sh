#!/usr/bin/env bash
# E2B's own tests of its SDKs, unchanged, against a server of our own: suite.sh CASEMATE PYTHON NODE_MODULES FOLDER
# What is on the lists beside this file is left out by name. A test that fails is tried once more, alone.
set -euo pipefail
casemate=$1 python=$2 modules=$3 suite=$4
here=$(cd "$(dirname "$0")" && pwd)
own=$(mktemp -d)
chmod 700 "$own"
mkdir -m 700 "$own/data"
: >"$own/log"
"$casemate" serve --listen 127.0.0.1:0 --tls-listen 127.0.0.1:0 --domain boxes.test --data-dir "$own/data" --sandboxes 64 2>"$own/log" &
server=$!
trap 'kill "$server" 2>/dev/null; wait "$server" || true; rm -rf "$own"' EXIT
for _ in $(seq 200); do
    url=$(sed -n 's/.*serving \(http:[^ ]*\).*/\1/p' "$own/log")
    domain=boxes.test:$(sed -n 's/.*serving https:.*:\([0-9]*\)$/\1/p' "$own/log")
    [ -n "$url" ] && [ "$domain" != boxes.test: ] && break
    sleep 0.1
done
[ -n "$url" ] || { cat "$own/log" >&2; exit 1; }
export E2B_API_URL=$url E2B_SANDBOX_URL=$url E2B_API_KEY=e2b_0000000000000000000000000000000000000000
# Some ask for a sandbox by its own name, over HTTPS.
export SSL_CERT_FILE=$own/data/tls/authority.pem
export PYTHONDONTWRITEBYTECODE=1
unset E2B_DEBUG
bad=0
for part in python interpreter-python; do
    [ -d "$suite/$part" ] || continue
    # A copy, so that the installed package is what is tested.
    cp -r "$suite/$part" "$own/$part"
    cd "$own/$part"
    left_out=()
    while read -r name _; do
        left_out+=("--deselect=$name")
    done < <(grep -E '^tests/' "$here/not-served.txt")
    run=(python3 "$here/names.py" "$domain" "$python" -m pytest -q --tb=line -p no:cacheprovider --timeout 60 -o addopts=--import-mode=importlib)
    tests=(tests)
    [ "$part" = python ] && tests=(tests/sync tests/async tests/shared)
    "${run[@]}" -n 2 "${left_out[@]}" "${tests[@]}" >"$own/said" 2>&1 || true
    tail -n 1 "$own/said"
    mapfile -t failed < <(sed -n 's/^\(FAILED\|ERROR\) \([^ ]*\).*/\2/p' "$own/said")
    if [ ${#failed[@]} -gt 0 ]; then
        echo "once more: ${failed[*]}"
        "${run[@]}" -n 0 "${failed[@]}" || bad=1
    elif ! grep -q ' passed' "$own/said"; then
        cat "$own/said"
        bad=1
    fi
done

# The JavaScript ones: all run, and what failed is held against the list.
export NODE_EXTRA_CA_CERTS=$SSL_CERT_FILE
node=$(find "$modules" -path "*/node-linux-*/bin/node" | head -n 1)
for part in js:e2b interpreter-js:@e2b/code-interpreter; do
    from=$suite/${part%%:*}
    export CASEMATE_TESTED=${part#*:}
    [ -d "$from" ] || continue
    own_part=$own/${part%%:*}
    mkdir "$own_part"
    cp -r "$from/tests" "$from/tsconfig.json" "$own_part/"
    cp "$here/js/vitest.config.mjs" "$own_part/"
    ln -s "$modules" "$own_part/node_modules"
    cd "$own_part"
    run=(python3 "$here/names.py" "$domain" "$node" node_modules/vitest/vitest.mjs run)
    "${run[@]}" --reporter=json --outputFile="$own/report.json" >"$own/said" 2>&1 || true
    [ -s "$own/report.json" ] || { cat "$own/said"; bad=1; continue; }
    python3 "$here/js/judge.py" "$own/report.json" "$own_part" "$here/js/not-served.tsv" >"$own/failed" || bad=1
    while IFS=$'\t' read -r file name; do
        echo "once more: $file $name"
        # The name as a pattern that means itself.
        pattern=$(printf '%s' "$name" | sed 's/[][\\.*^$(){}+?|/]/\\&/g')
        "${run[@]}" "$file" ${name:+-t "$pattern"} </dev/null || bad=1
    done <"$own/failed"
    rm "$own/report.json"
done
echo "left out, each with its reason: $here/not-served.txt, $here/js/not-served.tsv"
exit "$bad"
