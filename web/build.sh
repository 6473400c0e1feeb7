#!/bin/sh
# build.sh OUT.c: installs the console's packages (from the lock file), type-checks and builds it, and writes OUT.c with every asset
# compressed. Does only what the inputs' hash says is needed, so that several build folders share one npm install and one Vite run.
set -eu
out=$(realpath -m "$1")
cd "$(dirname "$0")"
exec 9>.build.lock
flock 9
inputs=$(find package.json package-lock.json tsconfig.json vite.config.ts index.html embed.mjs src public -type f | LC_ALL=C sort | xargs sha256sum | sha256sum)
# The packages are needed after the build, too: the console's test runs with them.
if [ "$(cat dist/.inputs 2>/dev/null)" != "$inputs" ] || [ ! -d node_modules ]; then
    log=$(mktemp)
    if ! { npm ci --no-audit --no-fund && npm run build; } >"$log" 2>&1; then
        tail -n 40 "$log" >&2
        echo "web/build.sh: the console could not be built; the whole output is in $log" >&2
        exit 1
    fi
    rm -f "$log"
    node embed.mjs dist dist/.packed
    echo "$inputs" >dist/.inputs
fi
sed "s|@PACKED@|$PWD/dist/.packed|" dist/.packed/console_files.c >"$out"
