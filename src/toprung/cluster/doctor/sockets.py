"""Listening sockets that other machines can reach."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

import psutil


def exposed_sockets(processes: Iterable[psutil.Process]) -> list[str]:
    """List the listening sockets of processes that other machines can reach, as `address:port (process)`."""
    sockets = set()
    for process in processes:
        try:
            name, connections = process.name(), process.net_connections(kind="inet")
        except psutil.Error:
            continue
        for socket in connections:
            if socket.status == psutil.CONN_LISTEN and not is_loopback(socket.laddr.ip):
                sockets.add(f"{socket.laddr.ip}:{socket.laddr.port} ({name})")
    return sorted(sockets)


def is_loopback(text: str) -> bool:
    """Return whether only this machine can reach an address: 127.0.0.0/8, the same as IPv4-mapped IPv6, or ::1."""
    address = ipaddress.ip_address(text)
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback
