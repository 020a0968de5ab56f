"""Masking of secrets in text that is printed, logged or written to a file."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

MASK = "***"
MIN_LENGTH = 4  # a shorter value would also be masked inside ordinary words
SECRET_VARIABLES = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
# In these schemes a name before the @ is a login or part of a path. In others, such as https, it may be a token.
SCHEMES_WITHOUT_TOKENS = ("gdrive", "gs", "s3", "sftp", "ssh")

# Up to the last @ of a word: a password that was not percent-encoded may contain an @ or a slash itself.
_USERINFO = re.compile(r"(?P<scheme>[\w+.-]*)://(?P<userinfo>[^/\s]\S*)@")
_QUERY_SECRET = re.compile(r"([?&][^=&\s]*(?:pass|pwd|secret|token|key)[^=&\s]*=)[^&\s]+", re.IGNORECASE)


def mask_uri(uri: str, *, keep_user: bool = False) -> str:
    """Return a URI, or a text with URIs in it, without the secrets in them.

    User name and password become `***`, as in `https://***@host/`, and so does each value in the query whose name says
    that it is secret, as in `?token=***`. A lone user name stays if the scheme takes no token there (`ssh://me@host`).

    Args:
        uri: one URI, or any text.
        keep_user: mask the password only, as in `postgresql://me:***@host/`, to tell the databases of two users apart.
    """

    def mask_userinfo(match: re.Match[str]) -> str:
        scheme, userinfo = match["scheme"], match["userinfo"]
        user, colon, _ = userinfo.partition(":")
        if not colon and (keep_user or scheme.lower() in SCHEMES_WITHOUT_TOKENS):
            return match[0]
        if keep_user and re.fullmatch(r"[^/@]*", user):
            return f"{scheme}://{user}:{MASK}@"
        return f"{scheme}://{MASK}@"

    return _QUERY_SECRET.sub(rf"\1{MASK}", _USERINFO.sub(mask_userinfo, uri))


def has_password(uri: str) -> bool:
    """Return whether a URI, or a text with URIs in it, contains a password or another secret that `mask_uri` masks."""
    return mask_uri(uri, keep_user=True) != uri


def mask_text(text: str, *, values: Iterable[str] = ()) -> str:
    """Return a text, such as another program's error message, without secrets.

    Masked are the secrets in its URIs (see `mask_uri`), the AWS credentials of this environment, and given values.

    Args:
        text: the text.
        values: further secrets, such as those of DVC's settings.
    """
    text = mask_uri(text)
    secrets = {*values, *(os.environ.get(name, "") for name in SECRET_VARIABLES)}
    for secret in sorted(secrets, key=len, reverse=True):  # the longest first: one may be part of another
        if len(secret) >= MIN_LENGTH:
            text = text.replace(secret, MASK)
    return text
