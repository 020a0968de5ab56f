"""The processes that a private Ray consists of, reduced to those that a sweep needs, and where they listen.

Ray has no public setting for this. Everything that depends on its private parts is here, and
tests/cluster/test_ray_processes.py and tests/serve/test_serve.py fail when they move.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

# Of the extra ray[default]: what Ray imports to find out whether its node agent can serve HTTP.
AGENT_PACKAGES = ("aiohttp", "aiohttp_cors", "opencensus", "opentelemetry", "prometheus_client", "pydantic")


def _start_no_dashboard(node: Any, **settings: Any) -> None:
    """Record an address where nothing listens: until there is one, the node's agent logs an error each second."""
    from ray._private import ray_constants

    node.get_gcs_client().internal_kv_put(
        ray_constants.DASHBOARD_ADDRESS.encode(), b"http://127.0.0.1:0", True, ray_constants.KV_NAMESPACE_DASHBOARD
    )


def _start_no_monitor(node: Any) -> None:
    """Start nothing: a private Ray never gets more nodes, so it needs no autoscaler."""


def _find_missing_package() -> ImportError | None:
    """Return an error if a package of the node agent is missing. Ray imports them all here, which takes a second."""
    missing = [name for name in AGENT_PACKAGES if find_spec(name) is None]
    return ImportError(f"No module named {missing[0]!r}") if missing else None


def replacements() -> list[tuple[Any, str, Any]]:
    """Return the owner, the name and the replacement of each part of Ray that `without_unneeded_parts` replaces."""
    from ray._private import utils
    from ray._private.node import Node

    return [
        (Node, "start_api_server", _start_no_dashboard),
        (Node, "start_monitor", _start_no_monitor),
        (utils, "get_dashboard_dependency_error", _find_missing_package),
    ]


@contextlib.contextmanager
def without_unneeded_parts() -> Iterator[None]:
    """Leave out the dashboard and the autoscaler's monitor when `ray.init` is called in this block.

    With `include_dashboard` off, `ray.init` still waits until the dashboard's process has imported its modules, and
    imports modules of the node's agent in this process.
    """
    with contextlib.ExitStack() as restore:
        with contextlib.suppress(ImportError, AttributeError):  # another Ray then starts all its processes
            for owner, name, replacement in replacements():
                restore.callback(setattr, owner, name, getattr(owner, name))
                setattr(owner, name, replacement)
        yield


def bind_replica_to_loopback() -> None:
    """Inside a replica of Ray Serve, before it has started: let its gRPC server listen on loopback only.

    A replica starts this server, for requests from other deployments, on all addresses, and has no option for it.
    """
    replica: Any = importlib.import_module("ray.serve._private.replica")
    add_port = replica.add_port_to_grpc_server
    replica.add_port_to_grpc_server = lambda server, address: add_port(server, "127.0.0.1:0")
