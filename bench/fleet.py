#!/usr/bin/env python3
"""Measures roll-outs: simulated nodes (`caprock simulate nodes`) against `caprock serve`, a reboot each, 10 % at a time.

The agents are the real ones on machines that are values in memory; server, controllers and all agents are a process each.
With `--kubeconfig` the server is another one, on which Caprock is not installed; what the bench makes there is removed again.
Run it on a quiet machine: `make bench`. The numbers are for people; no test looks at them.
"""

import argparse
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from api import Connection, Given, Server, expect

ROOT = Path(__file__).resolve().parent.parent
GROUP = "/apis/machineconfiguration.openshift.io/v1"
TICKS = os.sysconf("SC_CLK_TCK")
# What servers call requests that write; what is written for a roll-out.
WRITES = ("create", "post", "update", "put", "patch", "apply", "delete")
WRITTEN = ("nodes", "machineconfignodes", "machineconfigpools", "machineconfigs", "events")
# A fleet that takes longer stands still.
DEADLINE = 900


class Fleet:
    """A server, pools, and simulated nodes that have their first configuration."""

    def __init__(self, options, nodes, pools=1, heartbeat="20s"):
        self.nodes, self.pools = nodes, [f"fleet-{number}" for number in range(pools)]
        self.work = options.work.resolve() / "fleet-data"
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir(parents=True)
        self.log = open(options.work / "fleet.log", "ab")
        self.caprock, self.parts = options.caprock, {}
        if options.kubeconfig:
            self.server = Given(options.kubeconfig.resolve())
            self.server.apply("-k", ROOT / "deploy/api", "-f", ROOT / "deploy/objects/namespaces.yaml")
        else:
            self.server = Server(options.caprock, self.work, "--without", "controllers")
            self.server.start()
            self.parts["server"] = self.server.process
        self.start("controllers", "controller", "--identity", "bench")
        self.api = Connection(self.server)
        self.config("50-one", {"config": {"ignition": {"version": "3.4.0"}}})
        for pool in self.pools:
            self.create(
                f"{GROUP}/machineconfigpools",
                {
                    "apiVersion": "machineconfiguration.openshift.io/v1",
                    "kind": "MachineConfigPool",
                    "metadata": {"name": pool},
                    "spec": {
                        "machineConfigSelector": {"matchLabels": {"machineconfiguration.openshift.io/role": "fleet"}},
                        "nodeSelector": {"matchLabels": {pool: ""}},
                        "maxUnavailable": "100%",
                    },
                },
            )
        began = time.perf_counter()
        fleet = ["--count", str(nodes), "--pool", ",".join(self.pools), "--heartbeat", heartbeat, "--keep"]
        self.start("agents", "simulate", "nodes", *fleet)
        self.before = self.until_updated({pool: "" for pool in self.pools})
        self.registered = time.perf_counter() - began

    def start(self, part, *command):
        self.parts[part] = subprocess.Popen(
            [self.caprock, *command, "--kubeconfig", self.server.kubeconfig],
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=self.log,
        )

    def ended(self):
        return any(process.poll() is not None for process in self.parts.values())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in reversed(self.parts.values()):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            process.wait()
        self.server.clean()
        shutil.rmtree(self.work, ignore_errors=True)

    def ask(self, method, path, body=b""):
        """As a client does it that was told that the server is busy: later."""
        while (answer := self.api.request(method, path, body))[0] == 429:
            time.sleep(1)
        return answer

    def create(self, path, body):
        expect(self.ask("POST", path, json.dumps(body).encode()), 201)

    def config(self, name, spec):
        labels = {"machineconfiguration.openshift.io/role": "fleet"}
        kind = {"apiVersion": "machineconfiguration.openshift.io/v1", "kind": "MachineConfig"}
        self.create(f"{GROUP}/machineconfigs", kind | {"metadata": {"name": name, "labels": labels}, "spec": spec})

    def pool(self, name):
        code, body = self.ask("GET", f"{GROUP}/machineconfigpools/{name}")
        expect((code, body), 200)
        return json.loads(body)

    def until_updated(self, before):
        """Waits until all nodes are at configs that are not `before`, and returns those."""
        began, reached = time.perf_counter(), {}
        share = self.nodes // len(self.pools)
        while len(reached) < len(self.pools):
            for name in self.pools:
                if name in reached:
                    continue
                pool = self.pool(name)
                status, config = pool.get("status", {}), pool["spec"].get("configuration", {}).get("name", "")
                there = status.get("updatedMachineCount", 0) >= share and config != before[name]
                if there and status.get("configuration", {}).get("name") == config:
                    reached[name] = config
                elif time.perf_counter() - began > DEADLINE or self.ended():
                    sys.exit(f"the fleet did not arrive: {json.dumps(status)}")
            time.sleep(0.05)
        return reached

    def tenth(self):
        """From now on 10 % of each pool at a time."""
        for pool in self.pools:
            server = self.server
            body = json.dumps({"spec": {"maxUnavailable": "10%"}}).encode()
            head = server.head("PATCH", f"{GROUP}/machineconfigpools/{pool}", len(body))
            head = head.replace(b"application/json", b"application/merge-patch+json")
            self.api.stream.sendall(head + body)
            expect(self.api.receive(), 200)

    def writes(self):
        """Writes that the server has answered so far, by what was written."""
        text, found = self.ask("GET", "/metrics")[1].decode(), {}
        for labels, count in re.findall(r"^apiserver_request_total\{(.*)\} (\S+)$", text, re.MULTILINE):
            label = dict(re.findall(r'(\w+)="([^"]*)"', labels))
            if label.get("verb", "").lower() in WRITES and label["resource"] in WRITTEN:
                what = "/".join(filter(None, (label["resource"], label.get("subresource"))))
                found[what] = found.get(what, 0) + float(count)
        return found

    def roll_out(self):
        """Takes all nodes through a reboot. Returns seconds, writes for a node, and processor time of each part."""
        self.tenth()
        before, spent, began = self.writes(), self.processor(), time.perf_counter()
        self.config("60-quiet", {"kernelArguments": ["quiet"]})
        self.until_updated(self.before)
        seconds = time.perf_counter() - began
        spent = {part: after - spent[part] for part, after in self.processor().items()}
        each = {what: (count - before.get(what, 0)) / self.nodes for what, count in self.writes().items()}
        return seconds, {what: count for what, count in each.items() if count >= 0.05}, spent

    def processor(self):
        """Seconds of each part."""
        stats = {part: Path(f"/proc/{process.pid}/stat").read_text() for part, process in self.parts.items()}
        fields = {part: stat.rsplit(")", 1)[1].split() for part, stat in stats.items()}
        return {part: (int(stat[11]) + int(stat[12])) / TICKS for part, stat in fields.items()}

    def memory(self):
        """Resident MiB of each part."""
        status = {part: Path(f"/proc/{process.pid}/status").read_text() for part, process in self.parts.items()}
        return {part: int(text.split("VmRSS:")[1].split()[0]) / 1024 for part, text in status.items()}


