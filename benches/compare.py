#!/usr/bin/env python3
"""The gateway beside HAProxy and nginx on loopback: what each message, handshake and silent stream costs them.

    make bench                      # builds first; ROUNDS=5 SECONDS=2 are the defaults
    benches/compare.py --rounds 2 --tests echo:1024,handshake
    benches/compare.py --report target/compare/results.jsonl

One worker each, pinned to core 0; load and backend on core 1. Every proxy has the same certificate (P-256), TLS 1.3 with
one suite and key exchange, and checks the same tokens (HS256). In odd rounds the order is A B C, in even ones C B A;
ratios are those of one round, so that what else the machine does falls on both sides of them. Needs nothing but Python
3.11 and Debian's haproxy, nginx and libnginx-mod-http-js, which it installs if it is run as root.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import resource
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
GATEWAY = TARGET / "release/portcullis"
LOAD = TARGET / "release/examples/load"
WORK = TARGET / "compare"
# What `make` is asked for.
NAME = "bench"
NJS = pathlib.Path("/usr/lib/nginx/modules/ngx_http_js_module.so")
PROXY_CORE, LOAD_CORE = "0", "1"

# Test: what `load` is asked for, the figure that counts, its unit.
TESTS = {
    "echo": (lambda size="1024": ["echo", "--size", size], "cpu_us_each", "CPU us per message"),
    "rate": (lambda size="256", rate="3000": ["rate", "--size", size, "--rate", rate], "cpu_us_each", "CPU us per message"),
    "flood": (lambda size="1024": ["flood", "--size", size], "cpu_s_per_gb", "CPU s per GB"),
    "handshake": (lambda: ["handshake"], "cpu_us_each", "CPU us per handshake"),
    "idle": (
        lambda streams="2000", touch="1024": ["idle", "--streams", streams, "--touch", touch],
        "kib_each",
        "KiB per stream (PSS)",
    ),
}
USUAL = "echo:64,echo:1024,echo:16384,echo:262144,rate:256:3000,flood:1024,handshake,idle:2000:1024"


def fail(*lines):
    sys.exit("\n".join(f"make {NAME}: {line}" for line in lines))


def install():
    """What is missing of HAProxy and nginx; never leaves a service of theirs running that was not there before."""
    missing = [name for name in ("haproxy", "nginx") if not find(name)]
    if not NJS.exists():
        missing.append("libnginx-mod-http-js")
    if not missing:
        return
    command = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing]
    if not shutil.which("apt-get"):
        fail(f"these are missing: {' '.join(missing)}", "this is no Debian: install them by its own means")
    if os.geteuid() != 0:
        fail(f"these Debian packages are missing: {' '.join(missing)}", f"run as root: {' '.join(command)}")
    print(f"make {NAME}: installing {' '.join(missing)}", file=sys.stderr)
    # In runlevel 1 the packages' scripts do not start what they install.
    environment = dict(os.environ, DEBIAN_FRONTEND="noninteractive", RUNLEVEL="1")
    for step in (["apt-get", "update", "-qq"], command):
        done = subprocess.run(step, env=environment, capture_output=True, text=True)
        if done.returncode != 0:
            if NJS.name in str(done.stderr) or not find("nginx"):
                fail(f"{' '.join(step)} failed: {done.stderr.strip()[-300:]}")
            break
    if not NJS.exists():
        print(f"make {NAME}: without libnginx-mod-http-js nginx checks NO token here", file=sys.stderr)


def find(name):
    return shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin:/sbin:/usr/local/sbin")


class Process:
    """A program on one core, in a group of its own; it is told to end when this script ends, however that happens."""

    def __init__(self, command, core, log):
        self.log = log
        with open(log, "w") as output:
            self.process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "TERM", "taskset", "-c", core, *map(str, command)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.pid = self.process.pid

    def wait_for(self, port):
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                break
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                return
            except OSError:
                time.sleep(0.05)
        raise RuntimeError(f"nothing listens on {port}: {pathlib.Path(self.log).read_text()[-1000:]}")

    def stop(self):
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self.pid, number)
                self.process.wait(5)
                return
            except subprocess.TimeoutExpired:
                continue
            except ProcessLookupError:
                self.process.wait(5)
                return


def fill(template, **values):
    text = (HERE / "peers" / template).read_text()
    for name, value in values.items():
        text = text.replace(f"@{name}@", str(value))
    path = WORK / template
    path.write_text(text)
    return path


@dataclasses.dataclass
class Proxy:
    """How a proxy is started, where it listens, and what is asked of it."""

    name: str
    # Writes its configuration, and installs what is missing; the command.
    prepare: Callable
    port: int
    # What else `load` is asked for in a test with these parameters.
    over: Callable = lambda parameters: []
    # The tests that it has a part in; none: all.
    verbs: tuple = ()
    # Whether it looks at tokens.
    checks: bool = True

    def takes(self, test):
        return not self.verbs or test.split(":")[0] in self.verbs


def gateway(port, **common):
    """The gateway's command."""
    return [GATEWAY, "run", "--config", fill("portcullis.toml", PORT=port, **common)]


def haproxy(port, certs, **common):
    """HAProxy's command. Its configuration has the secret in it."""
    both = certs / "both.pem"
    both.write_text((certs / "cert.pem").read_text() + (certs / "key.pem").read_text())
    both.chmod(0o600)
    config = fill("haproxy.cfg", PORT=port, PEM=both, SECRET=(certs / "token.secret").read_text().strip(), **common)
    config.chmod(0o600)
    return [find("haproxy"), "-db", "-q", "-f", config]


def nginx(port, **common):
    """nginx' command. Without njs it checks no token."""
    fill("jwt.js", **common)
    config = fill(
        "nginx.conf",
        PORT=port,
        LOAD_NJS=f"load_module {NJS};" if NJS.exists() else "",
        USE_NJS=f"js_path {WORK}; js_import jwt from jwt.js; js_set $accepted jwt.accepted;"
        if NJS.exists()
        else "map '' $accepted { default 1; }",
        # Workers read the secret, which only its owner may.
        USER="user root;" if os.geteuid() == 0 else "",
        **common,
    )
    return [find("nginx"), "-p", WORK, "-c", config, "-e", WORK / "nginx.log"]


def common(certs, backend):
    """What the configurations of all proxies are filled with."""
    files = dict(CERT=certs / "cert.pem", KEY=certs / "key.pem", SECRET_FILE=certs / "token.secret")
    return dict(BACKEND=backend, WORK=WORK, ALPN="http/1.1", LISTEN="ssl", HTTP="", **files)


def proxies(certs, first):
    """All three, on the ports that follow the backend's."""
    same = common(certs, first)
    return [
        Proxy("portcullis", lambda: gateway(first + 1, **same), first + 1),
        Proxy("haproxy", lambda: haproxy(first + 2, certs, **same), first + 2),
        Proxy("nginx", lambda: nginx(first + 3, **same), first + 3, checks=NJS.exists()),
    ]


