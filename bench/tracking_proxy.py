"""A real `mlflow server` behind a proxy that counts its requests, for bench/tracking.py."""

import contextlib
import http.client
import http.server
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter

HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "host", "content-length"}


@contextlib.contextmanager
def counted_server(folder):
    """Start the server and the proxy on loopback, and yield the proxy, which has `uri` and `counts`."""
    port = free_port()
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
        *("--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", f"{folder}/artifacts"),
    ]
    with open(folder / "mlflow.log", "w", encoding="utf-8") as log:
        server = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        wait_until_healthy(f"http://127.0.0.1:{port}/health", server)
        proxy = CountingProxy(("127.0.0.1", 0), Forwarding)
        proxy.upstream = port
        thread = threading.Thread(target=proxy.serve_forever, daemon=True)
        thread.start()
        yield proxy
        proxy.shutdown()
        proxy.server_close()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)  # the group holds only this server and its worker
        server.wait(timeout=30)


class CountingProxy(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.counts = Counter()
        self.lock = threading.Lock()
        self.uri = f"http://127.0.0.1:{self.server_port}"

    def take(self):
        """Return the requests since the last call, by method and path."""
        with self.lock:
            counts, self.counts = self.counts, Counter()
        return counts


class Forwarding(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def forward(self):
        with self.server.lock:
            self.server.counts[f"{self.command} {kind(self.path)}"] += 1
        upstream = http.client.HTTPConnection("127.0.0.1", self.server.upstream, timeout=120)
        headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP_BY_HOP}
        upstream.request(self.command, self.path, body=self.body(), headers=headers)
        response = upstream.getresponse()
        content = response.read()
        upstream.close()
        self.send_response_only(response.status, response.reason)
        for name, value in response.getheaders():
            if name.lower() not in HOP_BY_HOP:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = forward

    def body(self):
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        content = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content

    def log_message(self, *arguments):
        pass


def kind(path):
    """Return the path of a request without the parts that differ between runs, such as the names of artifacts."""
    path = path.partition("?")[0]
    return re.sub(r"(/mlflow-artifacts/artifacts)/.*", r"\1/...", path).removeprefix("/api/2.0")


def wait_until_healthy(url, server):
    for _ in range(240):
        if server.poll() is not None:
            sys.exit(f"mlflow server ended with {server.returncode}")
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5) as response:
            if response.status == 200:
                return
        time.sleep(0.5)
    sys.exit("mlflow server did not start within two minutes")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
