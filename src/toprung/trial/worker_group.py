"""The workers of a trial that has several: Ray Train's local mode in each, as `torchrun` would start it.

Ray Tune sets one placement group aside for a trial, a bundle a worker (`Resources.bundles`), and takes it back whatever
becomes of the trial. The trial's own process is rank 0; the other ranks are actors in the group's other bundles. They
belong to that process, so Ray ends them with it, and like it they stay warm from trial to trial. Nothing else is
started: no controller, no group of our own. Why not `TorchTrainer` with workers: docs/decisions/0011.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import psutil
import ray
import torch.distributed as dist
from ray.exceptions import RayActorError
from ray.util.placement_group import PlacementGroup, get_current_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # documented; its stubs leave it out

LOOPBACK = "127.0.0.1"
POLL_SECONDS = 1.0
SETTLE_SECONDS = 5.0  # the others have nothing left to do when they are waited for
DEADLOCK_SECONDS = 20.0
FAILURES = "failures"  # a counter in the store by which ranks meet: who fails first is the cause, the rest follow

Describe = Callable[[BaseException], dict[str, Any]]


class WorkerFailed(RuntimeError):
    """Another rank failed first; `failure` is what `describe` made of it there."""

    def __init__(self, failure: Mapping[str, Any]) -> None:
        super().__init__(failure)
        self.failure = dict(failure)

    def __str__(self) -> str:
        return str(self.failure["cause"])


class WorkerLost(RayActorError):
    """Another rank's process is gone: for Ray Tune the same as if this one were."""

    def __init__(self, rank: int, is_node_lost: bool) -> None:
        how = "was lost with its node" if is_node_lost else "died"
        super().__init__(error_msg=f"the process of its worker {rank} {how}", preempted=is_node_lost)
        self.args = rank, is_node_lost

    @property
    def failure(self) -> dict[str, Any]:
        """Nobody is left to describe it."""
        return {"cause": self.error_msg, "disk_full": False, "traceback": ""}


@dataclass(frozen=True)
class Rendezvous:
    """Where the ranks of one trial find each other."""

    address: str
    port: int
    world_size: int


@dataclass(frozen=True)
class RankResult:
    """How a rank's loop ended: the how-manieth to fail (0: it could not say so any more), and why."""

    failure_order: int = 0
    error: WorkerFailed | WorkerLost | None = None


class RankWorker:
    """Another rank's process; an actor."""

    def get_node(self) -> tuple[str, str]:
        """Its node's id and address; answered once the process is up."""
        return _local_node()

    def run(self, train: Callable[[], None], meeting: Rendezvous, rank: int, describe: Describe) -> RankResult:
        """Train as that rank, to whatever end."""
        store = TCPStore(meeting.address, meeting.port, is_master=False, wait_for_workers=False)
        with process_group(meeting, rank):
            try:
                train()
            except SystemExit:  # rank 0 was told to end
                return RankResult()
            except Exception as error:
                return RankResult(store.add(FAILURES, 1), WorkerFailed(describe(error)))
        return RankResult()


@contextlib.contextmanager
def process_group(meeting: Rendezvous, rank: int) -> Iterator[None]:
    """Set the variables by which Ray Train's local mode opens a process group, and close that group in the end."""
    device = _interface_of(LOOPBACK if meeting.address == LOOPBACK else _local_node()[1])
    given = {
        "RANK": rank,
        "WORLD_SIZE": meeting.world_size,
        "LOCAL_RANK": 0,  # of the GPUs that Ray shows this process, which are its own
        "LOCAL_WORLD_SIZE": 1,
        "MASTER_ADDR": meeting.address,
        "MASTER_PORT": meeting.port,
        "TORCHELASTIC_USE_AGENT_STORE": True,  # the store is there already
        "GLOO_SOCKET_IFNAME": device,
        "NCCL_SOCKET_IFNAME": device,
    }
    before = {name: os.environ.get(name) for name in given}
    os.environ.update({name: str(value) for name, value in given.items()})
    try:
        yield
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _local_node() -> tuple[str, str]:
    """This node's id and address."""
    return ray.get_runtime_context().get_node_id(), ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]


def _interface_of(address: str) -> str:
    """The network interface that has this address; what a rank listens on listens there alone."""
    interfaces: dict[str, Any] = psutil.net_if_addrs()
    return next(name for name, has in interfaces.items() if address in {entry.address for entry in has})


