#!/bin/bash
# Autobahn|Testsuite through the gateway: TLS in front, a token in the query, Autobahn's own echo behind.
# usage: autobahn.sh [quick|full]      quick leaves out the 120 large permessage-deflate cases
# Exit code 0 only if no case failed, none was unimplemented and none was non-strict.
# AUTOBAHN: the folder with `wstest` (made when missing; default target/autobahn)
# SUITE:    the folder with setup_autobahn.sh and autobahn.sh (default ../shared/autobahn)
# PORTCULLIS: the program (default target/release/portcullis)
set -euo pipefail
cd "$(dirname "$0")/../.."
mode=${1:-quick}
suite=${SUITE:-../shared/autobahn}
autobahn=${AUTOBAHN:-target/autobahn}
program=${PORTCULLIS:-target/release/portcullis}
[ -x "$program" ] || { echo "autobahn: $program is not there: cargo build --release" >&2; exit 1; }
[ -x "$suite/autobahn.sh" ] || [ -f "$suite/autobahn.sh" ] || { echo "autobahn: no autobahn.sh in $suite" >&2; exit 1; }
[ -x "$autobahn/wstest" ] || bash "$suite/setup_autobahn.sh" "$autobahn"

work=$(mktemp -d)
pids=()
trap 'kill "${pids[@]}" 2> /dev/null || true; rm -rf "$work"' EXIT
port() { python3 -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
echo_port=$(port) port=$(port)

openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1 \
    -keyout "$work/key.pem" -out "$work/cert.pem" 2> /dev/null
head -c 48 /dev/urandom | base64 -w0 > "$work/token.secret"
cat > "$work/config.toml" << CONFIG
[log]
level = "warn"
[[listener]]
name = "public"
address = "127.0.0.1:$port"
certificate = "cert.pem"
key = "key.pem"
[[issuer]]
name = "default"
[[issuer.key]]
algorithm = "HS256"
secret_file = "token.secret"
[[route]]
name = "default"
upstream = "ws://127.0.0.1:$echo_port"
CONFIG
token=$(python3 - "$work/token.secret" << 'PYTHON'
import base64, hashlib, hmac, json, sys, time
part = lambda raw: base64.urlsafe_b64encode(raw).rstrip(b"=")
text = b".".join(part(json.dumps(value).encode()) for value in ({"alg": "HS256"}, {"iss": "autobahn", "sub": "autobahn", "exp": int(time.time()) + 7200}))
print((text + b"." + part(hmac.new(open(sys.argv[1], "rb").read(), text, hashlib.sha256).digest())).decode())
PYTHON
)

"$autobahn/wstest" -m testeeserver -w "ws://127.0.0.1:$echo_port" > "$work/echo.log" 2>&1 &
pids+=($!)
"$program" run --config "$work/config.toml" 2> "$work/gateway.log" &
pids+=($!)
for wanted in "$echo_port" "$port"; do
    for _ in $(seq 100); do
        (: < "/dev/tcp/127.0.0.1/$wanted") 2> /dev/null && break
        sleep 0.1
    done
done
kill -0 "${pids[1]}" 2> /dev/null || { cat "$work/gateway.log" >&2; exit 1; }

bash "$suite/autobahn.sh" "$autobahn" "wss://127.0.0.1:$port/?access_token=$token" "$mode" | tee "$work/counts"
grep -q '^failed: none$' "$work/counts"
grep -q '^non-strict: none | unimplemented: 0$' "$work/counts"
