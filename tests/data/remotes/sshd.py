"""SSH: an OpenSSH server on loopback, with separate keys and folders."""

import getpass
import os
import secrets
import shutil
import subprocess
from pathlib import Path

from tests.data.remotes.relay import Relay
from tests.servers import LOOPBACK, free_port, wait_until


def sshd_binary() -> str | None:
    """Return the path of sshd, which is not on most users' PATH on Debian."""
    return shutil.which("sshd", path=os.pathsep.join((os.environ["PATH"], "/usr/sbin", "/usr/local/sbin")))


class Sshd:
    """A server that accepts the keys in `authorized_keys`, and a relay in front of it."""

    user = getpass.getuser()

    def __init__(self, folder: Path) -> None:
        self._folder, self._port = folder, free_port()
        self.relay = Relay(self._port)
        self.authorized_keys = folder / "authorized_keys"

    def __enter__(self) -> "Sshd":
        binary = sshd_binary()
        assert binary is not None
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd requires it if it is run by root
        _new_key(self._folder / "host_key")
        settings = {
            "Port": self._port,
            "ListenAddress": LOOPBACK,
            "HostKey": self._folder / "host_key",
            "PidFile": "none",
            "AuthorizedKeysFile": self.authorized_keys,
            "PasswordAuthentication": "no",
            "KbdInteractiveAuthentication": "no",
            "PermitRootLogin": "prohibit-password",
            "StrictModes": "no",
            "MaxStartups": "100",
            "MaxSessions": "100",
            "Subsystem": "sftp internal-sftp",
        }
        config, log = self._folder / "sshd_config", self._folder / "sshd.log"
        config.write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
        self.authorized_keys.touch(mode=0o600)
        with log.open("wb") as output:
            self._process = subprocess.Popen([binary, "-D", "-e", "-f", config], stdout=output, stderr=output)
        self.relay.__enter__()

        def answers() -> bool:
            assert self._process.poll() is None, log.read_text()
            return b"Server listening" in log.read_bytes()

        try:
            wait_until(answers, "sshd")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.relay.__exit__()
        self._process.terminate()
        self._process.wait()

    def new_key(self, folder: Path) -> Path:
        """Create a private key that the server does not accept yet."""
        return _new_key(folder / f"key-{secrets.token_hex(4)}")

    def allow(self, key: Path, *, denied_requests: str | None = None) -> None:
        """Authorize the key, except for these SFTP requests (sftp-server(8), -P)."""
        command = f'command="internal-sftp -P {denied_requests}" ' if denied_requests else ""
        with self.authorized_keys.open("a") as file:
            file.write(command + key.with_suffix(".pub").read_text())

    def forget(self, key: Path) -> None:
        """Remove the key from `authorized_keys`."""
        public = key.with_suffix(".pub").read_text().strip()
        kept = [line for line in self.authorized_keys.read_text().splitlines() if not line.endswith(public)]
        self.authorized_keys.write_text("".join(f"{line}\n" for line in kept))


def _new_key(path: Path) -> Path:
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "toprung-test", "-f", path]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    return path
