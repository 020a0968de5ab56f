"""Newly created service account keys, and the endpoint that issues tokens for them, for both Google remotes."""

import json
import secrets
from pathlib import Path
from urllib.parse import parse_qs

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.auth import jwt

GOOGLES_TOKEN_URI = "https://oauth2.googleapis.com/token"


class Accounts:
    """The existing service accounts, their keys, and the valid access tokens."""

    def __init__(self, token_uri: str) -> None:
        self.token_uri = token_uri
        self.public: dict[str, bytes] = {}
        self._tokens: dict[str, str] = {}
        self.denied: dict[str, set[str]] = {}

    def new_key(self, folder: Path, *, known: bool = True) -> Path:
        """Create a service account's JSON key; unless `known`, the key is well-formed but belongs to no account."""
        private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        email = f"toprung-{secrets.token_hex(4)}@a-project.iam.gserviceaccount.com"
        if known:
            self.public[email] = private.public_key().public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        pem = private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        path = folder / f"{email.partition('@')[0]}.json"
        path.touch(mode=0o600)
        content = {
            "type": "service_account",
            "project_id": "a-project",
            "private_key_id": secrets.token_hex(20),
            "private_key": pem.decode(),
            "client_email": email,
            "client_id": "1",
            "token_uri": self.token_uri,
        }
        path.write_text(json.dumps(content))
        return path

    def revoke(self, key: Path) -> None:
        """Delete the key's account: its tokens become invalid, and no new ones are issued."""
        email = json.loads(key.read_text())["client_email"]
        self.public.pop(email, None)
        self.expire(key)

    def expire(self, key: Path) -> None:
        """Invalidate the account's tokens; new ones are still issued."""
        email = json.loads(key.read_text())["client_email"]
        self._tokens = {token: owner for token, owner in self._tokens.items() if owner != email}

    def deny(self, key: Path, *permissions: str) -> None:
        """Remove permissions from the account."""
        self.denied.setdefault(json.loads(key.read_text())["client_email"], set()).update(permissions)

    def grant(self, body: bytes) -> tuple[int, dict]:
        """Respond to a token request like Google's endpoint (RFC 7523)."""
        assertion = parse_qs(body.decode())["assertion"][0]
        email = jwt.decode(assertion, verify=False)["iss"]
        if email not in self.public:
            return 400, {"error": "invalid_grant", "error_description": "Invalid grant: account not found"}
        try:
            jwt.decode(assertion, certs=self.public[email], audience=[self.token_uri, GOOGLES_TOKEN_URI])
        except ValueError:
            return 400, {"error": "invalid_grant", "error_description": "Invalid JWT Signature."}
        token = secrets.token_urlsafe(24)
        self._tokens[token] = email
        return 200, {"access_token": token, "expires_in": 3600, "token_type": "Bearer"}

    def owner(self, authorization: str | None) -> str | None:
        """Return the account of a request's token, or None if the token is not valid."""
        return self._tokens.get((authorization or "").removeprefix("Bearer "))
