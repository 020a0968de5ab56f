"""A Ray cluster created by `ray up clusters/local.yaml` on the hosts of a `Lab`, and the user's commands at the desk.

    python -m tests.cluster.ssh.ray_up

runs these steps and prints each: `ray up`, submit a sweep, kill a worker, compare the sweep's records, `ray down`. It
takes some minutes and needs root.
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
from toprung.records.sweep_dir import SweepDirectory
from toprung.records.trial_folder import TRIAL_LOCK_FILE

PROJECT = Path(__file__).parents[3]
DASHBOARD = "http://127.0.0.1:8265"
# Without RAY_UP_enable_autoscaler_v2=0, Ray 2.60 started one of two workers of a `local` cluster (clusters/local.yaml).
DESK_ENVIRONMENT = {"RAY_AUTH_MODE": "token", "RAY_UP_enable_autoscaler_v2": "0", "RAY_USAGE_STATS_ENABLED": "0"}
SLOW_SECONDS = 300
SLOW_TRIALS = ("constants.pause=1", "asha.grace_epochs=3")  # three epochs per trial, long enough to time a fault
COMPARE = """
import dataclasses, json, pathlib, sys
from tests.chaos.agreement import agreement
folder, uri, num_trials = sys.argv[1:]
print(json.dumps(dataclasses.asdict(agreement(pathlib.Path(folder), uri=uri, num_trials=int(num_trials)))))
"""


class Cluster:
    """The cluster on a lab's hosts, used from its desk, which has a project and this repository's cluster file."""

    def __init__(self, lab: Lab, *, echo: Callable[[str], object] = lambda line: None) -> None:
        self.lab, self._say = lab, echo
        self.storage = lab.shared / "runs"
        self._tunnel: subprocess.Popen[bytes] | None = None
        self._num_commands = 0
        self._earlier: set[str] = set()
        new_bench(lab.desk_folder)
        shutil.copytree(PROJECT / "clusters", lab.desk_folder / "clusters")
        config = yaml.safe_load((PROJECT / "clusters" / "local.yaml").read_text())
        # Change exactly what the file's comments tell the user to change.
        config["provider"] |= {"head_ip": lab.head.address, "worker_ips": [host.address for host in lab.workers]}
        config["auth"] = {"ssh_user": "root", "ssh_private_key": str(lab.key)}
        (lab.desk_folder / "clusters" / "local.yaml").write_text(yaml.safe_dump(config))

    def desk(self, *words: object, check: bool = True, timeout: float = 300) -> str:
        """Run a command at the desk and wait until it exits."""
        self._say(f"$ {shlex.join(map(str, words))}")
        return self.lab.run(*words, check=check, timeout=timeout, **DESK_ENVIRONMENT)

    def up(self) -> None:
        """Run `ray up`, wait until all nodes have joined, then open a tunnel to the dashboard."""
        if not (self.lab.desk.home / ".ray" / "auth_token").exists():
            self.desk("ray", "get-auth-token", "--generate")
        self.desk("ray", "up", "--yes", "--no-config-cache", "clusters/local.yaml")
        self.wait_for_nodes(1 + len(self.lab.workers))
        self.open_tunnel()

    def wait_for_nodes(self, count: int) -> None:
        """Wait until this many nodes are alive: `ray up` returns before the workers join, even if some never do."""
        deadline = time.monotonic() + SLOW_SECONDS
        while len(nodes := self.nodes()) != count:
            assert time.monotonic() < deadline, f"of {count} nodes only {[node['node_ip'] for node in nodes]} are alive"
            time.sleep(2)

    def open_tunnel(self) -> None:
        """Forward the head's port 8265 to the desk's loopback address."""
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
        """Close the tunnel."""
        if self._tunnel is not None:
            self._tunnel.kill()
            self._tunnel.wait()
            self._tunnel = None

    def nodes(self) -> list[dict]:
        """List the live nodes, from the State API on the head."""
        return self._listed("nodes --filter state=ALIVE")

    def placement_groups(self) -> list[dict]:
        """List all placement groups, including the released ones, which Ray keeps as REMOVED."""
        return self._listed("placement-groups")

    def _listed(self, what: str) -> list[dict]:
        listed = self.lab.run(
            *self.lab.ssh(self.lab.head, f"bash -ic 'ray list {what} --format json 2>/dev/null'"), check=False
        )
        match = re.search(r"^\[.*\]$", listed, re.MULTILINE | re.DOTALL)
        return json.loads(match[0]) if match else []

    def submit(self, *words: object) -> "Job":
        """Start `toprung submit ...` in the background."""
        return self._begin("toprung", "submit", *words, "--address", DASHBOARD, "--storage", SHARED / "runs")

    def _begin(self, *command: object) -> "Job":
        self._num_commands += 1
        output = self.lab.folder / f"command-{self._num_commands}.log"
        self._say(f"$ {shlex.join(map(str, command))}")
        return Job(self.lab.start(*command, output=output, **DESK_ENVIRONMENT), output)

    def sweep(self, *settings: str) -> "Job":
        """Submit a small sweep that runs one trial per worker at a time."""
        self._earlier = {sweep_dir.sweep_id for sweep_dir in catalog.list_sweeps(self.storage)}
        settings = (*SMALL, "resources.cpus=2", *settings)
        return self.submit("tune.dying", *(word for setting in settings for word in ("--set", setting)))

    def sweep_under_way(self, *settings: str, num_trials: int = 2) -> "Job":
        """Submit a sweep with slow trials, and wait until this many of them have reported an epoch."""
        job = self.sweep(*SLOW_TRIALS, *settings)
        return job.reaches(lambda: self.num_first_epochs() >= num_trials, f"{num_trials} first epochs")

    @property
    def sweep_dir(self) -> SweepDirectory:
        """The last submitted sweep."""
        return next(
            sweep_dir for sweep_dir in catalog.list_sweeps(self.storage) if sweep_dir.sweep_id not in self._earlier
        )

    def repair(self) -> None:
        """Boot the hosts that a test has killed, and wait until the autoscaler has restarted Ray on them."""
        for host in self.lab.hosts:
            if not host.is_up:
                host.boot()
        self.wait_for_nodes(1 + len(self.lab.workers))

    def num_first_epochs(self) -> int:
        """Return how many trials of the last submitted sweep have reported their first epoch."""
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
        """List the workers that are training a trial: its process holds the trial's lock file open."""
        result = []
        for host in self.lab.workers:
            opened = self.lab.run(*self.lab.ssh(host, "ls -l /proc/[0-9]*/fd 2>/dev/null"), check=False)
            if f"/{TRIAL_LOCK_FILE}" in opened:
                result.append(host)
        return result

    def kill_driver(self) -> None:
        """Kill only the driver of the sweep, with SIGKILL."""
        drivers = []
        for process in self.lab.head.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                if process.cmdline()[1:4] in (["-m", "toprung", "sweep"], ["-m", "toprung", "resume"]):
                    drivers.append(process)
        (driver,) = drivers
        driver.kill()

    def shown(self) -> dict:
        """Return the output of `toprung show --json` for the newest sweep."""
        output = self.lab.run("toprung", "show", self.sweep_dir.sweep_id, "--json", "--storage", SHARED / "runs")
        return json.loads(output)

    def doctor(self) -> "Job":
        """Run `toprung doctor` at the desk; it reaches only the dashboard, so the doctor runs as a job on the head."""
        return self._begin("toprung", "doctor", "--address", DASHBOARD, "--storage", SHARED / "runs", "--json")

    def doctor_on_the_head(self, before: str = "") -> "Job":
        """Run `toprung doctor` in a shell on the head, in the project."""
        command = f"{before} toprung doctor --address auto --storage {SHARED / 'runs'} --json"
        on_the_head = shlex.quote(f"cd {shlex.quote(str(self.lab.desk_folder))} && {command}")
        return self._begin(*self.lab.ssh(self.lab.head, f"bash -ic {on_the_head} 2>/dev/null"))

    def agreement(self) -> Agreement:
        """Compare all records of the newest sweep; this runs at the desk, where paths are the same as on the hosts."""
        storage = SHARED / "runs"
        output = self.lab.run(
            "python", "-c", COMPARE, storage / self.sweep_dir.sweep_id, f"sqlite:///{storage}/mlflow.db", NUM_TRIALS,
            PYTHONPATH=PROJECT,
        )  # fmt: skip
        return Agreement(**json.loads(output.splitlines()[-1]))

    def down(self) -> None:
        """Close the tunnel and run `ray down`."""
        self.close_tunnel()
        self.desk("ray", "down", "--yes", "clusters/local.yaml")

    def has_ray(self, host: Host) -> bool:
        """Return whether Ray runs on a host."""
        return "raylet/raylet" in self.lab.run(*self.lab.ssh(host, "ps ax -o args"))


