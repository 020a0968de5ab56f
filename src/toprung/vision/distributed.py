"""Communication between the ranks (worker processes) that train one model together.

Without a process group there is a single rank, 0, and the functions here do nothing. Gradients use the group's own
backend (NCCL on GPUs). The communication here, a few times per epoch, uses gloo between CPUs: it notices a rank that
dies at once, and needs no GPU.
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
    """Open and finally close the process group that `torchrun` started this process for; else do nothing."""
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
    """Return the number of ranks."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return this process's rank, counted from 0. Rank 0 saves the checkpoints and reports to the sweep."""
    return dist.get_rank() if world_size() > 1 else 0


def wrap_ddp(model: nn.Module, *, device: torch.device) -> nn.Module:
    """Wrap a model for training on all ranks: it starts with rank 0's weights and averages gradients over the ranks."""
    if world_size() == 1:
        return model
    return DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None)


def unwrap_ddp(model: nn.Module) -> nn.Module:
    """Return the model inside DistributedDataParallel, whose weights have no `module.` prefix."""
    return cast("nn.Module", model.module) if isinstance(model, DistributedDataParallel) else model


def broadcast(tensor: Tensor) -> Tensor:
    """Return rank 0's tensor on every rank. Others pass a tensor of the same shape and dtype, which is not changed."""
    if world_size() == 1:
        return tensor
    buffer = tensor.detach().cpu().clone().contiguous()
    dist.broadcast(buffer, src=0, group=_gloo_group())
    return buffer.to(tensor.device)


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """Return the element-wise sum over the ranks on every rank."""
    if world_size() == 1:
        return tensor
    total = tensor.detach().cpu().clone().contiguous()
    dist.all_reduce(total, group=_gloo_group())
    return total.to(tensor.device)


def all_gather(value: T) -> list[T]:
    """Return the values of all ranks, in the order of the ranks, on every rank."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value, group=_gloo_group())
    return values


def on_rank_zero(action: Callable[[], T]) -> T:
    """Run an action on rank 0 while the other ranks wait, and return its result on every rank.

    Raises:
        SystemExit: on the other ranks, if the action raised an exception on rank 0. They end quietly, as Ray Tune ends
            a loop.
    """
    if world_size() == 1:
        return action()
    results: list[Any] = [False, None]
    if rank() == 0:
        try:
            results = [True, action()]
        except BaseException:
            with contextlib.suppress(RuntimeError):  # the other ranks may have ended already
                dist.broadcast_object_list(results, src=0, group=_gloo_group())
            raise
    dist.broadcast_object_list(results, src=0, group=_gloo_group())
    succeeded, result = results
    if not succeeded:
        raise SystemExit
    return cast("T", result)


def _gloo_group() -> dist.ProcessGroup | None:
    """Return the gloo group; None is the default group, if it uses gloo. All ranks must call it in the same order."""
    return None if dist.get_backend() == "gloo" else _new_gloo_group(dist.group.WORLD)


@functools.lru_cache(maxsize=1)
def _new_gloo_group(world: dist.ProcessGroup) -> dist.ProcessGroup:
    return cast("dist.ProcessGroup", dist.new_group(backend="gloo"))
