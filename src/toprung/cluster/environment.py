"""What Ray reads from the environment, set before it is imported."""

from __future__ import annotations

import importlib
import os
import secrets
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from toprung.errors import UserError
from toprung.project.code_hash import ENGINE

# A sweep does not work without these: they replace what the user's shell has. All else here is a default.
REQUIRED = {
    "RAY_TRAIN_V2_ENABLED": "1",  # the first version of Ray Train has no local mode
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # the sweep has its own
    "TUNE_RESULT_BUFFER_LENGTH": "1",  # ASHA decides after each epoch
}
REQUIRED_PRIVATE = {
    # Ray's own switch for one-machine use (the default on macOS and Windows): every server binds to 127.0.0.1.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_AUTH_MODE": "token",
}
# In every driver, and in the workers of a cluster, which come with an environment of their own.
COMMON_ENV = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # no CSV, JSON and TensorBoard file for every result
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}
# In every worker. A trial's loop runs in a thread of its worker: give it the process's main heap, which keeps freed
# pages for the next step. Measured: 2.35 GB became 2.17 GB over the whole process tree (bench/overhead.py, 10 trials,
# n = 1).
WORKER_ENV = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_TRIM_THRESHOLD_": str(512 * 1024**2),
    "MALLOC_MMAP_THRESHOLD_": str(1024**3),
}
# Only where Ray's processes are this sweep's own.
LOCAL_ENV = {
    "RAY_worker_niceness": "0",  # trials are the work here; Ray's default is 15
    # No workers ahead of need: Tune's actors have an environment of their own and never move into them.
    "RAY_prestart_worker_first_driver": "0",
    **WORKER_ENV,
}


def prepare_environment(address: str | None = None) -> None:
    """Set what Ray reads on import; call it before anything imports ray.

    Args:
        address: of a running cluster, whose token the user has; None for a private Ray, which gets a token of its own.
    """
    for name, value in {**COMMON_ENV, **({} if address else LOCAL_ENV)}.items():
        os.environ.setdefault(name, value)
    os.environ.update(REQUIRED)
    if address is None:
        os.environ.update(REQUIRED_PRIVATE)
        os.environ["RAY_AUTH_TOKEN"] = os.environ.get("RAY_AUTH_TOKEN") or secrets.token_hex(32)
    elif "RAY_AUTH_MODE" not in os.environ:
        os.environ["RAY_AUTH_MODE"] = "token" if token_source() else "disabled"


def import_ray(module: str = "ray") -> Any:
    """Import Ray, or a module of it.

    Raises:
        UserError: its installation is broken, or a file of the user's has its name.
    """
    try:
        importlib.import_module("ray").init  # noqa: B018 (a module of this name that is not Ray has none)
        return importlib.import_module(module)
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        spec = PathFinder.find_spec("ray")
        raise UserError(
            f"Ray cannot be imported from {spec.origin if spec else 'anywhere'}: {reason}. Rename that file if it is "
            "yours, or reinstall Ray: pip install --force-reinstall 'ray[train,tune]'"
        ) from error


def token_source() -> str | None:
    """Where Ray would find the cluster's token, in words for a person; None where there is none. Never the token."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return "RAY_AUTH_TOKEN"
    if path := os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return f"RAY_AUTH_TOKEN_PATH ({path})"
    default = Path.home() / ".ray" / "auth_token"
    return str(default) if default.is_file() else None


def runtime_env(code: Path) -> dict[str, Any]:
    """What travels to every worker: the workbench as it was, and this very engine."""
    return {"working_dir": str(code), "py_modules": [str(ENGINE)]}


def runtime_env_for_cluster(code: Path) -> dict[str, Any]:
    """The same with the environment variables that the workers of a private Ray inherit."""
    return {**runtime_env(code), "env_vars": {**COMMON_ENV, **REQUIRED, **WORKER_ENV}}
