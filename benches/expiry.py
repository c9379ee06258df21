#!/usr/bin/env python3
"""Thousands of streams that expire in the same second, while others go on echoing.

    make expiry                     # builds first
    benches/expiry.py --streams 9000 --workers 1 --rounds 3

The gateway stands alone on core 0 (with two workers: on 0 and 1). The crowd (clients whose tokens all expire at one
instant), the others (64 streams that echo at a fixed rate) and a service for each of the two are processes of their own on
core 1; the crowd's are nicer than the others', so that what the others wait for is the gateway and not the
load generator. Latency of the others counts from when each message was due.
"""

import argparse
import json
import os
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import time

import compare
from compare import GATEWAY, LOAD, LOAD_CORE, PROXY_CORE, Process

WORK = compare.TARGET / "expiry"
CALM = 5.0
# Whoever is measured comes first: on the load's core the others before the crowd. Only root may take precedence of all else.
GATEWAY_NICE, OTHERS_NICE, CROWD_NICE = (-10, -15, 0) if os.geteuid() == 0 else (0, 0, 5)
# What must hold, and what is aimed at: seconds until the last Close, ratio of the others' p99.
LAST_CLOSE, AIM, RATIO = 1.5, 0.5, 2.0


def fail(*lines):
    sys.exit("\n".join(f"make expiry: {line}" for line in lines))


def start_load(arguments, nice):
    command = ["setpriv", "--pdeathsig", "KILL", "taskset", "-c", LOAD_CORE, LOAD, *arguments]
    command = list(map(str, command))
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    precede(process.pid, nice)
    return process


def precede(pid, nice):
    """Sets how nice a process is, before it has threads; where the kernel groups processes by session, its group too."""
    os.setpriority(os.PRIO_PROCESS, pid, nice)
    try:
        with open(f"/proc/{pid}/autogroup", "w") as group:
            group.write(str(nice))
    except OSError:
        pass


def result(process, timeout):
    """The report of a load generator, which has ended or is about to."""
    try:
        output, errors = process.communicate(timeout=timeout)
        return json.loads(output)
    except subprocess.TimeoutExpired:
        return {"errors": 1, "first_error": f"no end after {timeout} s"}
    except ValueError:
        return {"errors": 1, "first_error": errors.strip()[-300:]}
    finally:
        process.kill()
        process.wait()


