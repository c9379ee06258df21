#!/usr/bin/env python3
"""Thousands of streams, each renewed out of band every few seconds; then they expire, a few hundred each second.

    make renewals                   # builds first
    benches/renewals.py --streams 5000 --every 5 --seconds 60

The gateway stands on core 0, its service and the clients (which sign every token themselves) on core 1. Required: nobody is
closed while it is renewed, memory does not grow, and at the end each Close is read at most 100 ms after its deadline (99th
percentile).
"""

import argparse
import json
import resource
import shutil
import signal
import subprocess
import sys

import compare
from compare import GATEWAY, LOAD, LOAD_CORE, PROXY_CORE, Process

WORK = compare.WORK = compare.TARGET / "renewals"
# What must hold: milliseconds, and growth of the memory.
LATE, GROWTH = 100, 1.05


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=5000)
    parser.add_argument("--every", type=float, default=5, help="seconds from one renewal of a stream to the next")
    parser.add_argument("--seconds", type=float, default=60, help="how long it goes on like that")
    parser.add_argument("--ends", type=int, default=200, help="streams that expire in each second at the end")
    parser.add_argument("--port", type=int, default=9770, help="the first of two ports on 127.0.0.1")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    for path in (GATEWAY, LOAD):
        if not path.exists():
            sys.exit(f"make renewals: {path} is missing: start this by `make renewals`")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    needed = 2 * arguments.streams + 200
    if hard != resource.RLIM_INFINITY and hard < needed:
        sys.exit(f"make renewals: {needed} open files are needed; the hard limit is {hard}: lower --streams or raise it")
    shutil.rmtree(WORK, ignore_errors=True)
    certs = WORK / "certs"
    certs.mkdir(parents=True)
    subprocess.run([GATEWAY, "cert", "--dir", certs], check=True, stdout=subprocess.DEVNULL)
    service = arguments.port + 1
    config = compare.fill(
        "expiry.toml", WORKERS=1, LEVEL="error", PORT=arguments.port, CROWD=service, OTHERS=service,
        CERT=certs / "cert.pem", KEY=certs / "key.pem", SECRET_FILE=certs / "token.secret",
    )
    running = []
    try:
        running.append(Process([LOAD, "backend", "--port", service, "--seconds", 600], LOAD_CORE, WORK / "service.log"))
        running[-1].wait_for(service)
        running.append(Process([GATEWAY, "run", "--config", config], PROXY_CORE, WORK / "gateway.log"))
        running[-1].wait_for(arguments.port)
        command = [
            "taskset", "-c", LOAD_CORE, LOAD, "renew", "--port", arguments.port, "--ca", certs / "ca.pem",
            "--key", certs / "token.secret", "--pid", running[-1].pid, "--streams", arguments.streams,
            "--every", arguments.every, "--seconds", arguments.seconds, "--ends", arguments.ends,
        ]
        load = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=500)
    finally:
        for process in reversed(running):
            process.stop()
    try:
        row = json.loads(load.stdout)
    except ValueError:
        sys.exit(f"make renewals: {load.stderr.strip()[-500:]}")
    cpu = (row["cpu_user_s"] + row["cpu_system_s"]) / max(row["renewals"], 1) * 1e6
    growth = row["later_pss_kib"] / row["full_pss_kib"]
    print(f"""{row["streams"]} streams, each renewed every {arguments.every:g} s for {row["seconds"]:g} s

| renewals | closed meanwhile | gateway's CPU for each, us | answered in, ms: p50 / p99 / worst | memory before / after, KiB | Close read after the last deadline, ms: p50 / p99 / worst |
|---|---|---|---|---|---|
| {row["renewals"]} | {row["closed_while_renewed"]} | {cpu:.0f} | {" / ".join(str(row["answered_ms"][at]) for at in ("p50", "p99", "last"))} | {row["full_pss_kib"]} / {row["later_pss_kib"]} | {" / ".join(str(row["late_ms"][at]) for at in ("p50", "p99", "last"))} ({row["late_ms"]["count"]}) |
""")
    good = row["errors"] == 0 and growth <= GROWTH and row["late_ms"]["p99"] <= LATE and row["late_ms"]["count"] == row["streams"]
    enough = row["renewals"] >= 0.9 * row["streams"] * row["seconds"] / arguments.every
    if row["first_error"]:
        print("first error:", row["first_error"])
    print(f"Required: nobody closed, every renewal in its turn, memory x {GROWTH}, p99 {LATE} ms: {'held.' if good and enough else 'NOT held.'}")
    sys.exit(0 if good and enough else 1)


if __name__ == "__main__":
    main()
