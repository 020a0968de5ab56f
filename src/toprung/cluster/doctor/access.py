"""Who can reach Ray, whether it requires a token, and whether its dashboard answers."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from toprung.cluster.doctor.finding import Finding
from toprung.errors import first_line

if TYPE_CHECKING:
    from toprung.cluster.doctor.nodes import NodeResponse

TokenCheck = Literal["accepts", "refuses", "unknown"]
AUTH = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


def check_without_token(address: str, *, timeout_seconds: float = 60) -> TokenCheck:
    """Run Ray's health check against a cluster's head without a token.

    This runs in a separate process because Ray reads its authentication settings once, when it is imported.

    Returns:
        whether the head accepts a client without a token; "unknown" if it does not answer in time, or fails otherwise.
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
        return "unknown"
    if ran.returncode == 0:
        return "accepts"
    return "refuses" if "AuthenticationError" in ran.stderr else "unknown"


def check_access(responses: Sequence[NodeResponse], *, without_token: TokenCheck | None) -> list[Finding]:
    """Check that a cluster requires a token, so that others cannot run code on it.

    Args:
        responses: the nodes' responses, with the sockets that they listen on.
        without_token: how the head treats a client without a token.
    """
    open_sockets = [socket for response in responses if response.report for socket in response.report.listening]
    where = f"beyond loopback ({open_sockets[0]} and others)" if open_sockets else "on loopback only"
    if without_token == "refuses":
        return [Finding("access", "ok", f"a token is required; Ray listens {where}")]
    if without_token == "unknown":
        return [Finding("access", "warning", f"it is unknown whether a token is required; Ray listens {where}")]
    remedy = (
        "On the head, type: ray get-auth-token --generate. Copy its ~/.ray/auth_token to every node, and set "
        "RAY_AUTH_MODE=token before each ray start."
    )
    observed = f"no token is required, and Ray listens {where}"
    return [Finding("access", "error" if open_sockets else "warning", observed, remedy)]


def check_private(responses: Sequence[NodeResponse], sockets: Sequence[str]) -> list[Finding]:
    """Check that a private Ray listens on loopback only and requires a token.

    Args:
        responses: the responses of its node.
        sockets: sockets of its processes that other machines can reach.
    """
    open_sockets = sorted(
        {*sockets, *(socket for response in responses if response.report for socket in response.report.listening)}
    )
    token = os.environ.get("RAY_AUTH_MODE") == "token"
    if open_sockets:
        observed = f"a private Ray listens beyond loopback: {', '.join(open_sockets[:3])}"
        remedy = "Please report this bug: toprung configures its private Ray to listen on loopback only."
        return [Finding("access", "error", observed, remedy)]
    if not token:
        return [Finding("access", "error", "a private Ray requires no token", "Type: unset RAY_AUTH_MODE")]
    return [Finding("access", "ok", "a private Ray: a token is required, on loopback only")]


def check_dashboard() -> Finding:
    """Check that the State API answers, which `toprung submit` and `ray list` rely on."""
    import ray
    from ray.util.state import list_nodes

    remedy = (
        "On the head, type: pip install 'ray[default]'. Then restart Ray: ray start --head --include-dashboard=true"
    )
    try:
        listed = list_nodes(
            ray.get_runtime_context().gcs_address, limit=1000, timeout=10, raise_on_missing_output=False
        )
    except Exception as error:  # requests' errors, Ray's, or a plain RuntimeError, depending on what is missing
        message = first_line(error)[:160]
        return Finding("dashboard", "warning", f"the State API does not respond ({message.rstrip('.')})", remedy)
    return Finding("dashboard", "ok", f"the State API responds ({len(listed)} nodes)")
