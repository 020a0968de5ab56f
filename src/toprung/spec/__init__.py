"""The sweep specification: `Sweep` and its parts, frozen pydantic models that round-trip through JSON.

A recipe is a function that returns a `Sweep`. Another recipe can derive from it with `model_copy(update=...)`, and the
command line overrides single fields with `--set asha.max_epochs=4` (overrides.py).
"""

from toprung.metric_names import CLASSIFICATION_METRICS
from toprung.spec.settings import Asha, Data, Experiment, Resources, Search, Stop
from toprung.spec.sweep import Sweep

__all__ = ["CLASSIFICATION_METRICS", "Asha", "Data", "Experiment", "Resources", "Search", "Stop", "Sweep"]
