#!/usr/bin/env python3
"""Measures the API server of `caprock serve`: start, memory, requests, watchers. Prints a table.

Run it on a quiet machine: `make bench`. The numbers are for people; no test looks at them.
"""

import argparse
import base64
import json
import os
import select
import shutil
import signal
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
from pathlib import Path

OBJECTS = 10_000
OBJECT_SIZE = 2048
WATCHERS = 1000
MAPS = "/api/v1/namespaces/default/configmaps"
# Some way below the limit of open files that systems have by default.
NEEDED_FILES = WATCHERS + 200


class Server:
    """A `caprock serve` with a data directory of its own."""

    def __init__(self, caprock, data, *flags):
        self.data = data
        self.kubeconfig = data / "kubeconfig"
        self.caprock = caprock
        self.flags = flags
        self.process = None

    def start(self):
        """Seconds until it answers that it is ready."""
        ports = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
        api, registry = (f"127.0.0.1:{port.getsockname()[1]}" for port in ports)
        for port in ports:
            port.close()
        log = open(self.data.with_suffix(".log"), "ab")
        began = time.perf_counter()
        self.process = subprocess.Popen(
            [self.caprock, "serve", "--data-dir", self.data, "--listen", api, "--registry-listen", registry, *self.flags],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        while not self.kubeconfig.exists():
            if self.process.poll() is not None:
                sys.exit(f"caprock serve ended; see {log.name}")
            time.sleep(0.002)
        config = json.loads(self.kubeconfig.read_text())
        cluster = config["clusters"][0]["cluster"]
        self.address, self.registry_host = ("127.0.0.1", int(api.rsplit(":", 1)[1])), registry
        self.token = config["users"][0]["user"]["token"]
        authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
        self.tls = ssl.create_default_context(cadata=authority)
        self.tls.set_alpn_protocols(["http/1.1"])
        # The file is there from the first start on, but nobody answers before the server is ready.
        while True:
            try:
                expect(Connection(self).request("GET", "/readyz"), 200)
                return time.perf_counter() - began
            except ConnectionRefusedError:
                time.sleep(0.002)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()

    def memory(self):
        """Resident MiB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1024

    def clean(self):
        """What was made is in the data directory."""

    def head(self, method, path, length=None):
        lines = [f"{method} {path} HTTP/1.1", "host: localhost"]
        if self.token:
            lines.append(f"authorization: Bearer {self.token}")
        if length is not None:
            lines += ["content-type: application/json", f"content-length: {length}"]
        return ("\r\n".join(lines) + "\r\n\r\n").encode()


class Given(Server):
    """A server that runs already, by the kubeconfig of an administrator of it."""

    def __init__(self, kubeconfig):
        self.kubeconfig = kubeconfig
        self.made = []
        view = json.loads(self.kubectl("config", "view", "--raw", "--minify", "--flatten", "-o", "json"))
        cluster, user = view["clusters"][0]["cluster"], view["users"][0]["user"]
        url = urllib.parse.urlsplit(cluster["server"])
        self.address = (url.hostname, url.port or 443)
        self.token = user.get("token")
        authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
        self.tls = ssl.create_default_context(cadata=authority)
        self.tls.set_alpn_protocols(["http/1.1"])
        if "client-certificate-data" in user:
            with tempfile.NamedTemporaryFile() as pem:
                for key in ("client-certificate-data", "client-key-data"):
                    pem.write(base64.b64decode(user[key]) + b"\n")
                pem.flush()
                self.tls.load_cert_chain(pem.name)

    def kubectl(self, *arguments):
        command = ["kubectl", "--kubeconfig", self.kubeconfig, *arguments]
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout

    def apply(self, *what):
        definitions = self.kubectl("get", "crd", "-o", "name")
        if "machineconfiguration.openshift.io" in definitions:
            sys.exit("this cluster has MachineConfigs of its own, which would be removed with what the bench makes")
        for flag, source in zip(what[::2], what[1::2]):
            self.kubectl("apply", "--server-side", flag, source)
            self.made.append((flag, source))
        self.kubectl("wait", "--for=condition=Established", "crd", "--all")

    def clean(self):
        """Simulated nodes and what was applied, with every object of the definitions in it."""
        self.kubectl("delete", "nodes", "-l", "caprock.dev/simulated")
        for flag, source in reversed(self.made):
            self.kubectl("delete", "--ignore-not-found", flag, source)


class Connection:
    """One kept connection; requests go one after the other."""

    def __init__(self, server):
        self.server = server
        plain = socket.create_connection(server.address)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.stream = server.tls.wrap_socket(plain, server_hostname=server.address[0])

    def request(self, method, path, body=b""):
        """Code and body of the answer."""
        self.send(method, path, body)
        return self.receive()

    def send(self, method, path, body=b""):
        self.stream.sendall(self.server.head(method, path, len(body) if body else None) + body)

    def read(self):
        """The next bytes; a server that closed the connection has none."""
        data = self.stream.recv(1 << 18)
        if not data:
            raise EOFError("the server closed the connection")
        return data

    def receive(self):
        """Code and body of the answer to the oldest request."""
        data = b""
        while b"\r\n\r\n" not in data:
            data += self.read()
        head, data = data.split(b"\r\n\r\n", 1)
        code, lines = int(head.split()[1]), head.lower().split(b"\r\n")
        length = next((int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length:")), None)
        if length is None:
            return code, self.chunks(data)
        parts = [data]
        got = len(data)
        while got < length:
            part = self.read()
            parts.append(part)
            got += len(part)
        return code, b"".join(parts)

    def chunks(self, data):
        """A body whose length its server did not know before; `data` is what came of it with the head."""
        parts = []
        while not parts or parts[-1]:
            while b"\r\n" not in data:
                data += self.read()
            size, data = data.split(b"\r\n", 1)
            size = int(size.split(b";")[0], 16)
            while len(data) < size + 2:
                data += self.read()
            parts.append(data[:size])
            data = data[size + 2 :]
        return b"".join(parts)


def config_map(name):
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": name},
            "data": {"key": "x" * (OBJECT_SIZE - 300)},
        }
    ).encode()


def p50(work, rounds):
    """Median milliseconds."""
    times = []
    for number in range(rounds):
        began = time.perf_counter()
        work(number)
        times.append(time.perf_counter() - began)
    return statistics.median(times) * 1000


def expect(found, wanted):
    if found[0] != wanted:
        sys.exit(f"expected {wanted}, got {found[0]}: {found[1][:300]}")


def fill(server):
    """Creates the objects on several connections, so that commits are shared."""

    def create(start, step):
        connection = Connection(server)
        for number in range(start, OBJECTS, step):
            expect(connection.request("POST", MAPS, config_map(f"bench-{number:05}")), 201)

    threads = [threading.Thread(target=create, args=(start, 16)) for start in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def watchers(server, version):
    """Milliseconds until every one of the watchers has seen a change: median of some rounds.

    One thread reads what all of them get as it arrives: an event loop would take longer than the server.
    """
    path = f"{MAPS}?watch=1&resourceVersion={version}&fieldSelector=metadata.name%3Dwatched"
    poll, streams = select.epoll(), {}
    for _ in range(WATCHERS):
        stream = Connection(server).stream
        stream.sendall(server.head("GET", path))
        head = b""
        while b"\r\n\r\n" not in head:
            head += stream.recv(4096)
        stream.setblocking(False)
        streams[stream.fileno()] = stream
        poll.register(stream, select.EPOLLIN)
    changer = Connection(server)
    body = json.loads(config_map("watched"))
    expect(changer.request("POST", MAPS, json.dumps(body).encode()), 201)
    times = []
    for number in range(8):
        body["data"]["round"] = str(number)
        # The first round reads the object's creation too.
        wanted = f'"round":"{number}"'.encode()
        time.sleep(0.2)
        began = time.perf_counter()
        changer.send("PUT", f"{MAPS}/watched", json.dumps(body).encode())
        seen, tails = set(), dict.fromkeys(streams, b"")
        while len(seen) < WATCHERS:
            for stream, _ in poll.poll():
                try:
                    data = tails[stream] + streams[stream].recv(1 << 16)
                except ssl.SSLWantReadError:
                    continue
                if wanted in data:
                    seen.add(stream)
                tails[stream] = data[-len(wanted) :]
        times.append(time.perf_counter() - began)
        expect(changer.receive(), 200)
    for stream in streams.values():
        stream.close()
    return statistics.median(times) * 1000


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--caprock", type=Path, required=True, help="a release build")
    parser.add_argument("--work", type=Path, required=True, help="a directory to work in")
    options = parser.parse_args()
    import resource

    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, max(NEEDED_FILES, 65536)), most))
    data = options.work / "api-data"
    shutil.rmtree(data, ignore_errors=True)
    data.mkdir(parents=True)
    server = Server(options.caprock, data)
    rows = []
    try:
        first = server.start()
        rows.append(("ready, first start (makes keys)", f"{first * 1000:.0f} ms", ""))
        time.sleep(2)
        rows.append(("memory, idle", f"{server.memory():.0f} MiB", "40 MiB"))
        connection = Connection(server)
        create = p50(lambda n: expect(connection.request("POST", MAPS, config_map(f"one-{n}")), 201), 500)
        get = p50(lambda n: expect(connection.request("GET", f"{MAPS}/one-{n % 500}"), 200), 2000)
        rows.append(("get, p50", f"{get:.2f} ms", "0.4 ms"))
        rows.append(("create, p50 (one client, durable)", f"{create:.2f} ms", "0.6 ms"))
        began = time.perf_counter()
        fill(server)
        rate = OBJECTS / (time.perf_counter() - began)
        rows.append(("create, 16 clients", f"{rate:.0f} per s", ""))
        listed = p50(lambda _: expect(connection.request("GET", f"{MAPS}?limit=500"), 200), 50)
        rows.append(("list of 500, p50", f"{listed:.1f} ms", "5 ms"))
        rows.append((f"memory, {OBJECTS} objects of {OBJECT_SIZE // 1024} KiB", f"{server.memory():.0f} MiB", "100 MiB"))
        version = json.loads(connection.request("GET", f"{MAPS}?limit=1")[1])["metadata"]["resourceVersion"]
        spread = watchers(server, version)
        rows.append((f"a change seen by {WATCHERS} watchers (client included)", f"{spread:.0f} ms", "30 ms"))
        server.stop()
        rows.append((f"ready again with {OBJECTS} objects", f"{server.start() * 1000:.0f} ms", "300 ms"))
    finally:
        if server.process.poll() is None:
            server.stop()
        shutil.rmtree(data, ignore_errors=True)
    width = max(len(name) for name, *_ in rows)
    print(f"{'API server':{width}}  {'measured':>12}  target")
    for name, value, target in rows:
        print(f"{name:{width}}  {value:>12}  {target}")
    print(f"({os.cpu_count()} cores)")


if __name__ == "__main__":
    main()