def load(arguments, timeout):
    """One run of the load generator; its report, with an error in it if there is no other."""
    command = ["setpriv", "--pdeathsig", "KILL", "taskset", "-c", LOAD_CORE, str(LOAD), *map(str, arguments)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
        return json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        return {"errors": 1, "first_error": f"no end after {timeout} s"}
    except ValueError:
        return {"errors": 1, "first_error": done.stderr.strip()[-300:]}


def machine():
    """CPU seconds that this machine has used since it started."""
    user, nice, system, _idle, _wait, interrupts, soft, steal = map(int, open("/proc/stat").readline().split()[1:9])
    return (user + nice + system + interrupts + soft + steal) / os.sysconf("SC_CLK_TCK")


def own(pids):
    """CPU seconds of our load generators and of these processes with their children."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    total, parents, times = used.ru_utime + used.ru_stime, {}, {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                fields = open(f"/proc/{entry}/stat").read().rpartition(")")[2].split()
            except OSError:
                continue
            parents[int(entry)] = int(fields[1])
            times[int(entry)] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    for pid, seconds in times.items():
        if pid in pids or parents[pid] in pids:
            total += seconds
    return total


def check(proxy, verb, access, certs):
    """A proxy that is measured must let good tokens through and no others."""
    probe = ["get" if verb == "get" else "handshake", "--seconds", "0.1", "--streams", "1", *access]
    good = load([*probe, "--key", certs / "token.secret"], 60)
    if good["errors"]:
        raise RuntimeError(f"{proxy.name} refuses a good token: {good['first_error']}")
    if not proxy.checks:
        return
    for what, key in (("no token", []), ("a token of another key", ["--key", certs / "other.secret"])):
        bad = load([*probe, *key], 60)
        if not bad["errors"] or "401" not in str(bad["first_error"]):
            raise RuntimeError(f"{proxy.name} does not refuse {what}: {bad}")


def one(test, proxy, command, certs, arguments, backend, checked):
    """One test of one proxy, which is started fresh for it."""
    verb, *parameters = test.split(":")
    make, figure, _ = TESTS[verb]
    process = Process(command, PROXY_CORE, WORK / f"{proxy.name}.log")
    try:
        process.wait_for(proxy.port)
        access = ["--port", proxy.port, "--ca", certs / "ca.pem", *proxy.over(parameters)]
        if (proxy.name, verb == "get") not in checked:
            check(proxy, verb, access, certs)
            checked.add((proxy.name, verb == "get"))
        cost = ["--key", certs / "token.secret", "--pid", process.pid, "--seconds", arguments.seconds]
        pids = {process.pid, backend.pid, os.getpid()}
        began, used, ours = time.monotonic(), machine(), own(pids)
        row = load([*make(*parameters), *access, *cost], arguments.seconds + 200)
        took = time.monotonic() - began
        row["other_cores"] = round(max(0.0, machine() - used - (own(pids) - ours)) / took, 2)
    finally:
        process.stop()
    row.update(test=test, proxy=proxy.name, checks=proxy.checks, value=row.get(figure))
    return row


def run(arguments, make=proxies):
    """All rounds, with the proxies that `make` gives for a folder of certificates and a port."""
    for path in (GATEWAY, LOAD):
        if not path.exists():
            fail(f"{path} is missing: start this by `make {NAME}`")
    install()
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True)
    certs = WORK / "certs"
    for folder in (certs, WORK / "other"):
        subprocess.run([GATEWAY, "cert", "--dir", folder], check=True, capture_output=True)
    shutil.copy(WORK / "other/token.secret", certs / "other.secret")
    there = [proxy for proxy in make(certs, arguments.port) if proxy.name in arguments.proxies]
    commands = {proxy.name: proxy.prepare() for proxy in there}
    rows, checked = [], set()
    service = [LOAD, "backend", "--port", arguments.port, "--seconds", 20000]
    backend = Process(service, LOAD_CORE, WORK / "backend.log")
    try:
        backend.wait_for(arguments.port)
        with open(WORK / "results.jsonl", "w") as stored:
            for number in range(arguments.rounds):
                for test in arguments.tests:
                    taking = [proxy for proxy in there if proxy.takes(test)]
                    for proxy in taking if number % 2 == 0 else taking[::-1]:
                        row = one(test, proxy, commands[proxy.name], certs, arguments, backend, checked)
                        row["round"] = number
                        rows.append(row)
                        stored.write(json.dumps(row) + "\n")
                        stored.flush()
                        trouble = f"  ERROR {row['first_error']}" if row["errors"] else ""
                        line = f"round {number + 1}  {test:<16} {proxy.name:<14} {row['value']}{trouble}"
                        print(line, file=sys.stderr, flush=True)
    finally:
        backend.stop()
    return rows


def short(value):
    """Three digits, or all of those before the point."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def report(rows):
    """The table, as Markdown: medians, and ratios of one round with their spread."""
    tests = list(dict.fromkeys(row["test"] for row in rows))
    names = list(dict.fromkeys(row["proxy"] for row in sorted(rows, key=lambda row: row["round"])))
    peers = [name for name in names if name != "portcullis"]
    value = {(row["test"], row["proxy"], row["round"]): row["value"] for row in rows if not row["errors"] and row["value"]}
    rounds = sorted({row["round"] for row in rows})
    lines = ["| test | figure | " + " | ".join(names) + "".join(f" | to {peer}" for peer in peers) + " |"]
    lines.append("|" + "---|" * (2 + len(names) + len(peers)))
    for test in tests:
        cells = [test, TESTS[test.split(":")[0]][2]]
        for name in names:
            values = [value[test, name, number] for number in rounds if (test, name, number) in value]
            middle, least, most = map(short, (statistics.median(values), min(values), max(values))) if values else ("", "", "")
            cells.append(f"{middle} [{least}-{most}]" if values else "-")
        for peer in peers:
            pairs = [(value.get((test, "portcullis", number)), value.get((test, peer, number))) for number in rounds]
            ratios = [ours / theirs for ours, theirs in pairs if ours and theirs]
            cells.append(f"**{statistics.median(ratios):.2f}** [{min(ratios):.2f}-{max(ratios):.2f}]" if ratios else "-")
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", "| test | " + " | ".join(f"{name}: per s; p50 / p99 / p99.9 us" for name in names) + " |"]
    lines.append("|" + "---|" * (1 + len(names)))
    for test in tests:
        if test.startswith("idle"):
            continue
        cells = [test]
        for name in names:
            of = [row for row in rows if (row["test"], row["proxy"], row["errors"]) == (test, name, 0)]
            middle = lambda key: statistics.median(row[key] for row in of)
            quantiles = " / ".join(f"{middle(key):.0f}" for key in ("p50_us", "p99_us", "p999_us")) if of else "-"
            if test.startswith("flood"):
                quantiles = f"{middle('mb_per_second'):.0f} MB/s" if of else "-"
            cells.append(f"{middle('per_second'):.0f}; {quantiles}" if of else "-")
        lines.append("| " + " | ".join(cells) + " |")
    others = [row["other_cores"] for row in rows if "other_cores" in row]
    if others:
        lines += ["", f"Other programs took {statistics.median(others):.2f} cores (median; most {max(others):.2f}) of {os.cpu_count()}."]
    for name in dict.fromkeys(row["proxy"] for row in rows if not row.get("checks", True)):
        lines += ["", f"{name} looks at no token."]
    failed = [row for row in rows if row["errors"]]
    for row in failed:
        lines.append(f"FAILED: round {row['round'] + 1} {row['test']} {row['proxy']}: {row['first_error']}")
    return "\n".join(lines), bool(failed)


def main(text=__doc__, make=proxies, names=("portcullis", "haproxy", "nginx"), port=9700):
    """What the command line asks for, with the proxies that `make` gives."""
    listed = lambda text: text.split(",")
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    parser.add_argument("--tests", type=listed, default=USUAL.split(","))
    parser.add_argument("--proxies", type=listed, default=list(names))
    parser.add_argument("--port", type=int, default=port, help=f"the first of {1 + len(names)} ports on 127.0.0.1")
    parser.add_argument("--report", help="print the table of stored results and end")
    arguments = parser.parse_args()
    if unknown := [test for test in arguments.tests if test.split(":")[0] not in TESTS]:
        fail(f"there is no test {unknown[0]}; there are {', '.join(TESTS)}")
    # A signal ends the script through its `finally`s.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if arguments.report:
        rows = [json.loads(line) for line in open(arguments.report)]
    else:
        try:
            rows = run(arguments, make)
        except RuntimeError as error:
            fail(str(error))
    table, failed = report(rows)
    print(table)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
