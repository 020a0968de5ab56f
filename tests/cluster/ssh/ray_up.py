"""A Ray cluster made by `ray up clusters/local.yaml` on hosts of a `Lab`, and what a person types at the desk.

    python -m tests.cluster.ssh.ray_up

walks through it by hand and prints each step: `ray up`, a sweep submitted, a worker killed, the sweep's records
compared, `ray down`. It takes some minutes and needs root.
"""

import contextlib
import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import yaml

from tests.chaos.agreement import Agreement
from tests.chaos.sweeps import NUM_TRIALS, SMALL, new_bench
from tests.cluster.ssh.hosts import SHARED, Host, Lab, missing
from tests.servers import wait_until
from toprung.records import catalog
from toprung.records.sweep_dir import TRIAL_LOCK_FILE, SweepDirectory

PROJECT = Path(__file__).parents[3]
DASHBOARD = "http://127.0.0.1:8265"
# Without this Ray 2.60 started one of two workers of a `local` cluster; clusters/local.yaml says so too.
AT_THE_DESK = {"RAY_AUTH_MODE": "token", "RAY_UP_enable_autoscaler_v2": "0", "RAY_USAGE_STATS_ENABLED": "0"}
SLOW_SECONDS = 300
PACED = ("constants.pause=1", "asha.grace_epochs=3")  # three epochs a trial, which take long enough to be hit in them
COMPARE = """
import dataclasses, json, pathlib, sys
from tests.chaos.agreement import agreement
folder, uri, num_trials = sys.argv[1:]
print(json.dumps(dataclasses.asdict(agreement(pathlib.Path(folder), uri=uri, num_trials=int(num_trials)))))
"""


class Cluster:
    """The cluster on a lab's hosts, used from its desk: a workbench, and the project's own cluster file beside it."""

    def __init__(self, lab: Lab, *, echo: Callable[[str], object] = lambda line: None) -> None:
        self.lab, self._say = lab, echo
        self.storage = lab.shared / "runs"
        self._tunnel: subprocess.Popen[bytes] | None = None
        self._num_commands = 0
        self._earlier: set[str] = set()
        new_bench(lab.desk_folder)
        shutil.copytree(PROJECT / "clusters", lab.desk_folder / "clusters")
        config = yaml.safe_load((PROJECT / "clusters" / "local.yaml").read_text())
        # Exactly what the file says that its user changes.
        config["provider"] |= {"head_ip": lab.head.address, "worker_ips": [host.address for host in lab.workers]}
        config["auth"] = {"ssh_user": "root", "ssh_private_key": str(lab.key)}
        (lab.desk_folder / "clusters" / "local.yaml").write_text(yaml.safe_dump(config))

    def desk(self, *words: object, check: bool = True, timeout: float = 300) -> str:
        """Type a command, and wait for its end."""
        self._say(f"$ {shlex.join(map(str, words))}")
        return self.lab.run(*words, check=check, timeout=timeout, **AT_THE_DESK)

    def up(self) -> None:
        """`ray up`, until every node is there; then a tunnel to the dashboard."""
        if not (self.lab.desk.home / ".ray" / "auth_token").exists():
            self.desk("ray", "get-auth-token", "--generate")
        self.desk("ray", "up", "--yes", "--no-config-cache", "clusters/local.yaml")
        self.wait_for_nodes(1 + len(self.lab.workers))
        self.open_tunnel()

    def wait_for_nodes(self, count: int) -> None:
        """Return when so many live: `ray up` returns before the workers are there, and where some never come."""
        deadline = time.monotonic() + SLOW_SECONDS
        while len(there := self.nodes()) != count:
            assert time.monotonic() < deadline, f"of {count} nodes there are {[node['node_ip'] for node in there]}"
            time.sleep(2)

    def open_tunnel(self) -> None:
        """The head's port 8265 on the desk's loopback."""
        self.close_tunnel()
        command = self.lab.ssh(self.lab.head)
        options = ["ExitOnForwardFailure=yes", "ServerAliveInterval=5", "ServerAliveCountMax=3"]
        command[1:1] = ["-N", "-L", "8265:127.0.0.1:8265", *(word for option in options for word in ("-o", option))]
        self._say(f"$ {shlex.join(command)} &")
        log = self.lab.folder / "tunnel.log"
        self._tunnel = self.lab.start(*command, output=log)

        def is_open() -> bool:
            assert self._tunnel is not None
            assert self._tunnel.poll() is None, log.read_text()
            return bool(self.lab.run("ss", "--no-header", "-ltn", "sport = :8265"))

        wait_until(is_open, "the tunnel")

    def close_tunnel(self) -> None:
        """End it."""
        if self._tunnel is not None:
            self._tunnel.kill()
            self._tunnel.wait()
            self._tunnel = None

    def nodes(self) -> list[dict]:
        """The nodes that live, as the State API on the head has them."""
        return self._listed("nodes --filter state=ALIVE")

    def placement_groups(self) -> list[dict]:
        """All that there were: Ray remembers those that were given back, as REMOVED."""
        return self._listed("placement-groups")

    def _listed(self, what: str) -> list[dict]:
        listed = self.lab.run(
            *self.lab.ssh(self.lab.head, f"bash -ic 'ray list {what} --format json 2>/dev/null'"), check=False
        )
        match = re.search(r"^\[.*\]$", listed, re.MULTILINE | re.DOTALL)
        return json.loads(match[0]) if match else []

    def submit(self, *words: object) -> "Job":
        """`toprung submit ...`, going on in the background."""
        return self._begin("toprung", "submit", *words, "--address", DASHBOARD, "--storage", SHARED / "runs")

    def _begin(self, *command: object) -> "Job":
        self._num_commands += 1
        output = self.lab.folder / f"command-{self._num_commands}.log"
        self._say(f"$ {shlex.join(map(str, command))}")
        return Job(self.lab.start(*command, output=output, **AT_THE_DESK), output)

    def sweep(self, *settings: str) -> "Job":
        """Submit a small sweep: one trial a worker at a time."""
        self._earlier = {sweep_dir.sweep_id for sweep_dir in catalog.list_sweeps(self.storage)}
        given = (*SMALL, "resources.cpus=2", *settings)
        return self.submit("tune.dying", *(word for setting in given for word in ("--set", setting)))

    def sweep_under_way(self, *settings: str, num_trials: int = 2) -> "Job":
        """Submit one whose trials take some seconds, and return when so many of them have reported an epoch."""
        job = self.sweep(*PACED, *settings)
        return job.reaches(lambda: self.num_first_epochs() >= num_trials, f"{num_trials} first epochs")

    @property
    def sweep_dir(self) -> SweepDirectory:
        """The sweep that was submitted last."""
        return next(
            sweep_dir for sweep_dir in catalog.list_sweeps(self.storage) if sweep_dir.sweep_id not in self._earlier
        )

    def mend(self) -> None:
        """Boot what a test has killed, and wait until the autoscaler has Ray on it again."""
        for host in self.lab.hosts:
            if not host.is_up:
                host.boot()
        self.wait_for_nodes(1 + len(self.lab.workers))

    def num_first_epochs(self) -> int:
        """How many trials of the sweep that was submitted last have reported their first epoch."""
        sweep_dirs = [
            sweep_dir for sweep_dir in catalog.list_sweeps(self.storage) if sweep_dir.sweep_id not in self._earlier
        ]
        lines = (
            sweep_dirs[0].ledger_file.read_text(errors="replace")
            if sweep_dirs and sweep_dirs[0].ledger_file.exists()
            else ""
        )
        return lines.count('{"epoch/1":')

    def training(self) -> list[Host]:
        """The workers on which a trial trains now: it holds its trial's lock file open."""
        result = []
        for host in self.lab.workers:
            opened = self.lab.run(*self.lab.ssh(host, "ls -l /proc/[0-9]*/fd 2>/dev/null"), check=False)
            if f"/{TRIAL_LOCK_FILE}" in opened:
                result.append(host)
        return result

    def kill_driver(self) -> None:
        """SIGKILL to the driver of the sweep, alone."""
        drivers = []
        for process in self.lab.head.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                if process.cmdline()[1:4] in (["-m", "toprung", "sweep"], ["-m", "toprung", "resume"]):
                    drivers.append(process)
        (driver,) = drivers
        driver.kill()

    def shown(self) -> dict:
        """What `toprung show --json` says of the newest sweep."""
        told = self.lab.run("toprung", "show", self.sweep_dir.sweep_id, "--json", "--storage", SHARED / "runs")
        return json.loads(told)

    def doctor(self) -> "Job":
        """`toprung doctor` at the desk, which reaches the dashboard alone: it runs as a job on the head."""
        return self._begin("toprung", "doctor", "--address", DASHBOARD, "--storage", SHARED / "runs", "--json")

    def doctor_on_the_head(self, before: str = "") -> "Job":
        """`toprung doctor` in a terminal on the head, in the workbench."""
        typed = f"{before} toprung doctor --address auto --storage {SHARED / 'runs'} --json"
        on_the_head = shlex.quote(f"cd {shlex.quote(str(self.lab.desk_folder))} && {typed}")
        return self._begin(*self.lab.ssh(self.lab.head, f"bash -ic {on_the_head} 2>/dev/null"))

    def agreement(self) -> Agreement:
        """Do all records of the newest sweep say the same? Asked at the desk, where paths are the hosts' own."""
        storage = SHARED / "runs"
        told = self.lab.run(
            "python", "-c", COMPARE, storage / self.sweep_dir.sweep_id, f"sqlite:///{storage}/mlflow.db", NUM_TRIALS,
            PYTHONPATH=PROJECT,
        )  # fmt: skip
        return Agreement(**json.loads(told.splitlines()[-1]))

    def down(self) -> None:
        """`ray down`, and the end of the tunnel."""
        self.close_tunnel()
        self.desk("ray", "down", "--yes", "clusters/local.yaml")

    def has_ray(self, host: Host) -> bool:
        """Whether anything of Ray runs on a host."""
        return "raylet/raylet" in self.lab.run(*self.lab.ssh(host, "ps ax -o args"))


