"""Several processes that train one model: which of them this is, and what they tell each other.

A rank is one of a trial's worker processes, in torch.distributed's words; where no process group is open there is one
rank, 0, and everything here does nothing. Gradients go by the group's own backend (NCCL on GPUs); what is said here
once an epoch goes by gloo, from CPU to CPU: a rank that dies is noticed at once, and no GPU is needed.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

T = TypeVar("T")


@contextlib.contextmanager
def torchrun_process_group() -> Iterator[None]:
    """Open the process group for which `torchrun` started this process, and close it; without torchrun do nothing."""
    if not (dist.is_available() and dist.is_torchelastic_launched()):
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def world_size() -> int:
    """How many processes train this model."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this one is, from 0: the first keeps the checkpoints and talks to the sweep."""
    return dist.get_rank() if world_size() > 1 else 0


def wrap_ddp(model: nn.Module, *, device: torch.device) -> nn.Module:
    """The model as all ranks train it: begun with rank 0's weights, its gradients averaged over the ranks."""
    if world_size() == 1:
        return model
    return DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None)


def unwrap_ddp(model: nn.Module) -> nn.Module:
    """The model itself, whose weights have their own names."""
    return cast("nn.Module", model.module) if isinstance(model, DistributedDataParallel) else model


def broadcast(tensor: Tensor) -> Tensor:
    """Rank 0's tensor, on every rank; the others give one of the same shape and type, which is left as it is."""
    if world_size() == 1:
        return tensor
    sent = tensor.detach().cpu().clone().contiguous()
    dist.broadcast(sent, src=0, group=_by_gloo())
    return sent.to(tensor.device)


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """The sum over the ranks, element by element, on every rank."""
    if world_size() == 1:
        return tensor
    total = tensor.detach().cpu().clone().contiguous()
    dist.all_reduce(total, group=_by_gloo())
    return total.to(tensor.device)


def all_gather(value: T) -> list[T]:
    """What every rank gave, in the order of the ranks, on every rank."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value, group=_by_gloo())
    return values


def on_rank_zero(action: Callable[[], T]) -> T:
    """Let rank 0 act while the others wait, and give its result to all.

    Raises:
        SystemExit: rank 0 could not, or was told to end: on the others, which end quietly (as Ray Tune ends a loop).
    """
    if world_size() == 1:
        return action()
    results: list[Any] = [False, None]
    if rank() == 0:
        try:
            results = [True, action()]
        except BaseException:
            with contextlib.suppress(RuntimeError):  # the others may be gone already
                dist.broadcast_object_list(results, src=0, group=_by_gloo())
            raise
    dist.broadcast_object_list(results, src=0, group=_by_gloo())
    outcome, result = results
    if not outcome:
        raise SystemExit
    return cast("T", result)


def _by_gloo() -> dist.ProcessGroup | None:
    """The group for what is said here; None means the one that is open. All ranks come here in the same order."""
    return None if dist.get_backend() == "gloo" else _gloo_beside(dist.group.WORLD)


@functools.lru_cache(maxsize=1)
def _gloo_beside(world: dist.ProcessGroup) -> dist.ProcessGroup:
    return cast("dist.ProcessGroup", dist.new_group(backend="gloo"))
