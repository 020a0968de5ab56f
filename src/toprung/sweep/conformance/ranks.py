"""Let several workers train a loop: `python -m toprung.sweep.conformance.ranks RANK FOLDER` is one of them."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

from toprung.machine import LOOPBACK, interface_of
from toprung.project.modules import activate
from toprung.records.sweep_dir import write_json
from toprung.spec import Data
from toprung.sweep.conformance.loop import CheckResult, LoopCheck, build_session

NUM_RANKS = 2


def check_ranks(check: LoopCheck, folder: Path) -> CheckResult:
    """Train an epoch with two workers, and compare their weights.

    Args:
        check: the loop.
        folder: a new folder for their files.
    """
    folder.mkdir()
    task = {
        "project": str(check.project),
        "trainer": check.trainer,
        "config": dict(check.config),
        "data": check.data_settings.model_dump(),
        "metric": check.metric,
    }
    write_json(folder / "task.json", task)
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": interface_of(LOOPBACK)}
    with contextlib.ExitStack() as logs:
        processes = [
            subprocess.Popen(
                [sys.executable, "-P", "-m", "toprung.sweep.conformance.ranks", str(rank), str(folder)],
                cwd=check.project,
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=logs.enter_context((folder / f"{rank}.log").open("wb")),
            )
            for rank in range(NUM_RANKS)
        ]
        failed = _wait(processes)
    name = f"{NUM_RANKS} workers"
    if failed is not None:
        lines = (folder / f"{failed}.log").read_text(encoding="utf-8", errors="replace").strip().splitlines()
        cause = lines[-1].removeprefix(f"[rank{failed}]: ") if lines else f"exit code {processes[failed].returncode}"
        return CheckResult(name, "error", f"worker {failed}: {cause}")
    if not json.loads((folder / "result.json").read_text(encoding="utf-8"))["agree"]:
        return CheckResult(
            name, "error", "their weights differ after an epoch: train the model that session.prepare returns"
        )
    return CheckResult(name, "ok", "they hold the same weights after an epoch")


def _wait(processes: list[subprocess.Popen[bytes]]) -> int | None:
    """Wait for all; after the first failure kill the others, which would wait for it. Return its index."""
    failed: int | None = None
    while True:
        codes = [process.poll() for process in processes]
        if failed is None:
            failed = next((index for index, code in enumerate(codes) if code), None)
        if None not in codes:
            return failed
        if failed is not None:
            for process in processes:
                process.kill()
        time.sleep(0.1)


def train_rank(rank: int, folder: Path) -> None:
    """Train an epoch as one of several workers, and write whether all hold the same weights in the end.

    Args:
        rank: of this process.
        folder: shared by the workers, with `task.json`.
    """
    import torch
    import torch.distributed as dist

    from toprung import session
    from toprung.vision import distributed

    task = json.loads((folder / "task.json").read_text(encoding="utf-8"))
    project = Path(task["project"])
    activate(project)
    check = LoopCheck(project, task["trainer"], task["config"], Data.model_validate(task["data"]), task["metric"])
    store = dist.FileStore(str(folder / "store"), NUM_RANKS)  # type: ignore[attr-defined]  # public, but not in __all__
    dist.init_process_group("gloo", store=store, rank=rank, world_size=NUM_RANKS, timeout=timedelta(seconds=120))
    try:
        one = build_session(
            check, check.load_data(), folder / "trial", seed=0, num_epochs=1, on_report=lambda metrics: None
        )
        with session.open_session(one):
            check.load_loop()({**check.config, "num_epochs": 1})
        assert one.state is not None, "the loop never calls session.restore"
        weights = torch.cat([weight.detach().flatten().float().cpu() for weight in one.state.model.parameters()])
        first = distributed.broadcast(weights)
        agree = distributed.all_gather(bool(torch.equal(first, weights)))
        if rank == 0:
            write_json(folder / "result.json", {"agree": all(agree)})
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    train_rank(int(sys.argv[1]), Path(sys.argv[2]))
