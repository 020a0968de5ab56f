"""Classify the exceptions of five client libraries: one word for the reason, and one line of text."""

from __future__ import annotations

import errno
import re

from toprung.errors import cause_chain

# Patterns for an exception's types, codes and text, in this order; the first that matches gives the reason.
_ERROR_PATTERNS = {
    "package": r"RemoteMissingDepsError | ModuleNotFoundError | ImportError | requires\ '.+'\ to\ be\ installed",
    "quota": r"storageQuotaExceeded | teamDriveFileLimitExceeded | QuotaExceeded | ENOSPC | EDQUOT | No\ space\ left",
    "rate": r"userRateLimitExceeded | rateLimitExceeded | dailyLimitExceeded | SlowDown | TooManyRequests",
    "no_key": r"""Anonymous\ caller | NoCredentialsError | DefaultCredentialsError | Unable\ to\ locate\ credentials |
        To\ use\ service\ account,\ set""",
    "no_bucket": r"NoSuchBucket | bucket\ does\ not\ exist",
    "key": r"""InvalidAccessKeyId | SignatureDoesNotMatch | InvalidClientTokenId | ExpiredToken | InvalidToken |
        invalid_grant | invalid_client | Invalid\ Credentials | authError | AccessTokenRefreshError |
        Permission\ denied\ for\ user | Public\ key\ mismatch | KeyImportError |
        Could\ not\ deserialize\ key | asyncssh\.misc\.PermissionDenied""",
    "host_key": r"HostKeyNotVerifiable",
    "unreachable": r"""EndpointConnectionError | ConnectTimeout | ConnectionClosedError | ReadTimeout | ProxyError |
        ProxyConnectionError | TransportError | ServerNotFoundError | ClientConnectorError | ServerDisconnectedError |
        ConnectionLost | Connection\ lost | Connection\ closed | ConnectionError | ConnectionRefusedError |
        ConnectionResetError | gaierror | TimeoutError | SSLError | SSLCertVerificationError | IncompleteRead |
        RemoteDisconnected | BrokenPipe | ECONNREFUSED | ENETUNREACH | EHOSTUNREACH""",
    "missing": r"FileNotFoundError | NotADirectoryError | SFTPNoSuchFile | NoSuchKey | ENOENT | \[Errno\ 2\] | \b404\b",
    "denied": r"""PermissionError | AccessDenied | [Ff]orbidden | SFTPPermissionDenied | SFTPWriteProtect |
        insufficientFilePermissions | EACCES | EPERM | EROFS | \b403\b | denied""",
}


def describe(error: BaseException) -> dict[str, str]:
    """Return the reason, and the message of the exception in the chain that shows it."""
    chain = cause_chain(error)
    for reason, pattern in _ERROR_PATTERNS.items():
        for cause in reversed(chain):  # the root cause has the clearest message
            if re.search(pattern, _evidence(cause), re.VERBOSE):
                return {"reason": reason, "message": _line(str(cause) or type(cause).__name__)}
    return {"reason": "other", "message": _line(str(chain[-1]) or type(chain[-1]).__name__)}


def describe_text(text: str) -> dict[str, str]:
    """Return the same as `describe` for an exception of which only the text is left."""
    reasons = (reason for reason, pattern in _ERROR_PATTERNS.items() if re.search(pattern, text, re.VERBOSE))
    return {"reason": next(reasons, "other"), "message": _line(text)}


def _evidence(error: BaseException) -> str:
    number = getattr(error, "errno", None)
    code = errno.errorcode.get(number, "") if isinstance(number, int) else ""
    names = " ".join(f"{cls.__module__}.{cls.__name__}" for cls in type(error).__mro__[:-3])
    return f"{names} {code} {error}"


def _line(text: str) -> str:
    text = " ".join(text.split())
    for inner in (r"'error_description': '([^']+)'", r'returned "(.+?)"\. Details'):  # google-auth, googleapiclient
        if match := re.search(inner, text):
            text = match[1]
    return text if len(text) <= 300 else f"{text[:297]}..."