class Job:
    """A command that runs at the desk, usually `toprung submit`."""

    def __init__(self, process: "subprocess.Popen[bytes]", output: Path) -> None:
        self.process, self._output = process, output

    @property
    def text(self) -> str:
        """The output so far."""
        return self._output.read_text(errors="replace")

    @property
    def job_id(self) -> str:
        """The ID of the submitted job."""
        return self.text.split("Submitted as ")[1].split()[0]

    def reaches(self, check: Callable[[], object], what: str) -> "Job":
        """Wait until `check` is true; fail if the command exits first."""

        def is_reached() -> bool:
            if check():
                return True
            assert self.process.poll() is None, f"ended {self.process.returncode} before {what}:\n{self.text}"
            return False

        wait_until(is_reached, f"{what}:\n{self._output}", timeout_seconds=SLOW_SECONDS)
        return self

    def interrupt(self) -> None:
        """Send SIGINT, like Ctrl-C in its terminal."""
        (command,) = psutil.Process(self.process.pid).children()  # the process is nsenter, which waits for the command
        command.send_signal(signal.SIGINT)

    def finish(self, code: int = 0) -> "Job":
        """Wait until the command ends, and check its exit code."""
        try:
            self.process.wait(timeout=SLOW_SECONDS)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"did not end:\n{self.text}") from None
        assert self.process.returncode == code, f"ended {self.process.returncode}:\n{self.text}"
        return self


