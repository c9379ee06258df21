#!/bin/bash
# Instructions per frame, token and message, counted by valgrind (callgrind), held against benches/instructions.txt.
# They hardly depend on what else the machine does; so a change of 2 % is one of the code (or of the compiler).
#
#   benches/instructions.sh            compare; fails if a figure is more than TOLERANCE percent (2) above its base
#   benches/instructions.sh --record   write this run as the base
set -euo pipefail
cd "$(dirname "$0")/.."
base=benches/instructions.txt
tolerance=${TOLERANCE:-2}
command -v valgrind > /dev/null || {
    echo "valgrind is missing: apt-get install --no-install-recommends valgrind" >&2
    exit 1
}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cargo bench --locked --features bench --bench instructions --no-run --message-format=json > "$work/build.json"
program=$(python3 - "$work/build.json" << 'PYTHON'
import json, sys
for line in open(sys.argv[1]):
    message = json.loads(line)
    if message.get("target", {}).get("name") == "instructions" and message.get("executable"):
        print(message["executable"])
PYTHON
)
"$program" keys "$work"

# Prints "items instructions" of one run.
count() {
    local items
    items=$(timeout 300 valgrind --tool=callgrind --callgrind-out-file="$work/out" --log-file="$work/log" \
        "$program" run "$1" "$2" "$work")
    echo "$items $(sed -n 's/^summary: //p; s/^totals: //p' "$work/out" | tail -n 1)"
}

"$program" list > "$work/cases"
status=0
: > "$work/figures"
printf '%-18s %14s %14s %9s\n' 'case' 'base' 'now' 'change'
while read -r name times; do
    # The difference of two runs leaves out the start of the program.
    read -r few spent < <(count "$name" "$times")
    read -r many total < <(count "$name" $((2 * times)))
    now=$(awk -v i="$((total - spent))" -v n="$((many - few))" 'BEGIN { printf "%.1f", i / n }')
    echo "$name $now" >> "$work/figures"
    was=$(awk -v name="$name" '$1 == name { print $2 }' "$base" 2> /dev/null || true)
    change=$(awk -v now="$now" -v was="${was:-0}" 'BEGIN { if (was > 0) printf "%+.1f%%", (now / was - 1) * 100; else print "-" }')
    printf '%-18s %14s %14s %9s\n' "$name" "${was:--}" "$now" "$change"
    if [ "${1:-}" != --record ]; then
        awk -v now="$now" -v was="${was:-0}" -v most="$tolerance" 'BEGIN { exit was > 0 && now > was * (1 + most / 100) }' || status=1
        [ -n "$was" ] || status=1
    fi
done < "$work/cases"
if [ "${1:-}" = --record ]; then
    {
        echo "# Instructions per frame (scan, relay) or token (verify); written by benches/instructions.sh --record."
        echo "# $(rustc --version), $(valgrind --version), $(uname -m), release profile."
        cat "$work/figures"
    } > "$base"
elif [ "$status" != 0 ]; then
    echo "more than $tolerance % above the base, or without one: mend it, or say why and record anew" >&2
fi
exit "$status"