def of_parts(numbers, digits=0):
    """Nothing is known of a server that was there already."""
    parts = ("server", "controllers", "agents")
    return " / ".join(f"{numbers[part]:.{digits}f}" if part in numbers else "-" for part in parts)


def rolled_out(fleet, what, target=""):
    seconds, each, spent = fleet.roll_out()
    ours = sum(count for name, count in each.items() if name not in ("events", "nodes/status"))
    print_row(what, f"{seconds:.1f} s", target)
    print_row("  objects written for a node", f"{ours:.1f}", "6 and the pool's")
    for name, count in sorted(each.items(), key=lambda item: -item[1]):
        print_row(f"    {name}", f"{count:.1f}", {"nodes/status": "a kubelet's", "events": "not counted"}.get(name, ""))
    print_row("  processor time of server / controllers / agents", f"{of_parts(spent, 1)} s")
    print_row("  memory of server / controllers / agents", f"{of_parts(fleet.memory())} MiB")


def print_row(what, measured, target=""):
    print(f"{what:52}  {measured:>24}  {target}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--caprock", required=True, type=Path, help="a release build")
    parser.add_argument("--work", required=True, type=Path, help="a directory to work in")
    parser.add_argument("--kubeconfig", type=Path, help="an administrator's, of a server to measure instead of `caprock serve`")
    parser.add_argument("--only", choices=["200", "5000", "pools", "10000"], help="one of the fleets")
    options = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 65536), most))
    options.work.mkdir(parents=True, exist_ok=True)
    wanted = [options.only] if options.only else ["200", "5000", "pools", "10000"]
    print_row("roll-outs, 10 % at a time, a reboot of 1 s", "measured", "target")
    if "200" in wanted:
        with Fleet(options, 200) as fleet:
            rolled_out(fleet, "one pool of 200", "12 s (floor 10 s)")
    if "5000" in wanted:
        with Fleet(options, 5000, heartbeat="60s") as fleet:
            rolled_out(fleet, "one pool of 5,000", "(floor 10 s)")
    if "pools" in wanted:
        with Fleet(options, 5000, pools=50, heartbeat="60s") as fleet:
            rolled_out(fleet, "fifty pools of 100", "(floor 10 s)")
    if "10000" in wanted:
        with Fleet(options, 10_000, heartbeat="60s") as fleet:
            print_row("10,000 nodes registered and at their first config", f"{fleet.registered:.0f} s")
            time.sleep(5)
            before, began = fleet.processor(), time.perf_counter()
            time.sleep(30)
            waited = time.perf_counter() - began
            # The server has closed what was idle for so long.
            fleet.api = Connection(fleet.server)
            idle = {part: 100 * (after - before[part]) / waited for part, after in fleet.processor().items()}
            print_row("  of a core while nothing changes, each part", f"{of_parts(idle)} %")
            print_row("  memory of server / controllers / agents", f"{of_parts(fleet.memory())} MiB")
            rolled_out(fleet, "one pool of 10,000", "(floor 10 s)")
    print(f"({os.cpu_count()} cores)")


if __name__ == "__main__":
    main()
