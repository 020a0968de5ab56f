"""Who can reach Ray, and whether it asks for a token; whether its dashboard answers."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from toprung.cluster.doctor.finding import Finding

if TYPE_CHECKING:
    from toprung.cluster.doctor.nodes import NodeResponse

TokenCheck = Literal["opens", "refuses", "silent"]
AUTH = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


def check_without_token(address: str, *, timeout_seconds: float = 60) -> TokenCheck:
    """Ask a cluster's head whether it is well, as somebody who has no token.

    In a process of its own: how Ray authenticates is read once, when it is imported.
    """
    environment = {name: value for name, value in os.environ.items() if name not in AUTH}
    command = [sys.executable, "-P", "-m", "ray.scripts.scripts", "health-check", "--address", address]
    try:
        ran = subprocess.run(
            command,
            env={**environment, "RAY_AUTH_MODE": "disabled"},
            capture_output=True, encoding="utf-8", errors="replace", check=False, timeout=timeout_seconds,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return "silent"
    if ran.returncode == 0:
        return "opens"
    return "refuses" if "AuthenticationError" in ran.stderr else "silent"


def check_access(responses: Sequence[NodeResponse], *, without_token: TokenCheck | None) -> list[Finding]:
    """Whether strangers can run code on a cluster.

    Args:
        responses: of the nodes, with what they listen on.
        without_token: what the head did when it was asked without a token.
    """
    open_sockets = [socket for response in responses if response.report for socket in response.report.listening]
    where = f"beyond loopback ({open_sockets[0]} and others)" if open_sockets else "on loopback only"
    if without_token == "refuses":
        return [Finding("access", "ok", f"a token is asked for; Ray listens {where}")]
    if without_token == "silent":
        return [Finding("access", "warning", f"the head does not say whether it asks for a token; Ray listens {where}")]
    remedy = "Type on every node: ray get-auth-token --generate, and RAY_AUTH_MODE=token before each ray start."
    observed = f"no token is asked for, and Ray listens {where}"
    return [Finding("access", "error" if open_sockets else "warning", observed, remedy)]


def check_private(responses: Sequence[NodeResponse], sockets: Sequence[str]) -> list[Finding]:
    """Whether a private Ray keeps to itself.

    Args:
        responses: of its node.
        sockets: of its processes, that others than this machine can reach.
    """
    open_sockets = sorted(
        {*sockets, *(socket for response in responses if response.report for socket in response.report.listening)}
    )
    token = os.environ.get("RAY_AUTH_MODE") == "token"
    if open_sockets:
        observed = f"a private Ray listens beyond loopback: {', '.join(open_sockets[:3])}"
        remedy = "Report it: this Ray has been told to listen on loopback only."
        return [Finding("access", "error", observed, remedy)]
    if not token:
        return [Finding("access", "error", "a private Ray asks for no token", "Type: unset RAY_AUTH_MODE")]
    return [Finding("access", "ok", "a private Ray: a token is asked for, on loopback only")]


def check_dashboard() -> Finding:
    """Whether the State API answers, which `toprung submit` and `ray list` go by."""
    import ray
    from ray.util.state import list_nodes

    remedy = "Type on the head: pip install 'ray[default]', then ray start --head --include-dashboard=true"
    try:
        listed = list_nodes(
            ray.get_runtime_context().gcs_address, limit=1000, timeout=10, raise_on_missing_output=False
        )
    except Exception as error:  # requests', Ray's own, or a plain RuntimeError, by what is missing
        message = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
        return Finding("dashboard", "warning", f"the State API does not answer ({message.rstrip('.')})", remedy)
    return Finding("dashboard", "ok", f"the State API answers ({len(listed)} nodes)")
