"""The checks of a tracking address before the first trial, and the messages if MLflow cannot record there."""

import contextlib
import datetime
import ssl
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.servers import LOOPBACK, free_port
from toprung.errors import UserError
from toprung.secrets import mask_uri
from toprung.tracking.connection import check, check_address, check_listening, describe_error
from toprung.tracking.server import ENVIRONMENT, check_reachable

PAGE = b"<!DOCTYPE html><html><style>h1 {}</style><body><h1>Forbidden</h1>\n<p>by nginx &amp; co</p></body></html>"


class _Forbidding(BaseHTTPRequestHandler):
    """A different program on the port, which responds to each request with its own page."""

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(403)
        self.send_header("Content-Length", str(len(PAGE)))
        self.end_headers()
        self.wfile.write(PAGE)

    do_GET = do_POST

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def _listening(context=None):
    with ThreadingHTTPServer((LOOPBACK, 0), _Forbidding) as server:
        if context is not None:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"{'http' if context is None else 'https'}://{LOOPBACK}:{server.server_port}"
        server.shutdown()
        thread.join()


def _self_signed(folder):
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "mlflow")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + datetime.timedelta(days=1))
    encoding = serialization.Encoding.PEM
    file = folder / "both.pem"
    file.write_bytes(
        key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + builder.sign(key, hashes.SHA256()).public_bytes(encoding)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return context


def _refusal(uri):
    with pytest.raises(UserError) as refused:
        check(uri)
    line = str(refused.value)
    assert "\n" not in line
    return line


def test_a_server_behind_a_proxy_can_be_used(proxy, monkeypatch):
    monkeypatch.setenv("http_proxy", proxy.url)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    check("http://mlflow.invalid:5000")
    assert proxy.count("/experiments/search") == 1


def test_an_unreachable_proxy_is_reported(monkeypatch):
    port = free_port()
    monkeypatch.setenv("http_proxy", f"http://{LOOPBACK}:{port}")
    line = _refusal("http://mlflow.invalid:5000")
    assert line.startswith("MLflow at http://mlflow.invalid:5000 cannot be used (Connection refused: ")
    assert "Unable to connect to proxy" in line


def test_an_untrusted_certificate_is_reported_with_the_variable_that_names_one(tmp_path):
    with _listening(_self_signed(tmp_path)) as uri:
        line = _refusal(uri)
    assert line.startswith(f"MLflow at {uri} cannot be used ([SSL: CERTIFICATE_VERIFY_FAILED] certificate ")
    assert line.endswith("export MLFLOW_TRACKING_SERVER_CERT_PATH=FILE")


def test_the_page_of_another_program_on_the_port_is_reported_without_markup():
    with _listening() as uri:
        line = _refusal(uri)
    assert "failed with error code 403" in line
    assert "Forbidden by nginx & co" in line
    assert "<" not in line
    assert "h1 {}" not in line


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("postgresql+psycopg2://me:canary@127.0.0.1:1/mlflow", "Connection refused"),
        ("http://me:canary@127.0.0.1:1", "(Connection refused: API request to http://***@127.0.0.1:1/"),
        ("sqlite:////proc/none/mlflow.db", "No such file or directory: '/proc/none'"),
    ],
)
def test_an_unusable_store_is_reported_in_one_line_with_the_whole_reason(uri, message):
    line = _refusal(uri)
    assert line.startswith("MLflow at ")
    assert message in line
    assert line.endswith("unset MLFLOW_TRACKING_URI to record in a local file.")
    assert "canary" not in line


@pytest.mark.parametrize(
    ("uri", "shown", "problem"),
    [
        ("./mlruns", "./mlruns", "MLflow takes it for a folder, and no longer records in folders; `mlflow migrate-"),
        ("127.0.0.1:5000", "127.0.0.1:5000", "MLflow takes it for a folder"),
        ("me:canary@host", "***@host", 'MLflow does not know the scheme "me"'),
        ("://", "://", "MLflow takes it for a folder"),
        ("file:///tmp/mlruns", "file:///tmp/mlruns", "MLflow takes it for a folder"),
        ("localhost:5000", "localhost:5000", 'MLflow does not know the scheme "localhost"'),
        ("htp://me:canary@x", "htp://***@x", 'MLflow does not know the scheme "htp"'),
        ("http://", "http://", "it has no host"),
        ("http://[bad", "http://[bad", "its host is not valid"),
        ("http://host:abc", "http://host:abc", "its port is not a number up to 65535"),
        ("http://me:ca/nary@host", "http://***@host", "its port is not a number up to 65535"),
    ],
)
def test_a_malformed_address_is_refused_without_importing_mlflow(uri, shown, problem, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)  # importing it would fail
    monkeypatch.setenv(ENVIRONMENT, uri)
    with pytest.raises(UserError) as refused:
        check_reachable()
    line = str(refused.value)
    assert line.startswith(f'MLFLOW_TRACKING_URI="{shown}" is not an address that MLflow can use ({problem}')
    assert line.endswith("such as http://HOST:5000, or unset MLFLOW_TRACKING_URI to record in a local file.")
    assert "nary" not in line
    assert _refusal(uri) == line


@pytest.mark.parametrize(
    "uri",
    [
        "https://host",
        "http://me:pass@host:5000/path",
        "postgresql+psycopg2://me:pa@ss/word@host/db",
        "sqlite:////a/b.db",
        "databricks",
        "databricks://profile",
    ],
)
def test_addresses_that_mlflow_knows_pass(uri):
    check_address(uri)


def test_a_folder_passes_if_mlflow_allows_it(monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    check_address("./mlruns")


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("http://me:canary@127.0.0.1:1", "Connection refused: no connection to 127.0.0.1:1"),
        ("http://mlflow.invalid", ": no connection to mlflow.invalid:80"),
        ("postgresql+psycopg2://me:canary@127.0.0.1:1/mlflow", "Connection refused"),
    ],
)
def test_an_unreachable_server_is_refused_without_importing_mlflow(uri, reason, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    monkeypatch.setenv(ENVIRONMENT, uri)
    with pytest.raises(UserError) as refused:
        check_reachable()
    line = str(refused.value)
    assert line.startswith(f"MLflow at {mask_uri(uri)} cannot be used (")
    assert reason in line
    assert line.endswith("). Start it, or unset MLFLOW_TRACKING_URI to record in a local file.")
    assert "canary" not in line


def test_a_server_that_listens_or_is_behind_a_proxy_is_left_to_mlflows_client(monkeypatch):
    with _listening() as uri:
        check_listening(uri)
    monkeypatch.setenv("http_proxy", f"http://{LOOPBACK}:1")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    check_listening("http://mlflow.invalid:5000")


def test_an_error_is_described_in_full_with_the_last_cause_first():
    whole = f"{'a long way round ' * 20}to the end"
    error = RuntimeError(whole)
    error.__cause__ = ConnectionResetError(104, "Connection reset by peer")
    assert describe_error(error) == f"Connection reset by peer: {whole}"
    assert describe_error(ValueError("(sqlite3.Error) locked\n[SQL: SELECT 1]\n(Background on this error at: x)")) == (
        "(sqlite3.Error) locked"
    )
    assert describe_error(KeyError()) == "KeyError"


def test_a_missing_database_driver_is_named_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    monkeypatch.setenv(ENVIRONMENT, "postgresql+psycopg://me:canary@127.0.0.1:1/mlflow")
    with pytest.raises(UserError, match=r"Install the database's driver \(pip install psycopg\)") as refused:
        check_reachable()
    assert "canary" not in str(refused.value)
