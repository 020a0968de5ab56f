"""Learning-rate schedules by name, stepped once per batch."""

from __future__ import annotations

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LambdaLR, LRScheduler, OneCycleLR

from toprung.errors import unknown_name_error


def build_schedule(
    optimizer: Optimizer, *, schedule: str, num_epochs: int, steps_per_epoch: int, warmup_epochs: float = 0
) -> LRScheduler:
    """Build a learning-rate schedule.

    - `constant`: stays at the optimizer's lr.
    - `cosine`: falls from lr to 0 along half a cosine.
    - `onecycle`: rises from lr / 25 to lr in the first 30 % of the batches, then falls to almost 0 (Smith and
      Topin 2017, "Super-Convergence"). Momentum is not cycled, so that a tuned momentum keeps its value.

    With `warmup_epochs`, `constant` and `cosine` first rise linearly from almost 0 to lr; `onecycle` has its own rise.

    Raises:
        UserError: the name is unknown.
    """
    num_steps = num_epochs * steps_per_epoch
    num_warmup = min(round(warmup_epochs * steps_per_epoch), num_steps - 1)
    if num_warmup > 0 and schedule in ("constant", "cosine"):
        return LambdaLR(optimizer, lambda step: _warmup(step, num_warmup, num_steps, falls=schedule == "cosine"))
    if schedule == "constant":
        return ConstantLR(optimizer, factor=1.0, total_iters=0)
    if schedule == "cosine":
        return CosineAnnealingLR(optimizer, T_max=num_steps)
    if schedule == "onecycle":
        peaks = [group["lr"] for group in optimizer.param_groups]
        return OneCycleLR(optimizer, max_lr=peaks, total_steps=num_steps, cycle_momentum=False)
    raise unknown_name_error(schedule, kind="schedule", known=("constant", "cosine", "onecycle"))


def _warmup(step: int, num_warmup: int, num_steps: int, *, falls: bool) -> float:
    """Return the factor of the learning rate at a step: a linear rise, then 1 or half a cosine down to 0."""
    if step < num_warmup:
        return (step + 1) / (num_warmup + 1)
    if not falls:
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - num_warmup) / (num_steps - num_warmup)))
