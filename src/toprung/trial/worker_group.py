"""The workers of a trial that has several; each runs Ray Train in local mode, as `torchrun` would start it.

Ray Tune reserves one placement group per trial, with one bundle per worker (`Resources.bundles`), and releases it
however the trial ends. Ray Tune's process of the trial is rank 0; the other ranks are actors in the group's other
bundles. They are owned by that process, so Ray ends them with it, and like it they are reused for further trials.
There is no controller and no second placement group. docs/decisions/0011 says why this is not a `TorchTrainer` with
workers.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import ray
import torch.distributed as dist
from ray.exceptions import RayActorError
from ray.util.placement_group import PlacementGroup, get_current_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # documented; its stubs leave it out

from toprung.machine import LOOPBACK, interface_of

POLL_SECONDS = 1.0
SETTLE_SECONDS = 5.0  # by then the other ranks have nothing left to do
DEADLOCK_SECONDS = 20.0
# A counter in the rendezvous store. The rank that fails first is the cause of the failures of the others.
FAILURES = "failures"

Describe = Callable[[BaseException], dict[str, Any]]


class WorkerFailed(RuntimeError):
    """Another rank failed first; `failure` is the description that `describe` made in its process."""

    def __init__(self, failure: Mapping[str, Any]) -> None:
        super().__init__(failure)
        self.failure = dict(failure)

    def __str__(self) -> str:
        return str(self.failure["cause"])


class WorkerLost(RayActorError):
    """Another rank's process was lost; Ray Tune handles it as if this process were lost."""

    def __init__(self, rank: int, is_node_lost: bool) -> None:
        fate = "was lost with its node" if is_node_lost else "died"
        super().__init__(error_msg=f"the process of its worker {rank} {fate}", preempted=is_node_lost)
        self.args = rank, is_node_lost

    @property
    def failure(self) -> dict[str, Any]:
        """A description made here, because the lost process cannot make one."""
        return {"cause": self.error_msg, "disk_full": False, "traceback": ""}


@dataclass(frozen=True)
class Rendezvous:
    """The address at which the ranks of one trial connect."""

    address: str
    port: int
    world_size: int


@dataclass(frozen=True)
class RankResult:
    """How a rank's loop ended: its place in the order of failures (0: none, or it died uncounted), and the error."""

    failure_order: int = 0
    error: WorkerFailed | WorkerLost | None = None


class RankWorker:
    """The process of another rank, as a Ray actor."""

    def get_node(self) -> tuple[str, str]:
        """Return the id and the address of this rank's node; the call returns once the process is up."""
        return _local_node()

    def run(self, train: Callable[[], None], meeting: Rendezvous, rank: int, describe: Describe) -> RankResult:
        """Train as the given rank, and return how it ended."""
        store = TCPStore(meeting.address, meeting.port, is_master=False, wait_for_workers=False)
        with process_group(meeting, rank):
            try:
                train()
            except SystemExit:  # rank 0 was asked to end
                return RankResult()
            except Exception as error:
                return RankResult(store.add(FAILURES, 1), WorkerFailed(describe(error)))
        return RankResult()


@contextlib.contextmanager
def process_group(meeting: Rendezvous, rank: int) -> Iterator[None]:
    """Set the variables from which Ray Train's local mode opens a process group, and destroy the group at the end."""
    device = interface_of(LOOPBACK if meeting.address == LOOPBACK else _local_node()[1])
    variables = {
        "RANK": rank,
        "WORLD_SIZE": meeting.world_size,
        "LOCAL_RANK": 0,  # Ray shows each process only its own GPUs
        "LOCAL_WORLD_SIZE": 1,
        "MASTER_ADDR": meeting.address,
        "MASTER_PORT": meeting.port,
        "TORCHELASTIC_USE_AGENT_STORE": True,  # rank 0 has already created the store
        "GLOO_SOCKET_IFNAME": device,
        "NCCL_SOCKET_IFNAME": device,
    }
    previous = {name: os.environ.get(name) for name in variables}
    os.environ.update({name: str(value) for name, value in variables.items()})
    try:
        yield
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
        for name, value in previous.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _local_node() -> tuple[str, str]:
    """Return this node's id and address."""
    return ray.get_runtime_context().get_node_id(), ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]


