"""What Ray detects on this machine: GPUs, memory and the size of the object store, within a container's limits.

These functions of Ray are private and used here alone: tests/cluster/test_detection.py fails when one moves. Counts of
our own would differ from Ray's, which decides by its own what starts and which worker is killed.
"""

from __future__ import annotations

from typing import Any

from toprung.cluster.environment import import_ray
from toprung.errors import UserError


def num_gpus() -> int:
    """Count the GPUs that a private Ray can offer and torch can use as CUDA devices: NVIDIA's and AMD's.

    Raises:
        UserError: Ray cannot be imported, or cannot make sense of the variables that choose GPUs.
    """
    import_ray()
    from ray._private import accelerators

    manager: Any = accelerators.get_accelerator_manager_for_resource("GPU")
    if manager not in (accelerators.NvidiaGPUAcceleratorManager, accelerators.AMDGPUAcceleratorManager):
        return 0  # Apple's or Intel's
    count = int(manager.get_current_node_num_accelerators())
    if not count:
        return 0
    try:
        visible = manager.get_current_process_visible_accelerator_ids()
    except RuntimeError as error:
        raise UserError(f"Ray cannot count the GPUs of this machine: {error}.") from None
    return count if visible is None else min(count, len(visible))


def memory_bytes() -> tuple[int, int]:
    """Return the memory of this machine or container, in all and available, as Ray's memory monitor reckons it."""
    import_ray()
    from ray._common.utils import get_system_memory
    from ray._private.utils import estimate_available_memory

    return int(get_system_memory()), int(estimate_available_memory())  # type: ignore[no-untyped-call]


def object_store_bytes() -> int:
    """Return the size that Ray by default gives an object store that is started now."""
    available = memory_bytes()[1]
    from ray._private.utils import resolve_object_store_memory

    return int(resolve_object_store_memory(available))
