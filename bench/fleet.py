#!/usr/bin/env python3
"""Measures a roll-out: 200 agents on simulated machines against `caprock serve`, a reboot each, 10 % at a time.

The agents are the real ones, with a host that reboots in a second. Run it on a quiet machine: `make bench`. The numbers are
for people; no test looks at them.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from api import Server

REPOSITORY = Path(__file__).resolve().parent.parent


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--caprock", required=True, type=Path)
    parser.add_argument("--work", required=True, type=Path)
    parser.add_argument("--nodes", default=200, type=int)
    parser.add_argument("--debug", action="store_true", help="with a debug build of the agents, to try it")
    options = parser.parse_args()
    data = options.work.resolve() / "fleet-data"
    shutil.rmtree(data, ignore_errors=True)
    data.mkdir(parents=True)
    server = Server(options.caprock, data)
    try:
        server.start()
        environment = os.environ | {
            "CAPROCK_BENCH_KUBECONFIG": str(data / "kubeconfig"),
            "CAPROCK_BENCH_NODES": str(options.nodes),
        }
        profile = [] if options.debug else ["--release"]
        run = subprocess.run(
            ["cargo", "test", "--quiet", *profile, "--package", "agent", "--lib", "a_fleet_reboots", "--"]
            + ["--ignored", "--nocapture"],
            cwd=REPOSITORY,
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        found = [line for line in run.stdout.splitlines() if line.startswith("RESULT ")]
        if run.returncode != 0 or not found:
            sys.exit(f"the fleet did not arrive:\n{run.stdout}")
        result = json.loads(found[0].removeprefix("RESULT "))
        memory = server.memory()
    finally:
        if server.process and server.process.poll() is None:
            server.stop()
        shutil.rmtree(data, ignore_errors=True)
    nodes = result["nodes"]
    each = {what: count / nodes for what, count in result["writes"].items()}
    events = each.pop("events", 0)
    floor = -(-nodes // max(nodes // 10, 1))
    rows = [
        (f"{nodes} nodes, 10 % at a time, a reboot of 1 s", f"{result['seconds']:.1f} s", f"12 s (floor {floor} s)"),
        ("objects written for a node", f"{sum(each.values()):.1f}", "9 and the pool's"),
        *((f"  {what}", f"{count:.1f}", "") for what, count in sorted(each.items(), key=lambda item: -item[1])),
        ("events written for a node", f"{events:.1f}", "3"),
        ("memory of the server afterwards", f"{memory:.0f} MiB", ""),
    ]
    width = max(len(name) for name, *_ in rows)
    print(f"{'roll-out':{width}}  {'measured':>12}  target")
    for name, value, target in rows:
        print(f"{name:{width}}  {value:>12}  {target}")


if __name__ == "__main__":
    main()
