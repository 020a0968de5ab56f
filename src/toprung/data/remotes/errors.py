"""Why a remote refused: the exceptions of five client libraries, as one word and one line."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator

# What is looked for in an exception's types, codes and words, in this order; the first that is found is the reason.
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
    """The reason, and the line in which the library that knows best says it."""
    chain = list(_chain(error))
    for reason, sign in _ERROR_PATTERNS.items():
        for cause in reversed(chain):  # the root cause says it best
            if re.search(sign, _evidence(cause), re.VERBOSE):
                return {"reason": reason, "said": _line(str(cause) or type(cause).__name__)}
    return {"reason": "other", "said": _line(str(chain[-1]) or type(chain[-1]).__name__)}


def describe_text(text: str) -> dict[str, str]:
    """The same for an exception of which only the words are left."""
    reasons = (reason for reason, sign in _ERROR_PATTERNS.items() if re.search(sign, text, re.VERBOSE))
    return {"reason": next(reasons, "other"), "said": _line(text)}


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, what caused it, what caused that; each once."""
    visited: set[int] = set()
    following: BaseException | None = error
    while following is not None and id(following) not in visited:
        visited.add(id(following))
        yield following
        following = following.__cause__ or following.__context__


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
