"""Learning-rate schedules by name, stepped once per batch."""

from __future__ import annotations

from torch.optim import Optimizer
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LRScheduler, OneCycleLR

from toprung.errors import unknown_name_error


def build_schedule(optimizer: Optimizer, *, schedule: str, num_epochs: int, steps_per_epoch: int) -> LRScheduler:
    """Build a learning-rate schedule.

    - `constant`: stays at the optimizer's lr.
    - `cosine`: falls from lr to 0 along half a cosine.
    - `onecycle`: rises from lr / 25 to lr in the first 30 % of the batches, then falls to almost 0 (Smith and
      Topin 2017, "Super-Convergence"). Momentum is not cycled, so that a tuned momentum keeps its value.

    Raises:
        UserError: the name is unknown.
    """
    num_steps = num_epochs * steps_per_epoch
    if schedule == "constant":
        return ConstantLR(optimizer, factor=1.0, total_iters=0)
    if schedule == "cosine":
        return CosineAnnealingLR(optimizer, T_max=num_steps)
    if schedule == "onecycle":
        peaks = [group["lr"] for group in optimizer.param_groups]
        return OneCycleLR(optimizer, max_lr=peaks, total_steps=num_steps, cycle_momentum=False)
    raise unknown_name_error(schedule, kind="schedule", known=("constant", "cosine", "onecycle"))
