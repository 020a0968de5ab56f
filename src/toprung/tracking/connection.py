"""Check a tracking URI, and prepare what MLflow's client needs: its settings and the schema of a new SQLite file."""

from __future__ import annotations

import logging
import os
import re
import socket
import urllib.request
from html import unescape
from importlib import metadata
from urllib.parse import urlsplit

import filelock
import urllib3

from toprung import atomic_write
from toprung.errors import UserError, cause_chain
from toprung.secrets import mask_text, mask_uri
from toprung.tracking.local_store import database_file, sqlite_uri

SERVERS = ("http", "https")
DATABASES = ("postgresql", "mysql", "sqlite", "mssql")  # the dialects that MLflow supports
DATABRICKS = ("databricks", "databricks-uc", "uc")
STORE_PLUGINS = "mlflow.tracking_store"  # MLflow's entry points for other schemes
TIMEOUT_SECONDS = 10  # for a connection and for each request
MAX_REASON_LENGTH = 2000


def configure_client() -> None:
    """Set the options of MLflow's client that it reads at each call.

    Its retries are off: it would send `runs/create` again after a lost answer, and create two runs.
    """
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"  # it prints the URL with its password
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    os.environ["MLFLOW_ENABLE_ASYNC_LOGGING"] = "false"  # a call returns when the server has the data
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(TIMEOUT_SECONDS))
    logging.getLogger("mlflow").setLevel(logging.WARNING)


def create_sqlite_schema(uri: str) -> None:
    """Create the schema of a new SQLite file under another name, then rename it.

    MLflow can neither use nor repair a file whose schema was left incomplete.
    """
    file = database_file(uri)
    if file is None or file.exists():
        _connect(uri)
        return
    from mlflow import MlflowClient

    with filelock.FileLock(file.with_name(f".{file.name}.lock")):
        if file.exists():
            return
        with atomic_write.staged_file(file) as staging:
            staging.unlink(missing_ok=True)  # MLflow would open what a killed process left
            MlflowClient(tracking_uri=sqlite_uri(staging)).search_experiments(max_results=1)


def _connect(uri: str) -> None:
    """Connect to a database once; MLflow itself would retry for an hour."""
    if _scheme(uri) in DATABASES:
        import sqlalchemy

        engine = sqlalchemy.create_engine(uri)
        try:
            engine.connect().close()
        finally:
            engine.dispose()


def _scheme(uri: str) -> str:
    """Return the scheme without a database's driver: `postgresql` for `postgresql+psycopg2://...`."""
    return urlsplit(uri).scheme.partition("+")[0]


def check_address(uri: str) -> None:
    """Check the form of a tracking URI, without importing MLflow or connecting.

    Raises:
        UserError: MLflow has no use for such a URI.
    """
    if (problem := _address_problem(uri)) is None:
        return
    address = re.sub(r"^[^/]*@", "***@", mask_uri(uri))  # a password may also precede the @ in a URI without a scheme
    raise UserError(
        f'MLFLOW_TRACKING_URI="{address}" is not an address that MLflow can use ({problem}). '
        "Give one such as http://HOST:5000, or unset MLFLOW_TRACKING_URI to record in a local file."
    )


def _address_problem(uri: str) -> str | None:
    try:
        scheme = _scheme(uri)
    except ValueError:  # its text may contain the password
        return "its host is not valid"
    if scheme in ("", "file") and uri not in DATABRICKS:
        if os.environ.get("MLFLOW_ALLOW_FILE_STORE", "").lower() in ("true", "1"):
            return None
        return "MLflow takes it for a folder, and no longer records in folders; `mlflow migrate-filestore` converts one"
    if scheme in SERVERS:
        try:
            host, _ = urlsplit(uri).hostname, urlsplit(uri).port
            return None if host else "it has no host"
        except ValueError:
            return "its port is not a number up to 65535"
    plugins = {entry.name for entry in metadata.entry_points(group=STORE_PLUGINS)}
    if scheme and scheme not in {*DATABASES, *DATABRICKS, *plugins}:
        return f'MLflow does not know the scheme "{scheme}"'
    return None