def p99(samples):
    return sorted(samples)[max(0, -(-len(samples) * 99 // 100) - 1)]


def one(workers, arguments, certs):
    """One run with a gateway of its own."""
    port = {name: arguments.port + at for at, name in enumerate(("gateway", "crowd", "others"))}
    config = compare.fill(
        "expiry.toml",
        WORKERS=workers,
        LEVEL=arguments.log,
        PORT=port["gateway"],
        CROWD=port["crowd"],
        OTHERS=port["others"],
        CERT=certs / "cert.pem",
        KEY=certs / "key.pem",
        SECRET_FILE=certs / "token.secret",
    )
    running = []
    try:
        for name, nice in (("crowd", CROWD_NICE), ("others", OTHERS_NICE)):
            command = [LOAD, "backend", "--port", port[name], "--seconds", 600]
            running.append(Process(command, LOAD_CORE, WORK / f"{name}.log"))
            precede(running[-1].pid, nice)
            running[-1].wait_for(port[name])
        cores = PROXY_CORE if workers == 1 else f"{PROXY_CORE},{LOAD_CORE}"
        gateway = Process([GATEWAY, "run", "--config", config], cores, WORK / "gateway.log")
        running.append(gateway)
        precede(gateway.pid, GATEWAY_NICE)
        gateway.wait_for(port["gateway"])
        access = ["--port", port["gateway"], "--ca", certs / "ca.pem", "--key", certs / "token.secret"]
        at = int(time.time()) + arguments.lead
        crowd = start_load(
            ["expiry", *access, "--pid", gateway.pid, "--at", at, "--streams", arguments.streams, "--seconds", 10],
            CROWD_NICE,
        )
        while crowd.poll() is None and time.time() < at - CALM - 1.5:
            time.sleep(0.05)
        samples = WORK / "samples.txt"
        others = ["rate", *access, "--size", 256, "--rate", arguments.rate, "--samples", samples]
        others = start_load([*others, "--seconds", at - time.time() + 3], OTHERS_NICE) if crowd.poll() is None else None
        row = result(crowd, arguments.lead + 60)
        calm = result(others, 30) if others else row
    finally:
        for process in reversed(running):
            process.stop()
    if row["errors"] or calm["errors"]:
        raise RuntimeError(f"{row.get('first_error')}; others: {calm.get('first_error')}")
    taken = [tuple(map(int, line.split())) for line in open(samples)]
    last = at + row["arrived_ms"]["last"] / 1e3
    window = lambda since, until: [took for due, took in taken if since <= due / 1e6 < until]
    # The calm stretch ends before the crowd's clients begin to listen.
    before, during = window(at - CALM, at - 2), window(at, max(last, at + 0.1))
    row.update(
        workers=workers,
        others_calm_us=p99(before),
        others_us=p99(during),
        others_worst_us=max(during),
        others_count=len(during),
        ratio=p99(during) / p99(before),
    )
    return row


def report(rows, streams):
    """A table, as Markdown; whether all was as it must be."""
    middle = lambda value, of: statistics.median(value(row) for row in of)
    lines = [
        f"{streams} streams, one instant; medians of the rounds [least-most]",
        "",
        "| workers | last Close arrived, ms | p50 / p99, ms | all read and gone, ms | gateway CPU, s | others' p99 before / meanwhile, us | ratio |",
        "|" + "---|" * 7,
    ]
    good = True
    for workers in dict.fromkeys(row["workers"] for row in rows):
        of = [row for row in rows if row["workers"] == workers]
        span = lambda value: f"{middle(value, of):.4g} [{min(map(value, of)):.4g}-{max(map(value, of)):.4g}]"
        good &= middle(lambda row: row["arrived_ms"]["last"], of) <= LAST_CLOSE * 1e3
        # Workers on all cores leave none for the others themselves: what these wait for is not the gateway alone.
        judged = workers < os.cpu_count()
        good &= not judged or middle(lambda row: row["ratio"], of) <= RATIO
        cells = [
            str(workers),
            span(lambda row: row["arrived_ms"]["last"]),
            f"{middle(lambda row: row['arrived_ms']['p50'], of):.0f} / {middle(lambda row: row['arrived_ms']['p99'], of):.0f}",
            span(lambda row: row["over_ms"]),
            span(lambda row: row["cpu_user_s"] + row["cpu_system_s"]),
            f"{middle(lambda row: row['others_calm_us'], of):.0f} / {middle(lambda row: row['others_us'], of):.0f}",
            span(lambda row: row["ratio"]) + ("" if judged else " (no core is left for the load: not judged)"),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        "| workers | PSS without streams, KiB | with all of them, KiB | after their end, KiB | KiB per stream | CPU of 10 s of silence, s | the clients' own CPU, s |",
        "|" + "---|" * 7,
    ]
    for workers in dict.fromkeys(row["workers"] for row in rows):
        of = [row for row in rows if row["workers"] == workers]
        cells = [str(workers)]
        cells += [f"{middle(lambda row, key=key: row[key], of):.0f}" for key in ("base_pss_kib", "full_pss_kib", "after_pss_kib")]
        cells += [f"{middle(lambda row, key=key: row[key], of):.2f}" for key in ("kib_each", "idle_cpu_s", "own_cpu_s")]
        lines.append("| " + " | ".join(cells) + " |")
    every = "each got code 3000 `token expired`, none before the deadline"
    lines += ["", f"Of {len(rows)} runs, in all {every}. Required: {LAST_CLOSE} s (aim {AIM} s) and a ratio of {RATIO}: "
              + ("held." if good else "NOT held.")]
    return "\n".join(lines), good


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=9000)
    parser.add_argument("--workers", type=lambda text: list(map(int, text.split(","))), default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rate", type=int, default=2000, help="messages a second of the 64 others")
    parser.add_argument("--lead", type=int, default=60, help="seconds from the start until the tokens expire")
    parser.add_argument("--log", default="error", help="the gateway's log level")
    parser.add_argument("--port", type=int, default=9750, help="the first of three ports on 127.0.0.1")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    for path in (GATEWAY, LOAD):
        if not path.exists():
            fail(f"{path} is missing: start this by `make expiry`")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    needed = 2 * (arguments.streams + 64) + 200
    if hard != resource.RLIM_INFINITY and hard < needed:
        fail(f"{arguments.streams} streams need {needed} open files; the hard limit is {hard}: lower --streams or raise it")
    shutil.rmtree(WORK, ignore_errors=True)
    certs = WORK / "certs"
    certs.mkdir(parents=True)
    compare.WORK = WORK
    subprocess.run([GATEWAY, "cert", "--dir", certs], check=True, capture_output=True)
    rows = []
    try:
        with open(WORK / "results.jsonl", "w") as stored:
            for number in range(arguments.rounds):
                for workers in arguments.workers:
                    row = one(workers, arguments, certs)
                    rows.append(row)
                    stored.write(json.dumps(row) + "\n")
                    stored.flush()
                    line = f"round {number + 1}  workers {workers}  last {row['arrived_ms']['last']:.0f} ms  ratio {row['ratio']:.2f}"
                    print(line, file=sys.stderr, flush=True)
    except RuntimeError as error:
        fail(str(error))
    table, good = report(rows, arguments.streams)
    print(table)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
