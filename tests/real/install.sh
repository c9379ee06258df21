#!/bin/bash
# Installs what the tests with real parts need, into the folder of the first argument where that is possible. Quick when
# everything is there. Ends with a message that names what is missing and how to get it, never with less than all.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
into=$(cd "$1" && pwd)

fail() {
    printf 'make test: %s\n' "$@" >&2
    exit 1
}

# Programs, each with the Debian package that brings it.
missing=()
while read -r program package; do
    command -v "$program" > /dev/null || missing+=("$package")
done << 'LIST'
chromium chromium
firefox-esr firefox-esr
certutil libnss3-tools
faketime faketime
node nodejs
npm npm
python3 python3
LIST
python3 -c 'import ensurepip, venv' 2> /dev/null || missing+=(python3-venv)
if [ ${#missing[@]} -gt 0 ]; then
    wanted="apt-get install --no-install-recommends ${missing[*]}"
    command -v apt-get > /dev/null || fail "these programs are missing: ${missing[*]}" "this is no Debian: install them by its own means"
    [ "$(id -u)" = 0 ] || fail "these Debian packages are missing: ${missing[*]}" "run as root: $wanted"
    printf 'make test: installing %s\n' "${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq || fail "apt-get update failed: is there a network?" "missing: ${missing[*]}"
    apt-get install -y -qq --no-install-recommends "${missing[@]}" > "$into/apt.log" 2>&1 ||
        fail "apt-get install failed, see $into/apt.log: $(tail -n 1 "$into/apt.log")" "missing: ${missing[*]}"
fi
node -e 'process.exit(Number.parseInt(process.versions.node) < 20 ? 1 : 0)' || fail "Node 20 or later is needed; this is $(node --version)"

# Python packages, in an environment of their own; again when the list has changed.
if ! cmp -s "$here/requirements.txt" "$into/venv/requirements.txt"; then
    printf 'make test: installing Python packages\n'
    rm -rf "$into/venv"
    python3 -m venv "$into/venv" || fail "python3 -m venv failed"
    "$into/venv/bin/python" -m pip install -q --disable-pip-version-check -r "$here/requirements.txt" ||
        fail "pip could not install the packages of tests/real/requirements.txt: is there a network?"
    cp "$here/requirements.txt" "$into/venv/requirements.txt"
fi

# npm packages; again when one of them has changed.
if ! cmp -s "$here/package-lock.json" "$into/package-lock.json"; then
    printf 'make test: installing npm packages\n'
    rm -rf "$into/node_modules" "$into/package.json" "$into/package-lock.json" "$into/npm"
    mkdir "$into/npm"
    cp "$here/package.json" "$here/package-lock.json" "$into/npm/"
    (cd "$into/npm" && npm ci --silent --no-audit --no-fund --ignore-scripts > npm.log 2>&1) ||
        fail "npm could not install the packages of tests/real/package.json: is there a network?" "$(tail -n 3 "$into/npm/npm.log")"
    mv "$into/npm/node_modules" "$into/node_modules"
    mv "$into/npm/package-lock.json" "$into/package-lock.json"
fi
