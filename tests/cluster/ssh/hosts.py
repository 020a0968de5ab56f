"""Hosts for a real `ray up` on one machine: network namespaces on a bridge, each with its own sshd and processes.

Each host has its own network, PID, mount, UTS and IPC namespace, so `ray stop` there affects nothing else, and killing
its first process is like cutting its power. All hosts see this machine's files, except that each has its own `~`,
`/tmp/ray`, `/dev/shm` and `/run`, and they share `/mnt/shared`. The desk is a host without sshd, the user's machine.

Needs root, iproute2, util-linux, openssh-server and rsync.
"""

import os
import pwd
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import psutil

from tests.data.remotes.sshd import sshd_binary
from tests.servers import wait_until

NETWORK = "10.213.77"
SHARED = Path("/mnt/shared")
ENVIRONMENT = "toprung-env"  # the virtual environment that clusters/local.yaml creates in each host's home

# The commands that this module and `ray up` call, and their Debian packages.
TOOLS = {
    "ip": "iproute2",
    "nsenter": "util-linux",
    "rsync": "rsync",
    "setpriv": "util-linux",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "unshare": "util-linux",
}

# The first process of a host. sshd, run by root, requires /run/sshd; `wait` reaps orphaned processes of daemons.
FIRST_PROCESS = """
set -e
hostname "$NAME"
mkdir -p /tmp/ray
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /run
mkdir /run/sshd
mount --bind "$FOLDER/ray" /tmp/ray
mount --bind "$FOLDER/passwd" /etc/passwd
mount --bind "$LAB/mnt" /mnt
ip link set lo up
if [ -n "$SSHD" ]; then "$SSHD" -D -e -f "$LAB/sshd_config" 2>>"$FOLDER/sshd.log" & else sleep infinity & fi
wait
"""


def missing() -> str | None:
    """Return why hosts cannot be created here, or None if they can."""
    if os.geteuid() != 0:
        return "creating network namespaces needs root"
    tools = {
        "ip": "iproute2",
        "unshare": "util-linux",
        "setpriv": "util-linux",
        "nsenter": "util-linux",
        "ssh-keygen": "openssh-client",
        "rsync": "rsync",
    }
    for tool, package in tools.items():
        if shutil.which(tool) is None:
            return f"{tool} is not installed (Debian: {package})"
    if sshd_binary() is None:
        return "sshd is not installed (Debian: openssh-server)"
    probe = f"toprung-{secrets.token_hex(3)}"
    ran = subprocess.run(["ip", "netns", "add", probe], check=False, capture_output=True, text=True)
    if ran.returncode:
        return f"this kernel creates no network namespaces ({ran.stderr.strip()})"
    subprocess.run(["ip", "netns", "del", probe], check=True)
    return None