class WorkerGroup:
    """The other ranks of a trial, as rank 0 controls them.

    Attributes:
        other_nodes: Ray's ids of the nodes of ranks 1, 2, ...
    """

    def __init__(self, placement_group: PlacementGroup) -> None:
        """Start each of the other ranks in its bundle."""
        self.placement_group = placement_group
        self._is_complete = True
        self._others = [
            _create_rank_worker(placement_group, index) for index in range(1, len(placement_group.bundle_specs))
        ]
        local_node, local_address = _local_node()
        others = ray.get([other.get_node.remote() for other in self._others])
        self.other_nodes = tuple(node for node, _ in others)
        self._address = LOOPBACK if set(self.other_nodes) == {local_node} else local_address

    def is_alive(self) -> bool:
        """Return whether all ranks can train another trial."""
        try:
            return self._is_complete and bool(ray.get([other.get_node.remote() for other in self._others]))
        except RayActorError:
            return False

    def run(
        self,
        train: Callable[[], None],
        *,
        train_other_ranks: Callable[[], None],
        describe: Describe,
        on_deadlock: Callable[[Mapping[str, Any]], object],
    ) -> None:
        """Train on all ranks, and return when all are done.

        Args:
            train: trains as rank 0, in this process.
            train_other_ranks: trains as any other rank, in its process; must be picklable.
            describe: turns an exception into a description of the failure, in the process where it was raised.
            on_deadlock: called with the failure if another rank fails or is lost and this one does not notice, because
                nothing reports the dead connection; it must end this process.

        Raises:
            WorkerFailed: another rank failed before this one did.
            WorkerLost: another rank's process was lost.
            Exception: any exception that `train` raised.
        """
        with socket.create_server((self._address, 0)) as listening:
            port = listening.getsockname()[1]
            store = TCPStore(
                self._address, port, is_master=True, wait_for_workers=False, master_listen_fd=os.dup(listening.fileno())
            )
        meeting = Rendezvous(self._address, port, len(self._others) + 1)
        runs = {
            worker.run.remote(train_other_ranks, meeting, rank, describe): rank
            for rank, worker in enumerate(self._others, start=1)
        }
        is_over = threading.Event()
        threading.Thread(
            target=self._watch, args=(runs, is_over, on_deadlock), name="other-workers", daemon=True
        ).start()
        order = 0  # this rank's place in the order of failures
        try:
            with process_group(meeting, 0):
                try:
                    train()
                except RuntimeError:  # for example a broken connection, which another rank may have caused
                    order = store.add(FAILURES, 1)
                    raise
        except SystemExit:
            self._collect_results(runs)
            raise
        except BaseException as error:
            first = self._collect_results(runs, before=order) if order else None
            self.end()
            if first is not None:
                raise first from error
            raise
        else:
            if (first := self._collect_results(runs)) is not None:
                raise first
        finally:
            is_over.set()

    def _collect_results(
        self, runs: Mapping[Any, int], *, before: int | None = None
    ) -> WorkerFailed | WorkerLost | None:
        """Wait for the other ranks, end those that hang, and return their first error if it precedes `before`."""
        done, hanging = ray.wait([*runs], num_returns=len(runs), timeout=SETTLE_SECONDS)
        ends = (self._rank_result(ref, rank=runs[ref]) for ref in done)
        failed = sorted((end for end in ends if end.error is not None), key=lambda end: end.failure_order)
        if failed or hanging:
            self.end()
        return failed[0].error if failed and (before is None or failed[0].failure_order < before) else None

    def _watch(
        self, runs: Mapping[Any, int], is_over: threading.Event, on_deadlock: Callable[[Mapping[str, Any]], object]
    ) -> None:
        """Call `on_deadlock` if another rank fails or is lost and this one still waits for it after 20 seconds."""
        pending = [*runs]
        while pending and not is_over.wait(POLL_SECONDS):
            done, pending = ray.wait(pending, num_returns=len(pending), timeout=0)
            for ref in done:
                error = self._rank_result(ref, rank=runs[ref]).error
                if error is not None and not is_over.wait(DEADLOCK_SECONDS):
                    on_deadlock(error.failure)

    def _rank_result(self, run: Any, *, rank: int) -> RankResult:
        try:
            result: RankResult = ray.get(run)
            return result
        except RayActorError as error:
            living = {node["NodeID"] for node in ray.nodes() if node["Alive"]}  # type: ignore[no-untyped-call]
            return RankResult(error=WorkerLost(rank, error.preempted or self.other_nodes[rank - 1] not in living))

    def end(self) -> None:
        """End the processes of the other ranks; the next trial gets new ones."""
        self._is_complete = False
        for other in self._others:
            ray.kill(other)


_warm_group: WorkerGroup | None = None


def current_worker_group() -> WorkerGroup:
    """Return the other ranks for this process's trial: those of the previous trial if all are alive, else new ones."""
    global _warm_group
    placement_group = get_current_placement_group()
    assert placement_group is not None
    if _warm_group is None or _warm_group.placement_group != placement_group or not _warm_group.is_alive():
        _warm_group = WorkerGroup(placement_group)
    return _warm_group


def _create_rank_worker(placement_group: PlacementGroup, index: int) -> Any:
    custom = dict(placement_group.bundle_specs[index])
    cpus, gpus = custom.pop("CPU", 0), custom.pop("GPU", 0)
    strategy = PlacementGroupSchedulingStrategy(placement_group, placement_group_bundle_index=index)
    return (
        ray.remote(RankWorker)
        .options(num_cpus=cpus, num_gpus=gpus, resources=custom, scheduling_strategy=strategy)
        .remote()
    )