class Job:
    """A command that runs at the desk, most often a `toprung submit`."""

    def __init__(self, process: "subprocess.Popen[bytes]", output: Path) -> None:
        self.process, self._output = process, output

    @property
    def text(self) -> str:
        """What it printed so far."""
        return self._output.read_text(errors="replace")

    @property
    def job_id(self) -> str:
        """The id that it was submitted with."""
        return self.text.split("Submitted as ")[1].split()[0]

    def reaches(self, check: Callable[[], object], what: str) -> "Job":
        """Return as soon as `check` is true; the command must live that long."""

        def observed() -> bool:
            if check():
                return True
            assert self.process.poll() is None, f"ended {self.process.returncode} before {what}:\n{self.text}"
            return False

        wait_until(observed, f"{what}:\n{self._output}", timeout_seconds=SLOW_SECONDS)
        return self

    def interrupt(self) -> None:
        """Ctrl-C in its terminal."""
        (command,) = psutil.Process(self.process.pid).children()  # of nsenter, which waits for it
        command.send_signal(signal.SIGINT)

    def finish(self, code: int = 0) -> "Job":
        """It ends by itself, with that code."""
        try:
            self.process.wait(timeout=SLOW_SECONDS)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"did not end:\n{self.text}") from None
        assert self.process.returncode == code, f"ended {self.process.returncode}:\n{self.text}"
        return self


def walk(cluster: Cluster, *, echo: Callable[[str], object] = lambda line: None) -> Agreement:
    """A sweep on the cluster, one of whose workers is killed under a running trial; gives what its records say."""
    job = cluster.sweep_under_way()
    victim = cluster.training()[0]
    echo(f"{victim.name} trains a trial: kill -9 of everything on it")
    victim.pull_the_plug()
    job.finish()
    echo(job.text)
    return cluster.agreement()


def main() -> None:
    """Walk through it, and print every step."""
    began = time.monotonic()

    def echo(text: str) -> None:
        print(f"[{time.monotonic() - began:5.0f} s] {text}", flush=True)  # noqa: T201 (a person watches)

    if reason := missing():
        sys.exit(f"It cannot be done here: {reason}")
    folder = Path(tempfile.mkdtemp(prefix="toprung-hosts-"))
    with Lab(folder) as lab:
        echo(f"hosts: {', '.join(f'{host.name} {host.address}' for host in lab.hosts)}; their files: {folder}")
        cluster = Cluster(lab, echo=echo)
        cluster.up()
        for node in cluster.nodes():
            echo(f"node {node['node_ip']} {node['node_id'][:12]} {node['state']}")
        result = walk(cluster, echo=echo)
        echo(f"{result.num_trials} trials, {result.num_lost} lost, {result.num_doubled} doubled")
        echo("\n".join(result.problems) or "ledger, Tune and MLflow agree")
        cluster.down()
        echo(f"Ray on the head: {cluster.has_ray(lab.head)}")


if __name__ == "__main__":
    main()
