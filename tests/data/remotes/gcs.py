"""Google Cloud Storage: the emulator, behind a proxy that checks tokens and permissions as Google does."""

import http.client
import json
import re
import secrets
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from tests.data.remotes.google import Accounts
from tests.data.remotes.relay import Relay
from tests.servers import LOOPBACK, free_port, wait_until


class Gcs:
    """An in-memory emulator, its gate and a relay in front of them; `port` is the relay's."""

    def __init__(self, folder: Path) -> None:
        self.emulator_port, self._log = free_port(), folder / "emulator.log"
        self._gate = ThreadingHTTPServer((LOOPBACK, 0), _gate_of(self))
        self.relay = Relay(self._gate.server_address[1])
        self.endpoint = f"http://{LOOPBACK}:{self.relay.port}"
        self.accounts = Accounts(f"{self.endpoint}/token")

    def __enter__(self) -> "Gcs":
        command = [sys.executable, "-c", "from gcp_storage_emulator.__main__ import main; main()"]
        command += ["start", "--host", LOOPBACK, "--port", str(self.emulator_port), "--in-memory"]
        with self._log.open("wb") as output:
            self._process = subprocess.Popen(command, stdout=output, stderr=output)
        threading.Thread(target=self._gate.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        self.relay.__enter__()
        try:
            wait_until(self._answers, "the storage emulator")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.relay.__exit__()
        self._gate.shutdown()
        self._gate.server_close()
        self._process.kill()
        self._process.wait()

    def new_bucket(self) -> str:
        name = f"bucket-{secrets.token_hex(6)}"
        body, headers = json.dumps({"name": name}).encode(), {"Content-Type": "application/json"}
        assert self.forward("POST", "/storage/v1/b", body, headers)[0] == 200
        return name

    def forward(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes, dict]:
        connection = http.client.HTTPConnection(LOOPBACK, self.emulator_port, timeout=30)
        try:
            connection.request(method, path, body=body, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.read(), dict(answer.headers)
        finally:
            connection.close()

    def _answers(self) -> bool:
        assert self._process.poll() is None, self._log.read_text()
        try:
            return self.forward("GET", "/", b"", {})[0] == 200
        except OSError:
            return False


def permission_of(method: str, path: str) -> str:
    """Return the permission that Google requires (cloud.google.com/storage/docs/access-control/iam-json)."""
    if method == "DELETE":
        return "storage.objects.delete"
    if path.startswith("/upload/") or method in ("POST", "PUT"):
        return "storage.objects.create"
    if re.fullmatch(r"/storage/v1/b/[^/]+/o/?", path):
        return "storage.objects.list"
    if re.fullmatch(r"/storage/v1/b/[^/]+/?", path):
        return "storage.buckets.get"
    return "storage.objects.get"


def _gate_of(gcs: Gcs) -> type[BaseHTTPRequestHandler]:
    class Gate(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def _serve(self) -> None:
            body = self._body()
            path = urlsplit(self.path).path
            if path == "/token":
                status, content = gcs.accounts.grant(body)
                self._send(status, json.dumps(content).encode(), {"Content-Type": "application/json"})
                return
            email, permission = gcs.accounts.owner(self.headers.get("Authorization")), permission_of(self.command, path)
            if email is None:
                self._refuse(401, "Invalid Credentials")
            elif permission in gcs.accounts.denied.get(email, ()):
                self._refuse(
                    403,
                    f"{email} does not have {permission} access to the Google Cloud Storage object. "
                    f"Permission '{permission}' denied on resource (or it may not exist).",
                )
            else:
                headers = {name: value for name, value in self.headers.items() if name.lower() != "transfer-encoding"}
                headers["Content-Length"] = str(len(body))
                self._send(*gcs.forward(self.command, self.path, body, headers))

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            chunks = []
            while size := int(self.rfile.readline().partition(b";")[0], 16):
                chunks.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(chunks)

        def _refuse(self, status: int, message: str) -> None:
            error = {"code": status, "message": message, "errors": [{"message": message, "domain": "global"}]}
            self._send(status, json.dumps({"error": error}).encode(), {"Content-Type": "application/json"})

        def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in headers.items():
                if name.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    return Gate
