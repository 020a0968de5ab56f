"""The two ways in which a request to MLflow can fail, for every kind of store."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from mlflow.exceptions import MlflowException

from toprung.tracking.connection import describe_error

RETRY_STATUS_CODES = (408, 429)


class ServerUnavailable(ConnectionError):
    """No usable answer from the server: the request may or may not have taken effect."""


class RequestRejected(ValueError):
    """The server refused the request and would refuse it again."""


def http_status(error: MlflowException) -> int:
    """Return the HTTP status code of an error of MLflow's client, for every kind of store."""
    return int(error.get_http_status_code())  # type: ignore[no-untyped-call]


@contextlib.contextmanager
def translate_errors() -> Iterator[None]:
    """Raise every error of MLflow's client as `ServerUnavailable` or `RequestRejected`."""
    try:
        yield
    except MlflowException as error:
        code = http_status(error)
        raced = "IntegrityError" in str(error)  # two sweeps inserted the same row: a retry finds it
        is_refusal = 400 <= code < 500 and code not in RETRY_STATUS_CODES and not raced
        raise (RequestRejected if is_refusal else ServerUnavailable)(describe_error(error)) from None
    except Exception as error:  # from requests, urllib3, SQLAlchemy or the operating system
        if isinstance(error, ServerUnavailable | RequestRejected):
            raise
        raise ServerUnavailable(describe_error(error)) from None