class WorkerGroup:
    """Rank 0's hold on the other ranks.

    Attributes:
        other_nodes: Ray's ids of their nodes, those of rank 1, 2, ...
    """

    def __init__(self, placement_group: PlacementGroup) -> None:
        """Start them, each in its bundle."""
        self.placement_group = placement_group
        self._whole = True
        self._others = [
            _create_rank_worker(placement_group, index) for index in range(1, len(placement_group.bundle_specs))
        ]
        here = _local_node()
        there = ray.get([other.get_node.remote() for other in self._others])
        self.other_nodes = tuple(node for node, _ in there)
        self._address = LOOPBACK if set(self.other_nodes) == {here[0]} else here[1]

    def is_alive(self) -> bool:
        """Whether all of them are there for another trial."""
        try:
            return self._whole and bool(ray.get([other.get_node.remote() for other in self._others]))
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
        """Train on all ranks; returns when all are done.

        Args:
            train: what rank 0 does, in this very process.
            train_other_ranks: what each other rank does; must be picklable.
            describe: makes a failure of an exception, where it happened.
            on_deadlock: told of the failure when another rank is gone and this one does not notice, which happens where
                nothing says that a connection is dead; it must end this process.

        Raises:
            WorkerFailed: another rank failed before this one did.
            WorkerLost: another rank's process is gone.
            Exception: whatever `train` raised.
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
        over = threading.Event()
        threading.Thread(target=self._watch, args=(runs, over, on_deadlock), name="other-workers", daemon=True).start()
        order = 0  # in which this rank failed, among all
        try:
            with process_group(meeting, 0):
                try:
                    train()
                except RuntimeError:  # such as that of a broken connection: another rank may be the cause
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
            over.set()

    def _collect_results(
        self, runs: Mapping[Any, int], *, before: int | None = None
    ) -> WorkerFailed | WorkerLost | None:
        """Let the others end; the first error among them, of those earlier than `before`. One that hangs is ended."""
        done, hanging = ray.wait([*runs], num_returns=len(runs), timeout=SETTLE_SECONDS)
        ends = (self._rank_result(ref, rank=runs[ref]) for ref in done)
        failed = sorted((end for end in ends if end.error is not None), key=lambda end: end.failure_order)
        if failed or hanging:
            self.end()
        return failed[0].error if failed and (before is None or failed[0].failure_order < before) else None

    def _watch(
        self, runs: Mapping[Any, int], over: threading.Event, on_deadlock: Callable[[Mapping[str, Any]], object]
    ) -> None:
        """Where another rank is gone and this one still waits for it, there is nothing left to wait for."""
        pending = [*runs]
        while pending and not over.wait(POLL_SECONDS):
            done, pending = ray.wait(pending, num_returns=len(pending), timeout=0)
            for ref in done:
                error = self._rank_result(ref, rank=runs[ref]).error
                if error is not None and not over.wait(DEADLOCK_SECONDS):
                    on_deadlock(error.failure)

    def _rank_result(self, run: Any, *, rank: int) -> RankResult:
        try:
            result: RankResult = ray.get(run)
            return result
        except RayActorError as error:
            living = {node["NodeID"] for node in ray.nodes() if node["Alive"]}  # type: ignore[no-untyped-call]
            return RankResult(error=WorkerLost(rank, error.preempted or self.other_nodes[rank - 1] not in living))

    def end(self) -> None:
        """End the other ranks' processes: the next trial gets fresh ones."""
        self._whole = False
        for other in self._others:
            ray.kill(other)


_warm_group: WorkerGroup | None = None


def current_worker_group() -> WorkerGroup:
    """The other ranks of the trial that this process trains: those of the trial before it, where they are whole."""
    global _warm_group
    placement_group = get_current_placement_group()
    assert placement_group is not None
    if _warm_group is None or _warm_group.placement_group != placement_group or not _warm_group.is_alive():
        _warm_group = WorkerGroup(placement_group)
    return _warm_group


def _create_rank_worker(placement_group: PlacementGroup, index: int) -> Any:
    custom = dict(placement_group.bundle_specs[index])
    cpus, gpus = custom.pop("CPU", 0), custom.pop("GPU", 0)
    where = PlacementGroupSchedulingStrategy(placement_group, placement_group_bundle_index=index)
    return (
        ray.remote(RankWorker)
        .options(num_cpus=cpus, num_gpus=gpus, resources=custom, scheduling_strategy=where)
        .remote()
    )
