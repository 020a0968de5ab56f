"""Who can reach Ray, and whether it asks for a token; whether its dashboard answers."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from toprung.doctor.finding import Finding
from toprung.errors import UserError

if TYPE_CHECKING:
    from toprung.doctor.nodes import Answer

Knock = Literal["opens", "refuses", "silent"]
AUTH = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


def knock(address: str, *, with_token: bool, timeout_seconds: float = 20) -> Knock:
    """Ask a cluster's head whether it is well, with the token of this environment or without any.

    In a process of its own: how Ray authenticates is read once, when it is imported.
    """
    environment = dict(os.environ)
    if not with_token:
        environment = {name: value for name, value in environment.items() if name not in AUTH}
        environment["RAY_AUTH_MODE"] = "disabled"
    command = [sys.executable, "-m", "ray.scripts.scripts", "health-check", "--address", address]
    try:
        ran = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=timeout_seconds
        )
    except subprocess.TimeoutExpired:
        return "silent"
    if ran.returncode == 0:
        return "opens"
    return "refuses" if "AuthenticationError" in ran.stderr else "silent"


def require_open(address: str) -> None:
    """Make sure that a cluster's head answers and takes this environment's token; Ray itself would try for minutes.

    Args:
        address: `host:port`, or `auto` for the cluster of this machine.

    Raises:
        UserError: nobody answers, or the token is not the cluster's.
    """
    if address != "auto":
        host, _, port = address.rpartition(":")
        if not host or not port.isdigit():
            raise UserError(f'--address takes auto or HOST:PORT, such as 10.0.0.2:6379; it was given "{address}".')
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
        except OSError as error:
            raise UserError(
                f"No Ray answers at {address} ({error.strerror or error}). On its head type: ray status; "
                "or start one: ray start --head"
            ) from None
    answer = knock(address, with_token=True)
    if answer == "refuses":
        raise UserError(
            f"Ray at {address} refuses this token. Set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to a copy of the "
            "head's ~/.ray/auth_token"
        )
    if answer == "silent":
        raise UserError(f"No Ray answers at {address}. On its head type: ray status; or start one: ray start --head")


def check_access(answers: Sequence[Answer], *, without_token: Knock | None) -> list[Finding]:
    """Whether strangers can run code on a cluster.

    Args:
        answers: of the nodes, with what they listen on.
        without_token: what the head did when it was asked without a token.
    """
    open_sockets = [place for each in answers if each.view for place in each.view.listening]
    where = f"beyond loopback ({open_sockets[0]} and others)" if open_sockets else "on loopback only"
    if without_token == "refuses":
        return [Finding("access", "ok", f"a token is asked for; Ray listens {where}")]
    if without_token == "silent":
        return [Finding("access", "warning", f"the head does not say whether it asks for a token; Ray listens {where}")]
    remedy = "Type on every node: ray get-auth-token --generate, and RAY_AUTH_MODE=token before each ray start."
    seen = f"no token is asked for, and Ray listens {where}"
    return [Finding("access", "error" if open_sockets else "warning", seen, remedy)]


def check_private(answers: Sequence[Answer], sockets: Sequence[str]) -> list[Finding]:
    """Whether a private Ray keeps to itself.

    Args:
        answers: of its node.
        sockets: of its processes, that others than this machine can reach.
    """
    open_sockets = sorted({*sockets, *(place for each in answers if each.view for place in each.view.listening)})
    token = os.environ.get("RAY_AUTH_MODE") == "token"
    if open_sockets:
        seen = f"a private Ray listens beyond loopback: {', '.join(open_sockets[:3])}"
        remedy = "Type: unset RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER, and report it where it stays so."
        return [Finding("access", "error", seen, remedy)]
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
        said = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
        return Finding("dashboard", "warning", f"the State API does not answer ({said.rstrip('.')})", remedy)
    return Finding("dashboard", "ok", f"the State API answers ({len(listed)} nodes)")