class Host:
    """A simulated machine: a permanent network namespace, and processes that can all be killed at once."""

    def __init__(self, lab: "Lab", name: str, address: str, *, with_sshd: bool) -> None:
        self.name, self.address, self._lab, self._with_sshd = name, address, lab, with_sshd
        self.folder = lab.folder / name
        self.home = self.folder / "home"
        self._netns = f"{lab.mark}-{name}"
        self._link = f"{lab.mark}{name}"[:15]
        self._outer: subprocess.Popen[bytes] | None = None
        for part in ("home", "ray"):
            (self.folder / part).mkdir(parents=True)
        user = pwd.getpwuid(os.geteuid())
        lines = Path("/etc/passwd").read_text().splitlines(keepends=True)
        mine = f"{user.pw_name}:x:{user.pw_uid}:{user.pw_gid}::{self.home}:/bin/bash\n"
        (self.folder / "passwd").write_text(
            "".join(mine if line.startswith(f"{user.pw_name}:") else line for line in lines)
        )
        self._install()

    def _install(self) -> None:
        """Link this interpreter's environment into the host's home, marked as having the lock file installed."""
        environment, checkout = self.home / ENVIRONMENT, Path(__file__).parents[3]
        environment.mkdir()
        for part in Path(sys.prefix).iterdir():
            if not part.name.startswith(".locked-"):
                (environment / part.name).symlink_to(part)
        checksum = subprocess.run(
            ["cksum"], input=(checkout / "requirements.lock").read_bytes(), capture_output=True, check=True
        ).stdout.split()[0]
        (environment / f".locked-{checksum.decode()}").touch()
        (self.home / ".bashrc").touch()

    def plug_in(self) -> None:
        """Create the network namespace and connect it to the switch."""
        run("ip", "netns", "add", self._netns)
        run("ip", "link", "add", self._link, "netns", self._lab.switch, "type", "veth",
            "peer", "eth0", "netns", self._netns)  # fmt: skip
        run("ip", "-n", self._lab.switch, "link", "set", self._link, "master", "bridge", "up")
        run("ip", "-n", self._netns, "address", "add", f"{self.address}/24", "dev", "eth0")
        run("ip", "-n", self._netns, "link", "set", "eth0", "up")
        # Nothing answers there, but Ray finds its own address from the route to the internet.
        run("ip", "-n", self._netns, "route", "add", "default", "via", f"{NETWORK}.1")

    def unplug(self) -> None:
        """Remove the network namespace and its connection."""
        subprocess.run(["ip", "netns", "del", self._netns], check=False, capture_output=True)

    def boot(self) -> None:
        """Start the first process, and return when the host accepts connections."""
        variables = {"NAME": self.name, "FOLDER": self.folder, "LAB": self._lab.folder}
        variables["SSHD"] = (sshd_binary() or "") if self._with_sshd else ""
        clean = {"PATH": os.environ["PATH"], "HOME": str(self.home), "LANG": "C.UTF-8"}
        log = self.folder / "sshd.log"
        log.write_bytes(b"")
        with (self.folder / "first-process.log").open("ab") as output:
            self._outer = subprocess.Popen(
                # It ends together with its parent process, however that ends.
                ["setpriv", "--pdeathsig", "KILL", "ip", "netns", "exec", self._netns,
                 "unshare", "--fork", "--kill-child", "--pid", "--mount", "--mount-proc", "--uts", "--ipc",
                 "bash", "-c", FIRST_PROCESS],
                env=clean | {name: str(value) for name, value in variables.items()},
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip

        def is_up() -> bool:
            assert self._outer is not None
            output_text = (self.folder / "first-process.log").read_text()
            assert self._outer.poll() is None, output_text + log.read_text()
            return b"Server listening" in log.read_bytes() if self._with_sshd else self.first_pid is not None

        wait_until(is_up, f"{self.name}'s start")

    @property
    def first_pid(self) -> int | None:
        """The process ID of the first process, on this machine; if it ends, all processes of the host end."""
        assert self._outer is not None
        for child in psutil.Process(self._outer.pid).children():
            if child.name() == "bash":
                return child.pid
        return None

    def processes(self) -> list[psutil.Process]:
        """List all processes of the host; orphaned ones are children of the first process."""
        assert self.first_pid is not None
        return psutil.Process(self.first_pid).children(recursive=True)

    @property
    def is_up(self) -> bool:
        """Whether the host is running."""
        return self._outer is not None

    def power_off(self) -> None:
        """Send SIGKILL to all processes of the host at once."""
        if self._outer is None:
            return
        if self._outer.poll() is None and (pid := self.first_pid) is not None:
            os.kill(pid, signal.SIGKILL)
        elif self._outer.poll() is None:
            self._outer.kill()
        self._outer.wait(timeout=30)
        self._outer = None
        shutil.rmtree(self.folder / "ray")
        (self.folder / "ray").mkdir()

    def cable(self, state: str) -> None:
        """Disconnect the host from the network ("down"), or reconnect it ("up")."""
        run("ip", "-n", self._lab.switch, "link", "set", self._link, state)

    def command(self, *words: object, **environment: object) -> tuple[list[str], dict[str, str]]:
        """Return the command that runs `words` on the host, and its environment."""
        pid = self.first_pid
        assert pid is not None
        clean = {"PATH": f"{self.home / ENVIRONMENT / 'bin'}:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(self.home)}
        clean |= {"LANG": "C.UTF-8", "TERM": "dumb", "USER": pwd.getpwuid(os.geteuid()).pw_name}
        enter = ["nsenter", "--target", str(pid), "--mount", "--uts", "--ipc", "--net", "--pid"]
        return [*enter, f"--wdns={self._lab.desk_folder}", *map(str, words)], clean | {
            name: str(value) for name, value in environment.items()
        }


class Lab:
    """A head, two workers and a desk on one switch; `with Lab(folder)` boots them and removes them at the end."""

    def __init__(self, folder: Path, *, num_workers: int = 2) -> None:
        self.folder, self.mark = folder, f"tr{secrets.token_hex(2)}"
        self.switch = f"{self.mark}-switch"
        self.shared = folder / "mnt" / "shared"
        self.desk_folder = folder / "desk-work"
        for path in (self.shared, self.desk_folder):
            path.mkdir(parents=True)
        self.key = folder / "key"
        self.desk = Host(self, "desk", f"{NETWORK}.2", with_sshd=False)
        self.head = Host(self, "head", f"{NETWORK}.10", with_sshd=True)
        self.workers = [
            Host(self, f"worker{number}", f"{NETWORK}.{10 + number}", with_sshd=True)
            for number in range(1, num_workers + 1)
        ]

    @property
    def hosts(self) -> list[Host]:
        """All hosts, including the desk."""
        return [self.desk, self.head, *self.workers]

    def __enter__(self) -> "Lab":
        for key in (self.key, self.folder / "host_key"):
            run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "toprung-test", "-f", key)
        settings = {
            "HostKey": self.folder / "host_key",
            "PidFile": "none",
            "AuthorizedKeysFile": self.key.with_suffix(".pub"),
            "PasswordAuthentication": "no",
            "KbdInteractiveAuthentication": "no",
            "PermitRootLogin": "prohibit-password",
            "StrictModes": "no",
            "MaxStartups": "100",
            "MaxSessions": "100",
            "PrintMotd": "no",
        }
        (self.folder / "sshd_config").write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
        try:
            run("ip", "netns", "add", self.switch)
            run("ip", "-n", self.switch, "link", "add", "bridge", "type", "bridge")
            run("ip", "-n", self.switch, "link", "set", "bridge", "up")
            run("ip", "-n", self.switch, "address", "add", f"{NETWORK}.1/24", "dev", "bridge")
            for host in self.hosts:
                host.plug_in()
            for host in self.hosts:
                host.boot()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for host in self.hosts:
            host.power_off()
            host.unplug()
        subprocess.run(["ip", "netns", "del", self.switch], check=False, capture_output=True)

    def run(self, *words: object, timeout: float = 300, check: bool = True, **environment: object) -> str:
        """Run a command at the desk and return its output."""
        command, variables = self.desk.command(*words, **environment)
        ran = subprocess.run(
            command, env=variables, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, timeout=timeout, check=False,
        )  # fmt: skip
        assert not check or ran.returncode == 0, f"{shlex.join(map(str, words))} ended {ran.returncode}\n{ran.stdout}"
        return ran.stdout

    def start(self, *words: object, output: Path, **environment: object) -> "subprocess.Popen[bytes]":
        """Start a command at the desk that prints to a file."""
        command, variables = self.desk.command(*words, **environment)
        with output.open("wb") as file:
            return subprocess.Popen(
                command, env=variables, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
            )

    def ssh(self, host: Host, *words: object) -> list[str]:
        """Return the `ssh` command from the desk to a host."""
        options = ["BatchMode=yes", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR"]
        flags = [word for option in options for word in ("-o", option)]
        return ["ssh", *flags, "-i", str(self.key), f"root@{host.address}", *map(str, words)]


def run(*words: object) -> Sequence[str]:
    """Run a command that must succeed."""
    ran = subprocess.run(list(map(str, words)), check=False, capture_output=True, text=True)
    assert ran.returncode == 0, f"{shlex.join(map(str, words))}: {ran.stderr}"
    return ran.stdout.splitlines()
