"""The port that payloads are taken at: of one process, or shared by several."""

from __future__ import annotations

import contextlib
import errno
import socket
from typing import TYPE_CHECKING, Final

from headrace.errors import HeadraceError

if TYPE_CHECKING:
    from collections.abc import Iterator

BACKLOG: Final = 2048


def listen(host: str, port: int) -> socket.socket:
    """A socket that takes connections, and shares its port with nobody. Raises HeadraceError that says what to do."""
    server = _bound(host, port)
    try:
        server.listen(BACKLOG)
    except OSError as error:
        server.close()
        raise HeadraceError(_cannot_listen(host, port, error)) from error
    return server


def join_port(host: str, port: int) -> socket.socket:
    """A socket that takes its share of a port's connections (SO_REUSEPORT) once it listens, which it doesn't yet.

    Each process has a queue of its own, to which the kernel deals by a hash of both addresses: evenly, however fast
    connections come. With one queue for all, whoever is awake first would take a whole burst. A process that dies takes
    its queue along, and the next connections go to the others. Raises HeadraceError that says what to do.
    """
    return _bound(host, port, shared=True)


@contextlib.contextmanager
def reserved_port(host: str, port: int) -> Iterator[int]:
    """A port that processes started meanwhile may join; its number, which is new where `port` is 0.

    Raises HeadraceError where anybody listens there: a second set of workers would join in, and nobody would notice.
    """
    if not hasattr(socket, "SO_REUSEPORT"):
        raise HeadraceError("Several workers share a port by SO_REUSEPORT, which this system lacks. Set WORKERS to 1.")
    with listen(host, port) as alone:
        number: int = alone.getsockname()[1]
    with join_port(host, number):
        yield number


def _bound(host: str, port: int, *, shared: bool = False) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        server = socket.socket(family, kind, protocol)
        try:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if shared:
                server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            server.bind(address)
            server.setblocking(False)
        except OSError:
            server.close()
            raise
    except OSError as error:
        raise HeadraceError(_cannot_listen(host, port, error)) from error
    return server


def _cannot_listen(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"Port {port} on {host} is taken by another program. Stop it, or set HTTP_PORT to a free one (0 finds one)."
        )
    if error.errno == errno.EACCES:
        return f"Port {port} on {host} may not be opened by this user. Set HTTP_PORT to one above 1023."
    if error.errno == errno.EADDRNOTAVAIL or isinstance(error, socket.gaierror):
        return f"{host} is no address of this machine. Set HTTP_HOST to one that is, or to 0.0.0.0 for all."
    return f"Could not listen on {host}:{port} (HTTP_HOST, HTTP_PORT): {error}"
