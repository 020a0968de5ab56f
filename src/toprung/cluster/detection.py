"""GPUs, memory and object store size of this machine, as Ray detects them within a container's limits.

Ray decides by its own counts which trials start and which workers it kills, so counts of our own could contradict it.
The functions used are private to Ray and used only here; tests/cluster/test_detection.py fails if one moves.
"""

from __future__ import annotations

from typing import Any

from toprung.cluster.environment import import_ray
from toprung.errors import UserError


def num_gpus() -> int:
    """Count the GPUs that a private Ray can offer and torch can use as CUDA devices: NVIDIA's and AMD's.

    Raises:
        UserError: Ray cannot be imported, or cannot parse the variables that select GPUs.
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
    """Return the total and the available memory of this machine or container, as Ray's memory monitor counts them."""
    import_ray()
    from ray._common.utils import get_system_memory
    from ray._private.utils import estimate_available_memory

    return int(get_system_memory()), int(estimate_available_memory())  # type: ignore[no-untyped-call]


def object_store_bytes() -> int:
    """Return the size that Ray would give an object store by default if it started one now."""
    available = memory_bytes()[1]
    from ray._private.utils import resolve_object_store_memory

    return int(resolve_object_store_memory(available))
