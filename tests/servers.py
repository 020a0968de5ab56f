"""Real servers on loopback for tests: PostgreSQL, MLflow's tracking server, and a proxy that fails on demand.

Each is a context manager that starts within seconds and ends all of its processes. `from tests.servers import ...`
works in test modules and in every conftest.py: the project root is on `sys.path`, and `tests` is a namespace package.
"""

import contextlib
import http.client
import json
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import psycopg2

LOOPBACK = "127.0.0.1"


def wait_until(check: Callable[[], object], what: str, *, timeout_seconds: float = 60) -> None:
    """Poll until `check` returns true; after the timeout fail with a message that names `what`."""
    deadline = time.monotonic() + timeout_seconds
    while not check():
        assert time.monotonic() < deadline, f"waited {timeout_seconds} s for {what}"
        time.sleep(0.02)


def is_healthy(url: str) -> bool:
    """Return whether an HTTP server answers GET /health with 200."""
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5) as response:
            return response.status == 200
    except OSError:
        return False


def free_port() -> int:
    """Return a free port below the ephemeral range: no outgoing connection takes it while its server is down."""
    while True:
        port = 20_000 + secrets.randbelow(12_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((LOOPBACK, port))
            return port


class Postgres:
    """A temporary PostgreSQL cluster on loopback with a password (SCRAM), but without a Unix socket or fsync."""

    user = "toprung"

    def __init__(self) -> None:
        self.port, self.password = free_port(), secrets.token_urlsafe(12)
        self._process: subprocess.Popen[bytes] | None = None

    @staticmethod
    def missing() -> str | None:
        """Return why PostgreSQL cannot run here, or None if it can."""
        if _postgres_binaries() is None:
            return "PostgreSQL's initdb is neither on PATH nor in /usr/lib/postgresql (Debian: postgresql)"
        if os.geteuid() == 0 and not _user_exists("postgres"):
            return "PostgreSQL refuses to run as root, and there is no user `postgres` to run it as"
        return None

    def __enter__(self) -> "Postgres":
        # Not below pytest's own temporary folder, which no other user may enter.
        self._folder = Path(tempfile.mkdtemp(prefix="toprung-postgres-"))
        password_file, owner = self._folder / "password", _postgres_owner()
        password_file.write_text(self.password)
        if owner:
            for path in (self._folder, password_file):
                shutil.chown(path, owner["user"], owner["group"])
        initdb = [self._binary("initdb"), "--pgdata", "data", "--username", self.user, "--pwfile", "password"]
        initdb += ["--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C", "--no-sync", "--no-instructions"]
        try:
            result = subprocess.run(initdb, check=False, cwd=self._folder, capture_output=True, text=True, **owner)
            assert result.returncode == 0, result.stderr
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self._folder)

    def start(self) -> None:
        """Start the server, if it is stopped, with the same port and data, and return when it accepts connections."""
        if self._process is not None:
            return
        settings = {"port": self.port, "listen_addresses": LOOPBACK, "unix_socket_directories": ""}
        settings |= {"fsync": "off", "full_page_writes": "off", "shared_buffers": "16MB"}
        command = [self._binary("postgres"), "-D", "data"]
        command += [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        log = self._folder / "log"
        with log.open("ab") as output:
            self._process = process = subprocess.Popen(
                command, cwd=self._folder, stdout=output, stderr=output, start_new_session=True, **_postgres_owner()
            )

        def answers() -> bool:
            assert process.poll() is None, log.read_text()
            try:
                psycopg2.connect(self.uri("postgres", driver=None), connect_timeout=5).close()
            except psycopg2.OperationalError:
                return False
            return True

        wait_until(answers, "PostgreSQL")

    def stop(self) -> None:
        """Stop the server at once, as in a crash: connections break, committed data is kept."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)  # PostgreSQL's "immediate shutdown": the children end first
            self._process.wait(timeout=30)
            self._process = None

    def new_database(self, name: str) -> str:
        """Create an empty database, dropping an existing one of this name, and return its SQLAlchemy URI."""
        with contextlib.closing(psycopg2.connect(self.uri("postgres", driver=None))) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
                cursor.execute(f'CREATE DATABASE "{name}"')
        return self.uri(name)

    def uri(self, database: str, *, driver: str | None = "psycopg2", password: str | None = None) -> str:
        """Return a database's URI with user and password, in libpq's format if no driver is given."""
        scheme = f"postgresql+{driver}" if driver else "postgresql"
        return f"{scheme}://{self.user}:{password or self.password}@{LOOPBACK}:{self.port}/{database}"

    def _binary(self, name: str) -> str:
        folder = _postgres_binaries()
        assert folder is not None, self.missing()
        return str(folder / name)


def _postgres_binaries() -> Path | None:
    """Return the folder of PostgreSQL's programs. Debian has one per major version, not on PATH; return the newest."""
    if result := shutil.which("initdb"):
        return Path(result).resolve().parent
    folders = [file.parent for file in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    return max(folders, key=lambda folder: float(folder.parent.name), default=None)


def _user_exists(name: str) -> bool:
    with contextlib.suppress(KeyError):
        return bool(pwd.getpwnam(name))
    return False


def _postgres_owner() -> dict:
    """Return `subprocess` arguments for the user that runs PostgreSQL: `postgres` if this process runs as root."""
    if os.geteuid() != 0:
        return {}
    return {"user": "postgres", "group": pwd.getpwnam("postgres").pw_gid, "extra_groups": []}


class TrackingServer:
    """A real `mlflow server`, by default on SQLite. It keeps its port and its runs when it is restarted after a fault.

    `url` is its address; `uri` includes user and password if it is protected by MLflow's basic auth.
    """

    user = "admin"

    def __init__(self, folder: Path, *, backend_uri: str | None = None, protected: bool = False) -> None:
        self._folder, self._log = folder, folder / "server.log"
        self._backend_uri = backend_uri or f"sqlite:///{folder}/server.db"
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()
        self.url = self.uri = f"http://{LOOPBACK}:{self.port}"
        self._environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
        # Job execution is for MLflow's GenAI evaluations: eight more processes and 17 s of processor time at start.
        self._environment |= {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        self._app: list[str] = []
        if protected:
            self.password = secrets.token_urlsafe(12)
            self.uri = f"http://{self.user}:{self.password}@{LOOPBACK}:{self.port}"
            self._app = ["--app-name", "basic-auth"]
            configuration = folder / "basic_auth.ini"
            configuration.write_text(
                f"[mlflow]\ndefault_permission = READ\ndatabase_uri = sqlite:///{folder}/users.db\n"
                f"admin_username = {self.user}\nadmin_password = {self.password}\n"
            )
            self._environment["MLFLOW_AUTH_CONFIG_PATH"] = str(configuration)
            self._environment["MLFLOW_FLASK_SERVER_SECRET_KEY"] = secrets.token_hex(16)

    def __enter__(self) -> "TrackingServer":
        try:
            self.start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def log(self) -> str:
        """The server's output since its first start."""
        return self._log.read_text()

    def start(self) -> None:
        """Start the server, or resume it if it is suspended, and return when it responds."""
        if self._process is None:
            command = [sys.executable, "-m", "mlflow", "server", *self._app, "--workers", "1"]
            command += ["--host", LOOPBACK, "--port", str(self.port), "--backend-store-uri", self._backend_uri]
            command += ["--artifacts-destination", str(self._folder / "artifacts")]
            with self._log.open("ab") as output:
                self._process = subprocess.Popen(
                    command, stdout=output, stderr=output, env=self._environment, start_new_session=True
                )
        else:
            os.killpg(self._process.pid, signal.SIGCONT)
        wait_until(self._answers, "the tracking server", timeout_seconds=120)

    def suspend(self) -> None:
        """Suspend the server: the kernel still accepts connections, but requests are not answered."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGSTOP)

    def kill(self) -> None:
        """Kill the server and all of its child processes (SIGKILL); from then on connections are refused."""
        if self._process is None:
            return
        processes = self.processes()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(timeout=30)
        self._process = None
        wait_until(lambda: not any(map(_is_running, processes)), "the tracking server's end")
        wait_until(self._refuses, "a refused connection")

    def processes(self) -> list[psutil.Process]:
        """Return the server's process and all of its child processes."""
        if self._process is None:
            return []
        with contextlib.suppress(psutil.NoSuchProcess):
            command = psutil.Process(self._process.pid)
            return [command, *command.children(recursive=True)]
        return []

    def _refuses(self) -> bool:
        """Return whether nothing listens any more; a process that has just been killed may reset a connection."""
        try:
            socket.create_connection((LOOPBACK, self.port), timeout=1).close()
        except ConnectionRefusedError:
            return True
        except OSError:
            pass
        return False

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log
        connection = http.client.HTTPConnection(LOOPBACK, self.port, timeout=1)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


def _is_running(process: psutil.Process) -> bool:
    """Return whether a process still runs; a zombie does not."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE
    return False


@dataclass(frozen=True)
class Request:
    """A request received by the proxy; `path` does not include the query."""

    method: str
    path: str
    query: str
    body: bytes
    authorization: str | None

    @property
    def json(self) -> dict:
        return json.loads(self.body)


@dataclass
class _Fault:
    kind: str  # "answer", "hang" or "drop"
    path: str
    times: float
    status: int = 500
    over: threading.Event = field(default_factory=threading.Event)


class FaultyProxy:
    """A reverse proxy that records every request and forwards it, unless a fault is set.

    There is one fault at a time, until the next one or `pass_on`. `path` restricts a fault to requests whose path ends
    with it, `times` to the first of them; all others are forwarded. If the target is down, the response is 502.
    """

    def __init__(self, target_url: str) -> None:
        self._target = urlsplit(target_url).netloc.rpartition("@")[2]
        self.port = free_port()
        self.url = f"http://{LOOPBACK}:{self.port}"
        self._recorded: list[Request] = []
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._fault: _Fault | None = None
        self._server: ThreadingHTTPServer | None = None

    def __enter__(self) -> "FaultyProxy":
        self.pass_on()
        return self

    def __exit__(self, *_: object) -> None:
        self.refuse()

    @property
    def requests(self) -> list[Request]:
        """All requests so far, in the order in which they arrived."""
        with self._lock:
            return list(self._recorded)

    @property
    def counts(self) -> Counter[str]:
        """The number of requests for each path."""
        return Counter(request.path for request in self.requests)

    def count(self, path: str) -> int:
        """Return the number of requests whose path ends with `path`."""
        return sum(request.path.endswith(path) for request in self.requests)

    def pass_on(self) -> None:
        """End the fault, if there is one."""
        self._begin(None)

    def answer(self, status: int, *, path: str = "", times: float = float("inf")) -> None:
        """Answer with this status without forwarding the request."""
        self._begin(_Fault("answer", path, times, status))

    def hang(self, *, path: str = "", times: float = float("inf")) -> None:
        """Leave requests unanswered; when the fault ends, forward them late, even if their clients have gone."""
        self._begin(_Fault("hang", path, times))

    def drop_answers(self, *, path: str = "", times: float = float("inf")) -> None:
        """Forward requests, but close the connection instead of responding, so that clients do not know the result."""
        self._begin(_Fault("drop", path, times))

    def refuse(self) -> None:
        """Break all open connections and refuse new ones; drop requests that hang."""
        if self._server is not None:
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()
            self._server = None
        self._change(None)
        wait_until(self._cut, "the end of every connection")

    def _cut(self) -> bool:
        """Break all open connections, to clients and to the target, and return whether there were none."""
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            return not self._open

    def _begin(self, fault: _Fault | None) -> None:
        self._change(fault)
        if self._server is None:
            self._server = _Listener(self)
            self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
            self._thread.start()

    def _change(self, fault: _Fault | None) -> None:
        with self._lock:
            previous, self._fault = self._fault, fault
        if previous is not None:
            previous.over.set()

    @contextlib.contextmanager
    def _connected(self) -> Iterator[http.client.HTTPConnection]:
        """Open a connection to the target, which `refuse` breaks like those of clients."""
        with contextlib.closing(http.client.HTTPConnection(self._target, timeout=60)) as connection:
            connection.connect()
            link = connection.sock
            with self._lock:
                self._open.add(link)
            try:
                yield connection
            finally:
                with self._lock:
                    self._open.discard(link)

    def _record(self, request: Request) -> _Fault | None:
        """Record a request and return the fault that applies to it, if any."""
        with self._lock:
            self._recorded.append(request)
            fault = self._fault
            if fault is None or fault.times < 1 or not request.path.endswith(fault.path):
                return None
            fault.times -= 1
            return fault


class _Listener(ThreadingHTTPServer):
    request_queue_size = 64

    def __init__(self, proxy: FaultyProxy) -> None:
        self.proxy = proxy
        super().__init__((LOOPBACK, proxy.port), _Handler)

    def process_request(self, request: socket.socket, client_address: object) -> None:
        with self.proxy._lock:
            self.proxy._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: socket.socket) -> None:
        super().shutdown_request(request)
        with self.proxy._lock:
            self.proxy._open.discard(request)

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exception(), OSError):  # expected: clients disconnect, and faults break connections
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: _Listener
    protocol_version = "HTTP/1.1"  # connections stay open, as those of a real server do

    def _serve(self) -> None:
        proxy, body, parts = self.server.proxy, self._body(), urlsplit(self.path)
        request = Request(self.command, parts.path, parts.query, body, self.headers.get("Authorization"))
        fault = proxy._record(request)
        if fault is not None and fault.kind == "hang":
            fault.over.wait()
            if proxy._server is None:
                self.close_connection = True
                return
        if fault is not None and fault.kind == "answer":
            self._send(fault.status, b"an error from the test's proxy", {"Content-Type": "text/plain"})
            return
        status, content, headers = self._forward(body)
        if fault is not None and fault.kind == "drop":
            self.close_connection = True
            return
        self._send(status, content, headers)

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

    def _forward(self, body: bytes) -> tuple[int, bytes, dict[str, str]]:
        hop_by_hop = ("host", "connection", "content-length", "transfer-encoding", "accept-encoding")
        headers = {name: value for name, value in self.headers.items() if name.lower() not in hop_by_hop}
        forwarded = ("content-type", "location", "www-authenticate", "retry-after")
        try:
            with self.server.proxy._connected() as connection:
                # As an http_proxy it gets a whole URL in self.path.
                path = urlsplit(self.path)._replace(scheme="", netloc="").geturl()
                connection.request(self.command, path, body=body, headers=headers)
                answer = connection.getresponse()
                headers = {name: value for name, value in answer.headers.items() if name.lower() in forwarded}
                return answer.status, answer.read(), headers
        except (OSError, http.client.HTTPException) as error:
            return 502, str(error).encode(), {"Content-Type": "text/plain"}

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass
