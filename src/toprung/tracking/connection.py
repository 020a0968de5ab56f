"""What must be so before MLflow's client is used: its own settings, a whole schema in a new sqlite file, an answer."""

from __future__ import annotations

import logging
import os
import re
from html import unescape

import filelock
import urllib3
from mlflow import MlflowClient

from toprung.errors import UserError
from toprung.secrets import mask_text, mask_uri
from toprung.tracking.local_store import database_file, sqlite_uri

DATABASES = ("postgresql", "mysql", "sqlite", "mssql")  # those that MLflow records in
MAX_REASON_LENGTH = 2000


def configure_client() -> None:
    """Settings of MLflow's client that are read at each call.

    It must not retry by itself: it would send `runs/create` again after an answer that was lost, and make two runs.
    """
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"  # it prints the address with its password
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    os.environ["MLFLOW_ENABLE_ASYNC_LOGGING"] = "false"  # what has been sent must have arrived
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    logging.getLogger("mlflow").setLevel(logging.WARNING)


def create_sqlite_schema(uri: str) -> None:
    """Make the schema of a new sqlite file aside: MLflow cannot use, nor mend, a schema that was half made."""
    file = database_file(uri)
    if file is None or file.exists():
        _connect(uri)
        return
    with filelock.FileLock(file.with_name(f".{file.name}.lock")):
        if file.exists():
            return
        staging = file.with_name(f".{file.name}.new")
        staging.unlink(missing_ok=True)
        MlflowClient(tracking_uri=sqlite_uri(staging)).search_experiments(max_results=1)
        os.replace(staging, file)


def _connect(uri: str) -> None:
    """Connect to a database once: MLflow itself tries a database that cannot be used again and again, for an hour."""
    if uri.partition(":")[0].partition("+")[0] in DATABASES:
        import sqlalchemy

        engine = sqlalchemy.create_engine(uri)
        try:
            engine.connect().close()
        finally:
            engine.dispose()


def ping(uri: str) -> None:
    """Put one harmless question to a store; MLflow's many exceptions tell what is wrong with it."""
    configure_client()
    create_sqlite_schema(uri)
    MlflowClient(tracking_uri=uri).search_experiments(max_results=1)


def check(uri: str) -> None:
    """Ask MLflow's own client whether it can record here: it alone knows which proxy, certificate and password it uses.

    Raises:
        UserError: it cannot, with its whole reason, the last cause first, and what to do.
    """
    try:
        ping(uri)
    except Exception as error:  # MLflow's, requests', urllib3's, sqlalchemy's, an operating system's
        raise UserError(
            f"MLflow at {mask_uri(uri)} cannot be used ({describe_error(error)}). {remedy(uri, error)}"
        ) from None


def describe_error(error: BaseException) -> str:
    """Return why MLflow's client failed on one line, the last cause first, without secrets, markup and SQL."""
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and cause not in chain:
        chain.append(cause)
    texts = [_plain(str(error)) or type(error).__name__]
    # Of others, such as a KeyError, MLflow says more; an operating system's own error says it all.
    causes = [each for each in chain[1:] if isinstance(each, OSError | urllib3.exceptions.HTTPError)]
    is_plain = isinstance(error, OSError) and error.strerror
    if causes and not is_plain:
        last = _plain(getattr(causes[-1], "strerror", None) or str(causes[-1]))
        texts = [last, *texts] if last != texts[0] else texts
    return ": ".join(texts)[:MAX_REASON_LENGTH].rstrip(". ")


def _plain(text: str) -> str:
    text = re.split(r"\n\[SQL:|\n\(Background on this error", text, maxsplit=1)[0]
    if re.search(r"<(!doctype|html)\b", text, re.IGNORECASE):  # a page of whatever else answers there
        text = unescape(re.sub(r"(?is)<(script|style)\b.*?</\1>|<[^>]*>", " ", text))
    return mask_text(" ".join(text.split()))


def remedy(uri: str, error: Exception) -> str:
    """Return what to do about an error of MLflow's client."""
    text, status = str(error), getattr(error, "get_http_status_code", lambda: 0)()
    if status in (401, 403) or "401" in text.partition("\n")[0] or "not authenticated" in text:
        return "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN."
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return "Name the certificate of its authority: export MLFLOW_TRACKING_SERVER_CERT_PATH=FILE"
    if "out-of-date database schema" in text:
        return f"Keep a copy, then type: mlflow db upgrade {mask_uri(uri)}"
    return "Start it, or unset MLFLOW_TRACKING_URI to record in a local file."
