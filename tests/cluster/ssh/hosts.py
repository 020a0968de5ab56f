"""Hosts for a real `ray up` on one machine: network namespaces on a bridge, each with an sshd and processes of its own.

Each host has its own network, PID, mount, UTS and IPC namespace, so `ray stop` there touches nothing else, and killing
its first process is pulling its plug. All see this machine's files, but for their own `~`, `/tmp/ray`, `/dev/shm` and
`/run`, and one folder they share: `/mnt/shared`. The desk is a host without sshd, where a person types.

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
ENVIRONMENT = "toprung-env"  # the virtual environment in each host's home that clusters/local.yaml makes

# What is called here or by `ray up`, and Debian's package that has it.
TOOLS = {
    "ip": "iproute2",
    "nsenter": "util-linux",
    "rsync": "rsync",
    "setpriv": "util-linux",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "unshare": "util-linux",
}

# The first process of a host. sshd, run by root, asks for /run/sshd; `wait` reaps what daemons leave behind.
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
    """Why hosts cannot be made here, or None where they can."""
    if os.geteuid() != 0:
        return "making network namespaces needs root"
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
            return f"{tool} is not there (Debian: {package})"
    if sshd_binary() is None:
        return "sshd is not there (Debian: openssh-server)"
    probe = f"toprung-{secrets.token_hex(3)}"
    made = subprocess.run(["ip", "netns", "add", probe], check=False, capture_output=True, text=True)
    if made.returncode:
        return f"this kernel makes no network namespace ({made.stderr.strip()})"
    subprocess.run(["ip", "netns", "del", probe], check=True)
    return None


class Host:
    """One machine: a network namespace that stays, and processes that can all be killed at once."""

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
        """Make this interpreter's environment the host's own, with the mark that the lock is installed there."""
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
        """Make the network namespace and its cable to the switch."""
        run("ip", "netns", "add", self._netns)
        run("ip", "link", "add", self._link, "netns", self._lab.switch, "type", "veth",
            "peer", "eth0", "netns", self._netns)  # fmt: skip
        run("ip", "-n", self._lab.switch, "link", "set", self._link, "master", "bridge", "up")
        run("ip", "-n", self._netns, "address", "add", f"{self.address}/24", "dev", "eth0")
        run("ip", "-n", self._netns, "link", "set", "eth0", "up")
        # Nothing is there, but Ray finds its own address by asking which way a packet to the internet would go.
        run("ip", "-n", self._netns, "route", "add", "default", "via", f"{NETWORK}.1")

    def unplug(self) -> None:
        """Remove the network namespace, and its cable with it."""
        subprocess.run(["ip", "netns", "del", self._netns], check=False, capture_output=True)

    def boot(self) -> None:
        """Start its first process, and return when it takes connections."""
        given = {"NAME": self.name, "FOLDER": self.folder, "LAB": self._lab.folder}
        given["SSHD"] = (sshd_binary() or "") if self._with_sshd else ""
        clean = {"PATH": os.environ["PATH"], "HOME": str(self.home), "LANG": "C.UTF-8"}
        log = self.folder / "sshd.log"
        log.write_bytes(b"")
        with (self.folder / "first-process.log").open("ab") as output:
            self._outer = subprocess.Popen(
                # It ends with the process that made it, however that ends.
                ["setpriv", "--pdeathsig", "KILL", "ip", "netns", "exec", self._netns,
                 "unshare", "--fork", "--kill-child", "--pid", "--mount", "--mount-proc", "--uts", "--ipc",
                 "bash", "-c", FIRST_PROCESS],
                env=clean | {name: str(value) for name, value in given.items()},
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip

        def is_up() -> bool:
            assert self._outer is not None
            told = (self.folder / "first-process.log").read_text()
            assert self._outer.poll() is None, told + log.read_text()
            return b"Server listening" in log.read_bytes() if self._with_sshd else self.first_pid is not None

        wait_until(is_up, f"{self.name}'s start")

    @property
    def first_pid(self) -> int | None:
        """Its first process, as this machine counts: where that ends, all others of the host do."""
        assert self._outer is not None
        for child in psutil.Process(self._outer.pid).children():
            if child.name() == "bash":
                return child.pid
        return None

    def processes(self) -> list[psutil.Process]:
        """All that runs there: what a daemon leaves behind belongs to the first process."""
        assert self.first_pid is not None
        return psutil.Process(self.first_pid).children(recursive=True)

    @property
    def is_up(self) -> bool:
        """Whether anything runs there."""
        return self._outer is not None

    def pull_the_plug(self) -> None:
        """SIGKILL to everything that runs there, at once."""
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
        """Take the host off the network ("down"), or put it back ("up")."""
        run("ip", "-n", self._lab.switch, "link", "set", self._link, state)

    def command(self, *words: object, **environment: object) -> tuple[list[str], dict[str, str]]:
        """What runs `words` there, in a login of the host's own, and the environment to give it."""
        pid = self.first_pid
        assert pid is not None
        clean = {"PATH": f"{self.home / ENVIRONMENT / 'bin'}:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(self.home)}
        clean |= {"LANG": "C.UTF-8", "TERM": "dumb", "USER": pwd.getpwuid(os.geteuid()).pw_name}
        enter = ["nsenter", "--target", str(pid), "--mount", "--uts", "--ipc", "--net", "--pid"]
        return [*enter, f"--wdns={self._lab.desk_folder}", *map(str, words)], clean | {
            name: str(value) for name, value in environment.items()
        }


class Lab:
    """A head, two workers and a desk on one switch; `with Lab(folder)` boots them, and leaves nothing of them."""

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
        """All of them, the desk too."""
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
            host.pull_the_plug()
            host.unplug()
        subprocess.run(["ip", "netns", "del", self.switch], check=False, capture_output=True)

    def run(self, *words: object, timeout: float = 300, check: bool = True, **environment: object) -> str:
        """Run a command at the desk to its end; gives what it printed."""
        command, given = self.desk.command(*words, **environment)
        ran = subprocess.run(
            command, env=given, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, timeout=timeout, check=False,
        )  # fmt: skip
        assert not check or ran.returncode == 0, f"{shlex.join(map(str, words))} ended {ran.returncode}\n{ran.stdout}"
        return ran.stdout

    def start(self, *words: object, output: Path, **environment: object) -> "subprocess.Popen[bytes]":
        """Start a command at the desk; it prints into a file."""
        command, given = self.desk.command(*words, **environment)
        with output.open("wb") as file:
            return subprocess.Popen(
                command, env=given, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
            )

    def ssh(self, host: Host, *words: object) -> list[str]:
        """The `ssh` command from the desk to a host."""
        options = ["BatchMode=yes", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR"]
        flags = [word for option in options for word in ("-o", option)]
        return ["ssh", *flags, "-i", str(self.key), f"root@{host.address}", *map(str, words)]


def run(*words: object) -> Sequence[str]:
    """Run a command that must go well."""
    done = subprocess.run(list(map(str, words)), check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"{shlex.join(map(str, words))}: {done.stderr}"
    return done.stdout.splitlines()
