#!/bin/bash
# The gateway as a target of a bench that puts TLS proxies side by side. Builds nothing, runs in the foreground.
# Reads PORT BACKEND_PORT WORKERS(=1) ALG(HS256|ES256|RS256) WORK(scratch folder) CERT KEY SECRET EC_PUB RSA_PUB(files).
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
: "${PORT:?}" "${BACKEND_PORT:?}" "${WORK:?}" "${CERT:?}" "${KEY:?}" "${WORKERS:=1}" "${ALG:=HS256}"
case $ALG in
    HS256) key="secret_file = \"${SECRET:?}\"" ;;
    ES256) key="pem_file = \"${EC_PUB:?}\"" ;;
    RS256) key="pem_file = \"${RSA_PUB:?}\"" ;;
    *)
        echo "unknown ALG $ALG" >&2
        exit 64
        ;;
esac
cat > "$WORK/portcullis.toml" << CONFIG
[server]
workers = $WORKERS
max_connections = 100000

[log]
level = "error"

[[listener]]
name = "bench"
address = "127.0.0.1:$PORT"
certificate = "$CERT"
key = "$KEY"

[[issuer]]
name = "bench"
iss = "https://issuer.test"
aud = ["ws"]
# The bench's tokens may outlive the day.
max_lifetime = "0s"

[[issuer.key]]
algorithm = "$ALG"
$key

[[route]]
name = "bench"
upstream = "ws://127.0.0.1:$BACKEND_PORT"
CONFIG
# The variable by which a bench finds this file sets no key of the config.
unset PORTCULLIS_DIR
exec "$root/target/release/portcullis" run --config "$WORK/portcullis.toml"
