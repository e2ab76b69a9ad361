#!/usr/bin/env python3
"""Measures `caprock build` beside buildah and the bare commands, in alternating rounds, and prints a table.

Run it as root on a quiet machine: `make bench`. The numbers are for people; no test looks at them.
"""

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

from api import Server

ROOT = Path(__file__).resolve().parent.parent
MIB = 1 << 20
# RUNs in one Containerfile, so that what a build costs once is a small part of each.
RUNS = 10


def sh(args, **options):
    """Runs a command; its output is shown only when it fails."""
    done = subprocess.run(args, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, args))}\n{done.stdout.decode(errors='replace')[-4000:]}")
    return done.stdout.decode(errors="replace").strip()


def timed(*commands):
    """Seconds that commands take, one after the other."""
    began = time.perf_counter()
    for command in commands:
        sh(command)
    return time.perf_counter() - began


def content(size, seed):
    """Bytes of which half can be compressed away, as in a file system of programs."""
    source = random.Random(seed)
    words = b" ".join(b"%d" % source.randrange(10_000) for _ in range(4096))
    out = bytearray()
    while len(out) < size:
        out += source.randbytes(1200)
        at = source.randrange(len(words) - 2900)
        out += words[at : at + 2900]
    return bytes(out[:size])


class Registry(Server):
    """The registry of `caprock serve`, which all tools push to."""

    def __init__(self, caprock, work):
        super().__init__(caprock, work / "serve")
        self.start()
        self.certs = work / "certs"
        self.certs.mkdir()
        shutil.copy(self.data / "pki/ca.crt", self.certs)
        self.auth = self.data / "registry-auth.json"


class Caprock:
    name = "caprock"

    def __init__(self, binary, work, registry):
        self.binary, self.registry = binary, registry
        self.cache = work / "caprock-cache"
        self.access = ["--authfile", registry.auth, "--ca-file", registry.certs / "ca.crt"]
        self.forget()

    def commands(self, file, context, tag=None, args=()):
        command = [self.binary, "build", "--cache-dir", self.cache, "-f", file, *self.access]
        for arg in args:
            command += ["--build-arg", arg]
        if tag:
            command += ["--push", "-t", f"{self.registry.registry_host}/{tag}"]
        return [[*command, context]]

    def forget(self):
        shutil.rmtree(self.cache, ignore_errors=True)


class Buildah:
    """Its faster configuration: overlay storage and chroot isolation."""

    name = "buildah"

    def __init__(self, work, registry):
        self.work, self.registry = work, registry
        storage = ["--root", work / "buildah", "--runroot", work / "buildah-run", "--storage-driver", "overlay"]
        self.base = ["buildah", *storage]
        self.access = ["--authfile", registry.auth, "--cert-dir", registry.certs]
        self.forget()

    def commands(self, file, context, tag=None, args=()):
        build = [*self.base, "bud", "--quiet", "--isolation", "chroot", "--layers", *self.access, "-f", file]
        for arg in args:
            build += ["--build-arg", arg]
        name = f"{self.registry.registry_host}/{tag or 'bench/none'}"
        commands = [[*build, "-t", name, context]]
        if tag:
            commands.append([*self.base, "push", "--quiet", *self.access, name])
        return commands

    def forget(self):
        if (self.work / "buildah").exists():
            sh([*self.base, "rmi", "--all", "--force"])


