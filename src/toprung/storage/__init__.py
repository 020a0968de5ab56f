"""Sweeps on object storage: a copy that outlives the machine it was made on (s3://, gs://, file://)."""

from toprung.storage.fetching import (
    ask_to_stop,
    discard,
    driven_elsewhere,
    fetch_all,
    is_kept_in,
    local_root,
    refresh,
)
from toprung.storage.objects import StorageAway, check_usable, is_uri, open_storage
from toprung.storage.sweeps import SweepCopy, bring_failure, bring_newer, kept_up, storage_of
from toprung.storage.trials import Kept, TrialCopy

__all__ = [
    "Kept",
    "StorageAway",
    "SweepCopy",
    "TrialCopy",
    "ask_to_stop",
    "bring_failure",
    "bring_newer",
    "check_usable",
    "discard",
    "driven_elsewhere",
    "fetch_all",
    "is_kept_in",
    "is_uri",
    "kept_up",
    "local_root",
    "open_storage",
    "refresh",
    "storage_of",
]
