"""The environment variables that Ray reads when it is imported, and the runtime environment of its workers."""

from __future__ import annotations

import importlib
import os
import secrets
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from toprung.errors import UserError, first_line
from toprung.project.code_hash import PACKAGE_FOLDER

# A sweep does not work without these, so they override the user's shell. Everything else here is a default.
REQUIRED = {
    "RAY_TRAIN_V2_ENABLED": "1",  # the first version of Ray Train has no local mode
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # the sweep has its own
    "TUNE_RESULT_BUFFER_LENGTH": "1",  # ASHA decides after each epoch
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",  # hide the GPUs from trials without one
}
REQUIRED_PRIVATE = {
    # Ray's switch for use on a single machine (the default on macOS and Windows): every server binds to 127.0.0.1.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_AUTH_MODE": "token",
}
# For every driver, and for the workers of a cluster, which do not inherit the driver's environment.
COMMON_ENV = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_GLOBAL_CHECKPOINT_S": "inf",  # no copies of Tune's state of all trials: the ledger is the state
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # no CSV, JSON and TensorBoard file for every result
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}
# For every worker. A trial's loop runs in a thread of its worker: let it use the process's main heap, which keeps freed
# pages for the next step. Measured: 2.35 GB became 2.17 GB over the whole process tree (bench/overhead.py, 10 trials,
# n = 1).
WORKER_ENV = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_TRIM_THRESHOLD_": str(512 * 1024**2),
    "MALLOC_MMAP_THRESHOLD_": str(1024**3),
}
# Only for a private Ray.
LOCAL_ENV = {
    "RAY_worker_niceness": "0",  # trials are the main work; Ray's default is 15
    # Start no idle workers in advance: Tune's actors have a runtime environment and cannot use them.
    "RAY_prestart_worker_first_driver": "0",
    **WORKER_ENV,
}


def prepare_environment(address: str | None = None) -> None:
    """Set the environment variables that Ray reads on import; call this before anything imports ray.

    Args:
        address: the address of a running cluster, whose token the user has; None for a private Ray, for which a token
            is generated.
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
    """Import Ray or one of its modules, and return it.

    Raises:
        UserError: the installation is broken, or a file of the user's is named `ray`.
    """
    try:
        importlib.import_module("ray").init  # noqa: B018 (another module named ray has no init)
        return importlib.import_module(module)
    except Exception as error:
        reason = first_line(error).rstrip(".")
        spec = PathFinder.find_spec("ray")
        raise UserError(
            f"Ray cannot be imported from {spec.origin if spec else 'anywhere'}: {reason}. Rename that file if it is "
            "yours, or reinstall Ray: pip install --force-reinstall 'ray[train,tune]'"
        ) from error


def token_source() -> str | None:
    """Describe where Ray would find the cluster's token, without the token itself; None if there is no token."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return "RAY_AUTH_TOKEN"
    if path := os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return f"RAY_AUTH_TOKEN_PATH ({path})"
    default = Path.home() / ".ray" / "auth_token"
    return str(default) if default.is_file() else None


def runtime_env(code: Path) -> dict[str, Any]:
    """Return the runtime environment of the workers: the copy of the project in `code`, and this toprung package."""
    return {"working_dir": str(code), "py_modules": [str(PACKAGE_FOLDER)]}


def runtime_env_for_cluster(code: Path) -> dict[str, Any]:
    """Return `runtime_env` plus the environment variables that the workers of a private Ray inherit."""
    return {**runtime_env(code), "env_vars": {**COMMON_ENV, **REQUIRED, **WORKER_ENV}}
