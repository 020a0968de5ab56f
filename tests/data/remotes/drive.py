"""A fake Google Drive with the v2 API calls that DVC makes, behind a proxy that accepts CONNECT, with a private CA.

It models these calls and the errors that Google documents, which may differ from the behavior of the real service.
`https_proxy` and `HTTPLIB2_CA_CERTS` redirect DVC's unmodified client to it. It has two folders: one in a shared drive,
and one in a user's My Drive that is shared with the service account. In the latter, every upload fails, because
service accounts have no storage quota.
"""

import contextlib
import datetime
import hashlib
import json
import re
import secrets
import ssl
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.data.remotes.google import GOOGLES_TOKEN_URI, Accounts
from tests.data.remotes.relay import Relay
from tests.servers import LOOPBACK

FOLDER_TYPE = "application/vnd.google-apps.folder"
HOSTS = ("www.googleapis.com", "oauth2.googleapis.com")
SHARED_DRIVE = "a-shared-drive"


@dataclass
class Item:
    """A file, or a folder if `content` is None."""

    title: str
    parent: str
    drive: str | None
    content: bytes | None = None

    def metadata(self, item_id: str) -> dict:
        about = {"id": item_id, "title": self.title, "parents": [{"id": self.parent}], "labels": {"trashed": False}}
        if self.drive:
            about["driveId"] = self.drive
        if self.content is None:
            return about | {"mimeType": FOLDER_TYPE}
        md5 = hashlib.md5(self.content).hexdigest()
        return about | {"mimeType": "application/octet-stream", "fileSize": str(len(self.content)), "md5Checksum": md5}


class Drive:
    """The fake server, its proxy and a relay in front of them."""

    def __init__(self, folder: Path) -> None:
        self.accounts = Accounts(GOOGLES_TOKEN_URI)
        self.items = {
            SHARED_DRIVE: Item("Data", "", SHARED_DRIVE),
            "in-the-shared-drive": Item("toprung", SHARED_DRIVE, SHARED_DRIVE),
            "in-my-drive": Item("toprung", "root-of-a-person", None),
        }
        self.uploads: dict[str, Item] = {}
        self.num_requests = 0
        self._tls = _tls_of(folder)
        self._server = ThreadingHTTPServer((LOOPBACK, 0), _handler_of(self))
        self.relay = Relay(self._server.server_address[1])
        self.environ = {
            "https_proxy": f"http://{LOOPBACK}:{self.relay.port}",
            "no_proxy": "",
            "HTTPLIB2_CA_CERTS": str(folder / "ca.pem"),
        }

    def __enter__(self) -> "Drive":
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        self.relay.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.relay.__exit__()
        self._server.shutdown()
        self._server.server_close()

    def new_folder(self, title: str, *, parent: str) -> None:
        """Create a folder, as a user would."""
        self.items[secrets.token_hex(8)] = Item(title, parent, self.items[parent].drive)

    def find_ids(self, query: str) -> list[str]:
        """Return the IDs that match a `q` parameter: children of some folders, optionally with a given title."""
        parents = re.findall(r"'([^']+)' in parents", query)
        title = re.search(r"title='((?:[^'\\]|\\.)*)'", query)
        expected_title = title[1].replace("\\'", "'") if title else None
        return [
            item_id
            for item_id, item in list(self.items.items())
            if item.parent in parents and (expected_title is None or item.title.lower() == expected_title.lower())
        ]

    def refusal(self, email: str | None, method: str, path: str, parent: str | None) -> tuple[int, str, str] | None:
        """Return the status, reason and message if Google would refuse this request, or None."""
        if email is None:
            return 401, "authError", "Invalid Credentials"
        needed = "read"
        if method == "DELETE" or path.endswith("/trash"):
            needed = "delete"
        elif method in ("POST", "PUT"):
            needed = "write"
        if needed in self.accounts.denied.get(email, ()):
            return 403, "insufficientFilePermissions", "The user does not have sufficient permissions for this file."
        if path.startswith("/upload/") and parent and self.items[parent].drive is None:
            return 403, "storageQuotaExceeded", "The user's Drive storage quota has been exceeded."
        return None