def check_listening(uri: str) -> None:
    """Check that a server or a database accepts connections, without importing MLflow, which takes seconds.

    A server behind a proxy and an SQLite file are left to `check`.

    Raises:
        UserError: it does not.
    """
    try:
        if _scheme(uri) in SERVERS:
            _connect_to_server(uri)
        elif database_file(uri) is None:
            _connect(uri)
    except Exception as error:  # from the operating system, SQLAlchemy or a database's driver
        raise _unusable(uri, error) from None


def _connect_to_server(uri: str) -> None:
    parts = urlsplit(uri)
    host, port = str(parts.hostname), parts.port or (443 if parts.scheme == "https" else 80)
    proxies = urllib.request.getproxies()
    if ({parts.scheme, "all"} & proxies.keys()) and not urllib.request.proxy_bypass(host):
        return
    try:
        socket.create_connection((host, port), timeout=TIMEOUT_SECONDS).close()
    except OSError as error:
        raise ConnectionError(f"no connection to {host}:{port}") from error


def ping(uri: str) -> None:
    """Send one harmless query to a store; MLflow's many exceptions say what is wrong with it."""
    configure_client()
    create_sqlite_schema(uri)
    from mlflow import MlflowClient

    MlflowClient(tracking_uri=uri).search_experiments(max_results=1)


def check(uri: str) -> None:
    """Check with MLflow's own client that it can record here: only it knows its proxy, certificate and password.

    Raises:
        UserError: it cannot. The message has the whole reason, the last cause first, and what to do.
    """
    check_address(uri)
    try:
        ping(uri)
    except Exception as error:  # from MLflow, requests, urllib3, SQLAlchemy or the operating system
        raise _unusable(uri, error) from None


def _unusable(uri: str, error: Exception) -> UserError:
    return UserError(f"MLflow at {mask_uri(uri)} cannot be used ({describe_error(error)}). {remedy(uri, error)}")


def describe_error(error: BaseException) -> str:
    """Return why MLflow's client failed in one line: the last cause first, without secrets, markup and SQL."""
    texts = [_plain(str(error)) or type(error).__name__]
    # MLflow's own text says more than other causes, such as a KeyError; an error of the operating system is complete.
    causes = [cause for cause in cause_chain(error)[1:] if isinstance(cause, OSError | urllib3.exceptions.HTTPError)]
    is_plain = isinstance(error, OSError) and error.strerror
    if causes and not is_plain:
        last = _plain(getattr(causes[-1], "strerror", None) or str(causes[-1]))
        texts = [last, *texts] if last != texts[0] else texts
    return ": ".join(texts)[:MAX_REASON_LENGTH].rstrip(". ")


def _plain(text: str) -> str:
    text = re.split(r"\n\[SQL:|\n\(Background on this error", text, maxsplit=1)[0]
    if re.search(r"<(!doctype|html)\b", text, re.IGNORECASE):  # a page of some other server on that port
        text = unescape(re.sub(r"(?is)<(script|style)\b.*?</\1>|<[^>]*>", " ", text))
    return mask_text(" ".join(text.split()))


def remedy(uri: str, error: Exception) -> str:
    """Return what to do about an error of MLflow's client."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"Install the database's driver (pip install {error.name}), or name another in the address."
    text, status = str(error), getattr(error, "get_http_status_code", lambda: 0)()
    if status in (401, 403) or "401" in text.partition("\n")[0] or "not authenticated" in text:
        return "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN."
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return "Give the certificate of its authority: export MLFLOW_TRACKING_SERVER_CERT_PATH=FILE"
    if "out-of-date database schema" in text:
        return f"Keep a copy, then type: mlflow db upgrade {mask_uri(uri)}"
    return "Start it, or unset MLFLOW_TRACKING_URI to record in a local file."
