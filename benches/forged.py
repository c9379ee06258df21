#!/usr/bin/env python3
"""Forged RS256 tokens at the door, and what those who are in feel of it.

    make forged                     # builds first, then both of these
    benches/forged.py --rounds 3    # 400 forged tokens a second; the key set is a file
    benches/forged.py --url         # 200 random key names a second; the key set is fetched, and who fetches is counted
    benches/forged.py --haproxy     # the first run, with HAProxy in the gateway's place if it is installed: what a cut looks like

The gateway stands alone on core 0 with one worker; service, clients and forger are on core 1. Live streams echo at a fixed
rate, first for themselves and then as long beside the forger, who opens a TLS connection for each token. Half of the tokens
name the issuer's key and have another token's signature, so that all of it is verified; half name a random key. Latency counts
from when each message was due. Required: no echo takes 100 ms, nobody is closed, every forged token is answered with 401 (or
503, where its key could not be looked for just then); with --url also: the set is fetched at most once in the cool-down. Needs openssl, which makes the key.
"""

import argparse
import base64
import http.server
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import compare
from compare import GATEWAY, LOAD, LOAD_CORE, PROXY_CORE, Process
from expiry import GATEWAY_NICE, OTHERS_NICE, precede, result, start_load

WORK = compare.WORK = compare.TARGET / "forged"
# What must hold: milliseconds. And what the seconds between two fetches may fall short of the cool-down, on their way here.
WORST, JITTER = 100, 0.25
KID = "bench"


def fail(*lines):
    sys.exit("\n".join(f"make forged: {line}" for line in lines))


def make_key(folder):
    """An RSA key of 2048 bits, and the set that publishes it."""
    key = folder / "issuer.pem"
    openssl = lambda *arguments: subprocess.run(["openssl", *arguments], check=True, capture_output=True, text=True).stdout
    openssl("genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", str(key))
    modulus = bytes.fromhex(openssl("rsa", "-in", str(key), "-noout", "-modulus").strip().partition("=")[2])
    number = lambda value: base64.urlsafe_b64encode(value).rstrip(b"=").decode()
    jwk = {"kty": "RSA", "use": "sig", "alg": "RS256", "kid": KID, "n": number(modulus), "e": number(b"\1\0\1")}
    openssl("rsa", "-in", str(key), "-pubout", "-out", str(folder / "issuer.pub"))
    (folder / "jwks.json").write_text(json.dumps({"keys": [jwk]}))
    return key


class Issuer:
    """Serves the key set on a port of its own, and remembers when it was asked for it."""

    def __init__(self, body):
        fetches = self.fetches = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                fetches.append(time.monotonic())
                self.send_response(200)
                self.send_header("Cache-Control", "max-age=3600")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def url(self):
        return f"http://127.0.0.1:{self.server.server_port}/certs"


def haproxy(port, service, certs):
    """HAProxy as in `make bench`, with the issuer's public key instead of a secret."""
    both = certs / "both.pem"
    both.write_text((certs / "cert.pem").read_text() + (certs / "key.pem").read_text())
    config = compare.fill("haproxy.cfg", PORT=port, BACKEND=service, PEM=both, SECRET=certs / "issuer.pub", ALPN="http/1.1")
    config.write_text(config.read_text().replace("HS256", "RS256"))
    return [compare.find("haproxy"), "-db", "-q", "-f", config]


def one(arguments, certs, key):
    """One run with a gateway of its own."""
    service, issuer = arguments.port + 1, None
    keys = f'jwks_file = "{certs / "jwks.json"}"'
    if arguments.url:
        issuer = Issuer((certs / "jwks.json").read_bytes())
        keys = f'jwks_url = "{issuer.url()}"\njwks_cooldown = "{arguments.cooldown * 1000:.0f}ms"'
    config = compare.fill(
        "forged.toml", LEVEL=arguments.log, PORT=arguments.port, SERVICE=service, KEYS=keys,
        CERT=certs / "cert.pem", KEY=certs / "key.pem",
    )
    running = []
    try:
        running.append(Process([LOAD, "backend", "--port", service, "--seconds", 600], LOAD_CORE, WORK / "service.log"))
        precede(running[-1].pid, OTHERS_NICE)
        running[-1].wait_for(service)
        command = haproxy(arguments.port, service, certs) if arguments.haproxy else [GATEWAY, "run", "--config", config]
        gateway = Process(command, PROXY_CORE, WORK / "gateway.log")
        running.append(gateway)
        precede(gateway.pid, GATEWAY_NICE)
        gateway.wait_for(arguments.port)
        before, began, used, ours = os.getloadavg()[0], time.monotonic(), compare.machine(), compare.own({os.getpid()})
        load = start_load(
            [
                "forge", "--port", arguments.port, "--ca", certs / "ca.pem", "--algorithm", "RS256", "--key", key, "--kid", KID,
                "--pid", gateway.pid, "--seconds", arguments.seconds, "--streams", arguments.streams, "--rate", arguments.rate,
                "--forged", arguments.forged, "--unknown", 100 if arguments.url else 50,
            ],
            OTHERS_NICE,
        )
        row = result(load, 2 * arguments.seconds + 60)
        others = compare.machine() - used - (compare.own({os.getpid()}) - ours)
        row.update(load=before, other_cores=round(max(0.0, others) / (time.monotonic() - began), 2))
    finally:
        for process in reversed(running):
            process.stop()
    if issuer:
        issuer.server.shutdown()
        # The first is the gateway's own, before it opens a port.
        row["fetches"] = len(issuer.fetches) - 1
        row["apart"] = min((later - sooner for sooner, later in itertools.pairwise(issuer.fetches[1:])), default=None)
    return row


def holds(row, arguments):
    good = row["errors"] == 0 and row["closed"] == 0 and row["otherwise"] == 0 and row["forged_ms"]["last"] < WORST
    if not arguments.url:
        return good
    most = 1 + arguments.seconds / arguments.cooldown
    return good and 1 <= row["fetches"] <= most and (row["apart"] is None or row["apart"] >= arguments.cooldown - JITTER)


def report(rows, arguments):
    """A table, as Markdown; whether all was as it must be."""
    what = "random key names" if arguments.url else "forged tokens"
    head = ["run", "echoes alone, ms: p50 / p99 / worst", "beside them: p50 / p99 / worst", "closed", "refused",
            "answered otherwise", "refused in, ms: p50 / p99 / worst", "gateway's CPU for each, us", "others' cores"]
    head += [f"fetches (cool-down {arguments.cooldown:g} s), at least apart, s"] if arguments.url else []
    lines = [
        f"{arguments.streams} streams, {arguments.rate} messages a second; {arguments.forged} {what} a second for {arguments.seconds:g} s",
        "", "| " + " | ".join(head) + " |", "|" + "---|" * len(head),
    ]
    times = lambda of: f"{of['p50']:.1f} / {of['p99']:.1f} / {of['last']:.1f}"
    for number, row in enumerate(rows, 1):
        cells = [str(number), times(row["calm_ms"]), times(row["forged_ms"]), str(row["closed"]), f"{row['refused']:,}",
                 str(row["otherwise"]), times(row["refused_ms"]), f"{row['cpu_us_each']:.0f}", f"{row['other_cores']:.2f}"]
        if arguments.url:
            cells.append(f"{row['fetches']}, {row['apart']:.2f}" if row["apart"] else str(row["fetches"]))
        lines.append("| " + " | ".join(cells) + " |")
    lines += [""] + [f"run {number}: first error: {row['first_error']}" for number, row in enumerate(rows, 1) if row["errors"]]
    good = all(holds(row, arguments) for row in rows)
    fetches = ", at most one fetch in the cool-down" if arguments.url else ""
    lines.append(f"Required: every echo within {WORST} ms, nobody closed, every forged token refused{fetches}: "
                 + ("held." if good else "NOT held."))
    return "\n".join(lines), good


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", action="store_true", help="fetch the key set, and let every forged token name a random key")
    parser.add_argument("--haproxy", action="store_true", help="put HAProxy in the gateway's place")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--rate", type=int, default=400, help="messages a second, over all streams")
    parser.add_argument("--forged", type=int, help="forged tokens a second; 400, or 200 with --url")
    parser.add_argument("--seconds", type=float, default=10, help="of each of the two stretches")
    parser.add_argument("--cooldown", type=float, default=2, help="the gateway's jwks_cooldown in seconds, with --url")
    parser.add_argument("--log", default="info", help="the gateway's log level: at info each refusal is a line")
    parser.add_argument("--port", type=int, default=9780, help="the first of two ports on 127.0.0.1")
    arguments = parser.parse_args()
    arguments.forged = arguments.forged or (200 if arguments.url else 400)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    for path in (GATEWAY, LOAD):
        if not path.exists():
            fail(f"{path} is missing: start this by `make forged`")
    if not shutil.which("openssl"):
        fail("openssl is missing")
    if arguments.haproxy and (arguments.url or not compare.find("haproxy")):
        fail("HAProxy is not installed, or --url is asked of it, which it cannot do")
    shutil.rmtree(WORK, ignore_errors=True)
    certs = WORK / "certs"
    certs.mkdir(parents=True)
    subprocess.run([GATEWAY, "cert", "--dir", certs], check=True, capture_output=True)
    key = make_key(certs)
    rows = []
    with open(WORK / "results.jsonl", "w") as stored:
        for number in range(arguments.rounds):
            row = one(arguments, certs, key)
            if "forged_ms" not in row:
                fail(str(row.get("first_error")))
            rows.append(row)
            stored.write(json.dumps(row) + "\n")
            stored.flush()
            print(f"round {number + 1}  worst {row['forged_ms']['last']:.1f} ms  refused {row['refused']}", file=sys.stderr, flush=True)
    table, good = report(rows, arguments)
    print(table)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
