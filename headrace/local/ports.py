"""TCP ports on loopback: free ones, or a sentence that says which is taken and what to do."""

from __future__ import annotations

import contextlib
import secrets
import socket
from typing import Final

import psutil

from headrace.errors import HeadraceError

LOOPBACK: Final = "127.0.0.1"
TWIN: Final = 10_000
"""SeaweedFS serves gRPC on each port's number plus this."""

# Below what systems hand out to outgoing connections (from 32768 on), twins included.
_FIRST, _LAST = 10_500, 22_500


class PortTakenError(HeadraceError):
    """Somebody else listens on a port that was asked for."""


def is_free(port: int, host: str = LOOPBACK) -> bool:
    """Whether a server could listen on it now."""
    with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port in TIME_WAIT is free
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError:
            return False
    return True


def free_ports(count: int, *, twins: bool = False, but: frozenset[int] = frozenset()) -> list[int]:
    """Ports nobody listens on; with `twins`, whose twins are free too. Each is another one."""
    found: list[int] = []
    for _ in range(10_000):
        if len(found) == count:
            return found
        port = _FIRST + secrets.randbelow(_LAST - _FIRST)
        taken = but.union(found, (other + TWIN for other in found))
        if port in taken or port + TWIN in taken or not is_free(port) or (twins and not is_free(port + TWIN)):
            continue
        found.append(port)
    raise HeadraceError(
        f"No {count} free TCP ports between {_FIRST} and {_LAST + TWIN} on {LOOPBACK}: stop what holds them."
    )


def require_free(port: int, what: str, way_out: str, host: str = LOOPBACK) -> None:
    """Raise PortTakenError, with who holds the port where that can be seen, and `way_out` as what to do."""
    if not is_free(port, host):
        raise PortTakenError(f"{what} can't listen on {host}:{port}: {holder(port)} has it. Stop that, or {way_out}.")


def holder(port: int) -> str:
    """Who listens on a port, in words."""
    with contextlib.suppress(psutil.Error):
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port:
                if connection.pid is None:
                    break
                return f"{psutil.Process(connection.pid).name()} (pid {connection.pid})"
    return "another program"