def sweep_with_a_killed_worker(cluster: Cluster, *, echo: Callable[[str], object] = lambda line: None) -> Agreement:
    """Run a sweep, kill a worker that is training a trial, and return the comparison of the sweep's records."""
    job = cluster.sweep_under_way()
    victim = cluster.training()[0]
    echo(f"{victim.name} trains a trial: kill -9 of everything on it")
    victim.power_off()
    job.finish()
    echo(job.text)
    return cluster.agreement()


def main() -> None:
    """Run the steps, and print each."""
    began = time.monotonic()

    def echo(text: str) -> None:
        print(f"[{time.monotonic() - began:5.0f} s] {text}", flush=True)  # noqa: T201 (the output of the script)

    if reason := missing():
        sys.exit(f"Hosts cannot be created: {reason}")
    folder = Path(tempfile.mkdtemp(prefix="toprung-hosts-"))
    with Lab(folder) as lab:
        echo(f"hosts: {', '.join(f'{host.name} {host.address}' for host in lab.hosts)}; their files: {folder}")
        cluster = Cluster(lab, echo=echo)
        cluster.up()
        for node in cluster.nodes():
            echo(f"node {node['node_ip']} {node['node_id'][:12]} {node['state']}")
        result = sweep_with_a_killed_worker(cluster, echo=echo)
        echo(f"{result.num_trials} trials, {result.num_lost} lost, {result.num_doubled} doubled")
        echo("\n".join(result.problems) or "ledger, Tune and MLflow agree")
        cluster.down()
        echo(f"Ray on the head: {cluster.has_ray(lab.head)}")


if __name__ == "__main__":
    main()
