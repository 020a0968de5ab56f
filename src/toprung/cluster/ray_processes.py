"""The processes that a private Ray consists of, reduced to those that a sweep needs, and where they listen.

Ray has no public setting for this. Everything that depends on its private parts is here, and
tests/cluster/test_ray_processes.py and tests/serve/test_serve.py fail when they move.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from typing import Any


def _start_no_dashboard(node: Any, **settings: Any) -> None:
    """Record an address where nothing listens: until there is one, the node's agent logs an error each second."""
    from ray._private import ray_constants

    node.get_gcs_client().internal_kv_put(
        ray_constants.DASHBOARD_ADDRESS.encode(), b"http://127.0.0.1:0", True, ray_constants.KV_NAMESPACE_DASHBOARD
    )


def _start_no_monitor(node: Any) -> None:
    """Start nothing: a private Ray never gets more nodes, so it needs no autoscaler."""


REPLACEMENTS = {"start_api_server": _start_no_dashboard, "start_monitor": _start_no_monitor}


@contextlib.contextmanager
def without_unneeded_processes() -> Iterator[None]:
    """Leave out the dashboard and the autoscaler's monitor when `ray.init` is called in this block.

    With `include_dashboard` off, `ray.init` still waits until the dashboard's process has imported its modules.
    """
    with contextlib.ExitStack() as restore:
        with contextlib.suppress(ImportError, AttributeError):  # another Ray then starts all its processes
            from ray._private.node import Node

            for name, replacement in REPLACEMENTS.items():
                restore.callback(setattr, Node, name, getattr(Node, name))
                setattr(Node, name, replacement)
        yield


def bind_replica_to_loopback() -> None:
    """Inside a replica of Ray Serve, before it has started: let its gRPC server listen on loopback only.

    A replica starts this server, for requests from other deployments, on all addresses, and has no option for it.
    """
    replica: Any = importlib.import_module("ray.serve._private.replica")
    add_port = replica.add_port_to_grpc_server
    replica.add_port_to_grpc_server = lambda server, address: add_port(server, "127.0.0.1:0")