class Bench:
    def __init__(self, options, work):
        self.work, self.rounds, self.only = work, options.rounds, options.only
        self.registry = Registry(options.caprock, work)
        self.tools = [Caprock(options.caprock, work, self.registry)]
        if shutil.which("buildah"):
            self.tools.append(Buildah(work, self.registry))
        self.nonce = 0
        self.rows = []

    def file(self, name, text):
        path = self.work / name
        path.write_text(text)
        return path

    def fresh(self):
        """A build argument that no build had before."""
        self.nonce += 1
        return f"NONCE={self.nonce}-{os.getpid()}"

    def context(self, name):
        path = self.work / name
        path.mkdir()
        return path

    def base(self):
        """Pushes the image that the others start from: busybox, and a file to make large layers of."""
        context = self.context("base")
        for name in ("bin", "etc", "tmp"):
            (context / "root" / name).mkdir(parents=True)
        shutil.copy("/bin/busybox", context / "root/bin/busybox")
        for applet in ("sh", "true", "cp", "mkdir", "seq"):
            (context / "root/bin" / applet).symlink_to("busybox")
        (context / "root/seed").write_bytes(content(10 * MIB, 1))
        file = self.file("Base", "FROM scratch\nCOPY root /\n")
        for command in self.tools[0].commands(file, context, "bench/base:1"):
            sh(command)
        return f"{self.registry.registry_host}/bench/base:1"

    def row(self, name, what, measure, bare=None, divide=1):
        """One row of the table. `measure(tool, round)` gives seconds; rounds alternate between the tools."""
        if self.only and name not in self.only:
            return
        found = {tool.name: [] for tool in self.tools}
        if bare:
            found["bare"] = []
        for number in range(self.rounds):
            for tool in self.tools:
                found[tool.name].append(measure(tool, number) / divide)
            if bare:
                found["bare"].append(bare(number) / divide)
        self.rows.append((what, found))
        cells = "  ".join(f"{key} {show(values)}" for key, values in found.items())
        print(f"{what}: {cells}", flush=True)

    def run(self):
        base = self.base()
        empty = self.context("empty")
        # Each tool has the base image before anything is measured.
        warm = self.file("Warm", f"FROM {base}\nRUN true\n")
        for tool in self.tools:
            for command in tool.commands(warm, empty):
                sh(command)

        one = self.file("One", f"FROM {base}\nARG NONCE\nRUN : $NONCE\n")
        many = self.file("Many", f"FROM {base}\nARG NONCE\n" + "".join(f"RUN : $NONCE {n}\n" for n in range(RUNS + 1)))

        def each_run(tool, _):
            few = timed(*tool.commands(one, empty, args=[self.fresh()]))
            return timed(*tool.commands(many, empty, args=[self.fresh()])) - few

        bundle = self.bundle()
        self.row("run", "one trivial `RUN`", each_run, lambda _: sum(timed(bundle) for _ in range(RUNS)), RUNS)

        same = self.file("Same", f"FROM {base}\nCOPY . /x/\n" + "".join(f"RUN : {n}\n" for n in range(5)))
        small = self.context("small")
        (small / "file").write_text("content")
        for tool in self.tools:
            for command in tool.commands(same, small, "bench/same:" + tool.name):
                sh(command)
        self.row("same", "rebuild, nothing changed", lambda tool, _: timed(*tool.commands(same, small)))
        self.row(
            "same-pushed",
            "rebuild, nothing changed, pushed",
            lambda tool, _: timed(*tool.commands(same, small, "bench/same:" + tool.name)),
        )
        last = self.file("Last", same.read_text() + "ARG NONCE\nRUN : $NONCE\n")
        self.row(
            "last",
            "rebuild, last step changed",
            lambda tool, _: timed(*tool.commands(last, small, args=[self.fresh()])),
        )

        copy = self.file("Copy", f"FROM {base}\nARG NONCE\nLABEL nonce=$NONCE\nCOPY files /files/\n")
        if not self.only or "copy" in self.only:
            files = self.files()

            def copied(tool, number):
                # Other content each time, so that nobody has it already.
                (files / "files/0/0").write_text(f"{tool.name} {number} {os.getpid()}")
                return timed(*tool.commands(copy, files, f"bench/copy:{tool.name}", args=[self.fresh()]))

            self.row("copy", "`COPY` of 10,000 files (200 MB), pushed", copied, lambda _: self.bare(files / "files"))

        self.packages()

        for mib in (500, 42):
            fill = f"for i in $(seq {mib // 10}); do cp /seed /d/$i; done; : $NONCE"
            if mib % 10:
                fill = f"for i in 1 2 3 4; do cp /seed /d/$i; done; : $NONCE"
            large = self.file(f"Large{mib}", f"FROM {base}\nARG NONCE\nRUN mkdir /d; {fill}; echo $NONCE >/d/nonce\n")
            made = self.work / f"made-{mib}"

            def bare(_, made=made, mib=mib):
                shutil.rmtree(made, ignore_errors=True)
                made.mkdir()
                seed = self.work / "base/root/seed"
                copies = timed(*[["cp", seed, made / str(n)] for n in range(mib // 10)])
                return copies + self.bare(made, copy=False)

            self.row(
                f"layer-{mib}",
                f"`RUN` that writes {mib // 10 * 10} MiB, committed and pushed",
                lambda tool, _, large=large, mib=mib: timed(
                    *tool.commands(large, empty, f"bench/large{mib}:{tool.name}", args=[self.fresh()])
                ),
                bare,
            )

    def packages(self):
        """Rows about a package of a distribution, on the demo's base image."""
        if self.only and not {"apt", "apt-warm"} & set(self.only):
            return
        layout = sh([ROOT / "demo/base-image.sh"]).splitlines()[-1]
        image = f"{self.registry.registry_host}/bench/debian:bookworm"
        sh([self.tools[0].binary, "copy", f"oci:{layout}:bookworm", image, *self.tools[0].access])
        empty = self.context("no-files")
        install = "apt-get update -qq && apt-get install -y -qq --no-install-recommends autofs >/dev/null"
        clean = "apt-get clean && rm -rf /var/lib/apt/lists/*"
        kept = "--mount=type=cache,target=/var/cache/apt,sharing=locked --mount=type=cache,target=/var/lib/apt/lists,sharing=locked"
        # The image empties the package cache after each installation, unless it is told otherwise.
        keep = "rm -f /etc/apt/apt.conf.d/docker-clean; : $NONCE"
        environment = "ENV DEBIAN_FRONTEND=noninteractive"
        cold = self.file("Apt", f"FROM {image}\n{environment}\nARG NONCE\nRUN : $NONCE; {install} && {clean}\n")
        warm = self.file("AptWarm", f"FROM {image}\n{environment}\nARG NONCE\nRUN {kept} {keep}; {install}\n")

        def built(file):
            return lambda tool, _: timed(*tool.commands(file, empty, f"bench/apt:{tool.name}", args=[self.fresh()]))

        for tool in self.tools:
            # Base image and caches are there before anything is measured.
            built(warm)(tool, 0)
        root = self.work / "debian"
        root.mkdir()
        index = json.loads((Path(layout) / "index.json").read_text())
        blob = lambda digest: Path(layout) / "blobs/sha256" / digest.removeprefix("sha256:")
        manifest = json.loads(blob(index["manifests"][0]["digest"]).read_text())
        for layer in manifest["layers"]:
            sh(["tar", "-C", root, "-xf", blob(layer["digest"])])
        self.row("apt", "cold build: apt installs `autofs`, pushed", built(cold), lambda _: self.bare_run(root, f"{install} && {clean}"))
        self.row("apt-warm", "the same with warm package caches", built(warm))

    def bare_run(self, root, command):
        """What the command costs under the bare runtime over `root`, and then archiving what it changed."""
        place = self.work / "bare-run"
        shutil.rmtree(place, ignore_errors=True)
        for name in ("root", "upper", "work"):
            (place / name).mkdir(parents=True)
        spec = self.spec(place / "root", ["/bin/sh", "-c", command])
        spec["process"]["env"].append("DEBIAN_FRONTEND=noninteractive")
        capabilities = ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_SETGID", "CAP_SETUID", "CAP_KILL", "CAP_SYS_CHROOT"]
        spec["process"]["capabilities"] = dict.fromkeys(["bounding", "effective", "permitted"], capabilities)
        spec["root"]["readonly"] = False
        spec["mounts"].append(
            {"destination": "/etc/resolv.conf", "type": "bind", "source": "/etc/resolv.conf", "options": ["bind", "ro"]}
        )
        (place / "config.json").write_text(json.dumps(spec))
        options = f"lowerdir={root},upperdir={place}/upper,workdir={place}/work,volatile"
        mount = f"mount -t overlay overlay -o {options} {place}/root"
        run = self.runtime(place)
        run[-1] = f"{mount} && {{ {run[-1]}; }}"
        return timed(run) + self.bare(place / "upper", copy=False)

    def files(self):
        context = self.context("copy")
        block = content(4 * MIB, 2)
        source = random.Random(3)
        for directory in range(100):
            place = context / "files" / str(directory)
            place.mkdir(parents=True)
            for number in range(100):
                at = source.randrange(len(block) - 20_000)
                (place / str(number)).write_bytes(block[at : at + 20_000])
        return context

    def bundle(self):
        """The command that runs `true` in the base image under the bare runtime."""
        bundle = self.context("bundle")
        shutil.copytree(self.work / "base/root", bundle / "rootfs", symlinks=True)
        spec = self.spec("rootfs", ["/bin/sh", "-c", ":"])
        (bundle / "config.json").write_text(json.dumps(spec))
        return self.runtime(bundle)

    def spec(self, root, args):
        """The runtime's own example, for a command that shares the host's network and has no cgroup."""
        place = self.work / "spec"
        place.mkdir(exist_ok=True)
        (place / "config.json").unlink(missing_ok=True)
        sh(["crun", "spec"], cwd=place)
        spec = json.loads((place / "config.json").read_text())
        spec["process"].update(terminal=False, args=args)
        spec["root"]["path"] = str(root)
        spec["linux"]["namespaces"] = [{"type": kind} for kind in ("pid", "ipc", "uts", "mount")]
        spec["linux"].pop("resources", None)
        spec["mounts"] = [mount for mount in spec["mounts"] if mount["type"] != "cgroup"]
        return spec

    def runtime(self, bundle):
        # The runtime refuses machines that have both cgroup versions unless it cannot see one of them.
        hide = "umount -l /sys/fs/cgroup/unified 2>/dev/null; " if Path("/sys/fs/cgroup/unified").exists() else ""
        run = f"{hide}exec crun --cgroup-manager=disabled run --bundle {bundle} bench"
        return ["unshare", "--mount", "sh", "-c", run]

    def bare(self, tree, copy=True):
        """What a layer costs in shell: copy, archive, compress with every core, hash, store."""
        to, blob = self.work / "bare", self.work / "bare.tar.gz"
        shutil.rmtree(to, ignore_errors=True)
        gzip = "pigz -1" if shutil.which("pigz") else "gzip -1"
        archive = f"tar -C {to if copy else tree} -c . | {gzip} >{blob}; sha256sum {blob}; cp {blob} {blob}.pushed; sync {blob}.pushed"
        copying = [["cp", "-a", tree, to]] if copy else []
        return timed(*copying, ["sh", "-ec", archive])

    def table(self):
        names = [tool.name for tool in self.tools]
        print("\n| what | " + " | ".join([*names, "bare commands"]) + " |")
        print("|---" * (len(names) + 2) + "|")
        for what, found in self.rows:
            cells = [show(found[name]) if name in found else "" for name in [*names, "bare"]]
            print(f"| {what} | " + " | ".join(cells) + " |")


def show(values):
    """The median and the fastest of some seconds."""
    middle, least = statistics.median(values), min(values)
    if middle < 1:
        return f"{middle * 1000:.0f} ms ({least * 1000:.0f})"
    return f"{middle:.2f} s ({least:.2f})"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--caprock", type=Path, default=ROOT / "target/release/caprock")
    parser.add_argument("--work", type=Path, default=ROOT / "target/bench", help="a directory on a disk, not in memory")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", metavar="ROW", help="run, same, same-pushed, last, copy, apt, apt-warm, layer-500, layer-42")
    options = parser.parse_args()
    if os.geteuid():
        sys.exit("this needs root: run it with sudo")
    sh(["rm", "-rf", "--one-file-system", options.work])
    options.work.mkdir(parents=True)
    bench = Bench(options, options.work)
    try:
        load = os.getloadavg()[0]
        print(f"{os.cpu_count()} cores, load {load:.1f}; median of {options.rounds} rounds (fastest)", flush=True)
        bench.run()
        bench.table()
    finally:
        for tool in bench.tools:
            tool.forget()
        bench.registry.stop()


if __name__ == "__main__":
    main()