def _tls_of(folder: Path) -> ssl.SSLContext:
    """Create a temporary CA, and a certificate for Google's host names that it signs."""
    now = datetime.datetime.now(datetime.UTC)

    def certificate(
        name: str, key: ec.EllipticCurvePrivateKey, issuer: str, signer: ec.EllipticCurvePrivateKey
    ) -> bytes:
        is_authority = name == issuer
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=2))
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        )
        if not is_authority:
            names = x509.SubjectAlternativeName([x509.DNSName(host) for host in HOSTS])
            builder = builder.add_extension(names, critical=False)
        return builder.sign(signer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    authority, own = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    (folder / "ca.pem").write_bytes(certificate("Test authority", authority, "Test authority", authority))
    private = own.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "server.pem").write_bytes(private + certificate(HOSTS[0], own, "Test authority", authority))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem")
    return context


def _handler_of(drive: Drive) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_CONNECT(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.flush()
            try:
                self.connection = drive._tls.wrap_socket(self.connection, server_side=True)
            except OSError:
                self.close_connection = True
                return
            self.rfile, self.wfile = self.connection.makefile("rb"), self.connection.makefile("wb")
            self.close_connection = False

        def finish(self) -> None:
            with contextlib.suppress(OSError):
                super().finish()
            self.connection.close()

        def _serve(self) -> None:
            drive.num_requests += 1
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            url = urlsplit(self.path)
            if url.path == "/token":
                self._answer(*drive.accounts.grant(body))
                return
            query = {name: values[0] for name, values in parse_qs(url.query).items()}
            item_id = url.path.removeprefix("/drive/v2/files").strip("/").removesuffix("/trash")
            about = json.loads(body) if body[:1] == b"{" and self.command == "POST" else {}
            parent = about.get("parents", [{}])[0].get("id")
            email = drive.accounts.owner(self.headers.get("Authorization"))
            if refused := drive.refusal(email, self.command, url.path, parent):
                self._refuse(*refused)
            elif (parent and parent not in drive.items) or (
                item_id and not url.path.startswith("/upload/") and item_id not in drive.items
            ):
                self._refuse(404, "notFound", f"File not found: {parent or item_id}")
            elif url.path.startswith("/upload/"):
                self._upload(query, about, parent, body)
            elif self.command == "POST" and not item_id:
                self._answer(200, self._made(about, parent, None))
            elif self.command == "DELETE" or url.path.endswith("/trash"):
                self._answer(200, drive.items.pop(item_id).metadata(item_id))
            elif not item_id:
                ids = drive.find_ids(query.get("q", ""))
                self._answer(200, {"items": [drive.items[item_id].metadata(item_id) for item_id in ids]})
            elif query.get("alt") == "media":
                self._download(drive.items[item_id].content or b"")
            else:
                self._answer(200, drive.items[item_id].metadata(item_id))

        do_GET = do_POST = do_PUT = do_DELETE = _serve

        def _made(self, about: dict, parent: str, content: bytes | None) -> dict:
            item_id = secrets.token_hex(8)
            drive.items[item_id] = Item(about["title"], parent, drive.items[parent].drive, content)
            return drive.items[item_id].metadata(item_id)

        def _upload(self, query: dict, about: dict, parent: str, body: bytes) -> None:
            """Handle a resumable upload: first the metadata, then the bytes to the location from the response."""
            if session := query.get("upload_id"):
                waiting = drive.uploads[session]
                waiting.content = (waiting.content or b"") + body
                total = (self.headers.get("Content-Range") or "").rpartition("/")[2]
                if total.isdigit() and len(waiting.content) < int(total):
                    self._send(308, b"", {"Range": f"bytes=0-{len(waiting.content) - 1}"})
                    return
                item_id = secrets.token_hex(8)
                drive.items[item_id] = drive.uploads.pop(session)
                self._answer(200, drive.items[item_id].metadata(item_id))
                return
            session = secrets.token_hex(8)
            drive.uploads[session] = Item(about["title"], parent, drive.items[parent].drive)
            location = f"https://{HOSTS[0]}/upload/drive/v2/files?uploadType=resumable&upload_id={session}"
            self._send(200, b"", {"Location": location})

        def _download(self, content: bytes) -> None:
            asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
            if not asked:
                self._send(200, content, {})
                return
            first = int(asked[1])
            part = content[first : int(asked[2]) + 1 if asked[2] else None]
            self._send(206, part, {"Content-Range": f"bytes {first}-{first + len(part) - 1}/{len(content)}"})

        def _refuse(self, status: int, reason: str, message: str) -> None:
            domain = "usageLimits" if "Exceeded" in reason else "global"
            errors = [{"domain": domain, "reason": reason, "message": message}]
            self._answer(status, {"error": {"code": status, "message": message, "errors": errors}})

        def _answer(self, status: int, content: dict) -> None:
            self._send(status, json.dumps(content).encode(), {"Content-Type": "application/json; charset=UTF-8"})

        def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    return Handler
